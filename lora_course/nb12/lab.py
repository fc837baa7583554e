"""A real model in four states: as loaded or in NF4, without an adapter or after twenty steps with one.

The square tells two things apart that a single run mixes: what training wins back of the rounding, and what it learns
about its text, with which the rounding has nothing to do. Its rivals: an adapter that never saw the rounding, one
temperature, and fewer rounded blocks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lora_course.nb06.lab import rounding
from lora_edu import NF4Linear, evaluate, quantize_linears, train
from lora_edu.calibration import one_temperature
from lora_edu.lora import add_lora, lora_layers
from lora_edu.models.pretrained import load_pretrained, next_token_loss, tokenize
from lora_edu.texts import ADDRESS_LINE, Text, load_text

STEPS = 20
WINDOWS = 16  # of 256 tokens, of each held-out text
RATE = 2e-3
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
    *, draw: int | None = None, blocks: Sequence[int] = (), shift: int | None = None, quantized=False, progress=True
) -> dict:
    """Another reading of the square (nats per token): on both texts after training, else on the Bible.

    draw: train LoRA as `adapted` does, and round the base afterwards. blocks: round these alone, without training.
    shift: round all, the first block of 64 begun so many weights later: another draw of many rounding errors.
    Otherwise nothing is trained, and one temperature is fitted on the text's first half: the losses are its second's.
    """
    model, _, bible, addresses = loaded()
    if draw is not None:
        adapt(model, bible, STEPS, draw, progress)
        for layer in lora_layers(model).values():
            layer.base = NF4Linear.from_linear(layer.base, double_quant=True)
        return {"Bible": loss_on(model, bible.validation), "addresses": loss_on(model, addresses)}
    for block in blocks:
        quantize_linears(model.model.layers[block], double_quant=True)
    if shift is not None:
        for weight in model.model.layers.parameters():
            if weight.dim() == 2:  # of a linear layer; a norm has one
                weight.data = rounding(shift, "nf4", 64, True)(weight.detach())
    if blocks or shift is not None:
        return {"Bible": loss_on(model, bible.validation)}
    if quantized:
        quantize_linears(model, double_quant=True)
    found = one_temperature(model, bible.validation, seq_len=256, max_windows=WINDOWS // 2, batch_size=2)
    return dict(zip(("temperature", "half", "calibrated"), (round(value, 5) for value in found), strict=True))


def loaded() -> tuple[nn.Module, Any, Text, Tensor]:
    """SmolLM2, all of it frozen, its tokenizer, the Bible and the held-out addresses as tokens."""
    model, tokenizer = load_pretrained("smollm2", device="cpu")
    bible = Text(*(tokenize(tokenizer, part) for part in load_text("king-james")))
    return model.requires_grad_(False), tokenizer, bible, tokenize(tokenizer, load_text("speeches").validation)


def adapt(model: nn.Module, text: Text, steps: int, seed: int, progress: bool = True) -> None:
    """Put a rank-8 adapter beside every block linear and train it: one window of 256 tokens a step."""
    torch.manual_seed(seed)  # A is drawn at random
    add_lora(model, rank=8, alpha=16, targets="all-linear")
    how = dict(batch_size=1, seq_len=256, eval_windows=1, loss_fn=next_token_loss, progress=progress)
    train(model, text, steps=steps, lr=RATE, seed=seed, **how)


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
    **{f"NF4, shift {shift}": {"shift": shift} for shift in (16, 32, 48)},
    "as loaded, one temperature": {},
    "NF4, one temperature": {"quantized": True},
}
