"""What the programs of the command line share: a result is never lost to a full disk, a closed pipe or a wrong folder.

Only the standard library is imported here: `lora_course.__main__` reads this before anything is installed.
"""

import difflib
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

ENOUGH = 1_000_000  # bytes: an adapter of the course's GPT


def check_output(folder: Path, advice: str = "name another, --output") -> None:
    """Before the work: raise OSError if nothing could be written to a folder, which need not be there. Leaves nothing.

    advice: what to do then, the end of the message.
    """
    there = folder
    while not os.path.lexists(there):
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there, buffering=0) as file:
            file.write(bytes(ENOUGH))
    except OSError as error:
        raise type(error)(f"cannot write to the folder {folder} ({error.strerror}): {advice}") from error


def keep(write: Callable[[Path], object], target: Path) -> None:
    """After the work: let `write` put a result at the target, or, if that fails by now, aside, and say where."""
    try:
        write(target)
    except Exception as error:  # an OSError, or what safetensors makes of one
        aside = Path(tempfile.mkdtemp(prefix="lora-edu-")) / target.name
        write(aside)
        raise OSError(f"cannot write to {target} ({error}), so the result is in {aside}") from error


class Patient:
    """A stream whose reader may leave: `lora-edu train | head -1` goes on in silence and writes its result."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._try(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, action: Callable, *arguments) -> None:
        try:
            action(*arguments)
        except OSError:  # a closed pipe, a full disk: what follows goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


@contextmanager
def patient_output() -> Iterator[None]:
    """Let stdout and stderr be patient, and show a question mark for what the terminal's encoding does not have."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    with redirect_stdout(Patient(sys.stdout)), redirect_stderr(Patient(sys.stderr)):
        try:
            yield
        finally:
            sys.stdout.flush()


def did_you_mean(word: str, known: Collection[str]) -> str:
    """The end of a message about an unknown name: the one that is most alike, else all of them."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"choose one of {', '.join(known)}"
