"""JupyterLab as `lora-edu lab` starts it: quiet, `lora-edu` found by its name, and the URL as the last line."""

import logging
import os
import shlex
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

from ipykernel.kernelspec import write_kernel_spec
from jupyter_server.serverapp import ServerApp
from jupyterlab.labapp import LabApp

SCRIPTS = sysconfig.get_path("scripts")  # where `lora-edu` lies, beside this interpreter
DEBUG = "--debug" in sys.argv


class Server(ServerApp):
    """Jupyter's server, which says no more than a reader needs once it listens."""

    def start_app(self) -> None:
        logging.disable(logging.NOTSET if DEBUG else logging.CRITICAL)  # it would print URLs of its own
        super().start_app()
        logging.disable(logging.NOTSET if DEBUG else logging.WARNING)
        print("lora-edu works in JupyterLab's terminal, and in a notebook after an exclamation mark: !lora-edu doctor")
        print(f"in a terminal of your own: {shlex.quote(os.path.join(SCRIPTS, 'lora-edu'))} doctor")
        print(self.public_url, flush=True)


class Lab(LabApp):
    serverapp_class = Server


def describe_kernel(folder: Path) -> None:
    """Write how Python 3 is started: as ever, and with `setup/not_run.py`. JUPYTER_PATH names the folder."""
    write_kernel_spec(str(folder / "kernels" / "python3"), extra_arguments=["--ext=lora_course.setup.not_run"])


def main() -> None:
    logging.disable(logging.NOTSET if DEBUG else logging.WARNING)
    # what kernels and terminals inherit
    os.environ["PATH"] = os.pathsep.join([SCRIPTS, os.environ.get("PATH", os.defpath)])
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # each kernel would warn of its debugger
    with TemporaryDirectory() as folder:  # of this server alone: no other Jupyter sees it
        describe_kernel(Path(folder))
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("JUPYTER_PATH")]))
        Lab.launch_instance(sys.argv[1:])


if __name__ == "__main__":
    main()
