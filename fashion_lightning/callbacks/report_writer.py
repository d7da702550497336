"""After every test, the folder `report/`: the numbers, the figures, and a page that shows both."""

import json
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from typing_extensions import override

from fashion_lightning.atomic import replacing
from fashion_lightning.evaluation import Batch, collect, gather, metrics, per_class
from fashion_lightning.files import CLASSES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MISTAKES = 24  # in the figure of the most confident ones: six rows
_PACKAGES = ("fashion-lightning", "lightning", "torch", "torchvision", "torchmetrics")


class ReportWriter(Callback):
    """Writes the folder ``report/`` after every test.

    Works with any LightningModule whose `test_step` returns the logits ``(N, 10)`` of batches
    ``(images (N, 1, 28, 28), labels (N,))``.

    ``metrics.json`` holds ``test_acc``, ``test_loss`` (mean negative log-likelihood), ``test_f1``
    (macro), ``test_ece`` (a fraction), ``num_images``, ``temperature`` and ``uncalibrated``
    (``test_loss`` and ``test_ece`` at temperature 1; both null if the module has no temperature),
    ``per_class`` (``precision``, ``recall``, ``f1``, ``support`` by class name),
    ``confusion_matrix`` (row = true class) and ``checkpoint``.

    Beside it are ``confusion_matrix.png``, ``reliability_diagram.png``, ``mistakes.png``,
    ``learning_curves.png`` (of a run that has a ``metrics.csv``) and ``report.html``, one file that
    shows everything. The figures also go to a TensorBoardLogger of the trainer.

    Args:
        dirpath: Folder in which ``report/`` is made. None: the trainer's `log_dir`.
    """

    def __init__(self, dirpath: str | Path | None = None) -> None:
        self.dirpath = dirpath
        self._batches: list[Batch] = []
        self._mistakes: list[tuple[Tensor, ...]] = []  # images, labels, predictions, confidences

    @override
    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an interrupted test may have left."""
        self._batches.clear()
        self._mistakes.clear()

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
        assert isinstance(outputs, Tensor)
        images, labels = batch
        self._batches.append((outputs, labels))
        confidences, predictions = outputs.softmax(dim=1).max(dim=1)
        wrong = (predictions != labels).nonzero().squeeze(1)
        wrong = wrong[confidences[wrong].argsort(descending=True)[:_MISTAKES]]
        self._mistakes.append(
            tuple(values[wrong].cpu() for values in (images, labels, predictions, confidences))
        )

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the numbers, the figures and the page: the table is shown before."""
        if stage != "test" or not self._batches:
            return
        folder = self._folder(trainer)
        logits, labels = collect(self._batches)
        shares = gather(self._mistakes)
        self._batches, self._mistakes = [], []
        if not trainer.is_global_zero:
            return
        from fashion_lightning.plotting import png  # Only this needs matplotlib, which is slow.
        from fashion_lightning.report import render

        report = _numbers(trainer, pl_module, logits, labels)
        with replacing(folder / "metrics.json") as new:
            new.write_text(json.dumps(report, indent=2) + "\n")
        mistakes = [batch for share in shares for batch in share]
        figures = _figures(report, logits, labels, mistakes, run=folder.parent)
        pictures = {}
        for name, figure in figures.items():
            pictures[name] = png(figure)
            with replacing(folder / f"{name}.png") as new:
                new.write_bytes(pictures[name])
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_figure(f"report/{name}", figure)
        path = folder.parent / "config.yaml"
        config = path.read_text() if path.is_file() else None
        page = render(report, pictures, _facts(trainer, pl_module, config), config)
        with replacing(folder / "report.html") as new:
            new.write_text(page, encoding="utf-8")

    def _folder(self, trainer: Trainer) -> Path:
        dirpath = self.dirpath or trainer.log_dir  # log_dir must be asked for by every process
        return Path(dirpath or ".") / "report"


def _numbers(
    trainer: Trainer, pl_module: LightningModule, logits: Tensor, labels: Tensor
) -> dict[str, Any]:
    """Return what `metrics.json` holds."""
    numbers = per_class(logits, labels)
    temperature = getattr(pl_module, "temperature", None)
    uncalibrated = metrics(logits * temperature.cpu(), labels) if temperature else None
    checkpoint = trainer.ckpt_path
    return {
        **{f"test_{name}": value for name, value in metrics(logits, labels).items()},
        "num_images": len(labels),
        "temperature": temperature.item() if temperature else None,
        "uncalibrated": uncalibrated
        and {f"test_{name}": uncalibrated[name] for name in ("loss", "ece")},
        "per_class": {
            class_name: {
                name: numbers[name][label] for name in ("precision", "recall", "f1", "support")
            }
            for label, class_name in enumerate(CLASSES)
        },
        "confusion_matrix": numbers["confusion_matrix"],
        "checkpoint": str(Path(checkpoint).resolve()) if checkpoint else None,
    }


def _figures(
    report: dict[str, Any],
    logits: Tensor,
    labels: Tensor,
    mistakes: list[tuple[Tensor, ...]],
    run: Path,
) -> "dict[str, Figure]":
    """Draw what a test and the run before it have to show."""
    from fashion_lightning import plotting
    from fashion_lightning.report import read_curves

    candidates = [torch.cat(parts) for parts in zip(*mistakes, strict=True)]
    order = candidates[3].argsort(descending=True)[:_MISTAKES]
    images, truth, predictions, confidences = (values[order] for values in candidates)
    temperature = report["temperature"]
    figures = {
        "confusion_matrix": plotting.confusion_matrix(report["confusion_matrix"]),
        "reliability_diagram": plotting.reliability_diagram(
            logits.softmax(dim=1),
            labels,
            (logits * temperature).softmax(dim=1) if temperature else None,
        ),
        "mistakes": plotting.mistakes(images.squeeze(1), truth, predictions, confidences),
    }
    curves = read_curves(run)
    if curves:
        figures["learning_curves"] = plotting.learning_curves(curves)
    return figures


def _facts(trainer: Trainer, pl_module: LightningModule, config: str | None) -> dict[str, str]:
    """Say of a run and its test where and with what they were done."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()}, {torch.get_num_threads()} threads"
    facts = {
        "Device": f"{device.type} ({name})",
        "Python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
    }
    seed = re.search(r"^seed_everything: (\d+)$", config or "", re.MULTILINE)
    if seed:
        facts["Seed"] = seed[1]
    seconds = getattr(pl_module, "train_seconds", None)
    if seconds:
        facts["Training time"] = f"{seconds:.1f} s"
    return facts
