"""The command's entry: set up the process, then build and run the LightningCLI."""

import os
import sys
import warnings
from collections.abc import Sequence

from fashion_lightning.cli.app import FashionLightningCLI
from fashion_lightning.cli.demo import demo
from fashion_lightning.cli.output import leave_out_notices
from fashion_lightning.cli.parser import Parser, named_classes
from fashion_lightning.cli.several_seeds import Series, train_others
from fashion_lightning.cli.trainer import ExportingTrainer
from fashion_lightning.datamodule import FashionMNISTDataModule
from fashion_lightning.module import FashionMNISTClassifier
from fashion_lightning.speed import tune_process

# Warnings of Lightning 2.6 about which a user of the command can do nothing.
_WARNINGS = (
    # Lightning calls what PyTorch deprecates (seen with 2.14).
    ".*isinstance.treespec, LeafSpec.* is deprecated",
    # The summary assumes 32 bits per parameter, which is right for bf16-mixed.
    "Precision bf16-mixed is not supported by the model summary",
    # Images in memory are served fastest without worker processes.
    "The '.*_dataloader' does not have many workers which may be a bottleneck",
    # `CSVLogger` of a continued run, whose earlier curves have been renamed.
    r"Experiment logs directory .* exists and is not empty",
    # `--optimizer` is there to override the module's.
    ".*configure_optimizers` will be overridden by",
    # Callbacks of `fit` whose state other commands do not need.
    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    # `main([...])` in a program that has arguments of its own.
    "LightningCLI's args parameter is intended to run from within Python",
)


def main(args: Sequence[str] | None = None) -> None:
    """Run ``fashion-lightning`` with these arguments; None: with those of `sys.argv`."""
    tune_process()
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message)
    leave_out_notices()
    arguments = sys.argv[1:] if args is None else [*args]
    if arguments[:1] == ["demo"]:
        demo(arguments[1:])
        return
    cli = _run(arguments)
    if cli.series:
        try:
            train_others(cli.series, arguments, _run, cli.config.fit.compare_to)
        except OSError as error:
            cli.parser.exit(1, f"\nerror: {error}\n")


def _devices() -> int | str:
    """Return one device, since more multiply the batch, or those that a launcher has counted."""
    return "auto" if {"WORLD_SIZE", "SLURM_NTASKS"} & {*os.environ} else 1


def _run(args: list[str], series: Series | None = None) -> FashionLightningCLI:
    named = named_classes(args)  # by a config file
    return FashionLightningCLI(
        named.get("model", FashionMNISTClassifier),
        named.get("data", FashionMNISTDataModule),
        subclass_mode_model="model" in named,
        subclass_mode_data="data" in named,
        seed_everything_default=0,
        trainer_class=ExportingTrainer,
        trainer_defaults={"max_epochs": 14, "devices": _devices()},
        save_config_callback=None,  # `before_fit` writes a run's config.yaml.
        parser_class=Parser,
        args=args,
        series=series,
    )
