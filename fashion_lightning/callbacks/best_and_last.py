"""Checkpoints of a run: the best validated weights, and the last state."""

import math
import os
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any
from weakref import proxy

import torch
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

from fashion_lightning.arguments import expect
from fashion_lightning.atomic import replacing
from fashion_lightning.callbacks.signals import StopSignals
from fashion_lightning.checkpoints.atomic_io import AtomicCheckpointIO
from fashion_lightning.module import FashionMNISTClassifier


class Interrupted(SystemExit):
    """Ends a run that a signal stopped, after `checkpoint` was written.

    Its `code` is what shells expect, 128 and the signal's number.
    """

    def __init__(self, code: int, checkpoint: Path) -> None:
        super().__init__(code)
        self.checkpoint = checkpoint


class BestAndLast(ModelCheckpoint):
    """A `ModelCheckpoint` that keeps ``best.ckpt`` and ``last.ckpt``, and ends runs with care.

    ``best.ckpt`` holds the weights whose validation was the best, also inside an epoch. Until there
    is a validation, the latest epoch is the best. ``last.ckpt`` is the state after the latest
    epoch; Lightning's own writes it only when it also writes another checkpoint. An epoch that is
    the best is written once: ``last.ckpt`` is a second name (a hard link, where the file system has
    them) of what is ``best.ckpt``.

    Ctrl-C and SIGTERM end training after the running step, or after the running validation, with a
    ``last.ckpt`` that continues there.

    Args:
        dirpath: The folder. None: where `ModelCheckpoint` writes, ``checkpoints`` in the run's
            folder of the first logger, or in the trainer's `default_root_dir`.
        monitor: The metric that says which weights are the best. Each validation must log it.
        mode: ``min`` or ``max``: whether a low or a high one is good.
        every_n_train_steps: Write ``last.ckpt`` after every so many optimizer steps, too, >= 1.

    Raises:
        MisconfigurationException: When training begins, if another callback would write files of
            these names into the same folder, or average weights after the last was written; after
            a validation that has not logged `monitor`.
        ValueError: If `every_n_train_steps` is below 1.
        Interrupted: From the trainer's `fit`, if a signal ended it.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        *,
        monitor: str = "val_loss",
        mode: str = "min",
        every_n_train_steps: int | None = None,
    ) -> None:
        expect(
            every_n_train_steps is None or every_n_train_steps >= 1,
            "every_n_train_steps",
            "an int >= 1",
            every_n_train_steps,
        )
        self._trains = False
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
        self._signals = StopSignals()
        self._stopping = self._trains = self._has_best = False
        self._is_due = False  # The latest validation was the best, and is not saved yet.

    @property
    def best_model_path(self) -> str:
        """Path of the best checkpoint; before a fit, of that which is in the folder."""
        path = self._path("best")
        there = self.dirpath and not self._trains and self._fs.exists(path)
        return self._best_model_path or (path if there else "")

    @best_model_path.setter
    def best_model_path(self, path: str) -> None:
        self._best_model_path = path

    @property
    @override
    def state_key(self) -> str:
        """Return under which name checkpoints keep the state."""
        if (self.monitor, self.mode) == ("val_loss", "min"):
            return type(self).__qualname__
        return self._generate_state_key(monitor=self.monitor, mode=self.mode)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the folder, for all processes the first one's."""
        with warnings.catch_warnings():  # These files are meant to be replaced.
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            super().setup(trainer, pl_module, stage)
        self._is_due, self._trains = False, stage == "fit"

    def _path(self, name: str) -> str:
        return os.path.join(self.dirpath or "", f"{name}{self.FILE_EXTENSION}")  # noqa: PTH118 (URLs, too)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return what a continued run must know; paths are not part of it."""
        score = self.best_model_score
        return {
            "monitor": self.monitor,
            "mode": self.mode,
            "best_model_score": None if score is None else float(score),
        }

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Look whether the best of the run that is continued is here, and not another's."""
        path = self._path("best")
        beside = os.path.dirname(str(trainer.ckpt_path)) or "."  # noqa: PTH120 (URLs, too)
        if "://" not in path:
            beside = os.path.realpath(beside)
        has_best = beside == self.dirpath and self._fs.exists(path)
        self._has_best = trainer.strategy.broadcast(has_best)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue; in a folder without its ``best.ckpt``, the next validation is the best."""
        # Version 0.1.0 called it `best_score`, infinite before the first validation.
        score = state_dict.get("best_model_score", state_dict.get("best_score"))
        if self._has_best and score is not None and math.isfinite(score):
            self._note_best(torch.tensor(score))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be; begin to note signals."""
        super().on_train_start(trainer, pl_module)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if callback is not self:
                self._refuse(callback)
        self._stopping = False
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._signals.listen()

    def _refuse(self, callback: Any) -> None:
        if isinstance(callback, StochasticWeightAveraging):
            raise MisconfigurationException(
                "Expected no `StochasticWeightAveraging` beside `BestAndLast`, since its averaged "
                "weights would be in no checkpoint; use `EMAWeightAveraging` or `WeightAveraging`."
            )
        if isinstance(callback, ModelCheckpoint) and callback.dirpath == self.dirpath:
            last = callback.CHECKPOINT_NAME_LAST if callback.save_last else ""
            names = {callback.filename or "", last}
            both = sorted(names & {"best", self.CHECKPOINT_NAME_LAST})
            if both:
                raise MisconfigurationException(
                    f"Expected `dirpath` of `{type(callback).__name__}` to be a folder of its own, "
                    f"but got {callback.dirpath}, where `BestAndLast` writes {both[0]}.ckpt, too."
                )

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop here, after what was saved has also been logged."""
        self._stop_if_due()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint inside an epoch, if it is time or a signal came."""
        # A checkpoint is complete only between optimizer steps. After the last batch of an epoch
        # `on_train_epoch_end` follows.
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        n = self.every_n_train_steps
        is_due = n and trainer.global_step % n == 0 and not trainer.fast_dev_run  # type: ignore[attr-defined]
        self._stopping = self._received(trainer)
        if self._stopping or is_due:
            self._save_last(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights that were validated, if they are the best."""
        if (
            trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or trainer.fast_dev_run  # type: ignore[attr-defined]
        ):
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
        if score.isnan() or (best is not None and not is_better(self.current_score, best)):
            return
        self._note_best(self.current_score)
        # After an epoch's last batch, weights that nobody changes stay as they are until
        # `on_train_epoch_end`. Then the epoch is complete, and one file serves as best and last.
        self._is_due = trainer.is_last_batch and not _may_change(trainer, pl_module)
        if not self._is_due:
            self._save_checkpoint(trainer, self.best_model_path)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint of the epoch."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self._is_due or self.best_model_score is None:  # The latter: never validated.
            self._is_due, self.best_model_path = False, self._path("best")
            # This one first: killed in between, the run continues from the epoch before and comes
            # here again. The other way round, the best epoch would be lost.
            trainer.save_checkpoint(self.best_model_path, self.save_weights_only)
            self._name_last(trainer)
        else:
            self._save_last(trainer)
        self._stopping = self._received(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the signals alone; stop also when training is complete, since tests may follow."""
        self._signals.ignore()
        self._stop_if_due()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the signals alone."""
        self._signals.ignore()

    def _note_best(self, score: torch.Tensor) -> None:
        path = self._path("best")
        self.best_model_score = self.kth_value = score
        self.best_model_path = self.kth_best_model_path = path
        self.best_k_models = {path: score}

    def _save_last(self, trainer: Trainer) -> None:
        self.last_model_path = self._path(self.CHECKPOINT_NAME_LAST)
        self._save_checkpoint(trainer, self.last_model_path)

    def _name_last(self, trainer: Trainer) -> None:
        """Give what was just written as the best a second name, then tell the loggers of both."""
        best, last = Path(self.best_model_path), Path(self._path(self.CHECKPOINT_NAME_LAST))
        # Other plugins may write later, elsewhere, or a folder.
        links = type(trainer.strategy.checkpoint_io) in (AtomicCheckpointIO, TorchCheckpointIO)
        links = links and "://" not in self.best_model_path
        if not trainer.strategy.broadcast(links and best.is_file()):
            self._save_last(trainer)
            return
        self.last_model_path = self._last_checkpoint_saved = str(last)
        self._last_global_step_saved = trainer.global_step
        if trainer.is_global_zero:
            _link(best, last)
            for logger in trainer.loggers:
                logger.after_save_checkpoint(proxy(self))
        trainer.strategy.barrier("BestAndLast")

    @override
    def _find_last_checkpoints(self, trainer: Trainer) -> set[str]:
        # Lightning asks this for `ckpt_path="last"`. If there is none, it would go on with whatever
        # weights the module has.
        found = super()._find_last_checkpoints(trainer)
        others = [
            each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)
        ]
        for other in others:
            found = found or ModelCheckpoint._find_last_checkpoints(other, trainer)
        if not found and trainer.state.fn != TrainerFn.FITTING:
            raise FileNotFoundError(
                'Expected a checkpoint for `ckpt_path="last"`, but there is no last.ckpt in '
                f"{self.dirpath or trainer.default_root_dir}."
            )
        return found

    def _received(self, trainer: Trainer) -> bool:
        """Tell, the same for all processes, whether one of them got a signal."""
        received = self._signals.received is not None
        if trainer.world_size == 1:
            return received
        return trainer.strategy.reduce_boolean_decision(received, all=False)

    def _stop_if_due(self) -> None:
        if self._stopping:
            # A process that got no signal itself stops because of another's.
            number = self._signals.received or signal.SIGTERM
            raise Interrupted(128 + number, Path(self.last_model_path))


def _may_change(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Tell whether somebody may change, or average, weights after the last batch of an epoch."""
    harmless = (ModelCheckpoint, EarlyStopping, ProgressBar, Timer)
    own = (LightningModule.on_train_epoch_end, FashionMNISTClassifier.on_train_epoch_end)
    return type(pl_module).on_train_epoch_end not in own or any(
        type(callback).on_train_epoch_end is not Callback.on_train_epoch_end
        and not isinstance(callback, harmless)
        for callback in trainer.callbacks  # type: ignore[attr-defined]
    )


def _link(file: Path, name: Path) -> None:
    """Give a file a second name, which may be another file's; at any moment there is one."""
    with replacing(name) as new:
        try:
            os.link(file, new)
        except OSError:  # This file system has no hard links.
            shutil.copyfile(file, new)
