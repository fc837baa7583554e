"""What the graders of assignment 2 share."""

from torch import nn

from classroom.proof import COHORTS
from lora_edu.assignments.core import load


def visible(c, number):
    """The cases of the visible check, for an answer that remembers them. Of a cohort that is not proven: other ones."""
    known = [load("a2_lora_torch", cohort) for cohort in COHORTS]
    return next((one for one in known if one.constants == c), known[0]).cases(number, "visible")


def in_peft(base, rank, alpha, dropout=0.0, rslora=False):
    """A model of one linear layer with PEFT's adapter."""
    import peft

    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=["linear"], use_rslora=rslora
    )
    return peft.get_peft_model(nn.ModuleDict({"linear": base}), config).base_model.model["linear"]
