"""Checkpoints of a run: the best epoch's, and the last state."""

import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from fashion_lightning.atomic import replacing
from fashion_lightning.checks import expect
from fashion_lightning.signals import StopSignals


class Interrupted(SystemExit):
    """Ends a run that a signal stopped, after `checkpoint` was written.

    Its `code` is what shells expect, 128 and the signal's number.
    """

    def __init__(self, code: int, checkpoint: Path) -> None:
        super().__init__(code)
        self.checkpoint = checkpoint


class BestAndLast(Checkpoint):
    """Keeps ``last.ckpt``, of the last epoch, and ``best.ckpt``, of the lowest `val_loss` so far.

    An epoch that is the best is written once: ``last.ckpt`` is a second name (a hard link, where
    the file system has them) of what is ``best.ckpt``. Without validation, the last epoch is the
    best. Ctrl-C and SIGTERM end training after the running step, or after the running validation,
    with a ``last.ckpt`` that continues there.

    Args:
        dirpath: The folder. None: ``checkpoints`` in the trainer's `log_dir`.
        every_n_train_steps: Write ``last.ckpt`` after every so many optimizer steps, too, >= 1.

    Raises:
        ValueError: If `every_n_train_steps` is below 1.
        Interrupted: From the trainer's `fit`, if a signal ended it.
    """

    def __init__(
        self, dirpath: str | Path | None = None, *, every_n_train_steps: int | None = None
    ) -> None:
        expect(
            every_n_train_steps is None or every_n_train_steps >= 1,
            "every_n_train_steps",
            "an int >= 1",
            every_n_train_steps,
        )
        self.dirpath = dirpath
        self.every_n_train_steps = every_n_train_steps
        self.best_score = math.inf
        self.best_model_path = ""  # Trainer.test(ckpt_path="best") asks for it by this name.
        self._signals = StopSignals()
        self._stopping = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the folder, for all processes the first one's."""
        # All processes must ask for `log_dir`.
        folder = Path(self.dirpath or Path(trainer.log_dir or ".") / "checkpoints")
        folder, has_best = trainer.strategy.broadcast((folder, (folder / "best.ckpt").is_file()))
        self._best, self._last = folder / "best.ckpt", folder / "last.ckpt"
        self._has_best = has_best

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return what a continued run must know."""
        return {"best_score": self.best_score}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue; in a folder without ``best.ckpt``, the next epoch is the best."""
        if self._has_best:
            self.best_score = state_dict["best_score"]
            self.best_model_path = str(self._best)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to note signals."""
        self._stopping = False
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._signals.listen()

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
        # Only between two optimizer steps is all that counts in a checkpoint; and after an epoch's
        # last batch `on_train_epoch_end` follows.
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        n = self.every_n_train_steps
        is_due = n and trainer.global_step % n == 0 and not trainer.fast_dev_run  # type: ignore[attr-defined]
        self._stopping = self._received(trainer)
        if self._stopping or is_due:
            trainer.save_checkpoint(self._last, weights_only=False)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint of the epoch."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        # Without any validation, each epoch is the best. A run that was continued knows no loss
        # until it validates, but which one is to be beaten.
        loss, is_best = trainer.callback_metrics.get("val_loss"), math.isinf(self.best_score)
        if loss is not None:
            is_best = loss.item() < self.best_score
            self.best_score = min(self.best_score, loss.item())
        if is_best:
            self.best_model_path = str(self._best)
            # This one first: killed in between, the run continues from the epoch before and comes
            # here again. The other way round, the best epoch would be lost.
            trainer.save_checkpoint(self._best, weights_only=False)
            if trainer.is_global_zero:
                _link(self._best, self._last)
        else:
            trainer.save_checkpoint(self._last, weights_only=False)
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

    def _received(self, trainer: Trainer) -> bool:
        """Tell, the same for all processes, whether one of them got a signal."""
        received = self._signals.received is not None
        if trainer.world_size == 1:
            return received
        return trainer.strategy.reduce_boolean_decision(received, all=False)

    def _stop_if_due(self) -> None:
        if self._stopping:
            # A process that got no signal itself stops because of another's.
            raise Interrupted(128 + (self._signals.received or signal.SIGTERM), self._last)


def _link(file: Path, name: Path) -> None:
    """Give a file a second name, which may be another file's; at any moment there is one."""
    with replacing(name) as new:
        try:
            os.link(file, new)
        except OSError:  # This file system has no hard links.
            shutil.copyfile(file, new)
