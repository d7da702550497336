"""What makes training on a CPU fast: memory that is kept, numbers that are no denormal ones."""

import platform
import resource
from typing import Any

import pytest
import torch
from support import FORKS

from fashion_lightning.speed import flush_tiny_states, tune_process


def page_faults() -> int:
    """Return how often this process had to be given memory while it used the same again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        pieces = [torch.ones(2**21) for _ in range(3)]  # 8 MB each, as in a training step
        del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def observe(seen: Any) -> None:
    """Send page faults before and after `tune_process`, and a number below 1e-38."""
    before = page_faults()
    tune_process()
    page_faults()
    seen.put((before, page_faults(), (torch.tensor(1e-38) / 10).item()))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator, left alone")
def test_a_tuned_process_keeps_its_memory_and_its_numbers() -> None:
    seen = FORKS.Queue()
    process = FORKS.Process(target=observe, args=(seen,))
    process.start()
    faults, tuned_faults, denormal = seen.get(timeout=60)
    process.join()
    assert tuned_faults < faults / 10
    assert denormal > 0


def test_running_means_never_become_denormal_and_weights_do_not_notice() -> None:
    """Two optimizers get gradients, then none for long: one is flushed, and both stay the same."""
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 50)) for _ in range(2)]
    optimizers = [torch.optim.AdamW([each], lr=1e-2, fused=True) for each in weights]
    smallest = torch.inf
    for step in range(1500):
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = torch.linspace(1, 2, 50) if step < 3 else torch.zeros(50)
            optimizer.step()
        if step % 100 == 0:
            flush_tiny_states(optimizers[:1])
        mean = optimizers[0].state[weights[0]]["exp_avg"].abs()
        smallest = min(smallest, *mean[mean > 0].tolist(), torch.inf)
    assert smallest > 1.2e-38
    mean = optimizers[1].state[weights[1]]["exp_avg"].abs()
    assert (mean < 1.2e-38).all()
    assert torch.equal(*weights)
