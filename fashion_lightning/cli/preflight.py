"""What the command refuses before a run begins, and Lightning would refuse later, or never."""

from copy import deepcopy
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    ModelCheckpoint,
    StochasticWeightAveraging,
)

from fashion_lightning import seeds
from fashion_lightning.arguments import expect
from fashion_lightning.callbacks import BestAndLast
from fashion_lightning.checkpoints.pretrained import resolve
from fashion_lightning.data.files import CLASSES
from fashion_lightning.datamodule import FashionMNISTDataModule
from fashion_lightning.module import FashionMNISTClassifier


def check_trainer_options(config: Namespace) -> None:
    """Refuse numbers that make no sense.

    Args:
        config: The options of the trainer.
    """
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval"):
        value = config[name]  # Lightning divides by it.
        expect(not isinstance(value, int | float) or value > 0, name, "> 0", value)
    for name in ("log_every_n_steps", "gradient_clip_val", "min_epochs", "min_steps"):
        expect((config[name] or 0) >= 0, name, ">= 0", config[name])
    sanity = config.num_sanity_val_steps
    expect(sanity is None or sanity >= -1, "num_sanity_val_steps", "an int >= -1", sanity)


def check_scores(model: FashionMNISTClassifier) -> None:
    """Refuse a network that does not score FashionMNIST, before anything is written."""
    classes = len(CLASSES)
    expect(model.num_classes == classes, "num_classes", f"{classes}", model.num_classes)
    right = f"one that turns images (N, 1, 28, 28) into logits (N, {classes})"
    copy = deepcopy(model).eval()  # Not a bit of the network itself may change.
    images = torch.zeros(1, 1, 28, 28)
    try:
        with torch.no_grad():
            logits = copy(images)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"Expected `network` to be {right}, but got: {error}") from error
    shape = tuple(getattr(logits, "shape", ()))
    expect(shape == (1, classes), "network", right, shape)


def check_batches(trainer: Trainer, datamodule: FashionMNISTDataModule) -> None:
    """Refuse what Lightning refuses when the run has begun, or even trained."""
    processes, size = trainer.world_size, datamodule.eval_batch_size
    batches = {
        "train": (60_000 - datamodule.val_size) // (datamodule.batch_size * processes),
        "val": _fewest(datamodule.val_size, size, processes),
        "test": _fewest(10_000, size, processes),
    }
    for stage, number in batches.items():
        name = f"limit_{stage}_batches"
        limit = getattr(trainer, name)
        right = f"0, or a fraction that leaves one of the {number} batches"
        expect(isinstance(limit, int) or not 0 < limit * number < 1, name, right, limit)
    # Lightning has no such attribute if the interval is a time.
    interval: Any = getattr(trainer, "val_check_interval", None)
    limit = trainer.limit_train_batches
    total = batches["train"]
    number = min(total, limit) if isinstance(limit, int) else int(total * limit)
    counts = isinstance(interval, int) and trainer.check_val_every_n_epoch is not None
    expect(
        not (counts and number and trainer.limit_val_batches) or interval <= number,
        "val_check_interval",
        f"at most the {number} training batches",
        interval,
    )


def _fewest(images: int, batch_size: int, processes: int) -> int:
    """Count the batches of the last process, which gets the fewest, if only an empty one."""
    begins = range((processes - 1) * batch_size, images, batch_size * processes)
    return max(1, len(begins)) if images else 0


def check_callbacks(
    trainer: Trainer, model: LightningModule, lr_scheduler: Namespace | None = None
) -> None:
    """Refuse callbacks, and a scheduler, that would end the run later, or do nothing.

    Args:
        trainer: It has all its callbacks.
        model: What will be trained.
        lr_scheduler: The configuration of a scheduler that is not the model's own.
    """
    validates = trainer.limit_val_batches != 0
    known = ["train_loss", "train_acc", "train_loss_step", "lr"]
    known += [f"val_{name}" for name in ("loss", "acc", "f1", "ece")] if validates else []
    options = lr_scheduler.get("init_args", {}) if lr_scheduler else {}
    if "monitor" in options:
        right, monitor = f"one of {', '.join(known)}", options["monitor"]
        expect(monitor in known, "lr_scheduler.monitor", right, monitor)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name = type(callback).__name__
        monitor = getattr(callback, "monitor", None)
        names = known
        if isinstance(callback, EarlyStopping) and not _checks_epochs(callback, trainer):
            names = [each for each in known if each.startswith("val_")]
        expect(
            monitor is None or monitor in names or isinstance(callback, BestAndLast),
            f"monitor` of `{name}",
            f"one of {', '.join(names)}",
            monitor,
        )
        backbone = isinstance(callback, BackboneFinetuning) and not hasattr(model, "backbone")
        expect(not backbone, "callbacks", f"without {name}, since the model has no backbone", name)
        expect(
            not isinstance(callback, StochasticWeightAveraging),
            "callbacks",
            "without StochasticWeightAveraging, whose averaged weights would be in no checkpoint "
            "(EMAWeightAveraging and WeightAveraging are kept)",
            name,
        )
        if isinstance(callback, ModelCheckpoint) and not isinstance(callback, BestAndLast):
            both = callback.save_last or callback.filename in ("best", "last")
            expect(
                callback.dirpath is not None or not both,
                f"dirpath` of `{name}",
                "a folder of its own, since best.ckpt and last.ckpt are kept in the run's",
                callback.dirpath,
            )


def _checks_epochs(callback: EarlyStopping, trainer: Trainer) -> bool:
    """Tell whether a callback looks at its metric after an epoch, and not after a validation."""
    if callback._check_on_train_epoch_end is not None:
        return callback._check_on_train_epoch_end
    interval = getattr(trainer, "val_check_interval", None)
    return interval == 1.0 and trainer.check_val_every_n_epoch == 1


def check_teacher(config: Namespace, datamodule: FashionMNISTDataModule) -> None:
    """Refuse a teacher that cannot be loaded, or would not be asked.

    Args:
        config: The options of the trainer.
        datamodule: Names the teacher.
    """
    teacher = datamodule.teacher
    if teacher is None:
        return
    path, right = resolve(teacher), "a checkpoint file, or pretrained:NAME"
    expect(path.is_file(), "teacher", right, teacher)
    classes = FashionMNISTClassifier.load_from_checkpoint(path).num_classes
    expect(classes == len(CLASSES), "teacher", f"of {len(CLASSES)} classes", classes)
    batches = config.overfit_batches
    expect(not batches, "overfit_batches", "0 with `teacher`", batches)


def check_seeds(config: Namespace, trainer: Trainer, continues: bool = False) -> None:
    """Refuse several runs where one would be fine.

    Args:
        config: The options of `fit`.
        trainer: That of the first run.
        continues: Whether the runs belong to a series that was begun before.
    """
    number, seed = config.seeds, config.seed_everything
    expect(number >= 1, "seeds", "an int >= 1", number)
    if number == 1:
        expect(config.compare_to is None, "compare_to", "given with `seeds`", config.compare_to)
        return
    right = "absent with `seeds`, or last, which continues them"
    expect(continues or config.ckpt_path is None, "ckpt_path", right, config.ckpt_path)
    expect(config.test_after_fit, "test_after_fit", "true with `seeds`", False)
    expect(not config.trainer.fast_dev_run, "fast_dev_run", "absent with `seeds`", True)
    checkpoints, tests = config.trainer.enable_checkpointing, trainer.limit_test_batches
    expect(checkpoints is not False, "enable_checkpointing", "true with `seeds`", checkpoints)
    expect(tests != 0, "limit_test_batches", "more than 0 with `seeds`", tests)
    expect(trainer.world_size == 1, "seeds", f"1 with {trainer.world_size} processes", number)
    expect(seed is not False, "seed_everything", "an int with `seeds`", seed)
    expect(seed + number <= 2**32, "seeds", f"at most {2**32 - seed}", number)
    if config.compare_to:
        known = seeds.read_summary(config.compare_to)["seeds"]
        both = {*known} & {*range(seed, seed + number)}
        right = f"a summary with two of the seeds {seed} ... {seed + number - 1}"
        expect(len(both) >= 2, "compare_to", right, known)
