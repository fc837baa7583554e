"""Bad arguments: one sentence that names the argument, and a model that has not changed by a bit. No silent number."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from conftest import moved
from damaged_files import each
from stopped_runs import refused
from torch import Tensor, nn

from lora_edu import GPT, GPTConfig, PagedAdamW, evaluate, predicted_activation_bytes, quantize, train, training_bytes
from lora_edu.checks import TRAINING
from lora_edu.codebooks import int_codebook, nf_codebook
from lora_edu.lora import LoRALinear, adapter_state, add_lora, combine, load_adapter_state, merge, unload, unmerge
from lora_edu.lora_numpy import LoRALinear as InNumPy
from lora_edu.memory.shapes import ARCHITECTURES, predicted_bytes
from lora_edu.qlora import NF4Linear, quantize_linears
from lora_edu.quantization import DoubleQuant
from lora_edu.texts import Text
from lora_edu.variants import add_variant

TOKENS = torch.tensor(list(b"low rank. " * 20), dtype=torch.uint8)
TEXT = Text(TOKENS[:150], TOKENS[150:])
QUICK = {"seq_len": 16, "batch_size": 2, "progress": False, "device": "cpu"}
WEIGHT, ONES, RNG = torch.linspace(-1, 1, 100), np.ones((8, 12)), np.random.default_rng(0)
SEVEN = ARCHITECTURES["LLaMA 7B"]


def small():
    torch.manual_seed(0)
    return GPT(GPTConfig(context=32, n_layers=1, n_heads=2, d_model=8)).train()


def adapted():
    return moved(add_lora(small(), 2, 4))


class Tied(nn.Module):
    """A head with the weight of the embedding, and one layer under two names."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
        self.head.weight = self.embedding.weight
        self.first_proj = self.second_proj = nn.Linear(8, 8)


def with_a_value(value):
    """In the last of the layers: none before it may change."""
    model = small()
    model.blocks[-1].mlp.down_proj.double().weight.data[3, 2] = value
    return model


def half_in_4_bits():
    model = small()
    model.blocks[0].mlp.down_proj = NF4Linear.from_linear(model.blocks[0].mlp.down_proj)  # the last one
    return model


def with_dora():
    return add_variant(small(), "DoRA", 2, 4)


def two(model):
    return [adapter_state(model)] * 2


def other_rank(model):
    return [adapter_state(model), each(lambda tensor: tensor[:1], "lora_A")(adapter_state(model))]


wider = each(lambda tensor: nn.functional.pad(tensor, (0, 1)), "lora_A")
too_large = each(lambda tensor: tensor.double() + 1e200)
as_numpy = each(Tensor.numpy)


def attention():
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


# What was silent, or misleading, before it was looked at: a model, what is done with it, and what the message names.
REFUSED = {
    "fractional targets": (small, lambda m: m(TOKENS[None, :4], torch.rand(1, 4)), "targets must be"),
    "targets of another shape": (small, lambda m: m(TOKENS[None, :4], TOKENS[:4, None]), "targets must have"),
    "True and False as tokens": (small, lambda m: evaluate(m, TOKENS > 50, seq_len=16), "torch.bool"),
    "another inner rank": (adapted, lambda m: combine(other_rank(m), [1, 1]), "adapter 2 .* one rank"),
    "weights in words": (adapted, lambda m: combine(two(m), ["1", "2"]), "weights must be"),
    "one adapter, not in a list": (adapted, lambda m: combine(adapter_state(m), [1]), "needs one weight"),
    "NumPy as an adapter": (adapted, lambda m: load_adapter_state(m, as_numpy(two(m)[0])), "hold tensors"),
    "a list as an adapter": (adapted, lambda m: load_adapter_state(m, [1]), "must be a dictionary"),
    "a codebook of integers": (small, lambda m: quantize(WEIGHT, torch.tensor([-1, 0, 1])), "floating-point"),
    "a list as a codebook": (small, lambda m: quantize(WEIGHT, [-1, 0, 1]), "codebook must be a name or"),
    "float8": (small, lambda m: quantize(WEIGHT.to(torch.float8_e4m3fn)), "16 bits or more"),
    "a skip with a slip": (small, lambda m: quantize_linears(m, skip="lm_haed"), "lm_haed"),
    "targets that are none": (small, lambda m: add_lora(m, 2, 4, targets=[3]), "targets must be the name"),
    "two names, adapters": (Tied, lambda m: add_lora(m, 2, 4, "first_proj"), "at first_proj and second_proj"),
    "attention of torch": (attention, lambda m: add_lora(m.self_attn, 2, 4, "all-linear"), "out_proj can"),
    "a layer of torch's encoder": (attention, lambda m: quantize_linears(m, skip="out_proj"), "linear1 cannot be"),
    "whole numbers as an input": (small, lambda m: NF4Linear.from_linear(m.lm_head)(torch.ones(2, 8).int()), "int32"),
    "an embedding in 4 bits": (small, lambda m: NF4Linear.from_linear(nn.Embedding(8, 4)), "needs a linear layer"),
    "a text alone, forward": (small, lambda m: m(TOKENS[:9]), r"tokens must have the shape \(B, S\), got \(9,\)"),
    "the loss of nothing": (small, lambda m: m(TOKENS[None, :0], TOKENS[None, :0]), "no token in tokens"),
    "a strength that float32 has not": (small, lambda m: add_lora(m, 2, 1e-320), "alpha must be .* 1e-30 to"),
    "weights as a tensor": (adapted, lambda m: combine(two(m), torch.ones(2)), "weights must be a list"),
    "adapters of nothing": (small, lambda m: combine([{}, {}], [1, 1]), "adapter 1 has no tensors"),
    "DoRA, combined": (with_dora, lambda m: combine(two(m), [1, 1]), "adapter 1 is a variant's, with .*magnitude"),
    "an adapter too large for its type": (adapted, lambda m: load_adapter_state(m, too_large(two(m)[0])), "too large"),
    "PiSSA after a layer in 4 bits": (half_in_4_bits, lambda m: add_variant(m, "PiSSA", 2, 4), "4 bits"),
    "PiSSA of NaN": (lambda: with_a_value(torch.nan), lambda m: add_variant(m, "PiSSA", 2, 4), "no largest directions"),
    "an offset that float32 rounds to 1": (small, lambda m: nf_codebook(4, 0.99999999), "offset is a probability"),
    "an architecture by name": (small, lambda m: training_bytes("LLaMA 7B"), "an Architecture, such as"),
    "another model's bytes": (small, lambda m: predicted_bytes(ARCHITECTURES["GPT-2"]), "config must be a GPTConfig"),
    "a negative batch, activations": (small, lambda m: predicted_activation_bytes(m.config, -1, 8), "batch_size must"),
    "no prompt": (small, lambda m: m.generate(""), "the prompt is empty"),
    "beyond the context": (small, lambda m: m(torch.zeros(1, 33).int()), "at most 32 tokens"),
    "heads that do not fit": (small, lambda m: GPTConfig(d_model=30, n_heads=4), "multiple of n_heads"),
    "a prompt without B": (small, lambda m: m.generate(torch.zeros(4).int()), r"\(B, S\), got shape \(4,"),
    "fractions": (small, lambda m: m(torch.full((1, 4), 0.5)), "^tokens must be .* whole numbers"),
    "a prompt of fractions": (small, lambda m: m.generate(torch.zeros(1, 4)), "^prompt must be .* whole numbers"),
    "a list as a prompt": (small, lambda m: m.generate([1, 2]), "^prompt must be .*got list"),
    "a byte too large": (small, lambda m: m.generate(torch.tensor([[256]])), "^prompt must be from 0 to 255"),
    "a token too large": (small, lambda m: m(torch.tensor([[1, 300]])), "^tokens must be .*got 300: encode"),
    "a target too large": (small, lambda m: m(TOKENS[None, :2], torch.tensor([[-100, 256]])), "^targets .* got 256"),
    "a switch that is none": (small, lambda m: GPT(m.config, checkpointing="yes"), "checkpointing .*got 'yes'"),
    "whole numbers, quantized": (small, lambda m: quantize(torch.arange(4)), "only floating-point .* torch.int64"),
    "nothing, quantized": (small, lambda m: quantize(torch.empty(0, 3)), "the tensor is empty"),
    "an unknown codebook": (small, lambda m: quantize(WEIGHT, "nf9"), "unknown codebook 'nf9': choose one of nf2"),
    "a codebook that falls": (small, lambda m: quantize(WEIGHT, torch.tensor([1.0, 0])), "values in rising order"),
    "NaN, quantized": (small, lambda m: quantize(torch.tensor([[1, torch.nan]])), r"value nan at index \(0, 1\)"),
    "a list, quantized": (small, lambda m: quantize([1.0, 2.0]), "only dense torch tensors can be .* got list"),
    "a sparse tensor": (small, lambda m: quantize(torch.eye(3).to_sparse()), "only dense torch tensors"),
    "a codebook of 1 bit": (small, lambda m: int_codebook(1), "bits must be a whole number from 2 to 8"),
    "a name with a slip": (small, lambda m: add_lora(m, 2, 4, ("q_proj", "query")), "named query; there are down_proj"),
    "no name": (small, lambda m: add_lora(m, 2, 4, ()), "no layer is left to choose"),
    "adapters twice": (adapted, lambda m: add_lora(m, 2, 4), "has adapters already: take them out with unload"),
    "an adapter of a norm": (small, lambda m: LoRALinear(nn.LayerNorm(8), 2, 4), "wraps linear layers, got LayerNorm"),
    "a name and a skip": (small, lambda m: add_lora(m, 2, 4, "q_proj", skip="k_proj"), "skip says what 'all-linear'"),
    **{f"{f.__name__} without": (small, f, "has no adapters: add") for f in (merge, unmerge, unload, adapter_state)},
    "no adapter, combined": (small, lambda m: combine([], []), "each adapter needs one weight, got 0 adapters and 0"),
    "a weight too few": (adapted, lambda m: combine(two(m), [1.0]), "got 2 adapters and 1 weights"),
    "NaN as a weight": (adapted, lambda m: combine(two(m)[:1], [torch.nan]), "weights must be finite"),
    "adapters of other layers": (adapted, lambda m: combine([two(m)[0], dict([*two(m)[0].items()][1:])], [1, 1]),
                                 "only one of them has blocks.0.attention.q_proj.lora_A"),
    "adapters of other models": (adapted, lambda m: combine([two(m)[0], wider(two(m)[0])], [1, 1]), "8 and 9 wide"),
    "an unknown variant": (small, lambda m: add_variant(m, "DORA", 4, 6), "unknown variant 'DORA'"),
    "nothing to train": (lambda: small().requires_grad_(False), lambda m: train(m, TEXT, 5, **QUICK), "add adapters"),
    "activations of lm_head": (small, lambda m: predicted_activation_bytes(m.config, 1, 8, rank=2, targets="lm_head"),
                               "no linear layer is named lm_head; there are q_proj"),
    "an unknown precision": (small, lambda m: predicted_activation_bytes(m.config, 1, 8, precision="fp16"),
                             "precision must be one of float32; bfloat16; .*, got 'fp16'"),
    "4 bits, trained in full": (small, lambda m: training_bytes(SEVEN, bits=4), "4-bit weights cannot be trained"),
    "adapters before 4 bits": (adapted, quantize_linears, r"quantize_linears\(model\) first, then add_lora"),
    "4 bits, merged": (lambda: add_lora(quantize_linears(small()), 2, 8), merge,
                       r"keeps its weight in 4 bits.*Call dequantize_linears\(model\) first"),
    "4 bits twice": (lambda: quantize_linears(small()), quantize_linears, "no layer is left"),
    "constants in nf9": (small, lambda m: quantize_linears(m, double_quant=DoubleQuant("nf9")), "nf9"),
    "blocks of no constant": (small, lambda m: quantize_linears(m, double_quant=DoubleQuant(block_size=0)), "block_s"),
    **{f"{x} as a weight": (partial(with_a_value, x), quantize_linears,
                            rf"0.mlp.down_proj .*{re.escape(str(x))} at index \(3, 2\)")
       for x in (torch.nan, torch.inf, -torch.inf, 1e300)},
    "whole numbers as weights": (lambda: nn.Linear(8, 8).requires_grad_(False)._apply(Tensor.char),
                                 lambda m: LoRALinear(m, 2, 4), r"keeps its weight as torch\.int8"),
    "a list in NumPy's": (small, lambda m: InNumPy([[1.0, 2.0]], 1, 2, RNG), "must be a matrix .* got a list"),
    "a vector in NumPy's": (small, lambda m: InNumPy(ONES[0], 1, 8, RNG), r"\(d_out, d_in\), got an array of shape \("),
    "complex numbers, paged": (small, lambda m: PagedAdamW([torch.ones(2, dtype=torch.complex64)]), "complex numbers"),
}  # fmt: skip


@pytest.mark.parametrize("made, call, words", REFUSED.values(), ids=REFUSED)
def test_what_was_silent_or_misleading_is_one_clear_error(made, call, words):
    model = made()
    with refused(model, (TypeError, ValueError), words):
        call(model)


# Any value, for any argument. What an argument may be stands here once more, as it is printed, and is not asked of the
# package's rules.
NUMBERS = [-3, -1, -0.5, 0, 0.5, 1, 1.0, 2.5, 13, 10**6, torch.nan, torch.inf, -torch.inf]
ANYTHING = [*NUMBERS, None, True, False, "", "ab", b"a", [], [0], [0, 1], (0.5, 0.9), (-0.1, 0.9), [0, 0, 0], object(),
            torch.ones(2), np.ones(2), {"a": 1}, torch.int8, len]  # fmt: skip


NO, ZERO, WHOLE, POSITIVE = {"None"}, {"0"}, {"1", "13", "1000000"}, {"0.5", "1", "1.0", "2.5", "13", "1000000"}
TRUTH, FUNCTION = {"True", "False"}, {repr(len)}
MAY_BE = {
    "train": dict.fromkeys(("steps", "batch_size", "seq_len", "eval_windows", "checkpoint_every"), WHOLE)
    | dict.fromkeys(("warmup_steps", "seed"), WHOLE | ZERO) | dict.fromkeys(("lr", "max_grad_norm"), POSITIVE)
    | {"weight_decay": POSITIVE | ZERO, "betas": {"(0.5, 0.9)"}, "final_lr_factor": {"0", "0.5", "1", "1.0"},
       "eval_every": WHOLE | NO, "compile": TRUTH, "autocast": TRUTH | NO, "loss_fn": FUNCTION,
       "on_evaluation": FUNCTION | NO},
    "evaluate": dict.fromkeys(("seq_len", "max_windows", "batch_size"), WHOLE)
    | {"autocast": TRUTH | NO, "loss_fn": FUNCTION},
    "generate": {"max_new_tokens": WHOLE | ZERO, "temperature": POSITIVE | ZERO, "top_k": WHOLE | NO, "generator": NO},
    "add_lora": {"rank": {"1"}, "alpha": POSITIVE, "dropout": {"0", "0.5"}},
    "quantize_linears": {"block_size": WHOLE, "double_quant": TRUTH, "compute_dtype": NO},
    "GPTConfig": dict.fromkeys(("context", "n_layers", "n_heads", "d_model", "vocab_size"), WHOLE),
    "PagedAdamW": {"lr": POSITIVE | ZERO, "weight_decay": POSITIVE | ZERO, "page_bytes": WHOLE},
    "nf_codebook": {"bits": {}, "offset": NO},
    "training_bytes": {"rank": WHOLE | NO, "bits": {}, "adapter_bits": {}, "seq_len": WHOLE},
    "LoRALinear in NumPy": {"rank": {"1"}, "alpha": POSITIVE},
}  # fmt: skip
CALLS = {
    "train": lambda model, **bad: train(model, TEXT, **({"steps": 2} | QUICK | bad)),
    "evaluate": lambda model, **bad: evaluate(model, TOKENS, **({"seq_len": 16} | bad)),
    "generate": lambda model, **bad: model.generate("ab", **({"max_new_tokens": 2} | bad)),
    "add_lora": lambda model, **bad: add_lora(model, **({"rank": 2, "alpha": 4} | bad)),
    "quantize_linears": quantize_linears,
    "GPTConfig": lambda model, **bad: GPTConfig(**bad),
}
CALLS_WITH_NUMBERS = {
    "PagedAdamW": lambda model, **bad: PagedAdamW(model.parameters(), **bad),
    "nf_codebook": lambda model, **bad: nf_codebook(**({"bits": 4} | bad)),
    "training_bytes": lambda model, **bad: training_bytes(SEVEN, **({"bits": 4, "rank": 4} | bad)),
    "LoRALinear in NumPy": lambda model, **bad: InNumPy(ONES, **({"rank": 2, "alpha": 4, "rng": RNG} | bad)),
}


@pytest.mark.parametrize(
    ("called", "argument"), [(called, argument) for called, may_be in MAY_BE.items() for argument in may_be]
)
def test_any_value_for_any_argument_is_refused_by_name_or_right(called, argument):
    model = small()
    for value in ANYTHING if called in CALLS else NUMBERS:
        if repr(value) not in MAY_BE[called][argument]:
            with refused(model, (TypeError, ValueError), rf"\b{argument}\b"):
                (CALLS | CALLS_WITH_NUMBERS)[called](model, **{argument: value})


def test_what_the_arguments_of_train_may_be_passes():
    allowed = {name: [value for value in ANYTHING if repr(value) in may_be] for name, may_be in MAY_BE["train"].items()}
    assert allowed == {name: [value for value in ANYTHING if rule.holds(value)] for name, rule in TRAINING.items()}


def test_the_default_device_changes_no_number():
    wanted, model = quantize(WEIGHT, double_quant=True).dequantize(), small()
    loss, losses = evaluate(model, TOKENS, seq_len=16), train(small(), TEXT, 2, **QUICK).train_loss
    with torch.device("meta"):  # a GPU, say, where there is one
        assert torch.equal(quantize(WEIGHT, double_quant=True).dequantize(), wanted)
        assert evaluate(model, TOKENS, seq_len=16) == loss and len(model.generate("ab", 3)) >= 3
        with torch.device("cpu"):
            model = small()
        assert train(model, TEXT, 2, **QUICK).train_loss == losses
