"""What the course asks for: four packages in a script, all of them for the notebooks, and versions that were tested."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPT = {"torch", "numpy", "safetensors", "tqdm", "filelock"}  # torch brings the last

# A script of a reader, in an environment where the other packages are not.
IN_A_SCRIPT = """
import sys

sys.modules |= dict.fromkeys(ABSENT)  # None: whoever imports it is told that it is not there
import torch
import lora_edu
from lora_edu import add_lora, load_adapter, load_base, quantize_linears, save_adapter, train
from lora_edu.texts import Text

everything = [getattr(lora_edu, name) for name in lora_edu.__all__]
model = add_lora(quantize_linears(load_base(), double_quant=True), rank=2, alpha=4, targets="all-linear")
tokens = torch.arange(900).remainder(251).to(torch.uint8)
history = train(model, Text(tokens, tokens), 1, batch_size=1, seq_len=16, checkpoint=sys.argv[1] + "/run")
save_adapter(model, sys.argv[1] + "/adapter")
assert len(history.train_loss) == 1
"""


def test_a_script_needs_torch_numpy_safetensors_and_tqdm_alone(tmp_path):
    modules = {"scikit-learn": "sklearn"}
    declared = [Requirement(line).name for line in PROJECT["dependencies"]]
    absent = {modules.get(name, name) for name in declared} - SCRIPT
    absent |= {"IPython", "nbformat", "nbclient", "PIL", "platformdirs", "traitlets"}
    code = f"ABSENT = {absent}\n{IN_A_SCRIPT}"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)


def test_constraints_are_names_and_versions_that_the_ranges_admit():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*", line) for line in lines)
    pinned = dict(line.split("==") for line in lines)
    extras = PROJECT["optional-dependencies"]
    for line in [*PROJECT["dependencies"], *extras["classroom"], *extras["test"]]:
        wanted = Requirement(line)
        if wanted.name != PROJECT["name"]:
            assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), f"{line}: run make constraints"
