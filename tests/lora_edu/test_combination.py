"""combine: the concatenated adapter is the weighted sum of the updates, exactly; averaging the factors is not."""

import copy

import peft
import pytest
import torch
from conftest import moved

from lora_edu import adapter_state, add_lora, combine, load_adapter_state, save_adapter
from lora_edu.lora import lora_layers


def adapter(base, rank, alpha, seed):
    """A model with adapters that do something, on layers that are not square too."""
    torch.manual_seed(seed)
    return moved(add_lora(copy.deepcopy(base), rank, alpha, targets=("q_proj", "up_proj")), std=0.3)


def updates(model):
    return {path: layer.delta_weight() for path, layer in lora_layers(model).items()}


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, -2.0), (0.0, 1.0)])
@pytest.mark.parametrize("alpha", [9, 2])  # s = 3 as in the first, or 2/3, which goes into the weight
def test_the_update_is_the_weighted_sum_for_different_ranks(tiny_gpt, weights, alpha):
    first, second = adapter(tiny_gpt, 2, 6, seed=1), adapter(tiny_gpt, 3, alpha, seed=2)
    state = combine([adapter_state(first), adapter_state(second)], [weights[0], weights[1] * alpha / 9])
    both = load_adapter_state(adapter(tiny_gpt, 5, 15, seed=3), state)
    for path, delta in updates(both).items():
        expected = weights[0] * updates(first)[path] + weights[1] * updates(second)[path]
        assert torch.allclose(delta, expected, atol=1e-6)


def test_peft_s_cat_is_the_sum_and_its_linear_is_the_mean_of_factors_with_cross_terms(tiny_gpt, tmp_path):
    states = {}
    theirs = peft.get_peft_model(copy.deepcopy(tiny_gpt), peft.LoraConfig(target_modules=["q_proj", "up_proj"]))
    for seed, (name, rank) in enumerate({"a": 3, "b": 3, "c": 2}.items()):
        model = adapter(tiny_gpt, rank, 3 * rank, seed)
        theirs.load_adapter(save_adapter(model, tmp_path / name), name)
        states[name] = adapter_state(model)
    a, b, c = states.values()
    mixed = {name: 0.7**0.5 * a[name] + 0.4**0.5 * b[name] for name in a}  # the arm "PEFT's linear" of notebook 04
    made, tokens = [], torch.randint(0, 256, (2, 20))
    for how, names, state in (("cat", "ab", combine([a, b], [0.7, 0.4])), ("linear", "ab", mixed),
                              ("cat", "ac", combine([a, c], [0.7, 0.4]))):  # fmt: skip
        theirs.add_weighted_adapter(list(names), [0.7, 0.4], f"{how} {names}", combination_type=how)
        theirs.set_adapter(f"{how} {names}")
        rank = len(next(iter(state.values())))
        made.append(load_adapter_state(adapter(tiny_gpt, rank, 3 * rank, seed=3), state)(tokens)[0])
        assert torch.allclose(made[-1], theirs(tokens)[0], atol=1e-4)
    assert not torch.allclose(made[0], made[1], atol=1e-2)  # cross terms
    assert not torch.allclose(made[0], tiny_gpt(tokens)[0], atol=1e-2)
