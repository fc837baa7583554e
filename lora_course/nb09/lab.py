"""Full fine-tuning, LoRA and QLoRA, each at its own best learning rate: who ends where? (notebook 09)

Each arm trains the shipped base on plays in one way, on one amount of text, at one learning rate, with one seed. The
rates are swept with seed 0; the best one of each way (`BEST_RATES`) is run with two more seeds.

`film` is another experiment: one run of QLoRA, looked at twelve times. `drawn` asks what NF4 alone costs: which weights
share a block is chance. Blocks begun a few weights later make draws that are kin; permuted columns make others.
"""

import hashlib
from statistics import mean

from torch import Tensor, nn

from lora_course.nb00.lab import looked_at
from lora_course.nb06.lab import rounding
from lora_course.running import scoreboard
from lora_course.running.finetune import both_losses, fine_tune, loss_on, prepared
from lora_course.running.sweeps import Runs, paired, stored_runs, sweep_arms
from lora_edu import load_base, train
from lora_edu.layers import is_nf4
from lora_edu.lora import lora_layers
from lora_edu.observing import block_linears
from lora_edu.quantization import unpack
from lora_edu.texts import Text, load_text

DRAW_ARMS: dict[str, dict] = {"full precision": {"shift": None}} | {
    f"shift {shift}": {"shift": shift} for shift in range(0, 64, 8)
}
DRAW_ARMS |= {f"columns permuted, seed {seed}": {"shift": 0, "permuted": seed} for seed in range(8)}
DRAWS_TRAINED = 3  # so many of the draws with permuted columns are trained, too
TEXT_SIZES = {"20 kB": 20_000, "all plays": None}  # bytes of the training text that are used


def fine_tuned_loss(
    method: str,
    text: str,
    lr: float,
    *,
    steps: int = 100,
    rank: int = 8,
    windows: int = 64,
    permuted: int | None = None,
    seed=0,
    progress=True,
) -> dict:
    """Fine-tune the shipped base on plays in one way and measure it on so many windows of held-out text.

    method: as for `prepared`; text: one of TEXT_SIZES. With steps=0 nothing is trained. permuted: another draw of NF4,
    as for `drawn`; LoRA on the decoded weights is then the arithmetic of QLoRA.
    Returns the losses on plays before and after, on addresses after (nats per byte), and the mean training loss of the
    last 20 steps.
    """
    plays = load_text("shakespeare")
    model = load_base("laptop", device="cpu")
    if permuted is not None:
        method = {"qlora": "lora"}[method]
        redraw(model, 0, permuted)
    model = prepared(model, method, rank, seed)
    losses = {"before": loss_on(model, "shakespeare", windows)}
    if steps:
        data = Text(plays.train[: TEXT_SIZES[text]], plays.validation)
        losses["training"] = round(mean(fine_tune(model, steps, lr, seed, data, progress=progress)[-20:]), 5)
    return losses | {"after": loss_on(model, "shakespeare", windows), "addresses": loss_on(model, "speeches", windows)}


# --- the arms --------------------------------------------------------------------------------------------------------

# The rates of each sweep. On all plays the loss is not the same at both neighbors of the best one: there it is finer.
ADAPTER_RATES = {"20 kB": (1e-3, 3e-3, 1e-2, 3e-2), "all plays": (1e-3, 3e-3, 6e-3, 1e-2, 2e-2, 3e-2)}
FULL_RATES = {"20 kB": (1e-4, 3e-4, 1e-3, 3e-3), "all plays": (1e-4, 3e-4, 6e-4, 1e-3, 2e-3, 3e-3)}
RATES = {"full": FULL_RATES, "lora": ADAPTER_RATES, "qlora": ADAPTER_RATES}
# The rate with the lowest loss in the sweep with seed 0: a test holds this table against the stored results.
BEST_RATES: dict[tuple[str, str], float] = {
    ("full", "all plays"): 2e-3,
    ("lora", "all plays"): 1e-2,
    ("qlora", "all plays"): 1e-2,
    ("full", "20 kB"): 3e-4,
    ("lora", "20 kB"): 3e-3,
    ("qlora", "20 kB"): 3e-3,
}


def _quality_arms() -> dict[str, dict]:
    arms: dict[str, dict] = {}
    for (method, text), best in BEST_RATES.items():
        arms |= sweep_arms(f"{method}, {text}", RATES[method][text], best, method=method, text=text)
    plays = {"text": "all plays"}
    for name, method in (("lora", "lora"), ("nf4", "qlora")):
        arms[f"{name}, not trained"] = {"method": method, "lr": 1.0, "steps": 0} | plays
    arms["qlora, 10 steps"] = {"method": "qlora", "lr": 1e-2, "steps": 10} | plays  # 09 runs it again
    for draw in range(DRAWS_TRAINED):
        arms[f"qlora, columns permuted {draw}"] = {"method": "qlora", "lr": 1e-2, "permuted": draw} | plays
    arms |= sweep_arms("blocks, all plays", (1e-3, 2e-3, 3e-3), 2e-3, method="blocks", **plays)
    wide = {"method": "lora", "rank": 64}
    return arms | sweep_arms("lora rank 64, all plays", (1e-3, 3e-3, 6e-3, 1e-2), 3e-3, **wide, **plays)


QUALITY_ARMS = _quality_arms()

# --- what the stored runs say ----------------------------------------------------------------------------------------


def quality_runs() -> Runs:
    """The runs of 100 steps: `method`, `text`, `rank`, and the losses `before`, `after`, `addresses`."""
    return stored_runs("qlora-quality", "after").where(steps=100, permuted=None)


def drawn_runs() -> Runs:
    """QLoRA's runs on other draws of NF4, with seed 0 and at the best rate of all plays."""
    return Runs(run for run in stored_runs("qlora-quality", "after") if hasattr(run, "permuted"))


def of(runs: Runs, method: str, text: str = "all plays", rank: int = 8) -> Runs:
    """The runs of one way to train."""
    return runs.where(method=method, text=text, rank=rank)


def gaps(runs: Runs, others: Runs) -> dict[tuple[str, str], list[float]]:
    """QLoRA minus LoRA after all plays: (measured on, over what) -> one number a seed, or, with seed 0, one a draw.

    others: the runs on draws beside the page's own, which comes first.
    """
    found = {}
    for on, loss in (("plays", "loss"), ("addresses", "addresses")):
        found[on, "seeds"] = paired(of(runs, "qlora"), of(runs, "lora"), loss)
        first = of(runs, "lora").at_best(loss)[0]
        found[on, "draws"] = [getattr(run, loss) - first for run in (of(runs, "qlora").best()[0], *others)]
    return found


# --- the film --------------------------------------------------------------------------------------------------------

FILM_STEPS = (0, 5, 10, 15, 20, 30, 40, 50, 60, 80, 100, 120)
FILM_RECIPE = {"steps": 120, "batch_size": 8, "seq_len": 256, "lr": 1e-2}  # the notebook takes half the windows
FILM_LAYER, CORNER = "blocks.2.attention.q_proj", 64


def film(*, recipe: dict | None = None, seed: int = 0, progress: bool = True) -> dict:
    """Train QLoRA on plays, and stop at each of FILM_STEPS for a look. Returns what moves, and what does not.

    "codes": the 4-bit codes of the first 64 rows and columns of one layer, a hexadecimal digit each; "frames": for each
    look the losses on both texts, the surprise at each byte of the two painted lines, a sample of text, a checksum of
    all codes and of all adapters, and the part of A and B that makes the update of those 64 rows and columns.
    """
    model = prepared(load_base("laptop", device="cpu"), "qlora", seed=seed)
    layer, frames = lora_layers(model)[FILM_LAYER], []

    def look(done: int, _loss: float) -> None:
        if done in FILM_STEPS:
            adapters = [value for name, value in model.state_dict().items() if "lora_" in name]
            sums = {"codes": checksum(codes_of(model)), "adapters": checksum(adapters)}
            corner = {"A": _short(layer.lora_A[:, :CORNER]), "B": _short(layer.lora_B[:CORNER])}
            frames.append({"step": done} | looked_at(model, seed, digits=3) | sums | corner)

    recipe = FILM_RECIPE | (recipe or {})
    looks = {"eval_every": 5, "eval_windows": 1, "on_evaluation": look}
    train(model, load_text("shakespeare"), **recipe, **looks, seed=seed, device="cpu", progress=progress)
    return {"layer": FILM_LAYER, "scaling": layer.scaling, "codes": corner_codes(layer.base), "frames": frames}


def codes_of(model: nn.Module) -> list[Tensor]:
    """The packed codes of every 4-bit layer."""
    return [layer.codes for layer in model.modules() if is_nf4(layer)]


def checksum(tensors: list[Tensor]) -> str:
    """The first 12 digits of the SHA-256 of all bytes: another bit anywhere, another checksum."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def corner_codes(layer: nn.Module) -> list[str]:
    """The codes of the first rows and columns of a 4-bit layer: one text of hexadecimal digits a row."""
    codes = unpack(layer.codes, 16).view(layer.out_features, layer.in_features)[:CORNER, :CORNER]
    return ["".join(f"{code:x}" for code in row) for row in codes.tolist()]


def _short(matrix: Tensor) -> list[list[float]]:
    return [[float(f"{value:.3g}") for value in row] for row in matrix.detach().tolist()]


# --- what NF4 alone costs --------------------------------------------------------------------------------------------


def drawn(shift: int | None, permuted: int | None = None, *, windows: int = 64) -> dict:
    """The losses of the shipped base in NF4 with double quantization, its blocks begun `shift` weights later.

    permuted: the seed of an order that the columns have meanwhile. A shift of None rounds nothing; nothing is trained.
    """
    model = load_base("laptop", device="cpu")
    if shift is not None:
        redraw(model, shift, permuted)
    return both_losses(model, windows)


def redraw(model: nn.Module, shift: int, permuted: int | None) -> None:
    """Round the linear layers of the blocks to NF4 and decode them, in place: one draw, as for `drawn`."""
    change = rounding(shift, "nf4", 64, True)
    if permuted is not None:
        change = scoreboard.permuted(change, permuted)
    for layer in block_linears(model).values():
        layer.weight.data = change(layer.weight.detach())


def rises(arms: dict, text: str, draws: str = "shift") -> list[float]:
    """By how many nats each draw raises the loss on a text. draws: how the names of their arms begin."""
    return [arms[name][text] - arms["full precision"][text] for name in DRAW_ARMS if name.startswith(draws)]
