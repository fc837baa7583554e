"""The box itself: a root folder of its own, made by `bwrap` or by `unshare`, and the limits of all that is in it.

    command = BOXES["unshare"]() + [PYTHON, "-c", "..."]     # nothing of the teacher's in reach

Python, the system's libraries and the package are there, read-only. All else, /tmp and /dev/shm included, is one file
system in memory that holds 200 MB and goes when the box goes. Started by root, a submission becomes a user that is
nobody: root's processes cannot be counted, and what belongs to root, such as the settings in /proc/sys, is open to it.
"""

import contextlib
import os
import shlex
import site
import sys
from pathlib import Path

import psutil

from classroom import folders

# For a submission, all its processes together: bytes, bytes written to all places, processes and their threads, seconds
# of processor. printed: letters of a cell.
LIMITS = {"memory": 4 * 2**30, "disk": 200_000_000, "files": 110_000, "processes": 64, "cpu": 900, "printed": 100_000}
WORK = "/lora-edu-box"  # where a submission works inside the box
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix")
ETC = "ld.so.cache ld.so.conf ld.so.conf.d alternatives fonts localtime".split()  # where libraries and fonts are
COUNTED = f"prlimit --nproc={LIMITS['processes']}"  # counts those of a user, in its box
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
STUDENT = f"student:x:0:0::{WORK}/home:/bin/sh"  # all of /etc/passwd
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
PYTHON = str(Path(sys.executable).parent.resolve() / Path(sys.executable).name)  # however it was called

# Runs before anything of a submission, inside the box: no key of the session's keyring, and no socket to the machine
# around a virtual one, which is in no namespace of the network (AF_VSOCK); the kernel refuses those calls from now on.
CLOSED = """
import ctypes, os, platform, struct, sys
SOCKET, ADD_KEY, REQUEST_KEY, KEYCTL, IO_URING, ARCH = {
    "x86_64": (41, 248, 249, 250, 425, 0xC000003E), "aarch64": (198, 217, 218, 219, 425, 0xC00000B7)
}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall(KEYCTL, 1, None)  # a session keyring of its own
LOAD, EQUAL, RETURN, REFUSE, ALLOW = 0x20, 0x15, 0x06, 0x50001, 0x7FFF0000
calls = (ADD_KEY, REQUEST_KEY, KEYCTL, IO_URING)  # the last makes sockets, too
steps = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, ARCH), (RETURN, 0, 0, REFUSE), (LOAD, 0, 0, 0)]
steps += [step for call in calls for step in ((EQUAL, 0, 1, call), (RETURN, 0, 0, REFUSE))]
steps += [(EQUAL, 0, 3, SOCKET), (LOAD, 0, 0, 16), (EQUAL, 0, 1, 40), (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program)))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, filters, 0, 0):
    sys.exit("no filter of system calls can be set here")
os.execvp(sys.argv[1], sys.argv[1:])
"""


def visible() -> list[str]:
    """The paths that a submission may read: the system, Python with its packages, the course without its graders.

    In the one form that a path has inside and outside: from the root on, without `..` (a link stays a link).
    """
    links = [PYTHON]
    while Path(links[-1]).is_symlink():  # .venv/bin/python leads to the Python that made it, perhaps by several steps
        links.append(os.path.join(os.path.dirname(links[-1]), os.readlink(links[-1])))
    python = [os.path.dirname(link) for link in links] + [sys.prefix, sys.base_prefix, sys.exec_prefix]
    packages = [*site.getsitepackages(), site.getusersitepackages()]
    course = [folders.CLONE / "lora_edu", folders.CLONE / "lora_course", folders.CLONE / "data"]
    there = [path for path in (*python, *packages, *course) if os.path.exists(path)]
    forms = [(form, path) for path in there for form in (os.path.abspath(path), os.path.realpath(path)) if form != "/"]
    own = [form for form, path in forms if os.path.exists(form) and os.path.samefile(form, path)]
    found = [*filter(os.path.exists, [*SYSTEM, *(f"/etc/{name}" for name in ETC)]), *own]
    inside = [path for path in found if any(Path(other) in Path(path).parents for other in found)]
    return list(dict.fromkeys(path for path in found if path not in inside))


def _with_bwrap() -> list[str]:
    binds = [word for path in visible() for word in ("--ro-bind", path, path)]
    devices = [word for name in DEVICES for word in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")]
    apart = ["--unshare-all", "--unshare-user", "--disable-userns", "--uid", "0", "--gid", "0", "--cap-drop", "ALL"]
    fresh = ["--size", str(LIMITS["disk"]), "--tmpfs", "/", "--proc", "/proc"]
    own = [word for path in ("/etc", "/dev/shm", "/tmp", f"{WORK}/home") for word in ("--dir", path)]
    start = f'echo {STUDENT} > /etc/passwd; exec {COUNTED} "$@"'
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
    seal = "echo 0 > /proc/sys/user/max_user_namespaces; exec " + COUNTED
    seal += ' setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"'
    user = 65_000 + os.getpid() % 500
    nobody = f"setpriv --reuid={user} --regid={user} --clear-groups unshare -r" if IS_ROOT else ""
    inside = f'umount -l /old; rmdir /old; cd {WORK}; exec {nobody} sh -c {shlex.quote(seal)} sh "$@"'
    steps += ["pivot_root . old", f'exec chroot . sh -c {shlex.quote(inside)} sh "$@"']
    apart = ["unshare", "-mnpi", *([] if IS_ROOT else ["-r"]), "--fork", "--kill-child"]
    return [*apart, "sh", "-c", "\n".join(steps), "sh"]


# bwrap makes root's submission root again; root can make namespaces without its help
BOXES = {"unshare": _with_unshare} if IS_ROOT else {"bwrap": _with_bwrap, "unshare": _with_unshare}


# --- limits for all of it together ------------------------------------------------------------------------------------


def overdone(pid: int) -> str | None:
    """What a run and all that it started took too much of, if anything: looked at from outside, by the teacher."""
    memory = cpu = files = 0.0
    with contextlib.suppress(psutil.Error):  # one that ended meanwhile
        for process in [run := psutil.Process(pid), *run.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                cpu += sum(process.cpu_times()[:4])
                full = process.memory_full_info()
                memory += getattr(full, "pss", full.rss)  # what processes share counts once
            with contextlib.suppress(OSError):
                room = os.statvfs(f"/proc/{process.pid}/root/{WORK}/home")
                files = max(files, room.f_files - room.f_ffree)  # of its disk in memory
    if memory > LIMITS["memory"]:
        return f"it took more than {LIMITS['memory'] / 2**30:.1f} GiB of memory in all its processes"
    if files > LIMITS["files"]:
        return f"it made more than {LIMITS['files']} files"
    return f"it took more than {LIMITS['cpu']} seconds of processor time" if cpu > LIMITS["cpu"] else None
