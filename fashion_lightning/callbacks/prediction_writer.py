"""Predictions as a table: one row an image, in the dataset's order."""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from fashion_lightning.atomic import replacing
from fashion_lightning.batches import Batches
from fashion_lightning.evaluation import gather
from fashion_lightning.files import CLASSES
from fashion_lightning.tables import Columns, Table, merge_tables, open_table, require_parquet


class PredictionWriter(BasePredictionWriter):
    """Writes what `predict_step` returns, probabilities ``(N, 10)``, to a table.

    One row an image, in the dataset's order, none missing or doubled: index, path (of photographs),
    target (if the batches carry labels), prediction (class number), class_name, confidence (the
    largest probability), prob_0 ... prob_9. Rows are written as the batches come; the file gets its
    name when it is complete.

    Photographs that cannot be read have no row. They are named, with the reason, in a file beside
    the table (``predictions.csv.log``), and in `problems`.

    Args:
        path: The file: Parquet if its name ends in ``.parquet`` (needs pyarrow), else CSV. None:
            ``predictions.csv`` in the trainer's `log_dir`.
        overwrite: Whether a file of that name may be replaced.

    Attributes:
        problems: After predicting, why a photograph could not be read, by its path.

    Raises:
        FileExistsError: Before anything is computed, if there is a folder of that name, or a file
            and `overwrite` is False.
        ImportError: Likewise, if the table shall be Parquet and pyarrow is not installed.
    """

    def __init__(self, path: str | Path | None = None, *, overwrite: bool = False) -> None:
        super().__init__(write_interval="batch")
        self.path = path
        self.overwrite = overwrite
        self.problems: dict[str, str] = {}
        self._parts: list[Path] = []  # a file for each process
        self._part: Table | None = None  # this process's
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
        if path.suffix == ".parquet":
            require_parquet()
        self._file = path
        self._parts = [
            path.with_name(f".{path.name}.part{rank}") for rank in range(trainer.world_size)
        ]

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this process's part."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._part = open_table(self._parts[trainer.global_rank], self._file.suffix)
        self._num_rows = 0
        if not isinstance(trainer.predict_dataloaders, DataLoader):
            # Lightning misses the indices, which it takes from a DataLoader; ours tell them.
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
        columns: Columns = {}
        if hasattr(batch, "path"):
            columns["index"], columns["path"] = batch.index.cpu(), batch.path
        else:
            loader = trainer.predict_dataloaders
            first = loader.first_index(batch_idx) if isinstance(loader, Batches) else self._num_rows
            indices = batch_indices or range(first, first + len(prediction))
            columns["index"] = torch.tensor([*indices])
            if not isinstance(batch, Tensor) and len(batch) > 1:
                columns["target"] = batch[1].cpu()
        self._num_rows += len(prediction)
        confidences, labels = prediction.cpu().max(dim=1)
        columns["prediction"] = labels
        columns["class_name"] = [CLASSES[label] for label in labels.tolist()]
        columns["confidence"] = confidences
        for label, probs in enumerate(prediction.cpu().T.contiguous()):
            columns[f"prob_{label}"] = probs
        self._part.write(columns)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave nothing half-written."""
        if self._part is not None:
            with suppress(OSError):  # The disk may be full, and what is left is thrown away.
                self._part.close()
            self._parts[trainer.global_rank].unlink(missing_ok=True)

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make one table of the parts of all processes, and a log of what could not be read."""
        assert self._part is not None
        self._part.close()
        self._part = None
        # Gathering also waits for the parts of the others.
        shares = gather(getattr(trainer.predict_dataloaders, "problems", {}))
        problems = {path: reason for share in shares for path, reason in share.items()}
        self.problems = {str(path): problems[path] for path in sorted(problems)}
        if not trainer.is_global_zero:
            return
        log = self._file.with_name(f"{self._file.name}.log")
        log.unlink(missing_ok=True)  # It was about the table that this one replaces.
        if self.problems:
            lines = [f"{path}: {reason}\n" for path, reason in self.problems.items()]
            with replacing(log) as new:
                new.write_text("".join(lines), encoding="utf-8", errors="replace")
        merge_tables(self._parts, self._file, key="index")
        rank_zero_info(f"Predictions: {self._file}")
