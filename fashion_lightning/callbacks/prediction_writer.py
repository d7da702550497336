"""Predictions as a table: one row per image, in the dataset's order."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import RandomSampler
from typing_extensions import override

from fashion_lightning.atomic import replacing
from fashion_lightning.callbacks.outputs import (
    check_probabilities,
    local,
    names_of_classes,
    run_folder,
)
from fashion_lightning.callbacks.prediction_table import (
    Columns,
    Table,
    merge_tables,
    open_table,
    require_parquet,
)
from fashion_lightning.data.batches import NO_IMAGE
from fashion_lightning.data.parts import hard, images_and_labels
from fashion_lightning.training.metrics import gather


class PredictionWriter(BasePredictionWriter):
    """Writes what `predict_step` returns, probabilities ``(N, C)``, to a table.

    One row per image, in the dataset's order, none missing or doubled: dataloader_idx (if there are
    several loaders), index, path (of photographs), target (if the batches carry labels), prediction
    (class number), class_name (of the module's `class_names`), confidence (the largest
    probability), prob_0, prob_1, ... Rows are written as the batches come; the file gets its name
    when it is complete.

    Photographs that cannot be read have no row. They are named, with the reason, in a file beside
    the table (``predictions.csv.log``), and in `problems`.

    Args:
        path: The file: Parquet if its name ends in ``.parquet`` (needs pyarrow), else CSV. None:
            ``predictions.csv`` in the folder of the trainer's run.
        overwrite: Whether a file of that name may be replaced.

    Attributes:
        problems: After predicting, why a photograph could not be read, by its path.

    Raises:
        FileExistsError: Before anything is computed, if there is a folder of that name, or a file
            and `overwrite` is False.
        ImportError: Likewise, if the table is to be Parquet and pyarrow is not installed.
        ValueError: If `predict_step` returns something else, or nobody knows which images of a
            loader without a length a process has had.
    """

    def __init__(self, path: str | Path | None = None, *, overwrite: bool = False) -> None:
        super().__init__(write_interval="batch")
        self.path = path
        self.overwrite = overwrite
        self.problems: dict[str, str] = {}
        self._parts: list[Path] = []  # a file for each process
        self._part: Table | None = None  # this process's
        self._keys: tuple[str, ...] = ()  # the columns that say which image it is
        self._next: list[int] = []  # for each loader, the row after the last
        self._is_sorted = True

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the file's name, and refuse an existing one."""
        if stage != "predict":
            return
        # Both are the same for every process, and `log_dir` must be asked for by all of them.
        path = local(self.path or run_folder(trainer) / "predictions.csv")
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
        self._next = [0] * len(trainer.num_predict_batches)
        self._keys = ("dataloader_idx", "index") if len(self._next) > 1 else ("index",)
        self._is_sorted = True
        self.problems = {}

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
        check_probabilities(prediction, type(self).__name__)
        assert self._part is not None
        columns: Columns = {}
        if len(self._keys) > 1:
            columns["dataloader_idx"] = torch.full((len(prediction),), dataloader_idx)
        if hasattr(batch, "path"):
            columns["index"], columns["path"] = batch.index.cpu(), batch.path
            self.problems |= batch.problems
        else:
            rows = len(prediction)
            columns["index"] = self._indices(trainer, batch_indices, rows, dataloader_idx)
            labels = _labels(batch, prediction.shape[1])
            if labels is not None:
                columns["target"] = labels.cpu()
        confidences, labels = prediction.cpu().max(dim=1)
        names = names_of_classes(pl_module, prediction.shape[1])
        columns["prediction"] = labels
        columns["class_name"] = [names[label] for label in labels.tolist()]
        columns["confidence"] = confidences
        for label, probs in enumerate(prediction.cpu().T.contiguous()):
            columns[f"prob_{label}"] = probs
        self._part.write(columns)

    def _indices(
        self, trainer: Trainer, batch_indices: Sequence[int] | None, rows: int, loader: int
    ) -> Tensor:
        """Return which images of the data set a batch holds."""
        known = [index for index in batch_indices or () if index != NO_IMAGE]
        if len(known) != rows:  # Lightning knows none of a loader without a batch sampler.
            if trainer.world_size > 1 or not _is_in_order(trainer, loader):
                raise ValueError(
                    "Expected a predict loader with a batch sampler, which says which images "
                    "come in which batch, or one that serves them in order, but got one without."
                )
            known = [*range(self._next[loader], self._next[loader] + rows)]
        ascends = all(a < b for a, b in zip([self._next[loader] - 1, *known], known, strict=False))
        self._is_sorted &= ascends
        self._next[loader] = max([self._next[loader], *(index + 1 for index in known)])
        return torch.tensor(known, dtype=torch.int64)

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
        shares = gather((self.problems, self._is_sorted))
        problems = {path: why for share, _ in shares for path, why in share.items()}
        self.problems = {path: problems[path] for path in sorted(problems)}
        if not trainer.is_global_zero:
            return
        log = self._file.with_name(f"{self._file.name}.log")
        log.unlink(missing_ok=True)  # It was about the table that this one replaces.
        if self.problems:
            lines = [f"{path}: {reason}\n" for path, reason in self.problems.items()]
            with replacing(log) as new:
                new.write_text("".join(lines), encoding="utf-8", errors="replace")
        in_order = all(is_sorted for _, is_sorted in shares)
        merge_tables(self._parts, self._file, keys=self._keys, in_order=in_order)
        rank_zero_info(f"Predictions: {self._file}")


def _labels(batch: Any, num_classes: int) -> Tensor | None:
    """Return the class numbers of a batch, if its second part can be such."""
    try:
        labels = hard(images_and_labels(batch)[1])
    except ValueError:
        return None
    is_integral = not labels.is_floating_point() and labels.dtype != torch.bool
    return labels if is_integral and bool(((labels >= 0) & (labels < num_classes)).all()) else None


def _is_in_order(trainer: Trainer, index: int) -> bool:
    """Tell whether nothing says that a loader serves its images in another order than theirs."""
    loaders: Any = trainer.predict_dataloaders
    loaders = [*loaders.values()] if isinstance(loaders, dict) else loaders
    sampler = getattr(loaders[index] if isinstance(loaders, list) else loaders, "sampler", None)
    return not isinstance(getattr(sampler, "sampler", sampler), RandomSampler)
