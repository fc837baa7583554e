"""Runs one submission inside the sandbox: reads it from standard input, and answers with the executed notebook.

`sandbox` starts this file's text and takes what it answers as the word of a stranger: the student's code can do
whatever this process can. It knows no expected value and no path of the teacher's. Standard library and nbclient only.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

sys.modules["rfc3987_syntax"] = None  # a second of reading grammars for a format of addresses that no notebook has
import nbformat  # noqa: E402
from nbclient import NotebookClient  # noqa: E402
from nbclient.exceptions import CellTimeoutError, DeadKernelError  # noqa: E402

GIVEN = json.load(sys.stdin)
FLOOD = 2_000_000  # letters; a cell that prints more is interrupted, long before its time is over


class Client(NotebookClient):
    """Stops keeping what a cell prints once it is too much: the submission is graded all the same."""

    printed: tuple[int, int] = (-1, 0)  # a cell, and how many letters it printed

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream":
            before = self.printed[1] if self.printed[0] == cell_index else 0
            self.printed = (cell_index, before + len(msg["content"]["text"]))
            if before <= FLOOD < self.printed[1]:
                self.interrupting = asyncio.ensure_future(self.km.interrupt_kernel())
            if before >= GIVEN["printed"]:
                return None
            msg["content"]["text"] = msg["content"]["text"][: GIVEN["printed"] - before]
        return super().process_message(msg, cell, cell_index)


def limit() -> None:
    """What one process may take, so that its own cell hears of it. `boxes` has the limits for all of them together."""
    try:
        import resource
    except ImportError:
        return  # Windows has no such limits
    for kind, amount in (("RLIMIT_DATA", GIVEN["memory"]), ("RLIMIT_FSIZE", GIVEN["disk"]), ("RLIMIT_CORE", 0)):
        resource.setrlimit(getattr(resource, kind), (amount, amount))


def main() -> None:
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")  # what the kernel writes to its own standard output is another
    os.dup2(2, 1)
    limit()
    Path("checks.json").write_text(GIVEN["checks"], encoding="utf-8")
    notebook = nbformat.reads(GIVEN["notebook"], as_version=4)
    client = Client(
        notebook,
        timeout=GIVEN["timeout"],
        interrupt_on_timeout=True,
        allow_errors=True,
        kernel_name="python3",
        resources={"metadata": {"path": "."}},
    )
    if sys.platform != "win32":
        client.create_kernel_manager().transport = "ipc"  # no network is needed, not even the machine's own
    try:
        client.execute()
        end = "done"
    except DeadKernelError:
        end = "died"
    except CellTimeoutError:
        end = "hung"
    json.dump([end, nbformat.writes(notebook)], answer)
    answer.flush()


if __name__ == "__main__":
    main()
