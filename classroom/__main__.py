"""The teacher: python -m classroom release | grade | collect | autograde | feedback | grades | prove

release --cohort 2026a       what to hand out
grade NAME ARCHIVE.zip       the whole loop: collect, autograde, grades, feedback
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

UNBOXED = "where no box holds, run submissions with all that you can read and change in reach; pages and table say so"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m classroom", description="The teacher's commands.")
    parser.set_defaults(force=False, code_only=False, export=None, of=None, extension=None)  # as `grade` calls them
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, about: str, one: bool = True) -> Callable:
        """A command and its `add_argument`; one: it is about one assignment."""
        add = commands.add_parser(name, help=about).add_argument
        if one:
            add("name", metavar="NAME")
        return add

    def how_to_run(add: Callable) -> None:
        add("--unboxed", action="store_true", help=UNBOXED)
        add("--jobs", type=int, choices=range(1, 65), metavar="N", default=1, help="so many submissions side by side")
        add("--student", metavar="STUDENT", help="this one alone, again, by the name in the table of grades")

    add = command("release", "student versions, solutions and checks of a cohort", one=False)
    add("names", nargs="*", metavar="NAME", help="default: all assignments")
    add("--cohort", default="formative", help="the constants are drawn from this word, such as 2026a")
    add("--due", help='such as "2026-03-06 18:00 Europe/Berlin", else local time; later submissions are late')
    add("--force", action="store_true", help="even if submissions of another cohort are there; with a new secret word")
    add = command("collect", "unpack what Moodle or Canvas let you download")
    add("archives", nargs="+", type=Path, metavar="ARCHIVE.zip")
    add = command("grade", "collect, autograde, grades and feedback, one after the other")
    add("archives", nargs="+", type=Path, metavar="ARCHIVE.zip")
    how_to_run(add)
    add = command("autograde", "grade, and report what could not be graded; what is graded already is passed over")
    add("--force", action="store_true", help="also what is graded already")
    how_to_run(add)
    add = command("feedback", "a page for each student, and one archive to hand back")
    add("--code-only", action="store_true", help="also where the written answer has no grade yet")
    add = command("grades", "the grades as CSV, and for Moodle or Canvas")
    add("--export", type=Path, metavar="FILE.csv", help="what Moodle or Canvas exported, to fill in")
    add("--of", type=float, metavar="POINTS", help="scale to the maximum that the platform's column has")
    add("--extension", nargs=2, action="append", metavar=("STUDENT", "DATE"), help="a later due time for one student")
    add = command("prove", "right answers lose nothing, wrong ones lose what is stated", one=False)
    add("names", nargs="+", metavar="NAME")
    arguments = parser.parse_args()
    try:
        sys.exit(COMMANDS[arguments.command](arguments))
    except (FileNotFoundError, ModuleNotFoundError, RuntimeError, ValueError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        grading = arguments.command in ("grade", "autograde")
        said = "stopped: what is graded stays, and the same command goes on from there" if grading else "stopped"
        print(f"\n{said}", file=sys.stderr)
        sys.exit(130)  # as a shell says it of a program that was interrupted


def release(arguments: argparse.Namespace) -> int:
    from classroom import releasing
    from lora_course.assignments import names

    for name in arguments.names or names():
        folder = releasing.release(name, arguments.cohort, arguments.due, arguments.force)
        print(f"{name}: hand out {folder}", flush=True)
    print(f"the solutions, for teachers: {folder.parent.parent / 'solutions' / arguments.cohort}")
    return 0


def grade(arguments: argparse.Namespace) -> int:
    from classroom.sandbox import box

    box(arguments.unboxed)  # nothing is begun where nothing may be run
    failures = [collect(arguments)]
    for step in (autograde, grades, feedback):  # there is a table of grades, whatever goes wrong before or after it
        try:
            failures.append(step(arguments))
        except (OSError, RuntimeError, ValueError) as error:
            print(f"{step.__name__}: {error}", file=sys.stderr)
            failures.append(1)
    return max(failures)


def collect(arguments: argparse.Namespace) -> int:
    from classroom.collecting import collect as unpack

    taken, left_out = unpack(arguments.name, [archive.resolve() for archive in arguments.archives])
    print(f"{len({entry.student for entry in taken})} students, {len(taken)} files")
    for entry in left_out:
        print(f"left out: {entry}")
    return 0


def autograde(arguments: argparse.Namespace) -> int:
    from classroom.autograding import autograde as run
    from classroom.sandbox import box, what_holds

    print(what_holds(box(arguments.unboxed)), flush=True)
    problems = run(arguments.name, arguments.force, arguments.unboxed, arguments.jobs, arguments.student)
    for student, reason in problems.items():
        print(f"not graded: {student}: {reason}")
    some = f"{len(problems)} submission{'' if len(problems) == 1 else 's'} could not be graded"
    print(some if problems else "all could be graded")
    return 1 if problems else 0


def feedback(arguments: argparse.Namespace) -> int:
    from classroom.grades import write_feedback

    path, waiting = write_feedback(arguments.name, arguments.code_only)
    print(f"hand back {path}")
    if waiting and arguments.code_only:
        print(f"{len(waiting)} wait for you, and their pages say that the written answer has not been read yet")
    elif waiting:
        print(f"no page yet for {len(waiting)} who wait for you: read their written answers in Formgrader, then run")
        print("`grades` and `feedback` again; `feedback --code-only` makes pages with the points of the code now")
    return 0


def grades(arguments: argparse.Namespace) -> int:
    from classroom.grades import write_grades
    from classroom.releasing import extend

    for student, until in arguments.extension or []:
        extend(arguments.name, student, until)
    for path in write_grades(arguments.name, arguments.export, arguments.of):
        print(f"written: {path}")
    return 0


def prove(arguments: argparse.Namespace) -> int:
    from classroom.proof import report

    return 0 if all([report(name) for name in arguments.names]) else 1


COMMANDS = {step.__name__: step for step in (release, grade, collect, autograde, feedback, grades, prove)}

if __name__ == "__main__":
    main()
