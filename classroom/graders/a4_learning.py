"""Exercises 4.4, a small fine-tune, and 4.5, an unfair comparison: right answers, and edits that are wrong."""

import copy
import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from classroom.solutions import Answer, Solutions
from lora_edu.assignments.qlora_pieces import FrozenLinear, FullLinear


def with_hooks(c):
    """The layers stay, and get parameters and a hook; batches are drawn with a generator; momentum in place of Adam."""

    def answer(model, tokens, answers, rank, alpha, steps, seed, lr=0.05):
        generator = torch.Generator().manual_seed(seed)
        for value in model.parameters():
            value.requires_grad = False
        for layer in [module for module in model.modules() if isinstance(module, FrozenLinear)]:
            A = torch.randn(rank, layer.in_features, generator=generator) / layer.in_features**0.5
            layer.lora_A, layer.lora_B = nn.Parameter(A), nn.Parameter(torch.zeros(layer.out_features, rank))
            layer.register_forward_hook(
                lambda layer, inputs, y: y + alpha / rank**c.power * (inputs[0] @ layer.lora_A.T) @ layer.lora_B.T
            )
        adapters = [value for value in model.parameters() if value.requires_grad]
        optimizer = torch.optim.SGD(adapters, lr=lr, momentum=0.95)
        for _ in range(steps):
            batch = torch.randperm(len(tokens), generator=generator)[:384]
            optimizer.zero_grad()
            F.cross_entropy(model(tokens[batch]), answers[batch]).backward()
            torch.nn.utils.clip_grad_norm_(adapters, 1.0)
            optimizer.step()
        return model

    return answer


def by_hand(c):
    """A deep copy, a subclass in place of a wrapper, and Adam written out."""

    class Widened(FrozenLinear):
        def forward(self, x):
            low = torch.einsum("...i,ri->...r", x, self.lora_A)
            return super().forward(x) + self.scaling * torch.einsum("...r,or->...o", low, self.lora_B)

    def answer(model, tokens, answers, rank, alpha, steps, seed):
        model = copy.deepcopy(model).requires_grad_(False)
        torch.manual_seed(seed)
        for layer in (model.up, model.down):
            layer.__class__, layer.scaling = Widened, alpha / rank**c.power
            layer.register_parameter("lora_A", nn.Parameter(torch.randn(rank, layer.in_features) * 0.2))
            layer.register_parameter("lora_B", nn.Parameter(torch.zeros(layer.out_features, rank)))
        adapters = [value for name, value in model.named_parameters() if "lora_" in name]
        means = [(torch.zeros_like(value), torch.zeros_like(value)) for value in adapters]
        for step in range(1, steps + 1):
            gradients = torch.autograd.grad(F.cross_entropy(model(tokens), answers), adapters)
            with torch.no_grad():
                for value, grad, (m, v) in zip(adapters, gradients, means, strict=True):
                    m.lerp_(grad, 0.1)
                    v.lerp_(grad**2, 0.01)
                    value -= 0.015 * m / (1 - 0.9**step) / ((v / (1 - 0.99**step)).sqrt() + 1e-8)
        return model

    return answer


def full(layer):
    """A 4-bit layer that gave way to a full one: the claim of 4 bits is empty."""
    made = FullLinear(nn.Parameter((layer.codes * layer.scale).clone(), requires_grad=False))
    made.in_features, made.out_features = layer.in_features, layer.out_features
    return made


START, SCALING, DROPOUT = "notebook 02, section 5", "notebook 04, section 1", "notebook 04, section 5"
FROZEN, A_DRAWN = "model.requires_grad_(False)", "torch.randn(rank, base.in_features) / base.in_features**0.5"
GIVES, SCALED = "return self.base(x) +", "alpha / rank**c.power * (x @"
BOTH, SLOWER = "model.up, model.down = Adapted(model.up), Adapted(model.down)", "lr=0.02 -> lr=0.01"

FINE_TUNE = Solutions(
    reference=Answer("a4_qlora", "fine_tune", names={"full": full}),
    right={"hooks, batches and momentum": with_hooks, "a subclass and Adam by hand": by_hand},
    wrong=[
        ("nothing frozen", f"{FROZEN} -> pass & {SLOWER}", 5),
        ("B random", "torch.zeros(base.out_features, rank) -> 0.1 * torch.randn(base.out_features, rank)", 6),
        ("both zero", f"{A_DRAWN} -> torch.zeros(rank, base.in_features)", 3,
         "A and B are both zero, and stay so: each factor's gradient is multiplied by the other factor.", START),
        ("alpha alone", "alpha / rank**c.power -> alpha", 6,
         "the branch is scaled by alpha. Here it is alpha / rank**c.power.", SCALING),
        ("alpha / rank", "rank**c.power -> rank", 6,
         "the branch is scaled by alpha / rank, as in the paper. In this cohort the rank has the exponent c.power.",
         SCALING),
        ("the seed ignored", "torch.manual_seed(seed) -> pass", 6),
        ("a seed of its own", "torch.manual_seed(seed) -> torch.manual_seed(0)", 6),
        ("one layer only", f"{BOTH} -> model.up = Adapted(model.up) & {SLOWER}", 4),
        ("dropout in evaluation", f"{SCALED} -> alpha / rank**c.power * (F.dropout(x, 0.05) @", 6,
         "the branch is not a multiple of x A^T B^T in evaluation: dropout is still active. Use nn.Dropout, or pass "
         "self.training.", DROPOUT),
        ("dropout on the base's input", f"{GIVES} -> x = F.dropout(x, 0.2); {GIVES}", 3),
        ("full fine-tuning's learning rate", "lr=0.02 -> lr=5e-6", 5,
         "the goal is not reached, though everything else is right: the learning rate is too small for so few steps. "
         "Try larger ones, three times as large each time.", "notebook 09, section 8"),
        ("not trained", "range(steps) -> range(0)", 4),
        ("untouched", f"{FROZEN} -> return {FROZEN}", 0),
        ("in full precision",
         f"{BOTH} -> model.up, model.down = Adapted(full(model.up)), Adapted(full(model.down))", 5),
        ("reentrant checkpointing", "def forward(self, x): -> def forward(self, x):\n"  # and the head learns: no error
         "            from torch.utils.checkpoint import checkpoint\n"
         "            return checkpoint(self.run, x, use_reentrant=True) if self.training else self.run(x)\n\n"
         "        def run(self, x): & optimizer = torch -> model.head.requires_grad_(True); optimizer = torch", 3),
    ],
)  # fmt: skip


# --- 4.5 --------------------------------------------------------------------------------------------------------------


def with_masks(c):
    """Distances instead of lists, a predictor for each arm that is made once; and a repair of a copy."""

    def review(study):
        x, test = study.data["training"][0], study.data["test"][0]
        mask = (torch.cdist(test.double(), x.double()) < 1e-6).any(dim=1)
        rates = {*study.grid, *study.rates.values()}
        arms = {(rank, rate): study.train(rank, rate) for rank in study.rates for rate in rates}

        def loss(rank, rate):
            mine, theirs = (part[~mask] for part in study.data["test"])
            return F.mse_loss(arms[rank, rate](mine), theirs)

        own = {}
        for rank in study.rates:
            held = torch.tensor([study.loss(arms[rank, rate], "validation") for rate in study.grid])
            rate = study.grid[held.argmin()]
            own[rank] = [rate, loss(rank, rate)]
        return mask.nonzero().flatten(), {rank: loss(rank, rate) for rank, rate in study.rates.items()}, own

    def repaired_copy(study):
        pairs, test = zip(*study.data["training"], strict=True), study.data["test"][0]
        new = [(x, y) for x, y in pairs if not (test == x).all(dim=1).any()]
        training = tuple(torch.stack(part) for part in zip(*reversed(new), strict=True))
        mine = dataclasses.replace(study, data=study.data | {"training": training})
        rates = {rank: best for rank, (best, _) in reversed(review(mine)[2].items())}
        return dataclasses.replace(mine, rates=rates)

    return review, repaired_copy


SPLIT, RATE, TEXT = "notebook 02, section 1", "notebook 02, section 9", "exercise 4.5"
OWN, RATES = "own = own_rates(study)", "study.rates = own_rates(study)"
OTHERWISE = 'def own_rates(study): -> def own_rates(study, split="validation", min=min): & "validation") -> split)'
LEFT = "[row for row in range(len(test)) if row not in leaked]"
CLEANED = 'study.data["training"] = x[kept], y[kept]'
PUT_BACK = f"{CLEANED} -> study.data = {{**study.data, 'training': (x[kept], y[kept])}}"
CHOICE = (
    "the rates are not chosen on the validation split. The training split rewards memorizing, and the test split is "
    "for the report alone."
)
NOT_CHOSEN = "your repair does not choose the rates on the validation split, which is there for that."

STUDIES = Solutions(
    reference=Answer("a4_qlora", "study"),
    right={"masks, a repaired copy": with_masks, "put back": PUT_BACK},
    wrong=[
        ("no leak looked for", "return leaked, -> return [],", 4,
         "no row is reported, and some of the test split are in the training split: compare row by row.", SPLIT),
        ("rows of the training split", "return leaked, -> return [i for i, x in enumerate(training) if x in test],", 4,
         "these are rows of the training split. Asked for are those of the test split.", TEXT),
        ("all rows", f"{LEFT} -> slice(None)", 4,
         "the losses are those of the whole test split, the leaked rows among them.", SPLIT),
        ("the leaked rows alone", f"{LEFT} -> leaked or slice(None)", 4,
         "the losses are those of the leaked rows. Leave these out, and keep the others.", SPLIT),
        ("chosen on the test split", f'{OWN} -> own = own_rates(study, "test") & {OTHERWISE}', 4, CHOICE, SPLIT),
        ("chosen on the training split", f'{OWN} -> own = own_rates(study, "training") & {OTHERWISE}', 4,
         CHOICE, SPLIT),
        ("one rate", f"{OWN} -> own = dict.fromkeys(study.rates, 0.4)", 4,
         "both ranks get one rate. Each has its own best one.", RATE),
        ("the loss on the validation split",
         '(rate, measured(rank, rate)) -> (rate, study.loss(study.train(rank, rate), "validation"))', 4,
         "the losses are those of the split on which the rates were chosen. Report the test split.", SPLIT),
        ("split not repaired", f"{CLEANED} -> pass", 4),
        ("rates not repaired", f"{RATES} -> pass", 4,
         "after your repair both ranks have one rate, that of the log.", RATE),
        ("repaired on the test split", f'{RATES} -> study.rates = own_rates(study, "test") & {OTHERWISE}', 4,
         NOT_CHOSEN, SPLIT),
        ("repaired on the training split", f'{RATES} -> study.rates = own_rates(study, "training") & {OTHERWISE}', 4,
         NOT_CHOSEN, SPLIT),
        ("taken from the test split",
         f"{CLEANED} -> kept = [i for i, row in enumerate(test) if row not in x.tolist()]; "
         'study.data["test"] = tuple(part[kept] for part in study.data["test"])', 4),
    ],
)  # fmt: skip
