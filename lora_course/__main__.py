"""lora-edu setup | lab | fetch | doctor | progress | train | voice | speak | inspect | pretrain | ...: the course.

`python -m lora_edu` is the same, and works before anything is installed.
"""

import sys

if sys.version_info < (3, 11):  # before any import that an older Python could not read
    sys.exit("lora-edu needs Python 3.11 or newer, this is %d.%d: make lab PYTHON=python3.12" % sys.version_info[:2])

import argparse
import os
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import lora_edu
from lora_course.programs.command import did_you_mean, patient_output
from lora_course.setup import environment, working_copy

# Programs: the module whose `main` reads the rest of the command line, and what it does.
PROGRAMS = {
    "fetch": ("lora_edu.texts", "download the texts and models that the notebooks use"),
    "doctor": (
        "lora_course.setup.doctor",
        "print what to send when you ask for help: versions, device, memory, disk, texts",
    ),
    "progress": ("lora_course.checking.grading", "show which exercises of all notebooks are done"),
    "train": ("lora_course.programs.train", "fine-tune a model in full, with LoRA or with QLoRA"),
    "pretrain": ("lora_course.programs.pretrain", "train the base model of the course, or a larger one on a GPU"),
    "voice": ("lora_course.programs.voice", "train an adapter on your own text and write a page in which it speaks"),
    "speak": ("lora_course.programs.speak", "let an adapter continue a prompt"),
    "inspect": (
        "lora_course.programs.inspected",
        "examine any adapter in PEFT's format: is it whole, and has it learned?",
    ),
    "experiment": ("lora_course.experiments", "run one of the long experiments whose results the notebooks plot"),
    "qlora": ("lora_course.setup.report", "run the QLoRA notebook without a browser; the result is in build/"),
    "gpu": ("lora_course.setup.report", "run the QLoRA notebook on a GPU at its larger size, pretraining included"),
}

OURS = (ValueError, OSError, RuntimeError, ArithmeticError, ImportError)  # what our own sentences come with
DEBUG = "LORA_EDU_DEBUG"

# On Linux, torch's threads wait for each other in libgomp, which turns idly for about a millisecond before it sleeps.
# Where another program has one of two cores, a training step then takes four times as long as with one thread. With
# 5,000 turns it takes 1.4 times as long there, and 6% longer where nothing else runs.
WAITING = "GOMP_SPINCOUNT", "5000"


def setup(extra: str = environment.COURSE, newest: bool = False) -> None:
    """Install what is needed and fetch the three texts."""
    python = environment.setup(extra, newest)
    if subprocess.run([python, "-m", "lora_edu", "fetch", "texts"], cwd=environment.home()).returncode:
        print("Some texts could not be downloaded. Notebooks 03 to 12 try again when they need them.", flush=True)


def lab(port: int | None, fresh: bool, plain: bool, rest: list[str]) -> None:
    """Open JupyterLab on the first notebook of the reader's own copy. Listens on localhost, with a token."""
    if port is not None and not 0 < port < 65536:
        raise environment.SetupError(f"PORT is a number from 1 to 65535, such as 8888, got {port}")
    setup()
    course = working_copy.copy_course(environment.home(), fresh)
    settings = course / ".jupyter"
    environment.configure_lab(settings, plain)
    more = os.environ.get("JUPYTER_CONFIG_PATH")
    os.environ["JUPYTER_CONFIG_PATH"] = f"{settings}{os.pathsep}{more}" if more else str(settings)
    command = [str(environment.course_python()), "-m", "lora_course.setup.jupyter", f"--ServerApp.root_dir={course}"]
    command += ["--debug"] if os.environ.get(DEBUG) else []
    command += ["--LabApp.default_url=/lab/tree/00_start_here.ipynb", "--ServerApp.ip=localhost"]
    if port:
        command.append(f"--port={port}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # in a container
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        command.append("--no-browser")
        print("There is no screen here: open the URL below, token included, in a browser.", flush=True)
    environment.hand_over(command + rest)


def program(command: str, rest: list[str]) -> None:
    """Hand over to a program of its own: `lora-edu train --method qlora`. It reads the rest of the line."""
    python = environment.setup()
    if os.path.abspath(python) != os.path.abspath(sys.executable):  # go on where the course is installed
        environment.hand_over([str(python), "-m", "lora_edu", command, *rest])
    if command == "gpu":
        os.environ |= {"LORA_EDU_SIZE": "gpu", "LORA_EDU_DEVICE": "cuda"}  # the kernel inherits them
    if command in ("qlora", "gpu"):  # one notebook of those that can be run so
        rest = [str(working_copy.course_folder() / "09_qlora_gpt.ipynb"), "--time", *rest]
    sys.argv = [f"lora-edu {command}", *rest]
    import_module(PROGRAMS[command][0]).main()


def main() -> None:
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ[DEBUG] = "1"  # a process that we hand over to inherits it
    guarded(_main)


def guarded(command: Callable[[], None]) -> None:
    """Run a command. What goes wrong becomes one sentence here, for all of them, and exit code 1: no traceback without
    --debug. (A wrong command line ends with 2, Ctrl-C with 130.)"""
    with patient_output():
        try:
            command()
        except KeyboardInterrupt as stopped:
            print(stopped, end="\n" if str(stopped) else "", file=sys.stderr)
            sys.exit(130)
        except Exception as error:
            if os.environ.get(DEBUG):
                raise
            process = f" in process {os.environ['RANK']}" if "RANK" in os.environ else ""  # of torchrun
            sys.exit(f"error{process}: {_sentence(error)}")


def _sentence(error: Exception) -> str:
    """Our own errors say what to do; of others, the type and how to see more."""
    if isinstance(error, OSError) and error.strerror:  # what the system refuses
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    raised = error.__traceback__
    while raised and raised.tb_next:
        raised = raised.tb_next
    homes = {Path(__file__).parent, Path(lora_edu.__file__).parent}
    ours = raised and bool(homes & set(Path(raised.tb_frame.f_code.co_filename).parents))
    if ours and isinstance(error, OURS):
        return str(error)
    return f"{type(error).__name__}: {str(error).rstrip('.')}. The same command with --debug shows where"


def _main() -> None:
    os.environ.setdefault(*WAITING)  # before torch is loaded, here or in a kernel
    if len(sys.argv) > 1 and sys.argv[1] in PROGRAMS:
        return program(sys.argv[1], sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="lora-edu", description="A course on LoRA and QLoRA, built by hand.",
        epilog="`lora-edu COMMAND --help` explains a command. With --debug, an error shows its traceback and lab shows "
        "Jupyter's log.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"lora-edu {lora_edu.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    command = commands.add_parser("setup", help="create .venv, install the course, download the three texts")
    command.add_argument(
        "--extra", default=environment.COURSE, help="a group of packages in pyproject.toml, such as test"
    )
    command.add_argument("--newest", action="store_true", help="the newest releases, in .venv-newest")
    command = commands.add_parser(
        "lab", help="open the course in JupyterLab; options that are not known here go to JupyterLab"
    )
    command.add_argument("--port", type=int, help="the port of JupyterLab, such as 8888")
    command.add_argument("--plain", action="store_true", help="keep the whole notebook in the page, for screen readers")
    command.add_argument(
        "--fresh",
        action="store_true",
        help="start with a new copy of the notebooks; the old one is kept under another name",
    )
    for name, (_, told) in PROGRAMS.items():
        commands.add_parser(name, help=told)
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if not word.startswith("-") and word not in commands.choices:
        parser.error(f"there is no command {word!r}: {did_you_mean(word, commands.choices)}")
    arguments, rest = parser.parse_known_args([word, *sys.argv[2:]])
    if arguments.command is None:
        parser.error(f"a command must come before {' '.join(rest)}, for example lora-edu lab")
    if rest and arguments.command != "lab":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if arguments.command == "lab":
        lab(arguments.port, arguments.fresh, arguments.plain, rest)
    else:
        setup(arguments.extra, arguments.newest)


if __name__ == "__main__":
    main()
