"""The graders of assignment 3, blocks and a relative of NF4. For teachers: never released to students.

One module for each exercise holds its reference, other right answers, and wrong ones with the points that they keep.
"""

import a3_bytes
import a3_codebook
import a3_codes
import a3_constants
import a3_refit
import a3_weights

SOLUTIONS = {
    "3.1": a3_constants.SOLUTIONS,
    "3.2": a3_codebook.SOLUTIONS,
    "3.3": a3_codes.SOLUTIONS,
    "3.4": a3_bytes.SOLUTIONS,
    "3.5": a3_weights.SOLUTIONS,
    "3.6": a3_refit.SOLUTIONS,
}
