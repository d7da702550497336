"""What `fashion-lightning` does: set up the process, then run the CLI once for each seed."""

import json
import sys
import warnings
from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_info

from fashion_lightning import __version__, seeds
from fashion_lightning.cli.app import FashionLightningCLI
from fashion_lightning.cli.parser import Parser
from fashion_lightning.cli.run import Series
from fashion_lightning.cli.trainer import ExportingTrainer
from fashion_lightning.datamodule import FashionMNISTDataModule
from fashion_lightning.module import FashionMNISTClassifier
from fashion_lightning.speed import tune_process


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        args: What stands after ``fashion-lightning``. None: `sys.argv`.
    """
    tune_process()
    # What Lightning says here is its own business, or meant for people who build a Trainer.
    for message in (
        ".*isinstance.treespec, LeafSpec.* is deprecated",
        "Precision bf16-mixed is not supported by the model summary",
        r"Experiment logs directory .* exists and is not empty",
        ".*configure_optimizers` will be overridden by",
        "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
        "LightningCLI's args parameter is intended to run from within Python",
    ):
        warnings.filterwarnings("ignore", message)
    words = sys.argv[1:] if args is None else [*args]
    cli = _run(words)
    if cli.subcommand == "fit" and cli.config.fit.seeds > 1:
        _train_other_seeds(cli, words)


def _run(words: list[str], series: Series | None = None) -> FashionLightningCLI:
    return FashionLightningCLI(
        FashionMNISTClassifier,
        FashionMNISTDataModule,
        seed_everything_default=0,
        trainer_class=ExportingTrainer,
        trainer_defaults={"max_epochs": 14},
        save_config_callback=None,  # `before_fit` does it.
        parser_class=Parser,
        parser_kwargs={"prog": "fashion-lightning", "version": __version__},
        args=words,
        series=series,
    )


def _train_other_seeds(first: FashionLightningCLI, words: list[str]) -> None:
    """Do with further seeds what was done with the first, and say what all of them show."""
    series = first.series
    if series is None:  # Only the first of several processes keeps one.
        return
    try:
        for seed in series.missing():
            place = series.seeds.index(seed) + 1
            rank_zero_info(f"\nSeed {seed}: run {place} of {len(series.seeds)}")
            one = {
                "seed_everything": seed,
                "seeds": 1,
                "compare_to": "null",
                "ckpt_path": series.checkpoint(seed) or "null",
            }
            more = [word for name, value in one.items() for word in (f"--{name}", str(value))]
            _run([*words, *more], series)
    finally:  # Complete runs are worth a summary even if a later one fails.
        if len(series.reports()) > 1:
            try:
                _summarize(series, first.config.fit.compare_to)
            except OSError as error:
                first.parser.exit(1, f"\nerror: {error}\n")


def _summarize(series: Series, compare_to: str | None) -> None:
    """Write and print what runs with several seeds show.

    Args:
        series: The runs; those that are complete count.
        compare_to: Another summary. None: there is none.
    """
    reports = {
        seed: json.loads(path.read_text(encoding="utf-8"))
        for seed, path in series.reports().items()
    }
    runs = [series.runs[seed] for seed in reports]
    summary = {"runs": runs, **seeds.summarize(reports)}
    if compare_to:
        other = seeds.read_summary(compare_to)
        if len({*reports} & {*other["seeds"]}) > 1:
            summary["comparison"] = {"with": compare_to, **seeds.compare(summary, other)}
    seeds.write_summary(summary, series.folder)
    rank_zero_info(f"\n{seeds.describe(summary)}\nThe summary's folder is {series.folder}.")
