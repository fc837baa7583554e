"""Times that can be compared: of notebooks 08 and 11."""

import time
from collections.abc import Callable


def alternating_times(tasks: dict[str, Callable], rounds: int, clock=time.process_time) -> dict[str, list[float]]:
    """The seconds that each task takes of the processor, or by another clock, one number a round.

    Tasks alternate, so that a slow moment of the machine hits all of them alike, and each round begins with the next
    one, so that none has a place in the order to itself. A round before the first warms up.
    """
    names = list(tasks)
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for done in range(rounds + 1):
        first = done % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            tasks[name]()
            times[name].append(clock() - start)
    return {name: seconds[1:] for name, seconds in times.items()}
