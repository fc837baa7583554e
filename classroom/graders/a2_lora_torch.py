"""Assignment 2: the right answers of each exercise, and the known wrong ones with the points that each keeps."""

from classroom.graders.a2_audit import AUDIT
from classroom.graders.a2_dial import DIAL
from classroom.graders.a2_file import FILE
from classroom.graders.a2_inject import INJECT
from classroom.graders.a2_layer import LAYER
from classroom.graders.a2_update import UPDATE

SOLUTIONS = {"2.1": UPDATE, "2.2": LAYER, "2.3": INJECT, "2.4": DIAL, "2.5": AUDIT, "2.6": FILE}
