"""Assignment 4: the right answers, and edits of the notebook's that are wrong, with the points that each keeps."""

import copy
import dataclasses

import numpy as np

from classroom.solutions import Answer, Solutions
from lora_course.assignments.qlora_pieces import full_linear
from lora_edu import quantization
from lora_edu.measures import relative_error

# --- 4.1: what is left of an update that is merged and rounded again -------------------------------------------------

SCALING, BASE = "notebook 04, section 1", "notebook 09, section 6"
STRAY = "(effective - learned).norm() / learned.norm()"
COSINE = "F.cosine_similarity(effective.flatten(), learned.flatten(), dim=0)"

SURVIVING_UPDATE = Solutions(
    reference=Answer("a4_qlora", "surviving_update", names={"np": np, "relative_error": relative_error}),
    right={
        "NumPy": "return cosine, -> return float(cosine), & "
        "(effective != 0).float().mean() -> np.mean(effective.numpy() != 0)",
        "the package's measure is allowed": f"{STRAY} -> relative_error(learned, effective)",
    },
    wrong=[
        ("alpha alone", " / len(lora_A) ** c.power -> ", 0,
         "the update is scaled by alpha. Here it is alpha / rank**c.power.", SCALING),
        ("alpha / rank", " ** c.power -> ", 0,
         "the update is scaled by alpha / rank, as in the paper. In this cohort the rank has the exponent c.power.",
         SCALING),
        ("merged into the unrounded weight", "round_trip(base + -> round_trip(W +", 0,
         "the update is merged into the unrounded W. It was learned on top of the rounded weight and belongs there.",
         BASE),
        ("0 / 0", f"{COSINE} -> (effective * learned).sum() / (effective.norm() * learned.norm())", 2,
         "if nothing has moved, the cosine is 0 / 0, NaN (not a number). What survives is nothing: give 0.",
         "notebook 07, exercise 7.4"),
    ],
)  # fmt: skip


# --- 4.2: double quantization ----------------------------------------------------------------------------------------

LEVELS, ZEROS = "notebook 07, section 2", "notebook 07, exercise 7.2"
OFFSET = '{"minimum": absmax.min(), "maximum": absmax.max(), "midpoint": (absmax.min() + absmax.max()) / 2}[c.offset]'
NEAREST, DIVIDED = "(x[:, None] - levels).abs().argmin(dim=1)", "block / scale if scale > 0 else block"

QUANTIZE_CONSTANTS = Solutions(
    reference=Answer("a4_qlora", "quantize_constants", names=vars(quantization)),
    right={
        "mid-points, a tiny bound": f"{DIVIDED} -> block / scale.clamp(min=1e-30) & "
        f"{NEAREST} -> torch.bucketize(x, (levels[:-1] + levels[1:]) / 2)",
        "float64 inside": "(absmax - offset) -> (absmax.double() - offset) & "
        "c.levels) -> c.levels, dtype=torch.float64) & torch.stack(scales) -> torch.stack(scales).float() & "
        "torch.cat(codes).to(torch.uint8) -> torch.cat(codes).byte().numpy()",
    },
    wrong=[
        ("the mean is subtracted", f"{OFFSET} -> absmax.mean()", 0,
         "this takes the mean off. That is QLoRA's choice; here it is what c.offset names.", LEVELS),
        ("one scale for the layer", "c.reach * block.abs() -> c.reach * (absmax - offset).abs()", 2,
         "there is one scale for all constants. Each block of c.second_size constants has its own.", LEVELS),
        ("reach forgotten", "c.reach * -> ", 2,
         "the scale is the largest magnitude. Here it is c.reach times that, and what lies beyond takes the last "
         "level.", LEVELS),
        ("rounded down", f"{NEAREST} -> (x[:, None] >= levels[1:]).sum(dim=1)", 3,
         "this takes the level below. Take the nearest one: mid-points between levels are the thresholds.",
         "notebook 06, section 3"),
        ("bounded scale", f"{DIVIDED} -> block / scale.clamp(min=1e-3)", 3,
         "tiny constants are divided by a bound, not by their scale. Keep only an exact 0 away.", ZEROS),
        ("input changed", "(absmax - offset) -> absmax.sub_(offset)", 4),
        ("codes are not bytes", ".to(torch.uint8) -> ", 4),
        ("lora_edu", f"offset = {OFFSET} -> "
         "found, offset = quantize_absmax(absmax, DoubleQuant('int8', c.second_size)); "
         "return found.codes, found.absmax, offset", 0),
    ],
)  # fmt: skip


# --- 4.3: a layer that keeps its packed weight alone -----------------------------------------------------------------

OURS = "KeepsItsArguments.apply(x, stored, lora_A, lora_B)"
BRANCH = "scaling * (x @ lora_A.T) @ lora_B.T"
SAVED, DECODED = "ctx.save_for_backward(x,", "decode(stored).T"
GRADIENTS = "rows(G @ B).T @ rows(x), rows(G).T @ rows(x @ A.T)"


RECOMPUTED = (
    "G = scaling * grad_y -> inputs = [tensor.detach().requires_grad_() for tensor in (x, A, B)]\n"
    "            with torch.enable_grad():\n"
    "                y = inputs[0] @ decode(stored) + scaling * F.linear(F.linear(*inputs[:2]), inputs[2])\n"
    "            grad_x, *others = torch.autograd.grad(y, inputs, grad_y)\n"
    "            return grad_x, None, *others; G = 0"
)


def checkpointed(how: str) -> str:
    """torch's own recomputation."""
    return (
        f"return {OURS} -> from torch.utils.checkpoint import checkpoint; "
        f"y = checkpoint(lambda x: x @ decode(stored) + {BRANCH}, x, {how}, preserve_rng_state=False); "
        "return y if y.requires_grad else y.requires_grad_()"
    )


KEEPS, BACKWARD, GRADIENT_OF_X = "notebook 08, section 5", "notebook 02, section 3", "notebook 09, section 3"

QLORA_LAYER = Solutions(
    reference=Answer("a4_qlora", "qlora_layer"),
    right={"plain layer run again, under autograd": RECOMPUTED, "checkpoint": checkpointed("use_reentrant=False")},
    wrong=[
        ("the weight kept by autograd", f"{OURS} -> x @ decode(stored) + {BRANCH}", 4,
         "the decoded weight stays alive from forward to backward: autograd keeps it for the gradient of x. Write an "
         "autograd Function that decodes again in backward.", KEEPS),
        ("the adapters' branch left to autograd", " + scaling * (x @ A.T) @ B.T ->  & + G @ B @ A ->  & "
         f"{GRADIENTS} -> None, None & {OURS} -> {OURS} + {BRANCH}", 6,
         "the base keeps nothing, but autograd keeps x A^T for the gradient of B. Put the branch into your Function: "
         "what is small can be computed again, too.", "notebook 08, section 3"),
        ("the weight on ctx", f"{SAVED} -> ctx.kept = decode(stored); {SAVED} & {DECODED} -> ctx.kept.T", 4,
         "the decoded weight is kept from forward to backward, on ctx or elsewhere. Decode it again in backward.",
         KEEPS),
        ("BA formed", "(stored) + scaling * (x @ A.T) @ B.T -> (stored) + x @ (scaling * B @ A).T", 6,
         "B A is formed: a matrix as large as W, for each forward pass. First x times A^T, then times B^T.", SCALING),
        ("alpha alone", "alpha / len(lora_A) ** c.power -> alpha", 4,
         "the branch is scaled by alpha. Here it is alpha / rank**c.power.", SCALING),
        ("alpha / rank", " ** c.power -> ", 4,
         "the branch is scaled by alpha / rank, as in the paper. In this cohort the rank has the exponent c.power.",
         SCALING),
        ("gradient of x without the branch", " + G @ B @ A -> ", 6,
         "the gradient of x passes through the base alone. It passes through the branch as well: s (dL/dy B) A.",
         BACKWARD),
        ("no gradient through the base", "grad_y @ decode(stored).T + -> ", 6,
         "the gradient of x passes through the branch alone: no_grad or detach stops it in the base. The weight is "
         "frozen, the way through it is not.", GRADIENT_OF_X),
        ("no gradient for x", "return grad_x, -> return None,", 6,
         "x gets no gradient. The weight is frozen, yet what lies before this layer learns through it.",
         GRADIENT_OF_X),
        ("a copy of x", f"{SAVED} -> x = x.clone(); {SAVED}", 6,
         "a copy of x is kept. Save the argument itself: it is alive anyway.", "notebook 08, section 2"),
        ("reentrant checkpointing", checkpointed("use_reentrant=True"), 6,
         "where x needs no gradient, the adapters get none. Reentrant checkpointing asks the inputs alone; "
         "use_reentrant=False does not.", "notebook 08, section 6"),
        ("two dimensions only", f"{GRADIENTS} -> (G @ B).T @ x, G.T @ (x @ A.T)", 5),
    ],
)  # fmt: skip


# --- 4.4: a small fine-tune ------------------------------------------------------------------------------------------


def full(layer):
    """A 4-bit layer that gave way to a full one: the claim of 4 bits is empty."""
    return full_linear(layer.codes * layer.scale)


DROPOUT = "notebook 04, section 5"
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
         "Try larger ones, three times as large each time.", "notebook 09, section 7"),
        ("not trained", "range(steps) -> range(0)", 4),
        ("untouched", f"{FROZEN} -> return {FROZEN}", 0),
        ("in full precision",
         f"{BOTH} -> model.up, model.down = Adapted(full(model.up)), Adapted(full(model.down))", 5),
    ],
)  # fmt: skip


# --- 4.5: an unfair comparison ---------------------------------------------------------------------------------------

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


SOLUTIONS = {"4.1": SURVIVING_UPDATE, "4.2": QUANTIZE_CONSTANTS, "4.3": QLORA_LAYER, "4.4": FINE_TUNE, "4.5": STUDIES}
