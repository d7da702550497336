"""What makes training on a CPU faster, and changes no result that matters."""

import ctypes
import os
import sys
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

BATCHES_BETWEEN_FLUSHES = 100
_TINY = 1e-32


def tune_process() -> None:
    """Let this process keep the memory that it frees (up to 1 GiB), where the allocator is glibc's.

    `FashionMNISTClassifier` does it when a fit begins. No computed number depends on it.
    """
    # glibc would give large pieces of memory back to the system after each step. Faulting them in
    # again, page by page, takes about a quarter of the time in which a step trains `ConvNet`.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: the largest that glibc itself would choose
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
    if not torch.cuda.is_available():
        # Lightning sets this against trouble with CUDA in forked processes; without CUDA it only
        # makes PyTorch search for a driver in every optimizer step.
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


@torch.no_grad()
def flush_tiny_states(optimizers: Iterable[Optimizer]) -> None:
    """Set what has decayed below 1e-32 in the optimizers' states to 0, on a CPU.

    AdamW's running means of gradients that are zero become denormal numbers (below 1e-38) after
    some hundred steps, with which a CPU computes several times slower. A weight does not notice:
    its update would be below 1e-26. `torch.set_flush_denormal` does the same, but for all that the
    process computes, and not in threads that have computed before.

    Args:
        optimizers: Of any kind. Called every `BATCHES_BETWEEN_FLUSHES` steps, in which a running
            mean with a decay of 0.9 or more does not get from 1e-32 to 1e-38.
    """
    for optimizer in optimizers:
        for state in optimizer.state.values():
            for value in state.values():
                is_array = isinstance(value, Tensor) and value.dim() > 0
                if is_array and value.dtype == torch.float32 and value.device.type == "cpu":
                    torch.hardshrink(value, _TINY, out=value)
