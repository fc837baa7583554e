"""Exercises 4.4, a small fine-tune, and 4.5, an unfair comparison: right answers, and edits that are wrong."""

import copy
import dataclasses

from torch import nn

from classroom.solutions import Answer, Solutions
from lora_course.assignments.qlora_pieces import FullLinear


def full(layer):
    """A 4-bit layer that gave way to a full one: the claim of 4 bits is empty."""
    made = FullLinear(nn.Parameter((layer.codes * layer.scale).clone(), requires_grad=False))
    made.in_features, made.out_features = layer.in_features, layer.out_features
    return made


SCALING, DROPOUT = "notebook 04, section 1", "notebook 04, section 5"
FROZEN, A_DRAWN = "model.requires_grad_(False)", "torch.randn(rank, base.in_features) / base.in_features**0.5"
GIVES, SCALED = "return self.base(x) +", "alpha / rank**c.power * (x @"
ADAM = (
    f"{FROZEN} -> model = copy.deepcopy(model).requires_grad_(False) & optim.AdamW( -> optim.Adam( & "
    "(x @ self.lora_A.T) @ self.lora_B.T -> F.linear(F.linear(x, self.lora_A), self.lora_B)"
)
BOTH, SLOWER = "model.up, model.down = Adapted(model.up), Adapted(model.down)", "lr=0.02 -> lr=0.01"
# The layers stay, and get parameters and a hook; batches are drawn; momentum in place of Adam.
HOOKS = (
    f"{BOTH} -> for base in (model.up, model.down):\n"
    "        base.lora_A = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)\n"
    "        base.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))\n"
    "        base.register_forward_hook("
    "lambda own, x, y: y + alpha / rank**c.power * x[0] @ own.lora_A.T @ own.lora_B.T) & "
    "optim.AdamW( -> optim.SGD( & lr=0.02 -> lr=0.05, momentum=0.95 & "
    "loss = -> batch = torch.randperm(len(tokens))[:384]; loss = & "
    "model(tokens), answers) -> model(tokens[batch]), answers[batch])"
)

FINE_TUNE = Solutions(
    reference=Answer("a4_qlora", "fine_tune", names={"copy": copy, "full": full}),
    right={"hooks, batches and momentum": HOOKS, "a copy and Adam": ADAM},
    wrong=[
        ("nothing frozen", f"{FROZEN} -> pass & {SLOWER}", 5),
        ("B random", "torch.zeros(base.out_features, rank) -> 0.1 * torch.randn(base.out_features, rank)", 6),
        ("both zero", f"{A_DRAWN} -> torch.zeros(rank, base.in_features)", 3),
        ("alpha / rank", "rank**c.power -> rank", 6,
         "the branch is scaled by alpha / rank, as in the paper. In this cohort the rank has the exponent c.power.",
         SCALING),
        ("the seed ignored", "torch.manual_seed(seed) -> pass", 6),
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
    ],
)  # fmt: skip


# --- 4.5 --------------------------------------------------------------------------------------------------------------


SPLIT, RATE = "notebook 02, section 1", "notebook 02, section 9"
OWN, RATES = "own = own_rates(study)", "study.rates = own_rates(study)"
OTHERWISE = 'def own_rates(study): -> def own_rates(study, split="validation", min=min): & "validation") -> split)'
CLEANED = 'study.data["training"] = x[kept], y[kept]'
TENSORS = (
    "return leaked, at_its_rates, -> return torch.tensor(leaked, dtype=torch.long), at_its_rates, & "
    f'{CLEANED} -> mine = {{"training": (x[kept].flip(0), y[kept].flip(0))}}\n'
    f"    study = dataclasses.replace(study, data=study.data | mine) & {RATES} -> "
    "return dataclasses.replace(study, rates=own_rates(study))"
)
PUT_BACK = f"{CLEANED} -> study.data = {{**study.data, 'training': (x[kept], y[kept])}}"

STUDIES = Solutions(
    reference=Answer("a4_qlora", "study", names={"dataclasses": dataclasses}),
    right={"tensors, a repaired copy": TENSORS, "put back": PUT_BACK},
    wrong=[
        ("no leak looked for", "return leaked, -> return [],", 4,
         "no row is reported, and some of the test split are in the training split: compare row by row.", SPLIT),
        ("all rows", "[row for row in range(len(test)) if row not in leaked] -> slice(None)", 4,
         "the losses are those of the whole test split, the leaked rows among them.", SPLIT),
        ("chosen on the test split", f'{OWN} -> own = own_rates(study, "test") & {OTHERWISE}', 4,
         "the rates are not chosen on the validation split. The test split is for the report alone.", SPLIT),
        ("one rate", f"{OWN} -> own = dict.fromkeys(study.rates, 0.4)", 4,
         "both ranks get one rate. Each has its own best one.", RATE),
        ("split not repaired", f"{CLEANED} -> pass", 4),
        ("rates not repaired", f"{RATES} -> pass", 4,
         "after your repair both ranks have one rate, that of the log.", RATE),
        ("repaired on the test split", f'{RATES} -> study.rates = own_rates(study, "test") & {OTHERWISE}', 4,
         "your repair does not choose the rates on the validation split, which is there for that.", SPLIT),
        ("rates before the split", f"    {RATES} ->  & def repair(study): -> def repair(study):\n    {RATES}" , 4),
        ("taken from the test split",
         f"{CLEANED} -> kept = [i for i, row in enumerate(test) if row not in x.tolist()]; "
         'study.data["test"] = tuple(part[kept] for part in study.data["test"])', 4),
    ],
)  # fmt: skip
