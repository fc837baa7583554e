"""What an answer hands over, when several results are asked for."""

from typing import Any

from lora_edu.assignments.observing import Complaint


def in_order(value: Any, *names: str) -> list:
    """The results in the order of their names. Raises Complaint, in words, if they are not as many as the names."""
    asked = f"{len(names)} results are asked for, in this order: {', '.join(names)}"
    if value is None:
        raise Complaint(f"nothing was returned, and {asked}")
    try:
        found = None if isinstance(value, dict | str) else list(value)
    except TypeError:  # one number, say
        found = None
    if found is None or len(found) != len(names):
        raise Complaint(f"{asked}; there {'is one' if found is None else f'are {len(found)}'}")
    return found
