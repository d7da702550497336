"""Runs the command in processes that are killed, or get a signal, at chosen moments."""

import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fashion_lightning import FashionMNISTClassifier
from fashion_lightning.checkpoints.atomic_io import AtomicCheckpointIO
from fashion_lightning.cli.main import main
from fashion_lightning.data import download, files
from support import FORKS

MOMENTS: dict[str, tuple[Any, str]] = {
    "download": (download, "_receive"),
    "unpack": (files, "_unpack"),
    "training step": (FashionMNISTClassifier, "training_step"),
    "checkpoint write": (AtomicCheckpointIO, "save_checkpoint"),
    "validation": (FashionMNISTClassifier, "validation_step"),
}
"""Moments at which a run can be hit, and the function that is called then."""


class Noisy(nn.Module):
    """A network that draws random numbers while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 32), nn.BatchNorm1d(32), nn.Dropout(0.3), nn.Linear(32, 10)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


def _hit(moment: str, count: int, delay: float, signum: int) -> None:
    """Send this process a signal, `delay` seconds after the `count`-th time of a moment."""
    owner, name = MOMENTS[moment]
    original = getattr(owner, name)
    calls = 0

    def strike() -> None:
        time.sleep(delay)
        if signum == signal.SIGXFSZ:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        else:
            os.kill(os.getpid(), signum)

    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            threading.Thread(target=strike, daemon=True).start()
        return original(*args, **kwargs)

    setattr(owner, name, watched)


def _work(folder: Path, args: list[str], hit: tuple[str, int, float, int] | None) -> None:
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1), os.dup2(output, 2)
    sys.argv = ["fashion-lightning"]
    # Tests that were started in the background ignore Ctrl-C, and so do their processes.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hit:
        _hit(*hit)
    main(args)


def run(
    folder: Path, args: list[str], hit: tuple[str, int, float, int] | None = None
) -> int | None:
    """Run the command in a folder and return its exit code, minus a signal's number if killed.

    Args:
        folder: Where it runs, and leaves ``output.txt``.
        args: What follows ``fashion-lightning``.
        hit: A moment, which occurrence of it, a delay in seconds, and the signal that is sent then;
            SIGXFSZ stands for a disk that is full from then on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    process = FORKS.Process(target=_work, args=(folder, args, hit))
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"The command still runs: {args}")
    return process.exitcode
