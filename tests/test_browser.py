"""The trial in a browser, as far as it goes without one: `make browser` runs the rest."""

import pytest
from conftest import load_benchmark

from lora_edu import files


@pytest.fixture(scope="module")
def driver():
    return load_benchmark("driver")


@pytest.fixture(scope="module")
def browser(driver):
    return load_benchmark("browser")


def test_the_trial_leaves_the_reader_s_exercises_alone(browser, tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_EDU_CACHE", str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    for name in ("progress.json", "shakespeare.safetensors"):
        (tmp_path / "mine" / name).write_text("mine")
    copy = browser.own_cache(tmp_path)
    assert [path.name for path in copy.glob("*")] == ["shakespeare.safetensors"]
    (copy / "progress.json").write_text("of the trial")
    assert (files.cache_dir() / "progress.json").read_text() == "mine"
