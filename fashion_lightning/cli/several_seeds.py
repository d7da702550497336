"""Runs that differ by their seed: `fit --seeds N`, its continuation and its summary."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from fashion_lightning import seeds
from fashion_lightning.arguments import at_least, expect, installed
from fashion_lightning.atomic import replacing
from fashion_lightning.cli.run import LOGS, Run, numbered


@dataclass
class Series:
    """Runs that differ by their seed, planned together; kept in ``seeds_N/runs.json``."""

    folder: Path  # of the plan and the summary
    seeds: list[int]  # all that are planned
    settings: str  # the configuration of all runs, as YAML
    runs: dict[int, str] = field(default_factory=dict)  # folders of those that have begun

    @classmethod
    def unfinished(cls, root: Path, seeds: range) -> "Series":
        """Return the newest series with these seeds of which a run is missing, or refuse."""
        for folder in numbered(root, "seeds").values():
            try:
                plan = json.loads((folder / "runs.json").read_text(encoding="utf-8"))
                runs = {int(seed): str(run) for seed, run in plan["runs"].items()}
                series = cls(folder, plan["seeds"], plan["settings"], runs)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # That of version 0.1.0, or of somebody else.
            if series.seeds == [*seeds] and series.missing():
                return series
        raise ValueError(
            f"Expected a series of {len(seeds)} seeds from {seeds[0]} on to continue, but "
            f"there is none below {root / LOGS} of which a run is missing."
        )

    def check_settings(self, settings: str) -> None:
        """Refuse settings with which the series did not begin; name the first that differs."""
        for ours, theirs in zip_longest(settings.splitlines(), self.settings.splitlines()):
            if ours != theirs:
                raise ValueError(
                    f"Expected the settings with which {self.folder} began, but got others: "
                    f"{str(ours).strip()}."
                )

    def keep(self, runs: dict[int, str]) -> None:
        """Write which runs have begun; a plan without any is removed."""
        self.runs, path = runs, self.folder / "runs.json"
        if not runs:
            path.unlink()
            self.folder.rmdir()
            return
        plan = {"seeds": self.seeds, "runs": runs, "settings": self.settings}
        with replacing(path) as new:
            new.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")

    def missing(self) -> list[int]:
        """Return the seeds whose run has not ended with its test."""
        return [seed for seed in self.seeds if seed not in self.reports()]

    def reports(self) -> dict[int, Path]:
        """Return the reports of the runs that are complete, by seed."""
        reports = {seed: Run(Path(self.runs[seed])).report for seed in sorted(self.runs)}
        return {seed: path for seed, path in reports.items() if path.is_file()}

    def checkpoint(self, seed: int) -> str | None:
        """Return where the run of a seed goes on; None if it has no checkpoint."""
        last = Run(Path(self.runs[seed])).last if seed in self.runs else None
        return str(last) if last and last.is_file() else None


def check_seeds(config: Namespace, trainer: Trainer, continues: bool) -> None:
    """Refuse options of `fit` that are fine for one run, but not for several."""
    number, seed = config.seeds, config.seed_everything
    at_least(1, seeds=number)
    if number == 1:
        expect(config.compare_to is None, "compare_to", "given with `seeds`", config.compare_to)
        return
    installed("scipy", "seeds", "several seeds")
    is_new = continues or config.ckpt_path is None
    expected = "absent with `seeds`, or last, which continues them"
    expect(is_new, "ckpt_path", expected, config.ckpt_path)
    expect(config.test_after_fit, "test_after_fit", "true with `seeds`", False)
    expect(not config.trainer.fast_dev_run, "fast_dev_run", "absent with `seeds`", True)
    checkpoints, tests = config.trainer.enable_checkpointing, trainer.limit_test_batches
    expect(checkpoints is not False, "enable_checkpointing", "true with `seeds`", checkpoints)
    expect(tests != 0, "limit_test_batches", "more than 0 with `seeds`", tests)
    expect(trainer.world_size == 1, "seeds", f"1 with {trainer.world_size} processes", number)
    expect(seed is not False, "seed_everything", "an int with `seeds`", seed)
    expect(seed + number <= 2**32, "seeds", f"at most {2**32 - seed}", number)
    if config.compare_to:
        theirs = seeds.read_summary(config.compare_to)["seeds"]
        pairs = {*theirs} & {*range(seed, seed + number)}
        expected = f"a summary with two of the seeds {seed} ... {seed + number - 1}"
        expect(len(pairs) >= 2, "compare_to", expected, theirs)


def train_others(
    series: Series,
    args: list[str],
    fit: Callable[[list[str], Series], Any],
    compare_to: str | None,
) -> None:
    """Call `fit` with `args` for each seed that is missing, then summarize all runs."""
    try:
        for seed in series.missing():
            place = series.seeds.index(seed) + 1
            rank_zero_info(f"\nSeed {seed}: run {place} of {len(series.seeds)}")
            own = ["--seed_everything", str(seed), "--seeds", "1", "--compare_to", "null"]
            fit([*args, *own, "--ckpt_path", series.checkpoint(seed) or "null"], series)
    finally:  # Complete runs are summarized even if a later one fails.
        if len(series.reports()) > 1:
            _summarize(series, compare_to)


def _summarize(series: Series, compare_to: str | None) -> None:
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
