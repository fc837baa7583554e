"""The assignments of the classroom: what is asked, and the visible checks. No solution is in this package.

from lora_course.assignments import constants, checks

c = constants("a1_lora_numpy", COHORT)          # the numbers that are drawn for this class
check = checks("a1_lora_numpy", COHORT)
check.forward(forward)                          # correct, not done yet, or the mistake by name
"""

from lora_course.assignments.core import constants, load, names
from lora_course.assignments.visible import checks

__all__ = ["checks", "constants", "load", "names"]
