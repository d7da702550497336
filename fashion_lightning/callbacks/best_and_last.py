"""Checkpoints of a run: the best validated weights, and the last state, also of a stopped run."""

import math
import os
import shutil
import signal
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import proxy

import torch
from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    ProgressBar,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from fashion_lightning.arguments import at_least
from fashion_lightning.atomic import replacing
from fashion_lightning.callbacks.signals import Interrupted, SignalNote
from fashion_lightning.checkpoints import AtomicCheckpointIO
from fashion_lightning.module import FashionMNISTClassifier


class BestAndLast(ModelCheckpoint):
    """A `ModelCheckpoint` that keeps ``best.ckpt`` and ``last.ckpt``, and stops runs safely.

    ``best.ckpt`` holds the best validated weights, also from inside an epoch; without validation,
    the latest epoch is the best. ``last.ckpt`` holds the state after the latest epoch.
    ``ModelCheckpoint(save_last=True)`` writes it only when it saves something else: a run that no
    longer improves would lose every epoch since its best.

    Ctrl-C and SIGTERM (noted by `signals.py`) end training after the running step or validation,
    with a ``last.ckpt`` that continues from there.

    Args:
        dirpath: The folder. None: as in `ModelCheckpoint`, ``checkpoints`` in the run's folder of
            the first logger, or in the trainer's `default_root_dir`.
        monitor: The metric that decides which weights are best. Every validation must log it.
        mode: ``min`` or ``max``: whether lower or higher is better.
        every_n_train_steps: Also write ``last.ckpt`` every N optimizer steps, >= 1.

    Raises:
        MisconfigurationException: When training starts, if another callback would write the same
            files, or average weights after the last checkpoint; after a validation that has not
            logged `monitor`.
        ValueError: If `every_n_train_steps` is below 1.
        Interrupted: From the trainer's `fit`, if a signal ended it.
    """

    _is_fitted = False

    def __init__(
        self,
        dirpath: str | Path | None = None,
        *,
        monitor: str = "val_loss",
        mode: str = "min",
        every_n_train_steps: int | None = None,
    ) -> None:
        if every_n_train_steps is not None:
            at_least(1, every_n_train_steps=every_n_train_steps)
        super().__init__(
            dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_last=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.every_n_train_steps = every_n_train_steps
        self._signal = SignalNote()  # of this fit
        self._is_stopping = self._continues_here = False
        self._is_due = False  # whether the best is to be saved when its epoch ends

    @property
    def best_model_path(self) -> str:
        """Path of the best checkpoint; before a fit, of the one in the folder."""
        if self._best_model_path or self._is_fitted or not self.dirpath:
            return self._best_model_path
        path = self._path("best")
        return path if url_to_fs(path)[0].exists(path) else ""

    @best_model_path.setter
    def best_model_path(self, path: str) -> None:
        self._best_model_path = path

    def _path(self, name: str) -> str:
        return self.format_checkpoint_name({}, name)

    @property
    @override
    def state_key(self) -> str:
        """The state's name in checkpoints; by default that of version 0.1.0."""
        name = type(self).__qualname__
        is_default = (self.monitor, self.mode) == ("val_loss", "min")
        return name if is_default else f"{name}[{self.monitor}, {self.mode}]"

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determine the folder, and reset the score of an earlier run."""
        with warnings.catch_warnings():  # Replacing these files is intended.
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            super().setup(trainer, pl_module, stage)
        self._is_due, self._is_fitted = False, self._is_fitted or stage == "fit"
        is_new = trainer.current_epoch == 0  # A checkpoint to continue from is loaded later.
        if stage == "fit" and (is_new or self.best_model_score is None):  # not this run's
            self.best_model_path, self.best_model_score = "", None

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the best score, without paths: a run's folder may be moved."""
        score = self.best_model_score
        return {"best_model_score": None if score is None else float(score)}

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note whether the folder holds the continued run's best, or another run's, or none."""
        folder = os.path.dirname(str(trainer.ckpt_path)) or "."  # noqa: PTH120 (URLs, too)
        if "://" not in folder:
            folder = os.path.realpath(folder)
        exists = self.file_exists(self._path("best"), trainer)
        self._continues_here = folder == self.dirpath and exists

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score, unless ``best.ckpt`` is missing or another run's."""
        # Version 0.1.0 called it `best_score`, infinite before the first validation.
        score = state_dict.get("best_model_score", state_dict.get("best_score"))
        if self._continues_here and score is not None and math.isfinite(score):
            self._set_best(torch.tensor(score))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse callbacks that would conflict, and install signal handlers."""
        self.refuse_conflicts(trainer)
        self._signal, self._is_stopping = SignalNote(), False
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._signal.install()

    def refuse_conflicts(self, trainer: Trainer) -> None:
        """Refuse a trainer's callbacks that average weights too late, or write the same files.

        Raises:
            MisconfigurationException: If there is one.
        """
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, StochasticWeightAveraging):
                raise MisconfigurationException(
                    "Expected no `StochasticWeightAveraging` beside `BestAndLast`, since its mean "
                    "weights would be in no checkpoint; use `EMAWeightAveraging`."
                )
            is_other = isinstance(callback, ModelCheckpoint) and callback is not self
            if is_other and callback.dirpath in (None, self.dirpath):
                last = callback.CHECKPOINT_NAME_LAST if callback.save_last else ""
                if both := {"best", "last"} & {callback.filename, last}:
                    raise MisconfigurationException(
                        f"Expected `dirpath` of `{type(callback).__name__}` to be a folder of its "
                        f"own, but got {callback.dirpath}, where `BestAndLast` writes "
                        f"{both.pop()}.ckpt, too."
                    )

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a signal; the metrics of the saved step are logged by now."""
        self._stop_if_due()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write ``last.ckpt`` inside an epoch if it is due or a signal came."""
        # A checkpoint is complete only between optimizer steps; `on_train_epoch_end` saves after
        # the last batch.
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        n = self.every_n_train_steps
        is_due = n and trainer.global_step % n == 0 and not trainer.fast_dev_run  # type: ignore[attr-defined]
        self._is_stopping = self._signal.is_anywhere(trainer)
        if self._is_stopping or is_due:
            self._save_last(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``best.ckpt`` if the validated weights are the best."""
        is_fitting = trainer.state.fn == TrainerFn.FITTING
        if not is_fitting or trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert self.monitor is not None
        score = trainer.callback_metrics.get(self.monitor)
        if score is None:
            raise MisconfigurationException(
                f"Expected `monitor` of `BestAndLast` to be a metric that validation logs, but got "
                f"{self.monitor!r}. There are: {', '.join(sorted(trainer.callback_metrics))}."
            )
        best, self.current_score = self.best_model_score, score.detach().cpu()
        is_better = torch.lt if self.mode == "min" else torch.gt
        if not score.isnan() and (best is None or is_better(self.current_score, best)):
            self._set_best(self.current_score)
            # After an epoch's last batch, `on_train_epoch_end` saves once and links both names,
            # unless another hook may change the weights.
            self._is_due = trainer.is_last_batch and not _may_change(trainer, pl_module)
            if not self._is_due:
                self._save(trainer, self.best_model_path)
                self._notify_loggers(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``last.ckpt``, after ``best.ckpt``.

        Killed in between, a run repeats the epoch; in the opposite order it would lose its best.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self._is_due or self.best_model_score is None:  # The latter: never validated.
            self._is_due, self.best_model_path = False, self._path("best")
            self._save(trainer, self.best_model_path)
            self._save_last(trainer, is_best=True)
        else:
            self._save_last(trainer)
        self._is_stopping = self._signal.is_anywhere(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after a signal even if training is complete, since a test may follow."""
        self._signal.restore()
        self._stop_if_due()

    def _set_best(self, score: torch.Tensor) -> None:
        path = self._path("best")
        self.best_model_score = self.kth_value = score
        self.best_model_path = self.kth_best_model_path = path
        self.best_k_models = {path: score}

    def _save(self, trainer: Trainer, path: str) -> None:
        if trainer.is_global_zero and "://" not in path:
            with suppress(OSError):  # Lightning's own IO may write into a file of two names.
                if Path(path).stat().st_nlink > 1:
                    Path(path).unlink()
        trainer.save_checkpoint(path, self.save_weights_only)

    def _save_last(self, trainer: Trainer, is_best: bool = False) -> None:
        self.last_model_path = self._path("last")
        if is_best and _writes_files(trainer) and "://" not in self.last_model_path:
            if trainer.is_global_zero:  # 18 ms less than writing 8 MB: 3 % of a short epoch.
                _link(Path(self.best_model_path), Path(self.last_model_path))
            trainer.strategy.barrier("BestAndLast")
        else:
            self._save(trainer, self.last_model_path)
        self._notify_loggers(trainer)

    def _notify_loggers(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(proxy(self))

    @override
    def _find_last_checkpoints(self, trainer: Trainer) -> set[str]:
        # Lightning calls this for `ckpt_path="last"`. If nothing is found it only warns, and would
        # test or predict with random weights.
        found = super()._find_last_checkpoints(trainer)
        if trainer.state.fn == TrainerFn.FITTING:
            return found
        for other in trainer.checkpoint_callbacks:
            if isinstance(other, ModelCheckpoint):
                found = found or ModelCheckpoint._find_last_checkpoints(other, trainer)
        if not found:
            raise FileNotFoundError(
                'Expected a checkpoint for `ckpt_path="last"`, but there is no last.ckpt in '
                f"{self.dirpath or trainer.default_root_dir}."
            )
        return found

    def _stop_if_due(self) -> None:
        if self._is_stopping:
            number = self._signal.number or signal.SIGTERM  # None: another process got it.
            raise Interrupted(128 + number, Path(self.last_model_path))


def _writes_files(trainer: Trainer) -> bool:
    """Return whether checkpoints are files that exist as soon as they are saved."""
    return type(trainer.strategy.checkpoint_io) in (AtomicCheckpointIO, TorchCheckpointIO)


def _may_change(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Return whether a hook may change, or average, the weights when the epoch ends."""
    harmless = (ModelCheckpoint, EarlyStopping, ProgressBar, Timer)
    own = (LightningModule.on_train_epoch_end, FashionMNISTClassifier.on_train_epoch_end)
    return type(pl_module).on_train_epoch_end not in own or any(
        type(callback).on_train_epoch_end is not Callback.on_train_epoch_end
        and not isinstance(callback, harmless)
        for callback in trainer.callbacks  # type: ignore[attr-defined]
    )


def _link(file: Path, name: Path) -> None:
    """Link `name` to `file`, replacing `name` atomically."""
    with replacing(name) as new:
        try:
            os.link(file, new)
        except OSError:  # This file system has no hard links.
            shutil.copyfile(file, new)
