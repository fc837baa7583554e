"""An IPython extension: a stored page looks run, and its kernel has just started. It says so where a name is missing.

The kernels of `lora-edu lab` load it (setup/jupyter.py). Jupyter tells a kernel the path of its notebook, and the cell
that runs. Where it does not, or where no cell above makes the name, the ordinary traceback is shown.
"""

import os
import symtable
from pathlib import Path
from types import TracebackType

import nbformat
from IPython.core.interactiveshell import ExecutionInfo, InteractiveShell

SENTENCE = "The cells above have not run in this session: Run > Run All Above Selected Cell."


class Session:
    """What has run since the kernel started."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        self.ran: set[str] = set()  # ids of cells, and their sources
        self.running: ExecutionInfo | None = None

    def begins(self, info: ExecutionInfo) -> None:
        """IPython calls this before each cell."""
        self.running = info
        self.ran |= {source_of(info)} | ({info.cell_id} if info.cell_id else set())

    def failed(
        self,
        shell: InteractiveShell,
        etype: type[NameError],
        error: NameError,
        traceback: TracebackType,
        tb_offset: int | None = None,
    ) -> list[str]:
        """IPython calls this in place of showing a NameError."""
        if error.name in self.names_of_skipped_cells():
            lines = [SENTENCE]
        else:
            lines = shell.InteractiveTB.structured_traceback(etype, error, traceback, tb_offset=tb_offset)
        shell._showtraceback(etype, error, lines)
        return lines

    def names_of_skipped_cells(self) -> set[str]:
        """What the notebook's cells above the running one would have made, had they run."""
        names: set[str] = set()
        for cell in self.cells_above():
            if not {cell.get("id"), cell.source.strip()} & self.ran:
                names |= bound_in(self.shell.transform_cell(cell.source))
        return names

    def cells_above(self) -> list[nbformat.NotebookNode]:
        """The code cells above the running one, as the notebook was last saved; none where it cannot be found."""
        path = Path(os.environ.get("JPY_SESSION_NAME", ""))
        if path.suffix != ".ipynb" or not path.is_file() or self.running is None:
            return []
        try:
            notebook = nbformat.read(path, as_version=4)
        except (OSError, ValueError, nbformat.ValidationError):
            return []
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for place, cell in enumerate(cells):
            if cell.get("id") == self.running.cell_id or cell.source.strip() == source_of(self.running):
                return cells[:place]
        return []


def source_of(info: ExecutionInfo) -> str:
    return (info.raw_cell or "").strip()


def bound_in(source: str) -> set[str]:
    """The names that a cell makes: by an assignment, an import, a definition, a loop."""
    try:
        table = symtable.symtable(source, "cell", "exec")
    except SyntaxError:
        return set()
    return {one.get_name() for one in table.get_symbols() if one.is_assigned() or one.is_imported()}


def load_ipython_extension(shell: InteractiveShell) -> None:
    session = Session(shell)
    shell.events.register("pre_run_cell", session.begins)
    shell.set_custom_exc((NameError,), session.failed)
