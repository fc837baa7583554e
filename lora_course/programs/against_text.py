"""An adapter beside its rivals on a text: how much of what it gains would something cheaper gain, too?

    lora-edu inspect ADAPTER --base MODEL --text TEXT

The base gets one temperature, or that and a bonus for each token, both fitted to the first half of the text. The
adapter is taken at half strength, and with its numbers in other places. All are measured on the second half.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from lora_course.programs.own_text import read_plain
from lora_course.running.shuffling import shuffled
from lora_edu.calibration import best_biases, best_temperature
from lora_edu.layers import evaluating
from lora_edu.lora import adapter_state, adapters_off, load_adapter_state
from lora_edu.measures import divergence
from lora_edu.models.base import base_path, load_base
from lora_edu.models.pretrained import load_pretrained, tokenize
from lora_edu.peft_io import load_adapter
from lora_edu.texts import as_tokens, spread_windows

BASE, SURE, HABITS = "the base", "one temperature: only how sure?", "a bonus a token: only which words?"
ADAPTER, HALF, SIZE = "the adapter", "half strength: is that enough?", "shuffled: only its size?"
LENGTH, LEAST, MOST = 256, 8, 24  # tokens of a window; windows to fit to, and at most to measure
Rows = dict[str, Tensor]  # name -> (windows, 4): loss, share of likeliest tokens that came, KL(base || this), flips


class Weight(NamedTuple):
    """A weight that is loaded, to be asked like one in a file of safetensors."""

    tensor: Tensor

    def get_shape(self) -> list[int]:
        return list(self.tensor.shape)

    def get_dtype(self) -> str:
        return "F32"

    def __getitem__(self, place):  # type: ignore[override]
        return self.tensor[place]


def read(base: str, path: Path) -> tuple[nn.Module, Tensor]:
    """A model in float32, and a text as its tokens (n,). base: laptop or its file, or what `load_pretrained` takes.

    Raises FileNotFoundError and ValueError: what will not do, and why.
    """
    tokens = as_tokens(read_plain(path.expanduser()))
    if base == "laptop" or Path(base).absolute() == base_path("laptop").absolute():
        model = load_base("laptop", device="cpu")
    else:
        model, tokenizer = load_pretrained(base, device="cpu")
        tokens = tokenize(tokenizer, tokens)
    if len(tokens) < (needed := 2 * LEAST * (LENGTH + 1)):
        why = f"for {LEAST} windows of {LENGTH} to fit to and as many to measure: name a longer text"
        raise ValueError(f"{path.name} has {len(tokens):,} tokens, and {needed:,} are needed, {why}")
    return model, tokens


@torch.no_grad()
def against_text(model: nn.Module, folder: Path, tokens: Tensor, progress: bool = True) -> Rows:
    """What each row says of each window. Adds the adapter in the folder to the model."""

    def logits(window: Tensor) -> Tensor:  # (LENGTH, vocab_size)
        return model(window[None, :-1])[0][0].float()

    bar = partial(tqdm, unit="window", disable=not progress)
    trained, found = adapter_state(load_adapter(model, folder)), []
    halved = {name: tensor / 2 if name.endswith("lora_B") else tensor for name, tensor in trained.items()}
    first, second = tokens.tensor_split(2)
    fit = spread_windows(first, LENGTH, LEAST)
    windows = spread_windows(second, LENGTH, min(MOST, (len(second) - 1) // LENGTH))
    with evaluating(model):
        with adapters_off(model):
            said, came = torch.cat([logits(window) for window in bar(fit, "fitting to")]), fit[:, 1:].flatten()
        temperature = best_temperature(said, came)
        with torch.enable_grad():
            slope, biases = best_biases(said, came, price=0.5 / len(came))  # as if a bonus were about 1
        for number, window in enumerate(bar(windows, "measuring")):
            with adapters_off(model):
                base = logits(window)
            rows = {BASE: base, SURE: base / temperature, HABITS: slope * base + biases}
            generator = torch.Generator().manual_seed(number)  # each window has a draw of its own
            moved = {name: shuffled(tensor, generator) for name, tensor in trained.items()}
            for name, state in {HALF: halved, SIZE: moved, ADAPTER: trained}.items():
                load_adapter_state(model, state)
                rows[name] = logits(window)
            found.append(torch.stack([seen(row, base, window[1:]) for row in rows.values()]))
    return dict(zip(rows, torch.stack(found, dim=1), strict=True))


def seen(logits: Tensor, base: Tensor, came: Tensor) -> Tensor:
    """The four numbers of `Rows` for one window. logits and those of the base: (LENGTH, vocab_size)."""
    q, p, likeliest = logits.log_softmax(-1), base.log_softmax(-1), logits.argmax(-1)
    shares = [(likeliest == came).float().mean(), (likeliest != base.argmax(-1)).float().mean()]
    return torch.stack([F.nll_loss(q, came), shares[0], divergence(p, q).mean(), shares[1]])


def gain(rows: Rows, name: str, other: str = BASE, column: int = 0) -> tuple[float, float]:
    """By how much a row is better, in its loss or its share of right tokens, and two standard errors over windows."""
    better = (rows[name] - rows[other])[:, column] * (1 if column else -1)
    return better.mean().item(), 2 * better.std().item() / len(better) ** 0.5


def told(rows: Rows) -> list[str]:
    """The table, and what it says."""
    text = [f"{f'{len(rows[BASE])} windows':35}{'loss':>6}{'gain':>16}{'top-1':>7}{'more':>16}{'KL':>7}{'flips':>7}"]
    for name, row in rows.items():
        loss, top1, kl, flips = row.mean(0).tolist()
        gained = "{:+.3f} ± {:.3f}".format(*gain(rows, name))
        more = "{:+.1%} ± {:.1%}".format(*gain(rows, name, column=1))
        text.append(f"{name:35}{loss:6.3f}{gained:>16}{top1:7.1%}{more:>16}{kl:7.3f}{flips:7.1%}")
    text.append("loss, gain, KL: nats a token; gain, more, KL, flips: beside the base; ± two standard errors")
    rival = min((SURE, HABITS), key=lambda name: rows[name][:, 0].mean().item())
    better, error = gain(rows, ADAPTER, rival)
    word = "not to be told apart" if abs(better) <= error else "it does better" if better > 0 else "it does worse"
    text.append(f"beside {rival.partition(':')[0]}, the adapter gains {better:+.3f} ± {error:.3f} nats: {word}")
    return [*text, "on a text that it was trained on, a gain may be memory: give it one that it has not seen"]
