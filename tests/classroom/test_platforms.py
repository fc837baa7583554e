"""Grades in the files that Moodle and Canvas take back."""

import csv

import pytest

from classroom import platforms

MOODLE = """Identifier,Full name,ID number,Email address,Status,Grade,Maximum grade
Participant 101,Ann Lee,7001,ann@example.org,Submitted,,30.00
Participant 102,Bo Roe,7002,bo@example.org,Submitted,12.00,30.00
Participant 103,Cy Doe,7003,cy@example.org,No submission,,30.00
"""
CANVAS = """Student,ID,SIS User ID,SIS Login ID,Section,a1_lora_numpy (555),Quiz (556)
Points Possible,,,,,30,10
"Lee, Ann",101,7001,ann@example.org,A,,3
"Roe, Bo",102,7002,bo@example.org,A,12,4
"""
SCORES = {"101": "29.5", "102": ""}  # the second waits for something


def written(tmp_path, text):
    path = tmp_path / "export.csv"
    path.write_text("\ufeff" + text, encoding="utf-8")  # both write a mark at the start
    return path


@pytest.mark.parametrize(("text", "column"), [(MOODLE, "Grade"), (CANVAS, "a1_lora_numpy (555)")])
def test_scores_go_where_they_belong_and_nothing_else_changes(tmp_path, text, column):
    export = written(tmp_path, text)
    before = platforms.read(export)
    with open(platforms.fill(export, SCORES, "a1_lora_numpy", tmp_path / "import.csv"), newline="") as file:
        after = list(csv.DictReader(file))
    ann = next(row for row in after if platforms.number(row) == "101")
    assert ann[column] == "29.5"
    for old, new in zip(before, after, strict=True):
        assert {**old, column: ""} == {**new, column: ""}
        assert new is ann or platforms.number(new) == "101" or new[column] == old[column]


@pytest.mark.parametrize(("text", "most"), [(MOODLE, ",30.00"), (CANVAS, ",30,")])
def test_a_column_of_another_maximum_is_refused_or_the_scores_are_scaled(tmp_path, text, most):
    export, target = written(tmp_path, text.replace(most, most.replace("30", "100"))), tmp_path / "import.csv"
    with pytest.raises(ValueError, match=r"is of 100 points, and these scores are of 30. .* --of 100, which scales"):
        platforms.fill(export, SCORES, "a1_lora_numpy", target)
    assert not target.exists()
    assert "98.333" in platforms.fill(export, SCORES, "a1_lora_numpy", target, of=100).read_text()


def test_another_file_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="neither Moodle's grading worksheet .* it has name, points"):
        platforms.read(written(tmp_path, "name,points\nann,3\n"))
    with pytest.raises(ValueError, match="exactly one column with 'a2_lora_torch' in its name"):
        platforms.fill(written(tmp_path, CANVAS), SCORES, "a2_lora_torch", tmp_path / "import.csv")
