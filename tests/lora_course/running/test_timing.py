"""Tasks that are timed take turns."""

from functools import partial

from lora_course.running.timing import alternating_times


def test_each_round_begins_with_the_next_task():
    done, times = [], {"a": 2, "b": 6}
    tasks = {name: partial(done.append, name) for name in times}
    taken = alternating_times(tasks, 3, lambda: sum(times[name] for name in done))
    assert taken == {"a": [2] * 3, "b": [6] * 3}
    assert "".join(done) == "abbaabba"
