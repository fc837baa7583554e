"""Assignment 4, for teachers: the right answers, and wrong ones with the points that each keeps. Never released."""

from classroom.graders.a4_qlora_bytes import STORED_BYTES
from classroom.graders.a4_qlora_constants import QUANTIZE_CONSTANTS
from classroom.graders.a4_qlora_decoding import DECODE
from classroom.graders.a4_qlora_merging import SURVIVING_UPDATE
from classroom.graders.a4_qlora_wrong_layers import QLORA_LAYER
from classroom.graders.a4_qlora_wrong_tuning import FINE_TUNE

SOLUTIONS = {
    "4.1": STORED_BYTES,
    "4.2": QUANTIZE_CONSTANTS,
    "4.3": DECODE,
    "4.4": SURVIVING_UPDATE,
    "4.5": QLORA_LAYER,
    "4.6": FINE_TUNE,
}
