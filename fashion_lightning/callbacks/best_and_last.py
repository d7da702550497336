"""Checkpoints of a run: the last epoch's, and the best one's."""

import os
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override


class BestAndLast(Checkpoint):
    """Keeps ``last.ckpt``, of the last epoch, and ``best.ckpt``, of the lowest `val_loss` so far.

    Each epoch is written once: the best one's file is a second name (a hard link, where the file
    system has them) of what was the last one's. Without validation, the last epoch is the best.

    Args:
        dirpath: The folder. None: ``checkpoints`` in the trainer's `log_dir`.
    """

    def __init__(self, dirpath: str | Path | None = None) -> None:
        self.dirpath = dirpath
        self.best_score: float | None = None
        self.best_model_path = ""  # Trainer.test(ckpt_path="best") asks for it by this name.

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the folder; all processes must ask for `log_dir`."""
        self._folder = Path(self.dirpath or Path(trainer.log_dir or ".") / "checkpoints")

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return what a continued run must know."""
        return {"best_score": self.best_score}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue."""
        self.best_score = state_dict["best_score"]

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint of the epoch."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        score = trainer.callback_metrics.get("val_loss")
        is_best = score is None or self.best_score is None or score.item() < self.best_score
        if is_best:
            self.best_score = None if score is None else score.item()
        last = self._folder / "last.ckpt"
        trainer.save_checkpoint(last)
        if is_best:
            self.best_model_path = str(self._folder / "best.ckpt")
            if trainer.is_global_zero:
                _link(last, Path(self.best_model_path))


def _link(file: Path, name: Path) -> None:
    """Give a file a second name, which may be another file's; at any moment there is one."""
    temporary = name.with_name(f".{name.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        os.link(file, temporary)
    except OSError:  # This file system has no hard links.
        shutil.copyfile(file, temporary)
    temporary.replace(name)
