"""Collecting submissions out of archives: whose a file is, what replaces what, and what no archive may do."""

import io
import json
import zipfile
from datetime import datetime

import classroom_folder
import nbformat
import pytest
from classroom_folder import IN_TIME, NAME, archive, collect

from classroom import collecting
from classroom import obstacles as inspecting


def submitted(folder):
    """Student -> what was handed in."""
    return {path.parent.parent.name: path.read_text() for path in (folder / "submitted").rglob("*.ipynb")}


def test_moodle(folder):
    files = {
        f"Jane Doe_101_assignsubmission_file_/{NAME}.ipynb": "jane",
        f"Zoë Ørsted_102_assignsubmission_file_/{NAME}.ipynb": "zoë",
        f"Flat_Name_103_assignsubmission_file_{NAME}.ipynb": "flat",
        f"Kim Lee_104_assignsubmission_file_/{NAME}.ipynb": "one",
        f"Kim Lee_105_assignsubmission_file_/{NAME}.ipynb": "two",
        "Jane Doe_101_assignsubmission_file_/numpy.py": "raise SystemExit",
        "Jane Doe_101_assignsubmission_onlinetext_/onlinetext.html": "<p>hello</p>",
        "__MACOSX/._x": "",
        "readme.txt": "",
    }
    assert collect(folder, files) == ["readme.txt"]
    there = {"Jane-Doe": "jane", "Zoë-Ørsted": "zoë", "Flat_Name": "flat", "Kim-Lee-104": "one", "Kim-Lee-105": "two"}
    assert submitted(folder) == there
    assert not list((folder / "submitted").rglob("*.py"))  # it would be imported instead of NumPy
    when = (folder / "submitted" / "Jane-Doe" / NAME / "timestamp.txt").read_text()
    assert datetime.fromisoformat(when).replace(tzinfo=None) == datetime(*IN_TIME)
    assert collecting.remembered(NAME)["Kim-Lee-105"]["number"] == "105"


def test_a_byte_order_mark_and_a_browsers_number_are_taken_and_said(folder):
    collecting.zone_file(NAME).parent.mkdir(exist_ok=True)
    collecting.zone_file(NAME).write_text("Asia/Tokyo")  # of the due time, wherever this machine stands
    collect(folder, {f"Jane Doe_101_assignsubmission_file_/{NAME} (1).ipynb": "\ufeff{}"})
    assert submitted(folder) == {"Jane-Doe": "{}"}
    note = collecting.remembered(NAME)["Jane-Doe"]["note"]
    assert note == "a byte-order mark was taken off; the name had a browser's number in it"
    assert "T12:00:00+09:00" in (folder / "submitted" / "Jane-Doe" / NAME / "timestamp.txt").read_text()


def hand_in(text="Zoë", *marks):
    """A notebook with such text, and cells of these names."""
    cells = [nbformat.v4.new_markdown_cell(text)]
    for name in marks:
        known = {
            "grade_id": name,
            "solution": True,
            "grade": False,
            "locked": False,
            "schema_version": 3,
            "task": False,
        }
        cells.append(nbformat.v4.new_code_cell("1", metadata={"nbgrader": known}))
    return json.dumps(nbformat.v4.new_notebook(cells=cells), ensure_ascii=False)


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("utf-16", "utf-16"), ("utf-16-le", "utf-16-le"), ("utf-16-be", "utf-16-be"), ("latin-1", "cp1252"),
     ("cp1252", "cp1252")],
)  # fmt: skip
def test_a_notebook_in_other_letters_is_read_and_said(folder, encoding, said):
    text = hand_in("Zoë – “quoted”" if encoding != "latin-1" else "Zoë")
    place = f"Jane Doe_101_assignsubmission_file_/{NAME}.ipynb"
    for _ in range(2):  # the same download again changes nothing
        collecting.collect(NAME, [archive(folder / "1.zip", {place: text.encode(encoding)})])
        assert submitted(folder) == {"Jane-Doe": text}
        assert collecting.remembered(NAME)["Jane-Doe"]["note"] == f"it was written in {said}, not in UTF-8"
        (folder / "autograded" / "Jane-Doe" / NAME).mkdir(parents=True, exist_ok=True)
    assert (folder / "autograded" / "Jane-Doe" / NAME).is_dir()


@pytest.mark.parametrize("data", [
    hand_in().encode("utf-16")[:-2],  # cut off
    hand_in().encode("latin-1")[:-2],
    '{"cells": "Zoë"}'.encode("latin-1"),  # no notebook
    hand_in("Zoë").encode().replace("ë".encode(), "ë".encode() + b"\xff"),  # damaged UTF-8: umlauts would become two
])  # fmt: skip
def test_of_what_is_no_notebook_in_other_letters_nothing_is_made(folder, data):
    collecting.collect(NAME, [archive(folder / "1.zip", {f"bob/{NAME}.ipynb": data})])
    path = folder / "submitted" / "bob" / NAME
    assert (path / f"{NAME}.ipynb").read_bytes() == data and not collecting.remembered(NAME)["bob"]["note"]
    said = inspecting.before(path, NAME, None)
    assert said.startswith("broken file: its text is not UTF-8. `collect` reads UTF-16") and "Jupyter" not in said


def zipped(**files):
    with io.BytesIO() as written:
        with zipfile.ZipFile(written, "w") as content:
            for name, text in files.items():
                content.writestr(name, text)
        return written.getvalue()


RENAMED = {
    "Jupyter's copy": ({f"{NAME}-Copy1.ipynb": "all"}, f"it was called {NAME}-Copy1.ipynb"),
    "a copy": ({f"{NAME}-Kopie1.ipynb": "all"}, f"it was called {NAME}-Kopie1.ipynb"),
    "final": ({f"{NAME}_Lea_final.ipynb": "all", "notes.txt": ""}, f"it was called {NAME}_Lea_final.ipynb"),
    "zip": ({"lea.zip": {f"{NAME}/{NAME}.ipynb": "all", "x/.ipynb_checkpoints/y.ipynb": ""}}, "it came in lea.zip"),
    "both": ({"lea.zip": {f"{NAME}-Copy1.ipynb": "all"}}, f"it was called {NAME}-Copy1.ipynb; it came in lea.zip"),
    "two": ({f"{NAME}-Copy1.ipynb": "all", f"{NAME}-Kopie1.ipynb": "all"}, None),
    "beside a zip": ({f"{NAME}-Copy1.ipynb": "all", "lea.zip": {f"{NAME}.ipynb": "all"}}, None),
    "two in a zip": ({"lea.zip": {f"{NAME}.ipynb": "all", f"{NAME}-Copy1.ipynb": "all"}}, None),
    "not all marks": ({f"{NAME}-Copy1.ipynb": "some"}, None),
    "another assignment": ({"a2_lora_torch-Copy1.ipynb": "all"}, None),
    "no archive": ({"lea.zip": "<html>"}, None),
}


@pytest.mark.parametrize(("files", "note"), RENAMED.values(), ids=RENAMED)
def test_the_only_notebook_with_all_marks_is_the_hand_in_whatever_it_is_called(folder, files, note):
    (folder / "release" / NAME).mkdir(parents=True)
    texts = {"all": hand_in("Zoë", "split", "train"), "some": hand_in("Zoë", "split")}
    released = nbformat.reads(texts["all"], as_version=4)
    for cell in released.cells[1:]:  # an answer counts as needed where a test belongs to it
        mark = {**cell.metadata["nbgrader"], "grade_id": f"test_{classroom_folder.grade_id(cell)}", "solution": False}
        released.cells.append(nbformat.v4.new_code_cell("1", metadata={"nbgrader": mark}))
    nbformat.write(released, folder / "release" / NAME / f"{NAME}.ipynb")
    made = {}
    for file, content in files.items():
        inside = {n: texts.get(kind, kind) for n, kind in content.items()} if isinstance(content, dict) else None
        made[f"Lea Roe_7_assignsubmission_file_/{file}"] = zipped(**inside) if inside else texts.get(content, content)
    collecting.collect(NAME, [archive(folder / "1.zip", made)])
    path, known = folder / "submitted" / "Lea-Roe" / NAME, collecting.remembered(NAME)["Lea-Roe"]
    if note:
        assert submitted(folder) == {"Lea-Roe": texts["all"]} and known["note"] == note
        assert (path / f"{NAME}.ipynb").exists() and known["member"] in made
    else:
        reason = inspecting.before(path, NAME, released)
        assert reason.startswith(f"there is no {NAME}.ipynb; handed in: ") and not known["note"]
        assert all(file in reason for file in files)


@pytest.mark.parametrize("encoding", ["cp437", "utf-8"])
def test_a_name_is_readable_however_the_archive_wrote_it(folder, encoding):
    """Zip programs that leave out the mark for UTF-8 write names as they like; Python takes all of them for DOS."""
    names = ["Zoë-Krüger", "Renée-Muñoz", "Große-Öhm"]
    path = folder / "1.zip"
    stand_in = {name: "".join(c if c.isascii() else "?" * len(c.encode(encoding)) for c in name) for name in names}
    archive(path, {f"{stand_in[name]}/{NAME}.ipynb": name for name in names})
    content = path.read_bytes()
    for name in names:
        content = content.replace(stand_in[name].encode(), name.encode(encoding))
    path.write_bytes(content)
    collecting.collect(NAME, [path])
    assert submitted(folder) == {name: name for name in names}


def test_canvas(folder):
    files = {
        f"doejane_LATE_7001_9001_{NAME}-2.ipynb": "late",
        f"leekim_7002_9002_{NAME}.ipynb": "in time",
        "roesam_7003_9003_My Work (1).ipynb": "renamed",
    }
    collect(folder, files)
    there = submitted(folder)
    assert there["doejane_7001"] == "late" and there["leekim_7002"] == "in time"
    reason = inspecting.before(folder / "submitted" / "roesam_7003" / NAME, NAME, None)
    assert reason == f"there is no {NAME}.ipynb; handed in: My Work -1-.ipynb (renamed?)"
    assert collecting.remembered(NAME)["doejane_7001"]["late"] is True
    assert not list(folder.rglob("timestamp.txt"))  # the archive does not know the time


def test_a_second_archive_replaces_what_changed_and_its_grade_and_leaves_the_rest(folder):
    collect(folder, {f"ann/{NAME}.ipynb": "old", "ann/notes.ipynb": "", f"bob/{NAME}.ipynb": "same"})
    for student in ("ann", "bob"):
        (folder / "autograded" / student / NAME).mkdir(parents=True)
    collect(folder, {f"ann/{NAME}.ipynb": "new", f"bob/{NAME}.ipynb": "same"})
    assert submitted(folder) == {"ann": "new", "bob": "same"}
    assert [path.name for path in (folder / "submitted" / "ann" / NAME).glob("*.ipynb")] == [f"{NAME}.ipynb"]
    assert [path.parent.name for path in folder.glob("autograded/*/*")] == ["bob"]


def test_namesakes_are_the_same_students_in_every_archive(folder):
    def moodle(numbers):
        return {f"Kim Lee_{n}_assignsubmission_file_/{NAME}.ipynb": text for n, text in numbers.items()}

    collect(folder, moodle({104: "a"}), moodle({104: "a", 105: "b"}))
    assert submitted(folder) == {"Kim-Lee": "a", "Kim-Lee-105": "b"}  # the first keeps the name, and the grade
    collect(folder, moodle({105: "new"}), moodle({106: "c"}))
    assert submitted(folder) == {"Kim-Lee": "a", "Kim-Lee-105": "new", "Kim-Lee-106": "c"}
    numbers = {who: entry["number"] for who, entry in collecting.remembered(NAME).items()}
    assert numbers == {"Kim-Lee": "104", "Kim-Lee-105": "105", "Kim-Lee-106": "106"}


def test_the_folder_that_was_handed_out_belongs_to_the_student_above_it(folder):
    files = {
        f"ann/{NAME}/{NAME}.ipynb": "a",
        f"class/bob/{NAME}/{NAME}.ipynb": "b",
        f"Cy Roe_7_assignsubmission_file_/{NAME}/{NAME}.ipynb": "c",
        f"Cy Roe_7_assignsubmission_file_/{NAME}/helper.py": "",
        f"{NAME}/{NAME}.ipynb": "whose?",
    }
    assert collect(folder, files) == [f"{NAME}/{NAME}.ipynb"]
    assert submitted(folder) == {"ann": "a", "bob": "b", "Cy-Roe": "c"}
    assert collecting.remembered(NAME)["Cy-Roe"]["file"] == f"{NAME}.ipynb"  # the feedback lies beside this one


def test_nothing_is_overwritten_in_silence(folder):
    left_out = collect(folder, {f"monday/ann/{NAME}.ipynb": "m", f"friday/ann/{NAME}.ipynb": "f"})
    assert left_out == [f"monday/ann/{NAME}.ipynb (taken for ann was friday/ann/{NAME}.ipynb)"]
    assert submitted(folder) == {"ann": "f"}


def test_an_archive_cannot_write_elsewhere(folder):
    files = {
        f"../../evil_1_assignsubmission_file_/{NAME}.ipynb": "x",
        f"../outside/{NAME}.ipynb": "x",
        "eve/../../y.ipynb": "x",
    }
    collect(folder, files)
    written = list(folder.parent.rglob("*.ipynb"))
    assert len(written) == 3 and all((folder / "submitted") in path.parents for path in written)


def test_a_damaged_file_costs_only_its_student(folder):
    files = {f"ann/{NAME}.ipynb": "a", f"bob/{NAME}.ipynb": "b" * 50, f"{'x' * 300}/{NAME}.ipynb": "c"}
    path = archive(folder / "1.zip", files)
    path.write_bytes(path.read_bytes().replace(b"b" * 50, b"?" * 50))  # the check sum of bob's file is wrong now
    _, left_out = collecting.collect(NAME, [path])
    assert [line for line in left_out if line.startswith(f"bob/{NAME}.ipynb (damaged in the archive: ")]
    there = submitted(folder)
    assert sorted(there.values()) == ["a", "c"] and all(len(name) <= 200 for name in there)
    reason = inspecting.before(folder / "submitted" / "bob" / NAME, NAME, None)
    assert "handed in: a1_lora_numpy.ipynb (damaged in the archive: " in reason


def test_what_is_no_archive_is_said_before_anything_is_written(folder):
    (folder / "page.zip").write_text("<html>please log in</html>")
    with pytest.raises(ValueError, match="page.zip is not a zip archive"):
        collecting.collect(NAME, [archive(folder / "1.zip", {f"ann/{NAME}.ipynb": "a"}), folder / "page.zip"])
    with pytest.raises(FileNotFoundError, match="there is no archive"):
        collecting.collect(NAME, [folder / "gone.zip"])
    with pytest.raises(ValueError, match="there is no assignment 'a1'; there are a1_lora_numpy"):
        collecting.collect("a1", [archive(folder / "2.zip", {f"ann/{NAME}.ipynb": "a"})])
    assert not (folder / "submitted").exists()
