"""What the code of a submission can reach, and what of it reaches a browser."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbconvert.filters import markdown2html

from classroom import __main__ as commands
from classroom import boxes, cleaning, folders, sandbox

CHECKS = folders.CLONE / "notebooks" / "assignments" / "a1_lora_numpy" / "checks.json"
PACKAGES = [str(folders.CLONE / name) for name in ("lora_edu", "lora_course")]
CLOSED = [str(folders.CLONE / name) for name in ("classroom", "notebooks", "tests")]
ESCAPE = f"""
import os, socket, subprocess
from pathlib import Path

def readable(path):
    try:
        return bool(os.listdir(path))
    except OSError:
        return False

found = [place for place in {CLOSED!r} if readable(place)]
for target in ("/usr", os.path.dirname(os.__file__), *{PACKAGES!r}):
    subprocess.run(["mount", "-o", "remount,bind,rw", target], capture_output=True)
    try:
        Path(target, "was-here").touch()
        found.append(target)
    except OSError:
        pass
try:
    socket.create_connection(("127.0.0.1", PORT), timeout=2)
    found.append("network")
except OSError:
    pass
found
"""


KILLING = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"
FLOOD = "for i in range(10**9): print('x' * 10_000)"


def ran(*sources, **limits):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    return sandbox.run(notebook, CHECKS, **limits).cells


@pytest.fixture(scope="module")
def port():
    """A port of this machine on which somebody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def cut_and_graded(flood, after):
    """A flood is cut, and ends its cell alone."""
    assert sum(len(output.get("text", "")) for output in flood.outputs) <= sandbox.LIMITS["printed"]
    assert flood.outputs[-1].ename == "KeyboardInterrupt"
    assert after.outputs[0].data["text/plain"] == "'graded'"


@pytest.mark.parametrize("kind", ["bwrap", "unshare"])
def test_a_submission_reaches_nothing_of_the_teachers(kind, port, monkeypatch):
    if kind not in boxes.BOXES or sandbox.probe(kind):
        pytest.skip(f"{kind} is not here, or not allowed")
    monkeypatch.setenv(sandbox.VARIABLE, kind)
    checks = "from lora_course.assignments import checks; checks('a1_lora_numpy')"
    cells = ran(ESCAPE.replace("PORT", str(port)), checks, KILLING if kind == "unshare" else "", FLOOD, "'graded'")
    assert cells[0].outputs[0].data["text/plain"] == "[]"
    assert [output.output_type for output in cells[1].outputs] == ["execute_result"]
    assert cells[2].outputs == []  # there the runner is process 1, which nobody inside can kill
    cut_and_graded(*cells[3:])


@pytest.fixture(autouse=True)
def what_there_is(monkeypatch):
    """The tests of what comes back run on every machine, in a box or not."""
    monkeypatch.setenv(sandbox.VARIABLE, sandbox.box(unboxed=True))


@pytest.fixture
def no_box(monkeypatch):
    monkeypatch.delenv(sandbox.VARIABLE)
    monkeypatch.setattr(boxes, "BOXES", {})
    monkeypatch.setattr(sandbox, "BOXES", {"bwrap": None})
    monkeypatch.setattr(sandbox, "probe", lambda kind: f"{kind} is not installed")
    sandbox.isolation.cache_clear()
    yield
    sandbox.isolation.cache_clear()


def test_without_a_box_nothing_is_run(no_box, monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "call", lambda *_: pytest.fail("it was run"))
    for attempt in (lambda: ran("1"), sandbox.box):
        with pytest.raises(sandbox.NoBox, match=r"NOT ISOLATED.*bwrap is not installed.*--unboxed"):
            attempt()
    monkeypatch.setattr(sys, "argv", ["classroom", "grade", "a1_lora_numpy", str(tmp_path / "none.zip")])
    with pytest.raises(SystemExit, match="NOT ISOLATED"):  # before it looks at the archive
        commands.main()


def test_without_a_box_as_the_teacher_asked(no_box, monkeypatch):
    assert sandbox.what_holds(sandbox.box(unboxed=True)).startswith("NOT ISOLATED")
    monkeypatch.setenv(sandbox.VARIABLE, sandbox.UNBOXED)
    asked = "import os; print((os.environ['HOME'], os.environ.get('LORA_EDU_CLASSROOM'), os.getcwd()))"
    home, classroom, here = eval(sandbox.call([boxes.PYTHON, "-c", asked], 20, sandbox.box(unboxed=True))[0])
    assert home != os.path.expanduser("~") and classroom is None and Path(here).name.startswith("box-")
    assert not Path(here).exists()


def test_a_run_that_leaves_nothing_usable_has_a_reason():
    with pytest.raises(sandbox.SubmissionError, match="the kernel died"):
        ran("import os; os._exit(1)")
    with pytest.raises(sandbox.SubmissionError, match="longer than 1 seconds"):
        ran("import time; time.sleep(60)", seconds=1)


def test_a_flood_is_cut_where_there_is_no_box():
    if os.environ[sandbox.VARIABLE] != sandbox.UNBOXED:
        pytest.skip("seen in the box")
    cut_and_graded(*ran(FLOOD, "'graded'"))


def test_what_a_stranger_answers_is_read_with_care(monkeypatch):
    asked = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    other = nbformat.writes(nbformat.v4.new_notebook())
    for answer, reason in {
        b"": "left nothing to grade",
        b"{}": "no notebook",
        b"[" * 99_999: "no notebook",
        b'["done", "{}"]': "no notebook",
        b'["done", 3]': "no notebook",
        json.dumps(["done", other]).encode(): "has other cells",
        json.dumps(["died", other]).encode(): "the kernel died",
        json.dumps(["=cmd|' /C calc'!A0", other]).encode(): "does not say how it ended",
        b"x" * (sandbox.LARGEST + 1): "more than 30 MB",
    }.items():
        with pytest.raises(sandbox.SubmissionError, match=reason):
            sandbox.what_came_back(answer, asked)
    assert sandbox.what_came_back(json.dumps(["done", nbformat.writes(asked)]).encode(), asked) == asked


CELL = "\x1b[36mCell \x1b[39mIn[4], line 1\n----> check.forward(forward)"


def test_outputs_are_text_and_pictures():
    new = nbformat.v4.new_output
    picture = "iVBORw0KGgo="
    found = [
        new("display_data", {"text/html": "<script>x()</script>", "text/plain": "a"}),
        new("display_data", {"image/svg+xml": "<svg onload=x()>"}),
        new("display_data", {"application/javascript": "x()"}),
        new("display_data", {"image/png": picture}),
        new("display_data", {"image/png": '"><script>x()</script>'}),
        new("stream", name="stdout", text=f"{folders.CLONE}/notebooks \x1b[31mred\x1b[0m"),
        new("error", ename="ValueError", evalue=f"in {sys.prefix}/x", traceback=[CELL, "File checking.py, line 3"]),
        new("error", ename="WrongAnswer", evalue="a", traceback=["a"]),  # its sentence stands above
    ]
    clean = cleaning.outputs(found)
    assert [output.get("data") for output in clean] == [{"text/plain": "a"}, {"image/png": picture}, None, None]
    assert clean[2].text == ".../notebooks red"
    assert len(clean) == 4
    assert clean[3].traceback == ["Cell In[4], line 1\n----> check.forward(forward)", "ValueError: in .../x"]


ATTACKS = [
    "<script>x()</script>",
    "<a href='javascript:x()'>y</a>",
    "[y](javascript:x())",
    "![y](https://tracker.example/y.png)",
    "<style>@import 'https://e.example/x.css'</style>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=x()&gt;'>",
    "$\\href{javascript:x()}{y}$",
    "</body></html><script>x()</script>",
]


FORBIDDEN = ("script", "onerror", "onbegin", "javascript", "http", "iframe", "style", "svg")


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_page_runs_what_a_student_wrote(attack):
    written = markdown2html(cleaning.markdown(attack))
    for body in (written, attack):  # the second: as if nothing had been done to the Markdown
        head = "<head><title>t</title><style>p {}</style></head>"
        page = cleaning.page(f"<html>{head}<body><p>{body}</p></body></html>")
        assert cleaning.POLICY in page and "<style>p {}</style>" in page
        tags = "".join(part.partition(">")[0] for part in page.partition("<body>")[2].split("<"))
        assert not any(word in tags for word in FORBIDDEN)
    written = re.sub(r'<a href="https?://[^"]*">', "", written)  # an address becomes a link: nothing loads by itself
    assert not any(tag in written for tag in ("<a ", "<img", "<script"))
    assert "\\href" not in written.replace("\\\\href", "")


def test_a_page_names_the_exercises_and_wraps_its_lines():
    body = '<body><a href="#test_dial">Test cell</a> (Score: 2.0 / 4.0)</body>'
    page = cleaning.page(f"<html><head><title>t</title></head>{body}</html>")
    assert ">dial</a> (Score: 2.0 / 4.0)" in page and "pre-wrap" in page


def test_the_boxes_are_there_where_the_machine_allows_them(monkeypatch):
    """On this kind of machine a namespace can be made, so a box must hold; elsewhere the test says nothing."""
    made = sys.platform == "linux" and subprocess.run(["unshare", "-rmnpi", "--fork", "true"], capture_output=True)
    if not made or made.returncode:
        pytest.skip("no namespaces here")
    monkeypatch.setenv("PATH", os.defpath)  # an ordinary user's: pivot_root is in /usr/sbin
    assert any(sandbox.probe(kind) is None for kind in boxes.BOXES)
