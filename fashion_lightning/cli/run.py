"""Runs and their checkpoints on the disk: one folder per run, `lightning_logs/version_N`."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fashion_lightning.atomic import replacing
from fashion_lightning.checkpoints.pretrained import resolve


def runs(root: Path) -> list[Path]:
    """Return the folders of all runs below `root`, newest first."""
    return _numbered(root, "version")


def _numbered(root: Path, kind: str) -> list[Path]:
    folders = (root / "lightning_logs").glob(f"{kind}_*")
    numbered = [f for f in folders if f.name.removeprefix(f"{kind}_").isdigit()]
    return sorted(numbered, key=lambda f: int(f.name.removeprefix(f"{kind}_")))[::-1]


def new_folder(root: Path, kind: str) -> Path:
    """Create `lightning_logs/KIND_N` with the next number N; no two processes get the same one."""
    while True:
        newest = _numbered(root, kind)
        number = int(newest[0].name.removeprefix(f"{kind}_")) + 1 if newest else 0
        folder = root / "lightning_logs" / f"{kind}_{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue  # Another process was faster.
        return folder


def discard(run: Path, there: Path) -> None:
    """Remove the folder of a run that wrote nothing, and what was made for it below `there`."""
    with suppress(OSError):  # It has files, or there are other runs.
        for folder in (run, *run.parents):
            if folder == there:
                break
            folder.rmdir()


@dataclass
class Series:
    """Runs that differ by their seed, planned together; kept in ``seeds_N/runs.json``.

    Attributes:
        folder: Where the plan and the summary are.
        seeds: All that are planned.
        runs: The folders of those that have begun, by seed.
        settings: The configuration of all of them, as YAML.
    """

    folder: Path
    seeds: list[int]
    runs: dict[int, str]
    settings: str

    @classmethod
    def begin(cls, root: Path, seeds: Sequence[int], settings: str) -> "Series":
        """Plan runs, in a new folder below `root`."""
        return cls(new_folder(root, "seeds"), [*seeds], {}, settings)

    @classmethod
    def unfinished(cls, root: Path, seeds: Sequence[int]) -> "Series | None":
        """Return the newest series below `root` with these seeds of which a run is missing."""
        for folder in _numbered(root, "seeds"):
            try:
                plan = json.loads((folder / "runs.json").read_text(encoding="utf-8"))
                runs = {int(seed): str(run) for seed, run in plan["runs"].items()}
                series = cls(folder, plan["seeds"], runs, plan["settings"])
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # That of version 0.1.0, or of somebody else.
            if series.seeds == [*seeds] and series.missing():
                return series
        return None

    def note(self, seed: int, run: str) -> None:
        """Keep which folder a run has; before it begins."""
        self.runs[seed] = run
        plan = {"seeds": self.seeds, "runs": self.runs, "settings": self.settings}
        with replacing(self.folder / "runs.json") as new:
            new.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")

    def missing(self) -> list[int]:
        """Return the seeds whose run has not ended with its test."""
        return [seed for seed in self.seeds if seed not in self.reports()]

    def reports(self) -> dict[int, Path]:
        """Return the reports of the runs that are complete, by seed."""
        found = {seed: Path(run, "report", "metrics.json") for seed, run in self.runs.items()}
        return {seed: found[seed] for seed in sorted(found) if found[seed].is_file()}

    def checkpoint(self, seed: int) -> str | None:
        """Return where the run of a seed that is not complete goes on; None: it begins."""
        last = Path(self.runs.get(seed, ""), "checkpoints", "last.ckpt")
        return str(last) if seed in self.runs and last.is_file() else None


def find_checkpoint(root: Path, ckpt_path: str | None) -> Path:
    """Find the checkpoint that a user means.

    Args:
        root: The folder below which the runs are.
        ckpt_path: ``best`` or ``last`` of the newest run that has one, ``pretrained:mlp`` or
            ``pretrained:convnet``, or a file.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If there is none, or `ckpt_path` is None; says which there are.
        ValueError: If no trained network of that name comes with the package.
    """
    known = [path for run in runs(root) for path in sorted((run / "checkpoints").glob("*.ckpt"))]
    if ckpt_path in ("best", "last"):
        matches = [path for path in known if path.stem == ckpt_path]
        if matches:
            return matches[0]
    elif ckpt_path is not None and resolve(ckpt_path).is_file():
        return resolve(ckpt_path)
    there = "\n  ".join(map(str, known)) if known else "none; `fashion-lightning fit` makes them"
    raise FileNotFoundError(
        "Expected `ckpt_path` to be best, last, pretrained:NAME or a checkpoint file, "
        f"but got {ckpt_path}. Checkpoints below {root / 'lightning_logs'}:\n  {there}"
    )


def run_of(checkpoint: Path) -> Path | None:
    """Return the folder of the run that wrote a checkpoint, or None if it lies elsewhere."""
    run = checkpoint.parent.parent
    return (
        run
        if checkpoint.parent.name == "checkpoints" and run.parent.name == "lightning_logs"
        else None
    )
