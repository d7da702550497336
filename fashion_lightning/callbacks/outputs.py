"""Helpers of the writers: run folder, class names, samplers, checks of predictions."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torch.utils.data import Subset

from fashion_lightning.data.batches import ImageDataset
from fashion_lightning.data.files import default_names
from fashion_lightning.photos import Photos


def run_folder(trainer: Trainer) -> Path:
    """Return the folder of the trainer's run, the same in all processes.

    It is the folder in which `ModelCheckpoint` makes its own: the first logger's of this run, also
    with loggers whose `log_dir` is that of all runs (such as wandb's and MLflow's).
    """
    log_dir, root = trainer.log_dir, trainer.default_root_dir  # Reading `log_dir` broadcasts.
    logger = trainer.loggers[0] if trainer.loggers else None
    if logger is not None and not isinstance(logger, CSVLogger | TensorBoardLogger):
        version = "" if logger.version is None else logger.version
        version = version if isinstance(version, str) else f"version_{version}"
        log_dir = os.path.join(log_dir or root, str(logger.name or ""), version)  # noqa: PTH118 (URLs, too)
    return local(trainer.strategy.broadcast(log_dir) or root)


def local(path: str | Path) -> Path:
    """Return a path of this machine; refuse URLs."""
    if "://" in str(path):
        raise ValueError(f"Expected a folder or file of this machine, but got {path}.")
    return Path(path)


def check_output(path: Path, loaders: Any = None) -> None:
    """Refuse to write where nothing can be written, or over a photograph that is predicted.

    Raises:
        MisconfigurationException: Names the path and the reason.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    photos = getattr(getattr(_loader(loaders, 0), "dataset", None), "paths", [])
    reason = ""
    if path.is_dir():
        reason = "which is a folder"
    elif not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        reason = f"and {folder} is no folder that can be written"
    elif path.exists() and any(each.exists() and path.samefile(each) for each in photos):
        reason = "which is one of the photographs that are predicted"
    if reason:
        raise MisconfigurationException(f"Expected a file to write, but got {path}, {reason}.")


def names_of_classes(
    module: LightningModule, num_classes: int, loaders: Any = None, index: int = 0
) -> Sequence[str]:
    """Return a module's `class_names`, else its data's `classes`, else ``class 0``, ``class 1`` ...

    Args:
        module: Any module.
        num_classes: How many names are needed.
        loaders: The trainer's loaders. Data of this package has the names of FashionMNIST.
        index: Number of the loader.
    """
    dataset = getattr(_loader(loaders, index), "dataset", None)
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    ours = default_names(num_classes) if isinstance(dataset, ImageDataset | Photos) else None
    for names in (getattr(module, "class_names", None), getattr(dataset, "classes", None), ours):
        if isinstance(names, list | tuple) and len(names) == len({*names}) == num_classes:
            return [str(name) for name in names]
    return [f"class {label}" for label in range(num_classes)]


def sampler_of(loaders: Any, index: int) -> Any:
    """Return the sampler of one of a trainer's loaders, or None."""
    return getattr(_loader(loaders, index), "sampler", None)


def _loader(loaders: Any, index: int) -> Any:
    loaders = [*loaders.values()] if isinstance(loaders, dict) else loaders
    return loaders[index] if isinstance(loaders, list | tuple) else loaders


def check_probabilities(prediction: Any, writer: str) -> None:
    """Refuse a prediction that is not a tensor ``(N, C)`` of probabilities that sum to 1."""
    if isinstance(prediction, Tensor) and prediction.dim() == 2 and prediction.is_floating_point():
        sums = prediction.sum(dim=1)
        if bool(((prediction >= 0).all(dim=1) & ((sums - 1).abs() < 1e-2)).all()):
            return
        got = f"rows that sum to {sums.min():.4g} ... {sums.max():.4g}"
    elif isinstance(prediction, Tensor):
        got = f"a tensor {tuple(prediction.shape)} of {prediction.dtype}"
    else:
        got = type(prediction).__name__
    raise ValueError(
        "Expected `predict_step` to return probabilities (N, num_classes), such as "
        f"`logits.softmax(dim=1)`, which `{writer}` writes, but got {got}."
    )
