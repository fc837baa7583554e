"""The project as a newcomer meets it: commands, requirements, light imports, one clear line if something is missing."""

import importlib.metadata
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from conftest import PAGES, ROOT, markdown
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lora_edu
from lora_course.setup import doctor
from lora_edu import downloads, texts

MINUTES = re.compile(r"(\d+) (?:minutes|more)|((?:half )?[Aa]n hour)")


def test_environment_yml_has_what_pyproject_asks_for_and_what_the_tests_need():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = re.findall(r"^ +- (.+)$", (ROOT / "environment.yml").read_text(), re.M)
    assert listed == [
        "conda-forge",
        f"python{wanted['requires-python']},<3.15",
        "pip",
        "pip:",
        "-c tested-versions.txt",
        "-e .[test]",
    ]
    tests = {Requirement(line).name for line in wanted["optional-dependencies"]["test"]}
    assert {"pytest", "nbval", "pytest-xdist", "hypothesis", "bitsandbytes", "peft"} <= tests


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_readme_has_the_minutes_that_a_page_says_of_itself(path):
    said = re.search(r"\*\*Time[.:]\*\* ([^;.]+)", markdown(nbformat.read(path, as_version=4).cells))[1]
    minutes = [int(number or ("30" if "half" in hour else "60")) for number, hour in MINUTES.findall(said)]
    row = rf"\]\(notebooks/{path.name}\).*\| {sum(minutes)} min \| [^|]+ \|$"
    assert len(re.findall(row, (ROOT / "README.md").read_text(), re.M)) == 1


@pytest.mark.parametrize("place", ["README.md", "notebooks/setup.md"])
def test_a_page_names_only_commands_that_exist(place):
    readme = (ROOT / place).read_text()
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"\bmake ([a-z][a-z-]*)", readme))
    assert "lab" in targets
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, re.M))
    modules = set(re.findall(r"python -m (lora_(?:edu|course)[\w.]*)", readme))
    paths = {name: ROOT / name.replace(".", "/") for name in modules}
    assert modules and all(p.with_suffix(".py").exists() or (p / "__main__.py").exists() for p in paths.values()), paths


LINKING = ["README.md", "CONTRIBUTING.md"]
LINKING += ["notebooks/setup.md", "notebooks/assignments/README.md", "lora_course/checking/README.md"]


@pytest.mark.parametrize("place", LINKING)
def test_the_links_of_a_page_lead_somewhere(place):
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", (ROOT / place).read_text()):
        assert (ROOT / place).parent.joinpath(link).exists(), link


@pytest.mark.parametrize("name", lora_edu.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(lora_edu, name)
    assert value.__doc__ and value.__name__ == name


def test_the_doctor_says_where_versions_differ_from_the_tested_ones(tmp_path):
    tested = tmp_path / "tested-versions.txt"
    assert doctor.untested_versions_hint(tested) is None
    here = importlib.metadata.version("numpy")
    tested.write_text(f"numpy=={here}\ntorch==0.1\n")
    hint = doctor.untested_versions_hint(tested)
    assert "torch" in hint and "(tested: 0.1)" in hint and "numpy" not in hint
    tested.write_text(f"numpy=={here} ; python_version < '4'\n")
    assert doctor.untested_versions_hint(tested) is None


def test_doctor_names_everything_and_gives_a_verdict(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lora-edu doctor"])
    with pytest.raises(SystemExit, match="0"):
        doctor.main()
    said = capsys.readouterr().out
    for part in ("python", "torch", "device", "threads", "free disk", "texts", "verdict      the course can"):
        assert part in said


def test_fetch_prints_where_things_are(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lora-edu fetch", "texts"])
    texts.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["speeches", "shakespeare", "king-james"]
    with pytest.raises(ValueError, match="unknown name 'hamlet': the course downloads speeches"):
        monkeypatch.setattr(sys, "argv", ["lora-edu fetch", "hamlet"])
        texts.main()
    with pytest.raises(ValueError, match="unknown model 'bert'"):
        downloads.model_folder("bert")


def test_no_file_names_a_path_of_a_machine():
    pattern = re.compile(r"(?<![\w/.])/(?:home|Users|work|root)/\w")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for path in map(ROOT.joinpath, listing.split("\0")):
        if path.is_file() and path.suffix not in (".safetensors", ".png", ".gif") and path != Path(__file__):
            assert not pattern.search(path.read_text(encoding="utf-8")), path


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPT = {"torch", "numpy", "safetensors", "tqdm", "filelock", "platformdirs"}  # torch brings filelock

# A script of a reader, in an environment where the other packages are not.
IN_A_SCRIPT = """
import sys

sys.modules |= dict.fromkeys(ABSENT)  # None: whoever imports it is told that it is not there
import lora_edu, lora_course.__main__

assert not {"torch", "numpy"} & set(sys.modules)  # importing the package is light
import torch
from lora_edu import add_lora, load_adapter, load_base, quantize_linears, save_adapter, train
from lora_edu.texts import Text

everything = [getattr(lora_edu, name) for name in lora_edu.__all__]
model = add_lora(quantize_linears(load_base(), double_quant=True), rank=2, alpha=4, targets="all-linear")
tokens = torch.arange(900).remainder(251).to(torch.uint8)
how = dict(batch_size=1, seq_len=16, eval_windows=1, checkpoint=sys.argv[1] + "/run")
history = train(model, Text(tokens, tokens), 1, **how)
save_adapter(model, sys.argv[1] + "/adapter")
assert len(history.train_loss) == 1 and not {"peft", "bitsandbytes"} & set(sys.modules)
"""


def test_a_script_needs_few_packages(tmp_path):
    absent = {Requirement(line).name for line in PROJECT["dependencies"]} - SCRIPT
    absent |= {"IPython", "nbformat", "nbclient", "PIL", "traitlets"}
    code = f"ABSENT = {absent}\n{IN_A_SCRIPT}"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)


def test_the_tested_versions_are_names_and_versions_that_the_ranges_admit():
    """For all extras; `make lock` writes them. What a line says after its semicolon is for which system it is."""
    lines = [line for line in (ROOT / "tested-versions.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*( ; [^:/]+)?", line) for line in lines)
    pinned: dict[str, set[str]] = {}
    for line in lines:
        name, version = line.partition(" ; ")[0].split("==")
        pinned.setdefault(name, set()).add(version)
    for line in [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]:
        wanted = Requirement(line)
        if wanted.name != PROJECT["name"]:
            versions = pinned[canonicalize_name(wanted.name)]
            assert versions and all(map(wanted.specifier.contains, versions)), f"{line}: run make lock"
