"""Assignment 2: the right answers of each exercise, and the known wrong ones with the points that each keeps."""

from classroom.graders.a2_layer import LAYER
from classroom.graders.a2_model import DIAL, INJECT
from classroom.graders.a2_runs import FILE, RUNS

SOLUTIONS = {"2.1": LAYER, "2.2": INJECT, "2.3": DIAL, "2.4": FILE, "2.5": RUNS}
