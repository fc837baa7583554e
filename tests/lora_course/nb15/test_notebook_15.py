"""What notebook 15 says about forgetting, beside what its cells print and assert."""

from types import SimpleNamespace

import numpy as np
import pytest

from lora_course.nb15 import lab_runs as nb15_runs

WHOLE, POINTS = nb15_runs.on_plays(whole=True), nb15_runs.on_plays()
LAW = nb15_runs.line(nb15_runs.on_plays(short=False))


def test_a_line_is_found_again_and_explains_all_of_itself():
    made = [SimpleNamespace(kl=kl, forgotten=0.3 * kl**1.5) for kl in (0.1, 0.4, 0.5, 1.2)]
    slope, intercept = law = nb15_runs.line(made)
    assert (slope, np.exp(intercept)) == (pytest.approx(1.5), pytest.approx(0.3))
    assert nb15_runs.says(law, 4.0) == pytest.approx(2.4) and nb15_runs.r_squared(made, "kl") == pytest.approx(1)
    made[0].forgotten *= 2
    assert nb15_runs.r_squared(made, "kl") < 0.99
    assert nb15_runs.over_the_line(made, law) == pytest.approx([2, 1, 1, 1])


def test_what_has_no_logarithm_is_left_out():
    left = [p for p in nb15_runs.points() if p.way not in ("verses", "one bias") and p not in POINTS]
    assert all(p.forgotten < nb15_runs.LEAST or p.learned <= 0 for p in left)


def test_every_kind_of_run_on_plays_was_made_with_three_seeds():
    """The page once rested ranks 1 and 64, the cuts and the temperatures on one."""
    seeds = {}
    for p in nb15_runs.points():
        if p.way not in ("one bias", "verses"):
            seeds.setdefault((p.way, p.lr, p.steps, p.part, p.text, p.rank), set()).add(p.seed)
    assert set(map(frozenset, seeds.values())) == {frozenset((0, 1, 2))}


def test_what_breaks_the_line():
    hot = [p for p in WHOLE if p.way == "short and hot"]
    assert min(nb15_runs.over_the_line(hot, LAW)) > 1.1
    assert max(nb15_runs.over_the_line(hot, LAW)) < 1.8  # "a seventh to two thirds more"
    ruined = [p for p in nb15_runs.points() if p.way == "short and hot" and p.part == "1" and p not in WHOLE]
    assert {p.method for p in ruined} == {"lora"} and {p.method for p in hot} == {"full"} and len(ruined) == 3
    assert 0.9 < min(nb15_runs.over_the_line(ruined, LAW)) and max(nb15_runs.over_the_line(ruined, LAW)) < 1
    paid = nb15_runs.over_the_line(nb15_runs.rewards(), LAW)
    assert len(paid) > 20 and min(paid) > 3 and 8 < np.median(paid) < 12
    biased = nb15_runs.over_the_line([p for p in nb15_runs.points() if p.way == "one bias"], LAW)
    assert min(biased) > 10
    for way in ("lora r8, lr 0.01", "full, lr 0.001"):
        verses = nb15_runs.parts_of(f"verses, {way}, seed 0")
        end, half = nb15_runs.over_the_line([verses["1"], verses["0.5"]], LAW)
        assert 1.6 < end < 1.75 and 0.9 < half < 1.02
    calm = [p for p in WHOLE if p.way != "short and hot"]
    assert max(abs(times - 1) for times in nb15_runs.over_the_line(calm, LAW)) < 0.25  # "within a quarter of the line"
