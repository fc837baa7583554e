import math

import pytest
import torch
from conftest import moved

from lora_edu import GPT, GPTConfig, add_lora
from lora_edu.gpt import decode, encode, sample
from lora_edu.training import evaluate
from tests.conftest import TINY


def test_logits_equal_transformers_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT(TINY).eval()
    for parameter in model.parameters():  # random biases and norms too, so that nothing can hide behind a zero
        torch.nn.init.normal_(parameter, std=0.3)
    sizes = dict(n_positions=TINY.context, n_embd=TINY.d_model, n_layer=TINY.n_layers, n_head=TINY.n_heads)
    config = GPT2Config(vocab_size=TINY.vocab_size, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0, **sizes)
    reference = GPT2LMHeadModel(config).eval()
    copy_to_gpt2(model, reference)
    tokens = torch.randint(0, 256, (3, 20))
    logits, loss = model(tokens, tokens)
    with torch.no_grad():
        expected = reference(tokens).logits
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    their_loss = torch.nn.functional.cross_entropy(expected.flatten(0, 1), tokens.flatten())
    assert loss.item() == pytest.approx(their_loss.item(), rel=1e-5)


@torch.no_grad()
def copy_to_gpt2(model, reference):
    """Copy our weights into GPT-2: its Conv1D keeps (in, out), and one c_attn holds q, k and v."""
    gpt2 = reference.transformer
    gpt2.wte.weight.copy_(model.token_embedding.weight)
    gpt2.wpe.weight.copy_(model.position_embedding.weight)
    reference.lm_head.weight.copy_(model.lm_head.weight)
    gpt2.ln_f.load_state_dict(model.final_norm.state_dict())
    for ours, theirs in zip(model.blocks, gpt2.h, strict=True):
        theirs.ln_1.load_state_dict(ours.attention_norm.state_dict())
        theirs.ln_2.load_state_dict(ours.mlp_norm.state_dict())
        qkv = (ours.attention.q_proj, ours.attention.k_proj, ours.attention.v_proj)
        theirs.attn.c_attn.weight.copy_(torch.cat([proj.weight for proj in qkv]).T)
        theirs.attn.c_attn.bias.copy_(torch.cat([proj.bias for proj in qkv]))
        pairs = [(ours.attention.o_proj, theirs.attn.c_proj), (ours.mlp.up_proj, theirs.mlp.c_fc),
                 (ours.mlp.down_proj, theirs.mlp.c_proj)]  # fmt: skip
        for linear, conv in pairs:
            conv.weight.copy_(linear.weight.T)
            conv.bias.copy_(linear.bias)


def test_generate_repeats_with_the_same_seed(tiny_gpt):
    texts = [tiny_gpt.generate("aé", 20, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert texts[0].startswith("aé") and texts[0] == texts[1] != texts[2]
    assert encode("aé").tolist() == [97, 195, 169] and decode(encode("aé")) == "aé"  # bytes are tokens


def test_greedy_and_top_k():
    logits = torch.tensor([[0.0, 3.0, 2.0, -1.0]])
    assert sample(logits, temperature=0, top_k=None).tolist() == [[1]]
    drawn = {sample(logits, 5.0, 2, torch.Generator().manual_seed(seed)).item() for seed in range(50)}
    assert drawn == {1, 2}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_divides_the_logits(temperature):
    logits = torch.tensor([0.0, 1.0, -2.0])
    drawn = sample(logits.expand(100_000, 3), temperature, None, torch.Generator().manual_seed(0))
    share = drawn.flatten().bincount(minlength=3) / len(drawn)
    weights = [math.exp(logit / temperature) for logit in logits.tolist()]
    assert share.tolist() == pytest.approx([weight / sum(weights) for weight in weights], abs=0.004)


def test_weights_start_as_gpt_2_s():
    model = GPT(GPTConfig(n_layers=8, n_heads=2, d_model=64))
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert not weight.any(), name
        elif weight.ndim == 2:  # what is added to the stream 16 times starts at a quarter of the others
            added = name.endswith(("o_proj.weight", "down_proj.weight"))
            assert weight.std().item() == pytest.approx(0.005 if added else 0.02, rel=0.05), name


def test_a_long_prompt_is_cropped_with_a_note(tiny_gpt):
    with pytest.warns(UserWarning, match="the prompt has 40 tokens; only the last 32 fit"):
        tiny_gpt.generate("x" * 40, 1)


def adapters_and_gradients(checkpointing, frozen_embedding=True):
    torch.manual_seed(0)
    model = add_lora(GPT(TINY, checkpointing=checkpointing), rank=2, alpha=3, targets="all-linear", dropout=0.5)
    model.token_embedding.requires_grad_(not frozen_embedding)
    moved(model, std=0.1)  # at zero B would silence A's gradient
    tokens = torch.arange(40).view(2, 20) * 7 % 256
    model(tokens, tokens.flip(1))[1].backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize(
    "checkpointing, frozen", [("non-reentrant", True), ("non-reentrant", False), ("reentrant", False)]
)
def test_checkpointing_changes_no_gradient_and_repeats_dropout(checkpointing, frozen):
    plain, checkpointed = adapters_and_gradients("none", frozen), adapters_and_gradients(checkpointing, frozen)
    assert len(plain) == 24 and plain.keys() == checkpointed.keys()
    assert all(torch.equal(plain[name], checkpointed[name]) and plain[name].any() for name in plain)


def test_the_reentrant_trap():
    """With a frozen embedding nothing that enters the blocks needs a gradient, so torch builds no graph at all."""
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad"), pytest.raises(RuntimeError):
        adapters_and_gradients("reentrant", frozen_embedding=True)


def test_checkpointing_is_a_switch_and_not_a_weight():
    model = GPT(TINY, checkpointing="non-reentrant")
    assert model.state_dict().keys() == GPT(TINY).state_dict().keys() and GPT(TINY).checkpointing == "none"
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        checkpointed = model(tokens)[0]
        model.checkpointing = "none"
        assert torch.equal(model(tokens)[0], checkpointed)
    model.checkpointing = True
    with pytest.raises(ValueError, match="checkpointing must be one of none, non-reentrant, reentrant, got True"):
        model(tokens)


@pytest.mark.parametrize("temperature", [1e-40, 1e-320, 1e-38])
def test_a_temperature_next_to_zero_takes_the_likeliest(tiny_gpt, temperature):
    assert tiny_gpt.generate("low", 5, temperature) == tiny_gpt.generate("low", 5, 0)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32])
def test_tokens_of_any_integer_type(tiny_gpt, dtype):
    tokens = torch.arange(200) % 100
    assert evaluate(tiny_gpt, tokens.to(dtype), seq_len=16) == evaluate(tiny_gpt, tokens, seq_len=16)
    assert torch.equal(tiny_gpt.generate(tokens[None, :9].to(dtype), 3, 0), tiny_gpt.generate(tokens[None, :9], 3, 0))


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_generation_is_that_of_the_plain_way_beyond_the_context_too(temperature):
    torch.manual_seed(0)
    model = GPT(GPTConfig(context=16, d_model=64, n_layers=2)).eval()
    prompt, generator = torch.randint(256, (2, 9)), torch.Generator().manual_seed(0)
    tokens = prompt
    for _ in range(20):  # the plain way: each time all that fits the context
        drawn = sample(model(tokens[:, -16:])[0][:, -1], temperature, 20, generator)
        tokens = torch.cat([tokens, drawn], dim=1)
    assert torch.equal(model.generate(prompt, 20, temperature, 20, torch.Generator().manual_seed(0)), tokens)
