"""combine: the concatenated adapter is the weighted sum of the updates, exactly; averaging the factors is not."""

import copy

import pytest
import torch
from conftest import moved

from lora_edu import combine
from lora_edu.lora import adapter_state, add_lora, load_adapter_state, lora_layers


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


def test_one_adapter_with_weight_one_is_itself_and_a_copy(tiny_gpt):
    state = adapter_state(adapter(tiny_gpt, 2, 6, seed=1))
    again = combine([state], [1])
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert all(again[name].data_ptr() != state[name].data_ptr() for name in state)


def test_equals_peft(tiny_gpt, tmp_path):
    import peft

    from lora_edu.peft_io import save_adapter

    models = [adapter(tiny_gpt, 2, 6, seed=1), adapter(tiny_gpt, 3, 9, seed=2)]
    for name, model in zip("ab", models, strict=True):
        save_adapter(model, tmp_path / name)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(tiny_gpt), tmp_path / "a", adapter_name="a")
    theirs.load_adapter(tmp_path / "b", adapter_name="b")
    theirs.add_weighted_adapter(["a", "b"], [0.7, 0.4], "both", combination_type="cat")
    theirs.set_adapter("both")
    both = adapter(tiny_gpt, 5, 15, seed=3)
    load_adapter_state(both, combine([adapter_state(model) for model in models], [0.7, 0.4]))
    tokens = torch.randint(0, 256, (2, 20))
    assert torch.allclose(both(tokens)[0], theirs(tokens)[0], atol=1e-5)
    assert not torch.allclose(both(tokens)[0], tiny_gpt(tokens)[0], atol=1e-2)


def test_bad_input(tiny_gpt):
    state = adapter_state(adapter(tiny_gpt, 2, 6, seed=1))
    first = next(iter(state))
    bad = [
        ([], [], "each adapter needs one weight, got 0 adapters and 0 weights"),
        ([state, state], [1.0], "got 2 adapters and 1 weights"),
        ([state], [float("nan")], "weights must be finite"),
        ([state, {n: t for n, t in state.items() if n != first}], [1, 1], f"only one of them has {first}"),
        ([state, state | {first: torch.zeros(2, 17)}], [1, 1], "different models: .* is 16 and 17 wide"),
    ]
    for states, weights, message in bad:
        with pytest.raises(ValueError, match=message):
            combine(states, weights)
