"""The folder `report/` of a test: its numbers, its figures, and a page that shows both."""

import json
import platform
import re
from collections.abc import Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import DistributedSampler
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)
from typing_extensions import override

from fashion_lightning import plotting
from fashion_lightning.atomic import replacing
from fashion_lightning.callbacks.outputs import local, names_of_classes, run_folder, sampler_of
from fashion_lightning.checkpoints import read_checkpoint
from fashion_lightning.data.parts import hard, images_and_labels
from fashion_lightning.data.sampling import TurnsSampler
from fashion_lightning.module import FashionMNISTClassifier
from fashion_lightning.report.curves import read_curves
from fashion_lightning.report.page import render
from fashion_lightning.training.metrics import METRICS, Outputs, gather, metrics

_MISTAKES = 24  # shown, in six rows
_PACKAGES = ("fashion-lightning", "lightning", "torch", "torchvision", "torchmetrics")


class ReportWriter(Callback):
    """Writes the folder ``report/`` after every test.

    Works with any LightningModule whose `test_step` returns the logits ``(N, C)`` of a batch of
    images ``(N, 1, H, W)`` and labels ``(N,)``. The module's `class_names` name the classes.

    ``metrics.json`` holds ``test_acc``, ``test_loss`` (mean negative log-likelihood), ``test_f1``
    (macro), ``test_ece`` (a fraction), ``num_images``, ``temperature`` and ``uncalibrated``
    (``test_loss`` and ``test_ece`` at temperature 1; both null if the module has no temperature),
    ``per_class`` (``precision``, ``recall``, ``f1``, ``support`` by class name),
    ``confusion_matrix`` (row = true class) and ``checkpoint``.

    Beside it are ``confusion_matrix.png``, ``reliability_diagram.png``, ``mistakes.png``,
    ``learning_curves.png`` (of a run that has a ``metrics.csv``) and ``report.html``, which shows
    everything. Loggers of TensorBoard, wandb, MLflow and Comet get the figures, too. Each of
    several test loaders has its own folder, ``report/dataloader_idx_N/``.

    Args:
        dirpath: Folder in which ``report/`` is made. None: that of the trainer's run.

    Raises:
        ValueError: If `test_step` returns something else, or a batch has no images and labels.
    """

    def __init__(self, dirpath: str | Path | None = None) -> None:
        self.dirpath = dirpath
        # By loader. Mistakes are images, labels, predictions and confidences, by batch.
        self._outputs: dict[int, Outputs] = {}
        self._mistakes: dict[int, list[tuple[Tensor, ...]]] = {}
        self._places: dict[int, Iterator[int] | None] = {}

    @override
    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an interrupted test left."""
        self._outputs, self._mistakes, self._places = {}, {}, {}

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the logits and labels of a batch, and its most confident mistakes."""
        images, labels = images_and_labels(batch)
        if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != len(labels):
            got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ValueError(
                "Expected `test_step` to return logits (N, num_classes), of which `ReportWriter` "
                f"makes its report, but got {got}."
            )
        if dataloader_idx not in self._outputs:
            self._places[dataloader_idx] = known = _places(trainer, dataloader_idx)
            self._outputs[dataloader_idx] = Outputs(once=known is not None)
            self._mistakes[dataloader_idx] = []
        known = self._places[dataloader_idx]
        places = None if known is None else torch.tensor([*islice(known, len(labels))])
        self._outputs[dataloader_idx].update(outputs, labels, places)
        labels = hard(labels)
        confidences, predictions = outputs.softmax(dim=1).max(dim=1)
        wrong = (predictions != labels).nonzero().squeeze(1)
        wrong = wrong[confidences[wrong].argsort(descending=True)[:_MISTAKES]]
        self._mistakes[dataloader_idx].append(
            tuple(values[wrong].cpu() for values in (images, labels, predictions, confidences))
        )

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the report: not earlier, since Lightning prints its table before."""
        if stage != "test":
            return
        run = local(self.dirpath or run_folder(trainer))
        outputs, self._outputs = self._outputs, {}
        for index in sorted(outputs):
            folder = run / "report" / (f"dataloader_idx_{index}" if len(outputs) > 1 else "")
            logits, labels = outputs[index].result()
            mistakes = [batch for share in gather(self._mistakes.pop(index)) for batch in share]
            if trainer.is_global_zero:
                report = _numbers(trainer, pl_module, logits, labels)
                with replacing(folder / "metrics.json") as new:
                    new.write_text(json.dumps(report, indent=2) + "\n")
                figures = _figures(report, logits, labels, mistakes)
                if curves := read_curves(run):
                    figures["learning_curves"] = plotting.learning_curves(curves)
                _write(trainer, run, folder, report, figures)


def _places(trainer: Trainer, index: int) -> Iterator[int] | None:
    """Return this process's indices of the dataset; None if the processes take turns.

    PyTorch's `DistributedSampler` distributes single images, and repeats the first as the last.
    """
    sampler = sampler_of(trainer.test_dataloaders, index)
    deals = isinstance(sampler, DistributedSampler) and not isinstance(sampler, TurnsSampler)
    return iter(sampler) if deals else None


def _numbers(
    trainer: Trainer, pl_module: LightningModule, logits: Tensor, labels: Tensor
) -> dict[str, Any]:
    """Return the contents of `metrics.json`."""
    temperature = None  # Another module's attribute of this name may be anything.
    if isinstance(pl_module, FashionMNISTClassifier):
        temperature = pl_module.temperature.item()
    before = metrics(logits * temperature, labels) if temperature else None
    after, numbers = metrics(logits, labels), _per_class(logits, labels)
    confusion = numbers.pop("confusion_matrix")
    class_names = names_of_classes(pl_module, len(confusion), trainer.test_dataloaders)
    checkpoint = trainer.ckpt_path
    return {
        **{f"test_{name}": after[name] for name in METRICS},
        "num_images": len(labels),
        "temperature": temperature,
        "uncalibrated": before and {"test_loss": before["loss"], "test_ece": before["ece"]},
        "per_class": {
            class_name: {name: values[label] for name, values in numbers.items()}
            for label, class_name in enumerate(class_names)
        },
        "confusion_matrix": confusion,
        "checkpoint": str(Path(checkpoint).resolve()) if checkpoint else None,
    }


def _per_class(logits: Tensor, labels: Tensor) -> dict[str, list[Any]]:
    """Return how well each class is predicted.

    Args:
        logits: ``(N, num_classes)``.
        labels: Class numbers, ``(N,)``.

    Returns:
        ``precision``, ``recall`` and ``f1``, in [0, 1], and ``support``, the number of images, of
        each class; ``confusion_matrix``, counts, row = true class, column = predicted class.
    """
    num_classes, labels = logits.shape[1], hard(labels)
    confusion = multiclass_confusion_matrix(logits, labels, num_classes)
    return {
        "precision": multiclass_precision(logits, labels, num_classes, average="none").tolist(),
        "recall": multiclass_recall(logits, labels, num_classes, average="none").tolist(),
        "f1": multiclass_f1_score(logits, labels, num_classes, average="none").tolist(),
        "support": confusion.sum(dim=1).tolist(),
        "confusion_matrix": confusion.tolist(),
    }


def _figures(
    report: dict[str, Any], logits: Tensor, labels: Tensor, mistakes: list[tuple[Tensor, ...]]
) -> dict[str, Figure]:
    tensors = (torch.cat(parts) for parts in zip(*mistakes, strict=True))
    images, truth, predictions, confidences = tensors
    order = confidences.argsort(descending=True)[:_MISTAKES]
    images = images[order] if images.is_floating_point() else images[order] / 255
    images = images.mean(dim=1) if images.dim() == 4 else images  # Colors become gray.
    names, temperature = [*report["per_class"]], report["temperature"]
    before = (logits * temperature).softmax(dim=1) if temperature else None
    return {
        "confusion_matrix": plotting.confusion_matrix(report["confusion_matrix"], names),
        "reliability_diagram": plotting.reliability_diagram(logits.softmax(1), labels, before),
        "mistakes": plotting.draw_mistakes(
            images, truth[order], predictions[order], confidences[order], names
        ),
    }


def _write(
    trainer: Trainer, run: Path, folder: Path, report: dict[str, Any], figures: dict[str, Figure]
) -> None:
    """Write the figures and the page, and log the figures."""
    pictures = {name: plotting.png(figure) for name, figure in figures.items()}
    for name, content in pictures.items():
        path = folder / f"{name}.png"
        with replacing(path) as new:
            new.write_bytes(content)
        title = path.relative_to(run).with_suffix("").as_posix()
        for logger in trainer.loggers:
            _log_figure(logger, title, figures[name], path)
    path = run / "config.yaml"
    config = path.read_text() if path.is_file() else None
    with replacing(folder / "report.html") as new:
        new.write_text(render(report, pictures, _facts(trainer, config), config), encoding="utf-8")


def _log_figure(logger: Any, name: str, figure: Figure, path: Path) -> None:
    """Log a figure, if the logger's kind takes figures."""
    kind = type(logger).__name__
    if kind == "TensorBoardLogger":
        logger.experiment.add_figure(name, figure)
    elif kind == "WandbLogger":
        logger.log_image(name, [str(path)])
    elif kind == "MLFlowLogger":
        logger.experiment.log_artifact(logger.run_id, str(path), str(Path(name).parent))
    elif kind == "CometLogger":
        logger.experiment.log_figure(name, figure)


def _facts(trainer: Trainer, config: str | None) -> dict[str, str]:
    """Return device, versions, seed and training time, as far as they are known."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()}, {torch.get_num_threads()} threads"
    facts = {"Device": f"{device.type} ({name})", "Python": platform.python_version()}
    facts |= {package: version(package) for package in _PACKAGES}
    if seed := re.search(r"^seed_everything: (\d+)$", config or "", re.MULTILINE):
        facts["Seed"] = seed[1]
    if seconds := _training_seconds(trainer):
        facts["Training time"] = f"{seconds:.1f} s"
    return facts


def _training_seconds(trainer: Trainer) -> float:
    """Return what a `Timer` has measured, in this process or before its checkpoint; else 0."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer) and callback.time_elapsed() > 0:
            return callback.time_elapsed()
    try:  # Lightning restores the states of callbacks in a fit only.
        states = read_checkpoint(str(trainer.ckpt_path)).get("callbacks", {})
    except (OSError, ValueError):
        return 0.0  # no checkpoint, or not one of our module
    return float(states.get("Timer", {}).get("time_elapsed", {}).get("train", 0))
