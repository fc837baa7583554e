"""One submission, one box: its own process, folder and HOME, and nothing of the teacher's in reach.

    executed = run(notebook, checks)        # the notebook with outputs, which the student's code may have made up

On Linux the box is a root folder of its own, made by `bwrap` or by `unshare`: Python, the system's libraries and the
package read-only; no gradebook, no other submission, no grader, no hidden expectation; no network; no process of the
machine in sight. Before the first submission `isolation` tries whether all of that holds. Where it does not (another
system, or namespaces are forbidden), a submission still has a process, folder and HOME of its own, and `autograde` says
that the rest of the machine is open to it.
"""

import contextlib
import functools
import json
import os
import shlex
import shutil
import signal
import site
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from classroom import folders

LIMITS = {"memory": 4 * 2**30, "file": 200_000_000, "printed": 100_000}  # bytes, bytes of a file, letters of a cell
LARGEST = 30_000_000  # bytes that may come back
WORK = "/lora-edu-box"  # where the submission's folder is inside the box
SBIN = ("/usr/sbin", "/sbin") if os.name == "posix" else ()  # pivot_root is there, and not on everybody's path
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/nix")


class SubmissionError(RuntimeError):
    """This submission cannot be graded, for a reason that the teacher can read."""


def run(notebook: nbformat.NotebookNode, checks: Path, timeout: int = 120, seconds: int = 900):
    """Execute a notebook in a box of its own; timeout: seconds a cell, seconds: for all of it.

    Returns the executed notebook: data to judge, never code to run. Raises SubmissionError if nothing comes back.
    """
    with tempfile.TemporaryDirectory(prefix="box-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "notebook.ipynb").write_text(nbformat.writes(notebook), encoding="utf-8")
        (folder / "settings.json").write_text(json.dumps({**LIMITS, "timeout": timeout}))
        shutil.copy(checks, folder / "checks.json")
        shutil.copy(Path(__file__).with_name("runner.py"), folder)
        said = _call(folder, [sys.executable, "runner.py"], seconds)
        return _what_came_back(folder, notebook, said)


def _what_came_back(folder: Path, notebook, said: str):
    end, executed = folder / "end.txt", folder / "executed.ipynb"
    if not (_is_plain(end) and _is_plain(executed)):
        raise SubmissionError(f"the run ended early, and left nothing to grade ({_last_line(said)})")
    word = end.read_text(encoding="utf-8", errors="replace")[:200]
    if word != "done":
        raise SubmissionError(word)
    if executed.stat().st_size > LARGEST:
        raise SubmissionError(f"it printed more than {LARGEST / 1e6:.0f} MB")
    try:
        back = nbformat.reads(executed.read_text(encoding="utf-8"), as_version=4)
        nbformat.validate(back)
    except Exception as error:
        raise SubmissionError(f"what came back from the run is no notebook ({type(error).__name__})") from None
    if [cell.cell_type for cell in back.cells] != [cell.cell_type for cell in notebook.cells]:
        raise SubmissionError("what came back from the run has other cells: the code changed the record of its run")
    return back


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:160] if lines else "no message"


# --- the box ----------------------------------------------------------------------------------------------------------


def _call(folder: Path, command: list[str], seconds: int, kind: str | None = "found") -> str:
    """Run a command in a box around this folder. Returns what it said; raises SubmissionError if it does not end."""
    kind = isolation() if kind == "found" else kind
    there = folder if kind is None else Path(WORK)
    (folder / "home").mkdir(exist_ok=True)
    process = subprocess.Popen(
        [*BOXES[kind](folder), *command],
        cwd=folder,
        env=_environment(there),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        return process.communicate(timeout=seconds)[0][-2000:]
    except subprocess.TimeoutExpired:
        raise SubmissionError(f"it ran longer than {seconds} seconds") from None
    finally:
        with contextlib.suppress(OSError):  # what it left running ends with it
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        process.wait()


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of the teacher's: no token, no name of a folder."""
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "SYSTEMROOT") if key in os.environ}
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    kept["PATH"] = os.pathsep.join([*filter(None, [kept.get("PATH")]), *SBIN])
    own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "home"), "OMP_NUM_THREADS": threads}
    course = {"LORA_EDU_DEVICE": "cpu", "LORA_EDU_SIZE": "laptop", "PYTHONPATH": str(folders.CLONE)}
    quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "JUPYTER_PLATFORM_DIRS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return kept | own | course | quiet


def _visible() -> list[str]:
    """The paths that a submission may read: the system, Python with its packages, the course without its graders."""
    python = [sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(sys.executable).resolve().parent)]
    packages = [path for path in (*site.getsitepackages(), site.getusersitepackages()) if Path(path).is_dir()]
    course = [str(folders.CLONE / part) for part in ("lora_edu", "data")]
    found = [path for path in (*SYSTEM, *python, *packages, *course) if Path(path).exists() and path != "/"]
    inside = [path for path in found if any(Path(other) in Path(path).parents for other in found)]
    return list(dict.fromkeys(path for path in found if path not in inside))


def _with_bwrap(folder: Path) -> list[str]:
    binds = [word for path in _visible() for word in ("--ro-bind", path, path)]
    fresh = ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    apart = ["--unshare-all", "--cap-drop", "ALL", "--die-with-parent", "--new-session"]
    return ["bwrap", *apart, *fresh, *binds, "--bind", str(folder), WORK, "--chdir", WORK]


def _with_unshare(folder: Path) -> list[str]:
    """The same by hand: a new root that holds the visible paths, and no privilege left to climb out with."""
    steps = ["set -e", "mount -t tmpfs tmpfs /mnt", "cd /mnt", f"mkdir -p old proc dev tmp .{WORK}"]
    for path in map(shlex.quote, _visible()):
        steps += [f"mkdir -p .{path}", f"mount --rbind {path} .{path}", f"mount -o remount,bind,ro .{path}"]
    steps += ["mount -t proc proc proc", "mount --rbind /dev dev", "mount -t tmpfs tmpfs dev/shm"]
    steps += [f"mount --bind {shlex.quote(str(folder))} .{WORK}", "pivot_root . old"]
    inside = f'umount -l /old; cd {WORK}; exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"'
    steps += [f'exec chroot . sh -c {shlex.quote(inside)} sh "$@"']
    return ["unshare", "-rmnpi", "--fork", "--kill-child", "sh", "-c", "\n".join(steps), "sh"]


BOXES = {"bwrap": _with_bwrap, "unshare": _with_unshare, None: lambda folder: []}

PROBE = """
import os, socket, subprocess, sys
open_ = []
for path in sys.argv[1:]:
    try:
        os.listdir(path); open_.append(path)
    except OSError:
        pass
for folder in (sys.prefix, "/usr"):
    try:
        subprocess.run(["mount", "-o", "remount,bind,rw", folder], capture_output=True)
    except OSError:
        pass
    if os.access(folder, os.W_OK): open_.append("writing to " + folder)
try:
    socket.create_connection(("1.1.1.1", 53), timeout=1); open_.append("network")
except OSError:
    pass
open("probe.txt", "w").write("open: " + ", ".join(open_) if open_ else "closed")
"""


@functools.cache
def isolation() -> str | None:
    """Which box holds here: "bwrap", "unshare", or None. Tried, not assumed."""
    return next((kind for kind in BOXES if kind and shutil.which(kind) and _holds(kind)), None)


def _holds(kind: str) -> bool:
    closed = [folders.required(), folders.CLONE / "classroom", folders.CLONE / "notebooks", folders.CLONE / ".git"]
    with tempfile.TemporaryDirectory(prefix="box-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            _call(folder, [sys.executable, "-c", PROBE, *map(str, [*closed, Path.home() / ".ssh"])], 60, kind)
        except (SubmissionError, OSError):
            return False
        answer = folder / "probe.txt"
        return _is_plain(answer) and answer.read_text() == "closed"


def what_holds() -> str:
    """A sentence for the teacher: how far the submissions were kept apart from the machine."""
    if isolation():
        return f"each submission runs in a box of its own ({isolation()}): no network, and no file of yours in reach"
    return (
        "NOT ISOLATED: neither bwrap nor unshare works here. Each submission has a process and folder of its own, but "
        "can read and change what you can: grade in a throw-away machine, or install bubblewrap"
    )
