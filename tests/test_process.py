"""What `tune_process` changes, seen from inside a process of its own."""

import platform
import resource
from typing import Any

import pytest
import torch
from conftest import FORKS

from fashion_lightning.process import tune_process


def page_faults() -> int:
    """Return how often this process had to be given memory while it used the same again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        pieces = [torch.ones(2**21) for _ in range(3)]  # 8 MB each, as in a training step
        del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def observe(seen: Any) -> None:
    """Send page faults, and a number below 1e-38, before and after `tune_process`."""
    before = page_faults(), (torch.tensor(1e-38) / 10).item()
    tune_process()
    page_faults()
    seen.put((*before, page_faults(), (torch.tensor(1e-38) / 10).item()))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator, left alone")
def test_a_tuned_process_keeps_its_memory_and_flushes_denormal_numbers() -> None:
    seen = FORKS.Queue()
    process = FORKS.Process(target=observe, args=(seen,))
    process.start()
    faults, denormal, tuned_faults, tuned_denormal = seen.get(timeout=60)
    process.join()
    assert tuned_faults < faults / 10
    assert denormal > 0
    assert tuned_denormal == 0
