import pytest
import torch

from lora_edu.architectures import ARCHITECTURES, Architecture
from lora_edu.calculator import ACTIVATIONS, CONSTANT_BITS, smallest_card, training_bytes
from lora_edu.gpt import GPT, GPTConfig
from lora_edu.memory import ADAPTERS, BASE, CONSTANTS, GRADIENTS, KINDS, OPTIMIZER, predicted_bytes

SEVEN = ARCHITECTURES["LLaMA 7B"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_parameter_counts_are_those_of_the_real_models(name):
    transformers = pytest.importorskip("transformers")
    shape = ARCHITECTURES[name]
    with torch.device("meta"):  # shapes without memory
        if shape.gated:
            config = transformers.LlamaConfig(
                num_hidden_layers=shape.n_layers, hidden_size=shape.d_model, intermediate_size=shape.d_ff,
                num_attention_heads=shape.n_heads, vocab_size=shape.vocab_size,
            )  # fmt: skip
            model = transformers.LlamaForCausalLM(config)
        else:
            config = transformers.GPT2Config(n_layer=shape.n_layers, n_embd=shape.d_model, n_head=shape.n_heads)
            model = transformers.GPT2LMHeadModel(config)
    assert shape.n_parameters == sum(parameter.numel() for parameter in model.parameters())


def test_our_own_gpt():
    config = GPTConfig(context=40, n_layers=3, n_heads=2, d_model=48)
    shape = Architecture.of_gpt(config)
    assert shape.n_parameters == sum(parameter.numel() for parameter in GPT(config).parameters())


@pytest.mark.parametrize("way", [{}, {"rank": 8}, {"rank": 4, "targets": ("q_proj", "v_proj")}])
def test_it_agrees_with_the_exact_account_of_the_small_gpt(way):
    exact = predicted_bytes(GPTConfig(), **way)
    needed = training_bytes(Architecture.of_gpt(GPTConfig()), bits=32, **way)
    steps = exact[OPTIMIZER] - needed[OPTIMIZER]  # AdamW's step counts, four bytes a tensor
    assert 0 < steps < 400 and steps % 4 == 0
    assert all(needed[kind] == exact[kind] for kind in KINDS if kind != OPTIMIZER)


def test_four_bits_agree_up_to_the_ends_of_the_constants():
    exact, needed = predicted_bytes(GPTConfig(), nf4=True, rank=8), training_bytes(
        Architecture.of_gpt(GPTConfig()), bits=4, rank=8
    )  # fmt: skip
    offsets = 24 * 4
    assert exact[CONSTANTS] == needed[CONSTANTS] + offsets
    assert needed[ADAPTERS] == exact[ADAPTERS] and needed[GRADIENTS] == exact[GRADIENTS]


def test_the_numbers_of_the_papers():
    sixty_five = ARCHITECTURES["LLaMA 65B"]
    full = training_bytes(sixty_five)
    assert sum(full.values()) - full[ACTIVATIONS] == 12 * sixty_five.n_parameters > 780e9
    qlora = training_bytes(sixty_five, bits=4, rank=64, checkpointing=True, adapter_bits=16)
    assert sum(qlora.values()) < 48e9
    assert SEVEN.n_parameters * (4 + CONSTANT_BITS) / 8 / 1e9 == pytest.approx(3.48, abs=0.005)
    stored = training_bytes(SEVEN, bits=4, rank=1)
    assert (stored[BASE] + stored[CONSTANTS]) / 1e9 == pytest.approx(3.87, abs=0.005)


def test_paging_takes_the_optimizer_away_and_nothing_else():
    plain, paged = (training_bytes(SEVEN, bits=4, rank=64, paged=paged) for paged in (False, True))
    assert paged == plain | {OPTIMIZER: 0.0} and plain[OPTIMIZER] == 8 * 159_907_840


def test_checkpointing_keeps_an_input_a_block_and_one_block():
    tokens = 512
    less = training_bytes(SEVEN, bits=4, rank=64, checkpointing=True)[ACTIVATIONS]
    inputs, loss = 2 * tokens * SEVEN.d_model * SEVEN.n_layers, 4 * tokens * SEVEN.vocab_size
    assert inputs + loss < less < training_bytes(SEVEN, bits=4, rank=64)[ACTIVATIONS] / 5


def test_cards():
    assert [smallest_card(n * 1e9) for n in (0.1, 8, 8.1, 47.9, 80, 81)] == [8, 8, 12, 48, 80, None]


@pytest.mark.parametrize(
    "how, message",
    [
        ({"bits": 3}, "bits must be one of 4, 8, 16, 32, got 3"),
        ({"bits": 4}, "weights of 4 bits cannot be trained themselves"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"seq_len": -5}, "seq_len must be at least 1, got -5"),
        ({"rank": 4, "targets": ("lm_head",)}, "no linear layer of a block is named lm_head"),
    ],
)
def test_bad_settings(how, message):
    with pytest.raises(ValueError, match=message):
        training_bytes(SEVEN, **how)
