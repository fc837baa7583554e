import copy
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_edu.memory.paged import MOMENTS, PagedAdamW
from lora_edu.memory.peak import PeakMemory

shapes = st.one_of(st.lists(st.integers(1, 9), max_size=3), st.integers(1, 3000).map(lambda n: [n]))


def parameters(shapes, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def give_gradients(sides, seed, missing=()):
    """The same random gradients to the parameters of all sides, and none to the missing."""
    generator = torch.Generator().manual_seed(seed)
    for index, group in enumerate(zip(*sides, strict=True)):
        grad = torch.randn(group[0].shape, generator=generator) * 10.0 ** (index - 2)
        for parameter in group:
            parameter.grad = None if index in missing else grad.to(parameter.dtype)


def assert_same(ours, theirs, our_optimizer, their_optimizer):
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)
        mine, other = our_optimizer.state[mine], their_optimizer.state[other]
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)


def step_both(sides, optimizers, steps):
    """The same steps on both sides."""
    for step in steps:
        give_gradients(sides, step)
        for optimizer in optimizers:
            optimizer.step()


@settings(max_examples=120, deadline=None)
@given(
    st.lists(shapes, min_size=1, max_size=4),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.sampled_from([0.0, 1e-4, 3e-2]),
    st.sampled_from([(0.9, 0.999), (0.9, 0.95), (0.0, 0.5), (0.6, 0.0)]),
    st.sampled_from([0.0, 0.01, 0.3]),
    st.sampled_from([64, 100, 1024, 2**20]),
    st.integers(0, 10**6),
)
def test_equal_to_torch_bit_for_bit(shapes, dtype, lr, betas, weight_decay, page_bytes, seed):
    ours = parameters(shapes, dtype, seed)
    theirs = copy.deepcopy(ours)
    how = dict(lr=lr, betas=betas, weight_decay=weight_decay)
    paged = PagedAdamW(ours, **how, page_bytes=page_bytes)
    plain = torch.optim.AdamW(theirs, **how, foreach=False)
    for step in range(4):
        # one parameter has no gradient now and then, the last one never has: its state stays empty
        give_gradients([ours, theirs], seed + step, missing={step % 3, len(shapes) - 1} if len(shapes) > 1 else ())
        paged.step()
        plain.step()
    assert_same(ours, theirs, paged, plain)


def test_the_count_of_steps_is_exact_whatever_the_default_type():
    """bfloat16 cannot count beyond 256."""
    parameter = torch.nn.Parameter(torch.ones(3))
    torch.set_default_dtype(torch.bfloat16)
    paged = PagedAdamW([parameter])
    for _ in range(300):
        parameter.grad = torch.ones_like(parameter)
        paged.step()
    assert paged.state[parameter]["step"].item() == 300


def test_groups_a_scheduler_and_a_parameter_that_is_not_contiguous():
    ours = [torch.nn.Parameter(torch.randn(30)), torch.nn.Parameter(torch.randn(6, 10).T)]
    theirs = copy.deepcopy(ours)

    def groups(two):
        return [{"params": two[:1], "lr": 0.1, "weight_decay": 0.0}, {"params": two[1:], "betas": (0.5, 0.6)}]

    paged = PagedAdamW(groups(ours), page_bytes=64)
    plain = torch.optim.AdamW(groups(theirs), foreach=False)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 / (n + 1)) for optimizer in (paged, plain)]
    step_both([ours, theirs], [paged, *schedules[:1], plain, *schedules[1:]], range(5))
    assert_same(ours, theirs, paged, plain)


SMALL_PAGES = functools.partial(PagedAdamW, page_bytes=40)


@pytest.mark.parametrize(
    ("source", "target"), [(PagedAdamW, SMALL_PAGES), (torch.optim.AdamW, SMALL_PAGES), (PagedAdamW, torch.optim.AdamW)]
)
def test_a_run_goes_on_from_a_state_dictionary(source, target):
    whole = parameters([(50,), (3, 9)], torch.float32, 0)
    first = copy.deepcopy(whole)
    plain, before = torch.optim.AdamW(whole, foreach=False), source(first)
    step_both([whole, first], [plain, before], range(3))
    second = copy.deepcopy(first)
    after = target(second, lr=99.0)  # the saved settings win
    saved = before.state_dict()
    after.load_state_dict(saved)
    saved = copy.deepcopy(saved)
    if target is SMALL_PAGES:  # ours is a copy
        before.state_dict()["state"][1]["exp_avg"].zero_()
    assert after.param_groups[0]["lr"] == 1e-3
    assert torch.equal(after.state_dict()["state"][1]["exp_avg"], saved["state"][1]["exp_avg"])
    step_both([whole, second], [plain, after], [3])
    assert_same(second, whole, after, plain)


def bytes_of_the_state(make, numbers=200_000):
    """What the second step needs beside parameters, gradients and what is on the host: (the peak, what stays)."""
    parameter = torch.nn.Parameter(torch.ones(numbers))
    parameter.grad = torch.ones(numbers)
    optimizer = make([parameter])
    with PeakMemory([parameter, parameter.grad]) as memory:
        optimizer.step()
    state = [value for value in optimizer.state[parameter].values() if value.numel() > 1]
    with PeakMemory([parameter, parameter.grad, *state]) as again:
        optimizer.step()
    return memory.now, again.peak


def test_what_the_device_must_hold_is_measured():
    """On the CPU, host and device are one memory: the copies that a device would hold are seen as new tensors."""
    stays, _ = bytes_of_the_state(lambda parameters: torch.optim.AdamW(parameters, foreach=False))
    assert stays == pytest.approx(8 * 200_000, abs=100)
    _, peak = bytes_of_the_state(lambda parameters: PagedAdamW(parameters, page_bytes=4096))
    # two pages of the state, two of the update's own, and the pages before, until the next ones have come
    assert peak == pytest.approx(5 * 4096, abs=100)


@pytest.mark.parametrize("option", [{"lr": -1.0}, {"betas": (1.0, 0.9)}, {"maximize": True}, {"amsgrad": True}])
def test_a_bad_setting_of_one_group_is_named(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        PagedAdamW([{"params": parameters([(2,)], torch.float32, 0), **option}])


def state_of(optimizer_class, shape=(8,), **how):
    ours = parameters([shape], torch.float32, 0)
    optimizer = optimizer_class(ours, lr=0.1, **how)
    step_both([ours], [optimizer], [0])
    return optimizer.state_dict()


@pytest.mark.parametrize(
    "saved, message",
    [
        (lambda: state_of(torch.optim.AdamW, maximize=True), "PagedAdamW has no maximize: use torch.optim.AdamW"),
        (lambda: state_of(torch.optim.Adam), "this is the state of Adam"),
        (lambda: state_of(torch.optim.Adamax), "there is no tensor exp_avg_sq"),
        (lambda: PagedAdamW(parameters([(4,)] * 2, torch.float32, 0)).state_dict(), "parameter group"),
        (lambda: state_of(torch.optim.AdamW, shape=(9,)), "exp_avg has shape \\(9,\\) and not \\(8,\\)"),
    ],
)
def test_states_that_do_not_fit_change_nothing(saved, message):
    optimizer = PagedAdamW(parameters([(8,)], torch.float32, 0))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved())
    assert optimizer.state_dict() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_the_state_stays_pinned_on_the_host_and_memory_small():
    ours = [torch.nn.Parameter(torch.randn(2**22, device="cuda"))]
    theirs = copy.deepcopy(ours)
    paged, plain = PagedAdamW(ours, page_bytes=2**16), torch.optim.AdamW(theirs, foreach=False)
    ours[0].grad = theirs[0].grad = torch.randn_like(ours[0])
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        paged.step()
    assert torch.cuda.memory_allocated() == before  # nothing stays
    assert torch.cuda.max_memory_allocated() - before < 8 * 2**16
    for _ in range(3):
        plain.step()
    assert torch.allclose(ours[0], theirs[0], rtol=1e-6, atol=1e-7)
    assert all(paged.state[ours[0]][name].is_pinned() for name in MOMENTS)
    paged.load_state_dict(plain.state_dict())
    assert all(paged.state[ours[0]][name].is_pinned() for name in MOMENTS)
