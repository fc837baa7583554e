"""python -m lora_edu.classroom prove NAME: the teacher's commands."""

import argparse
import sys

from lora_edu.classroom.proof import report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lora_edu.classroom", description="The teacher's commands.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("prove", help="right answers lose nothing, wrong ones lose what is stated")
    command.add_argument("name")
    arguments = parser.parse_args()
    sys.exit(0 if report(arguments.name) else 1)


if __name__ == "__main__":
    main()
