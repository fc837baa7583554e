"""Exercises 4.1, what is left of an update that is merged and rounded again, and 4.2, double quantization."""

import numpy as np
import torch

from classroom.solutions import Answer, Solutions, Wrong
from lora_edu.measures import relative_error
from lora_edu.quantization import DoubleQuant, quantize_absmax


def update_in_numpy(c):
    def answer(W, lora_A, lora_B, alpha, round_trip):
        base = round_trip(W)
        scaling = alpha / lora_A.shape[0] ** c.power
        learned = scaling * np.einsum("or,ri->oi", lora_B.numpy(), lora_A.numpy())
        effective = (round_trip(base + torch.from_numpy(learned)) - base).numpy().ravel()
        learned = learned.ravel()
        length = np.linalg.norm(effective)
        cosine = effective @ learned / length / np.linalg.norm(learned) if length else 0
        return float(cosine), np.linalg.norm(effective - learned) / np.linalg.norm(learned), np.mean(effective != 0)

    return answer


SCALING, MERGE, BASE = "notebook 04, section 1", "notebook 04, section 6", "notebook 09, section 7"
STRAY = "(effective - learned).norm() / learned.norm()"
COSINE = "F.cosine_similarity(effective.flatten(), learned.flatten(), dim=0)"

SURVIVING_UPDATE = Solutions(
    reference=Answer("a4_qlora", "surviving_update", names={"relative_error": relative_error}),
    right={
        "NumPy": update_in_numpy,
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
        ("never rounded first", "base = round_trip(W) -> base = W", 0,
         "the update is merged into W, and measured from W. It was learned on top of round_trip(W): start there.",
         BASE),
        ("compared with the unrounded weight", "+ learned) - base -> + learned) - W", 0,
         "this measures from the unrounded W, and so counts the error of the first rounding as well. Measure from what "
         "the adapter was trained on.", "notebook 07, exercise 7.4"),
        ("0 / 0", f"{COSINE} -> (effective * learned).sum() / (effective.norm() * learned.norm())", 2,
         "if nothing has moved, the cosine is 0 / 0, NaN (not a number). What survives is nothing: give 0.",
         "notebook 07, exercise 7.4"),
        ("largest error", f"{STRAY} -> (effective - learned).abs().max() / learned.abs().max()", 2,
         "this is the largest error over the largest change. One weight says little of the others: take Frobenius "
         "norms.", "notebook 05, section 1"),
        ("divided by the wrong norm", f"{STRAY} -> (effective - learned).norm() / effective.norm().clamp(min=1e-30)", 2,
         "this divides by the norm of what arrived. What should have arrived is the learned update: divide by its "
         "norm.", MERGE),
    ],
)  # fmt: skip


# --- 4.2 --------------------------------------------------------------------------------------------------------------


def offset_of(c, absmax):
    """A number or a tensor without dimensions, of NumPy or torch."""
    if c.offset == "midpoint":
        return (absmax.min() + absmax.max()) / 2
    return absmax.min() if c.offset == "minimum" else absmax.max()


def in_numpy(c):
    """float64 inside, and the asked types at the end."""

    def answer(absmax):
        values, levels = absmax.double().numpy(), np.array(c.levels)
        offset = offset_of(c, values)
        starts = np.arange(0, len(values), c.second_size)
        scales = c.reach * np.maximum.reduceat(np.abs(values - offset), starts)
        x = (values - offset) / np.maximum(np.repeat(scales, c.second_size)[: len(values)], 1e-30)
        codes = np.abs(x[:, None] - levels[None]).argmin(axis=1)
        return torch.tensor(codes).byte(), torch.tensor(scales).float(), torch.tensor(offset).float()

    return answer


def of_the_package(c):
    def answer(absmax):
        quantized, offset = quantize_absmax(absmax, DoubleQuant("int8", c.second_size))
        return quantized.codes, quantized.absmax, offset

    return answer


LEVELS, ZEROS = "notebook 07, section 2", "notebook 07, exercise 7.3"
OFFSET = '{"minimum": absmax.min(), "maximum": absmax.max(), "midpoint": (absmax.min() + absmax.max()) / 2}[c.offset]'
NEAREST, DIVIDED = "(x[:, None] - levels).abs().argmin(dim=1)", "block / scale if scale > 0 else block"

QUANTIZE_CONSTANTS = Solutions(
    reference=Answer("a4_qlora", "quantize_constants"),
    right={
        "mid-points, a tiny bound": f"{DIVIDED} -> block / scale.clamp(min=1e-30) & "
        f"{NEAREST} -> torch.bucketize(x, (levels[:-1] + levels[1:]) / 2)",
        "NumPy in float64": in_numpy,
    },
    wrong=[
        ("the mean is subtracted", f"{OFFSET} -> absmax.mean()", 0,
         "this takes the mean off. That is QLoRA's choice; here it is what c.offset names.", LEVELS),
        ("nothing is subtracted", f"{OFFSET} -> torch.zeros(())", 0,
         "nothing is taken off. All constants are positive and far from 0: around c.offset the levels are used better.",
         LEVELS),
        ("an offset for each block",
         f"scale = c.reach -> block = block + offset; block = block - {OFFSET.replace('absmax', 'block')}; "
         "scale = c.reach", 2,
         "each block loses an offset of its own. There is one offset, of the whole layer; nothing else is stored.",
         LEVELS),
        ("one scale for the layer", "c.reach * block.abs() -> c.reach * (absmax - offset).abs()", 2,
         "there is one scale for all constants. Each block of c.second_size constants has its own.", LEVELS),
        ("reach forgotten", "c.reach * -> ", 2,
         "the scale is the largest magnitude. Here it is c.reach times that, and what lies beyond takes the last "
         "level.", LEVELS),
        ("rounded down", f"{NEAREST} -> (x[:, None] >= levels[1:]).sum(dim=1)", 3,
         "this takes the level below. Take the nearest one: mid-points between levels are the thresholds.",
         "notebook 06, section 3"),
        ("levels taken for equally spaced",
         "torch.tensor(c.levels) -> torch.linspace(c.levels[0], c.levels[-1], len(c.levels))", 3,
         "this rounds as if the levels were equally far apart. They are those in c.levels.", "notebook 07, section 5"),
        ("bounded scale", f"{DIVIDED} -> block / scale.clamp(min=1e-3)", 3,
         "tiny constants are divided by a bound, not by their scale. Keep only an exact 0 away.", ZEROS),
        ("a tiny bound", f"{DIVIDED} -> block / scale.clamp(min=1e-8)", 3),
        ("cut by view", ".split(c.second_size) -> .view(-1, c.second_size)", 0,
         "`view` makes whole rows alone, and stops where the last block is shorter: `split` does not, or fill the last "
         "row up with zeros first.", "notebook 05, section 4"),
        ("input changed", "(absmax - offset) -> absmax.sub_(offset)", 4),
        ("codes are not bytes", ".to(torch.uint8) -> ", 4),
        Wrong("lora_edu", of_the_package, 0),
    ],
)  # fmt: skip
