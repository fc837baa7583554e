"""What stored results of several pages share: best rates inside their sweeps, runs stored twice, lines held out."""

import pytest

from lora_course.experiments import load_results
from lora_course.nb01 import lab as nb01
from lora_course.nb09 import lab as nb09
from lora_course.nb10 import lab as nb10
from lora_course.nb10 import lab_runs as nb10_runs
from lora_course.nb11 import lab as nb11
from lora_course.nb12.lab import VERSE_LINE
from lora_course.nb13.lab import AGREEMENT_ARMS
from lora_course.nb16 import lab_runs as nb16_runs
from lora_course.nb16.lab_rivals import WAYS
from lora_course.running.sweeps import SEEDS, TIE, stored_runs
from lora_edu.texts import ADDRESS_LINE, PLAY_LINE, load_text

QUALITY, RUNS, VARIANTS = nb09.quality_runs(), nb10_runs.all_runs(), nb11.all_runs()
ENTRIES, REWARDED = stored_runs("trained-entries", "loss"), nb16_runs.all_runs()
# notebook and way -> its runs, and the rate that the page takes for its best one
SWEEPS = (
    {f"09 {method}, {text}": (nb09.of(QUALITY, method, text), lr) for (method, text), lr in nb09.BEST_RATES.items()}
    | {"01 in full": (nb09.of(QUALITY, "blocks"), nb01.RATES["blocks"])}
    | {"01 adapters": (nb09.of(QUALITY, "lora"), nb01.RATES["lora"])}
    | {"01 entries by lot": (ENTRIES.where(rank=8), 0.03), "09 rank 64": (nb09.of(QUALITY, "lora", rank=64), 3e-3)}
    | {f"10 {way}": (RUNS.where(way=way), lr) for way, lr in nb10.BEST_PLACE_RATES.items()}
    | {f"10 rank {r}": (RUNS.where(way=f"lora r{r}"), nb10.BEST_RANK_RATE) for r in nb10.RANK_RATES}
    | {f"11 {name}": (VARIANTS.where(name=name), lr) for name, (_, lr) in nb11.RATES.items()}
    | {f"16 {way}": (REWARDED.where(way=way), lr) for way, (_, _, lr) in WAYS.items()}
)
OPEN = ("11 LoRA, another A", "16 qlora r8")  # the first is LoRA again, the other asks at its rates


@pytest.mark.parametrize("name", SWEEPS)
def test_the_best_rate_of_a_sweep_lies_inside_and_three_seeds_ran_there(name):
    """At the end of a sweep it would be no best rate. Of rates that tie, notebook 10 takes the one with more seeds."""
    runs, best = SWEEPS[name]
    assert runs.best_rate(TIE if name.startswith("10") else 0) == best
    assert {run.seed for run in runs.where(lr=best)} >= set(SEEDS)
    assert (min(runs.sweep()) < runs.best_rate() < max(runs.sweep())) == (name not in OPEN)


def twins():
    """Runs that two experiments share: each by its experiment, its arm and what it measured, and how far apart."""
    for lr in ("0.003", "0.01"):
        for mine, theirs in (("loss", "after"), ("addresses", "addresses"), ("training", "training")):
            run = f"lr {lr}, seed 0"
            yield ("variants", f"LoRA, {run}", mine), ("qlora-quality", f"lora, all plays, {run}", theirs), 0
    for mine, theirs in (("plays", "after"), ("addresses", "addresses")):  # the base that notebook 10 measures from
        yield ("nf4-draws", "full precision", mine), ("qlora-quality", "lora, not trained", theirs), 0
    for draw in range(nb09.DRAWS_TRAINED):
        yield ("nf4-draws", f"columns permuted, seed {draw}", "plays"), (
            "qlora-quality", f"qlora, columns permuted {draw}", "before"), 1e-5  # fmt: skip
    for arm, how in AGREEMENT_ARMS.items():  # the task of notebook 13 has no protocol of its own
        run = f"{how['method']}, all plays, lr {how.get('lr', 0):g}, seed {how.get('repeat')}"
        if run in load_results("qlora-quality")["arms"] and how.get("steps", 100) == 100:
            yield ("agreement", arm, "plays"), ("qlora-quality", run, "after"), 2e-4


def test_one_run_has_one_number_on_all_pages():
    """Each notebook once printed a loss of the base of its own, of other windows."""
    for (one, arm, key), (other, its, theirs), apart in twins():
        numbers = load_results(one)["arms"][arm][key], load_results(other)["arms"][its][theirs]
        assert numbers[0] == pytest.approx(numbers[1], rel=0, abs=apart), (one, arm, key)


@pytest.mark.parametrize(("name", "line"), [
    ("shakespeare", PLAY_LINE), ("speeches", ADDRESS_LINE), ("speeches", "to you by the Secretary of the Treasury."),
    ("speeches", "I am the servant of the nation."), ("king-james", VERSE_LINE)])  # fmt: skip
def test_a_line_that_a_page_paints_is_held_out(name, line):
    trained, held_out = (bytes(part.tolist()) for part in load_text(name))
    assert line.encode() in held_out and (line.encode() in trained) == (line == ADDRESS_LINE)  # many addresses begin so
