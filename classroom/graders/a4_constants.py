"""Exercises 4.1, what is left of an update that is merged and rounded again, and 4.2, double quantization."""

import numpy as np

from classroom.solutions import Answer, Solutions
from lora_edu import quantization
from lora_edu.measures import relative_error

SCALING, BASE = "notebook 04, section 1", "notebook 09, section 7"
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


# --- 4.2 --------------------------------------------------------------------------------------------------------------


LEVELS, ZEROS = "notebook 07, section 2", "notebook 07, exercise 7.3"
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
