"""A task with an accuracy: is a verse from the Old or from the New Testament? (notebook 13)

Whole books are held out, so no verse of the test comes from a book that was trained on. A model reads the first 96
bytes of a verse; a linear head looks at the mean of what it has
computed at the tokens. Four ways to train: the head alone,
with adapters (LoRA), with adapters on rounded weights (QLoRA), or everything (full). Beside them stand a bag of words,
which knows no order and no other text, and the larger class.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import trange

from lora_edu.lora import add_lora
from lora_edu.models.pretrain import load_base
from lora_edu.models.pretrained import load_pretrained
from lora_edu.qlora import quantize_linears
from lora_edu.texts import DOCUMENT_END, load_text

OLD, NEW = 0, 1
OLD_BOOKS = 39  # of 66; the New Testament has the other 27
LENGTH = 96  # bytes of a verse that are read
HEAD_RATE = 1e-3  # where more than the head is trained
HELD_OUT = ("2 Samuel", "Proverbs", "Amos", "Matthew", "Philippians", "1 Peter")  # every tenth book
SIZES = {  # verses a step, steps, verses of the test
    "gpt": {"batch": 16, "steps": 100, "tested": 600},
    "smollm2": {"batch": 8, "steps": 16, "tested": 200},
}


class Verses(NamedTuple):
    texts: list[str]
    labels: Tensor  # (n,) OLD or NEW
    books: Tensor | None = None  # (n,) the number of each verse's book within its side


def verses() -> tuple[Verses, Verses]:
    """The begin of every verse, without its number: of the books that are trained on, and of every tenth, held out."""
    sides = []
    held_out_old = OLD_BOOKS // 10
    for part, old_books in zip(load_text("king-james"), (OLD_BOOKS - held_out_old, held_out_old), strict=True):
        texts, labels, books = [], [], []
        for number, book in enumerate(bytes(part.tolist()).decode("utf-8").strip().split(DOCUMENT_END)):
            found = [verse.strip()[:LENGTH] for verse in re.split(r"\d+:\d+ ", book) if verse.strip()]
            texts += found
            labels += [OLD if number < old_books else NEW] * len(found)
            books += [number] * len(found)
        sides.append(Verses(texts, torch.tensor(labels), torch.tensor(books)))
    return tuple(sides)


def balanced(side: Verses, count: int, seed: int) -> Verses:
    """Draw so many verses, half of them from each testament, in random order."""
    generator = torch.Generator().manual_seed(seed)
    halves = []
    for label in (OLD, NEW):
        places = (side.labels == label).nonzero()[:, 0]
        halves.append(places[torch.randperm(len(places), generator=generator)[: count // 2]])
    chosen = torch.cat(halves)
    chosen = chosen[torch.randperm(len(chosen), generator=generator)]
    books = None if side.books is None else side.books[chosen]
    return Verses([side.texts[i] for i in chosen], side.labels[chosen], books)


class Classifier(nn.Module):
    """A language model that says OLD or NEW: a linear head on what it has computed at the last token."""

    def __init__(self, name: str):
        super().__init__()
        if name == "gpt":
            self.body, self.tokenizer = load_base("laptop", device="cpu"), None
        else:
            self.body, self.tokenizer = load_pretrained("smollm2", device="cpu")
        self.head = nn.Linear(self.body.lm_head.in_features, 2)
        self.body.lm_head = nn.Identity()  # so its "logits" are what the head for bytes would have read
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, texts: list[str]) -> Tensor:
        """n verses -> scores (n, 2)"""
        return self.head(self.features(texts))

    def features(self, texts: list[str]) -> Tensor:
        """What the model has computed, in the mean over the tokens of each verse: (n, width)"""
        rows = [torch.tensor(self.tokens(text)) for text in texts]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)  # at the right: nobody looks ahead
        states = self.body(ids)[0] if self.tokenizer is None else self.body(ids, use_cache=False).logits
        return torch.stack([state[: len(row)].mean(0) for state, row in zip(states, rows, strict=True)])

    def tokens(self, text: str) -> list[int]:
        if self.tokenizer is None:
            return list(text.encode("utf-8"))
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def classified(
    model: str,
    method: str,
    lr: float = 0.0,
    rank: int = 8,
    draw: int = 0,
    steps: int | None = None,
    tested: int | None = None,
    *,
    seed: int = 0,
    progress: bool = True,
) -> dict:
    """Train one model in one way, and test it on the books that are held out.

    method: `words`, `head`, `lora`, `qlora` or `full`. lr: the rate of everything but the head. draw: the seed of the
    verses, of their order and of A; the test is the same for every draw.
    Returns the accuracy, the loss (nats per verse), and for each test verse 1 where the answer was right, else 0.
    """
    size = SIZES[model] | {name: value for name, value in (("steps", steps), ("tested", tested)) if value}
    trained, held_out = verses()
    trained = balanced(trained, size["steps"] * size["batch"], seed + draw)
    test = balanced(held_out, size["tested"], seed)
    if method == "words":
        return scored(bag_of_words(trained, test), test)
    torch.manual_seed(seed + draw)  # A is drawn at random
    classifier = prepared(model, method, rank)
    if method == "head":
        fit_head(classifier, trained)
    else:
        fit(classifier, trained, size["batch"], lr, progress)
    with torch.no_grad():
        return scored(torch.cat([classifier(texts) for texts, _ in groups(test)]), test)


def prepared(model: str, method: str, rank: int = 8) -> Classifier:
    """The model; what is to be trained asks for a gradient, and the rest is frozen."""
    classifier = Classifier(model).eval()
    classifier.body.requires_grad_(method == "full")
    if method == "qlora":
        quantize_linears(classifier.body, double_quant=True)
    if method in ("lora", "qlora"):
        add_lora(classifier.body, rank=rank, alpha=2 * rank, targets="all-linear")
    return classifier


def fit(classifier: Classifier, data: Verses, batch: int, lr: float, progress: bool = True) -> None:
    """Each verse is seen once. The rates rise over a tenth of the steps and then fall to a tenth, along lines."""
    inner = [p for p in classifier.body.parameters() if p.requires_grad]
    kinds = [{"params": inner, "lr": lr}, {"params": list(classifier.head.parameters()), "lr": HEAD_RATE}]
    optimizer = torch.optim.AdamW(kinds, weight_decay=0.0)
    steps = len(data.texts) // batch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.1 * steps), 1 - 0.9 * step / steps)
    )
    for _, (texts, labels) in zip(trange(steps, disable=not progress), groups(data, batch), strict=True):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(classifier(texts), labels).backward()
        nn.utils.clip_grad_norm_([*inner, *classifier.head.parameters()], 1.0)
        optimizer.step()
        schedule.step()


def fit_head(classifier: Classifier, data: Verses) -> None:
    """The head alone, to the end: the model computes each verse once, then 300 steps over all of them together."""
    with torch.no_grad():
        features = torch.cat([classifier.features(texts) for texts, _ in groups(data)])
    optimizer = torch.optim.AdamW(classifier.head.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(classifier.head(features), data.labels).backward()
        optimizer.step()


def groups(data: Verses, size: int = 25) -> Iterator[tuple[list[str], Tensor]]:
    for start in range(0, len(data.texts), size):
        yield data.texts[start : start + size], data.labels[start : start + size]


def scored(scores: Tensor, test: Verses) -> dict:
    right = scores.argmax(1) == test.labels
    return {
        "accuracy": round(right.double().mean().item(), 5),
        "loss": round(F.cross_entropy(scores.float(), test.labels).item(), 5),
        "right": "".join(str(int(r)) for r in right),
    }


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def bag_of_words(trained: Verses, test: Verses) -> Tensor:
    """Naive Bayes, one count added to each word: the log probabilities of both testaments for each verse, (n, 2)."""
    known = sorted({word for text in trained.texts for word in words_of(text)})
    place = {word: i for i, word in enumerate(known)}
    counts = torch.ones(2, len(known), dtype=torch.float64)
    for text, label in zip(trained.texts, trained.labels.tolist(), strict=True):
        for word in words_of(text):
            counts[label, place[word]] += 1
    weights = (counts / counts.sum(1, keepdim=True)).log()  # (2, n_words)
    found = [[place[word] for word in words_of(text) if word in place] for text in test.texts]
    return torch.stack([weights[:, places].sum(1) for places in found]).log_softmax(1)


def arm_name(model: str, method: str, lr: float = 0.0, rank: int = 8, draw: int = 0) -> str:
    """The name of an arm, for example `gpt, lora, lr 0.003, rank 8, seed 0`."""
    how = f", lr {lr:g}" if lr else ""
    return f"{model}, {method}{how}" + (f", rank {rank}" if "lora" in method else "") + f", seed {draw}"


RATES = {  # seed 0 tries each; QLoRA takes LoRA's
    ("gpt", "lora"): (1e-3, 3e-3, 1e-2),
    ("gpt", "full"): (3e-4, 1e-3),
    ("smollm2", "lora"): (2e-3,),
    ("smollm2", "full"): (1e-4,),
}
BEST = {  # of them, by the loss; three seeds
    ("gpt", "lora"): 3e-3,
    ("gpt", "qlora"): 3e-3,
    ("gpt", "full"): 1e-3,
    ("smollm2", "lora"): 2e-3,
    ("smollm2", "qlora"): 2e-3,
    ("smollm2", "full"): 1e-4,
}


def _arms() -> dict[str, dict]:
    runs = [(model, method, 0.0, 8, draw) for draw in range(3) for method in ("words", "head") for model in SIZES]
    runs += [(model, method, lr, 8, 0) for (model, method), rates in RATES.items() for lr in rates]
    runs += [(model, method, lr, 8, draw) for draw in range(3) for (model, method), lr in BEST.items()]
    names = ("model", "method", "lr", "rank", "draw")
    return {arm_name(*run): dict(zip(names, run, strict=True)) for run in runs}


VERSE_ARMS = _arms()
LIVE_ARM = "gpt, lora, 20 steps"
VERSE_ARMS[LIVE_ARM] = {"model": "gpt", "method": "lora", "lr": 3e-3, "steps": 20, "tested": 200}
