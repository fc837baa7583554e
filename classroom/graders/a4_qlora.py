"""Assignment 4, for teachers: the right answers, and wrong ones with the points that each keeps. Never released."""

from classroom.graders.a4_qlora_constants import QUANTIZE_CONSTANTS
from classroom.graders.a4_qlora_layers import QLORA_LAYER
from classroom.graders.a4_qlora_merging import SURVIVING_UPDATE
from classroom.graders.a4_qlora_tuning import FINE_TUNE
from classroom.graders.a4_studies import STUDIES

SOLUTIONS = {
    "4.1": SURVIVING_UPDATE,
    "4.2": QUANTIZE_CONSTANTS,
    "4.3": QLORA_LAYER,
    "4.4": FINE_TUNE,
    "4.5": STUDIES,
}
