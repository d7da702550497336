"""How fast fit, test and predict are, beside what else one could write.

Each contender has a process of its own, so that nothing one of them sets helps or hinders another.
They take turns on the same data; a ratio is the median of the rounds' ratios, so what slows the
whole machine down for a while hardly moves it. Prints tables in Markdown. Run it as

    python tests/benchmarks/speed.py data

after any `fashion-lightning` command, which leaves the dataset's files in `data`; `--help` lists
the options. The contenders of `fit`, all with AdamW on 60,000 images:

- ours: the command with its progress bar, logger, checkpoints, metrics, schedule and mirroring;
- usual: Lightning with torchvision's dataset, a DataLoader, torchmetrics and `self.log`;
- by hand: a plain loop over normalised tensors in memory, with the same optimizer and schedule;
- by hand, tuned: the same after `tune_process()`, with denormal numbers flushed;
- Lightning alone: that loop's network, optimizer, schedule and batches in a tuned Trainer that has
  no progress bar, logger, checkpoints or metrics;
- matrix products: only those of a step, which is what no program can save.

Test and predict are compared with a bare loop that makes normalised floats of the same uint8 images
and asks the same network, and with one that finds these floats made.
"""

import argparse
import contextlib
import importlib
import logging
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

from fashion_lightning import MLP, FashionMNISTClassifier, FashionMNISTDataModule
from fashion_lightning.callbacks import PredictionWriter, ReportWriter, SteadyProgressBar
from fashion_lightning.cli.app import multiplies_bf16
from fashion_lightning.speed import tune_process

command = importlib.import_module("fashion_lightning.cli.main")

DEVICE = (torch.accelerator.is_available() and torch.accelerator.current_accelerator()) or (
    torch.device("cpu")
)
FULL = "32-true"
NATIVE = "bf16-mixed" if multiplies_bf16("auto") else FULL
EPOCHS = 2  # In one measurement: the first is a little slower than the others.


def now() -> float:
    """Return the time in seconds when the device has done all it was asked for."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


class Timed(LightningModule):
    """Takes the time of a stage without being asked in every step."""

    started = 0.0
    seconds = 0.0

    def _start(self) -> None:
        Timed.started = now()

    def _stop(self) -> None:
        Timed.seconds = now() - Timed.started

    on_train_start = on_test_start = on_predict_start = _start
    on_train_end = on_test_end = on_predict_end = _stop


class Ours(Timed, FashionMNISTClassifier):
    """Our classifier, timed."""


class Usual(Timed):
    """What the documentation of Lightning and torchmetrics suggests."""

    def __init__(self) -> None:
        super().__init__()
        self.network = MLP()
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels)
        self.accuracy(logits, labels)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train_acc", self.accuracy, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Alone(Timed):
    """A network and what trains it."""

    def __init__(self, total_steps: int) -> None:
        super().__init__()
        self.network = MLP()
        self.total_steps = total_steps

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return loss_of(self.network(images), labels)

    def configure_optimizers(self) -> Any:
        optimizer, schedule = adamw(self.network, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Shuffled:
    """Batches of tensors in memory, in a new order each time."""

    def __init__(self, tensors: tuple[Tensor, ...], batch_size: int) -> None:
        self.tensors = tensors
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.tensors[0]) // self.batch_size

    def __iter__(self) -> Iterator[Any]:
        order = torch.randperm(len(self.tensors[0]), device=DEVICE)
        for step in range(len(self)):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield tuple(tensor[chosen] for tensor in self.tensors)


def adamw(network: nn.Module, total_steps: int) -> tuple[torch.optim.AdamW, LambdaLR]:
    """Return an optimizer like ours, and a learning rate that falls linearly."""
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=2.5e-3, betas=(0.9, 0.95), weight_decay=0.35, fused=True
    )
    return optimizer, LambdaLR(optimizer, lambda step: 1 - step / (total_steps + 1))


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return what training minimises."""
    return F.cross_entropy(logits.float(), labels, label_smoothing=0.1)


def normalised(images: Tensor) -> Tensor:
    """Return uint8 images ``(N, 28, 28)`` as a network takes them."""
    return images.unsqueeze(1).float().div_(255).sub_(0.2860).div_(0.3530)


class Contender:
    """All ways to do the same; each returns the seconds of an epoch or of 10,000 images."""

    def __init__(self, data_dir: str, folder: str) -> None:
        self.folder = folder
        self.data: dict[str, Any] = {"data_dir": data_dir, "mirrors": []}
        # The command builds what it trains by this name.
        command.FashionMNISTClassifier = Ours  # type: ignore[attr-defined]
        warnings.simplefilter("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)

    @cached_property
    def training(self) -> tuple[Tensor, Tensor]:
        """Normalised images and labels in memory, as a loop by hand would have them."""
        images, labels = self._tensors("fit", "train_set")
        return normalised(images), labels

    @cached_property
    def testing(self) -> Tensor:
        return self._tensors("test", "test_set")[0]

    def _tensors(self, stage: str, name: str) -> tuple[Tensor, Tensor]:
        datamodule = FashionMNISTDataModule(**self.data, val_size=0)
        datamodule.prepare_data()
        datamodule.setup(stage)
        images, labels = (tensor.to(DEVICE) for tensor in getattr(datamodule, name).tensors)
        return images, labels

    @cached_property
    def torchvision(self) -> FashionMNIST:
        return FashionMNIST(self.data["data_dir"], transform=ToTensor())

    def ours(
        self, batch_size: int, precision: str, more: Sequence[str] = (), epochs: int = EPOCHS
    ) -> float:
        arguments = {
            "trainer.default_root_dir": self.folder,
            "trainer.max_epochs": epochs,
            "trainer.precision": precision,
            "data.data_dir": self.data["data_dir"],
            "data.mirrors": [],
            "data.batch_size": batch_size,
            "data.val_size": 0,
            "test_after_fit": "false",
        }
        with quiet():
            command.main(
                ["fit", *(f"--{name}={value}" for name, value in arguments.items()), *more]
            )
        return Timed.seconds / epochs

    def usual(self, batch_size: int) -> float:
        loader = DataLoader(self.torchvision, batch_size=batch_size, shuffle=True)
        with quiet():
            logger = CSVLogger(self.folder)
            Trainer(max_epochs=1, logger=logger).fit(Usual(), loader)
        return Timed.seconds

    def by_hand_tuned(self, batch_size: int, precision: str) -> float:
        tune_process()
        torch.set_flush_denormal(True)
        return self.by_hand(batch_size, precision)

    def by_hand(self, batch_size: int, precision: str) -> float:
        # What importing Lightning sets; it slows the optimizer down where there is no CUDA.
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        batches = Shuffled(self.training, batch_size)
        network = MLP().to(DEVICE)
        optimizer, schedule = adamw(network, EPOCHS * len(batches))
        started = now()
        for _ in range(EPOCHS):
            for images, labels in batches:
                with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision != FULL):
                    logits = network(images)
                loss = loss_of(logits, labels)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
        return (now() - started) / EPOCHS

    def alone(self, batch_size: int, precision: str) -> float:
        tune_process()
        torch.set_flush_denormal(True)
        batches = Shuffled(self.training, batch_size)
        with quiet():
            Trainer(
                max_epochs=EPOCHS,
                precision=precision,  # type: ignore[arg-type]
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            ).fit(Alone(EPOCHS * len(batches)), batches)
        return Timed.seconds / EPOCHS

    def matrix_products(self, batch_size: int, precision: str, hidden: int = 512) -> float:
        dtype = torch.float32 if precision == FULL else torch.bfloat16
        sizes = [(784, hidden), (hidden, hidden), (hidden, 10)]
        layers = [
            [torch.rand(shape, dtype=dtype, device=DEVICE) for shape in shapes]
            for shapes in [((batch_size, i), (i, o), (batch_size, o)) for i, o in sizes]
        ]
        started = now()
        for _ in range(60_000 // batch_size):
            for number, (inputs, weights, outputs) in enumerate(layers):
                inputs @ weights
                inputs.T @ outputs
                if number:  # Nobody asks for the gradient of the images.
                    outputs @ weights.T
        return now() - started

    def answer(self, stage: str, batch_size: int) -> tuple[float, float]:
        """Return the seconds of our loop and of the whole call around it."""
        tune_process()  # as the command does
        writers = {"test": ReportWriter(self.folder), "table": PredictionWriter(overwrite=True)}
        datamodule = FashionMNISTDataModule(**self.data, eval_batch_size=batch_size)
        with quiet():
            trainer = Trainer(
                logger=False,
                default_root_dir=self.folder,
                callbacks=[SteadyProgressBar(), *([writers[stage]] if stage in writers else [])],
            )
            started = now()
            run = trainer.test if stage == "test" else trainer.predict
            run(Ours(), datamodule)
            whole = now() - started
        return Timed.seconds, whole

    def bare_loop(self, batch_size: int) -> float:
        network = MLP().to(DEVICE).eval()
        started = now()
        with torch.inference_mode():
            logits = [
                network(normalised(images)) for images in torch.split(self.testing, batch_size)
            ]
        assert len(logits)
        return now() - started

    def bare_loop_of_floats(self, batch_size: int) -> float:
        network = MLP().to(DEVICE).eval()
        batches = torch.split(normalised(self.testing), batch_size)
        started = now()
        with torch.inference_mode():
            logits = [network(images) for images in batches]
        assert len(logits)
        return now() - started


Way = partial[Any]  # of a method of `Contender`, with all its arguments


@contextlib.contextmanager
def quiet() -> Any:
    """Hide what Lightning prints; it is printed all the same, into nothing."""
    with (
        Path(os.devnull).open("w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        yield


@cache
def contender(data_dir: str, folder: str) -> Contender:
    """Return the contender of this process."""
    return Contender(data_dir, folder)


def go(way: Way, data_dir: str, folder: str) -> Any:
    """Take a turn, in the process of a contender."""
    return way(contender(data_dir, folder))


class Contest:
    """Processes that take turns, one for each method of `Contender`."""

    def __init__(self, data_dir: str, folder: str, rounds: int) -> None:
        self.where = data_dir, folder
        self.rounds = rounds
        self.processes: dict[str, ProcessPoolExecutor] = {}

    def interleave(self, ways: dict[str, Way], rounds: int) -> dict[str, list[Any]]:
        """Go all ways in turn, `rounds` times, after one turn of each that does not count."""
        seconds: dict[str, list[Any]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, way in ways.items():
                process = self.processes.setdefault(
                    way.func.__name__, ProcessPoolExecutor(1, get_context("spawn"))
                )
                taken = process.submit(go, way, *self.where).result()
                if number:
                    seconds[name].append(taken)
        return seconds

    def fit(self, batch_sizes: list[int]) -> None:
        """Compare training, epoch by epoch."""
        heading(
            "fit, batch size", "precision", "ours, s an epoch", "ours / by hand",
            "ours / by hand, tuned", "ours / Lightning alone", "ours / usual (32-true)",
            "ours / matrix products",
        )  # fmt: skip
        precisions = list(dict.fromkeys((FULL, NATIVE)))
        methods = {
            "by hand": Contender.by_hand,
            "tuned": Contender.by_hand_tuned,
            "alone": Contender.alone,
            "ours": Contender.ours,
            "products": Contender.matrix_products,
        }
        for size in batch_sizes:
            ways = {"usual": partial(Contender.usual, batch_size=size)}
            for kind in precisions:
                for name, method in methods.items():
                    ways[f"{name} {kind}"] = partial(method, batch_size=size, precision=kind)
            seconds = self.interleave(ways, self.rounds)
            for kind in precisions:
                ours = seconds[f"ours {kind}"]
                names = ("by hand", "tuned", "alone", "usual", "products")
                others = [name if name == "usual" else f"{name} {kind}" for name in names]
                ratios = (ratio(ours, seconds[other]) for other in others)
                row(size, kind, f"{statistics.median(ours):.2f}", *ratios)

    def answer(self, batch_sizes: list[int]) -> None:
        """Compare test, predict, and predict with its table."""
        heading(
            "10,000 images, batch size", "stage", "ours, ms", "ours / bare loop",
            "ours / bare loop of floats", "whole call, ms",
        )  # fmt: skip
        stages = {"test": "test, with its report", "predict": "predict", "table": "predict to CSV"}
        for size in batch_sizes:
            ways: dict[str, Way] = {
                stage: partial(Contender.answer, stage=stage, batch_size=size) for stage in stages
            }
            ways["bare"] = partial(Contender.bare_loop, batch_size=size)
            ways["floats"] = partial(Contender.bare_loop_of_floats, batch_size=size)
            seconds = self.interleave(ways, 3 * self.rounds)  # They are short.
            for stage, title in stages.items():
                loops, calls = zip(*seconds[stage], strict=True)
                ours, whole = (f"{statistics.median(taken) * 1000:.0f}" for taken in (loops, calls))
                ratios = (ratio(loops, seconds[other]) for other in ("bare", "floats"))
                row(size, title, ours, *ratios, whole)

    def growth(self) -> None:
        """Show how the cost of training grows with images, epochs and width."""
        heading("grows with", "value", "s an epoch", "s in all", "µs an image")
        steps = "--trainer.limit_train_batches={}"
        width = "--model.network.init_args.hidden_features={}"
        mlp = "--model.network=fashion_lightning.MLP"
        sizes = (7_500, 15_000, 30_000, 60_000)
        grid = [
            *(("images", n, [steps.format(n // 500)], EPOCHS) for n in sizes),
            *(("epochs", n, [], n) for n in (1, 2, 4, 8)),
            *(("hidden features", n, [mlp, width.format(n)], EPOCHS) for n in (128, 512, 2048)),
        ]
        ways = {
            f"{what} {n}": partial(
                Contender.ours, batch_size=500, precision=NATIVE, more=more, epochs=epochs
            )
            for what, n, more, epochs in grid
        }
        seconds = self.interleave(ways, self.rounds)
        for what, n, _, epochs in grid:
            epoch = statistics.median(seconds[f"{what} {n}"])
            images = n if what == "images" else 60_000
            row(what, n, f"{epoch:.3f}", f"{epoch * epochs:.2f}", f"{epoch / images * 1e6:.1f}")


def ratio(ours: Sequence[float], other: Sequence[float]) -> str:
    """Say how many times the other's throughput ours is."""
    return f"{statistics.median(b / a for a, b in zip(ours, other, strict=True)):.2f}"


def row(*cells: object) -> None:
    """Print a row of a table."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def heading(*cells: str) -> None:
    """Print the first rows of a table."""
    print()
    row(*cells)
    row(*("---" for _ in cells))


def machine() -> str:
    """Say where the numbers come from."""
    if DEVICE.type == "cuda":
        name = torch.cuda.get_device_name()
    else:
        models = [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ] if Path("/proc/cpuinfo").exists() else []  # fmt: skip
        name = f"{torch.get_num_threads()} threads on {(models or [platform.processor()])[0]}"
    return (
        f"{name} ({DEVICE.type}), Python {platform.python_version()}, torch {torch.__version__}, "
        f"lightning {lightning.__version__}"
    )


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[64, 256, 512, 2048])
    parser.add_argument("--eval_batch_sizes", type=int, nargs="+", default=[64, 256, 512, 2048])
    parser.add_argument("--parts", nargs="+", default=["fit", "answer", "growth"])
    options = parser.parse_args()
    print(f"{machine()}; {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(options.data_dir, folder, options.rounds)
        if "fit" in options.parts:
            contest.fit(options.batch_sizes)
        if "answer" in options.parts:
            contest.answer(options.eval_batch_sizes)
        if "growth" in options.parts:
            contest.growth()
        for process in contest.processes.values():
            process.shutdown()


if __name__ == "__main__":
    main()
