"""Runs one submission inside the sandbox: `python runner.py`, in a folder with notebook.ipynb. Writes executed.ipynb.

`sandbox` copies this file into that folder and reads what it wrote as the word of a stranger: the student's code can do
whatever this process can. It knows no expected value and no path of the teacher's. Standard library and nbclient only.
"""

import json
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError

SETTINGS = json.loads(Path("settings.json").read_text(encoding="utf-8"))


class Client(NotebookClient):
    """Stops keeping what a cell prints once it is too much: the submission is graded all the same."""

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream":
            printed = sum(len(output.get("text", "")) for output in cell.outputs)
            room = SETTINGS["printed"] - printed
            if room <= 0:
                return None
            msg["content"]["text"] = msg["content"]["text"][:room]
        return super().process_message(msg, cell, cell_index)


def limit_memory() -> None:
    try:
        import resource
    except ImportError:
        return  # Windows has no such limits
    for kind, amount in (("RLIMIT_DATA", SETTINGS["memory"]), ("RLIMIT_FSIZE", SETTINGS["file"]), ("RLIMIT_CORE", 0)):
        resource.setrlimit(getattr(resource, kind), (amount, amount))


def main() -> None:
    limit_memory()
    notebook = nbformat.read("notebook.ipynb", as_version=4)
    client = Client(
        notebook,
        timeout=SETTINGS["timeout"],
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
        end = "the kernel died: the code ended the process, or took all memory, or crashed a compiled library"
    except CellTimeoutError:
        end = "the kernel hung and could not be interrupted"
    Path("executed.ipynb").write_text(nbformat.writes(notebook), encoding="utf-8")
    Path("end.txt").write_text(end, encoding="utf-8")


if __name__ == "__main__":
    main()
