"""Predictions as a table: one row per image, in the dataset's order."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import RandomSampler
from typing_extensions import override

from fashion_lightning.arguments import installed, new_file
from fashion_lightning.atomic import replacing
from fashion_lightning.callbacks.outputs import (
    check_output,
    check_probabilities,
    local,
    names_of_classes,
    run_folder,
    sampler_of,
)
from fashion_lightning.callbacks.prediction_table import (
    Columns,
    Table,
    merge_tables,
    open_table,
)
from fashion_lightning.data.batches import NO_IMAGE
from fashion_lightning.data.parts import hard, images_and_labels
from fashion_lightning.training.metrics import gather


class PredictionWriter(BasePredictionWriter):
    """Writes what `predict_step` returns, probabilities ``(N, C)``, to a table.

    One row per image, in the dataset's order, whatever the number of processes. The columns:
    dataloader_idx (with several loaders), index, path and background (of photographs), target (if
    the batches have labels), prediction (class number), class_name (of the module's `class_names`),
    confidence (the largest probability), sure (true or false, where a `PhotoClassifier` looked at
    the photographs), prob_0, prob_1, ... The file gets its name when it is complete.

    Photographs that cannot be read have no row. Their paths and the reasons are in ``PATH.log`` and
    in `problems`.

    Args:
        path: The file: Parquet if its name ends in ``.parquet`` (needs pyarrow), else CSV. None:
            ``predictions.csv`` in the folder of the trainer's run.
        overwrite: Whether an existing file may be replaced.

    Attributes:
        problems: After predicting, why a photograph could not be read, by its path.

    Raises:
        FileExistsError: Before predicting, if `path` is a folder, or a file and not `overwrite`.
        MisconfigurationException: Likewise, if it cannot be written, or is one of the photographs.
        ImportError: Before predicting, for Parquet without pyarrow.
        ValueError: If `predict_step` returns something else, or it is unknown which
            images a batch holds.
    """

    def __init__(self, path: str | Path | None = None, *, overwrite: bool = False) -> None:
        super().__init__(write_interval="batch")
        self.path = path
        self.overwrite = overwrite
        self.problems: dict[str, str] = {}
        self._part: Table | None = None  # this process's

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determine the file, and refuse an existing one."""
        if stage != "predict":
            return
        path = local(self.path or run_folder(trainer) / "predictions.csv")
        new_file(path, self.overwrite)
        check_output(path)
        if path.suffix == ".parquet":
            installed("pyarrow", "parquet", "a Parquet table")
        self._file, ranks = path, range(trainer.world_size)
        self._log = path.with_name(f"{path.name}.log")
        self._parts = [path.with_name(f".{path.name}.part{rank}") for rank in ranks]

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin this process's part."""
        for path in (self._file, self._log):
            check_output(path, trainer.predict_dataloaders)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._part = open_table(self._parts[trainer.global_rank], self._file.suffix)
        self._last = [-1] * len(trainer.num_predict_batches)  # latest index, by loader
        self._keys = ("dataloader_idx", "index") if len(self._last) > 1 else ("index",)
        self._is_sorted = True
        self._has_target: bool | None = None  # as the first batch shows
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
        rows, num_classes = prediction.shape
        columns: Columns = {}
        if len(self._keys) > 1:
            columns["dataloader_idx"] = torch.full((rows,), dataloader_idx, device="cpu")
        if hasattr(batch, "path"):
            columns["index"], columns["path"] = batch.index.cpu(), batch.path
            self.problems |= batch.problems
            if batch.background is not None:
                columns["background"] = batch.background
        else:
            columns["index"] = self._indices(trainer, batch_indices, rows, dataloader_idx)
            labels = _labels(batch, num_classes)
            if rows and self._has_target is None:
                self._has_target = labels is not None
            if self._has_target and labels is None:
                raise ValueError(
                    f"Expected labels in 0 ... {num_classes - 1} behind the images of every batch, "
                    "as in the first, of which `PredictionWriter` makes the column `target`, but "
                    f"batch {batch_idx} has others; leave out what is no label."
                )
            if self._has_target and labels is not None:
                columns["target"] = labels.cpu()
        probs = prediction.cpu()
        names = names_of_classes(
            pl_module, num_classes, trainer.predict_dataloaders, dataloader_idx
        )
        confidences, predictions = probs.max(dim=1)
        columns |= {
            "prediction": predictions,
            "class_name": [names[label] for label in predictions.tolist()],
            "confidence": confidences,
            **_doubt(batch, confidences),
            **{f"prob_{label}": column for label, column in enumerate(probs.T)},
        }
        self._part.write(columns)

    def _indices(
        self, trainer: Trainer, batch_indices: Sequence[int] | None, rows: int, loader: int
    ) -> Tensor:
        """Return the indices of a batch's images in the dataset."""
        last = self._last[loader]
        known = [index for index in batch_indices or () if index != NO_IMAGE]
        if len(known) != rows:  # Lightning has none without a batch sampler.
            if trainer.world_size > 1 or not _is_in_order(trainer, loader):
                raise ValueError(
                    "Expected a predict loader with a batch sampler, which says which images "
                    "come in which batch, or one that serves them in order, but got one without."
                )
            known = [*range(last + 1, last + 1 + rows)]
        order = [last, *known]
        self._is_sorted &= all(a < b for a, b in pairwise(order))
        self._last[loader] = order[-1]
        return torch.tensor(known, dtype=torch.int64, device="cpu")

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove this process's part."""
        if self._part is not None:
            with suppress(OSError):  # The disk may be full.
                self._part.close()
            self._parts[trainer.global_rank].unlink(missing_ok=True)

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge the parts of all processes, and write the log of unreadable photographs."""
        assert self._part is not None
        self._part.close()
        self._part = None
        # Gathering also waits until all parts are complete.
        shares = gather((self.problems, self._is_sorted))
        self.problems = dict(sorted(problem for share, _ in shares for problem in share.items()))
        if not trainer.is_global_zero:
            return
        self._log.unlink(missing_ok=True)  # of a table that this one replaces
        if self.problems:
            text = "".join(f"{path}: {reason}\n" for path, reason in self.problems.items())
            with replacing(self._log) as new:
                new.write_text(text, encoding="utf-8", errors="replace")
        in_order = all(is_sorted for _, is_sorted in shares)
        merge_tables(self._parts, self._file, keys=self._keys, in_order=in_order)
        rank_zero_info(f"Predictions: {self._file}")


def _doubt(batch: Any, confidences: Tensor) -> Columns:
    """Return the column ``sure`` of photographs whose calibration is known."""
    threshold = getattr(batch, "threshold", None)
    if threshold is None or threshold.isnan().any():
        return {}
    sure = confidences >= threshold.to(confidences.device)
    return {"sure": [str(each).lower() for each in sure.tolist()]}


def _labels(batch: Any, num_classes: int) -> Tensor | None:
    """Return the class numbers of a batch, or None if it has none."""
    try:
        labels = hard(images_and_labels(batch)[1])
    except ValueError:
        return None
    is_integral = not labels.is_floating_point() and labels.dtype != torch.bool
    return labels if is_integral and ((labels >= 0) & (labels < num_classes)).all() else None


def _is_in_order(trainer: Trainer, index: int) -> bool:
    """Return False if a predict loader is known to shuffle."""
    sampler = sampler_of(trainer.predict_dataloaders, index)
    return not isinstance(getattr(sampler, "sampler", sampler), RandomSampler)
