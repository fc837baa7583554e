"""Assignment 4, for teachers: the right answers, and wrong ones with the points that each keeps. Never released."""

from qlora_bytes import STORED_BYTES
from qlora_constants import QUANTIZE_CONSTANTS
from qlora_decoding import DECODE
from qlora_layers import QLORA_LAYER
from qlora_merging import SURVIVING_UPDATE
from qlora_tuning import FINE_TUNE

SOLUTIONS = {
    "4.1": STORED_BYTES,
    "4.2": QUANTIZE_CONSTANTS,
    "4.3": DECODE,
    "4.4": SURVIVING_UPDATE,
    "4.5": QLORA_LAYER,
    "4.6": FINE_TUNE,
}
