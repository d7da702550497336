"""Runs on the disk: one folder per run, `lightning_logs/version_N`, and what lies in it.

The writers name their own files (`predictions.csv`, the report's figures, `model.*`), and determine
the folder of a script's run by `callbacks/outputs.py`.
"""

from contextlib import suppress
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from fashion_lightning.checkpoints.pretrained import resolve

LOGS = "lightning_logs"


class Run:
    """A run's folder: its paths, and its removal if nothing was written."""

    def __init__(self, folder: Path, created: tuple[Path, ...] = ()) -> None:
        self.folder = folder
        self.created = created  # for this run, innermost first
        self.checkpoints = folder / "checkpoints"
        self.best = self.checkpoints / "best.ckpt"
        self.last = self.checkpoints / "last.ckpt"
        self.config = folder / "config.yaml"
        self.report = folder / "report" / "metrics.json"
        self.page = folder / "report" / "report.html"

    @classmethod
    def open(cls, command: str, config: Namespace, checkpoint: Path | None) -> "Run":
        """Return the run that wrote the checkpoint, or else a new one, in a folder of its own."""
        named = config.trainer.default_root_dir
        root = Path(named or "")
        if checkpoint:
            run = cls(checkpoint.parent.parent)
            is_run = checkpoint.parent == run.checkpoints and run.folder.parent.name == LOGS
            # Whoever names a folder means it.
            if is_run and (not named or run.folder.resolve().is_relative_to(root.resolve())):
                return run
        if command == "export" and config.output:
            return cls(Path(config.output).parent)  # Nothing is written elsewhere.
        if config.trainer.fast_dev_run or not is_first_process():
            return cls(root)
        try:
            logs = root / LOGS
            missing = [folder for folder in (logs, *logs.parents) if not folder.exists()]
            folder = claim_folder(root, "version")
        except OSError as error:
            raise ValueError(
                "Expected `default_root_dir` to be a folder that can be written, "
                f"but got {root} ({error.strerror})."
            ) from error
        return cls(folder, (folder, *missing))

    def discard_if_empty(self) -> None:
        """Remove the folders that were made for the run, up to the first that holds something."""
        with suppress(OSError):
            for folder in self.created:
                folder.rmdir()


def claim_folder(root: Path, kind: str) -> Path:
    """Make `lightning_logs/KIND_N` with the next number N; no two processes get the same."""
    while True:
        folder = root / LOGS / f"{kind}_{max(numbered(root, kind), default=-1) + 1}"
        with suppress(FileExistsError):  # Another process was faster.
            folder.mkdir(parents=True)
            return folder


def numbered(root: Path, kind: str) -> dict[int, Path]:
    """Return the folders `lightning_logs/KIND_N` by their N, largest first."""
    folders = {
        int(number): folder
        for folder in (root / LOGS).glob(f"{kind}_*")
        if (number := folder.name.partition("_")[2]).isdecimal()
    }
    return dict(sorted(folders.items(), reverse=True))


def find_checkpoint(root: Path, ckpt_path: str | None) -> Path:
    """Find ``best`` or ``last`` of the newest run that has one, ``pretrained:NAME``, or a file."""
    runs = map(Run, numbered(root, "version").values())
    existing = [path for run in runs for path in sorted(run.checkpoints.glob("*.ckpt"))]
    if ckpt_path in ("best", "last"):
        matches = [path for path in existing if path.stem == ckpt_path]
        if matches:
            return matches[0]
    elif ckpt_path is not None and resolve(ckpt_path).is_file():
        return resolve(ckpt_path)
    names = "\n  ".join(map(str, existing)) or "none; `fashion-lightning fit` makes them"
    raise FileNotFoundError(
        "Expected `ckpt_path` to be best, last, pretrained:NAME or a checkpoint file, "
        f"but got {ckpt_path}. Checkpoints below {root / LOGS}:\n  {names}"
    )


def is_first_process() -> bool:
    """Tell, before Lightning has connected several processes, whether this is the first."""
    return getattr(rank_zero_only, "rank", 0) == 0
