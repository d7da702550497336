"""The command's Trainer: Lightning's with `export`, and what it gets beside its own options."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar, Timer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from fashion_lightning.callbacks import BestAndLast, PreviewWriter, ReportWriter
from fashion_lightning.checkpoints.atomic_io import AtomicCheckpointIO
from fashion_lightning.checkpoints.reading import read_checkpoint
from fashion_lightning.cli.output import EpochBar, EpochLines
from fashion_lightning.cli.run import Run, is_first_process
from fashion_lightning.datamodule import FashionMNISTDataModule
from fashion_lightning.module import FashionMNISTClassifier
from fashion_lightning.report.curves import keep_curves
from fashion_lightning.speed import NoProfiler


class ExportingTrainer(Trainer):
    """A Trainer that also exports; `fashion-lightning export` is its method `export`."""

    @rank_zero_only
    def export(
        self,
        model: FashionMNISTClassifier,
        datamodule: FashionMNISTDataModule,
        ckpt_path: str | Path | None = None,
        format: Literal["onnx", "torch_export", "safetensors", "tutorial"] = "onnx",
        output: str | Path | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write a checkpoint's network to a file that works without this package.

        The file is read again by another runtime and compared with the checkpoint on the 10,000
        test images before it gets its name.

        Args:
            model: What the checkpoint's weights are loaded into.
            datamodule: Serves the test images.
            ckpt_path: The checkpoint. The command also takes ``best`` and ``last``. None: the model
                is exported as it is.
            format: ``onnx``, ``torch_export`` (a ``.pt2`` file), ``safetensors``, or ``tutorial``
                (a ``model.pth`` for the class of PyTorch's tutorial).
            output: The file. None: ``model`` with the format's ending, in the run's folder.
            overwrite: Whether a file of that name may be replaced.
        """
        from fashion_lightning.export import FORMATS, export  # Nothing else needs it.

        path = Path(output or Path(self.default_root_dir) / f"model{FORMATS[format].ending}")
        split = None
        if ckpt_path:
            content = read_checkpoint(ckpt_path)
            model.load_state_dict(content["state_dict"])
            split = content.get(type(datamodule).__qualname__)
        datamodule.prepare_data()
        datamodule.setup("test")
        images = torch.cat([images for images, _ in datamodule.test_dataloader()])
        parity = export(model, images, path, format=format, overwrite=overwrite, split=split)
        rank_zero_info(str(parity._replace(name=str(path))))


def trainer_arguments(
    command: str, config: Namespace, run: Run, datamodule: FashionMNISTDataModule
) -> dict[str, Any]:
    """Return what the trainer gets beside its own options, with all of its files in `run`."""
    options = config.trainer
    fits, trial = command == "fit", bool(options.fast_dev_run)
    callbacks, plugins = _as_list(options.callbacks), _as_list(options.plugins)
    arguments: dict[str, Any] = {
        "default_root_dir": str(run.folder),
        "enable_model_summary": False,  # `before_fit` prints one.
        "callbacks": callbacks,
        "plugins": plugins,
    }
    if datamodule.val_size == 0:
        arguments["limit_val_batches"] = 0
    if command == "test":
        callbacks.append(ReportWriter(run.folder))
    if command == "predict" and config.preview:
        callbacks.append(PreviewWriter(config.preview))
    if not _has(plugins, CheckpointIO):
        plugins.append(AtomicCheckpointIO())
    if options.barebones:  # Nothing but the steps.
        return arguments
    if fits and not options.max_time and not _has(callbacks, Timer):  # `max_time` brings its own.
        callbacks.append(Timer())
    if fits and not trial and options.enable_checkpointing is not False:
        n = config.every_n_train_steps
        callbacks.append(BestAndLast(run.checkpoints, every_n_train_steps=n))
    if options.enable_progress_bar is not False and not _has(callbacks, ProgressBar):
        if sys.stdout.isatty():
            callbacks.append(EpochBar())
        elif options.enable_progress_bar is None:
            callbacks.append(EpochLines())
            arguments["enable_progress_bar"] = False
    if options.profiler is None:
        arguments["profiler"] = NoProfiler()
    if options.logger in (None, True):
        # Training writes curves, which the other commands must not touch. In a trial run,
        # Lightning replaces any logger by one that writes nothing.
        arguments["logger"] = fits and (CSVLogger(run.folder) if trial else _loggers(run))
    return arguments


def _as_list(value: Any) -> list[Any]:
    """Return as a new list what the Trainer takes as one, as several or as None."""
    if value is None:
        return []
    return [*value] if isinstance(value, list) else [value]


def _has(parts: list[Any], kind: type) -> bool:
    return any(isinstance(part, kind) for part in parts)


def _loggers(run: Run) -> list[Logger]:
    """Return a CSV logger, and one for TensorBoard where that is installed."""
    if is_first_process():
        keep_curves(run.folder)  # of a run that is continued: `CSVLogger` would delete them
    loggers: list[Logger] = [CSVLogger(run.folder, name="", version="")]
    if find_spec("tensorboard"):
        loggers.append(TensorBoardLogger(run.folder, name="", version=""))
    return loggers
