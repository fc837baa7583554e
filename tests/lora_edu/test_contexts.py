"""What the library makes of weights does not depend on where it is called: autocast is for activations alone."""

import pytest
import torch
from conftest import moved, random_gpt
from stopped_runs import assert_unchanged, everything, refused

from lora_edu import dequantize_linears, load_adapter, merge_into_nf4, quantize_linears, save_adapter
from lora_edu.lora import adapter_state, add_lora, combine, load_adapter_state, lora_layers, merge, unload, unmerge
from lora_edu.variants import VARIANTS, add_variant

TOKENS = torch.arange(20)[None]


def adapted(kind="LoRA"):
    model = moved(add_variant(random_gpt(), kind, 3, 5, ["q_proj", "up_proj"]), 0.3)
    for layer in lora_layers(model).values():
        if kind == "VeRA":  # its B is frozen, and b is what starts at zero
            torch.nn.init.normal_(layer.vera_b)
    return model


def quantized():
    return moved(add_lora(quantize_linears(random_gpt()), 3, 5), 0.3)


def loaded(folder):
    return load_adapter(random_gpt(), save_adapter(adapted(), folder))


def combined(folder):
    model = adapted()
    return load_adapter_state(add_lora(unload(model), 6, 10, ["q_proj", "up_proj"]), twice(adapter_state(adapted())))


def twice(state):
    return combine([state, state], [0.3, -1.7])


MADE_OF_WEIGHTS = {
    **{f"{kind}, made": lambda folder, kind=kind: adapted(kind) for kind in VARIANTS},
    **{f"{kind}, merged": lambda folder, kind=kind: merge(adapted(kind)) for kind in VARIANTS},
    **{f"{kind}, merged and back": lambda folder, kind=kind: unmerge(merge(adapted(kind))) for kind in VARIANTS},
    "merged, taken out and in 4 bits": lambda folder: quantize_linears(unload(merge(adapted()))),
    "merged in 4 bits": lambda folder: merge_into_nf4(quantized()),
    "out of 4 bits, merged": lambda folder: merge(dequantize_linears(quantized())),
    "saved and loaded": loaded,
    "combined": combined,
}


@pytest.mark.parametrize("work", MADE_OF_WEIGHTS.values(), ids=MADE_OF_WEIGHTS)
def test_weights_are_the_same_inside_autocast(work, tmp_path):
    """A product B A was rounded to bfloat16, and so was what merging left in the base, after unmerge too."""
    torch.manual_seed(1)
    plain = work(tmp_path / "outside")
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = work(tmp_path / "inside")
    assert_unchanged(inside, everything(plain))


@pytest.mark.parametrize("kind", VARIANTS)
def test_a_weight_that_is_read_is_the_same_inside_autocast(kind):
    layers = lora_layers(adapted(kind)).values()
    plain = [(layer.weight, layer.delta_weight()) for layer in layers]
    with torch.autocast("cpu", torch.bfloat16):
        inside = [(layer.weight, layer.delta_weight()) for layer in layers]
    torch.testing.assert_close(inside, plain, rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("work", [load_adapter_state, merge, unmerge])
def test_autocast_forgets_the_copy_that_it_had_of_a_tensor_written_into(work):
    """Inside its block it keeps a 16-bit copy of each trained tensor that it has met, and would go on with the old."""
    model, others = adapted().requires_grad_(True), adapter_state(adapted())
    if work is unmerge:
        merge(model)
    with torch.autocast("cpu", torch.bfloat16):
        model(TOKENS)
        work(model, others) if work is load_adapter_state else work(model)
        inside = model(TOKENS)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(inside, model(TOKENS)[0])


# --- inference mode --------------------------------------------------------------------------------------------------
# torch changes a tensor that was made there, and only then refuses: a model was merged by half, or unmerged unawares.


def made_inside(change=lambda model: model):
    with torch.inference_mode():
        return change(adapted())


def half_made_inside():
    model, inside = adapted(), made_inside()
    model.blocks[1] = inside.blocks[1]
    return model


def in_4_bits_inside():
    with torch.inference_mode():
        return quantized()


REFUSED_OUTSIDE = {
    "merge": (half_made_inside, merge),
    "unmerge": (lambda: made_inside(merge), unmerge),
    "load_adapter_state": (half_made_inside, lambda model: load_adapter_state(model, adapter_state(adapted()))),
    "PiSSA": (lambda: unload(half_made_inside()), lambda model: add_variant(model, "PiSSA", 2, 4, ["q_proj"])),
    "merge_into_nf4": (in_4_bits_inside, merge_into_nf4),
}


@pytest.mark.parametrize(("build", "work"), REFUSED_OUTSIDE.values(), ids=REFUSED_OUTSIDE)
def test_what_was_made_in_inference_mode_is_not_changed_outside(build, work):
    model = build()
    with refused(model, ValueError, r"made inside torch.inference_mode\(\)"):
        work(model)
    with torch.inference_mode():  # the control
        work(model)
