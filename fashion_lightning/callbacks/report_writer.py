"""After every test, the folder `report/`: the numbers, the figures, and a page that shows both."""

import json
import platform
import re
from collections.abc import Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DistributedSampler
from typing_extensions import override

from fashion_lightning.atomic import replacing
from fashion_lightning.callbacks.outputs import local, names_of_classes, run_folder
from fashion_lightning.data.parts import hard, images_and_labels
from fashion_lightning.data.sampling import TurnsSampler
from fashion_lightning.training.metrics import Outputs, gather, metrics, per_class

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MISTAKES = 24  # in the figure of the most confident ones: six rows
_PACKAGES = ("fashion-lightning", "lightning", "torch", "torchvision", "torchmetrics")


class ReportWriter(Callback):
    """Writes the folder ``report/`` after every test.

    Works with any LightningModule whose `test_step` returns the logits ``(N, C)`` of a batch of
    images ``(N, 1, H, W)`` and labels ``(N,)``. The classes have the module's `class_names`.

    ``metrics.json`` holds ``test_acc``, ``test_loss`` (mean negative log-likelihood), ``test_f1``
    (macro), ``test_ece`` (a fraction), ``num_images``, ``temperature`` and ``uncalibrated``
    (``test_loss`` and ``test_ece`` at temperature 1; both null if the module has no temperature),
    ``per_class`` (``precision``, ``recall``, ``f1``, ``support`` by class name),
    ``confusion_matrix`` (row = true class) and ``checkpoint``.

    Beside it are ``confusion_matrix.png``, ``reliability_diagram.png``, ``mistakes.png``,
    ``learning_curves.png`` (of a run that has a ``metrics.csv``) and ``report.html``, one file that
    shows everything. The figures also go to the trainer's loggers that take figures: those of
    TensorBoard, wandb, MLflow and Comet. With several test loaders, each has a folder of its own,
    ``report/dataloader_idx_N/``.

    Args:
        dirpath: Folder in which ``report/`` is made. None: that of the trainer's run.

    Raises:
        ValueError: If `test_step` returns something else, or a batch has no images and labels.
    """

    def __init__(self, dirpath: str | Path | None = None) -> None:
        self.dirpath = dirpath
        self._outputs: dict[int, Outputs] = {}  # by loader
        # Images, labels, predictions, confidences of the worst mistakes of each batch, by loader.
        self._mistakes: dict[int, list[tuple[Tensor, ...]]] = {}
        self._places: dict[int, Iterator[int] | None] = {}  # of the images to come, by loader

    @override
    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an interrupted test may have left."""
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
        known = self._places[dataloader_idx]
        places = None if known is None else torch.tensor([*islice(known, len(labels))])
        self._outputs[dataloader_idx].update(outputs, labels, places)
        labels = hard(labels)
        confidences, predictions = outputs.softmax(dim=1).max(dim=1)
        wrong = (predictions != labels).nonzero().squeeze(1)
        wrong = wrong[confidences[wrong].argsort(descending=True)[:_MISTAKES]]
        self._mistakes.setdefault(dataloader_idx, []).append(
            tuple(values[wrong].cpu() for values in (images, labels, predictions, confidences))
        )

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the numbers, the figures and the page: the table is shown before."""
        if stage != "test":
            return
        root = local(self.dirpath or run_folder(trainer))
        outputs, self._outputs = self._outputs, {}
        for index in sorted(outputs):
            folder = root / "report" / (f"dataloader_idx_{index}" if len(outputs) > 1 else "")
            logits, labels = outputs[index].result()
            shares = gather(self._mistakes.pop(index))
            if trainer.is_global_zero:
                mistakes = [batch for share in shares for batch in share]
                _write(trainer, pl_module, root, folder, logits, labels, mistakes)


def _places(trainer: Trainer, index: int) -> Iterator[int] | None:
    """Return which images of its data set this process gets; None if the processes take turns.

    PyTorch's `DistributedSampler` deals out single images, the last of which repeat the first.
    """
    loaders: Any = trainer.test_dataloaders
    loader = loaders[index] if isinstance(loaders, list) else loaders
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, DistributedSampler) and not isinstance(sampler, TurnsSampler):
        return iter(sampler)
    return None


def _write(
    trainer: Trainer,
    pl_module: LightningModule,
    run: Path,
    folder: Path,
    logits: Tensor,
    labels: Tensor,
    mistakes: list[tuple[Tensor, ...]],
) -> None:
    """Write the report of one test set."""
    from fashion_lightning.plotting import png  # Only this needs matplotlib, which is slow.
    from fashion_lightning.report.page import render

    report = _numbers(trainer, pl_module, logits, labels)
    with replacing(folder / "metrics.json") as new:
        new.write_text(json.dumps(report, indent=2) + "\n")
    figures = _figures(report, logits, labels, mistakes, run)
    pictures = {}
    for name, figure in figures.items():
        pictures[name], path = png(figure), folder / f"{name}.png"
        with replacing(path) as new:
            new.write_bytes(pictures[name])
        for logger in trainer.loggers:
            _log_figure(logger, path.relative_to(run).with_suffix("").as_posix(), figure, path)
    path = run / "config.yaml"
    config = path.read_text() if path.is_file() else None
    page = render(report, pictures, _facts(trainer, pl_module, config), config)
    with replacing(folder / "report.html") as new:
        new.write_text(page, encoding="utf-8")


def _log_figure(logger: Any, name: str, figure: "Figure", path: Path) -> None:
    """Give a figure to a logger that takes figures, each in its own way."""
    kind = type(logger).__name__
    if kind == "TensorBoardLogger":
        logger.experiment.add_figure(name, figure)
    elif kind == "WandbLogger":
        logger.log_image(name, [str(path)])
    elif kind == "MLFlowLogger":
        logger.experiment.log_artifact(logger.run_id, str(path), str(Path(name).parent))
    elif kind == "CometLogger":
        logger.experiment.log_figure(name, figure)


def _numbers(
    trainer: Trainer, pl_module: LightningModule, logits: Tensor, labels: Tensor
) -> dict[str, Any]:
    """Return what `metrics.json` holds."""
    numbers = per_class(logits, labels)
    temperature = getattr(pl_module, "temperature", None)
    temperature = float(temperature) if temperature is not None else None
    uncalibrated = metrics(logits * temperature, labels) if temperature else None
    checkpoint = trainer.ckpt_path
    return {
        **{f"test_{name}": value for name, value in metrics(logits, labels).items()},
        "num_images": len(labels),
        "temperature": temperature,
        "uncalibrated": uncalibrated
        and {f"test_{name}": uncalibrated[name] for name in ("loss", "ece")},
        "per_class": {
            class_name: {
                name: numbers[name][label] for name in ("precision", "recall", "f1", "support")
            }
            for label, class_name in enumerate(names_of_classes(pl_module, logits.shape[1]))
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
    from fashion_lightning.report.curves import read_curves

    candidates = [torch.cat(parts) for parts in zip(*mistakes, strict=True)]
    order = candidates[3].argsort(descending=True)[:_MISTAKES]
    images, truth, predictions, confidences = (values[order] for values in candidates)
    images = images if images.is_floating_point() else images / 255
    class_names = [*report["per_class"]]
    temperature = report["temperature"]
    figures = {
        "confusion_matrix": plotting.confusion_matrix(report["confusion_matrix"], class_names),
        "reliability_diagram": plotting.reliability_diagram(
            logits.softmax(dim=1),
            labels,
            (logits * temperature).softmax(dim=1) if temperature else None,
        ),
        "mistakes": plotting.draw_mistakes(
            images.mean(dim=1) if images.dim() == 4 else images,  # Colors become gray.
            truth,
            predictions,
            confidences,
            class_names=class_names,
        ),
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
