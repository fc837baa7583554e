"""Does LoRA forget less? Three roads to equal learning, each a way to turn a run down (notebook 15)

A smaller rate, fewer steps, or notebook 00's dial, which keeps a share of what the run changed. The runs at smaller
rates are notebook 10's and 09's; here are those with fewer steps, each with a schedule of its own, and the dial. Two
runs of full fine-tuning are turned down: its two best rates tie. Rank 64, whose runs are notebook 09's, is held beside
them, too.

`calibrate` asks how much of what was learned or forgotten is confidence alone, or how often each byte occurs.
"""

from lora_course.running.sweeps import SEEDS, arms_of, seeded

LORA, WIDE, FULL, BOLD, BLOCKS = "lora r8", "lora r64", "full", "full, twice the rate", "blocks"
TURNED_DOWN: dict[str, dict] = {  # the best run of each way
    LORA: {"lr": 1e-2, "method": "lora", "rank": 8},
    WIDE: {"lr": 3e-3, "method": "lora", "rank": 64},
    FULL: {"lr": 1e-3, "method": "full"},
    BOLD: {"lr": 2e-3, "method": "full"},  # it learns as much
    BLOCKS: {"lr": 1e-3, "method": "blocks"},  # the matrices that LoRA changes, in full
}
DIAL = (0.9, 0.75, 0.5, 0.25)
FINE_DIAL = (0.9, 0.75, 0.7, 0.6, 0.5, 0.4, 0.35, 0.25)
DIALS = {LORA: FINE_DIAL, FULL: FINE_DIAL, BOLD: DIAL}
STEPS = {LORA: (50,), FULL: (20, 50), BOLD: (20, 50)}  # full fine-tuning learns faster: it is read where LoRA arrives
SMALL = 2e-3  # at this rate rank 8 moves the weights as far as FULL does
CALIBRATED = SEEDS[:2]


def _arms() -> dict[str, dict]:
    arms: dict[str, dict] = {}
    for way, shares in DIALS.items():
        options = TURNED_DOWN[way] | {"dial": shares}
        arms |= seeded(f"dial of {way}", **options)
    for way, fewer in STEPS.items():
        options = dict(TURNED_DOWN[way])
        lr = options.pop("lr")
        for steps in fewer:  # full's two runs are told apart by their rate
            arms |= arms_of(way.partition(",")[0], (lr,), SEEDS, **options, steps=steps)
    arms |= arms_of(LORA, (SMALL,), SEEDS, method="lora", rank=8)
    for way in (LORA, FULL):
        options = TURNED_DOWN[way] | {"calibrate": True}
        arms |= seeded(f"confidence of {way}", CALIBRATED, **options)
    return arms


FORGETTING_ARMS = _arms()
