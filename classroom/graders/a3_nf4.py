"""The graders of assignment 3, blocks and a relative of NF4. For teachers: never released to students.

One module for each exercise holds its reference, other right answers, and wrong ones with the points that they keep.
"""

from classroom.graders import a3_codebook, a3_codes, a3_refit

SOLUTIONS = {
    "3.1": a3_codebook.SOLUTIONS,
    "3.2": a3_codes.SOLUTIONS,
    "3.3": a3_refit.SOLUTIONS,
}
