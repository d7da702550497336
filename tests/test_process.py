"""What `tune_process` changes, seen from inside a process of its own."""

import json
import platform
import subprocess
import sys

import pytest

OBSERVE = """
import json, resource
import torch
from fashion_lightning.process import tune_process

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):  # three pieces of 8 MB at once, as a training step has many
        pieces = [torch.ones(2**21) for _ in range(3)]
        del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def denormal():
    return (torch.tensor(1e-38) / 10).item()

seen = [faults(), denormal()]
tune_process()
faults()
print(json.dumps([*seen, faults(), denormal()]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator, left alone")
def test_a_tuned_process_keeps_its_memory_and_flushes_denormal_numbers() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", OBSERVE], check=True, capture_output=True, text=True
    ).stdout
    faults, denormal, tuned_faults, tuned_denormal = json.loads(printed)
    assert tuned_faults < faults / 10
    assert denormal > 0
    assert tuned_denormal == 0
