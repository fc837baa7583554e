"""What a submission takes, all its processes together, and what it sees of the machine: each limit is attacked."""

import textwrap
import time

import psutil
import pytest

from classroom import boxes, sandbox

KINDS = [kind for kind in ("bwrap", "unshare") if kind in boxes.BOXES and sandbox.probe(kind) is None]
pytestmark = pytest.mark.skipif(not KINDS, reason="no box holds here")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def said(code, kind, seconds=20):
    """What a program of a student prints, in a box."""
    return sandbox.call([boxes.PYTHON, "-c", textwrap.dedent(code)], seconds, kind)[0].decode().strip()


def test_the_devices_the_users_and_the_machine_stay_outside(kind):
    seen = said(
        """
        import os, pwd
        print(sorted(os.listdir("/dev")))
        print(sorted(set(os.listdir("/etc")) - {"ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives"}))
        print([user.pw_name for user in pwd.getpwall()], pwd.getpwuid(os.getuid()).pw_name)
        print([name for name in ("/dev/null", "/dev/tty", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger",
            "/proc/sys/vm/overcommit_memory", "/usr", "/etc/passwd") if os.access(name, os.W_OK)])
        print(os.environ["PATH"], os.getcwd())
        """,
        kind,
    ).splitlines()
    assert eval(seen[0]) == sorted([*boxes.DEVICES, "shm"])
    assert set(eval(seen[1])) <= {"passwd", "fonts", "localtime"}
    assert seen[2] == "['student'] student"
    assert set(eval(seen[3])) <= {"/dev/null", "/dev/tty", "/etc/passwd"}
    assert seen[4].endswith(f"/usr/bin:/bin:/usr/sbin:/sbin {boxes.WORK}")


def test_processes_are_counted_together(kind):
    """Children of children as well, and the box ends with all of them."""
    tree = """
        import os, time
        started = 0
        for depth in range(3):
            for _ in range(40):
                try:
                    if os.fork() == 0: time.sleep(600)
                    started += 1
                except BlockingIOError: break
            else: continue
            break
        print(started, flush=True)
        """
    begin = time.monotonic()
    assert 20 < int(said(tree, kind)) < boxes.LIMITS["processes"]
    assert time.monotonic() - begin < 15
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except BlockingIOError: pass"
    with pytest.raises(sandbox.SubmissionError, match="longer than 1 seconds"):
        said(bomb, kind, seconds=1)
    while still := [p for p in psutil.process_iter(["cmdline"]) if bomb in (p.info["cmdline"] or [])]:
        assert time.monotonic() < begin + 30, still  # killed, each takes its moment
        time.sleep(0.1)


FILL = """
    import os
    written = 0
    for place in (".", os.environ["HOME"], "/tmp", "/dev/shm", "/", "/etc", "/root", "/mnt", "/var"):
        for number in range(5):
            try:
                with open(f"{place}/{number}", "wb", buffering=0) as file:
                    for _ in range(45): written += file.write(bytes(2**20))
            except OSError: break
    print(written)
    """


def test_what_is_written_is_counted_over_all_places(kind):
    assert 150e6 < int(said(FILL, kind)) <= boxes.LIMITS["disk"]


def test_no_namespace_inside_to_mount_more_in(kind):
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "x", "/tmp"]
    assert said(f"import subprocess; print(subprocess.run({mount}).returncode)", kind) != "0"


TAKE = """
    import os, time
    for _ in range(4):
        if os.fork() == 0:
            kept = bytearray(os.urandom(1)) * 60_000_000
            time.sleep(2)
            print("still there", flush=True)
            os._exit(0)
    for _ in range(4): print(os.wait()[1] and "killed", flush=True)
    """


def test_memory_is_counted_over_all_processes(kind, monkeypatch):
    monkeypatch.setitem(boxes.LIMITS, "memory", 150_000_000)  # for one of them it is enough
    with pytest.raises(sandbox.SubmissionError, match="more than 0.1 GiB of memory in all its processes"):
        said(TAKE, kind)


def test_memory_that_processes_share_counts_once(kind, monkeypatch):
    monkeypatch.setitem(boxes.LIMITS, "memory", 250_000_000)
    share = TAKE.replace("for _ in range(4):\n", "kept = bytearray(b'x') * 60_000_000\n    for _ in range(4):\n", 1)
    share = share.replace("            kept = bytearray(os.urandom(1)) * 60_000_000\n", "").replace("(2)", "(1)")
    assert said(share, kind).count("still there") == 4


def test_the_processor_is_counted_over_all_processes(kind, monkeypatch):
    monkeypatch.setitem(boxes.LIMITS, "cpu", 1)
    short = """
        import os, time
        for _ in range(99):
            if os.fork() == 0:
                while time.process_time() < .1: pass
                os._exit(0)
            os.wait()
        """
    with pytest.raises(sandbox.SubmissionError, match="more than 1 seconds of processor time"):
        said(short, kind)


def test_a_flood_does_not_fill_the_teachers_memory(kind, monkeypatch):
    """Not what it prints past the notebook, either."""
    monkeypatch.setattr(sandbox, "LARGEST", 10**6)
    for stream in (1, 2):
        with pytest.raises(sandbox.SubmissionError, match="it printed more than"):
            said(f"import os\nwhile True: os.write({stream}, bytes(10**5))", kind)


def test_what_is_given_arrives_whole_however_late(kind):
    late = "import sys, time; time.sleep(.5); print(len(sys.stdin.read()))"
    assert sandbox.call([boxes.PYTHON, "-c", late], 20, kind, b"x" * 10**6)[0] == b"1000000\n"
