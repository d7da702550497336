"""Fills the report's template: numbers, pictures and texts in, one HTML page out.

Its look is in `page.html.j2` and `page.css`, that of its figures in `plotting.STYLE`.
"""

from base64 import b64encode
from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fashion_lightning.plotting import percent


def render(
    report: Mapping[str, Any],
    figures: Mapping[str, bytes],
    facts: Mapping[str, str],
    config: str | None = None,
) -> str:
    """Render the report as one self-contained HTML page, without scripts or links.

    Args:
        report: What `ReportWriter` writes to ``metrics.json``.
        figures: PNGs by name: ``confusion_matrix``, ``reliability_diagram``, ``learning_curves``
            and ``mistakes``. Absent ones are left out.
        facts: What else to show of the run, such as its device, versions, seed and duration.
        config: The run's ``config.yaml``. None: it is left out.

    Returns:
        The page. All texts are escaped; what is not Unicode in them becomes ``?``.
    """
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    pages.filters["percent"] = percent
    low, high = wilson_interval(report["test_acc"], report["num_images"])
    page = pages.get_template("page.html.j2").render(
        report=report,
        num_correct=sum(row[label] for label, row in enumerate(report["confusion_matrix"])),
        low=low,
        high=high,
        confusions=_confusions(report),
        figures={name: b64encode(content).decode() for name, content in figures.items()},
        facts={"Checkpoint": report["checkpoint"] or "none", **facts},
        config=config,
    )
    return page.encode(errors="replace").decode()


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a true rate, in [0, 1], given an observed one (Wilson 1927).

    The same as scipy's ``binomtest(...).proportion_ci(method="wilson")``, written here only for
    import time: scipy.stats takes 1 to 2 s, and the report needs nothing else of it.

    Args:
        share: The observed rate, in [0, 1].
        n: Number of observations, >= 1.

    Example:
        >>> low, high = wilson_interval(0.9, 100)
        >>> round(low, 3), round(high, 3)
        (0.826, 0.945)
    """
    z = NormalDist().inv_cdf(0.975)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _confusions(report: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return the three most frequent confusions: true class, predicted class, count."""
    names = list(report["per_class"])
    pairs = [
        (true, predicted, count)
        for true, row in zip(names, report["confusion_matrix"], strict=True)
        for predicted, count in zip(names, row, strict=True)
        if count and true != predicted
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:3]
