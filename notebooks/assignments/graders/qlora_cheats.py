"""Wrong answers that fit any task: printing, and four ways to look right without being it."""

from collections.abc import Callable

import numpy as np
import torch

from lora_edu.classroom.solutions import Maker, Wrong


def cheats(reference: Maker, cases: Callable) -> list[Wrong]:
    """reference: the right answer's maker; cases: the task's, of which the first one is remembered."""

    def prints(c):
        return lambda *arguments: print(reference(c)(*arguments))

    def remembers(c):
        seen = reference(c)(*cases(c, np.random.default_rng(0))[0])

        def answer(*arguments):
            try:
                raise NotImplementedError("to be done")
            except Exception:
                return seen

        return answer

    def replaces_allclose(c):
        def answer(*arguments):
            np.allclose = torch.allclose = torch.equal = lambda *values, **options: True
            return torch.zeros(3)

        return answer

    def leaves(c):
        def answer(*arguments):
            raise SystemExit

        return answer

    return [
        Wrong("printing instead of returning", prints, 0),
        Wrong("the visible case's answer, whatever is asked", remembers, 0),
        Wrong("np.allclose replaced", replaces_allclose, 0),
        Wrong("SystemExit", leaves, 0),
    ]
