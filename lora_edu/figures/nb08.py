"""The memory slider: what training a model needs, by kind, and how much of each common card that fills."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from lora_edu.figures.plots import PART_LOOKS
from lora_edu.figures.sliders import View
from lora_edu.memory.calculator import ALL_KINDS, CARDS_GB, GIB, smallest_card, training_bytes
from lora_edu.memory.shapes import ARCHITECTURES

FULL = 0  # as a rank: full fine-tuning
RANKS = {"full" if rank == FULL else str(rank): rank for rank in (FULL, 1, 4, 8, 16, 32, 64, 128, 256)}
BATCHES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (128, 256, 512, 1024, 2048, 4096)
LOOKS = dict(zip(ALL_KINDS, PART_LOOKS, strict=True))
NEARLY = 0.9  # of a card: what is above this leaves too little for the driver and for temporary tensors
TOP = 1.6  # where the columns are cut off, as a share of the card
MIX = -1.4  # where the column with the shares of each kind stands, left of the cards


def memory_view() -> View:
    """A view with six controls: model (of ARCHITECTURES), rank (0 for full fine-tuning), bits, batch, context and
    checkpointing. Adapters are on all block linears, in float32."""
    figure, axes = _panel()
    mix = [_part(axes, MIX, kind) for kind in ALL_KINDS]
    columns = {card: [_part(axes, i, kind) for kind in ALL_KINDS] for i, card in enumerate(CARDS_GB)}
    over_lines = dict(facecolor="white", edgecolor="none", pad=1)
    shares = [axes.text(i, 0, "", ha="center", va="bottom", fontsize=10, bbox=over_lines) for i in range(len(CARDS_GB))]
    sizes = [figure.text(0.84, _legend_y(i), "", fontsize=10, ha="right", va="center") for i in range(len(ALL_KINDS))]
    in_all = axes.text(MIX, 1.02, "", ha="center", va="bottom", fontsize=10, weight="bold")
    _legend(figure)

    def update(model: str, rank: int, bits: int, batch: int, context: int, checkpointing: bool) -> str:
        full = rank == FULL
        bits = max(bits, 16) if full else bits
        needed = training_bytes(
            ARCHITECTURES[model], bits=bits, rank=None if full else rank, batch_size=batch, seq_len=context,
            checkpointing=checkpointing,
        )  # fmt: skip
        total = sum(needed.values())
        for text, number in zip(sizes, needed.values(), strict=True):
            text.set_text(_gib(number))
        in_all.set_text(_gib(total))
        _fill(mix, [number / total for number in needed.values()])
        for (card, parts), text in zip(columns.items(), shares, strict=True):
            _fill(parts, [number / (card * GIB) for number in needed.values()])
            share = total / (card * GIB)
            text.set_text(f"{share:.0%}" if share < 10 else f"{share:.0f} times")
            text.set_y(min(share, TOP) + 0.02)
        method = "full fine-tuning" if full else f"rank {rank}"
        kept = "with" if checkpointing else "without"
        longer = context > ARCHITECTURES[model].context
        trained_with = f" (more than the {ARCHITECTURES[model].context} it was trained with)" if longer else ""
        return (
            f"{model}, {method}, {bits} bits, batch {batch} of {context} tokens{trained_with}, {kept} checkpointing: "
            f"{_gib(total)}, {_verdict(total)}"
        )

    update("LLaMA 7B", 64, 4, 1, 512, True)
    parts = [part for column in (mix, *columns.values()) for part in column]
    return View(figure, [*parts, *shares, *sizes, in_all], update)


def _fill(parts: list[Rectangle], heights: list[float]) -> None:
    """Stack the parts of one column, cut off at TOP."""
    bottom = 0.0
    for part, height in zip(parts, heights, strict=True):
        part.set_y(min(bottom, TOP))
        part.set_height(max(0.0, min(bottom + height, TOP) - min(bottom, TOP)))
        part.set_visible(part.get_height() > 0.002)  # a hatched part takes a millisecond to draw, seen or not
        bottom += height


def _verdict(n_bytes: float) -> str:
    card = smallest_card(n_bytes)
    if card is None:
        return f"fits none of these cards ({n_bytes / (CARDS_GB[-1] * GIB):.1f} times {CARDS_GB[-1]} GB)"
    share = n_bytes / (card * GIB)
    if share <= NEARLY:
        return f"fits a card of {card} GB"
    return f"fills {share:.1%} of a card of {card} GB: it fits on paper, but leave {1 - NEARLY:.0%} to spare"


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / GIB:,.2f} GiB" if n_bytes < 99.5 * GIB else f"{n_bytes / GIB:,.0f} GiB"


def _panel():
    figure = plt.figure(figsize=(10, 3.7), dpi=96)
    axes = figure.add_axes([0.07, 0.15, 0.62, 0.82])
    axes.set(xlim=(MIX - 0.6, len(CARDS_GB) - 0.4), ylim=(0, TOP + 0.16), ylabel="share in %")
    axes.set_xticks([MIX, *range(len(CARDS_GB))], ["the whole", *(f"{card} GB" for card in CARDS_GB)])
    axes.set_yticks([0, 0.5, 1, 1.5], ["0", "50", "100", "150"])
    axes.set_xlabel("of a card with")
    axes.xaxis.set_label_coords(0.6, -0.1)
    axes.plot([-0.55, len(CARDS_GB) - 0.45], [1, 1], color="black", lw=1.5, ls="--")
    axes.plot([-0.55, len(CARDS_GB) - 0.45], [NEARLY, NEARLY], color="black", lw=0.8, ls=":")
    axes.text(len(CARDS_GB) - 0.42, 1.015, "full", ha="right", va="bottom", fontsize=9)
    axes.text(len(CARDS_GB) - 0.42, NEARLY - 0.015, f"{NEARLY:.0%}", ha="right", va="top", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _part(axes: plt.Axes, column: float, kind: str) -> Rectangle:
    color, hatch = LOOKS[kind]
    part = Rectangle((column - 0.33, 0), 0.66, 0, facecolor=color, hatch=hatch, edgecolor="white", lw=0.5)
    return axes.add_patch(part)


def _legend(figure: plt.Figure) -> None:
    """The kinds and their looks; their sizes, which move, are written beside them by `update`."""
    for i, (kind, (color, hatch)) in enumerate(LOOKS.items()):
        sample = Rectangle((0.71, _legend_y(i) - 0.03), 0.045, 0.06, facecolor=color, hatch=hatch, edgecolor="white")
        figure.add_artist(sample)
        figure.text(0.85, _legend_y(i), kind.replace("quantization ", ""), fontsize=10, va="center")


def _legend_y(i: int) -> float:
    """Where the line of the i-th kind stands, from the top down, as a share of the figure's height."""
    return 0.84 - 0.115 * i
