"""What makes a process that computes on a CPU faster, and changes no result that matters."""

import ctypes
import os
import sys

import torch


def tune_process() -> None:
    """Set up this process for training on a CPU: call it before anything is computed.

    `fashion-lightning` does it by itself. A script has to ask, since it holds for all that the
    process computes: numbers below 1e-38 become 0, and memory that was freed stays with the process
    (up to 1 GiB), where the system's allocator is glibc's.
    """
    # AdamW's running means of gradients that are zero decay to denormal numbers (below 1e-38), with
    # which a CPU computes several times slower. Threads inherit this: it must come before any.
    torch.set_flush_denormal(True)
    # glibc would give large pieces of memory back to the system after each step. To get them again,
    # page by page, is about a quarter of the time in which a step trains `ConvNet`.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: the largest that glibc itself would choose
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
    if not torch.cuda.is_available():
        # Lightning sets this against trouble with CUDA in forked processes; without CUDA it only
        # makes PyTorch search for a driver in every optimizer step.
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
