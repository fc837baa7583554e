"""What notebook 13 infers from stored results: each assertion fails with the sentence that stood there before."""

import json
from math import comb
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from lora_edu.experiments import nb13 as task
from lora_edu.experiments import nb13_measured as measured
from lora_edu.experiments import nb13_trained as trained
from lora_edu.experiments.sweeps import Runs
from lora_edu.figures import nb13 as page
from lora_edu.figures import nb13_sections as pictures
from lora_edu.figures.nb13_claims import ALL, CLAIMS, DEPENDS, FALSE, TRUE, UNDECIDED, verdict

PAGE = Path(__file__).parent.parent / "notebooks" / "13_claims.ipynb"
MODELS = ("gpt", "smollm2")


def claim(letter: str):
    return next(claim for claim in ALL if claim.letter == letter)


def prose() -> str:
    cells = json.loads(PAGE.read_text(encoding="utf-8"))["cells"]
    return " ".join(" ".join("".join(c["source"]).split()) for c in cells if c["cell_type"] == "markdown")


# --- losses, seed by seed --------------------------------------------------------------------------------------------


def test_lora_stays_behind_its_own_matrices_too():
    """Beside the spread of the seeds rank 64 seemed to keep up; seed by seed it does not."""
    found = trained.lora_gaps()
    assert all(gap > 2 * trained.TOLERANCE for gap in found["all plays, rank 64 against the same matrices"])
    assert claim("h").verdict == FALSE and "stays behind" in claim("h").corrected
    assert verdict(trained.lora_against_full(), lambda gap: gap <= 0.02) == DEPENDS  # so the tolerance comes first


def test_qlora_learns_as_much_and_ends_worse_on_what_the_base_knew():
    found = trained.qlora_gaps()
    assert all(abs(gap) < 0.002 for gap in found["all plays, learned"])
    kept = found["all plays, kept"] + found["20 kB, kept"]
    assert len(kept) == 6 and min(kept) > 0, "no difference to be seen? there is one for every seed"
    assert mean(found["all plays, kept"]) == pytest.approx(trained.rounding_alone("addresses"), rel=0.25)
    assert mean(found["all plays, learned"]) < trained.rounding_alone("after") / 5  # this part training takes back
    assert claim("m").verdict == DEPENDS
    assert "no difference" not in claim("m").corrected
    assert verdict(trained.qlora_against_lora(), lambda gap: gap <= 0.02) == TRUE
    assert trained.TOLERANCE == pytest.approx(trained.rounding_alone("after") / 3, rel=0.1), "about a third"


def test_pairs_are_pairs():
    """A difference that each seed has, and a spread ten times as large."""
    one, other = [1.01, 1.11, 1.215], [1.0, 1.1, 1.2]
    assert trained.deviation([a - b for a, b in zip(one, other, strict=True)]) == pytest.approx(7, rel=0.01)
    name, number = next(iter(trained.means({"a": [0.1, -0.1, 0.3]}).items()))
    assert name == "a (worse in 2 of 3 seeds)" and number == pytest.approx(0.1)


def test_noise_of_other_kinds_than_its_control():
    assert claim("o").verdict == DEPENDS and not [name for name in claim("o").numbers if "NF2" in name]


def test_the_multiple_of_the_rate_is_undecided_within_the_tolerance(monkeypatch):
    counts = {sum(map(claim("v").holds, numbers.values())) for numbers in trained.rates_as_good()}
    assert claim("v").verdict == UNDECIDED and {4, 5} <= counts
    monkeypatch.setattr(trained, "TOLERANCE", 0.0)  # whoever trusts every digit has a verdict
    assert claim("v").verdict == DEPENDS and all(n == trained.rate_over_full() for n in trained.rates_as_good())


# --- products, memory, precision -------------------------------------------------------------------------------------


def test_cheaper_products_are_timed_and_an_integer_product_can_be_cheaper():
    """Operations are as many in 8 bits as in 32: a count of them could not have said that a product is cheaper."""
    assert claim("f").verdict == FALSE and claim("f").control_number[0].endswith("int8")
    assert claim("f").control_number[1] < 0.5 and min(claim("f").numbers.values()) > 0.9
    assert set(measured.operations_of_nf4().values()) == {1.0}


def test_the_large_model_is_compared_at_equal_checkpointing():
    found = measured.times_less_memory()
    assert found["LLaMA 7B, LoRA"] == pytest.approx(5.0, abs=0.1)
    assert found["LLaMA 7B, QLoRA"] == pytest.approx(12.0, abs=0.1)


def test_the_next_are_worst_absolutely_and_the_smaller_half_relatively():
    found = {which: measured.errors(which) for which in ("largest", "next", "smaller", "all")}
    assert found["next"]["absolute"] > 1.5 and found["next"]["relative"] < found["all"]["relative"]
    assert found["smaller"]["relative"] > 1.9 * found["all"]["relative"]
    assert found["largest"]["relative"] == 0 and "It keeps what is large" not in prose()


def test_two_settings_each_give_fewer_that_depend():
    chances = [comb(c.kept, 2) / comb(len(c.numbers), 2) for c in CLAIMS]
    never = [comb(len(c.numbers) - c.kept, 2) / comb(len(c.numbers), 2) for c in CLAIMS]
    assert len(CLAIMS) - sum(chances) - sum(never) < sum(c.verdict == DEPENDS for c in CLAIMS) - 2


# --- verses ----------------------------------------------------------------------------------------------------------


def test_the_books_of_the_test():
    test = trained.test_of("gpt")
    by_book = np.bincount(test.books.numpy())
    assert len(by_book) == 6 and by_book[3:].sum() == 300 and by_book[3] > 240  # nearly all new verses are Matthew's
    held_out = task.verses()[1]
    first = {name: held_out.texts[(held_out.books == k).nonzero()[0, 0]] for k, name in enumerate(task.HELD_OUT)}
    assert "proverbs of Solomon" in first["Proverbs"] and "generation of Jesus" in first["Matthew"]
    assert "death of Saul" in first["2 Samuel"] and "words of Amos" in first["Amos"]
    assert "Paul and Timotheus" in first["Philippians"] and "Peter, an apostle" in first["1 Peter"]


def test_errors_over_books_by_another_way(monkeypatch):
    """If every verse is a book of its own it is the usual error; leaving one book out at a time says about the same."""
    ds = trained.right("gpt", "lora") - 0.5
    average, error = trained.over_books(ds, "gpt")
    books = trained.test_of("gpt").books.numpy()
    alone = trained.test_of("gpt")._replace(books=task.torch.arange(len(ds)))
    without = np.array([ds[books != book].mean() for book in range(6)])
    assert average == pytest.approx(ds.mean()) and 0.5 < (without.std() * 5**0.5) / error < 2
    monkeypatch.setattr(trained, "test_of", lambda model: alone)
    assert trained.over_books(ds, "gpt")[1] == pytest.approx(ds.std(ddof=1) / len(ds) ** 0.5)


def test_none_is_seen_to_do_better_than_counting_words():
    for model in MODELS:
        for method in ("head", "lora", "qlora", "full"):
            average, error = trained.above_rival(model, method, "words")
            assert average < trained.ABOVE * error
        average, error = trained.above_rival(model, "head", "lora")
        assert average > -trained.CLEAR * error, "it cannot rank them"
    head, words = (trained.by_seed("smollm2", method) for method in ("head", "words"))
    assert all(head[k] > words[k] for k in head)  # so "none does better" would be too much
    assert "none does better" not in prose() and "seen to do better" in prose()
    assert claim("l").verdict == DEPENDS and claim("l").kept == 1


def test_smollm2s_adapter_is_nearly_a_constant_answer():
    header, rows = pictures.books_table("smollm2")
    lora = dict(zip(header, next(row for row in rows if row[0] == "LoRA"), strict=True))
    assert int(lora["Matthew"][:-1]) > 95 and int(lora["Proverbs"][:-1]) < 5 and int(lora["called new"][:-1]) > 80
    average, error = trained.above_rival("smollm2", "lora", None)
    assert average < 2 * error, "each way learns the task? not seen here"


def test_names_are_a_small_part_of_what_counting_knows():
    import re

    seen, held_out = task.verses()

    def lower(side):
        return side._replace(texts=[re.sub(r"[A-Z][\w']*", "", text) for text in side.texts])

    train, test = task.balanced(seen, 1600, 0), task.balanced(held_out, 600, 0)
    rest = task.scored(task.bag_of_words(lower(train), lower(test)), test)["accuracy"]
    assert rest > mean(trained.accuracies("gpt", "lora")) and trained.accuracies("gpt", "words")[0] - rest < 0.05
    assert "names above all" not in prose()


# --- rank and size ---------------------------------------------------------------------------------------------------


def test_the_sign_depends_on_the_rank_that_one_compares_with():
    found = trained.lost_in_the_larger()
    assert found["rank 1 against rank 8"] > 0.02 > -0.02 > found["rank 1 against rank 64"]
    assert claim("s").verdict == DEPENDS
    name, number = claim("s").control_number  # the same quantity, and only the rate is another
    assert number > max(found.values()) and "two rates" in name
    assert len(trained.gains("smollm2", 1)) == 3
    small, large = (mean(trained.kept_share(model, 1, True)) for model in ("gpt", "smollm2"))
    assert abs(small - large) < 0.1, "at rates of their own, rank 1 keeps about as much in both models"


def test_seeds_that_were_not_run_are_left_out(monkeypatch):
    kept = [r for r in trained.verse_runs() if (r.model, r.method, r.seed) != ("gpt", "words", 0)]
    monkeypatch.setattr(trained, "verse_runs", lambda: Runs(kept))
    assert 0 not in trained.by_seed("gpt", "words") and len(trained.by_seed("gpt", "words")) >= 1
    average, _ = trained.above_rival("gpt", "lora", "words")  # of the seeds that both have
    assert average == pytest.approx(mean(
        (trained.right("gpt", "lora", k) - trained.right("gpt", "words", k)).mean()
        for k in trained.by_seed("gpt", "lora") if k
    ))  # fmt: skip


def test_the_table_tells_what_is_undecided():
    text = page.answer(claim("v"))
    assert text.startswith("UNDECIDED.") and "as good it holds in" in text
    assert "as good it holds" not in page.answer(claim("h"))
