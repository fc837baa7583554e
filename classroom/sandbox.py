"""One submission, one box: its own processes, folder and HOME, and nothing of the teacher's in reach.

    executed = run(notebook, checks)        # the notebook with outputs, which the student's code may have made up

On Linux the box is a root folder of its own (`boxes`): no gradebook, no other submission, no grader, no hidden
expectation; no network; no process of the machine in sight. Before the first submission `isolation` tries whether all
of that holds. Where it does not (another system, or namespaces are forbidden), nothing is run, unless the teacher said
`--unboxed`: a submission then has processes, folder and HOME of its own, and the rest of the machine is open to it.
"""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat

from classroom import boxes, folders
from classroom.boxes import BOXES, LIMITS, PYTHON, WORK

LARGEST = 30_000_000  # bytes that may come back
TOO_LARGE = f"it printed more than {LARGEST / 1e6:.0f} MB"
VARIABLE = "LORA_EDU_BOX"  # what `autograde` found, for the processes that it starts
ENDS = {  # how the runner says that it ended -> the reason that the teacher reads: no word of a student's is one
    "died": "the kernel died: the code ended the process, or took all memory, or crashed a compiled library",
    "hung": "the kernel hung and could not be interrupted",
}
UNBOXED = "unboxed"
OPEN = "run without a box (--unboxed): its code could read and change what the teacher can"


class SubmissionError(RuntimeError):
    """This submission cannot be graded, for a reason that the teacher can read."""


class NoBox(RuntimeError):
    """Nothing is run: no box holds on this machine, and the teacher did not ask to go on without."""


def run(notebook: nbformat.NotebookNode, checks: Path, timeout: int = 120, seconds: int = 900):
    """Execute a notebook in a box of its own; timeout: seconds a cell, seconds: for all of it.

    Returns the executed notebook: data to judge, never code to run; its metadata say which `box` it was. Raises
    SubmissionError if nothing comes back, NoBox where none holds.
    """
    kind = os.environ.get(VARIABLE) or box()
    given = {**LIMITS, "timeout": timeout, "notebook": nbformat.writes(notebook)}
    given["checks"] = checks.read_text(encoding="utf-8")
    runner = Path(__file__).with_name("runner.py").read_text(encoding="utf-8")
    answer, _ = call([PYTHON, "-c", runner], seconds, kind, json.dumps(given).encode())
    back = what_came_back(answer, notebook)
    back.metadata["box"] = kind
    return back


def what_came_back(answer: bytes, notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The executed notebook out of what the runner wrote, or a stranger in its name."""
    if not answer:
        raise SubmissionError("the run ended early, and left nothing to grade")
    if len(answer) > LARGEST:
        raise SubmissionError(TOO_LARGE)
    try:
        end, text = json.loads(answer)
        back = nbformat.reads(text, as_version=4)
        nbformat.validate(back)
    except Exception as error:
        raise SubmissionError(f"what came back from the run is no notebook ({type(error).__name__})") from None
    if end != "done":
        raise SubmissionError(ENDS.get(str(end), "what came back from the run does not say how it ended"))
    if [cell.cell_type for cell in back.cells] != [cell.cell_type for cell in notebook.cells]:
        raise SubmissionError("what came back from the run has other cells: the code changed the record of its run")
    return back


# --- a process in a box -----------------------------------------------------------------------------------------------


def call(command: list[str], seconds: int, kind: str, given: bytes = b"") -> tuple[bytes, str]:
    """Run a command in a box, and give it something to read. Returns what it answered, and what else it said.

    Raises SubmissionError if it does not end, or takes more than `LIMITS` of memory or of the processor.
    """
    end = time.monotonic() + seconds
    with _folder(kind) as folder:
        process = subprocess.Popen(
            [*([*BOXES[kind](), PYTHON, "-ISc", boxes.CLOSED] if kind != UNBOXED else []), *command],
            cwd=folder,
            env=_environment(folder if kind == UNBOXED else Path(WORK), kind),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        threading.Thread(target=_give, args=(process.stdin, given), daemon=True).start()
        process.stdin = None  # `communicate` would stop giving at its first timeout
        try:
            while True:
                try:
                    answer, said = process.communicate(timeout=0.2)
                    return answer, said.decode(errors="replace")
                except subprocess.TimeoutExpired as so_far:
                    if len(so_far.stdout or b"") + len(so_far.stderr or b"") > LARGEST:
                        raise SubmissionError(TOO_LARGE) from None
                if time.monotonic() > end:
                    raise SubmissionError(f"it ran longer than {seconds} seconds")
                if reason := boxes.overdone(process.pid):
                    raise SubmissionError(reason)
        finally:
            with contextlib.suppress(OSError):  # what it left running ends with it
                os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
            process.wait()


def _give(pipe, given: bytes) -> None:
    with contextlib.suppress(OSError), pipe:
        pipe.write(given)


@contextlib.contextmanager
def _folder(kind: str) -> Iterator[Path]:
    """Where the command starts. A box needs nothing of the machine's disk; without one it is a temporary folder."""
    if kind != UNBOXED:
        yield Path("/")
        return
    folder = Path(tempfile.mkdtemp(prefix="box-")).resolve()
    (folder / "home").mkdir()
    try:
        yield folder
    finally:
        with contextlib.suppress(RecursionError):  # of thousands of folders in one another
            shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: Path, kind: str) -> dict[str, str]:
    """Nothing of the teacher's: no token, no name of a folder."""
    kept = {key: os.environ[key] for key in ("LANG", "LC_ALL", "SYSTEMROOT", "PATH") if key in os.environ}
    if kind != UNBOXED:
        kept["PATH"] = os.pathsep.join([os.path.dirname(PYTHON), "/usr/bin", "/bin", "/usr/sbin", "/sbin"])
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "home"), "USER": "student", "OMP_NUM_THREADS": threads}
    course = {"LORA_EDU_DEVICE": "cpu", "LORA_EDU_SIZE": "laptop", "PYTHONPATH": str(folders.CLONE)}
    quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "JUPYTER_PLATFORM_DIRS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return kept | own | course | quiet


# --- does it hold? ----------------------------------------------------------------------------------------------------

PROBE = """
import os, socket, subprocess, sys
found = []
for path in sys.argv[3:]:
    try:
        os.listdir(path); found.append(path)
    except OSError:
        pass
for folder in (sys.prefix, "/usr"):
    try:
        subprocess.run(["mount", "-o", "remount,bind,rw", folder], capture_output=True)
    except OSError:
        pass
    if os.access(folder, os.W_OK): found.append("writing to " + folder)
try:
    socket.create_connection(("1.1.1.1", 53), timeout=1); found.append("network")
except OSError:
    pass
try:
    socket.socket(40); found.append("the machine around this one (AF_VSOCK)")
except OSError:
    pass
found += ["/dev/" + name for name in os.listdir("/dev") if name not in sys.argv[1].split()]
room = os.statvfs(".")
if not 0 < room.f_blocks * room.f_frsize <= int(sys.argv[2]) + 2**20: found.append("the disk")
print("open: " + ", ".join(found) if found else "closed")
"""


def probe(kind: str) -> str | None:
    """Why the box of this kind does not hold here; None if it does. Tried, not assumed."""
    if not shutil.which(kind, path=_environment(Path(WORK), kind)["PATH"]):
        return f"{kind} is not installed"
    closed = [folders.required(), folders.CLONE / "classroom", folders.CLONE / "notebooks", folders.CLONE / ".git"]
    known = [" ".join([*boxes.DEVICES, "shm"]), str(LIMITS["disk"])]
    try:
        answer, said = call([PYTHON, "-c", PROBE, *known, *map(str, [*closed, Path.home() / ".ssh"])], 60, kind)
    except (SubmissionError, OSError) as error:
        return f"{kind}: {error}"
    answer = answer.decode(errors="replace").strip()
    return None if answer == "closed" else f"{kind}: {answer or said.strip()[-160:] or 'no message'}"


@functools.cache
def isolation() -> tuple[str | None, str]:
    """Which box holds here ("bwrap", "unshare" or None), and what is wrong with those that do not."""
    reasons = []
    for kind in BOXES:
        reason = probe(kind)
        if reason is None:
            return kind, ""
        reasons.append(reason)
    return None, "; ".join(reasons)


def box(unboxed: bool = False) -> str:
    """The kind of box to run submissions in; with `unboxed`, none if none holds. Otherwise raises NoBox then."""
    kind, reasons = isolation()
    if kind is None and not unboxed:
        raise NoBox(
            f"NOT ISOLATED, so nothing was run: no box holds here ({reasons}). A submission could read and change what "
            "you can. Install bubblewrap, or grade in a throw-away machine, with --unboxed"
        )
    return kind or UNBOXED


def what_holds(kind: str) -> str:
    """A sentence for the teacher: how far the submissions are kept apart from the machine."""
    if kind == UNBOXED:
        return "NOT ISOLATED, as you asked: each submission can read and change what you can"
    return f"each submission runs in a box of its own ({kind}), without network and files of yours"
