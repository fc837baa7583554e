"""A task with right and wrong answers: which verb goes with which pronoun? (notebook 13)

A pair is two lines, "Thou art" and "You are", against the same two with their verbs exchanged, "Thou are" and "You
art". Both sides are made of the same words, so whoever counts words can only toss a coin. The answer is right if the
two right lines cost less together. A statement puts the pronoun first, a question the verb. Before each line stands a
line of a held-out play; or, in mid-line, both are one line, and the words stand after a comma without a capital.

The rival counts pairs of neighboring words in the same bytes that the trained models read. With capitals kept, "Art"
and "art" are two words to it, as they are two different bytes to a model: that is the fair one. With capitals folded
they are one word: help that no model gets.
"""

import math
import re
from collections import Counter
from itertools import islice, pairwise, product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_course.nb09.lab import BEST_RATES
from lora_course.running.finetune import fine_tune, loss_on, prepared
from lora_course.running.sweeps import seeded
from lora_edu.models.base import load_base
from lora_edu.texts import batches, load_text

# The two verbs of a row are equally long, so neither side of a pair has more bytes to pay for.
VERBS = {"art": "are", "hast": "have", "wilt": "will", "shalt": "shall", "wert": "were"}
ORDERS = {"statement": "{pronoun} {verb} ", "question": "{verb} {pronoun} "}
MID = ", mid-line"  # "..., art thou ": what stands behind an order that is asked without its capital
ASKED = {order + MID * mid: f"{order}s{' in mid-line' * mid}" for mid in (False, True) for order in ORDERS}
SEEDS = range(6)
LINES = 100  # held-out lines: with five verbs 500 pairs of each order
READ = {"batch_size": 4, "seq_len": 256}  # what `fine_tune` reads a step


class Pair(NamedTuple):
    """Two lines that agree, and the same two with their verbs exchanged."""

    right: tuple[str, str]
    wrong: tuple[str, str]


def held_out_lines(count: int = LINES, seed: int = 0) -> list[str]:
    """Spoken lines of held-out plays, drawn by lot: short ones that end a sentence and address nobody."""
    text = bytes(load_text("shakespeare").validation.tolist()).decode("utf-8")
    spoken = [line for line in text.split("\n") if re.fullmatch(r"[A-Z][A-Za-z',;: -]{16,36}[.!?]", line)]
    found = [line for line in spoken if not re.search(r"\b(thou|thee|thy|thine|ye|your?)\b", line, re.IGNORECASE)]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    return [found[i] for i in order[:count]]


def pairs(order: str, lines: list[str]) -> list[Pair]:
    """Every line before every verb. order: one of ASKED."""

    def after(line: str, pronoun: str, verb: str) -> str:
        words = ORDERS[order.removesuffix(MID)].format(pronoun=pronoun, verb=verb)
        return f"{line[:-1]}, {words}" if order.endswith(MID) else f"{line}\n{words.capitalize()}"

    return [
        Pair((after(line, "thou", old), after(line, "you", new)), (after(line, "thou", new), after(line, "you", old)))
        for line, (old, new) in product(lines, VERBS.items())
    ]


@torch.no_grad()
def losses(model: nn.Module, texts: list[str], batch_size: int = 64) -> Tensor:
    """What each text costs the model in all, in nats: (n,)"""
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    cost = torch.empty(len(texts))
    for start in range(0, len(texts), batch_size):
        chosen = by_length[start : start + batch_size]
        rows = [torch.tensor(list(texts[i].encode("utf-8"))) for i in chosen]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)  # at the right: nobody looks ahead
        logits, targets = model(tokens[:, :-1].clamp(min=0))[0], tokens[:, 1:]
        each = F.cross_entropy(logits.transpose(1, 2).float(), targets, reduction="none", ignore_index=-1)
        cost[chosen] = each.sum(1)
    return cost


def gains(model: nn.Module, asked: list[Pair]) -> Tensor:
    """(n, 2): by how many nats the right line costs the model less than the wrong one, with thou and with you."""
    right, wrong = (losses(model, [text for pair in asked for text in pair[side]]) for side in (0, 1))
    return (wrong - right).view(-1, 2)


def answers(model: nn.Module, asked: list[Pair]) -> Tensor:
    """(n,) of 0 and 1: where the two right lines together cost the model less than the two wrong ones."""
    return (gains(model, asked).sum(1) > 0).int()


# --- the rival -------------------------------------------------------------------------------------------------------


def words_of(text: str, fold: bool = True) -> list[str]:
    """The words of a text. fold: one with a capital is the same word."""
    return re.findall(r"[A-Za-z']+", text.lower() if fold else text)


def count_word_pairs(tokens: Tensor, steps: int, seed: int, fold: bool = True) -> Counter:
    """How often two words stand side by side in what so many training steps read with this seed."""
    windows = islice(batches(tokens, **READ, generator=torch.Generator().manual_seed(seed)), steps)
    read = [bytes(row.tolist()).decode("utf-8", "replace") for inputs, _ in windows for row in inputs]
    return Counter(two for text in read for two in pairwise(words_of(text, fold)))


def counted_answers(counts: Counter, asked: list[Pair], fold: bool = True) -> Tensor:
    """The same by counting, one count added to each pair of words. Where the counts cannot tell, it is not right."""

    def score(texts: tuple[str, str]) -> float:
        return sum(math.log(counts[two] + 1) for text in texts for two in pairwise(words_of(text, fold)))

    return torch.tensor([score(pair.right) > score(pair.wrong) + 1e-9 for pair in asked]).int()


# --- the arms --------------------------------------------------------------------------------------------------------


def agreement(method: str, lr: float = 0.0, *, steps: int = 100, lines: int = LINES, seed=0, progress=True) -> dict:
    """Train the shipped base on plays as notebook 09 does, and ask it all pairs.

    method: as for `prepared`, or a rival's: `counted` folds capitals, `cased` keeps them. seed: of batches and of A;
    the pairs are the same for all. Returns for each of ASKED a 1 for each pair that was right, else 0; and the loss on
    held-out plays.
    """
    asked = {order: pairs(order, held_out_lines(lines)) for order in ASKED}
    if method in ("counted", "cased"):
        fold = method == "counted"
        counts = count_word_pairs(load_text("shakespeare").train, steps, seed, fold)
        return {order: digits(counted_answers(counts, some, fold)) for order, some in asked.items()}
    model = prepared(load_base("laptop", device="cpu"), method, seed=seed)
    if steps:
        fine_tune(model, steps, lr, seed, progress=progress)
    found = {order: digits(answers(model.eval(), some)) for order, some in asked.items()}
    return found | {"plays": loss_on(model, "shakespeare")}


def digits(right: Tensor) -> str:
    return "".join(map(str, right.tolist()))


WAYS: dict[str, dict[str, float]] = {"counted": {}, "cased": {}}
WAYS |= {method: {"lr": BEST_RATES[method, "all plays"]} for method in ("lora", "full", "qlora")}
AGREEMENT_ARMS = {"base": {"method": "lora", "steps": 0}}  # an adapter that is not trained changes nothing
for _method, _how in WAYS.items():
    AGREEMENT_ARMS |= seeded(_method, SEEDS, method=_method, **_how)
