"""A reward instead of a text: the base writes, an e costs one, and a policy gradient follows the reward (notebook 16)

A step: the model continues `ROLLOUTS` prompts out of addresses by `NEW` bytes, each new byte is paid, and the log
probability of a byte grows by what followed it, compared with the other roll-outs. Beside the reward stands a price:
beta times how much likelier the byte is now than before the training, which the same model says with its adapter off.
Each arm ends on fresh roll-outs from held-out addresses (`measured`).
"""

import functools
import re
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from lora_course.running.finetune import loss_on, prepared, shipped
from lora_edu import GPT, adapters_off, dequantize_linears, load_base, load_text, quantize_linears
from lora_edu.training import trainable_parameters

PROMPT, NEW, ROLLOUTS = 16, 32, 48  # bytes given, bytes written, roll-outs in a step
LETTERS = (ord("e"), ord("E"))
WARMUP = 5  # steps in which the rate grows to its full size
SEEN = 3  # times that a word stands in the addresses: fewer may be a misprint
SAMPLE = "My fellow citizen"
LogProbs = Callable[[Tensor], Tensor]  # tokens (B, PROMPT + NEW) -> (B, NEW, 256)


# --- one step --------------------------------------------------------------------------------------------------------


def prompts(count: int, generator: torch.Generator, held_out: bool = False) -> Tensor:
    """(count, PROMPT) bytes from random places of the addresses."""
    text = load_text("speeches").validation if held_out else load_text("speeches").train
    places = torch.randint(len(text) - PROMPT, (count, 1), generator=generator)
    return text[places + torch.arange(PROMPT)].long()


def new_log_probs(model: nn.Module, tokens: Tensor) -> Tensor:
    """What the model gives each byte at each new place: (B, PROMPT + NEW) -> (B, NEW, 256)."""
    return F.log_softmax(model(tokens[:, :-1])[0][:, PROMPT - 1 :], dim=-1)


def at_tokens(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """Of the bytes that were written: (B, NEW, 256), (B, PROMPT + NEW) -> (B, NEW)."""
    return log_probs.gather(-1, tokens[:, PROMPT:, None])[..., 0]


def is_e(tokens: Tensor) -> Tensor:
    """1 where a byte is an e, small or large."""
    return sum((tokens == letter).float() for letter in LETTERS)


def paid(reward: str, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """The reward of each new byte, (B, NEW). reward: one of the two below."""
    new = tokens[:, PROMPT:]
    if reward == "coin":  # as frequent as an e, and about nothing
        return -(torch.rand(new.shape, generator=generator) < 0.09).float()
    return -is_e(new)


def advantages(rewards: Tensor) -> Tensor:
    """What followed each byte, less what followed there in the other roll-outs: (B, NEW) -> (B, NEW)."""
    to_go = rewards.flip(1).cumsum(1).flip(1)
    return to_go - (to_go.sum(0) - to_go) / (len(to_go) - 1)


def policy_step(model, frozen: LogProbs, optimizer, lr: float, beta: float, reward: str, seed: int, step: int) -> float:
    """Write, pay, update. Returns the share of e's in what was written. Each step draws from a seed of its own."""
    generator = torch.Generator().manual_seed(1_000 * seed + step)
    tokens = model.generate(prompts(ROLLOUTS, generator), NEW, temperature=1.0, generator=generator)
    with torch.no_grad():
        before = at_tokens(frozen(tokens), tokens)
    now = at_tokens(new_log_probs(model, tokens), tokens)
    rewards = paid(reward, tokens, generator) - beta * (now.detach() - before)
    optimizer.param_groups[0]["lr"] = lr * min(1, (step + 1) / WARMUP)
    optimizer.zero_grad()
    (-(advantages(rewards) * now).mean()).backward()
    optimizer.step()
    return is_e(tokens[:, PROMPT:]).mean().item()


def adamw(model: nn.Module, lr: float = 0.0) -> torch.optim.AdamW:
    return torch.optim.AdamW(trainable_parameters(model), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)


def gradients(credit: Callable[[Tensor], Tensor], rewards: Tensor, push: Tensor) -> list[float]:
    """The gradient of one number from 8 roll-outs at a time: its mean, that mean's error, and its spread.

    credit: rewards (8, NEW) -> what each byte is credited with. push: what one unit of credit adds, (B, NEW). All
    roll-outs are put into groups 64 times anew.
    """
    found = []
    for again in range(64):
        order = torch.randperm(len(rewards), generator=torch.Generator().manual_seed(again))
        found.append([(credit(rewards[some]) * push[some]).sum(1).mean() for some in order.split(8)])
    each = torch.tensor(found)  # (64, groups)
    return [each.mean().item(), (each.std() / each.shape[1] ** 0.5).item(), each.std().item()]


@functools.cache
def known_words() -> frozenset[str]:
    """The real words: those that stand in the training addresses at least `SEEN` times, in small letters."""
    text = bytes(load_text("speeches").train.tolist()).decode("utf-8", errors="replace").lower()
    return frozenset(word for word, count in Counter(re.findall(r"[a-z]+", text)).items() if count >= SEEN)


def marked_words(tokens: Tensor, prompt: int) -> tuple[Tensor, Tensor]:
    """1 at each new byte where a word ended, and 1 where it was not a real one: (B, S) -> (B, S - prompt) twice.

    A word that the window cuts off, in front or behind, is none.
    """
    words, wrong = torch.zeros(2, len(tokens), tokens.shape[1] - prompt)
    for row, line in enumerate(tokens.tolist()):
        for found in re.finditer(r"[a-z]+", bytes(line).decode("latin-1").lower()):  # one letter for each byte
            if found.start() > 0 and prompt <= found.end() < len(line):
                words[row, found.end() - prompt] = 1
                wrong[row, found.end() - prompt] = found[0] not in known_words()
    return words, wrong


# --- one arm ---------------------------------------------------------------------------------------------------------


def rewarded(
    method: str, lr: float, *, rank=8, beta=0.3, reward="no e", steps=40, film=False, looks=(), seed=0, progress=True
) -> dict:
    """Train the shipped base by a reward in one way. Step -> what `measured` says, and the share of e's step by step.

    method: as for `start`. film: before the steps of `looks` it is looked at, too, on fewer roll-outs.
    """
    model, frozen = start(method, rank, seed)
    optimizer, shares, found = adamw(model), [], {}
    for step in tqdm(range(steps), disable=not progress, leave=False):
        if film and step in looks:
            found[str(step)] = measured(model, 256)
        shares.append(round(policy_step(model, frozen, optimizer, lr, beta, reward, seed, step), 5))
    return {"looks": found | {str(steps): measured(model)}, "shares": shares}


def start(method: str, rank: int, seed: int) -> tuple[GPT, LogProbs]:
    """A model as its training begins, and what gives the log probabilities of before.

    method: "full", "lora", "qlora", "constants" or "by last byte".
    """
    model, base = load_base("laptop", device="cpu"), functools.partial(new_log_probs, shipped())
    if method in ("constants", "by last byte"):  # one for each of the 256 logits, those of e's on their way already
        model.requires_grad_(False).lm_head.bias = nn.Parameter(-2.5 * is_e(torch.arange(model.config.vocab_size)))
        return by_last_byte(model) if method == "by last byte" else model, base
    if method == "qlora":  # the numbers of NF4, decoded once: a roll-out reads every weight 32 times
        model, method = dequantize_linears(quantize_linears(model, block_size=64, double_quant=True)), "lora"
    model = prepared(model, method, rank, seed)
    return model, base if method == "full" else functools.partial(base_log_probs, model)


def by_last_byte(model: GPT) -> GPT:
    """256 constants more for each byte that the model may have read last, all 0. They know no word. In place."""
    model.table = nn.Parameter(torch.zeros(model.config.vocab_size, model.config.vocab_size))

    def added(head: nn.Module, inputs: tuple, logits: Tensor) -> Tensor:
        return logits + model.table[model.read if logits.ndim == 3 else model.read[:, -1]]

    model.token_embedding.register_forward_pre_hook(lambda embedding, inputs: setattr(model, "read", inputs[0]))
    model.lm_head.register_forward_hook(added)
    return model


def base_log_probs(model: GPT, tokens: Tensor) -> Tensor:
    """What the base gives each byte: the same model, its adapters off."""
    with adapters_off(model):
        return new_log_probs(model, tokens)


@torch.no_grad()
def measured(model: GPT, rollouts: int = 512) -> dict:
    """Fresh roll-outs from held-out addresses, the same prompts for every model.

    "e": the mean probability of an e, which is its expected share and wavers less than a count. "kl": from the shipped
    base, nats a byte. "words": the share of real ones. "th": how many a byte, by the probability of an h after each t.
    Then the loss on "addresses", and a "sample".
    """
    generator = torch.Generator().manual_seed(1)
    tokens = model.generate(prompts(rollouts, generator, held_out=True), NEW, temperature=1.0, generator=generator)
    shares, kls, ths = [], [], []
    for some in tokens.split(128):
        ours, base = new_log_probs(model, some), new_log_probs(shipped(), some)
        shares.append(ours[..., LETTERS].exp().sum(-1).flatten())
        kls.append((ours.exp() * (ours - base)).sum(-1).flatten())
        ths.append((ours[..., ord("h")].exp() * (some[:, PROMPT - 1 : -1] == ord("t"))).flatten())
    found = {"e": torch.cat(shares).mean(), "kl": torch.cat(kls).mean(), "th": torch.cat(ths).mean()}
    words, wrong = (marks.sum() for marks in marked_words(tokens, PROMPT))
    found["words"] = 1 - wrong / words.clamp_min(1)
    sample = model.generate(SAMPLE, 160, temperature=1.0, generator=torch.Generator().manual_seed(1))[len(SAMPLE) :]
    result = {name: round(value.item(), 5) for name, value in found.items()}
    return result | {"addresses": loss_on(model, "speeches", 32), "sample": sample}
