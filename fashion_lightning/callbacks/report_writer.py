"""After every test, the folder `report/` with the numbers of the test."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from fashion_lightning.atomic import replacing
from fashion_lightning.evaluation import Batch, collect, metrics, per_class
from fashion_lightning.files import CLASSES


class ReportWriter(Callback):
    """Writes ``report/metrics.json`` after every test.

    Works with any LightningModule whose `test_step` returns the logits ``(N, 10)`` of batches
    ``(images, labels)``.

    The file holds ``test_acc``, ``test_loss`` (mean negative log-likelihood), ``test_f1`` (macro),
    ``test_ece`` (a fraction), ``num_images``, ``per_class`` (``precision``, ``recall``, ``f1``,
    ``support`` by class name), ``confusion_matrix`` (row = true class) and ``checkpoint``.

    Args:
        dirpath: Folder in which ``report/`` is made. None: the trainer's `log_dir`.
    """

    def __init__(self, dirpath: str | Path | None = None) -> None:
        self.dirpath = dirpath
        self._batches: list[Batch] = []

    @override
    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an interrupted test may have left."""
        self._batches.clear()

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
        """Keep the logits and labels of a batch."""
        assert isinstance(outputs, Tensor)
        self._batches.append((outputs, batch[1]))

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report."""
        logits, labels = collect(self._batches)
        dirpath = self.dirpath or trainer.log_dir  # log_dir must be asked for by every process
        assert dirpath is not None
        checkpoint = trainer.ckpt_path
        if trainer.is_global_zero:
            numbers = per_class(logits, labels)
            names = ("precision", "recall", "f1", "support")
            report = {
                **{f"test_{name}": value for name, value in metrics(logits, labels).items()},
                "num_images": len(labels),
                "per_class": {
                    class_name: {name: numbers[name][label] for name in names}
                    for label, class_name in enumerate(CLASSES)
                },
                "confusion_matrix": numbers["confusion_matrix"],
                "checkpoint": str(Path(checkpoint).resolve()) if checkpoint else None,
            }
            with replacing(Path(dirpath) / "report" / "metrics.json") as new:
                new.write_text(json.dumps(report, indent=2) + "\n")
