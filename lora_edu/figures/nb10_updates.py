"""Pictures of what lies in the updates of notebook 10: shared directions, spectra, intruders."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from lora_edu import files, tensor_files
from lora_edu.experiments.nb10_spectra import FIRST, SECOND, STORED_LAYER
from lora_edu.figures.drawing import Drawn, note, styled, ticks
from lora_edu.figures.looks import BLUE, GRAY, GREEN, ORANGE, PURPLE, RED
from lora_edu.models.pretrain import load_base


def stored_layer() -> dict[str, Tensor]:
    """One layer of the stored runs, d = 256: "r8 A" (8, d), "r8 B" (d, 8) and so on, "blocks dW", and the base's W."""
    stored = tensor_files.read_sealed(
        files.data_file("results") / "lora-spectra.safetensors", "put the right file back"
    )
    found = {name.replace(",", ""): tensor.float() for name, tensor in stored.items()}
    return found | {"W": load_base("laptop", device="cpu").get_submodule(STORED_LAYER).weight.detach()}


def mean_grid(arms: dict, pair: str, side: str, experiment: str = "alike") -> np.ndarray:
    """(4, 7): similarity of 1, 2, 4, 8 directions with 1 to 64, the mean over layers and seeds."""
    return np.mean([run[pair][side] for run in of_seeds(arms, experiment)], axis=0)


def chance(d: int = 256) -> np.ndarray:
    """(4, 7): what random subspaces share, max(i, j) / d."""
    return np.maximum.outer(FIRST, SECOND) / d


def of_seeds(arms: dict, way: str) -> list[dict]:
    """The runs of one way that are taken apart, one a seed."""
    return [arms[f"{way}, seed {seed}"] for seed in range(3) if f"{way}, seed {seed}" in arms]


def mean_rank(arms: dict, way: str) -> float:
    """How many components hold 90% of the squared norm of an update: the mean over the 24 matrices and the seeds."""
    return float(np.mean([list(run["rank for 90%"].values()) for run in of_seeds(arms, way)]))


# --- shared directions -----------------------------------------------------------------------------------------------


# what two runs share -> experiment, pair, side
SIDES = {
    "adapters write": ("alike", "r8, r64", "output"),
    "adapters read: A": ("alike", "r8, r64", "A"),
    "A minus its start": ("alike, no start", "r8, r64", "A minus its start"),
    "in full, write": ("alike, no start", "blocks, blocks", "output"),
    "in full, read": ("alike, no start", "blocks, blocks", "input"),
}


def shared(arms: dict) -> dict[str, np.ndarray]:
    """What two runs with different seeds share on each side, and what chance gives: (4, 7) each."""
    grids = {name: mean_grid(arms, pair, side, experiment) for name, (experiment, pair, side) in SIDES.items()}
    return grids | {"chance: max(i, j) / 256": chance()}


def pairs_of_seeds(arms: dict) -> str:
    """How many pairs of seeds are stored, of adapters and with no start."""
    return f"{len(of_seeds(arms, 'alike'))} pairs of adapters, {len(of_seeds(arms, 'alike, no start'))} with no start"


@styled
def similarity_figure(arms: dict) -> Drawn:
    """Two runs with different seeds, rank 8 and 64 or both in full: where they write, what they read, and chance."""
    figure, frames = plt.subplots(2, 3, figsize=(9.8, 5.2), sharex=True, sharey=True)
    panels = shared(arms)
    for axes, (title, grid) in zip(frames.flat, panels.items(), strict=True):
        axes.imshow(grid, cmap="Greens", vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(grid):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9,
                      color="white" if value > 0.6 else "black")  # fmt: skip
        axes.set(xticks=range(len(SECOND)), xticklabels=SECOND, yticks=range(len(FIRST)), yticklabels=FIRST)
        axes.set_title(title)
    for axes in frames[:, 0]:
        axes.set_ylabel("i, directions of one run")
    for axes in frames[1]:
        axes.set_xlabel("j, directions of the other")
    figure.suptitle("Two adapters agree more on where they write; in full that lead is small",
                    x=0.01, ha="left", fontsize=12)  # fmt: skip
    some = {name: f"{grid[0, 0]:.2f} and {grid[3, 6]:.2f}" for name, grid in panels.items()}
    return figure, (
        "Similarity of strong directions of two runs, 0 to 1; phi(1, 1) and phi(8, 64): "
        + "; ".join(f"{name} {value}" for name, value in some.items())
        + f". Six tables of shaded cells, i from 1 to 8 downward, j from 1 to 64 to the right; {pairs_of_seeds(arms)}."
    )


@styled
def angles_figure(arms: dict) -> Drawn:
    """The strongest directions of two runs as arrows at their mean angle: where they write, read, and by chance."""
    kinds = {name.split(":")[0]: grid[0, 0] for name, grid in shared(arms).items() if name != "A minus its start"}
    colors = (GREEN, ORANGE, GREEN, ORANGE, GRAY)
    figure, frames = plt.subplots(1, len(kinds), figsize=(9.8, 2.4))
    for axes, (name, value), color in zip(frames, kinds.items(), colors, strict=True):
        angle = np.arccos(np.sqrt(value))
        for turn, style in ((0.0, "-"), (angle, "--")):
            arrow = {"arrowstyle": "->", "lw": 2.4, "color": color, "ls": style}
            axes.annotate("", (np.cos(turn), np.sin(turn)), (0, 0), arrowprops=arrow)
        steps = np.linspace(0, angle, 40)
        axes.plot(0.35 * np.cos(steps), 0.35 * np.sin(steps), color=color, lw=1.2)
        axes.text(0.4, 0.16, f"{np.degrees(angle):.0f}°", fontsize=12, color=color)
        axes.set(xlim=(-0.05, 1.08), ylim=(-0.05, 1.08), aspect="equal")
        axes.set_title(f"{name}\nphi(1, 1) = {value:.3f}", loc="center")
        axes.set_axis_off()
    angles = "; ".join(f"{name} {np.degrees(np.arccos(np.sqrt(v))):.0f} degrees" for name, v in kinds.items())
    return figure, (
        f"phi(1, 1) is the squared cosine of an angle: {angles}. Five pairs of arrows, a solid and a dashed one, the "
        "strongest directions of two runs with different seeds, at their true angle."
    )


# --- spectra ---------------------------------------------------------------------------------------------------------


@styled
def spectrum_figure(layer: dict[str, Tensor], ranks: dict[str, float]) -> Drawn:
    """The singular values of one layer's updates, divided by the largest. ranks: components for 90%, all layers."""
    rng = torch.Generator().manual_seed(0)
    matrices = {
        "LoRA, rank 8": (layer["r8 B"] @ layer["r8 A"], ORANGE, "--"),
        "LoRA, rank 64": (layer["r64 B"] @ layer["r64 A"], ORANGE, "-"),
        "in full": (layer["blocks dW"], "black", "-"),
        "W itself": (layer["W"], BLUE, "-."),
        "random": (torch.randn(layer["W"].shape, generator=rng), GRAY, ":"),
    }
    figure, axes = plt.subplots(figsize=(8.6, 3.6))
    for name, (matrix, color, style) in matrices.items():
        strengths = torch.linalg.svdvals(matrix)
        strengths = (strengths / strengths[0])[: 64 if "64" in name else 8 if "8" in name else None]
        axes.plot(range(1, len(strengths) + 1), strengths, color=color, ls=style, label=name)
    axes.set(xscale="log", yscale="log", ylim=(3e-3, 1.2), xlabel="component", ylabel="strength, largest = 1")
    ticks(axes.xaxis, (1, 2, 4, 8, 16, 64, 256))
    axes.legend(frameon=False)
    axes.set_title("An update in full spreads over more components than an adapter has")
    listed = ", ".join(f"{name} {value:.1f}" for name, value in ranks.items())
    return figure, (
        f"Components that hold 90% of the squared norm, mean over layers: {listed}. Strength against component "
        "for one layer, on log axes: rank 8 and 64 fall fastest, the update in full and W later, a random matrix last."
    )


# --- intruders -------------------------------------------------------------------------------------------------------

INTRUDER_WAYS = {"lora r8": "--s", "lora r64": "-s", "blocks": "-D"}


@styled
def intruders_figure(arms: dict) -> Drawn:
    """Left: intruders against the norm of the update, and of controls of that norm. Right: what cuts do."""
    figure, (counts, plane) = plt.subplots(1, 2, figsize=(9.8, 4.0))
    for way, style in INTRUDER_WAYS.items():
        color, name = "black" if way == "blocks" else ORANGE, SHORT[way]
        how = f"{name}, n = {len(of_seeds(arms, way))}"
        counts.plot(*count_curve(arms, way, 0).T, style, color=color, ms=6, label=how)
        counts.plot(*count_curve(arms, way, 1).T, style, color=GRAY, lw=1, ms=4, alpha=0.8)
    everywhere = np.concatenate([spread_curve(arms, way, 256) for way in INTRUDER_WAYS])
    counts.plot(*everywhere[everywhere[:, 0].argsort()].T, ":v", color=BLUE, lw=1.6, ms=5)
    counts.annotate("random, over 256\ncomponents", (0.32, 1), (0.42, 8), color=BLUE, fontsize=9)
    counts.set(xscale="log", xlabel="norm of the update / norm of W", ylabel="intruders, of 240 candidates")
    ticks(counts.xaxis, (0.1, 0.2, 0.3, 0.5, 0.7))
    counts.legend(title="gray: turned at random")
    counts.set_title("Intruders: norm that few components hold")
    for name, (color, style) in CUT_LOOKS.items():
        points = cut_line(arms, "lora r8", name)
        plane.plot(*points.T, style, color=color, ms=6)
        note(plane, name, points[-1], (6, 4), color=color, va="baseline")
    plane.set(xlabel="lost again on plays, nats", ylabel="won back on addresses, nats")
    plane.set_title("At equal loss on plays, the dial wins back most")
    rows = intruder_table(arms)
    lost, won = cut_line(arms, "lora r8", "intruders")[2]
    dial = np.interp(lost, *cut_line(arms, "lora r8", "dial").T)
    return figure, (
        f"Twice the update: trained {rows[0][2]} intruders at rank 8, {rows[-1][2]} in full; turned at random "
        f"{rows[0][3]} and {rows[-1][3]}; its norm over 256 random components {rows[0][-1]} and {rows[-1][-1]}. Cut "
        f"down by a quarter, they win back {won:.3f} on addresses for {lost:.3f} on plays; the dial {dial:.3f}. "
        "Left, counts against norm. Right, won back against lost, a line for each kind of cut."
    )


SHORT = {"lora r8": "rank 8", "lora r64": "rank 64", "blocks": "in full"}


def intruder_table(arms: dict) -> list[list[str]]:
    """Twice each update: its norm, its intruders, those of its strengths turned at random, and of its norm spread.

    A row: way, norm, trained, turned, over 8 and over 256 components; means over the seeds that are stored.
    """
    rows = []
    for way in INTRUDER_WAYS:
        curves = [*(count_curve(arms, way, which) for which in (0, 1)), *(spread_curve(arms, way, k) for k in (8, 256))]
        counts = [f"{curve[2, 1]:.0f}" if len(curve) else "-" for curve in curves]
        rows.append([f"{SHORT[way]}, n = {len(of_seeds(arms, way))}", f"{curves[0][2, 0]:.2f}", *counts])
    return rows


CUT_LOOKS = {
    "intruders": (RED, "-o"),
    "dW in intruders": (PURPLE, ":D"),
    "rest of dW": (ORANGE, "--s"),
    "dial": (GREEN, "-.^"),
}


def count_curve(arms: dict, way: str, which: int) -> np.ndarray:
    """(3, 2): norm and intruders at 0.5, 1 and 2 times the update. which: 0 as trained, 1 turned at random."""
    runs = of_seeds(arms, way)
    norm = np.mean([run["norm"] for run in runs])
    counts = {times: np.mean([run["intruders"][times][which] for run in runs]) for times in ("0.5", "1", "2")}
    return np.array([(float(times) * norm, count) for times, count in counts.items()])


def spread_curve(arms: dict, way: str, components: int) -> np.ndarray:
    """(3, 2): norm and intruders of random matrices with each update's norm, 0.5, 1 and 2 times, over components."""
    if not (runs := of_seeds(arms, f"random beside {way}")):
        return np.empty((0, 2))
    norm = np.mean([run["norm"] for run in runs])
    times = ("0.5", "1", "2")
    return np.array([(float(t) * norm, np.mean([r["intruders"][str(components)][t] for r in runs])) for t in times])


def cut_line(arms: dict, way: str, name: str) -> np.ndarray:
    """(n, 2): lost again on plays and won back on addresses after ever larger cuts of one kind, from nothing."""
    points = [point[:2] for key, point in cut_table(arms, way).items() if key.startswith(f"{name}, ")]
    return np.array([(0.0, 0.0), *points])


def cut_table(arms: dict, way: str = "lora r8") -> dict[str, tuple[float, float, float]]:
    """Cut -> what it loses again on plays, what it wins back on addresses, the norm it takes away: means over seeds."""
    runs = of_seeds(arms, way)
    moves = {
        key: [(run["cuts"][key][0] - run["losses"][0], run["losses"][1] - run["cuts"][key][1], run["cuts"][key][2])
              for run in runs]
        for key in runs[0]["cuts"]
    }  # fmt: skip
    return {key: tuple(np.mean(found, axis=0).tolist()) for key, found in moves.items()}
