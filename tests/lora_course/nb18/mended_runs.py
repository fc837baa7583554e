"""Ways to mend the sick runs of notebook 18, beside the page's own, and ways to look mended.

A number stands for the run. Of a dodge, `said` is a piece of what the check answers.
"""

import copy
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from lora_course.nb18.lab import END, adam, loop, plays, set_strength, speeches
from lora_edu import (
    add_lora,
    data_file,
    dequantize_linears,
    load_adapter,
    load_adapter_state,
    load_base,
    load_text,
    merge,
    merge_into_nf4,
    quantize_linears,
    save_adapter,
    train,
    unload,
)
from lora_edu.lora import lora_layers
from lora_edu.training import trainable_parameters

MENDS, DODGES = [], []


def mend(number):
    return lambda run: MENDS.append((number, run)) or run


def dodge(number, said):
    return lambda run: DODGES.append((number, run, said)) or run


def adapted(seed, base=None, **how):
    torch.manual_seed(seed)
    return add_lora(base or load_base(), 8, 16, "all-linear", **how)


def fitted(model, seed, steps=16, loss=None, data=None, lr=1e-2):
    more = [loss] if loss else []
    loop(model, adam(trainable_parameters(model), lr), steps, data or plays(seed), *more)
    return model


# --- 1: the optimizer does not hold A and B ---------------------------------------------------------------------------


@mend(1)
def a_group_more(seed):
    model = load_base()
    optimizer = adam(model.parameters())
    torch.manual_seed(seed)
    add_lora(model, 8, 16, "all-linear")
    optimizer.add_param_group({"params": trainable_parameters(model), "lr": 1e-2})
    return model, optimizer, loop(model, optimizer, 16, plays(seed))


@mend(1)
def the_course_s_loop(seed):
    model = adapted(seed)
    return model, train(model, load_text("shakespeare"), 20, lr=1e-2, batch_size=3, seq_len=64, eval_windows=1)


@mend(1)
def all_parameters_but_later(seed):
    model = adapted(seed)
    return model, loop(model, optimizer := adam(model.parameters()), 16, plays(seed)), optimizer


@dodge(1, "The base itself was changed")
def all_is_trained(seed):
    return fitted(adapted(seed).requires_grad_(True), seed, lr=2e-3), None, []


@dodge(1, "has 0 adapters")
def full_fine_tuning(seed):
    return fitted(load_base(), seed, 4, lr=1e-3), None, []


@dodge(1, "takes 0 steps")
def somebody_else_s(seed):
    return load_adapter(load_base(), data_file("shakespeare-adapter")), None, [2.0, 1.0]


# --- 2: the labels are shifted twice ----------------------------------------------------------------------------------


@mend(2)
def the_model_s_own_loss(seed):
    return fitted(adapted(seed), seed), []


@mend(2)
def shifted_by_itself(seed):
    def loss(model, inputs, targets):
        return F.cross_entropy(model(inputs)[0][:, :-1].flatten(0, 1), inputs[:, 1:].flatten())

    return fitted(adapted(seed), seed, loss=loss)


@dodge(2, "Held out it has")
def not_shifted(seed):
    def loss(model, inputs, targets):
        return F.cross_entropy(model(inputs)[0].flatten(0, 1), inputs.flatten())

    return fitted(adapted(seed), seed, loss=loss), []


@dodge(2, "Held out it has")
def rate_of_zero(seed):
    return fitted(adapted(seed), seed, 4, lr=0.0), []


# --- 3: the names in the file fit no layer ----------------------------------------------------------------------------


def stripped(folder):
    state = load_file(folder / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model.").removesuffix(".weight"): t for name, t in state.items()}


@mend(3)
def names_stripped(folder):
    model = adapted(0)
    model.load_state_dict(stripped(folder), strict=False)
    return model


@mend(3)
def names_stripped_and_checked(folder):
    return load_adapter_state(adapted(0), stripped(folder))


@mend(3)
def copied_by_hand(folder):
    model, state = adapted(0), load_file(folder / "adapter_model.safetensors")
    for path, layer in lora_layers(model).items():
        for part in ("lora_A", "lora_B"):
            getattr(layer, part).data.copy_(state[f"base_model.model.{path}.{part}.weight"])
    return model, state


@mend(3)
def loaded_and_merged(folder):
    return merge(load_adapter(load_base(), folder))


@dodge(3, "With another file")
def only_b(folder):
    model = adapted(0)
    model.load_state_dict({name: t for name, t in stripped(folder).items() if "lora_B" in name}, strict=False)
    return model


@dodge(3, "With another file")
def another_alpha(folder):
    model = add_lora(load_base(), 8, 8, "all-linear")
    model.load_state_dict(stripped(folder), strict=False)
    return model


@dodge(3, "With another file")
def one_that_is_known(folder):
    return load_adapter(load_base(), data_file("shakespeare-adapter"))


@dodge(3, "With another file")
def trained_anew(folder):
    return fitted(adapted(3), 3, 8)


# --- 4: Adam's eps is 0 in float16 ------------------------------------------------------------------------------------


def few_steps(model, seed, lr=3e-3, **how):
    optimizer = torch.optim.AdamW(trainable_parameters(model), lr=lr, betas=(0.9, 0.95), **how)
    return model, loop(model, optimizer, 5, plays(seed, rows=1))


@mend(4)
def larger_eps(seed):
    return few_steps(adapted(seed).half(), seed, eps=1e-4)


@mend(4)
def bfloat16(seed):
    return few_steps(adapted(seed).bfloat16(), seed)


@mend(4)
def adapter_back_in_32_bits(seed):
    model = adapted(seed).half()
    for p in trainable_parameters(model):
        p.data = p.data.float()
    return few_steps(model, seed)


@dodge(4, "tensors of the base take 32 bits")
def all_in_32_bits(seed):
    return few_steps(adapted(seed), seed)


@dodge(4, "Held out it has")
def no_number_becomes_zero(seed):
    model = adapted(seed).half()
    optimizer, data = adam(trainable_parameters(model), 3e-3), plays(seed, rows=1)
    for _ in range(5):
        loop(model, optimizer, 1, data)
        for p in trainable_parameters(model):
            p.data.nan_to_num_(0, 0, 0)
    return model, []


@dodge(4, "Held out it has")
def finite_and_worse(seed):
    """Fused, AdamW computes in float32, but its state is float16 yet: small squares are 0."""
    return few_steps(adapted(seed).half(), seed, fused=True)


@dodge(4, "Held out it has")
def hardly_a_step(seed):
    return few_steps(adapted(seed).half(), seed, lr=1e-6, eps=1.0)


# --- 5: the end is never asked for ------------------------------------------------------------------------------------


def ends_learned(seed, labels_of, data=None, steps=20):
    def loss(model, rows, lengths):
        logits = model(rows[:, :-1])[0].flatten(0, 1)
        return F.cross_entropy(logits, labels_of(rows, lengths)[:, 1:].flatten())

    return fitted(adapted(seed, skip=()), seed, steps=steps, loss=loss, data=data or speeches(seed)), []


def padded_with(other, seed):
    for rows, lengths in speeches(seed):
        yield rows.masked_fill(torch.arange(rows.shape[1]) >= lengths[:, None], other), lengths


@mend(5)
def a_padding_token_of_its_own(seed):
    return ends_learned(seed, lambda rows, _: rows.masked_fill(rows == 1, -100), padded_with(1, seed))


@mend(5)
def all_ends_but_the_first_masked(seed):
    return ends_learned(seed, lambda rows, _: rows.masked_fill((rows == END).cumsum(1) > 1, -100))


@mend(5)
def padding_counts(seed):
    return ends_learned(seed, lambda rows, _: rows)


@dodge(5, "before the end its loss")
def always_the_end(seed):
    return ends_learned(seed, lambda rows, _: torch.zeros_like(rows), steps=8)


@dodge(5, "The base itself was changed")
def a_bias_on_the_end(seed):
    model, log = ends_learned(seed, lambda rows, _: rows.masked_fill(rows == END, -100))
    model.lm_head.base.weight.data[END] += 1
    return model, log


@dodge(5, "The chance of END")
def cut_when_written(seed):
    model, log = ends_learned(seed, lambda rows, _: rows.masked_fill(rows == END, -100))
    write = model.generate

    def generate(*args, **how):
        drawn = write(*args, **how)
        drawn[:, -1] = END
        return drawn

    model.generate = generate
    return model, log


# --- 6: means of unequal sizes ----------------------------------------------------------------------------------------


def row_losses(model, rows, targets, reduction="mean"):
    for x, y in zip(rows.split(1), targets.split(1), strict=True):
        yield F.cross_entropy(model(x)[0].flatten(0, 1), y.flatten(), reduction=reduction), (y != -100).sum()


@mend(6)
def weighted_means(model, rows, targets):
    labels = (targets != -100).sum()
    parts = [loss * count / labels for loss, count in row_losses(model, rows, targets)]
    sum(parts).backward()
    return sum(parts)


@mend(6)
def divided_at_the_end(model, rows, targets):
    labels, total = (targets != -100).sum().item(), 0.0
    for loss, _ in row_losses(model, rows, targets, "sum"):
        loss.backward()
        total += loss.item()
    for p in trainable_parameters(model):
        p.grad /= labels
    return total / labels


@mend(6)
def rows_cut_to_their_length(model, rows, targets):
    labels, total = (targets != -100).sum().item(), 0.0
    for x, y in zip(rows, targets, strict=True):
        length = (y != -100).sum()
        loss = model(x[None, :length], y[None, :length])[1] * length / labels
        loss.backward()
        total += loss.item()
    return total


@dodge(6, "reads 8 rows")
def all_rows_at_once(model, rows, targets):
    loss = F.cross_entropy(model(rows)[0].flatten(0, 1), targets.flatten())
    loss.backward()
    return loss.item()


@dodge(6, "its gradient is off")
def never_divided(model, rows, targets):
    labels, total = (targets != -100).sum().item(), 0.0
    for loss, _ in row_losses(model, rows, targets, "sum"):
        loss.backward()
        total += loss.item() / labels
    return total


@dodge(6, "its gradient is off")
def only_the_loss_is_right(model, rows, targets):
    total, labels = 0.0, (targets != -100).sum().item()
    for loss, count in row_losses(model, rows, targets):
        (loss / len(rows)).backward()
        total += loss.item() * count.item() / labels
    return total


@dodge(6, "the loss is not")
def only_the_gradient_is_right(model, rows, targets):
    return 8 * divided_at_the_end(model, rows, targets)


# --- 7: a part beside A and B was trained -----------------------------------------------------------------------------


def with_head(seed):
    model = adapted(seed)
    for part in (model.lm_head, model.final_norm):
        part.requires_grad_(True)
    return fitted(model, seed, 16, lr=5e-3)


def reloaded(folder):
    return load_adapter(load_base(), folder)


def in_a_file(names):
    """Save and load these parameters beside the adapter."""

    def save(model, folder):
        save_adapter(model, folder)
        torch.save({name: p for name, p in model.state_dict().items() if name.startswith(names)}, folder / "rest")

    def load(folder):
        model = reloaded(folder)
        model.load_state_dict(torch.load(folder / "rest"), strict=False)
        return model

    return save, load


@mend(7)
def an_adapter_on_the_head(seed):
    return fitted(adapted(seed, skip=()), seed), save_adapter, reloaded


@mend(7)
def nothing_else_is_trained(seed):
    return fitted(adapted(seed), seed), save_adapter, reloaded


def whole(model, fresh):
    """Save and load all of a model."""

    def load(folder):
        again = fresh()
        again.load_state_dict(torch.load(folder / "all"))
        return again

    return model, lambda model, folder: torch.save(model.state_dict(), folder / "all"), load


@mend(7)
def the_whole_model(seed):
    return whole(with_head(seed), lambda: adapted(0))


@mend(7)
def merged_and_frozen(seed):
    return whole(unload(merge(with_head(seed))).requires_grad_(False), load_base)


@mend(7)
def a_second_file(seed):
    return with_head(seed), *in_a_file(("lm_head", "final_norm"))


@dodge(7, "logits that are off")
def the_norm_forgotten(seed):
    return with_head(seed), *in_a_file(("lm_head",))


@dodge(7, "logits that are off")
def the_trained_one_again(seed):
    model = with_head(seed)
    return model, save_adapter, lambda folder: copy.deepcopy(model)


@dodge(7, "logits that are off")
def the_last_one_in_memory(seed):
    kept = []
    return with_head(seed), lambda model, folder: kept.append(model), lambda folder: kept[-1]


@dodge(7, "logits that are off")
def the_head_put_back_before(seed):
    def save(model, folder):
        model.load_state_dict(load_base().state_dict(), strict=False)
        save_adapter(model, folder)

    return with_head(seed), save, reloaded


# --- 8: rounded back onto the levels ----------------------------------------------------------------------------------


@mend(8)
def by_lot(model):
    return merge_into_nf4(model, seed=5)


@mend(8)
def in_32_bits(model):
    return unload(merge(dequantize_linears(model)))


@mend(8)
def merged_and_not_taken_out(model):
    return merge(dequantize_linears(model))


@mend(8)
def onto_the_original_weights(model):
    """And then in 4 bits."""
    save_adapter(model, folder := Path(tempfile.mkdtemp()))
    return quantize_linears(unload(merge(reloaded(folder))))


@mend(8)
def in_bfloat16(model):
    return unload(merge(dequantize_linears(model))).bfloat16()


@dodge(8, "It has adapters yet")
def left_apart(model):
    return model


@dodge(8, "0% is left")
def taken_out(model):
    return unload(model)


@dodge(8, "is left")
def decoded_after_all(model):
    """Rounded first, and then in 32 bits."""
    return dequantize_linears(quantize_linears(unload(merge(dequantize_linears(model)))))


@dodge(8, "It guesses unlike")
def at_full_strength(model):
    set_strength(model, 1)
    return unload(merge(dequantize_linears(model)))
