"""The ways to train, test and predict that `speed.py` compares.

All train with AdamW on 60,000 images:

- ours: the command with its progress bar, logger, checkpoints, metrics, schedule and mirroring;
- usual: Lightning with torchvision's dataset, a DataLoader, torchmetrics and `self.log`;
- by hand: a plain loop over normalised tensors in memory, with the same optimizer and schedule;
- by hand, tuned: the same after `tune_process()`, with denormal numbers flushed;
- Lightning alone: that loop's network, optimizer, schedule and batches in a tuned Trainer that has
  no progress bar, logger, checkpoints or metrics;
- matrix products: only those of a step, a lower bound for every program.

Test and predict are compared with a bare loop that makes normalised floats of the same uint8 images
and passes them to the same network, and with one whose floats are made beforehand.
"""

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

from fashion_lightning import MLP, FashionMNISTClassifier, FashionMNISTDataModule
from fashion_lightning.callbacks import PredictionWriter, ReportWriter, SteadyProgressBar
from fashion_lightning.cli.main import main as command
from fashion_lightning.speed import multiplies_bf16, tune_process

DEVICE = (torch.accelerator.is_available() and torch.accelerator.current_accelerator()) or (
    torch.device("cpu")
)
FULL = "32-true"
NATIVE = "bf16-mixed" if multiplies_bf16("auto") else FULL
EPOCHS = 2  # In one measurement: the first is a little slower than the others.


def now() -> float:
    """Return the time in seconds after the device has finished its work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


class Stopwatch(Callback):
    """Measures a stage of the last Trainer, without a hook of a single step."""

    started = 0.0
    seconds = 0.0

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Stopwatch.started = now()

    def _stop(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Stopwatch.seconds = now() - Stopwatch.started

    on_train_start = on_test_start = on_predict_start = _start
    on_train_end = on_test_end = on_predict_end = _stop


class Usual(LightningModule):
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


class Alone(LightningModule):
    """A network, its loss and its optimizer."""

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


@contextlib.contextmanager
def quiet() -> Any:
    """Discard what Lightning prints; printing it still takes its time."""
    with (
        Path(os.devnull).open("w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        yield


class Contender:
    """Each method is a way; it returns the seconds of one epoch or of 10,000 images."""

    def __init__(self, data_dir: str, folder: str) -> None:
        self.folder = folder
        self.data: dict[str, Any] = {"data_dir": data_dir, "mirrors": []}
        warnings.simplefilter("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)

    @cached_property
    def training(self) -> tuple[Tensor, Tensor]:
        """Normalised images and labels in memory, as a loop written by hand keeps them."""
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
            "trainer.callbacks": f"{Stopwatch.__module__}.{Stopwatch.__qualname__}",
        }
        with quiet():
            command(["fit", *(f"--{name}={value}" for name, value in arguments.items()), *more])
        return Stopwatch.seconds / epochs

    def usual(self, batch_size: int) -> float:
        loader = DataLoader(self.torchvision, batch_size=batch_size, shuffle=True)
        with quiet():
            logger = CSVLogger(self.folder)
            Trainer(max_epochs=1, logger=logger, callbacks=Stopwatch()).fit(Usual(), loader)
        return Stopwatch.seconds

    def by_hand_tuned(self, batch_size: int, precision: str) -> float:
        tune_process()
        torch.set_flush_denormal(True)
        return self.by_hand(batch_size, precision)

    def by_hand(self, batch_size: int, precision: str) -> float:
        # Set by importing Lightning; without CUDA it slows each optimizer step down.
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
                callbacks=Stopwatch(),
            ).fit(Alone(EPOCHS * len(batches)), batches)
        return Stopwatch.seconds / EPOCHS

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
                if number:  # The images need no gradient.
                    outputs @ weights.T
        return now() - started

    def evaluate(self, stage: str, batch_size: int) -> tuple[float, float]:
        """Return the seconds of our loop and of the whole call around it."""
        tune_process()  # as the command does
        writers = {"test": ReportWriter(self.folder), "table": PredictionWriter(overwrite=True)}
        datamodule = FashionMNISTDataModule(**self.data, eval_batch_size=batch_size)
        with quiet():
            trainer = Trainer(
                logger=False,
                default_root_dir=self.folder,
                callbacks=[SteadyProgressBar(), *filter(None, [writers.get(stage)]), Stopwatch()],
            )
            started = now()
            run = trainer.test if stage == "test" else trainer.predict
            run(FashionMNISTClassifier(), datamodule)
            whole = now() - started
        return Stopwatch.seconds, whole

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
