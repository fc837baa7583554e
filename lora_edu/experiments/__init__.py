"""The long experiments, whose stored results the notebooks plot; one file a notebook, and `runs` around them all.

lora-edu experiment update-rank          # runs the arms that have no stored result yet
"""

__all__ = ["load_results", "run", "run_arm"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'lora_edu.experiments' has no attribute {name!r}")
    from lora_edu.experiments import runs  # here, so that a notebook's file loads without all the others

    return getattr(runs, name)
