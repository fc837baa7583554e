"""Ways to mend the sick runs of notebook 18, beside the page's own, and ways to look mended.

Each is the page's sick run with a few pieces replaced: its number, a name, the pieces, and of a dodge a piece of what
the check answers.
"""

import ast
import tempfile
from pathlib import Path

import torch
from conftest import code_cell
from safetensors.torch import load_file

from lora_course.nb18 import lab
from lora_edu import adapter_state, save_adapter
from lora_edu.lora import lora_layers
from lora_edu.training import trainable_parameters


def run_of(number, pieces=()):
    """The sick run of the page's cell, with pieces of its source replaced."""
    source = code_cell("18_clinic", f"def sick_{number}(").source
    for old, new in dict(pieces).items():
        assert old in source, f"run {number} has no {old!r}"
        source = source.replace(old, new)
    space = dict(globals())
    for code in (code_cell("18_clinic", "# The slider").source, source):
        kept = [n for n in ast.parse(code).body if isinstance(n, ast.Import | ast.ImportFrom | ast.FunctionDef)]
        exec(compile(ast.Module(kept, []), "cell", "exec"), space)
    return space[f"sick_{number}"]


# --- what the pieces call ---------------------------------------------------------------------------------------------


def stepped_by_hand(model, data, steps):
    """Steps of equal size, without an optimizer and without `backward`."""
    for _ in range(steps):
        those = trainable_parameters(model)
        for p, gradient in zip(those, torch.autograd.grad(model(*next(data))[1], those), strict=True):
            p.data -= 2e-3 * gradient.sign()


def shipped_adapter():
    return adapter_state(lab.load_adapter(lab.load_base(), lab.data_file("shakespeare-adapter")))


def stripped(folder):
    state = load_file(folder / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model.").removesuffix(".weight"): t for name, t in state.items()}


def copied_by_hand(model, state):
    for path, layer in lora_layers(model).items():
        for part in ("lora_A", "lora_B"):
            getattr(layer, part).data.copy_(state[f"base_model.model.{path}.{part}.weight"])


def in_32_bits(model):
    for p in trainable_parameters(model):
        p.data = p.data.float()


def padded_with(other, seed):
    for rows, lengths in lab.speeches(seed):
        yield rows.masked_fill(torch.arange(rows.shape[1]) >= lengths[:, None], other), lengths


def end_behind_a_line(model, inputs, outputs):
    """A hook: END behind each end of a line but the name's."""
    ends = inputs[0] == ord("\n")
    ends[:, 1:] &= inputs[0][:, :-1] != ord("*")
    logits = outputs[0].clone()
    logits[..., lab.END] += 40.0 * ends
    return logits, *outputs[1:]


def whole(fresh):
    """Save and load all of a model."""

    def load(folder):
        (again := fresh()).load_state_dict(torch.load(folder / "all"))
        return again

    return lambda model, folder: torch.save(model.state_dict(), folder / "all"), load


def in_a_file(*names):
    """Save and load these parameters beside the adapter."""

    def save(model, folder):
        save_adapter(model, folder)
        torch.save({name: p for name, p in model.state_dict().items() if name.startswith(names)}, folder / "rest")

    def load(folder):
        model = lab.load_adapter(lab.load_base(), folder)
        model.load_state_dict(torch.load(folder / "rest"), strict=False)
        return model

    return save, load


def in_memory(name_of):
    """Save and load in a dictionary."""
    kept = {}
    return lambda model, folder: kept.update({name_of(folder): model}), lambda folder: kept[name_of(folder)]


def from_the_originals(model):
    save_adapter(model, folder := Path(tempfile.mkdtemp()))
    return lab.load_adapter(lab.load_base(), folder)


def times(model, factor):
    for layer in lora_layers(model).values():
        layer.lora_B.data *= factor


# --- the pieces -------------------------------------------------------------------------------------------------------

ADD = '    add_lora(model, 8, 16, "all-linear")\n'
LATER = {ADD: "", "    model = load_base()\n": "    model = load_base()\n" + ADD}
LOOP_1 = "loop(model, optimizer, 24, plays(seed))"
TRAIN = "train(model, load_text('shakespeare'), 20, lr=1e-2, batch_size=3, seq_len=64, eval_windows=1)"
GROUP = "optimizer.add_param_group({'params': trainable_parameters(model)})"
OWN_LOSS = {"plays(seed), loss)": "plays(seed))"}
FILE, LOAD = 'load_file(folder / "adapter_model.safetensors")', "model.load_state_dict(state, strict=False)"
STRIPPED = {FILE: "stripped(folder)"}
ADAM_4 = "adam(trainable_parameters(model), 3e-3)"
RETURN_4 = "return model, loop(model, optimizer, 5, plays(seed, rows=1))"
NARROW = {RETURN_4: RETURN_4.replace("return model, ", "log = ") + "; return model.half(), log"}
WIDE = {"load_base().half()": "load_base()", "    model.half()": "    model"}
LABELS = "rows.masked_fill(rows == END, -100)"
RETURN_5 = "return model, loop(model, optimizer, 20, speeches(seed), loss)"
AFTER_5 = RETURN_5.replace("return model, ", "log = ") + "; {}; return model, log"
COUNT, SUM = "(targets != -100).sum().item()", {"y.flatten())": "y.flatten(), reduction='sum')"}
WEIGHED = {" / len(rows)": f" * (y != -100).sum().item() / {COUNT}"}
AT_ONCE = {"split(1)": "split(8)", " / len(rows)": ""}
PARTS, RETURN_7 = "(model.lm_head, model.final_norm)", "return model, save_adapter, load"
SUM_8, RETURN_8 = "unload(merge(dequantize_linears(model)))", "return quantize_linears(merged)"


def optimizer_4(how):
    return {ADAM_4: f"torch.optim.AdamW(trainable_parameters(model), betas=(0.9, 0.95), {how})"}


def given_back(what):
    return {RETURN_7: f"return model, {what}"}


MENDS = [
    (1, "a group more", {"    return": f"    {GROUP}\n    return"}),
    (1, "the course's loop", {LOOP_1: TRAIN}),
    (1, "no optimizer at all", LATER | {LOOP_1: "stepped_by_hand(model, plays(seed), 24)"}),
    (2, "the model's own loss", OWN_LOSS),
    (3, "names stripped", STRIPPED),
    (3, "copied by hand", {LOAD: "copied_by_hand(model, state)"}),
    (3, "loaded and merged", {"return model": "return merge(load_adapter(load_base(), folder))"}),
    (4, "a larger eps", optimizer_4("lr=3e-3, eps=1e-4")),
    (4, "bfloat16", {".half()": ".bfloat16()"}),
    (4, "adapter back in 32 bits", {ADAM_4: f"{ADAM_4} if not in_32_bits(model) else 0"}),
    (5, "a padding token of its own", {"rows == END": "rows == 1", "speeches(seed)": "padded_with(1, seed)"}),
    (5, "padding counts", {LABELS: "rows"}),
    (6, "weighted means", WEIGHED),
    (6, "sums, divided by all", SUM | {" / len(rows)": f" / {COUNT}"}),
    (6, "rows cut to their length", WEIGHED | {"model(x)": "model(x[y != -100][None])", "y.flatten()": "y[y != -100]"}),
    (7, "an adapter on the head", {PARTS: "()", '"all-linear"': '"all-linear", skip=()', "5e-3": "1e-2"}),
    (7, "the whole model", given_back("*whole(lambda: add_lora(load_base(), 8, 16, 'all-linear'))")),
    (7, "merged and frozen", {RETURN_7: "return unload(merge(model)).requires_grad_(False), *whole(load_base)"}),
    (7, "a second file", given_back("*in_a_file('lm_head', 'final_norm')")),
    (8, "by lot", {SUM_8: "merge_into_nf4(model, seed=5)", RETURN_8: "return merged"}),
    (8, "in 32 bits", {RETURN_8: "return merged"}),
    (8, "onto the original weights", {SUM_8: "unload(merge(from_the_originals(model)))"}),
    (8, "in bfloat16", {RETURN_8: "return merged.bfloat16()"}),
]
SHIPPED = "load_adapter_state(model, shipped_adapter())"
DODGES = [
    (1, "all is trained", LATER | {"adam(": "adam(model.requires_grad_(True) and "}, "The base itself was changed"),
    (1, "somebody else's", {ADD: f"{ADD}    {SHIPPED}\n", LOOP_1: "[2.0, 1.0]"}, "takes no step"),
    (1, "somebody else's, then steps", {ADD: f"{ADD}    {SHIPPED}\n"}, "before its first step 1.6"),
    (1, "somebody else's behind", {LOOP_1: f"[{LOOP_1}, {SHIPPED}]"}, "before its last 2.6"),
    (2, "rate of zero", OWN_LOSS | {"16, plays": "4, plays", "(model))": "(model), 0.0)"}, "Held out it has"),
    (3, "only B", {FILE: "{name: t for name, t in stripped(folder).items() if 'lora_B' in name}"}, "With another file"),
    (3, "one that is known", {LOAD: SHIPPED}, "With another file"),
    (4, "all in 32 bits", WIDE, "69 tensors of the base take 32 bits"),
    (4, "in 16 bits at the end", WIDE | NARROW, "69 tensors of the base take 32 bits"),
    # Fused, AdamW computes in float32, but its state is float16 yet: small squares are 0.
    (4, "finite and worse", optimizer_4("lr=3e-3, fused=True"), "Held out it has"),
    (5, "always the end", {LABELS: "torch.zeros_like(rows)", "20, speeches": "8, speeches"}, "say something"),
    (5, "a bias on the end", {RETURN_5: AFTER_5.format("model.lm_head.base.weight.data[END] += 1")}, "The base itself"),
    (5, "a rule", {RETURN_5: AFTER_5.format("model.register_forward_hook(end_behind_a_line)")}, "The chance of END"),
    (6, "all rows, by another door", AT_ONCE | {"model(x)": "model.forward(x)"}, "reads 8 rows"),
    (6, "never divided", SUM | {"(loss / len(rows))": "loss", " / len(rows)": f" / {COUNT}"}, "its gradient is off"),
    (6, "only the gradient", WEIGHED | {"return total": "return 8 * total"}, "the loss is not"),
    (7, "the norm forgotten", given_back("*in_a_file('lm_head')"), "logits that are off"),
    (7, "the trained one again", given_back("save_adapter, lambda folder: model"), "logits that are off"),
    (7, "the last one in memory", given_back("*in_memory(lambda folder: 0)"), "logits that are off"),
    (7, "all in memory", given_back("*in_memory(str)"), "-moved"),
    (8, "left apart", {SUM_8: "model", RETURN_8: "return model"}, "It has adapters yet"),
    (8, "taken out", {SUM_8: "unload(model)", RETURN_8: "return merged"}, "0% is left"),
    (8, "twice as strong first", {SUM_8: f"times(model, 2) or {SUM_8}"}, "151% is left"),
]
