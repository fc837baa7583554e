"""A task for a real model: SmolLM2 is asked to write telegrams out, by prompts and by LoRA (notebook 17).

Every arm ends alike: the same held-out telegrams, always the likeliest token, the words put back. Beside them stand
the losses on held-out sentences as answers and on plain addresses.
"""

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lora_course.nb17.lab_telegrams import SMALL, Pair, Pairs, counts, pairs, words
from lora_course.running.llama_cpp import as_gguf, speak
from lora_course.running.sweeps import seeded
from lora_edu import add_lora, evaluate, load_pretrained, load_text, merge, save_adapter, train
from lora_edu.downloads import model_folder
from lora_edu.models.pretrained import next_token_loss, tokenize
from lora_edu.records import sha256
from lora_edu.texts import Text
from lora_edu.training import learning_rate_factor, set_learning_rate, trainable_parameters, training_step

END, SKIP = 2, -100  # the token that ends an answer, which also pads; a target that the loss leaves out
PAIRS, TESTED = 600, 128
BATCH, RATE, WARMUP = 4, 2e-3, 5  # pairs a step; the rate is notebook 12's
MOST = 44  # tokens of an answer; the longest held-out sentence needs fewer
ASKED = "Write out this telegram: {}"
WORDINGS = {
    "short": ASKED,
    "long": "Below is a telegram. Write it out as one full English sentence: keep its words and their order, add the "
    "small words that were left out, capitals and punctuation. Answer with the sentence only.\n\n{}",
    "the words listed": "These small words were left out of a sentence wherever they stood: "
    f"{', '.join(sorted(SMALL))}. Put them back, keep the other words and their order, and answer with the sentence "
    "only.\n\n{}",
}
SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"


def turn(request: str, answer: str = "") -> str:
    """A request as the model was trained to read it; with an answer, a finished turn of a conversation."""
    opened = f"<|im_start|>user\n{request}<|im_end|>\n<|im_start|>assistant\n"
    return f"{opened}{answer}<|im_end|>\n" if answer else opened


# --- from pairs to batches -------------------------------------------------------------------------------------------


def encoded(tokenizer: Any, short: str, sentence: str) -> tuple[list[int], list[int]]:
    """The tokens of the question, and those of the answer with its end."""
    question = tokenizer(turn(ASKED.format(short)), add_special_tokens=False)["input_ids"]
    return question, [*tokenizer(sentence, add_special_tokens=False)["input_ids"], END]


def batch_of(rows: Sequence[tuple[list[int], list[int]]], masked: bool = True) -> tuple[Tensor, Tensor]:
    """Questions and answers as inputs and targets, (batch, longest): what is asked of each place is what follows.

    masked: whether the loss leaves the question out.
    """
    longest = max(len(question) + len(answer) for question, answer in rows) - 1
    inputs = torch.full((len(rows), longest), END)
    targets = torch.full((len(rows), longest), SKIP)
    for i, (question, answer) in enumerate(rows):
        ids = torch.tensor(question + answer)
        first = len(question) - 1 if masked else 0  # the last token of the question is asked for the answer's first
        inputs[i, : len(ids) - 1] = ids[:-1]
        targets[i, first : len(ids) - 1] = ids[first + 1 :]
    return inputs, targets


def taught(model, tokenizer, rows: Pairs, seed=0, *, masked=True, ends=True, progress=True) -> list[float]:
    """Put a rank-8 adapter beside each block linear and train it on pairs, each once. Returns the steps' losses.

    ends: without it the loss leaves out every END, as a mask of the padding does that looks at the tokens.
    """
    torch.manual_seed(seed)  # A is drawn at random
    add_lora(model, rank=8, alpha=16, targets="all-linear")
    optimizer = torch.optim.AdamW(trainable_parameters(model), betas=(0.9, 0.95), weight_decay=0.0)
    losses, steps = [], len(rows) // BATCH
    for step in tqdm(range(steps), disable=not progress):
        set_learning_rate(optimizer, RATE * learning_rate_factor(step, steps, WARMUP, 0.1))
        some = [encoded(tokenizer, *pair) for pair in rows[step * BATCH : (step + 1) * BATCH]]
        inputs, targets = batch_of(some, masked)
        if not ends:
            targets[targets == END] = SKIP
        losses.append(round(training_step(model, inputs, targets, optimizer, next_token_loss), 4))
    return losses


# --- asking ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def answered(model: nn.Module, tokenizer, prompts: Sequence[str]) -> tuple[list[str], int]:
    """What the model writes, always the likeliest token, and how many of the answers ended by themselves."""
    tokenizer.padding_side, found, ended = "left", [], 0
    for start in range(0, len(prompts), 16):
        some = list(prompts[start : start + 16])
        how = tokenizer(some, return_tensors="pt", padding=True, add_special_tokens=False)
        written = model.generate(**how, max_new_tokens=MOST, do_sample=False, pad_token_id=END)
        written = written[:, how["input_ids"].shape[1] :]
        ended += int((written == END).any(dim=1).sum())
        found += tokenizer.batch_decode(written, skip_special_tokens=True)
    return found, ended


def best_line(short: str, answer: str) -> str:
    """The line with most of the telegram's words: a model may say something before it answers, or after."""
    kept = set(short.split())
    return max(answer.split("\n"), key=lambda line: len(kept & set(words(line)))).strip()


def measured(model: nn.Module, tokenizer, prompt: str = turn(ASKED)) -> dict:
    """One way to ask, on the held-out telegrams: counts (TESTED, 3), how many answers ended, the first twelve."""
    rows = pairs()[1][:TESTED]
    written, ended = answered(model, tokenizer, [prompt.format(short) for short, _ in rows])
    lines = [best_line(short, text) for (short, _), text in zip(rows, written, strict=True)]
    return {"counts": counts(rows, lines).tolist(), "ended": ended, "answers": lines[:12]}


@torch.no_grad()
def losses(model: nn.Module, tokenizer) -> dict:
    """In nats a token: on held-out sentences as answers, and on held-out addresses as plain text."""
    rows = [encoded(tokenizer, *pair) for pair in pairs()[1][:64]]
    batches = [batch_of(rows[start : start + 8]) for start in range(0, len(rows), 8)]
    sizes = torch.tensor([float((targets != SKIP).sum()) for _, targets in batches])
    each = torch.stack([next_token_loss(model, *batch) for batch in batches])
    addresses = tokenize(tokenizer, load_text("speeches").validation)
    plain = evaluate(model, addresses, seq_len=256, max_windows=16, batch_size=2, loss_fn=next_token_loss)
    return {"answer loss": round(float(each @ sizes / sizes.sum()), 4), "addresses": round(plain, 4)}


# --- arms ------------------------------------------------------------------------------------------------------------


def drawn(count: int, seed: int) -> list[Pair]:
    """So many of the 600 pairs, in this seed's order: an arm of more pairs holds those of one with fewer."""
    rows = pairs()[0][:PAIRS]
    random.Random(seed).shuffle(rows)
    return rows[:count]


def loaded() -> tuple[nn.Module, Any]:
    model, tokenizer = load_pretrained("smollm2", device="cpu")
    return model.requires_grad_(False), tokenizer


def after_examples(count: int, seed: int) -> str:
    """The short prompt, and before it so many pairs as finished turns."""
    return "".join(turn(ASKED.format(short), sentence) for short, sentence in drawn(count, seed)) + turn(ASKED)


def prompted(wording: str = "", shown: int = 0, *, seed: int = 0) -> dict:
    """The model as loaded, asked by one of WORDINGS, or shortly after so many examples."""
    model, tokenizer = loaded()
    found = losses(model, tokenizer) if wording == "short" else {}
    if shown:
        return measured(model, tokenizer, after_examples(shown, seed))
    return measured(model, tokenizer, SYSTEM + turn(WORDINGS[wording])) | found


def trained(count: int, *, masked: bool = True, ends: bool = True, seed: int = 0, progress: bool = True) -> dict:
    """LoRA on so many pairs, asked shortly."""
    model, tokenizer = loaded()
    training = taught(model, tokenizer, drawn(count, seed), seed, masked=masked, ends=ends, progress=progress)
    merge(model.eval())
    return measured(model, tokenizer) | losses(model, tokenizer) | {"training": training}


def read_only(count: int, *, seed: int = 0, progress: bool = True) -> dict:
    """The control: LoRA on the training addresses, as many tokens and steps as so many pairs have, and no telegram."""
    model, tokenizer = loaded()
    rows = [encoded(tokenizer, *pair) for pair in drawn(count, seed)]
    width = sum(len(question) + len(answer) for question, answer in rows) // (count // BATCH)  # tokens of a step
    text = tokenize(tokenizer, load_text("speeches").train)
    torch.manual_seed(seed)
    add_lora(model, rank=8, alpha=16, targets="all-linear")
    how = dict(batch_size=1, seq_len=width, eval_windows=1, loss_fn=next_token_loss, progress=progress)
    train(model, Text(text, text), count // BATCH, lr=RATE, warmup_steps=WARMUP, seed=seed, **how)
    merge(model.eval())
    asked = {"short": turn(ASKED), "long": SYSTEM + turn(WORDINGS["long"]), "5 examples": after_examples(5, 0)}
    return {name: measured(model, tokenizer, prompt) for name, prompt in asked.items()} | losses(model, tokenizer)


def spoken(model: nn.Module, adapter: Path, prompts: Sequence[str]) -> dict:
    """What llama.cpp says with the adapter off and on, on the file that the model came in; and the converted file."""
    base, converted = next(model_folder("smollm2").glob("*.gguf")), as_gguf(adapter, model)
    said = {way: speak(base, prompts, MOST, one) for way, one in (("off", None), ("on", converted))}
    said = {way: [text.strip() for text in texts] for way, texts in said.items()}
    return said | {"bytes": converted.stat().st_size, "sha256": sha256(converted)}


def transcript(count: int, shown: int, *, seed: int = 0, progress: bool = True) -> dict:
    """The same after training, for the first held-out telegrams; beside it what torch says. Needs `make clients`."""
    model, tokenizer = loaded()
    prompts = [turn(ASKED.format(short)) for short, _ in pairs()[1][:shown]]
    taught(model, tokenizer, drawn(count, seed), seed, progress=progress)
    found = {"torch": [text.strip() for text in answered(model.eval(), tokenizer, prompts)[0]]}
    with tempfile.TemporaryDirectory() as folder:
        return found | spoken(model, save_adapter(model, Path(folder, "telegrams")), prompts)


PROMPT_ARMS: dict[str, dict] = {f"asked, {name}": {"wording": name} for name in WORDINGS}
PROMPT_ARMS |= {"5 examples, seed 0": {"shown": 5}} | seeded("5 examples", seeds=(1, 2), shown=5)
PROMPT_ARMS |= seeded("40 examples", seeds=(0,), shown=40)
TASK_ARMS = {
    **seeded("40 pairs", seeds=(0,), count=40),
    **seeded("64 pairs", count=64),
    **seeded("600 pairs", count=600),
    **seeded("200 pairs, no end", seeds=(0,), count=200, ends=False),
    **seeded("64 pairs, question not masked", count=64, masked=False),
}
TEXT_ARMS = seeded("running addresses", seeds=(0,), count=200)
SPOKEN_ARMS = seeded("64 pairs", seeds=(0,), count=64, shown=8)
