"""What `fashion-lightning` does: set up the process, then run the CLI once for each seed."""

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from fashion_lightning import __version__, seeds
from fashion_lightning.cli import FashionLightningCLI
from fashion_lightning.datamodule import FashionMNISTDataModule
from fashion_lightning.module import FashionMNISTClassifier
from fashion_lightning.parser import Parser
from fashion_lightning.process import tune_process
from fashion_lightning.runs import new_folder
from fashion_lightning.trainer import ExportingTrainer


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


def _run(words: list[str]) -> FashionLightningCLI:
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
    )


def _train_other_seeds(first: FashionLightningCLI, words: list[str]) -> None:
    """Do with further seeds what was done with the first, and say what all of them show."""
    config = first.config.fit
    runs = {config.seed_everything: first.trainer.default_root_dir}
    try:
        for seed in range(config.seed_everything + 1, config.seed_everything + config.seeds):
            rank_zero_info(f"\nSeed {seed}: run {len(runs) + 1} of {config.seeds}")
            one = ("--seed_everything", str(seed), "--seeds", "1", "--compare_to", "null")
            runs[seed] = _run([*words, *one]).trainer.default_root_dir
    finally:  # What ends one run does not make those worthless that are complete.
        if len(runs) > 1:
            try:
                _summarize(runs, config.compare_to)
            except OSError as error:
                first.parser.exit(1, f"\nerror: {error}\n")


def _summarize(runs: dict[int, str], compare_to: str | None) -> None:
    """Write and print what runs with several seeds show.

    Args:
        runs: Their folders by seed.
        compare_to: Another summary. None: there is none.
    """
    reports = {
        seed: json.loads((Path(run) / "report" / "metrics.json").read_text())
        for seed, run in runs.items()
    }
    summary = {"runs": [*runs.values()], **seeds.summarize(reports)}
    if compare_to:
        other = seeds.read_summary(compare_to)
        if len({*runs} & {*other["seeds"]}) > 1:
            summary["comparison"] = {"with": compare_to, **seeds.compare(summary, other)}
    root = Path(summary["runs"][0]).parent.parent
    folder = new_folder(root, "seeds")
    seeds.write_summary(summary, folder)
    rank_zero_info(f"\n{seeds.describe(summary)}\nThe summary's folder is {folder}.")
