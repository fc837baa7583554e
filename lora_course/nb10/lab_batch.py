"""Does LoRA fall behind full fine-tuning as the batch grows, and does rank cure it? (notebook 10)

Batches of 4, 16 and 64 sequences read equally many tokens, so a larger batch has fewer steps. Two more batches take as
few steps as the largest one does, and read less: they tell what the number of steps does alone.
"""

from statistics import mean

from lora_course.running.finetune import fine_tune, prepared
from lora_course.running.stored import load_results
from lora_course.running.sweeps import SEEDS, Runs, arms_of, stored_runs, sweep_arms
from lora_edu import evaluate, load_base, load_text

SEQ_LEN = 32  # short, so that a batch of 64 is affordable
TEST_WINDOWS = 512
EQUAL_TOKENS = ((4, 512), (16, 128), (64, 32))  # batch, steps
EQUAL_STEPS = ((4, 32), (16, 32), (64, 32))
WAYS: dict[str, dict] = {"full": {"method": "full"}, "lora r8": {"method": "lora"}}
WAYS["lora r64"] = {"method": "lora", "rank": 64}


def loss_with_batch(method: str, lr: float, batch: int, steps: int, rank: int = 8, *, seed=0, progress=True) -> dict:
    """Fine-tune the shipped base on plays and measure it on held-out plays, in nats per byte.

    A tenth of the steps is warm-up; without steps the base is measured.
    """
    model = prepared(load_base("laptop", device="cpu"), method, rank, seed)
    how = {"batch_size": batch, "seq_len": SEQ_LEN, "warmup_steps": round(steps / 10), "progress": progress}
    if steps:
        fine_tune(model, steps, lr, seed, **how)
    plays = load_text("shakespeare").validation
    return {"plays": round(evaluate(model, plays, seq_len=SEQ_LEN, max_windows=TEST_WINDOWS), 5)}


# --- the arms --------------------------------------------------------------------------------------------------------

# way, batch, steps -> the rates that seed 0 was run with, and the best of them: a test holds it against the results.
RATES = {
    ("full", 4, 512): ((2.5e-4, 5e-4, 1e-3, 2e-3), 1e-3),
    ("lora r8", 4, 512): ((2.5e-3, 5e-3, 1e-2), 5e-3),
    ("lora r64", 4, 512): ((5e-4, 1e-3, 2e-3, 4e-3), 2e-3),
    ("full", 16, 128): ((5e-4, 1e-3, 2e-3), 1e-3),
    ("lora r8", 16, 128): ((5e-3, 1e-2, 2e-2), 1e-2),
    ("lora r64", 16, 128): ((1e-3, 2e-3, 4e-3, 8e-3), 4e-3),
    ("full", 4, 32): ((5e-4, 1e-3, 2e-3), 1e-3),
    ("lora r8", 4, 32): ((2.5e-3, 5e-3, 1e-2, 2e-2), 5e-3),
    ("lora r64", 4, 32): ((1e-3, 2e-3, 4e-3, 8e-3), 2e-3),
    ("full", 16, 32): ((1e-3, 2e-3, 4e-3), 2e-3),
    ("lora r8", 16, 32): ((5e-3, 1e-2, 2e-2, 4e-2), 1e-2),
    ("lora r64", 16, 32): ((2e-3, 4e-3, 8e-3), 4e-3),
    ("full", 64, 32): ((1e-3, 2e-3, 4e-3), 2e-3),
    ("lora r8", 64, 32): ((5e-3, 1e-2, 2e-2, 4e-2), 1e-2),
    ("lora r64", 64, 32): ((2e-3, 4e-3, 8e-3), 4e-3),
}
BATCH_ARMS: dict[str, dict] = {"base": {"method": "full", "lr": 0.0, "batch": 4, "steps": 0}}
for (_way, _batch, _steps), (_rates, _best) in RATES.items():
    _name, _options = f"{_way}, batch {_batch}", {"batch": _batch, "steps": _steps, **WAYS[_way]}
    _place = _rates.index(_best)
    _neighbors = (_rates[_place - 1], _rates[_place + 1])  # with three seeds, too
    BATCH_ARMS |= sweep_arms(_name, _rates, _best, **_options) | arms_of(_name, _neighbors, SEEDS, **_options)

# --- what the stored runs say ----------------------------------------------------------------------------------------


def batch_runs() -> Runs:
    return stored_runs("batch", "plays")


def of(runs: Runs, way: str, batch: int, steps: int) -> Runs:
    """The runs of one of WAYS with one batch."""
    return runs.where(**{"rank": 8} | WAYS[way], batch=batch, steps=steps)


def shares_missed(runs: Runs, way: str, batch: int, steps: int) -> list[float]:
    """What LoRA did not learn of what full fine-tuning learned, each at its own best rate: a share for each seed."""
    before = load_results("batch")["arms"]["base"]["plays"]
    full, lora = (of(runs, each, batch, steps).at_best() for each in ("full", way))
    return [(b - a) / (before - a) for a, b in zip(full, lora, strict=True)]


def mean_missed(runs: Runs, way: str, batch: int, steps: int) -> float:
    return mean(shares_missed(runs, way, batch, steps))


def rises(runs: Runs, way: str) -> tuple[float, float]:
    """By how much the missed share grows from batches of 16: to 64 at equal tokens, and to as few steps alone."""
    start = mean_missed(runs, way, 16, 128)
    return mean_missed(runs, way, 64, 32) - start, mean_missed(runs, way, 16, 32) - start
