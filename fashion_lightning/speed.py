"""Workarounds that save time in each step and change no result.

``python tests/benchmarks/speed.py data --without NAME`` measures the command with and without each,
side by side; ``--help`` lists the names.

Choices that are no workarounds stand where they are made: whole batches (`data/batches.py`, and
`data/loaders.py`, which skips PyTorch's iterator), fused optimizers (`training/optimizers.py`),
sums of 512 steps (`training/metrics.py`), channels_last (`network.py`), bf16 (`cli/app.py`),
one file for two checkpoints (`callbacks/best_and_last.py`), kept logits (`teacher.py`).
"""

import ctypes
import os
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from time import monotonic
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.profilers import PassThroughProfiler
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

_FLUSH_INTERVAL = 100  # batches
_TINY = 1e-32


class LeanModule(LightningModule):
    """A LightningModule with less overhead per step.

    Attributes:
        compile_network: Whether `compiled` compiles while a fit runs.
    """

    compile_network = False
    _compiled: Any = None

    def compiled(self, function: Any) -> Any:
        """Return what `setup` has compiled, or `function` if there is nothing."""
        return self._compiled or function

    @override
    def setup(self, stage: str) -> None:
        """Compile `forward` and its hooks for training, if `compile_network`."""
        if self.compile_network and stage == "fit":
            self._compiled = torch.compile(self.__call__)

    @override
    def teardown(self, stage: str) -> None:
        """Drop the compiled function, so that the module can be copied and pickled again."""
        self._compiled = None

    @override
    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets the name of each hook it calls, about fifty times per step, and nn.Module
        # takes 2 us each time to tell parameters from other values.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    @override
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Drop the gradients: what PyTorch's `zero_grad` does, without its bookkeeping."""
        for group in optimizer.param_groups:
            for weights in group["params"]:
                weights.grad = None

    @override
    def on_fit_start(self) -> None:
        """Prepare the process for training."""
        tune_process()

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Set denormal numbers in the optimizers' states to 0."""
        if batch_idx % _FLUSH_INTERVAL == 0:
            flush_tiny_states(self.trainer.optimizers)


def tune_process() -> None:
    """Prepare this process for training, as each fit of `FashionMNISTClassifier` does.

    No computed number depends on it.
    """
    keep_freed_memory()
    search_no_driver()


def keep_freed_memory() -> None:
    """Make glibc keep up to 1 GiB of freed memory in this process.

    glibc returns large blocks to the system after each step; faulting them in again page by page
    took a quarter of a training step of `ConvNet` (12.2 instead of 16.1 s per epoch).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: the largest that glibc itself would choose
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


def search_no_driver() -> None:
    """Unset PYTORCH_NVML_BASED_CUDA_CHECK, which Lightning sets, if there is no CUDA.

    Lightning sets it to avoid CUDA errors in forked processes. Without CUDA it makes PyTorch search
    for a driver in each step of a fused optimizer: 260 us instead of 2.
    """
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


def multiplies_bf16(accelerator: str) -> bool:
    """Return whether the hardware of an accelerator or device type multiplies bf16 natively."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if accelerator == "cpu" or (accelerator == "auto" and not torch.backends.mps.is_available()):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


@torch.no_grad()
def flush_tiny_states(optimizers: Iterable[Optimizer]) -> None:
    """Set values below 1e-32 in optimizer states on a CPU to 0.

    AdamW's running means of gradients that are zero become denormal (below 1e-38) after some
    hundred steps; an update of the weights then takes 1.1 to 1.6 ms instead of 0.25. No weight
    changes: its update would be below 1e-26. `torch.set_flush_denormal` does the same for all
    computations of the process, but not in threads that already exist.

    Args:
        optimizers: Any optimizers. Call it every 100 steps: within these, a running mean with a
            decay >= 0.9 does not fall from 1e-32 to 1e-38.
    """
    for optimizer in optimizers:
        for state in optimizer.state.values():
            for value in state.values():
                is_array = isinstance(value, Tensor) and value.dim() > 0
                if is_array and value.dtype == torch.float32 and value.device.type == "cpu":
                    torch.hardshrink(value, _TINY, out=value)


class NoProfiler(PassThroughProfiler):
    """A profiler that does nothing; Lightning's builds a generator for each action."""

    @override
    def profile(self, action_name: str) -> Any:
        """Return a context that does nothing."""
        return nullcontext()


class SteadyProgressBar(TQDMProgressBar):
    """Lightning's progress bar, drawn a few times per second however short a step is.

    Lightning draws it every `refresh_rate` steps. One drawing takes as long as a step of
    64 images.

    Args:
        interval: Least seconds between two drawings, >= 0.
    """

    def __init__(self, interval: float = 0.2) -> None:
        super().__init__()
        self.interval = interval
        self._drawn = 0.0

    @override
    def _should_update(self, current: int, total: int) -> bool:
        # Undocumented, but the only place in which the bar can be drawn by time.
        now = monotonic()
        if not self.is_enabled or (now < self._drawn + self.interval and current != total):
            return False
        self._drawn = now
        return True
