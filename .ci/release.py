"""What a person needs to tag a version: `make release`. From a fresh clone of the last commit come the wheel, installed
into an empty environment in which the first page runs, and the section of CHANGELOG.md; both lie in dist/ afterwards.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main(folder: Path) -> None:
    def run(*command: str | Path) -> str:
        print("$", *command, flush=True)
        return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    run("git", "clone", "--quiet", ROOT, "clone")
    version = tomllib.loads((folder / "clone" / "pyproject.toml").read_text())["project"]["version"]
    told = (folder / "clone" / "CHANGELOG.md").read_text(encoding="utf-8")
    notes = re.search(rf"^## {re.escape(version)}\n(.+?)(?=^## |\Z)", told, re.M | re.S)
    if not notes or f"\nversion: {version}\n" not in (folder / "clone" / "CITATION.cff").read_text():
        sys.exit(f"CHANGELOG.md has no section {version}, or CITATION.cff another version")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "built", "./clone")
    (wheel,) = (folder / "built").iterdir()
    venv.create(folder / "empty", with_pip=True)
    python = folder / "empty" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel)
    course = run(python, "-c", "from lora_course.setup import working_copy; print(working_copy.course_folder())")
    run(python, "-m", "lora_course.setup.report", f"{course}/00_start_here.ipynb", "--folder", "report")
    (ROOT / "dist").mkdir(exist_ok=True)
    shutil.copy(wheel, ROOT / "dist")
    (ROOT / "dist" / "notes.md").write_text(notes[1].strip() + "\n", encoding="utf-8")
    print(f"the first page runs from dist/{wheel.name}. After a green `make test-all`, tag it, and add the wheel:")
    print(f"  git tag --annotate {version} --cleanup=verbatim --file dist/notes.md && git push origin {version}")


with tempfile.TemporaryDirectory() as temporary:
    main(Path(temporary))
