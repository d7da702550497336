"""Runs and their checkpoints on the disk: a folder a run, `lightning_logs/version_N`."""

from contextlib import suppress
from pathlib import Path

from fashion_lightning.pretrained import resolve


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
