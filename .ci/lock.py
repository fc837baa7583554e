"""tested-versions.txt anew: `make lock`. Versions that still fit stay; --upgrade takes the newest.

Commit it after a green `make test-all`: then it is true that these versions are tested.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lora_course.setup import environment, installers

ROOT = Path(__file__).parent.parent
HEADER = """\
# The versions that the course was tested with, and its stored numbers were measured with, for Python 3.11 to 3.14 on
# Linux, macOS and Windows. `make lock` writes them; `uv pip install -e . -c tested-versions.txt` installs them.
"""


def main(folder: Path, more: list[str]) -> None:
    tested = ROOT / environment.TESTED
    found = folder / tested.name
    shutil.copy(tested, found)  # uv keeps what it finds in there
    uv = installers.find_uv(Path(sys.executable))
    if not uv:
        sys.exit("there is no uv, and pip cannot bring it")
    command = [uv, "pip", "compile", "--universal", "--all-extras", "--python-version=3.11", "--quiet"]
    command += ["--no-header", "--no-annotate", *installers.uv_options(installers.pip_settings())]
    subprocess.run([*command, "pyproject.toml", "--output-file", found, *more], cwd=ROOT, check=True)
    lines = found.read_text(encoding="utf-8").splitlines()
    names = [re.sub(r"\+[\w.]+", "", line) for line in lines if not line.startswith("#")]  # no build of one machine
    tested.write_text(HEADER + "\n".join(names) + "\n", encoding="utf-8")
    print(f"{len(names)} versions are in {tested.name}")


with tempfile.TemporaryDirectory() as temporary:
    main(Path(temporary), sys.argv[1:])
