import torch

from lora_edu.memory.peak import PeakMemory


def test_what_is_freed_leaves_and_what_is_shared_counts_once():
    with PeakMemory() as memory:
        a = torch.zeros(1000)
        b = a.view(10, 100) + 1
        assert memory.now == 8000
        del b
        assert memory.now == 4000
        a.mul_(2)
        c = a.to(torch.float64)
    assert memory.now == 12_000 == memory.peak
    del a, c
    assert memory.now == 0 and memory.peak == 12_000


def test_what_was_there_does_not_count_and_a_resized_tensor_does():
    x = torch.ones(1000)
    with PeakMemory([x]) as memory:
        x.add_(1)
        assert memory.peak == 0
        buffer = torch.empty(0).resize_(500)
        assert memory.now == buffer.nbytes == 2000
