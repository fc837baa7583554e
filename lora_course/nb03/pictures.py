"""The pictures of notebook 03: the guess after each block under a cursor, one block as a drawing, and what decides.

Every picture is a function of the numbers that it shows and returns `(figure, words)`; the cursor is a view.
"""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from torch import Tensor

from lora_course.drawing import looks
from lora_course.drawing.style import Drawn, note, panels, slider, stage, styled
from lora_edu.gpt import GPT, encode

SIX = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
TOP = 4  # guesses that are shown after each block
CURSOR_WORDS = (
    "A line of text with a cursor. Below it the model's four best guesses at the next byte, after 0 to 4 blocks; "
    "above it, at which bytes two attention heads look."
)
HEADS = ((0, 1), (2, 2))  # (block, head), counted from 0: the shipped model's "byte before" and "spaces"


# --- what the pictures show ------------------------------------------------------------------------------------------


def streams(model: GPT, tokens: Tensor) -> list[Tensor]:
    """tokens (B, S) -> the stream before the first block and after each one: n_layers + 1 tensors (B, S, d_model)."""
    positions = torch.arange(tokens.shape[1])
    found = [model.token_embedding(tokens.long()) + model.position_embedding(positions)]
    for block in model.blocks:
        found.append(block(found[-1]))
    return found


def attention_weights(model: GPT, stream: list[Tensor], block: int, head: int) -> Tensor:
    """The weights (S, S) of one head, computed from the stream before its block; row i looks at the columns up to i."""
    layer = model.blocks[block].attention
    h = model.blocks[block].attention_norm(stream[block])
    q, k = (layer.split_heads(proj(h))[0, head] for proj in (layer.q_proj, layer.k_proj))  # (S, D)
    future = torch.ones(len(q), len(q)).triu(diagonal=1).bool()
    return (q @ k.T / q.shape[-1] ** 0.5).masked_fill(future, float("-inf")).softmax(dim=-1)


def glyph(byte: int) -> str:
    """A byte as one visible sign: a space as an open box, anything outside printable ASCII as its number."""
    return "␣" if byte == 32 else chr(byte) if 32 < byte < 127 else f"{byte:02x}"


def head_name(head: tuple[int, int]) -> str:
    """(block, head), counted from 0, as the page says it."""
    return f"block {head[0] + 1}, head {head[1] + 1}"


def three_measures(loss: dict[str, float], text: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table: each loss in nats per byte, as bits per byte and as a perplexity."""
    rows = [[name, f"{nats:.2f}", f"{nats / np.log(2):.2f}", f"{np.exp(nats):.1f}"] for name, nats in loss.items()]
    return [text, "nats per byte", "bits per byte", "perplexity"], rows


# --- the cursor ------------------------------------------------------------------------------------------------------


@slider
def guess_view(model: GPT, text: str, heads: Sequence[tuple[int, int]] = HEADS):
    """A view with one control, bytes_read (1 to len(text) - 1): the guess after each block; where two heads look."""
    tokens = encode(text)
    with torch.no_grad():
        stream = streams(model, tokens[None])
        guesses = torch.stack([model.lm_head(model.final_norm(x))[0].softmax(dim=-1) for x in stream])
        attention = torch.stack([attention_weights(model, stream, *head) for head in heads])

    def values(bytes_read: int) -> dict:
        here, truth = guesses[:, bytes_read - 1], int(tokens[bytes_read])  # (depth, 256)
        shares, letters = here.topk(TOP)
        first = " ".join(glyph(letter) for letter in letters[:, 0].tolist())
        rising = ", ".join(f"{share:.2f}" for share in here[:, truth].tolist())
        read = text[max(0, bytes_read - 18) : bytes_read]
        return {
            "bytes_read": bytes_read,
            "truth": truth,  # the byte that comes next
            "letters": letters.numpy(),  # (depth, TOP)
            "shares": shares.numpy(),
            "of_truth": here[:, truth].numpy(),  # (depth,)
            "attention": attention[:, bytes_read - 1].numpy(),  # (2, S)
            "readout": f"After “{read}” comes “{glyph(truth)}”. First guesses: {first}. Its probability: {rising}.",
        }

    figure, draw = _cursor_panels(tokens.tolist(), len(stream), heads)
    return figure, values, draw, {"bytes_read": 1}


def _cursor_panels(tokens: list[int], depths: int, heads: Sequence[tuple[int, int]]):
    figure, line = stage(10, 5, (0.15, 0.53, 0.84, 0.46))
    line.set(xlim=(-0.7, len(tokens) - 0.3), ylim=(-0.6, 4.2))
    line.axis("off")
    for place, byte in enumerate(tokens):
        line.text(place, 0, glyph(byte), ha="center", va="center", fontsize=13, family="monospace")
    edges = (np.arange(len(tokens))[:, None] + (-0.4, 0.4)).flatten()  # a bar, a gap, a bar, ...
    rows = []
    for height, head in zip((0.8, 2.6), heads, strict=True):
        line.axhline(height, color=looks.GRAY, lw=0.8)
        line.text(-0.9, height + 0.6, f"{head_name(head)}\nlooks at", ha="right", va="center")
        flat = np.full(2 * len(tokens) - 1, float(height))
        bars = line.stairs(flat, edges, baseline=height, fill=True, color=looks.BLUE, animated=True)
        rows.append((height, bars))
    line.text(-0.9, 0, "the text", ha="right", va="center")
    box: dict = {"animated": True, "zorder": 2}
    cover = Rectangle((0, -0.6), len(tokens), 1.2, color="white", alpha=0.82, **box)
    cursor = Rectangle((0, -0.5), 1, 1.0, fill=False, edgecolor="black", lw=2, gid="here", **box)
    hidden = Rectangle((0, -0.5), 1, 1.0, fill=False, edgecolor=looks.SKY, lw=2, ls="--", **box)
    for rectangle in (cover, cursor, hidden):
        line.add_patch(rectangle)
    guesses = [_guess_panel(figure, depth, depths) for depth in range(depths)]

    def draw(found: dict) -> None:
        here = found["bytes_read"] - 1
        cursor.set_x(here - 0.5)
        hidden.set_x(here + 0.5)
        cover.set_x(here + 1.5)
        for (height, steps), shares in zip(rows, found["attention"], strict=True):
            tops = np.full(2 * len(shares) - 1, float(height))
            tops[::2] += 1.3 * shares
            steps.set_data(tops)
        for depth, (bars, names, title) in enumerate(guesses):
            title.set_text(f"“{glyph(found['truth'])}”: {found['of_truth'][depth]:.2f}")
            for rank, (bar, name) in enumerate(zip(bars, names, strict=True)):
                letter, share = found["letters"][depth, rank], found["shares"][depth, rank]
                right = letter == found["truth"]
                bar.set(width=share, facecolor=looks.SKY if right else looks.GRAY, hatch="//" if right else "")
                name.set_text(glyph(letter))

    return figure, draw


def _guess_panel(figure: Figure, depth: int, depths: int):
    axes = figure.add_axes((0.05 + 0.95 * depth / depths, 0.1, 0.95 / depths - 0.05, 0.29))
    axes.set(xlim=(0, 1), ylim=(TOP - 0.4, -0.6), yticks=[], xticks=[0, 0.5, 1], xticklabels=["0", ".5", "1"])
    axes.set_xlabel("probability")
    what = "no block yet" if depth == 0 else f"after block {depth}"
    axes.set_title(what, pad=20)
    title = axes.text(0, 1.04, "", fontsize=11, color=looks.SKY, transform=axes.transAxes, animated=True)
    bars = axes.barh(range(TOP), [0] * TOP, height=0.7, edgecolor="white", animated=True)
    letter: dict = {"ha": "right", "va": "center", "fontsize": 12, "family": "monospace", "animated": True}
    names = [axes.text(-0.05, rank, "", **letter) for rank in range(TOP)]
    return bars, names, title


# --- the mechanism ---------------------------------------------------------------------------------------------------


@styled
def attention_maps(maps: dict[str, Tensor], text: str) -> Drawn:
    """Heat maps of attention, one per name: weights (S, S) over a text of S bytes."""
    figure, frames = panels(len(maps), 5.2 * len(maps), 5.4)
    signs = [glyph(byte) for byte in text.encode()]
    for axes, (what, weights) in zip(frames, maps.items(), strict=True):
        image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
        axes.set_title(what)
        axes.set_xticks(range(len(signs)), signs, fontsize=9)
        axes.set_yticks(range(len(signs)), signs, fontsize=9)
        axes.set(xlabel="the byte that is looked at (␣: a space)", ylabel="the byte that looks")
    figure.colorbar(image, ax=frames, label="attention weight (each row sums to 1)", shrink=0.8)
    return figure, (
        f"{'; '.join(maps)}. Triangular heat maps over “{text}”: a row for each byte that looks, a column for each "
        "byte that it looks at; dark means much weight. Above the diagonal, in the future, all weights are 0."
    )


@styled
def block_diagram(d_model: int = 256) -> Drawn:
    """One block: the residual stream, what is added to it, and the six linear layers, areas true to scale."""
    figure, (axes,) = panels(1, 10.4, 4.4)
    axes.set(xlim=(-0.2, 19.8), ylim=(-1.2, 6.5), aspect="equal")
    axes.axis("off")
    stream, middle = 5.4, 2.0
    _arrow(axes, (0, stream), (19.6, stream), 22, 4)
    axes.text(0, stream + 0.35, f"residual stream: {d_model} numbers at each byte", fontsize=11)
    for x in (8.1, 18.2):
        axes.add_patch(Circle((x, stream), 0.42, facecolor="white", edgecolor="black", lw=1.8, zorder=3))
        axes.text(x, stream, "+", ha="center", va="center", fontsize=15, zorder=4)
    places = ((3.2, 3.6), (3.2, middle), (3.2, 0.4), (7.0, middle), (11.4, middle), (16.0, middle))
    for name, (x, y) in zip(SIX, places, strict=True):
        width, height = {"up_proj": (1, 4), "down_proj": (4, 1)}.get(name, (1, 1))  # W is d_out high and d_in wide
        corner = (x - width / 2, y - height / 2)
        axes.add_patch(Rectangle(corner, width, height, **looks.light(looks.WEIGHT)))
        axes.text(x, corner[1] - 0.08, name, ha="center", va="top")
    for x, text in ((1.4, "norm"), (9.6, "norm"), (5.15, "average,\nhead by\nhead"), (12.95, "GELU")):
        axes.text(x, middle, text, ha="center", va="center", bbox={"boxstyle": "round", "fc": "white"})
    for x in (0.9, 9.05):
        _arrow(axes, (x, stream), (x + (0.5 if x < 5 else 0.55), middle + 0.4))
    for start, end in ARROWS:
        _arrow(axes, start, end)
    axes.text(4.4, -0.95, "attention: bytes exchange", ha="center", fontsize=11)
    axes.text(13.6, -0.95, "MLP: each byte by itself", ha="center", fontsize=11)
    axes.set_title("A block adds to the stream twice; six linear layers make what is added")
    return figure, (
        f"Six linear layers make what a block adds to the stream of {d_model} numbers. First branch: norm, "
        f"{', '.join(SIX[:3])} ({d_model} by {d_model}), the average of each head, o_proj, plus. "
        f"Second branch: norm, up_proj ({4 * d_model} by {d_model}), GELU, down_proj, plus. "
        f"Filled: {', '.join(SIX)}."
    )


ARROWS = (
    ((1.85, 2.15), (2.65, 3.5)),
    ((1.95, 2.0), (2.65, 2.0)),
    ((1.85, 1.85), (2.65, 0.5)),
    ((3.75, 3.5), (4.45, 2.6)),
    ((3.75, 2.0), (4.35, 2.0)),
    ((3.75, 0.5), (4.45, 1.4)),
    ((5.9, 2.0), (6.45, 2.0)),
    ((7.5, 2.5), (8.0, 4.95)),
    ((10.15, 2.0), (10.85, 2.0)),
    ((11.95, 2.0), (12.35, 2.0)),
    ((13.55, 2.0), (13.95, 2.0)),
    ((17.5, 2.55), (18.1, 4.95)),
)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], head: float = 11, lw: float = 1.1) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=head, color="black", lw=lw))


# --- who decides -----------------------------------------------------------------------------------------------------


@styled
def ripening(shared: list[float], own: list[float], without: list[float], pairs: float) -> Drawn:
    """The loss after block 1, 2, ..., read by the last readout and by one of its own; and without each block.

    pairs: the loss of counted pairs of bytes, which no readout before block 1 can pass.
    """
    figure, (left, right) = panels(2, 10.4, 3.9, width_ratios=[3, 2])
    blocks = range(1, len(shared) + 1)
    left.plot(blocks, shared, "-o", color=looks.BLUE, label="the model's readout")
    left.plot(blocks, own, "--s", color="black", label="a readout trained for each depth")
    for block, high, low in zip(blocks, shared, own, strict=True):
        note(left, f"{max(high, low):.2f}", (block, max(high, low)), (0, 8), "center", va="baseline")
        note(left, f"{min(high, low):.2f}", (block, min(high, low)), (0, -16), "center", va="baseline")
    left.axhline(pairs, color=looks.GRAY, ls=":")
    note(left, f"before block 1, at best: pairs of bytes, {pairs:.2f}", (blocks[-1], pairs), (0, 7), "right")
    left.set_xticks(blocks, [f"after block {block}" for block in blocks])
    left.set(ylabel="loss, nats per byte", ylim=(0, max(*shared, pairs) * 1.15), xlim=(0.7, len(shared) + 0.3))
    left.legend(loc="lower left")
    left.set_title("The guess ripens, whoever reads it")
    names = [f"block {block}" for block in blocks]
    right.bar_label(right.bar(names, without, color=looks.GRAY), [f"{loss:.2f}" for loss in without], padding=3)
    right.axhline(shared[-1], color="black", ls=":", lw=1.5)
    dotted = f"dotted: with all\nblocks, {shared[-1]:.2f}"
    right.text(len(without) - 0.5, max(without) * 0.75, dotted, ha="right", fontsize=11)
    right.set(ylabel="loss without this block, nats per byte", ylim=(0, max(without) * 1.12))
    right.set_title(f"Block {int(np.argmax(without)) + 1} is missed most")
    return figure, (
        f"The guess ripens, whoever reads it. Loss in nats per byte after each block, with the model's readout: "
        f"{_listed(shared)}; with a readout trained for each depth: {_listed(own)}; counted pairs of bytes: "
        f"{pairs:.2f}. Bars on the right, the loss without block 1 to {len(without)}: {_listed(without)}."
    )


def _listed(losses: list[float]) -> str:
    return ", ".join(f"{loss:.2f}" for loss in losses)
