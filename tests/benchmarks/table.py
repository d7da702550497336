"""Time and memory of `predict` for a million rows, compared with a bare forward loop.

It predicts the test set a hundred times, and ten times to show whether memory grows. Each
measurement is a process of its own, in turns. Prints a table in Markdown. Run it as

    python tests/benchmarks/table.py data

after any `fashion-lightning` command, which leaves the dataset's files in `data`.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from measuring import heading, row, run
from torch import Tensor

from fashion_lightning import FashionMNISTClassifier, FashionMNISTDataModule
from fashion_lightning.callbacks import PredictionWriter

BATCH_SIZE = 500
WAYS = {"bare forward loop": "", "predict to Parquet": ".parquet", "predict to CSV": ".csv"}


class Repeated:
    """The batches of the test set, `times` times."""

    def __init__(self, data_dir: str, times: int) -> None:
        datamodule = FashionMNISTDataModule(data_dir, mirrors=[], batch_size=BATCH_SIZE)
        datamodule.prepare_data()
        datamodule.setup("test")
        self.batches = datamodule.test_dataloader()
        self.times = times

    def __len__(self) -> int:
        return self.times * len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.times):
            yield from self.batches


def measure(data_dir: str, ending: str, times: int, folder: str) -> float:
    """Return the seconds that all images took."""
    torch.set_flush_denormal(True)
    batches, classifier = Repeated(data_dir, times), FashionMNISTClassifier().eval()
    if not ending:
        started = time.perf_counter()
        with torch.inference_mode():
            for images, _ in batches:
                classifier(images).softmax(dim=1)
        return time.perf_counter() - started
    path = Path(folder) / f"table{ending}"
    trainer = Trainer(
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        callbacks=[PredictionWriter(path, overwrite=True)],
    )
    started = time.perf_counter()
    trainer.predict(classifier, batches, return_predictions=False)
    return time.perf_counter() - started


def measure_apart(data_dir: str, ending: str, times: int) -> tuple[float, float]:
    """Measure in a process of its own; return seconds and its peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, data_dir, "--once", ending, str(times), folder]
        measured = run(command)
    return float(measured.output.split()[-1]), measured.memory


def main() -> None:
    """Measure all ways in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--once", nargs=3, metavar=("ENDING", "TIMES", "FOLDER"))
    options = parser.parse_args()
    if options.once:
        ending, times, folder = options.once
        print(measure(options.data_dir, ending, int(times), folder))
        return
    results: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(options.rounds):
        for name, ending in WAYS.items():
            for times in (10, 100):
                taken = measure_apart(options.data_dir, ending, times)
                results.setdefault((name, times), []).append(taken)
    heading("1,000,000 rows", "s", "of the bare loop's speed", "MiB", "MiB for 100,000 rows")
    bare = results["bare forward loop", 100]
    for name in WAYS:
        whole, tenth = results[name, 100], results[name, 10]
        seconds = statistics.median(taken for taken, _ in whole)
        ratio = statistics.median(b / a for (a, _), (b, _) in zip(whole, bare, strict=True))
        memory, first = (statistics.median(m for _, m in values) for values in (whole, tenth))
        row(name, f"{seconds:.1f}", f"{ratio:.2f}", f"{memory:.0f}", f"{first:.0f}")


if __name__ == "__main__":
    main()
