"""Assignment 1: the right answers, and the wrong ones that are known, with the points that each keeps."""

from classroom.graders import a1_adapters as adapters
from classroom.graders import a1_matrices as matrices
from classroom.graders import a1_training as training

SOLUTIONS = {**matrices.SOLUTIONS, **adapters.SOLUTIONS, **training.SOLUTIONS}
