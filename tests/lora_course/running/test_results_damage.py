"""A damaged file of stored results is refused by name, by whoever reads it, and stays as it is."""

import json

import pytest
import torch
from safetensors.torch import save_file

from lora_course import experiments
from lora_course.experiments import Experiment, load_results, run
from lora_course.running import stored as storage
from lora_edu import tensor_files

EXPERIMENT = Experiment(lambda x, **_: {"result": x}, {"one": {"x": 1}, "two": {"x": 2}})


@pytest.fixture
def stored(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "EXPERIMENTS", {"tried": EXPERIMENT})
    monkeypatch.setattr(storage, "results_folder", lambda: tmp_path)
    run("tried")
    return tmp_path / "tried.json"


def changed(**keys):
    return lambda text: json.dumps(json.loads(text) | keys).encode()


DAMAGES = {
    "cut off": lambda text: text[: len(text) // 2].encode(),
    "empty": lambda text: b"",
    "no text": lambda text: b"\x80\x04" + text.encode("utf-16"),
    "one character": lambda text: text.replace(":", ";", 1).encode(),
    "another kind of JSON": lambda text: b"[1, 2]",
    "nested without end": lambda text: b"[" * 100_000,
    "no arms": changed(arms=None),
    "arms of no setting": changed(arms={"three": {"result": 3}}),
    "an arm that is a number": changed(arms={"one": 1}),
    "a seed in words": changed(seed="zero"),
    "not a number": changed(arms={"one": {"result": float("nan")}}),
    "a digit": lambda text: text.replace('{"result": 1}', '{"result": 7}').encode(),
    "an arm gone": changed(arms={"one": {"result": 1}}),
    "a setting": changed(settings={"one": {"x": 3}, "two": {"x": 2}}),
    "no checksum": changed(checksum=""),
    "its name": lambda text: text.replace("checksum", "checksun").encode(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reader", [load_results, run])
def test_a_damaged_file_is_refused_and_left_alone(stored, damage, reader):
    before = DAMAGES[damage](stored.read_text())
    stored.write_bytes(before)
    with pytest.raises(ValueError, match="tried.json is not a stored result: .*; put the right file back"):
        reader("tried")
    assert stored.read_bytes() == before and not list(stored.parent.glob("*.partial*"))


def test_the_tensors_of_the_course_are_whole():
    for path in storage.results_folder().glob("*.safetensors"):
        assert tensor_files.read_sealed(path, "put it back")


def test_stored_tensors_with_another_number(tmp_path):
    path = tmp_path / "stored.safetensors"
    tensor_files.write_sealed(path, {"update": torch.ones(2, 3)})
    assert tensor_files.read_sealed(path, "put it back")["update"].shape == (2, 3)
    for tensors in ({"update": torch.full((2, 3), 1.5)}, {"update": torch.ones(3, 2)}, {"other": torch.ones(2, 3)}):
        save_file(tensors, path, metadata=tensor_files.read_tensors(path, "")[1])
        with pytest.raises(ValueError, match="damaged .its content is not what was written.: put it back"):
            tensor_files.read_sealed(path, "put it back")
    save_file({"update": torch.ones(2, 3)}, path)
    with pytest.raises(ValueError, match="not what was written"):
        tensor_files.read_sealed(path, "put it back")


def test_a_result_that_json_cannot_hold_leaves_the_arms_that_are_there(stored, monkeypatch):
    arms = EXPERIMENT.arms | {"three": {"x": float("nan")}}
    monkeypatch.setattr(experiments, "EXPERIMENTS", {"tried": Experiment(lambda x, **_: {"result": x}, arms)})
    with pytest.raises(ValueError, match="JSON"):
        run("tried")
    monkeypatch.setattr(experiments, "EXPERIMENTS", {"tried": EXPERIMENT})
    assert set(load_results("tried")["arms"]) == {"one", "two"}
