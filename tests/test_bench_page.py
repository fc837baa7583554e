"""The page of `make bench`: verdicts, rows that name what is measured, and the READMEs' tables."""

import json

import pytest
from conftest import load_benchmark

pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")
pytest.importorskip("torchao")


@pytest.fixture(scope="module")
def page():
    return load_benchmark("page")


@pytest.fixture(scope="module")
def parts():
    return load_benchmark("parts")


def test_the_readmes_have_the_tables_of_the_stored_run(page):
    stored = json.loads(page.STORED.read_text("utf-8"))
    texts = {first: path.read_text("utf-8") for path, first in page.PAGES.items()}
    assert all(page.with_table(text, stored, first) == text for first, text in texts.items()), (
        "run python benchmarks/page.py --readme"
    )
    assert [row["what"] for row in stored["rows"]] == [row.what for row in page.ROWS]
    del stored["parts"]["step"]  # the control
    assert not any(page.with_table(text, stored, first) == text for first, text in texts.items())


def cells(page, parts, **row):
    return dict(zip(page.HEAD, page.Row("step", "a step", "a", **row).cells(parts), strict=True))


def test_verdicts(page):
    parts = {"step": {"times": {"a": [1.0, 20.0, 3.0], "b": [2.0, 40.0, 3.0]}}}  # the second round was slow for both
    met = cells(page, parts, peer="b", goal=0.5)
    assert met == {
        "what": "a step", "ours": "3.0 s", "peer": "b", "its time": "3.0 s", "ratio": "0.50", "goal": "0.5 x",
        "verdict": "met",
    }  # fmt: skip
    assert cells(page, parts, peer="b", goal=0.4, reason="it is slow")["verdict"] == "missed: it is slow"
    assert cells(page, parts, peer="b")["verdict"] == "won"
    by_the_clock = cells(page, parts, goal=2, seconds=True)
    assert (by_the_clock["goal"], by_the_clock["ratio"], by_the_clock["verdict"]) == ("2.0 s", "", "missed")
    assert cells(page, parts, goal=3, seconds=True)["verdict"] == "met"
    parts["step"]["load"] = 5.0
    assert cells(page, parts, goal=2, seconds=True)["verdict"] == "missed: measured at load 5.0"
    assert cells(page, parts, peer="b", goal=0.4, reason="it is slow")["verdict"] == "missed: it is slow"
    assert cells(page, {}, peer="b", goal=1)["verdict"] == "not measured: --only step measures it"
    assert page.duration(0.0123456) == "12.3 ms" and page.duration(9.96) == "10 s"


def test_rows_name_what_is_measured(page, parts):
    quantization = load_benchmark("quantization")
    made = {
        "quantize": quantization.quantize_calls(128, "cpu"),
        "dequantize": quantization.dequantize_calls(128, "cpu"),
        "layer": quantization.layer_calls(128, "cpu", 2),
        "step": quantization.step_calls("cpu"),
    }
    for row in page.ROWS:
        assert row.part in parts.PARTS and (row.peer or row.seconds or row.share or row.in_bytes)
        assert row.part not in made or {row.ours, row.peer} <= made[row.part].keys(), row
    times = parts.layers_of(quantization.quantize_calls, ("quantize", parts.BNB), 2, ((128, 1), (256, 1)))
    assert {name: len(rounds) for name, rounds in times.items()} == dict.fromkeys(
        ["quantize 128", "bitsandbytes 128", "quantize 256", "bitsandbytes 256"], 2
    )
