"""JupyterLab as `lora-edu lab` starts it: quiet, `lora-edu` found by its name, and the URL as the last line."""

import logging
import os
import shlex
import sys
import sysconfig

from jupyter_server.serverapp import ServerApp
from jupyter_server.services.kernels.kernelmanager import ServerKernelManager
from jupyterlab.labapp import LabApp

SCRIPTS = sysconfig.get_path("scripts")  # where `lora-edu` lies, beside this interpreter
DEBUG = "--debug" in sys.argv


class Kernel(ServerKernelManager):
    """A Python that runs a notebook. It warns as its server does, of errors alone."""

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        command = super().format_kernel_cmd(extra_arguments)
        return command if DEBUG or "ipykernel_launcher" not in command else [*command, "--log-level=ERROR"]


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


def main() -> None:
    logging.disable(logging.NOTSET if DEBUG else logging.WARNING)
    # what kernels and terminals inherit
    os.environ["PATH"] = os.pathsep.join([SCRIPTS, os.environ.get("PATH", os.defpath)])
    Lab.launch_instance([*sys.argv[1:], "--MultiKernelManager.kernel_manager_class=lora_course.setup.jupyter.Kernel"])


if __name__ == "__main__":
    main()
