"""The box itself: a root folder of its own, made by `bwrap` or by `unshare`, and the limits of all that is in it.

    command = BOXES["unshare"]() + [PYTHON, "-c", "..."]     # nothing of the teacher's in reach

Python, the system's libraries and the package are there, read-only. All else, /tmp and /dev/shm included, is one file
system in memory that holds 200 MB and goes when the box goes. Started by root, a submission becomes a user that is
nobody: root's processes cannot be counted, and what belongs to root, such as the settings in /proc/sys, is open to it.
"""

import contextlib
import itertools
import os
import shlex
import site
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from classroom import folders

# For a submission, all its processes together: bytes, bytes written to all places, processes and their threads, seconds
# of processor. printed: letters of a cell.
LIMITS = {"memory": 4 * 2**30, "disk": 200_000_000, "processes": 64, "cpu": 900, "printed": 100_000}
WORK = "/lora-edu-box"  # where a submission works inside the box
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix")
ETC = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "fonts",
    "localtime",
)  # where libraries and fonts are
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
STUDENT = f"student:x:0:0::{WORK}/home:/bin/sh"  # all of /etc/passwd
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
PYTHON = str(Path(sys.executable).parent.resolve() / Path(sys.executable).name)  # however it was called


def visible() -> list[str]:
    """The paths that a submission may read: the system, Python with its packages, the course without its graders.

    In the one form that a path has inside and outside: from the root on, without `..` (a link stays a link).
    """
    links = [PYTHON]
    while Path(links[-1]).is_symlink():  # .venv/bin/python leads to the Python that made it, perhaps by several steps
        links.append(os.path.join(os.path.dirname(links[-1]), os.readlink(links[-1])))
    python = [os.path.dirname(link) for link in links] + [sys.prefix, sys.base_prefix, sys.exec_prefix]
    packages = [*site.getsitepackages(), site.getusersitepackages()]
    course = [folders.CLONE / "lora_edu", folders.CLONE / "data"]
    own = [form(path) for path in (*python, *packages, *course) for form in (os.path.abspath, os.path.realpath)]
    etc = [f"/etc/{name}" for name in ETC]
    found = [path for path in (*SYSTEM, *own, *etc) if Path(path).exists() and path != "/"]
    inside = [path for path in found if any(Path(other) in Path(path).parents for other in found)]
    return list(dict.fromkeys(path for path in found if path not in inside))


def _counted() -> str:
    """The words before a command that let its user have so many processes in this box."""
    return f"prlimit --nproc={LIMITS['processes']}"


def _with_bwrap() -> list[str]:
    binds = [word for path in visible() for word in ("--ro-bind", path, path)]
    devices = [word for name in DEVICES for word in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")]
    apart = ["--unshare-all", "--unshare-user", "--disable-userns", "--uid", "0", "--gid", "0", "--cap-drop", "ALL"]
    fresh = ["--size", str(LIMITS["disk"]), "--tmpfs", "/", "--proc", "/proc"]
    own = [word for path in ("/etc", "/dev/shm", "/tmp", f"{WORK}/home") for word in ("--dir", path)]
    start = f'echo {STUDENT} > /etc/passwd; exec {_counted()} "$@"'
    ends = ["--die-with-parent", "--new-session", "--chdir", WORK, "--", "sh", "-c", start, "sh"]
    return ["bwrap", *apart, *fresh, *devices, *own, *binds, *ends]


def _with_unshare() -> list[str]:
    """The same by hand: a new root that holds the visible paths, and no privilege left to climb out with."""
    steps = ["set -e", f"mount -t tmpfs -o mode=755,size={LIMITS['disk']},nr_inodes=100k tmpfs /mnt", "cd /mnt"]
    steps += [f"mkdir -p old proc etc dev/shm tmp .{WORK}/home", f"chmod 777 dev/shm tmp .{WORK} .{WORK}/home"]
    steps += [f"echo {STUDENT} > etc/passwd", "mount -t proc proc proc"]
    for path in visible():
        here, inside = shlex.quote(path), shlex.quote(f".{path}")
        make = f"mkdir -p {inside}" if Path(path).is_dir() else f"touch {inside}"
        steps += [make, f"mount --rbind {here} {inside}", f"mount -o remount,bind,ro {inside}"]
    for name in DEVICES:
        steps += [f"touch dev/{name}", f"mount --bind /dev/{name} dev/{name}"]
    # no namespace inside this one: in its own, a submission could mount as much memory as it likes
    seal = "echo 0 > /proc/sys/user/max_user_namespaces"
    seal += f'; exec {_counted()} setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"'
    user = 65_000 + os.getpid() % 500
    nobody = f"setpriv --reuid={user} --regid={user} --clear-groups unshare -r" if IS_ROOT else ""
    inside = f'umount -l /old; rmdir /old; cd {WORK}; exec {nobody} sh -c {shlex.quote(seal)} sh "$@"'
    steps += ["pivot_root . old", f'exec chroot . sh -c {shlex.quote(inside)} sh "$@"']
    apart = ["unshare", "-mnpi", *([] if IS_ROOT else ["-r"]), "--fork", "--kill-child"]
    return [*apart, "sh", "-c", "\n".join(steps), "sh"]


# bwrap makes root's submission root again; root can make namespaces without its help
BOXES = {"unshare": _with_unshare} if IS_ROOT else {"bwrap": _with_bwrap, "unshare": _with_unshare}


# --- limits for all of it together ------------------------------------------------------------------------------------

CGROUPS = Path("/sys/fs/cgroup")
_numbers = itertools.count()


def _group() -> Path | None:
    """A new control group with our limit of memory, beside or below our own; None where none can be made."""
    try:
        own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
        places = [(CGROUPS / "memory" / own["memory"][1:], "memory.limit_in_bytes")] if "memory" in own else []
        places += [((CGROUPS / own[""][1:]).parent, "memory.max")] if own.get("", "/") != "/" else []
    except (OSError, ValueError):
        return None
    for place, limit in places:
        folder = place / f"lora-edu-{os.getpid()}-{next(_numbers)}"
        try:
            folder.mkdir()
            (folder / limit).write_text(str(LIMITS["memory"]))
            return folder
        except OSError:
            _remove_group(folder)
    return None


def _remove_group(folder: Path) -> None:
    for _ in range(100):  # it can go when the last process in it is gone
        try:
            return folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)


@contextlib.contextmanager
def group() -> Iterator[list[str]]:
    """The words before a command that put it into a control group; none where that is not possible."""
    folder = _group()
    try:
        yield ["sh", "-c", f'echo $$ > {shlex.quote(str(folder))}/cgroup.procs; exec "$@"', "sh"] if folder else []
    finally:
        if folder:
            _remove_group(folder)


def overdone(pid: int) -> str | None:
    """What a run and all that it started took too much of, if anything: looked at from outside, by the teacher."""
    memory = cpu = 0.0
    try:
        everything = [run := psutil.Process(pid), *run.children(recursive=True)]
    except psutil.Error:
        return None
    for process in everything:
        with contextlib.suppress(psutil.Error):
            memory += process.memory_info().rss
            cpu += sum(process.cpu_times()[:4])
    if memory > LIMITS["memory"]:  # what processes share was counted for each
        memory = sum(map(_share, everything))
    if memory > LIMITS["memory"]:
        return f"it took more than {LIMITS['memory'] / 2**30:.1f} GiB of memory in all its processes"
    return f"it took more than {LIMITS['cpu']} seconds of processor time" if cpu > LIMITS["cpu"] else None


def _share(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
        return getattr(full, "pss", full.rss)
    except psutil.Error:
        return 0
