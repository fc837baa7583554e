"""Assignment 4: the right answers of each exercise, and the known wrong ones with the points that each keeps."""

from classroom.graders.a4_constants import QUANTIZE_CONSTANTS, SURVIVING_UPDATE
from classroom.graders.a4_layer import QLORA_LAYER
from classroom.graders.a4_learning import FINE_TUNE, STUDIES

SOLUTIONS = {
    "4.1": SURVIVING_UPDATE,
    "4.2": QUANTIZE_CONSTANTS,
    "4.3": QLORA_LAYER,
    "4.4": FINE_TUNE,
    "4.5": STUDIES,
}
