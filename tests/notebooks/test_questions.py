"""The page of questions: every line runs and prints what the page says, and every link leads to a heading."""

import contextlib
import io
import re
from statistics import mean

import pytest
import torch
from conftest import NOTEBOOKS, library, long_sentences

from lora_course.experiments import load_results, run_arm
from lora_course.nb13.lab_formats import FORMATS, four_over_six, hadamard, mxfp4, nvfp4, rotated
from lora_course.nb13.lab_masks import MARK, marked
from lora_course.nb13.lab_serving import ADAPTERS, MixedLinear, with_adapters
from lora_course.running.sweeps import SEEDS
from lora_edu import GPTConfig, load_text

PAGE = (NOTEBOOKS / "questions.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
NUMBER = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")


@pytest.fixture(scope="module")
def names():
    """The names that the page defines, one block after the other."""
    return {}


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_prints_what_the_page_says(names, number):
    if "from peft" in BLOCKS[number]:
        library("peft")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(BLOCKS[number], names)
    got, said = printed.getvalue().strip().splitlines(), re.findall(r"^# -> (.+)$", BLOCKS[number], re.M)
    assert [NUMBER.sub("n", line) for line in got] == [NUMBER.sub("n", line) for line in said], got
    for mine, theirs in zip(got, said, strict=True):  # another processor may have another last digit
        pairs = zip(NUMBER.findall(mine), NUMBER.findall(theirs), strict=True)
        assert all(float(a) == pytest.approx(float(b), rel=0.03, abs=0.011) for a, b in pairs), (mine, theirs)


def test_twenty_four_questions_each_with_a_line_and_a_place():
    questions = re.split(r"^## ", PAGE, flags=re.M)
    numbered = [part for part in questions if re.match(r"\d+\. ", part)]
    assert [int(part.split(".")[0]) for part in numbered] == list(range(1, 25))
    for part in numbered:
        assert "```python" in part and ".ipynb#" in part, part[:60]


def test_sentences_are_short():
    assert long_sentences(PAGE) == []


def test_the_table_of_formats_is_the_stored_result():
    arms = load_results("formats-after")["arms"]
    start = arms["as shipped"]["loss"]
    for name, (_, bits) in FORMATS.items():
        turned = [arms[f"{name}, rotated, seed {seed}"] for seed in range(3)]
        errors, losses = ([mean(arm[key] for arm in group) for group in ([arms[name]], turned)]
                          for key in ("weight_error", "loss"))  # fmt: skip
        cells = [f"{bits:.2f}", *(f"{e:.1%}" for e in errors), *(f"{loss - start:+.4f}" for loss in losses)]
        assert f"| {name} | {' | '.join(cells)} |" in PAGE


def test_masking_the_prompt_helps_the_answer_more_the_shorter_it_is():
    """What question 21 says, beside the rival: as many bytes left out by lot."""
    arms = load_results("masked-prompts")["arms"]
    for answer, share in (("speeches", 93), ("names", 7)):
        gains, by_lot = ([arms[f"all, seed {seed}"][answer] - arms[f"{learn}, seed {seed}"][answer] for seed in SEEDS]
                         for learn in (answer, f"by lot, {share}%"))  # fmt: skip
        assert min(gains) > max(0, *by_lot), answer
    assert arms["not trained"] == pytest.approx(run_arm("masked-prompts", "not trained"), abs=2e-3)  # live
    names = marked(load_text("shakespeare").train) >= MARK
    assert names.float().mean().item() == pytest.approx(0.07, abs=0.005)  # the share that the lot leaves


def test_what_adapters_cost_in_time_falls_with_the_width_and_copies_pay_for_each_word():
    arms = load_results("serving-times")["arms"]
    low, high = ([arms["width 256, 1 token"][f"{way}, {end}"] for way in ("apart", "mixed")] for end in ("from", "to"))
    assert f"the middle half of the rounds lies between {min(low):.1f} and {max(high):.1f}" in PAGE
    for way in ("apart", "mixed"):
        assert arms["width 256, 1 token"][way] > 1.2 > 1.1 > arms["width 1,024, 1 token"][way]
    assert all(arms[f"width {width}, 1 token"]["one by one"] > 3 for width in ("256", "1,024"))


def test_rows_with_adapters_of_their_own_get_what_each_would_get_alone():
    model = with_adapters(GPTConfig(n_layers=1, d_model=64, n_heads=1), "mixed")
    layer = next(module for module in model.modules() if isinstance(module, MixedLinear))
    x = torch.randn(ADAPTERS, 5, 64)
    for row, A, B, y in zip(x, layer.A, layer.B, layer(x), strict=True):
        assert torch.allclose(layer.base(row) + layer.scaling * row @ A.T @ B.T, y, atol=1e-3)


def test_turning_helps_int4_much_and_a_little_and_the_others_no_more_than_a_draw():
    """What the page says below the table, beside the spread of the draws."""
    arms = load_results("formats-after")["arms"]
    for name in FORMATS:
        gains = [arms[name]["loss"] - arms[f"{name}, rotated, seed {seed}"]["loss"] for seed in range(3)]
        spread = max(gains) - min(gains)
        if name.startswith("int4"):
            assert min(gains) > 2 * spread, name
            assert (min(gains) > 0.015) == (max(gains) > 0.003) == (name == "int4, one constant a layer")
        else:
            assert abs(mean(gains)) < spread, name
    assert arms["MXFP4"]["loss"] > max(arms[name]["loss"] for name in ("NVFP4", "NF4, blocks of 64")) + 0.003


def test_the_formats_keep_their_promises():
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    for name, (change, _) in FORMATS.items():
        once = change(weight)
        assert torch.allclose(change(once), once, atol=1e-6), name  # twice is once
    H = hadamard(256)
    assert torch.allclose(H @ H.T, torch.eye(256), atol=1e-6)
    exact = rotated(lambda W: W, torch.Generator().manual_seed(0))
    assert torch.allclose(exact(weight), weight, atol=1e-5)
    errors = [(weight - change(weight)).view(-1, 16).norm(dim=1) for change in (nvfp4, four_over_six)]
    assert 0.4 < (errors[1] < errors[0]).float().mean() and errors[1].norm() < 0.95 * errors[0].norm()
    scales = weight.view(-1, 32).abs().amax(1) / mxfp4(weight).view(-1, 32).abs().amax(1)
    assert scales.max() < 4 / 3 + 1e-6 and scales.min() > 0.79  # between 6 and 8 it saturates; else the nearest of E2M1
