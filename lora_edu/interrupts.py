"""The stop button, at a moment when it does no harm."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def finish_first() -> Iterator[None]:
    """Let a stop signal (Ctrl-C, the stop button of a notebook) wait until the block is done.

    Without it, a signal in the middle of an optimizer step would leave half of the weights updated.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield  # signals reach the main thread only; one that nobody handles is left as it is
        return
    waiting = []
    signal.signal(signal.SIGINT, lambda *signal_and_frame: waiting.append(signal_and_frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting:
        before(*waiting[0])  # as a rule it raises KeyboardInterrupt
