"""Whose rounding was repaired? One adapter, put on the base it was trained on and on others (notebook 09).

The bases are those of `DRAW_ARMS`: the unrounded weights, NF4 as they lie ("shift 0"), and other draws of NF4. What a
draw costs before any adapter stands in `nf4-draws`, under the same names. Three adapters are trained on different bases
with the same A and the same batches, so that a seed's runs can be compared pair by pair.
"""

from statistics import mean

from lora_course.nb09.lab import DRAW_ARMS, redraw
from lora_course.running.finetune import both_losses, fine_tune, loss_on, prepared
from lora_course.running.stored import load_results
from lora_edu import GPT, adapter_state, data_file, load_adapter, load_base, load_text
from lora_edu.lora import load_adapter_state
from lora_edu.measures import kl_and_flips

UNROUNDED, OWN, MIRROR = "full precision", "shift 0", "columns permuted, seed 0"
OTHERS = tuple(f"columns permuted, seed {seed}" for seed in range(7))  # with the mirror, so six for each
TRAINED = {"LoRA": UNROUNDED, "QLoRA": OWN, "QLoRA, another draw": MIRROR}  # and the base that each is trained on
MOVED_ARMS: dict[str, dict] = {"shipped": {"trained_on": OWN, "steps": 0}} | {
    f"{name}, seed {seed}": {"trained_on": base, "repeat": seed} for seed in range(2) for name, base in TRAINED.items()
}


def base_in(draw: str) -> GPT:
    """The shipped base in one draw, decoded: LoRA on it is the arithmetic of QLoRA. draw: a name of `DRAW_ARMS`."""
    model = load_base("laptop", device="cpu")
    if draw != UNROUNDED:
        redraw(model, DRAW_ARMS[draw]["shift"], DRAW_ARMS[draw].get("permuted"))
    return model


def moved(trained_on: str, steps: int = 150, *, windows: int = 64, seed: int = 0, progress: bool = True) -> dict:
    """Train an adapter on plays over one base, put it on every base, and measure the loss on plays: nats a byte.

    Rank 8, the rate 0.01, 4 windows a step. Without steps it is the shipped one (600 steps of 8), on all of
    `DRAW_ARMS`, also with the loss on addresses, and with KL and flips on plays from the unrounded base under it.
    """
    if not steps:
        return {draw: _shipped_on(draw, windows) for draw in DRAW_ARMS}
    trained = prepared(base_in(trained_on), "lora", seed=seed)
    fine_tune(trained, steps, 1e-2, seed, progress=progress)
    state, found = adapter_state(trained), {}
    for draw in (UNROUNDED, OWN, *OTHERS):
        model = load_adapter_state(prepared(base_in(draw), "lora"), state)
        found[draw] = {"plays": loss_on(model, "shakespeare", windows)}
    return found


def _shipped_on(draw: str, windows: int) -> dict[str, float]:
    model, meant = (load_adapter(base_in(one), data_file("shakespeare-adapter")) for one in (draw, UNROUNDED))
    changed = kl_and_flips(model, meant, load_text("shakespeare").validation, max_windows=windows // 2)
    return both_losses(model, windows) | {"kl": round(changed.kl, 5), "flips": round(changed.flips, 4)}


# --- what the stored runs say ----------------------------------------------------------------------------------------

SHOWN = {"QLoRA on A, shipped": ("shipped", OWN), "QLoRA on B, its mirror": ("QLoRA, another draw", MIRROR),
         "LoRA, on no draw": ("LoRA", UNROUNDED)}  # row -> adapter, and the base that it was trained on  # fmt: skip


def costs() -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """What each draw costs on plays, without an adapter and under those of SHOWN; and the base of each adapter.

    Row -> draw -> rise of the loss above that on unrounded weights, in nats a byte: of adapters a mean over seeds.
    """
    arms, found = load_results("moved-adapters")["arms"], {"no adapter": [load_results("nf4-draws")["arms"]]}
    for row, (adapter, _) in SHOWN.items():
        found[row] = [arm for name, arm in arms.items() if name.partition(", seed")[0] == adapter]
    return {row: _costs(runs) for row, runs in found.items()}, {row: base for row, (_, base) in SHOWN.items()}


def _costs(runs: list[dict]) -> dict[str, float]:
    draws = [draw for draw in runs[0] if draw == OWN or draw.startswith("columns")]
    return {draw: mean(run[draw]["plays"] - run[UNROUNDED]["plays"] for run in runs) for draw in draws}
