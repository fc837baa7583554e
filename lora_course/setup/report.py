"""Run notebooks without a browser, behind a progress bar.

    python -m lora_course.setup.report notebooks/09_qlora_gpt.ipynb

writes the executed notebook to `build/`. With `--time` it names the machine and how long it took. With `--in-place` the
outputs are stored in the notebook itself.
"""

import argparse
import os
import time
from pathlib import Path

import nbformat
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelspec import get_kernel_dict
from nbclient import NotebookClient
from tqdm.auto import tqdm

from lora_course.programs.command import check_output
from lora_course.setup import environment, hosted
from lora_edu.records import staging

PATIENCE = 2 * 3600  # seconds that one cell may take: a slow GPU that pre-trains its base shall be late, not fail


def execute(path: Path) -> nbformat.NotebookNode:
    """Run a notebook top to bottom in a fresh kernel, in its own folder, and return it with its outputs.

    Without the cell that installs the course elsewhere: the first one that a reader sees is number 1.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not hosted.is_hosted(cell)]
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    with tqdm(total=cells, desc=path.name, unit="cell") as bar:
        client = NotebookClient(
            notebook,
            timeout=PATIENCE,
            kernel_name="python3",
            coalesce_streams=True,
            store_widget_state=False,  # a stored state shows as "model not found" when the file is opened again
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_executed=lambda cell, cell_index, execute_reply: bar.update(),
        )
        client.execute()
    return tidy(notebook)


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leave out what differs from run to run and tells a reader nothing: times, machine, progress bars.

    About the kernel stands what JupyterLab writes when it opens the notebook: otherwise it opens as modified.
    """
    spec = {"name": "python3"} | {key: get_kernel_dict()[key] for key in ("display_name", "language")}
    notebook.metadata = nbformat.from_dict({"kernelspec": spec, "language_info": IPythonKernel.language_info})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_live(output)]
    return notebook


def _is_live(output: nbformat.NotebookNode) -> bool:
    """A progress bar, or the controls of a slider: they come with a kernel. A slider's picture is an output beside."""
    if output.output_type == "stream":
        return output.name == "stderr" and "it/s" in output.text
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lora_course.setup.report", description="Run notebooks without a browser."
    )
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--in-place", action="store_true", help="store the outputs in the notebook itself")
    parser.add_argument("--folder", type=Path, default=environment.home() / "build")
    parser.add_argument("--time", action="store_true", help="say below the title on which machine, and in what time")
    arguments = parser.parse_args()
    if not arguments.in_place:
        check_output(arguments.folder, "name another, --folder")
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    if arguments.time:
        from lora_course.setup.doctor import describe_device  # here, because it brings torch

        machine = describe_device()  # before the work: the GPU that was asked for may not be there
    for path in arguments.notebooks:
        start = time.perf_counter()
        notebook = execute(path)
        if arguments.time:
            minutes, seconds = divmod(int(time.perf_counter() - start), 60)
            note = f"> {machine}: the notebook took {minutes} min {seconds} s."
            notebook.cells.insert(1, nbformat.v4.new_markdown_cell(note, id="time"))
            print(note)
        notebook = hosted.add(notebook) if arguments.in_place else notebook
        target = path if arguments.in_place else arguments.folder / path.name
        with staging(target) as file:
            file.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        print(f"written to {target}")


if __name__ == "__main__":
    main()
