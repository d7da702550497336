"""What the command refuses before a run begins, and Lightning would refuse later, or never.

Syntax and types are refused by `parser.py`, checkpoints by `app.py`, single arguments by the
constructors, and what `--seeds` cannot do by `several_seeds.py`. `app.py` calls these functions in
their order; the last two need a trainer, which has a folder by then: it is removed again.
"""

from copy import deepcopy
from inspect import signature
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, EarlyStopping

from fashion_lightning.arguments import expect
from fashion_lightning.callbacks import BestAndLast
from fashion_lightning.checkpoints.pretrained import resolve
from fashion_lightning.data.files import CLASSES, NUM_TEST, NUM_TRAIN
from fashion_lightning.data.sampling import count_batches
from fashion_lightning.datamodule import FashionMNISTDataModule
from fashion_lightning.module import FashionMNISTClassifier
from fashion_lightning.training.metrics import METRICS


def check_config(command: str, config: Namespace) -> None:
    """Refuse options of a subcommand that contradict each other, before anything is built."""
    for name in ("model", "data", "trainer"):
        expect(isinstance(config[name], Namespace), name, "a mapping", config[name])
    seed = config.seed_everything
    expect(0 <= seed < 2**32, "seed_everything", f"an int in 0 ... {2**32 - 1}", seed)
    if config.get("lr_scheduler"):
        expected = "given together with `optimizer`, since the model's own follows `warmup`"
        scheduler = config.lr_scheduler.class_path
        expect(bool(config.get("optimizer")), "lr_scheduler", expected, scheduler)
    if command == "fit":
        _check_effects(config)
    if command == "predict" and config.preview is not None:
        is_given = config.data.images is not None
        expect(is_given, "preview", "given together with `images`", config.preview)


def reworded(message: str) -> str:
    """Return a refusal of PyTorch or Lightning with the remedy, if this package has one."""
    if message.startswith("Muon only supports 2D"):
        return (
            "Expected `optimizer` to be replaced by `--model.optimizer muon` where a network has "
            "more than matrices, but got torch.optim.Muon, which takes no other weights."
        )
    return message


def _check_effects(config: Namespace) -> None:
    """Refuse options of `fit` that others would leave without effect."""
    defaults, model = signature(FashionMNISTClassifier).parameters, config.model
    names, reason = [], ""
    if config.get("optimizer"):
        names, reason = ["optimizer", "lr", "weight_decay", "beta2", "warmup"], "`--optimizer`"
    elif "class_path" not in model and model.optimizer == "sgd":
        names, reason = ["beta2"], "`model.optimizer` sgd"
    for name in () if "class_path" in model else names:
        default = defaults[name].default
        expected = f"left out with {reason}, which does not use it"
        expect(model[name] == default, f"model.{name}", expected, model[name])
    options, steps = config.trainer, config.every_n_train_steps
    is_written = options.enable_checkpointing is not False and not options.barebones
    expected = "left out where no checkpoint is written"
    expect(is_written or steps is None, "every_n_train_steps", expected, steps)
    is_half = str(options.precision) == "16-true"
    expected = "16-mixed or of a wider type, since weights in 16 bits do not train"
    expect(not is_half, "precision", expected, options.precision)


def check_parts(
    command: str,
    options: Namespace,
    model: LightningModule,
    datamodule: FashionMNISTDataModule,
) -> None:
    """Refuse what needs no trainer (but its options) to be found, before the run has a folder."""
    if isinstance(model, FashionMNISTClassifier):
        _check_scores(model)
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval"):
        value = options[name]  # Lightning divides by it.
        expect(not isinstance(value, int | float) or value > 0, name, "> 0", value)
    for name in ("log_every_n_steps", "gradient_clip_val", "min_epochs", "min_steps"):
        expect((options[name] or 0) >= 0, name, ">= 0", options[name])
    sanity = options.num_sanity_val_steps
    expect(sanity is None or sanity >= -1, "num_sanity_val_steps", "an int >= -1", sanity)
    callbacks = options.callbacks if isinstance(options.callbacks, list) else [options.callbacks]
    is_doubled = any(isinstance(callback, BestAndLast) for callback in callbacks)
    expected = "without BestAndLast, which `fit` has anyway (with `--every_n_train_steps`)"
    expect(not is_doubled, "callbacks", expected, "BestAndLast")
    if command == "fit" and datamodule.teacher is not None:
        teacher = str(datamodule.teacher)
        path, classes = resolve(teacher), len(CLASSES)
        expect(path.is_file(), "teacher", "a checkpoint file, or pretrained:NAME", teacher)
        theirs = FashionMNISTClassifier.load_from_checkpoint(path).num_classes
        expect(theirs == classes, "teacher", f"of {classes} classes", theirs)
        batches = options.overfit_batches
        expect(not batches, "overfit_batches", "0 with `teacher`", batches)


def _check_scores(model: FashionMNISTClassifier) -> None:
    """Refuse a network that does not score FashionMNIST."""
    classes = len(CLASSES)
    expect(model.num_classes == classes, "num_classes", f"{classes}", model.num_classes)
    expected = f"one that turns images (N, 1, 28, 28) into logits (N, {classes})"
    copy = deepcopy(model).eval()  # Lazy layers and running means of the network stay as they are.
    try:
        with torch.no_grad():
            logits = copy(torch.zeros(1, 1, 28, 28))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"Expected `network` to be {expected}, but got: {error}") from error
    shape = tuple(getattr(logits, "shape", ()))
    expect(shape == (1, classes), "network", expected, shape)


def check_batches(trainer: Trainer, datamodule: FashionMNISTDataModule) -> None:
    """Refuse what Lightning would refuse only during the run, or even after training."""
    num_train, processes = NUM_TRAIN - datamodule.val_size, trainer.world_size
    size = datamodule.eval_batch_size
    batches = {
        "train": count_batches(num_train, datamodule.batch_size, processes, drop_last=True),
        "val": count_batches(datamodule.val_size, size, processes),
        "test": count_batches(NUM_TEST, size, processes),
    }
    for stage, number in batches.items():
        name = f"limit_{stage}_batches"
        limit = getattr(trainer, name)
        expected = f"0, or a fraction that leaves one of the {number} batches"
        expect(isinstance(limit, int) or not 0 < limit * number < 1, name, expected, limit)
    # Lightning has no such attribute if the interval is a time.
    interval: Any = getattr(trainer, "val_check_interval", None)
    limit, total = trainer.limit_train_batches, batches["train"]
    number = min(total, limit) if isinstance(limit, int) else int(total * limit)
    counts = isinstance(interval, int) and trainer.check_val_every_n_epoch is not None
    if counts and number and trainer.limit_val_batches:
        expected = f"at most the {number} training batches"
        expect(interval <= number, "val_check_interval", expected, interval)


def check_callbacks(
    trainer: Trainer, model: LightningModule, lr_scheduler: Namespace | None
) -> None:
    """Refuse callbacks, and a scheduler, that would end the run later, or do nothing."""
    metrics = ["train_loss", "train_acc", "train_loss_step", "lr"]
    if trainer.limit_val_batches != 0:
        metrics += [f"val_{name}" for name in METRICS]
    options = lr_scheduler.get("init_args", {}) if lr_scheduler else {}
    if "monitor" in options:
        expected, monitor = f"one of {', '.join(metrics)}", options["monitor"]
        expect(monitor in metrics, "lr_scheduler.monitor", expected, monitor)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, BestAndLast):
            callback.refuse_conflicts(trainer)
        else:
            _check_callback(callback, trainer, model, metrics)


def _check_callback(
    callback: Any, trainer: Trainer, model: LightningModule, metrics: list[str]
) -> None:
    name, monitor = type(callback).__name__, getattr(callback, "monitor", None)
    if isinstance(callback, EarlyStopping) and not _checks_epochs(callback, trainer):
        metrics = [metric for metric in metrics if metric.startswith("val_")]
    if monitor is not None:
        expect(monitor in metrics, f"monitor` of `{name}", f"one of {', '.join(metrics)}", monitor)
    if isinstance(callback, BackboneFinetuning):
        expected = f"without {name}, since the model has no backbone"
        expect(hasattr(model, "backbone"), "callbacks", expected, name)


def _checks_epochs(callback: EarlyStopping, trainer: Trainer) -> bool:
    """Return whether a callback looks at its metric after an epoch, not after a validation."""
    # Undocumented, but only Lightning's default is decided below.
    if callback._check_on_train_epoch_end is not None:
        return callback._check_on_train_epoch_end
    interval = getattr(trainer, "val_check_interval", None)
    return interval == 1.0 and trainer.check_val_every_n_epoch == 1
