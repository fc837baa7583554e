"""Whose rounding was repaired? One adapter, put on the base it was trained on and on others (notebook 09).

The bases are those of `DRAW_ARMS`: the unrounded weights, NF4 as they lie ("shift 0"), and other draws of NF4. What a
draw costs before any adapter stands in `nf4-draws`, under the same names. Three adapters are trained on different bases
with the same A and the same batches, so that a seed's runs can be compared pair by pair.
"""

from lora_course.nb09.lab import DRAW_ARMS, redraw
from lora_course.running.finetune import both_losses, fine_tune, prepared
from lora_course.running.sweeps import SEEDS
from lora_edu import GPT, adapter_state, data_file, load_adapter, load_base, load_text
from lora_edu.lora import load_adapter_state
from lora_edu.measures import kl_and_flips

UNROUNDED, OWN, MIRROR = "full precision", "shift 0", "columns permuted, seed 0"
OTHERS = tuple(f"columns permuted, seed {seed}" for seed in range(7))
TRAINED = {"LoRA": UNROUNDED, "QLoRA": OWN, "QLoRA, another draw": MIRROR}  # and the base that each is trained on
MOVED_ARMS: dict[str, dict] = {"shipped": {"trained_on": OWN, "steps": 0}} | {
    f"{name}, seed {seed}": {"trained_on": base, "repeat": seed} for seed in SEEDS for name, base in TRAINED.items()
}


def base_in(draw: str) -> GPT:
    """The shipped base in one draw, decoded: LoRA on it is the arithmetic of QLoRA. draw: a name of `DRAW_ARMS`."""
    model = load_base("laptop", device="cpu")
    if draw != UNROUNDED:
        redraw(model, DRAW_ARMS[draw]["shift"], DRAW_ARMS[draw].get("permuted"))
    return model


def moved(trained_on: str, steps: int = 300, *, windows: int = 64, seed: int = 0, progress: bool = True) -> dict:
    """Train an adapter on plays over one base, and put it on every base. Without steps: the shipped one, 600 steps.

    Rank 8, the rate 0.01, 4 windows a step. Returns, for each base, the losses on held-out plays and addresses (nats a
    byte), and how far its guesses on plays lie from those of the unrounded base with the same adapter.
    """
    if steps:
        trained = prepared(base_in(trained_on), "lora", seed=seed)
        fine_tune(trained, steps, 1e-2, seed, progress=progress)
        state = adapter_state(trained)

    def with_adapter(draw: str) -> GPT:
        if not steps:
            return load_adapter(base_in(draw), data_file("shakespeare-adapter"))
        return load_adapter_state(prepared(base_in(draw), "lora"), state)

    meant, plays, found = with_adapter(UNROUNDED), load_text("shakespeare").validation, {}
    for draw in (UNROUNDED, OWN, *OTHERS) if steps else DRAW_ARMS:
        model = with_adapter(draw)
        changed = kl_and_flips(model, meant, plays, max_windows=windows // 2)
        found[draw] = both_losses(model, windows) | {"kl": round(changed.kl, 5), "flips": round(changed.flips, 4)}
    return found
