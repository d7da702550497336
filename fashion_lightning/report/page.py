"""The report of a test as one HTML page: numbers, pictures and texts in, a string out.

The page needs nothing but itself: no network, no script. Of the disk, this file knows how to read
the learning curves that a run has logged.
"""

import csv
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from math import sqrt
from pathlib import Path
from typing import Any

_CURVES = {
    "train_loss": "epoch",
    "val_loss": "epoch",
    "train_acc": "epoch",
    "val_acc": "epoch",
    "lr": "step",
}


def read_curves(run: Path) -> dict[str, list[tuple[float, float]]]:
    """Read the learning curves of a run from what Lightning's CSVLogger wrote.

    A run that was continued has several parts: ``metrics_1.csv``, ``metrics_2.csv`` ... and, as
    the newest, ``metrics.csv``. Where one begins, what older parts say of later epochs ends.

    Args:
        run: The run's folder.

    Returns:
        Points ``(epoch, value)``, the last value of each epoch, of ``train_loss``, ``val_loss``,
        ``train_acc`` and ``val_acc``, and ``(step, value)`` of ``lr``. What was not logged is
        absent: without any file, all of it.
    """
    older = [path for path in run.glob("metrics_*.csv") if path.stem[8:].isdecimal()]
    older.sort(key=lambda path: int(path.stem[8:]))
    curves: dict[str, dict[float, float]] = {}
    for path in [*older, run / "metrics.csv"]:
        if not path.is_file():
            continue
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for name, axis in _CURVES.items():
            part: dict[float, float] = {}
            for row in rows:
                try:
                    part[float(row[axis])] = float(row[name])
                except (KeyError, TypeError, ValueError):
                    continue  # Not logged in this part, or a line that was cut off, or not here.
            if part:
                begin = min(part)
                before = {x: y for x, y in curves.get(name, {}).items() if x < begin}
                curves[name] = before | part
    return {name: sorted(points.items()) for name, points in curves.items()}


def wilson_interval(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the interval in which a true rate lies, given the rate that was observed.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference",
    https://doi.org/10.1080/01621459.1927.10502953

    Args:
        share: The observed rate, in [0, 1].
        n: Number of observations, >= 1.
        z: Quantile of the normal distribution; the default gives 95 %.

    Example:
        >>> low, high = wilson_interval(0.9, 100)
        >>> round(low, 3), round(high, 3)
        (0.826, 0.945)
    """
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def render(
    report: Mapping[str, Any],
    figures: Mapping[str, bytes],
    facts: Mapping[str, str],
    config: str | None = None,
) -> str:
    """Write the report as one HTML page that holds all it shows.

    Args:
        report: What `ReportWriter` writes to ``metrics.json``.
        figures: PNGs by name: ``confusion_matrix``, ``reliability_diagram``, ``learning_curves``
            and ``mistakes``. What is absent is left out.
        facts: What else to say of the run, such as its device, versions, seed and duration.
        config: The run's ``config.yaml``. None: the page says nothing of it.

    Returns:
        The page. Nothing that these texts say is taken for HTML.
    """
    accuracy, n = report["test_acc"], report["num_images"]
    right = sum(row[label] for label, row in enumerate(report["confusion_matrix"]))
    low, high = wilson_interval(accuracy, n)
    before = report.get("uncalibrated") or {}
    scaling = "before temperature scaling: {}" if before else ""
    tiles = (
        _tile(
            "Accuracy",
            _percent(accuracy),
            f"95&nbsp;% interval: {_percent(low)} to {_percent(high)}",
            "The share of images it names right. With other images it would differ by chance; the "
            "interval says about how much.",
        ),
        _tile(
            "Negative log-likelihood",
            f"{report['test_loss']:.4f}",
            scaling.format(f"{before.get('test_loss', 0):.4f}"),
            "How much the true class surprises it, on average, in nats. 0 is perfect; 2.3026 is "
            "guessing among ten classes.",
        ),
        _tile(
            "Calibration error (ECE)",
            _percent(report["test_ece"]),
            scaling.format(_percent(before.get("test_ece", 0))),
            "How far its confidence is from how often it is right, on average. 0&nbsp;% is "
            "perfect.",
        ),
        _tile(
            "Macro F1",
            _percent(report["test_f1"]),
            "mean of the classes",
            "High only if it finds the images of every class and takes no others for them.",
        ),
    )
    sections = (
        _section(
            "Class by class",
            _image(
                figures.get("confusion_matrix"),
                "Counts of images: a row for each true class, a column for each predicted class.",
                _confusions(report),
            ),
            _table(report["per_class"]),
        ),
        _section(
            "Can its confidence be trusted?",
            _image(
                figures.get("reliability_diagram"),
                "Accuracy of predictions by their confidence, and the number of predictions.",
                "Of predictions made with 80&nbsp;% confidence, 80&nbsp;% should be right: the "
                "dashed line. Points below it tell of too much confidence, points above of too "
                "little." + _scaling(report.get("temperature")),
            ),
        ),
        _section(
            "How it learned",
            _image(
                figures.get("learning_curves"),
                "Loss and accuracy by epoch and learning rate by step.",
                "Where training still improves and validation does not, it learns by heart. The "
                "training loss is the number that is minimised: with label smoothing or a teacher, "
                "it cannot be compared with the validation loss.",
            ),
        ),
        _section(
            "Its most confident mistakes",
            _image(
                figures.get("mistakes"),
                "Wrongly classified images, each with true class, predicted class and confidence.",
                "The images about which it was most sure, and wrong.",
            ),
        ),
        _section(
            "The run",
            _facts({"Checkpoint": report.get("checkpoint") or "none", **facts}) + _config(config),
        ),
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>FashionMNIST test report: {_percent(accuracy)} accuracy</title>
<link rel="icon" href="data:,">
<style>{_CSS}</style>
</head>
<body>
<header>
<h1>FashionMNIST test report</h1>
<p>The network names <strong>{right:,} of {n:,}</strong> test images right.</p>
</header>
<main>
<ul class="tiles">
{"".join(tiles)}</ul>
{"".join(sections)}</main>
</body>
</html>
"""


def _text(text: object) -> str:
    """Make any text HTML; what a file's name has that is no Unicode becomes question marks."""
    return escape(str(text).encode(errors="replace").decode())


def _percent(fraction: float, digits: int = 2) -> str:
    return f"{100 * fraction:.{digits}f}\u00a0%"


def _tile(name: str, value: str, detail: str, meaning: str) -> str:
    return (
        f'<li><h2>{name}</h2><p class="value">{value}</p><p class="detail">{detail}</p>'
        f"<p>{meaning}</p></li>\n"
    )


def _section(title: str, *parts: str) -> str:
    """Write a section of one part, or of two, which stand side by side where there is room."""
    parts = tuple(part for part in parts if part)
    if not parts:
        return ""
    if len(parts) == 1:
        return f"<section>\n<h2>{title}</h2>\n{parts[0]}</section>\n"
    pair = "".join(parts)
    return (
        f'<section class="wide">\n<h2>{title}</h2>\n<div class="pair">\n{pair}</div>\n</section>\n'
    )


def _image(content: bytes | None, alt: str, caption: str) -> str:
    if content is None:
        return ""
    return (
        f'<figure><img src="data:image/png;base64,{b64encode(content).decode()}" alt="{alt}">'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def _confusions(report: Mapping[str, Any]) -> str:
    """Name the confusions that happen most often."""
    names = list(report["per_class"])
    counts = {
        (true, predicted): count
        for true, row in zip(names, report["confusion_matrix"], strict=True)
        for predicted, count in zip(names, row, strict=True)
        if count and true != predicted
    }
    most = sorted(counts.items(), key=lambda item: -item[1])[:3]
    pairs = [
        f"<strong>{_text(true)}</strong> for <strong>{_text(predicted)}</strong> ({count:,})"
        for (true, predicted), count in most
    ]
    return f"Most often, it takes {', '.join(pairs)}." if pairs else "It confuses none."


def _table(per_class: Mapping[str, Mapping[str, float]]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th>'
        + "".join(f"<td>{_percent(row[kind], 1)}</td>" for kind in ("precision", "recall"))
        + f'<td class="bar" style="--share:{row["f1"]:.4f}">{_percent(row["f1"], 1)}</td>'
        + f"<td>{row['support']:,}</td></tr>\n"
        for name, row in per_class.items()
    )
    return f"""<div>
<div class="scrolls" tabindex="0" role="region" aria-label="Class by class">
<table>
<thead><tr><th scope="col">Class</th><th scope="col">Precision</th><th scope="col">Recall</th>
<th scope="col">F1</th><th scope="col">Images</th></tr></thead>
<tbody>
{rows}</tbody>
</table>
</div>
<p class="note">Precision: of the images it takes for this class, the share that are. Recall: of the
images of this class, the share it finds. F1: the harmonic mean of both.</p>
</div>
"""


def _scaling(temperature: float | None) -> str:
    if temperature is None:
        return ""
    return (
        f" The network's logits are divided by its temperature, {temperature:.4f}: that scales its "
        "confidence, and changes no predicted class."
    )


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>\n"
        for name, value in facts.items()
    )
    return f"<dl>\n{rows}</dl>\n"


def _config(config: str | None) -> str:
    if config is None:
        return ""
    return (
        '<h3>Configuration</h3>\n<pre tabindex="0" role="region" aria-label="Configuration">'
        f"{_text(config)}</pre>\n"
    )


_CSS = """
:root {
  color-scheme: light dark;
  --page: #f3f4f6; --card: #fff; --ink: #1f2937; --soft: #4b5563; --line: #e5e7eb;
  --bar: #cfe5f3; --accent: #0072b2;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #111827; --card: #1f2937; --ink: #f3f4f6; --soft: #b6bdc9; --line: #374151;
    --bar: #1d4f70; --accent: #6cb8e6;
  }
}
* { box-sizing: border-box; margin: 0; }
body {
  margin: 0 auto; max-width: 76rem; padding: 1.25rem .5rem;
  background: var(--page); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.75rem; line-height: 1.2; }
h2 { font-size: 1.25rem; line-height: 1.3; margin-bottom: .5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
header { padding: 0 .75rem 1rem; }
header p { font-size: 1.125rem; color: var(--soft); }
header strong { color: var(--ink); }
main, .tiles, .pair { display: grid; gap: 1rem; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); padding: 0; }
.tiles li { list-style: none; }
section, .tiles li {
  min-width: 0; padding: .75rem; border: 1px solid var(--line); border-radius: .75rem;
  background: var(--card);
}
.tiles h2 { margin: 0; font-size: 1rem; font-weight: 600; color: var(--soft); }
.tiles p, figcaption, .note { font-size: .875rem; color: var(--soft); }
.tiles .value { font-size: 2rem; line-height: 1.3; font-weight: 700; color: var(--accent); }
.tiles .detail { margin-bottom: .5rem; color: var(--ink); }
img {
  display: block; width: 100%; max-width: 36rem; margin: 0 auto; padding: .25rem;
  border-radius: .5rem; background: #fff;
}
figcaption, .note { margin-top: .5rem; }
.pair > * { min-width: 0; }
.scrolls { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .875rem; }
th, td { padding: .45rem .25rem; border-bottom: 1px solid var(--line); text-align: right; }
td { font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; }
th, td, figcaption strong { white-space: nowrap; }
th, figcaption strong { font-weight: 600; }
thead th { color: var(--soft); }
.bar {
  background: linear-gradient(var(--bar), var(--bar)) 0 / calc(100% * var(--share)) 70% no-repeat;
}
dl div { display: flex; gap: 1rem; padding: .3rem 0; }
dl div + div { border-top: 1px solid var(--line); }
dt { flex: 0 0 9rem; color: var(--soft); }
dd { overflow-wrap: anywhere; }
pre {
  max-height: 38rem; padding: .75rem; overflow: auto; border-radius: .5rem;
  background: var(--page); font: .8125rem/1.5 ui-monospace, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
@media screen and (min-width: 45rem) {
  .tiles { grid-template-columns: repeat(4, 1fr); }
}
@media screen and (min-width: 60rem) {
  body { padding: 2rem 1rem; }
  section, .tiles li { padding: 1rem; }
  main, .pair { grid-template-columns: 1fr 1fr; gap: 1rem 1.5rem; }
  main { gap: 1rem; }
  .tiles, .wide { grid-column: 1 / -1; }
  .pair { align-items: center; }
}
@media print {
  :root { --page: #fff; --ink: #000; --soft: #000; --accent: #000; --line: #bbb; --bar: #ddd; }
  * { print-color-adjust: exact; }
  html { font-size: 10pt; }
  body { max-width: none; padding: 0; }
  main, .pair { grid-template-columns: 1fr 1fr; gap: 6mm; }
  .tiles, .wide, section:nth-last-of-type(-n + 2) { grid-column: 1 / -1; }
  .tiles { grid-template-columns: repeat(4, 1fr); }
  header, section, .tiles li { border: 0; padding: 0; }
  section:not(:last-of-type), .tiles, dl { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  img { width: auto; max-width: 100%; max-height: 17cm; margin: 0; padding: 0; }
  pre { max-height: none; padding: 0; columns: 2; }
  .scrolls { overflow: visible; }
}
"""
