"""Pictures of what lies in the updates of notebook 10: shared directions, spectra, intruders."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import Tensor

from lora_edu import files
from lora_edu.experiments.nb10_spectra import FIRST, SECOND, STORED_LAYER
from lora_edu.figures.plots import BLUE, GRAY, GREEN, ORANGE, PURPLE, RED
from lora_edu.models.pretrain import load_base

Drawn = tuple[Figure, str]  # a figure and its words


def stored_layer() -> dict[str, Tensor]:
    """One layer of the stored runs, d = 256: "r8 A" (8, d), "r8 B" (d, 8) and so on, "blocks dW", and the base's W."""
    stored = load_file(files.data_file("results") / "lora-spectra.safetensors")
    found = {name.replace(",", ""): tensor.float() for name, tensor in stored.items()}
    return found | {"W": load_base("laptop", device="cpu").get_submodule(STORED_LAYER).weight.detach()}


def mean_grid(arms: dict, pair: str, side: str) -> np.ndarray:
    """(4, 7): similarity of 1, 2, 4, 8 directions with 1 to 64, the mean over layers and seeds."""
    return np.mean([run[pair][side] for run in of_seeds(arms, "alike")], axis=0)


def chance(d: int = 256) -> np.ndarray:
    """(4, 7): what random subspaces share, max(i, j) / d."""
    return np.maximum.outer(FIRST, SECOND) / d


def of_seeds(arms: dict, way: str) -> list[dict]:
    """The runs of one way that are taken apart, one a seed."""
    return [arms[f"{way}, seed {seed}"] for seed in range(3) if f"{way}, seed {seed}" in arms]


def mean_amplification(arms: dict, way: str, matrix: str) -> dict[str, float]:
    """||U^T W V|| in 4 directions of dW, of W and random ones, and ||dW||: the mean over layers and seeds."""
    found = [
        per[path] for run in of_seeds(arms, way) for per in [run["amplification"]] for path in per if matrix in path
    ]
    return {name: float(np.mean([numbers[name][0] for numbers in found])) for name in found[0]}


def mean_rank(arms: dict, way: str) -> float:
    """How many components hold 90% of the squared norm of an update: the mean over the 24 matrices and the seeds."""
    return float(np.mean([list(run["rank for 90%"].values()) for run in of_seeds(arms, way)]))


# --- shared directions -----------------------------------------------------------------------------------------------


def similarity_figure(arms: dict) -> Drawn:
    """Two runs, rank 8 and rank 64, with different seeds: where they write, where they read, and what chance gives."""
    panels = {
        "output side of dW": mean_grid(arms, "r8, r64", "output"),
        "input side: A": mean_grid(arms, "r8, r64", "A"),
        "chance: max(i, j) / 256": chance(),
    }
    figure, frames = plt.subplots(1, 3, figsize=(9.8, 3.0), layout="constrained", sharey=True)
    for axes, (title, grid) in zip(frames, panels.items(), strict=True):
        axes.imshow(grid, cmap="Greens", vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(grid):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9,
                      color="white" if value > 0.6 else "black")  # fmt: skip
        axes.set(xticks=range(len(SECOND)), xticklabels=SECOND, yticks=range(len(FIRST)), yticklabels=FIRST)
        axes.set_xlabel("j, directions of rank 64")
        axes.set_title(title, fontsize=11, loc="left")
    frames[0].set_ylabel("i, directions of rank 8")
    figure.suptitle("Two runs agree more on where they write than on what they read", x=0.01, ha="left", fontsize=12)
    corner = {name: grid[0, 0] for name, grid in panels.items()}
    return figure, (
        "Similarity of strong directions of two runs, 0 to 1. Of the strongest one of each: "
        + "; ".join(f"{name} {value:.3f}" for name, value in corner.items())
        + ". Three tables of shaded cells, i from 1 to 8 downward, j from 1 to 64 to the right."
    )


def angles_figure(arms: dict) -> Drawn:
    """The strongest directions of two runs as arrows at their mean angle: where they write, read, and by chance."""
    kinds = {
        "where they write": mean_grid(arms, "r8, r64", "output")[0, 0],
        "what they read": mean_grid(arms, "r8, r64", "input")[0, 0],
        "chance, d = 256": 1 / 256,
    }
    figure, frames = plt.subplots(1, 3, figsize=(8.6, 2.5), layout="constrained")
    for axes, (name, value), color in zip(frames, kinds.items(), (GREEN, ORANGE, GRAY), strict=True):
        angle = np.arccos(np.sqrt(value))
        for turn, style in ((0.0, "-"), (angle, "--")):
            arrow = {"arrowstyle": "->", "lw": 2.4, "color": color, "ls": style}
            axes.annotate("", (np.cos(turn), np.sin(turn)), (0, 0), arrowprops=arrow)
        steps = np.linspace(0, angle, 40)
        axes.plot(0.35 * np.cos(steps), 0.35 * np.sin(steps), color=color, lw=1.2)
        axes.text(0.42, 0.22, f"{np.degrees(angle):.0f}°", fontsize=12, color=color)
        axes.set(xlim=(-0.05, 1.08), ylim=(-0.05, 1.08), aspect="equal")
        axes.set_title(f"{name}: phi(1, 1) = {value:.3f}", fontsize=11)
        axes.set_axis_off()
    angles = "; ".join(f"{name} {np.degrees(np.arccos(np.sqrt(v))):.0f} degrees" for name, v in kinds.items())
    return figure, (
        f"phi(1, 1) is the squared cosine of an angle: {angles}. Three pairs of arrows, a solid and a dashed one, the "
        "strongest directions of two runs with different seeds, at their true angle."
    )


# --- spectra ---------------------------------------------------------------------------------------------------------


def spectrum_figure(layer: dict[str, Tensor], ranks: dict[str, float]) -> Drawn:
    """The singular values of one layer's updates, divided by the largest. ranks: components for 90%, all layers."""
    rng = torch.Generator().manual_seed(0)
    matrices = {
        "LoRA, rank 8": (layer["r8 B"] @ layer["r8 A"], ORANGE, "--"),
        "LoRA, rank 64": (layer["r64 B"] @ layer["r64 A"], ORANGE, "-"),
        "in full": (layer["blocks dW"], PURPLE, "-"),
        "W itself": (layer["W"], BLUE, "-."),
        "random": (torch.randn(layer["W"].shape, generator=rng), GRAY, ":"),
    }
    figure, axes = plt.subplots(figsize=(8.6, 3.6), layout="constrained")
    for name, (matrix, color, style) in matrices.items():
        strengths = torch.linalg.svdvals(matrix)
        strengths = (strengths / strengths[0])[: 64 if "64" in name else 8 if "8" in name else None]
        axes.plot(range(1, len(strengths) + 1), strengths, color=color, ls=style, lw=2, label=name)
    axes.set(xscale="log", yscale="log", ylim=(3e-3, 1.2), xlabel="component", ylabel="strength, largest = 1")
    axes.set_xticks([1, 2, 4, 8, 16, 64, 256], ["1", "2", "4", "8", "16", "64", "256"])
    axes.legend(frameon=False, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("An update in full spreads over more components than an adapter has", fontsize=12, loc="left")
    listed = ", ".join(f"{name} {value:.1f}" for name, value in ranks.items())
    return (
        figure,
        f"Components that hold 90% of the squared norm, mean over layers: {listed}. Strength against component "
        "for one layer, on log axes: rank 8 and 64 fall fastest, the update in full and W later, a random matrix last.",
    )


# --- intruders -------------------------------------------------------------------------------------------------------

INTRUDER_WAYS = {"lora r8": "--s", "lora r64": "-s", "blocks": "-D"}


def intruders_figure(arms: dict) -> Drawn:
    """Left: intruders against the norm of the update, and of the same updates turned at random. Right: what cuts do."""
    figure, (counts, plane) = plt.subplots(1, 2, figsize=(9.8, 4.0), layout="constrained")
    for way, style in INTRUDER_WAYS.items():
        points, turned = count_curve(arms, way, 0), count_curve(arms, way, 1)
        color = PURPLE if way == "blocks" else ORANGE
        counts.plot(
            *points.T,
            style,
            color=color,
            lw=2,
            ms=6,
            label={"blocks": "in full"}.get(way, way.replace("lora r", "rank ")),
        )
        counts.plot(*turned.T, style, color=GRAY, lw=1, ms=4, alpha=0.8)
    counts.set(xscale="log", xlabel="norm of the update / norm of W", ylabel="intruders, of 240 candidates")
    counts.set_xticks([0.1, 0.2, 0.3, 0.5, 0.7], ["0.1", "0.2", "0.3", "0.5", "0.7"])
    counts.minorticks_off()
    counts.legend(frameon=False, fontsize=10, title="gray: turned at random")
    counts.set_title("The larger the update, the more intruders", fontsize=11, loc="left")
    for name, (color, style) in CUT_LOOKS.items():
        points = cut_line(arms, "lora r8", name)
        plane.plot(*points.T, style, color=color, lw=2, ms=6)
        plane.annotate(name, points[-1], (6, 4), textcoords="offset points", color=color, fontsize=10)
    plane.set(xlabel="lost again on plays, nats", ylabel="won back on addresses, nats")
    plane.set_title("At equal loss on plays, the dial wins back most", fontsize=11, loc="left")
    for axes in (counts, plane):
        axes.spines[["top", "right"]].set_visible(False)
    lost, won = cut_line(arms, "lora r8", "intruders")[2]
    dial = np.interp(lost, *cut_line(arms, "lora r8", "dial").T)
    return figure, (
        "Intruders grow with the norm of an update; turned at random it has about as many. Cut down by a quarter, they "
        f"cost {lost:.3f} on plays and win back {won:.3f} on addresses; the dial wins back {dial:.3f} at that cost. "
        "Left, counts against norm, colored and gray lines. Right, won back against lost, a line for each kind of cut."
    )


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
