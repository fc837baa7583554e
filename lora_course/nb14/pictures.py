"""The pictures of notebook 14: what training a model needs, by kind, and how much of each card that fills."""

import ipywidgets
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from lora_course.drawing.style import Drawn, beside, panels, picture, slider, stage
from lora_course.nb08.pictures import PARTS
from lora_edu.memory.calculator import ALL_KINDS, BITS, CARDS_GB, GIB, LOGITS, USABLE, smallest_card, training_bytes
from lora_edu.memory.shapes import ARCHITECTURES, BASE, CONSTANTS

CARDS_ALT = (
    "A bar split into the kinds of memory that training needs, and a bar for each card of 8 to 80 GB: how much of it "
    "is filled, with lines at 90% and 100%. A bar that would be higher than the picture is drawn with a break."
)
FULL = 0  # as a rank: full fine-tuning
RANKS = {"full" if rank == FULL else str(rank): rank for rank in (FULL, 1, 4, 8, 16, 32, 64, 128, 256)}
TOKENS = tuple(2**k for k in range(7, 17))  # in a step; in sequences of at most 512
TOP = 1.6  # where the bars are cut off, as a share of the card
LABEL = {"fc": "white", "ec": "none", "pad": 0.5}  # behind a label that stands on a line
MIX = -1.4  # where the bar with the shares of each kind stands, left of the cards


def card_controls() -> dict[str, ipywidgets.Widget]:
    """What is trained, and how."""
    slide = ipywidgets.SelectionSlider
    return {
        "model": slide(options=list(ARCHITECTURES), value="Llama 3.1 8B", description="model"),
        "rank": slide(options=list(RANKS.items()), value=FULL, description="rank"),
        "bits": slide(options=BITS, value=16, description="bits"),
        "tokens": slide(options=TOKENS, value=2048, description="tokens"),
        "checkpointing": ipywidgets.Checkbox(description="checkpointing", indent=False),
    }


def parts_of(needed: dict[str, float], codes: float) -> dict[str, float]:
    """The kinds of `training_bytes` as parts of a bar: `codes` of the base weights' bytes are codes."""
    sizes = {"weights": needed[BASE] - codes, "codes": codes, "constants": needed[CONSTANTS]}
    sizes |= {kind: needed[kind] for kind in ALL_KINDS if kind not in (BASE, CONSTANTS)}
    return {name: sizes[name] for name in PARTS}  # in the order in which they are stacked


@slider
def memory_view():
    """A view with five controls: model (of ARCHITECTURES), rank (0 for full fine-tuning), bits, tokens and
    checkpointing. Adapters are on all block linears, in float32."""
    figure, axes = _panel()
    mix = [_part(axes, MIX, name) for name in PARTS]
    columns = {card: [_part(axes, i, name) for name in PARTS] for i, card in enumerate(CARDS_GB)}
    above = {"ha": "center", "va": "bottom", "animated": True}
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    shares = [axes.text(i, 0, "", bbox=paper, **above) for i in range(len(CARDS_GB))]
    breaks = [axes.add_line(_zigzag(i)) for i in range(len(CARDS_GB))]
    sizes = beside(figure, PARTS, 0.715, 0.758, 0.88, 0.1)
    in_all = axes.text(MIX, 1.02, "", weight="bold", **above)

    def values(model: str, rank: int, bits: int, tokens: int, checkpointing: bool) -> dict:
        full = rank == FULL
        bits, length = max(bits, 16) if full else bits, min(tokens, 512)
        needed = training_bytes(
            ARCHITECTURES[model], bits=bits, rank=None if full else rank, batch_size=tokens // length, seq_len=length,
            checkpointing=checkpointing,
        )  # fmt: skip
        codes = ARCHITECTURES[model].parameters()["block linears"] * bits / 8 if bits < 16 else 0.0
        method, kept = "full fine-tuning" if full else f"rank {rank}", "with" if checkpointing else "without"
        total = sum(needed.values())
        return {
            "parts": parts_of(needed, codes),
            "total": total,
            "readout": f"{model}, {method}, {bits} bits, {tokens:,} tokens, {kept} checkpointing: "
            f"{_gib(total)}, {_verdict(total)}",
        }

    def draw(now: dict) -> None:
        sizes_now, total = list(now["parts"].values()), now["total"]
        for text, number in zip(sizes, sizes_now, strict=True):
            text.set_text(_gib(number))
        in_all.set_text(_gib(total))
        _fill(mix, [number / total for number in sizes_now])
        for (card, parts), text, cut in zip(columns.items(), shares, breaks, strict=True):
            share = total / (card * GIB)
            _fill(parts, [number / (card * GIB) for number in sizes_now])
            text.set_text(f"{share:,.0%}")
            text.set_y(min(share, TOP) + 0.02)
            cut.set_visible(share > TOP)

    start = {"model": "Llama 3.1 8B", "rank": 16, "bits": 4, "tokens": 512, "checkpointing": True}
    return figure, values, draw, start


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
    on_paper = next((size for size in CARDS_GB if n_bytes <= size * GIB), None)
    if on_paper is None:
        return f"fits none of these cards ({n_bytes / (CARDS_GB[-1] * GIB):.1f} times {CARDS_GB[-1]} GB)"
    if card == on_paper:
        return f"fits a card of {card} GB"
    share = n_bytes / (on_paper * GIB)
    return f"fills {share:.1%} of a card of {on_paper} GB: on paper it fits, but leave {1 - USABLE:.0%} to spare"


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / GIB:,.2f} GiB" if n_bytes < 99.5 * GIB else f"{n_bytes / GIB:,.0f} GiB"


def _panel() -> tuple[Figure, Axes]:
    (figure, axes), last = stage(9.6, 3.6, (0.07, 0.15, 0.62, 0.82)), len(CARDS_GB) - 0.45
    axes.set(xlim=(MIX - 0.6, last + 0.6), ylim=(0, TOP + 0.16), ylabel="share in %")
    axes.set_xticks([MIX, *range(len(CARDS_GB))], ["in all", *(f"{card} GB" for card in CARDS_GB)])
    axes.set_yticks([0, 0.5, 1, 1.5], ["0", "50", "100", "150"])
    axes.set_xlabel("of a card with")
    axes.xaxis.set_label_coords(0.57, -0.1)
    axes.plot([-0.55, last], [1, 1], color="black", lw=1.5, ls="--")
    axes.plot([-0.55, last], [USABLE, USABLE], color="black", lw=0.8, ls=":")
    axes.text(last + 0.04, 1, "full", va="bottom", fontsize=9)  # beside the bars, which would hide them
    axes.text(last + 0.04, USABLE, f"{USABLE:.0%}", va="top", fontsize=9)
    return figure, axes


def _part(axes: Axes, column: float, name: str) -> Rectangle:
    part = Rectangle((column - 0.33, 0), 0.66, 0, animated=True, **({"lw": 0.5} | PARTS[name]))
    axes.add_patch(part)
    return part


def _zigzag(column: int) -> Line2D:
    """The mark of a bar that is cut off: a white line across it, below its end."""
    steps = range(9)
    heights = [TOP - (0.1 if step % 2 else 0.05) for step in steps]
    across = [column - 0.36 + 0.09 * step for step in steps]
    return Line2D(across, heights, color="white", lw=3.5, animated=True)


# --- several models --------------------------------------------------------------------------------------------------


@picture
def models_picture(needed: dict[str, dict[str, dict[str, float]]], cards: tuple[int, ...] = (24, 48)) -> Drawn:
    """Two bars for each model, the logits at their end: one for few tokens and one for many.

    needed: title of the bar -> model -> kind -> bytes. cards: drawn as lines, with a tenth left free.
    """
    few, many = needed
    figure, (axes,) = panels(1, 9.6, 4.6)
    for title, shift in ((few, -0.19), (many, 0.19)):
        for place, kinds in enumerate(needed[title].values()):
            whole, logits = sum(kinds.values()) / GIB, kinds[LOGITS] / GIB
            axes.barh(place + shift, whole - logits, height=0.36, **PARTS["weights"])
            axes.barh(place + shift, logits, left=whole - logits, height=0.36, **PARTS[LOGITS])
            label = f"{whole:.1f}" + f"   {title}" * (place == 0)
            axes.text(whole + 0.7, place + shift, label, va="center", fontsize=9, bbox=LABEL)
    for card in cards:
        axes.axvline(USABLE * card, color="black", lw=1, ls=":", zorder=0)
        axes.text(USABLE * card, -0.62, f"{card} GB card", ha="center", va="bottom", fontsize=9, bbox=LABEL)
    axes.set(xlabel="GiB", xlim=(0, 68), yticks=range(len(needed[few])), yticklabels=list(needed[few]))
    axes.set_ylim(len(needed[few]) - 0.5, -1.0)
    figure.legend(axes.patches[:2], ["all the rest", LOGITS], loc="outside lower center", ncols=2)
    return figure, _told(needed)


def _told(needed: dict[str, dict[str, dict[str, float]]]) -> str:
    """The finding of the bars, and their numbers."""
    _, many = needed
    in_all = {title: {name: sum(of.values()) for name, of in models.items()} for title, models in needed.items()}
    small, *others = sorted(in_all[many], key=lambda name: ARCHITECTURES[name].n_parameters)
    passed = [name for name in others if in_all[many][name] < in_all[many][small]]
    numbers = "; ".join(
        f"{name} {' and '.join(f'{in_all[title][name] / GIB:.1f}' for title in needed)}, of them logits "
        f"{' and '.join(f'{needed[title][name][LOGITS] / GIB:.1f}' for title in needed)}"
        for name in in_all[many]
    )
    return (
        f"Over {many} the smallest model, {small}, needs more than {passed[-1]}. GiB over {' and over '.join(needed)}: "
        f"{numbers}. Two bars for each model, the logits at their end; dotted: nine tenths of two cards."
    )
