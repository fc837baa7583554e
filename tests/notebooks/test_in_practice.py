"""The boxes "In practice" and their page: what a line rests on, where it was measured, and that its code builds."""

import ast
import copy
import inspect
import json
import re

import pytest
from conftest import NOTEBOOKS, library

PAGE = (NOTEBOOKS / "in_practice.md").read_text(encoding="utf-8")
MARK = re.compile(r"\*(?:measured here|counted|custom)\*|\*published\* \([^)]+\)")
CODE = re.compile(r"```python\n(.+?)```", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e-\d+)?(?![\w-])")
LINK = re.compile(r"\]\((\w+)\.ipynb#([^)\s]+)\)")
TITLE = "> **[In practice](in_practice.md)**\n"


def cells(stem: str) -> list[dict]:
    return json.loads((NOTEBOOKS / f"{stem}.ipynb").read_text(encoding="utf-8"))["cells"]


def box(stem: str) -> str:
    """The lines of a notebook's box, without its title and the signs of quotation; "" where there is none."""
    found = ["".join(cell["source"]) for cell in cells(stem)]
    quoted = "".join(text.removeprefix(TITLE) for text in found if text.startswith(TITLE))
    return re.sub(r"^> ?", "", quoted, flags=re.M)


def known_numbers(stem: str) -> set[str]:
    """All numbers that a page says outside of its box, in its text, its code and what its cells print."""
    said = []
    for cell in cells(stem):
        if not "".join(cell["source"]).startswith(TITLE):
            said += cell["source"]
            for output in cell.get("outputs", []):
                said += output.get("text", [])
                said += [str(data) for kind, data in output.get("data", {}).items() if kind.startswith("text/")]
    return set(NUMBER.findall(re.sub(r"(?<=\d),(?=\d{3})", "", " ".join(said))))


def bullets(text: str) -> list[str]:
    return re.findall(r"^- .+", text, re.M)


STEMS = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
DECISIONS = [line for line in bullets(PAGE) if line.startswith("- **")]
CALLS = [(stem, code) for stem in STEMS for code in CODE.findall(box(stem))]
CALLS += [("page", code) for code in re.findall(r"`(\w+\([^`]+\))`", PAGE)]
CALLS += [("tour", code) for cell in cells("tour") for code in CODE.findall("".join(cell["source"])) if "how =" in code]


@pytest.mark.parametrize("stem", STEMS)
def test_a_notebook_has_one_box_whose_lines_say_what_they_rest_on(stem):
    titles = [cell for cell in cells(stem) if "[In practice](in_practice.md)" in "".join(cell["source"])]
    assert len(titles) == 1 and (lines := bullets(box(stem)))
    assert all(MARK.search(line) for line in lines)


@pytest.mark.parametrize("stem", STEMS)
def test_the_page_itself_says_every_number_of_its_box(stem):
    assert set(NUMBER.findall(CODE.sub("", box(stem)))) <= known_numbers(stem)


@pytest.mark.parametrize("line", DECISIONS, ids=lambda line: line.split("**")[1])
def test_a_decision_has_its_mark_and_leads_to_what_measured_it(line):
    assert MARK.search(line) and LINK.search(line), line
    known = set()
    for stem, _ in LINK.findall(line):
        known |= known_numbers(stem)
    said = NUMBER.findall(re.sub(r"\([^()]*\)|`[^`]+`", "", re.sub(r"\(\[.+", "", line)))
    assert set(said) <= known


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the lines call by name, once the page's own blocks have run."""
    library("bitsandbytes")
    torch, transformers = library("torch"), library("transformers")
    library("peft")
    from lora_course.running import libraries

    def your_loop(model):
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p)

    made = {name: str(tmp_path_factory.mktemp(name)) for name in ("name", "folder")} | {"your_loop": your_loop}
    with libraries.quiet():
        transformers.LlamaForCausalLM(libraries._small_config()).save_pretrained(made["name"])
        for block in CODE.findall(PAGE):
            exec(block, made)
    return made


def test_the_page_s_blocks_make_a_model_of_4_bits_with_adapters_on_all_but_the_head(names):
    adapted = {name.split(".lora_A")[0] for name, _ in names["model"].named_modules() if name.endswith("lora_A")}
    assert len(adapted) == 2 * 7 and not any("lm_head" in name for name in adapted)
    assert type(names["model"].get_submodule(min(adapted)).base_layer).__name__ == "Linear4bit"
    assert not any("lora_" in name for name, _ in names["merged"].named_parameters())


def test_the_page_s_blocks_leave_models_that_checkpoint(names):
    """transformers checkpoints nothing in eval mode, in which it loads a model, and does not say so."""
    from lora_edu.memory.activations import measured_activations

    tokens, other = names["torch"].arange(64)[None], copy.deepcopy(names["base"])
    exec(re.search(r"^# or.+: (model\..+)", PAGE, re.M)[1], {"model": other})
    other = names["get_peft_model"](other, names["LoraConfig"](target_modules="all-linear"))

    def kept(model):
        return sum(t.nbytes for t in measured_activations(model, lambda: model(input_ids=tokens, labels=tokens)))

    for model in (copy.deepcopy(names["model"]), other.train()):
        assert 3 * kept(model) < kept(model.eval())
        model.train()(input_ids=tokens, labels=tokens).loss.backward()
        assert all(p.grad.any() for name, p in model.named_parameters() if "lora_B" in name)


@pytest.mark.parametrize(("place", "code"), CALLS)
def test_a_line_of_code_builds(names, place, code):
    exec(code, names | {"base": copy.deepcopy(names["base"]), "weight": names["torch"].randn(64, 64)})


def test_bitsandbytes_is_asked_for_nothing_that_it_does_not_know(names):
    """Its configuration swallows a name with a slip in it, and rounds to FP4 unless told."""
    assert names["BitsAndBytesConfig"](load_in_4bit=True).bnb_4bit_quant_type == "fp4"
    allowed = set(inspect.signature(names["BitsAndBytesConfig"]).parameters)
    for code in (*CODE.findall(PAGE), *(code for _, code in CALLS)):
        for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
            if getattr(call.func, "id", "") == "BitsAndBytesConfig":
                assert {keyword.arg for keyword in call.keywords} <= allowed, code
