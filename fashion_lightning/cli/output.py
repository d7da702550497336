"""What the command prints: layers, a bar or lines for log files, results, and no notices."""

import logging
import re
from collections.abc import Mapping
from time import monotonic
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from fashion_lightning.callbacks import SteadyProgressBar

# Advertisements, and notices about hardware that is not there or about what was asked for.
_NOTICES = re.compile(
    "(GPU|TPU|HPU) available: False|💡|Seed set to|Restoring states|Loaded model weights"
    "|Restored all states|`Trainer.fit` stopped: `max_epochs|You are using a CUDA device"
)


def leave_out_notices() -> None:
    """Keep Lightning's notices out of this process's log."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).addFilter(_is_worth_reading)


def _is_worth_reading(record: logging.LogRecord) -> bool:
    return not _NOTICES.match(record.getMessage())


def results(metrics: Mapping[str, Any]) -> str:
    """Return a table of metrics: losses with four digits, fractions in percent."""
    lines = []
    for name in sorted(metrics):
        value = float(metrics[name])
        text = f"{value:8.4f}" if "loss" in name else f"{100 * value:8.2f} %"
        lines.append(f"  {name:<12}{text}")
    return "\n".join(lines)


class Layers(ModelSummary):
    """Lightning's table of layers without modes and FLOPs: it fits in 100 columns."""

    @staticmethod
    @override
    def summarize(
        summary_data: Any, total_parameters: int, trainable_parameters: int, *_: Any, **__: Any
    ) -> None:
        """Log the table and the number of parameters."""
        columns = [[name.strip(), *cells] for name, cells in summary_data]
        columns = [column for column in columns if column[0] not in ("", "Mode", "FLOPs")]
        widths = [max(map(len, column)) for column in columns]
        rows = [map(str.ljust, row, widths) for row in zip(*columns, strict=True)]
        lines = ["  ".join(["", *row]).rstrip() for row in rows]
        sizes = f"  {total_parameters:,} parameters, of which {trainable_parameters:,} are trained"
        rank_zero_info("\n".join(["", *lines, sizes, ""]))


def _epoch(trainer: Trainer) -> str:
    """Return which epoch this is, such as "Epoch 1 of 14"."""
    epochs = "" if (trainer.max_epochs or -1) < 0 else f" of {trainer.max_epochs}"
    return f"Epoch {trainer.current_epoch + 1}{epochs}"


class EpochBar(SteadyProgressBar):
    """Names epochs as `EpochLines` does; Lightning counts them from 0."""

    @override
    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(_epoch(trainer))


class EpochLines(Callback):
    """Logs one line per epoch, where a progress bar would fill a file with carriage returns."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = monotonic()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = trainer.callback_metrics
        names = [name for name in ("train_loss_step", "val_loss", "val_acc") if name in metrics]
        values = ", ".join(results({name: metrics[name]}).strip() for name in names)
        values = " ".join(values.split())
        seconds = monotonic() - self._began
        rank_zero_info(f"{_epoch(trainer)}: {values} ({seconds:.1f} s)")
