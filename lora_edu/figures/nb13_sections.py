"""The pictures of notebook 13's live sections: a task with an accuracy, rank and size, where a code is precise."""

from statistics import mean

import torch

from lora_edu.experiments.nb10_sizes import RANKS, READING
from lora_edu.experiments.nb13 import HELD_OUT, NEW
from lora_edu.experiments.nb13_trained import CLEAR, above_rival, above_rivals, accuracies, kept_share, right, searched
from lora_edu.experiments.nb13_trained import test_of as verses_of_the_test
from lora_edu.figures.drawing import Drawn, note, panels, styled
from lora_edu.figures.looks import BLUE, CODES, GRAY, GREEN, MARKS, ORANGE, filled
from lora_edu.figures.looks import METHODS as LOOKS
from lora_edu.quantization import quantize

NAMES = {"gpt": "our GPT, 3.4M", "smollm2": "SmolLM2, 135M"}
METHODS = {"words": "bag of words", "head": "head alone", "lora": "LoRA", "qlora": "QLoRA", "full": "full"}


def accuracy_table() -> list[list[str]]:
    """One row for each way: the accuracy of each seed, for both models."""
    rows = [["the larger class", *["0.500"] * len(READING)]]
    for method, name in METHODS.items():
        rows.append([name, *("   ".join(f"{a:.3f}" for a in accuracies(model, method)) for model in READING)])
    return rows


def books_table(model: str = "smollm2", draw: int = 0) -> tuple[list[str], list[list[str]]]:
    """Header and rows: for each way the share of verses that it calls new, and its accuracy on each held-out book."""
    test, rows = verses_of_the_test(model), []
    for method, name in METHODS.items():
        hits = torch.from_numpy(right(model, method, draw)).double()
        calls_new = (hits == (test.labels == NEW)).double().mean()
        by_book = [hits[test.books == book].mean() for book in range(len(HELD_OUT))]
        rows.append([name, f"{calls_new:.0%}", *(f"{share:.0%}" for share in by_book)])
    return [f"{NAMES[model]}, seed {draw}", "called new", *HELD_OUT], rows


@styled
def accuracy_picture() -> Drawn:
    """A dot for each seed, a line at the mean; the bag of words as a line across.

    A bar is the interval of the difference to the bag of words over books, drawn around the mean.
    """
    figure, frames = panels(2, 9.6, 3.8, sharex=True, sharey=True)
    said = []
    for axes, model in zip(frames, READING, strict=True):
        words, names = mean(accuracies(model, "words")), list(METHODS)[1:]
        for row, method in enumerate(names):
            values = accuracies(model, method)
            difference, error = above_rival(model, method, "words")
            middle, reach = words + difference, CLEAR * error
            look = LOOKS.get(method, {"color": BLUE, "marker": "D"})  # the head alone is no way of the course
            bar = {"color": look["color"], "lw": 7, "alpha": 0.18, "solid_capstyle": "butt"}
            axes.plot([middle - reach, middle + reach], [row] * 2, **bar)
            axes.plot(values, [row] * len(values), **look | MARKS, ms=7, alpha=0.7)
            axes.plot([mean(values)] * 2, [row - 0.28, row + 0.28], color="black")
            axes.text(0.985, row, f"{mean(values):.2f}", ha="right", va="center", fontsize=9.5)
        axes.axvline(words, color=GRAY, ls="--", lw=1.6)
        axes.text(0.985, -0.66, "mean", ha="right", va="top", fontsize=9.5, color=GRAY)
        axes.text(words + 0.01, len(names) - 0.42, f"bag of words {words:.2f}", va="top", fontsize=9.5, color=GRAY)
        axes.axvline(0.5, color=GRAY, ls=":", lw=1.4)
        axes.set(yticks=range(len(names)), yticklabels=[METHODS[m] for m in names], xlabel="accuracy on held-out books")
        axes.set(xlim=(0.3, 1), ylim=(len(names) - 0.05, -0.7))  # the widest bars go on outside
        axes.set_title(NAMES[model])
        means = ", ".join(f"{METHODS[m]} {mean(accuracies(model, m)):.2f}" for m in names)
        said.append(f"{NAMES[model]}: bag of words {words:.2f}, {means}")
    figure.suptitle(accuracy_finding())
    return (
        figure,
        f"{accuracy_finding()}. {'. '.join(said)}. A dot for each seed; a bar where the difference to words may lie "
        f"if books are the draws: {CLEAR} standard errors either way. One half is chance.",
    )


def accuracy_finding() -> str:
    """An adapter against the bag of words, for each model: better or worse only where books make it clear."""
    above, said = above_rivals(), []
    for model, name in NAMES.items():
        errors = above[f"{model}, above a bag of words"]
        word = "better" if errors >= CLEAR else "worse" if errors <= -CLEAR else "no difference to be seen"
        said.append(f"{word} ({name})")
    return f"LoRA against counting words: {', '.join(said)}"


@styled
def ranks_picture() -> Drawn:
    """What each rank keeps of the best rank's gain: at one rate for all ranks, and with each rank at its own."""
    figure, frames = panels(2, 9.6, 3.2, sharey=True)
    said = []
    titles = {"one rate for all ranks": False, "each rank its own rate": True}
    for axes, (title, own) in zip(frames, titles.items(), strict=True):
        shown = [model for model in NAMES if not own or searched(model)]
        starts = {model: mean(kept_share(model, RANKS[0], own)) for model in shown}
        for model, color, marker, style in zip(NAMES, (BLUE, ORANGE), "os", ("-", "--"), strict=True):
            if model not in shown:
                continue
            shares = [mean(kept_share(model, rank, own)) for rank in RANKS]
            axes.plot(RANKS, shares, color=color, marker=marker, ls=style)
            above = shares[0] == max(starts.values())  # its label goes above its line
            by, side = ((0, 22), "bottom") if above else ((0, -9), "top")
            note(axes, NAMES[model], (RANKS[0], shares[0]), by, color=color, va=side)
            kept = ", ".join(f"{share:.0%}" for share in shares)
            said.append(f"{title}, {NAMES[model]}: {kept}")
        axes.set_xscale("log", base=2)
        axes.set(xticks=RANKS, xticklabels=RANKS, xlabel="rank", ylim=(0.35, 1.1))
        axes.set_title(title)
    frames[0].set_ylabel("share of the best gain")
    figure.suptitle(ranks_finding())
    return figure, f"{ranks_finding()}. Shares at ranks {', '.join(map(str, RANKS))}. {'; '.join(said)}."


def ranks_finding() -> str:
    """What rank 1 keeps at one rate, and in the smaller model at a rate of its own, said from the numbers."""
    small, large = (mean(kept_share(model, 1)) for model in NAMES)
    text = f"At one rate rank 1 keeps {small:.0%} in the small model, {large:.0%} in the large one"
    own = ", ".join(f"{mean(kept_share(model, 1, True)):.0%}" for model in NAMES if searched(model))
    return text + (f"; at its own rate {own}" if own else "")


@styled
def precision_picture(weight: torch.Tensor, codebook: str = "nf4") -> Drawn:
    """The error of a weight against where it lies in its block. weight: (d_out, d_in), a multiple of 64 in all."""
    blocks = weight.flatten().view(-1, 64)
    absmax = blocks.abs().amax(1, keepdim=True)
    scaled = (blocks / absmax).flatten()
    error = ((quantize(weight, codebook).dequantize() - weight).flatten().view(-1, 64) / absmax).flatten()
    edges = torch.linspace(-1, 1, 81)
    place = torch.bucketize(scaled, edges).clamp(1, 80) - 1
    count = torch.bincount(place, minlength=80).double()
    typical = (torch.bincount(place, error.square().double(), minlength=80) / count.clamp(min=1)).sqrt()
    exact = (scaled.abs() == 1).double().mean().item()
    figure, (axes,) = panels(1, 9, 3)
    middles = (edges[1:] + edges[:-1]) / 2
    axes.bar(middles, typical, width=0.025, **(filled(CODES) | {"lw": 0}))
    shares = axes.twinx()
    shares.plot(middles, count / count.sum(), color=GRAY, lw=1.6)
    shares.set(ylim=(0, None), yticks=[])
    shares.text(0.18, float((count / count.sum()).max()) * 0.93, "how many weights lie there", color=GRAY, fontsize=9.5)
    axes.annotate("exact: the largest\nof each block", (1, 0.006), (1.04, 0.06), fontsize=9.5, ha="left",
                  arrowprops={"arrowstyle": "-", "color": GREEN}, color=GREEN)  # fmt: skip
    axes.set(xlim=(-1.05, 1.4), xlabel="weight, over the absmax of its block", ylabel="typical error, same unit")
    near = typical[middles.abs() < 0.2].mean().item()
    far = typical[(middles.abs() > 0.7) & (middles.abs() < 0.95)].mean().item()
    title = f"Large weights have {far / near:.1f} times the error of small ones, and the largest none"
    axes.set_title(title)
    return figure, (
        f"{title}. Bars: error against the weight's place in its block, low in the middle, rising outward. A gray "
        f"bell: how many weights lie there. {exact:.1%} of them are the largest of their block, and exact."
    )
