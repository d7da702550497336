"""Statistics over runs that differ only in their seed.

On FashionMNIST, two seeds differ by more than most changes of a recipe do.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fashion_lightning.arguments import expect, installed
from fashion_lightning.atomic import replacing
from fashion_lightning.plotting import draw_seeds, png


def summarize(reports: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Summarize the test metrics of runs with several seeds.

    Args:
        reports: By seed, what `ReportWriter` writes to ``metrics.json``; two or more.

    Returns:
        ``seeds``; ``metrics`` by name (those of the reports that begin with ``test_``); and
        ``per_class``, by class name and ``precision``, ``recall`` or ``f1``. Each number has
        ``values``, ``mean``, ``std`` (of the sample, n - 1) and ``interval``: 95 % for the mean
        over other seeds (not other images), by Student's t-distribution.

    Raises:
        ImportError: If scipy is not installed.
        ValueError: If there are fewer than two reports.

    Example:
        >>> runs = {0: {"test_acc": 0.90, "per_class": {}}, 1: {"test_acc": 0.92, "per_class": {}}}
        >>> accuracy = summarize(runs)["metrics"]["test_acc"]
        >>> round(accuracy["mean"], 3), round(accuracy["std"], 3)
        (0.91, 0.014)
    """
    expect(len(reports) >= 2, "reports", "those of two seeds or more", len(reports))
    installed("scipy", "seeds", "several seeds")
    runs = list(reports.values())
    return {
        "seeds": list(reports),
        "metrics": {
            name: _distribution([run[name] for run in runs])
            for name in runs[0]
            if name.startswith("test_")
        },
        "per_class": {
            class_name: {
                name: _distribution([run["per_class"][class_name][name] for run in runs])
                for name in numbers
                if name != "support"
            }
            for class_name, numbers in runs[0]["per_class"].items()
        },
    }


def compare(summary: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Compare two summaries by paired t-tests; runs with the same seed are a pair.

    Args:
        summary: What `summarize` returned.
        other: The same of other runs. Seeds and metrics that only one of both has are left out.

    Returns:
        ``seeds`` of the pairs, and ``metrics``: by name, ``difference`` (mean of `summary` minus
        `other`), its ``interval`` (95 %) and ``p_value`` (1 if all pairs are equal).

    Raises:
        ImportError: If scipy is not installed.
        ValueError: If they have fewer than two seeds in common.
    """
    seeds = [seed for seed in summary["seeds"] if seed in other["seeds"]]
    expect(len(seeds) >= 2, "other", "a summary with two of the same seeds", other["seeds"])
    installed("scipy", "seeds", "several seeds")
    from scipy.stats import ttest_rel  # takes 1 to 2 s

    metrics = {}
    for name in [name for name in summary["metrics"] if name in other["metrics"]]:
        ours, theirs = (
            [each["metrics"][name]["values"][each["seeds"].index(seed)] for seed in seeds]
            for each in (summary, other)
        )
        test = ttest_rel(ours, theirs)
        metrics[name] = {
            "difference": fmean(ours) - fmean(theirs),
            "interval": [float(end) for end in test.confidence_interval(0.95)],
            "p_value": 1.0 if ours == theirs else float(test.pvalue),
        }
    return {"seeds": seeds, "metrics": metrics}


def read_summary(path: str | Path) -> dict[str, Any]:
    """Read the ``summary.json`` of `fit --seeds`.

    Args:
        path: The file.

    Returns:
        What `summarize` returned, with ``runs``, their folders.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else.
    """
    try:
        summary: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        lengths = {len(number["values"]) for number in summary["metrics"].values()}
        if lengths == {len(summary["seeds"])}:
            return summary
    except OSError as error:
        raise type(error)(
            f"Expected a summary.json of `fit --seeds`, but got {path} ({error.strerror})."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # Refused below.
    raise ValueError(f"Expected a summary.json of `fit --seeds`, but {path} holds something else.")


def describe(summary: Mapping[str, Any]) -> str:
    """Return a summary as text: one line per metric, and one per difference.

    Args:
        summary: What `summarize` returned; what `compare` returned may be its ``comparison``.
    """
    seeds = ", ".join(map(str, summary["seeds"]))
    lines = [f"Seeds {seeds}", f"{'':32}mean     std      95 % interval of the mean"]
    for name, number in summary["metrics"].items():
        mean, std, (low, high) = number["mean"], number["std"], number["interval"]
        lines.append(f"{name:32}{mean:.4f}   {std:.4f}   {low:.4f} ... {high:.4f}")
    if comparison := summary.get("comparison"):
        title = f"{len(comparison['seeds'])} pairs: this minus {comparison['with']}"
        lines.append(f"{title}\n{'':32}difference       95 % interval        p (paired t-test)")
        for name, number in comparison["metrics"].items():
            difference, p, (low, high) = number["difference"], number["p_value"], number["interval"]
            interval = f"{low:+.4f} ... {high:+.4f}"
            lines.append(f"{name:32}{difference:+.4f}          {interval}   {p:.2g}")
    return "\n".join(lines)


def write_summary(summary: Mapping[str, Any], folder: Path) -> None:
    """Write ``summary.json``, ``summary.csv`` (one row per run) and ``summary.png``.

    Args:
        summary: What `summarize` returned, with ``runs``, their folders.
        folder: Where to write.

    Raises:
        OSError: If a file cannot be written.
    """
    names = list(summary["metrics"])
    values = [summary["metrics"][name]["values"] for name in names]
    with replacing(folder / "summary.csv") as new, new.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["seed", *names, "run"])
        rows.writerows(zip(summary["seeds"], *values, summary["runs"], strict=True))
    with replacing(folder / "summary.png") as new:
        new.write_bytes(png(draw_seeds(summary)))
    with replacing(folder / "summary.json") as new:
        new.write_text(json.dumps(summary, indent=2) + "\n")


def _distribution(values: Sequence[float]) -> dict[str, Any]:
    from scipy.stats import t

    mean, std, n = fmean(values), stdev(values), len(values)
    # Scaled here: with equal values, and so `scale=0`, scipy returns NaN.
    interval = [mean + std / n**0.5 * float(end) for end in t.interval(0.95, n - 1)]
    return {"values": [*values], "mean": mean, "std": std, "interval": interval}
