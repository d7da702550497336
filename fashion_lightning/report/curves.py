"""The learning curves of a run: kept when it is resumed, and read from what CSVLogger wrote."""

import csv
from pathlib import Path

_AXES = dict.fromkeys(["train_loss", "val_loss", "train_acc", "val_acc"], "epoch") | {"lr": "step"}


def keep_curves(run: Path) -> None:
    """Rename a run's ``metrics.csv`` to ``metrics_N.csv``: CSVLogger deletes an existing one."""
    newest = run / "metrics.csv"
    if newest.exists():
        newest.rename(run / f"metrics_{max([0, *_kept(run)]) + 1}.csv")


def read_curves(run: Path) -> dict[str, list[tuple[float, float]]]:
    """Read the learning curves of a run.

    A resumed run has several files, of which ``metrics.csv`` is the newest. From the first point of
    a file on, the points of older files do not count.

    Returns:
        Points ``(epoch, value)``, the last of each epoch, of ``train_loss``, ``val_loss``,
        ``train_acc`` and ``val_acc``, and ``(step, value)`` of ``lr``. Curves that were not logged
        are absent.
    """
    kept = _kept(run)
    paths = [*(kept[number] for number in sorted(kept)), run / "metrics.csv"]
    curves: dict[str, dict[float, float]] = {}
    for path in paths:
        if not path.is_file():
            continue
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for name, axis in _AXES.items():
            points: dict[float, float] = {}
            for row in rows:
                try:
                    points[float(row[axis])] = float(row[name])
                except (KeyError, TypeError, ValueError):
                    continue  # Not logged in this file or row, or the line was cut off.
            if points:
                older = curves.get(name, {})
                curves[name] = {x: y for x, y in older.items() if x < min(points)} | points
    return {name: sorted(points.items()) for name, points in curves.items()}


def _kept(run: Path) -> dict[int, Path]:
    """Return the older files of a run by their number."""
    paths = {path.stem.removeprefix("metrics_"): path for path in run.glob("metrics_*.csv")}
    return {int(number): path for number, path in paths.items() if number.isdecimal()}
