"""Predictions as a table: one row an image, in the dataset's order."""

import csv
import heapq
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from fashion_lightning.atomic import replacing
from fashion_lightning.batches import Batches
from fashion_lightning.files import CLASSES


class PredictionWriter(BasePredictionWriter):
    """Writes what `predict_step` returns, probabilities ``(N, 10)``, to a CSV file.

    One row an image, in the dataset's order, none missing or doubled: index, target (if the batches
    carry labels), prediction (class number), class_name, confidence (the largest probability),
    prob_0 ... prob_9. Rows are written as the batches come; the file gets its name when it is
    complete.

    Args:
        path: The file. None: ``predictions.csv`` in the trainer's `log_dir`.
        overwrite: Whether a file of that name may be replaced.

    Raises:
        FileExistsError: Before anything is computed, if there is a folder of that name, or a file
            and `overwrite` is False.
    """

    def __init__(self, path: str | Path | None = None, *, overwrite: bool = False) -> None:
        super().__init__(write_interval="batch")
        self.path = path
        self.overwrite = overwrite
        self._parts: list[Path] = []  # a file for each process
        self._part: IO[str] | None = None  # this process's
        self._has_target = False
        self._num_rows = 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the file's name, and refuse an existing one."""
        if stage != "predict":
            return
        # Both are the same for every process, and `log_dir` must be asked for by all of them.
        path = Path(self.path or Path(trainer.log_dir or ".") / "predictions.csv")
        if path.is_dir() or (path.exists() and not self.overwrite):
            raise FileExistsError(
                f"Expected `path` to be a new file, but {path} exists; `overwrite` replaces files."
            )
        self._file = path
        self._parts = [
            path.with_name(f".{path.name}.part{rank}") for rank in range(trainer.world_size)
        ]

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this process's part."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._part = self._parts[trainer.global_rank].open("w", newline="")
        self._num_rows = 0
        if isinstance(trainer.predict_dataloaders, Batches):
            # Lightning misses the indices, which it takes from a DataLoader; `Batches` tells them.
            warnings.filterwarnings("ignore", "Couldn't infer the batch indices")

    @override
    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the rows of a batch."""
        assert isinstance(prediction, Tensor)
        assert self._part is not None
        loader = trainer.predict_dataloaders
        first = loader.first_index(batch_idx) if isinstance(loader, Batches) else self._num_rows
        indices = batch_indices or range(first, first + len(prediction))
        self._num_rows += len(prediction)
        self._has_target = not isinstance(batch, Tensor) and len(batch) > 1
        targets = batch[1].tolist() if self._has_target else [None] * len(prediction)
        confidences, classes = (values.tolist() for values in prediction.max(dim=1))
        rows = csv.writer(self._part)
        for index, target, label, confidence, probs in zip(
            indices, targets, classes, confidences, prediction.tolist(), strict=True
        ):
            known = [target] if self._has_target else []
            numbers = [f"{number:.9g}" for number in (confidence, *probs)]  # exact for float32
            rows.writerow([index, *known, label, CLASSES[label], *numbers])

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave nothing half-written."""
        if self._part is not None:
            self._part.close()
            self._parts[trainer.global_rank].unlink(missing_ok=True)

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge the parts of all processes into the file."""
        assert self._part is not None
        self._part.close()
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            target = ["target"] if self._has_target else []
            probs = [f"prob_{label}" for label in range(len(CLASSES))]
            header = ["index", *target, "prediction", "class_name", "confidence", *probs]
            with ExitStack() as stack:
                new = stack.enter_context(replacing(self._file))
                parts = [stack.enter_context(part.open(newline="")) for part in self._parts]
                file = stack.enter_context(new.open("w", newline=""))
                csv.writer(file).writerow(header)
                file.writelines(heapq.merge(*parts, key=lambda row: int(row.split(",", 1)[0])))
            for part in self._parts:
                part.unlink()
            rank_zero_info(f"Predictions: {self._file}")
