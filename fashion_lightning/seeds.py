"""Runs that differ by their seed alone: what their tests say together, and beside other runs'.

A single run tells little: on FashionMNIST, two seeds differ by more
than most ideas are worth.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fashion_lightning.arguments import expect
from fashion_lightning.atomic import replacing

_METRICS = ("test_acc", "test_loss", "test_f1", "test_ece")
_PER_CLASS = ("precision", "recall", "f1")


def summarize(reports: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Say of each number in reports how it is distributed over the seeds.

    Args:
        reports: By seed, what `ReportWriter` writes to ``metrics.json``; two or more.

    Returns:
        ``seeds``; ``metrics``, by the metric's name; and ``per_class``, by class name and
        ``precision``, ``recall`` or ``f1``. Each number has ``values`` (in the seeds' order),
        ``mean``, ``std`` (the sample's, n - 1) and ``interval`` (95 % for the mean, by Student's
        t-distribution: it says what other seeds would change, not what other test images would).

    Raises:
        ValueError: If there are less than two reports.

    Example:
        >>> report = {f"test_{name}": 0.5 for name in ("loss", "f1", "ece")} | {"per_class": {}}
        >>> runs = {0: report | {"test_acc": 0.90}, 1: report | {"test_acc": 0.92}}
        >>> accuracy = summarize(runs)["metrics"]["test_acc"]
        >>> round(accuracy["mean"], 3), round(accuracy["std"], 3)
        (0.91, 0.014)
    """
    expect(len(reports) >= 2, "reports", "those of two seeds or more", len(reports))
    all_of_them = list(reports.values())
    return {
        "seeds": list(reports),
        "metrics": {
            name: _distribution([report[name] for report in all_of_them]) for name in _METRICS
        },
        "per_class": {
            name: {
                kind: _distribution([report["per_class"][name][kind] for report in all_of_them])
                for kind in _PER_CLASS
            }
            for name in all_of_them[0]["per_class"]
        },
    }


def compare(summary: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Tell whether two summaries differ by more than the chance of their seeds.

    Runs with the same seed are a pair: a paired t-test of their differences (scipy's `ttest_rel`).

    Args:
        summary: What `summarize` has returned.
        other: What it is compared with. Seeds that only one of both has are left out.

    Returns:
        ``seeds``, those that both have, and ``metrics``: by the metric's name, ``difference`` (mean
        of ours minus theirs), its ``interval`` (95 %) and ``p_value``, the probability of such a
        difference, or a larger one, if there were none; 1 if all pairs are equal.

    Raises:
        ValueError: If they have less than two seeds in common.
    """
    from scipy.stats import ttest_rel  # Only this needs it, and it is slow to import.

    seeds = [seed for seed in summary["seeds"] if seed in other["seeds"]]
    expect(len(seeds) >= 2, "other", "a summary with two of the same seeds", other["seeds"])
    metrics = {}
    for name in _METRICS:
        ours, theirs = (
            [each["metrics"][name]["values"][each["seeds"].index(seed)] for seed in seeds]
            for each in (summary, other)
        )
        differences = _distribution([a - b for a, b in zip(ours, theirs, strict=True)])
        p_value = 1.0 if ours == theirs else float(ttest_rel(ours, theirs).pvalue)
        metrics[name] = {
            "difference": differences["mean"],
            "interval": differences["interval"],
            "p_value": p_value,
        }
    return {"seeds": seeds, "metrics": metrics}


def read_summary(path: str | Path) -> dict[str, Any]:
    """Read what `fit --seeds` has written to ``summary.json``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else.
    """
    try:
        summary = json.loads(Path(path).read_text(encoding="utf-8"))
        complete = all(
            len(summary["metrics"][name]["values"]) == len(summary["seeds"]) for name in _METRICS
        )
    except OSError as error:
        raise type(error)(
            f"Expected a summary.json of `fit --seeds`, but got {path} ({error.strerror})."
        ) from error
    except (ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise ValueError(
            f"Expected a summary.json of `fit --seeds`, but {path} holds something else."
        )
    return dict(summary)


def describe(summary: Mapping[str, Any]) -> str:
    """Write a summary as text: a line for each metric, and for each difference."""
    seeds = ", ".join(map(str, summary["seeds"]))
    lines = [f"{'Seeds ' + seeds:32}mean     std      95 % interval of the mean"]
    for name, number in summary["metrics"].items():
        low, high = number["interval"]
        lines.append(
            f"{name:32}{number['mean']:.4f}   {number['std']:.4f}   {low:.4f} ... {high:.4f}"
        )
    if comparison := summary.get("comparison"):
        title = f"{len(comparison['seeds'])} pairs with {comparison['with']}"
        lines.append(f"{title}\n{'':32}difference       95 % interval        p (paired t-test)")
        for name, number in comparison["metrics"].items():
            low, high = number["interval"]
            lines.append(
                f"{name:32}{number['difference']:+.4f}          {low:+.4f} ... {high:+.4f}   "
                f"{number['p_value']:.2g}"
            )
    return "\n".join(lines)


def write_summary(summary: Mapping[str, Any], folder: Path) -> None:
    """Write a summary to ``summary.json``, a table of the runs, and a figure.

    Args:
        summary: What `summarize` has returned, with ``runs``, their folders.
        folder: Where ``summary.json``, ``summary.csv`` and ``summary.png`` get their place.

    Raises:
        OSError: If it cannot be written.
    """
    from fashion_lightning.plotting import png, seeds  # matplotlib is slow to import.

    columns = [summary["metrics"][name]["values"] for name in _METRICS]
    with replacing(folder / "summary.csv") as new, new.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["seed", *_METRICS, "run"])
        rows.writerows(zip(summary["seeds"], *columns, summary["runs"], strict=True))
    with replacing(folder / "summary.png") as new:
        new.write_bytes(png(seeds(summary)))
    with replacing(folder / "summary.json") as new:
        new.write_text(json.dumps(summary, indent=2) + "\n")


def _distribution(values: Sequence[float]) -> dict[str, Any]:
    from scipy.stats import t

    mean, std, n = fmean(values), stdev(values), len(values)
    half = float(t.ppf(0.975, n - 1)) * std / n**0.5
    return {
        "values": [*values],
        "mean": mean,
        "std": std,
        "interval": [mean - half, mean + half],
    }
