"""A real model in four states: as loaded or in NF4, without an adapter or after twenty steps with one.

The square tells two things apart that a single run mixes: what training wins back of the rounding, and what it learns
about its text, with which the rounding has nothing to do. Beside it: an adapter that never saw the rounding, one that
saw it and is put on other bases, and fewer rounded blocks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lora_course.running import scoreboard
from lora_edu import NF4Linear, evaluate, quantize, quantize_linears, train
from lora_edu.lora import add_lora, lora_layers
from lora_edu.models.pretrained import load_pretrained, next_token_loss, tokenize
from lora_edu.texts import ADDRESS_LINE, Text, load_text

STEPS = 20
WINDOWS = 16  # of 256 tokens, of each held-out text
RATE = 2e-3
DRAWS = range(3)  # seeds of other draws of NF4
VERSE_LINE = "And David lamented with this lamentation over Saul"  # 2 Samuel 1:17, a book that is held out
PROMPT = "In the evening, the old man"


def adapted(quantized: bool, steps: int = STEPS, draw: int = 0, *, seed: int = 0, progress: bool = True) -> dict:
    """Measure SmolLM2-135M on both texts, in one of its four states.

    quantized: round the block linears to NF4 first. steps: of training a rank-8 adapter on the King James Bible; 0
    measures without one. draw: the seed of A and of the windows that are trained on.
    Returns the losses on Bible and addresses (nats per token); for draw 0 also the surprise at each byte of two lines
    and a continuation of PROMPT.
    """
    model, tokenizer, bible, addresses = loaded()
    if quantized:
        quantize_linears(model, double_quant=True)
    if steps:
        adapt(model, bible, steps, seed + draw, progress)
    result = {"Bible": loss_on(model, bible.validation), "addresses": loss_on(model, addresses)}
    if draw == 0:
        lines = {"Bible line": VERSE_LINE, "address line": ADDRESS_LINE}
        result |= {name: surprise_by_byte(model, tokenizer, line) for name, line in lines.items()}
        with torch.no_grad():  # always the likeliest token
            written = model.generate(**tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=40, do_sample=False)
        result["sample"] = tokenizer.decode(written[0])
    return result


def rival(
    *, draw: int | None = None, quantized=False, blocks: Sequence[int] = (), permuted: int | None = None, progress=True
) -> dict:
    """Another reading of the square (nats per token): on both texts after training, else on the Bible.

    draw: train LoRA as `adapted` does, and round the base afterwards; or, quantized, train QLoRA and move its adapter.
    blocks: round these alone, without training. permuted: round all, columns permuted: another draw of NF4.
    """
    model, _, bible, addresses = loaded()
    weights = {path: layer.weight for path, layer in model.named_modules() if path.endswith("_proj")}
    if quantized:
        quantize_linears(model, double_quant=True)
    if draw is not None:
        training = adapt(model, bible, STEPS, draw, progress)
        if quantized:
            return moved(model, weights, bible) | {"training": training}
        for layer in lora_layers(model).values():
            layer.base = NF4Linear.from_linear(layer.base, double_quant=True)
        return {"Bible": loss_on(model, bible.validation), "addresses": loss_on(model, addresses)}
    for block in blocks:
        quantize_linears(model.model.layers[block], double_quant=True)
    if permuted is not None:
        for weight in weights.values():
            weight.data = scoreboard.permuted(to_nf4, permuted)(weight.detach())
    return {"Bible": loss_on(model, bible.validation)}


def moved(model: nn.Module, weights: dict[str, Tensor], bible: Text) -> dict:
    """The Bible's loss of an adapter that was trained on NF4, put on other bases.

    weights: of the layers as loaded. The bases: the draw of NF4 that it saw, the weights as loaded, and other draws.
    """
    found: dict = {"own draw": loss_on(model, bible.validation)}
    bases = {"as loaded": lambda weight: weight}
    bases |= {f"permuted {seed}": scoreboard.permuted(to_nf4, seed) for seed in DRAWS}
    for name, change in bases.items():
        for path, layer in lora_layers(model).items():
            weight = change(weights[path].detach())
            layer.base = nn.Linear(*weight.T.shape, bias=False).requires_grad_(False)
            layer.base.weight.data = weight
        found[name] = loss_on(model, bible.validation)
    return found


def to_nf4(weight: Tensor) -> Tensor:
    """A weight rounded to NF4 and decoded."""
    return quantize(weight, double_quant=True).dequantize()


def loaded() -> tuple[nn.Module, Any, Text, Tensor]:
    """SmolLM2, all of it frozen, its tokenizer, the Bible and the held-out addresses as tokens."""
    model, tokenizer = load_pretrained("smollm2", device="cpu")
    bible = Text(*(tokenize(tokenizer, part) for part in load_text("king-james")))
    return model.requires_grad_(False), tokenizer, bible, tokenize(tokenizer, load_text("speeches").validation)


def adapt(model: nn.Module, text: Text, steps: int, seed: int, progress: bool = True) -> list[float]:
    """Put a rank-8 adapter beside every block linear and train it: 256 tokens a step. Returns the steps' losses."""
    torch.manual_seed(seed)  # A is drawn at random
    add_lora(model, rank=8, alpha=16, targets="all-linear")
    how = dict(batch_size=1, seq_len=256, eval_windows=1, loss_fn=next_token_loss, progress=progress)
    return [round(loss, 4) for loss in train(model, text, steps=steps, lr=RATE, seed=seed, **how).train_loss]


def loss_on(model: nn.Module, tokens: Tensor) -> float:
    return round(evaluate(model, tokens, seq_len=256, max_windows=WINDOWS, batch_size=2, loss_fn=next_token_loss), 5)


def surprise_by_byte(model: nn.Module, tokenizer, line: str) -> list[float]:
    """The surprise at each token of a line, shared out evenly over the bytes of the token: (n_bytes,) nats."""
    start, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("\n", line))
    with torch.no_grad():
        scores = model(torch.tensor([start + ids]), use_cache=False).logits[0].float().log_softmax(-1)
    losses = -scores[len(start) - 1 : -1].gather(1, torch.tensor(ids)[:, None])[:, 0]
    sizes = [len(tokenizer.decode([token]).encode("utf-8")) for token in ids]
    return [round(loss / size, 4) for loss, size in zip(losses.tolist(), sizes, strict=True) for _ in range(size)]


FOUR_STATES = {"as loaded": {"quantized": False, "steps": 0}, "NF4": {"quantized": True, "steps": 0}} | {
    f"{name}, seed {draw}": {"quantized": quantized, "draw": draw}
    for draw in range(3)
    for name, quantized in (("LoRA", False), ("QLoRA", True))
}
RIVALS: dict[str, dict] = {
    **{f"LoRA onto NF4, seed {draw}": {"draw": draw} for draw in range(3)},
    **{f"four blocks, from {start}": {"blocks": list(range(start, 30, 8))[:4]} for start in (0, 2, 5)},
    "the first four blocks": {"blocks": [0, 1, 2, 3]},
    "the last four blocks": {"blocks": [26, 27, 28, 29]},
    **{f"NF4, permuted {seed}": {"permuted": seed} for seed in DRAWS},
    "QLoRA moved, seed 0": {"draw": 0, "quantized": True},
}
