"""Formats that came after NF4 (the page of questions).

MXFP4 and NVFP4 are 4-bit floats (E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives) that processors multiply
directly. MXFP4 gives 32 weights a power of two as their scale, in 8 bits. NVFP4 gives 16 weights a scale in FP8
(E4M3), and a tensor one in float32. Sources: OCP Microscaling Formats 1.0 (2023), section 6.3; "Bridging the gap
between promise and performance for microscaling FP4 quantization", arXiv 2509.23202.
"""

from lora_course.nb06.lab import rounding
from lora_course.nb06.lab_floats import four_over_six, mxfp4, nvfp4
from lora_course.running.scoreboard import ONE_CONSTANT, measured

# name -> (what it does to a weight, bits a weight; constants in 32 bits where nothing else is said)
FORMATS = {
    "int4, one constant a layer": (rounding(0, "int4", ONE_CONSTANT), 4.0),
    "int4, blocks of 64": (rounding(0, "int4"), 4.5),
    "NF4, blocks of 64": (rounding(0, "nf4"), 4.5),
    "MXFP4": (mxfp4, 4 + 8 / 32),
    "NVFP4": (nvfp4, 4 + 8 / 16),
    "NVFP4, four over six": (four_over_six, 4 + 8 / 16),
}


def format_after(name: str | None) -> dict:
    """Round all block linears of the shipped base to a format; None leaves them.

    Returns bits a weight, the errors of weights and outputs, and the loss on 64 windows of addresses.
    """
    change, bits = FORMATS[name] if name else (None, 32.0)
    return {"bits": bits} | measured(change, windows=64)


AFTER_ARMS: dict[str, dict] = {"as shipped": {"name": None}} | {name: {"name": name} for name in FORMATS}
