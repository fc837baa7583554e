"""What a CUDA GPU changes, one body for both devices: run on the CPU everywhere, and on a GPU where there is one.

The other tests that need a GPU stand beside what they test: `grep -rn "needs a CUDA GPU" tests`.
"""

import pytest
import torch
from conftest import library, load_benchmark, own_memory
from test_compiling import batch, kept_weights, qlora

from lora_edu import GPT, GPTConfig, add_lora, quantize, quantize_linears, train
from lora_edu.engine import compiling, kernels
from lora_edu.quantization import decode, unpack
from lora_edu.training import trainable_parameters

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
on_both = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
CONFIG = GPTConfig(context=32, n_layers=2, n_heads=2, d_model=64)


# --- quantization --------------------------------------------------------------------------------------------------


def assert_codes_agree(ours, theirs, scaled, codebook):
    """Equal; or, where a reciprocal was rounded in another way, different by one and for a value at a mid-point."""
    different = (ours != theirs).nonzero().flatten()
    assert len(different) <= 1e-4 * len(ours)
    lower = torch.minimum(ours[different], theirs[different]).long()
    assert (ours[different].int() - theirs[different].int()).abs().eq(1).all()
    midpoints = (codebook[lower] + codebook[lower + 1]) / 2
    assert torch.allclose(scaled[different], midpoints, atol=1e-6)


@needs_gpu
@dtypes
@pytest.mark.parametrize("shape, block_size", [((96, 128), 64), ((64, 1024), 256), ((300, 70), 64), ((33, 65), 4096)])
def test_codes_and_constants_equal_bitsandbytes(shape, block_size, dtype):
    """As test_parity.py on the CPU. Its CUDA kernels have fast math: there, 1 / absmax may be off in the last bit."""
    functional = library("bitsandbytes.functional")
    x = (torch.randn(shape) * torch.logspace(-3, 3, shape[0])[:, None]).to(dtype).cuda()
    ours = quantize(x, "nf4", block_size)
    with torch.compiler.set_stance("force_eager"):
        codes, state = functional.quantize_4bit(x, blocksize=block_size, quant_type="nf4", compress_statistics=False)
    assert ours.codes.is_cuda and torch.equal(ours.absmax, state.absmax)
    scaled = x.flatten().float() / ours.absmax.repeat_interleave(block_size)[: x.numel()]
    pairs = [unpack(side.flatten(), 16)[: x.numel()] for side in (ours.codes, codes)]
    assert_codes_agree(*pairs, scaled, ours.codebook)
    same = (pairs[0] == pairs[1]).view(shape)
    assert torch.equal(ours.dequantize()[same], functional.dequantize_4bit(codes, state).view(shape)[same])


@needs_gpu
def test_double_quantization_agrees_with_bitsandbytes():
    functional = library("bitsandbytes.functional")
    x = torch.randn(512, 512).cuda()
    ours = quantize(x, "nf4", 64, True)
    with torch.compiler.set_stance("force_eager"):
        _, state = functional.quantize_4bit(x, blocksize=64, quant_type="nf4", compress_statistics=True)
    assert torch.equal(ours.offset, state.offset) and torch.equal(ours.absmax.absmax, state.state2.absmax)
    centered = (quantize(x).absmax - ours.offset).view(-1, 256)
    scaled = (centered / centered.abs().amax(dim=1, keepdim=True)).flatten()
    assert_codes_agree(ours.absmax.codes, state.absmax, scaled, ours.absmax.codebook)


@needs_gpu
@dtypes
@pytest.mark.parametrize("double_quant", [False, True])
def test_a_gpu_gives_the_numbers_of_the_cpu(dtype, double_quant):
    x = torch.randn(1000, 70).to(dtype)
    here, there = quantize(x, double_quant=double_quant), quantize(x.cuda(), double_quant=double_quant)
    assert torch.equal(here.codes, there.codes.cpu())
    if not double_quant:
        assert torch.equal(here.absmax, there.absmax.cpu()) and torch.equal(here.dequantize(), there.dequantize().cpu())
    else:  # the mean of the constants depends on the order of its additions
        assert torch.allclose(here.block_scales(), there.block_scales().cpu(), rtol=1e-2)
    out = torch.empty_like(x, device="cuda")
    assert torch.equal(there.dequantize(out), there.dequantize()) and out.is_cuda
    taught = decode(there.codes, there.block_scales(), there.codebook, 64, torch.empty_like(out).view(-1))
    assert torch.equal(taught.view(x.shape), there.dequantize())


# --- the layer and the step ----------------------------------------------------------------------------------------


@on_both
def test_a_few_steps_of_training(tiny_gpt, tiny_text, device):
    model = add_lora(quantize_linears(tiny_gpt), rank=2, alpha=4, targets="all-linear")
    frozen = {name: value.clone() for name, value in model.state_dict().items() if "lora_" not in name}
    adapters = {name: value.clone() for name, value in model.state_dict().items() if "lora_" in name}
    how = dict(lr=1e-2, batch_size=4, seq_len=16, device=device, autocast=True, progress=False)
    history = train(model, tiny_text, 30, **how)
    assert history.validation_loss[-1][1] < history.validation_loss[0][1] - 0.1
    after = model.state_dict()
    assert all(tensor.device.type == device for tensor in after.values())
    assert all(torch.equal(after[name].cpu(), value) for name, value in frozen.items())  # to the bit
    assert not any(torch.equal(after[name].cpu(), value) for name, value in adapters.items())  # every A and every B
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]  # on the CPU, whatever the device
    texts = [model.generate("low ", 20, generator=seed) for seed in seeds]
    assert texts[0] == texts[1]


MEMORY_CASES = [  # on the CPU small ones; on a GPU so large that its libraries' own memory weighs little
    ("cpu", GPTConfig(context=64, n_layers=2, n_heads=2, d_model=64), 4),
    ("cpu", GPTConfig(context=96, n_layers=2, n_heads=6, d_model=384), 12),
    ("cpu", GPTConfig(context=128, n_layers=4, n_heads=4, d_model=256), 4),
    pytest.param("cuda", GPTConfig(context=256, n_layers=4, n_heads=4, d_model=256), 64, marks=needs_gpu),
]


@pytest.mark.parametrize(("device", "config", "batch_size"), MEMORY_CASES)
def test_the_peak_of_a_step_is_predicted_within_a_few_percent(device, config, batch_size, monkeypatch):
    """On the CPU as on a GPU: a layer is decoded in one piece, into memory that is free again after its product."""
    library("bitsandbytes")
    if device == "cpu":
        monkeypatch.setattr(kernels, "CHUNK_VALUES", {"cpu": kernels.CHUNK_VALUES["cuda"]})
        own_memory(monkeypatch)
    gpu, sides = load_benchmark("gpu"), load_benchmark("gpu_sides")
    setting = sides.Setting(device=device, config=config, batch_size=batch_size)
    gpu.warm_up_libraries(setting)
    measured = gpu.peak_of_a_step(setting, sides.build_ours, GPT(config))
    assert measured == pytest.approx(gpu.predicted_peak(setting), rel=0.02 if device == "cpu" else 0.05)


# --- the compiler --------------------------------------------------------------------------------------------------


@needs_gpu
def test_the_real_compiler_on_a_gpu():
    if problem := compiling.compiler_problem(torch.device("cuda"), "inductor"):
        pytest.skip(f"no compiler here: {problem}")
    model, (tokens, targets) = qlora(CONFIG, "cuda"), batch(CONFIG, "cuda")
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(tokens, targets)[1]
        compiled = torch.compile(model, dynamic=False, fullgraph=True)(tokens, targets)[1]
    compiled.backward()
    assert compiled.item() == pytest.approx(loss.item(), rel=2e-2)
    assert all(parameter.grad is not None for parameter in trainable_parameters(model))
    assert kept_weights(qlora(CONFIG, "cuda"), "inductor", device="cuda") == []
