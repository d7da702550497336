"""Figures, legible at 400 pixels, of tensors and plain values: no trainer, files or pyplot."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from matplotlib import style
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from fashion_lightning.data.files import CLASSES

__all__ = [
    "confusion_matrix",
    "draw_mistakes",
    "draw_seeds",
    "learning_curves",
    "png",
    "reliability_diagram",
    "samples",
]

# From Okabe and Ito's palette, which colour-blind readers and grey prints can distinguish.
_BLUE, _ORANGE = "#0072B2", "#D55E00"
_RUST = "#B34700"  # a darker orange for small text
_WIDTH = 5.2  # inches
_INK, _LINE, _GRID = "#374151", "#9CA3AF", "#E5E7EB"
# On top of matplotlib's defaults, so that a user's matplotlibrc does not apply.
STYLE: list[Any] = [
    "default",
    {
        "figure.dpi": 150,
        "font.size": 9,
        "axes.titlesize": "medium",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": _GRID,
        "lines.markersize": 4,
        "legend.frameon": False,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "axes.edgecolor": _LINE,
        **dict.fromkeys(["text.color", "axes.labelcolor", "xtick.color", "ytick.color"], _INK),
    },
]


class NotebookFigure(Figure):
    """A figure that a notebook shows, also without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


@style.context(STYLE)
def png(figure: Figure) -> bytes:
    """Return a figure as a PNG, 780 pixels wide."""
    content = BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


@style.context(STYLE)
def confusion_matrix(
    confusion: Tensor | Sequence[Sequence[int]], class_names: Sequence[str] = CLASSES
) -> Figure:
    """Draw a confusion matrix.

    Args:
        confusion: Counts, ``(C, C)``, row = true class, column = predicted class.
        class_names: Names of the C classes. Of more than 20, only some are shown, and no counts.
    """
    figure = NotebookFigure(figsize=(_WIDTH, 5.0), layout="compressed")
    axes = figure.subplots()
    counts = torch.as_tensor(confusion).cpu().numpy()
    # Most images lie on the diagonal; a square root makes the others visible.
    axes.imshow(counts, cmap="Blues", norm=PowerNorm(0.5, vmin=0))
    if len(class_names) <= 20:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if count > counts.max() / 4 else _INK if count else _LINE
            axes.text(column, row, f"{count}", ha="center", va="center", color=color)
    step = -(-len(class_names) // 20)
    places, names = range(0, len(class_names), step), class_names[::step]
    axes.set_xticks(places, names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, names)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.spines[:].set_visible(False)
    return figure


@style.context(STYLE)
def reliability_diagram(
    probs: Tensor, labels: Tensor, uncalibrated: Tensor | None = None, n_bins: int = 15
) -> Figure:
    """Draw accuracy by confidence, above a histogram of the confidence.

    The bins are those of torchmetrics' calibration error: `n_bins` of equal width, which include
    their lower edge, and one for a confidence of exactly 1. Each bin that has images is a point at
    its mean confidence and its accuracy (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    Args:
        probs: Probabilities, ``(N, num_classes)``.
        labels: Class numbers, ``(N,)``.
        uncalibrated: Probabilities before temperature scaling, ``(N, num_classes)``, to compare.
        n_bins: Number of bins.
    """
    figure = NotebookFigure(figsize=(_WIDTH, 5.6), layout="constrained")
    curve, histogram = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    curve.plot([0, 1], [0, 1], color=_LINE, linestyle="--", label="perfectly calibrated")
    edges = np.linspace(0, 1, n_bins + 1)
    series = [("", probs, _BLUE, "o", 1.6)]
    if uncalibrated is not None:
        before = ("before temperature scaling: ", uncalibrated, _ORANGE, "s", 1.0)
        series = [before, ("after temperature scaling: ", *series[0][1:])]
    for label, values, color, marker, width in series:
        ece = multiclass_calibration_error(values, labels, values.shape[1], n_bins, norm="l1")
        confidence, accuracy, counts = _calibration(values, labels, n_bins)
        label += f"ECE {percent(ece.item(), 1)}"
        look: dict[str, Any] = {"color": color, "linewidth": width}
        # Not clipped: points may lie on the edge.
        curve.plot(confidence, accuracy, marker=marker, clip_on=False, label=label, **look)
        counts[-2] += counts[-1]  # The last bin has no width.
        histogram.stairs(counts[:-1], edges, fill=values is probs, zorder=3 - width, **look)
    curve.legend(loc="lower right")
    curve.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1))
    histogram.set(xlabel="confidence", ylabel="images")
    histogram.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    curve.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    histogram.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    curve.grid()
    histogram.grid()
    figure.align_ylabels()
    return figure


def _calibration(probs: Tensor, labels: Tensor, n_bins: int) -> tuple[Any, Any, Any]:
    """Return mean confidence and accuracy of each bin that has images, and all bins' counts."""
    confidence, predictions = probs.max(dim=1)
    edges = torch.linspace(0, 1, n_bins + 1, dtype=probs.dtype, device=probs.device)
    bins = torch.bucketize(confidence, edges, right=True) - 1
    counts = bins.bincount(minlength=n_bins + 1)
    correct = (predictions == labels).to(probs.dtype)
    sums = (bins.bincount(weights, n_bins + 1) for weights in (confidence, correct))
    mean_confidence, accuracy = ((total / counts)[counts > 0].cpu().numpy() for total in sums)
    return mean_confidence, accuracy, counts.cpu().numpy()


@style.context(STYLE)
def draw_mistakes(
    images: Tensor,
    labels: Tensor,
    predictions: Tensor,
    confidences: Tensor,
    class_names: Sequence[str] = CLASSES,
) -> Figure:
    """Draw wrongly classified images with their true and their predicted class.

    Args:
        images: uint8, or floating point in [0, 1], ``(K, 28, 28)``.
        labels: True classes, ``(K,)``.
        predictions: Predicted classes, ``(K,)``.
        confidences: Probabilities of the predicted classes, ``(K,)``.
        class_names: Names of the classes.
    """
    if not len(images):
        return _notice("No mistakes: every prediction is correct.")
    columns, rows = 4, -(-len(images) // 4)
    width = _WIDTH / columns
    side, height = width - 0.38, width + 0.22  # with three lines of text
    figure = NotebookFigure(figsize=(_WIDTH, height * rows))
    axes = figure.add_axes((0, 0, 1, 1))  # In inches. Two dozen axes would be slow.
    for number, (image, label, prediction, confidence) in enumerate(
        zip(images, labels.tolist(), predictions.tolist(), confidences.tolist(), strict=True)
    ):
        row, column = divmod(number, columns)
        left, top = column * width + 0.19, row * height + 0.19
        extent = (left, left + side, top + side, top)
        axes.imshow(pixels(image), cmap="gray", vmin=0, vmax=1, extent=extent)
        middle = left + side / 2
        axes.text(middle, top - 0.04, f"true {class_names[label]}", ha="center", va="bottom")
        text = f"predicted\n{class_names[prediction]} {percent(confidence, 1)}"
        axes.text(middle, top + side + 0.03, text, ha="center", va="top", color=_RUST)
    axes.axis("off")
    axes.set(xlim=(0, _WIDTH), ylim=(height * rows, 0))
    return figure


@style.context(STYLE)
def learning_curves(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Draw loss, accuracy and learning rate of a run.

    Args:
        curves: Points ``(epoch, value)`` of ``train_loss``, ``val_loss``, ``train_acc`` and
            ``val_acc``, and ``(step, value)`` of ``lr``. Any may be absent or empty.
    """
    panels = {
        "loss": ["train_loss", "val_loss"],
        "accuracy": ["train_acc", "val_acc"],
        "learning rate": ["lr"],
    }
    panels = {panel: [n for n in names if curves.get(n)] for panel, names in panels.items()}
    panels = {panel: names for panel, names in panels.items() if names}
    if not panels:
        return _notice("No learning curves were logged.")
    heights = [1.0 if panel == "learning rate" else 2.0 for panel in panels]
    figure = NotebookFigure(figsize=(_WIDTH, 0.4 + 1.1 * sum(heights)), layout="constrained")
    grid = figure.subplots(len(panels), squeeze=False, height_ratios=heights).flat
    for axes, (panel, names) in zip(grid, panels.items(), strict=True):
        for name in names:
            label = "validation" if name.startswith("val") else "training"
            color, marker = (_ORANGE, "s") if label == "validation" else (_BLUE, "o")
            marker = marker if len(curves[name]) <= 30 else ""
            axes.plot(*zip(*curves[name], strict=True), color=color, marker=marker, label=label)
        axes.set(xlabel="step" if panel == "learning rate" else "epoch", ylabel=panel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid()
        if panel == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        if panel != "learning rate":
            axes.legend()
    figure.align_ylabels()
    return figure


@style.context(STYLE)
def samples(
    images: Tensor, labels: Tensor, per_class: int = 8, class_names: Sequence[str] = CLASSES
) -> Figure:
    """Draw the first images of each class, one row per class.

    Args:
        images: uint8, or floating point in [0, 1], ``(N, 28, 28)``.
        labels: Class numbers, ``(N,)``.
        per_class: Images per row. A class with fewer leaves the rest of its row empty.
        class_names: Names of the classes.
    """
    figure = NotebookFigure(figsize=(_WIDTH, min(5.7, 45 / per_class)), layout="compressed")
    axes = figure.subplots()
    side = images.shape[-1] + 2  # In one picture. Eighty axes would be slow.
    sheet = np.full((side * len(class_names), side * per_class), np.nan)
    for label in range(len(class_names)):
        for column, image in enumerate(images[labels == label][:per_class]):
            top, left = label * side, column * side
            sheet[top : top + side - 2, left : left + side - 2] = pixels(image)
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="none")
    places = [side * label + side / 2 - 1.5 for label in range(len(class_names))]
    axes.set_yticks(places, class_names)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    return figure


@style.context(STYLE)
def draw_seeds(summary: Mapping[str, Any]) -> Figure:
    """Draw the accuracy of runs that differ by their seed, and the F1 score of each class.

    Args:
        summary: What `fashion_lightning.seeds.summarize` returned.
    """
    classes = summary["per_class"]
    panels = [
        ("test accuracy", {"all images": summary["metrics"]["test_acc"]}),
        ("F1 score", {name: numbers["f1"] for name, numbers in classes.items()}),
    ]
    figure = NotebookFigure(figsize=(_WIDTH, 1.6 + 0.32 * len(classes)), layout="constrained")
    grid = figure.subplots(2, height_ratios=[1, 1.2 * len(classes)])
    for axes, (title, rows) in zip(grid, panels, strict=True):
        for place, number in enumerate(rows.values()):
            low, high = number["interval"]
            axes.plot([low, high], [place] * 2, color=_GRID, linewidth=7, solid_capstyle="butt")
            axes.plot(number["values"], [place] * len(number["values"]), "o", color=_BLUE)
            axes.plot(number["mean"], place, "|", color=_ORANGE, markersize=11, markeredgewidth=2)
        axes.set_yticks(range(len(rows)), rows)
        axes.set(xlabel=title, ylim=(len(rows) - 0.5, -0.5))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.locator_params(axis="x", nbins=6)  # Labels are long if seeds are close.
        axes.grid(axis="x")
    grid[0].set_title(f"{len(summary['seeds'])} seeds: values, mean, 95 % interval", pad=6)
    return figure


def _notice(text: str) -> Figure:
    figure = NotebookFigure(figsize=(_WIDTH, 1.0))
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure


def percent(fraction: float, digits: int = 2) -> str:
    """Return a fraction in percent, with a no-break space, such as ``90.36 %``."""
    return f"{100 * fraction:.{digits}f}\u00a0%"


def pixels(image: Tensor) -> Any:
    """Return an image as an array in [0, 1]."""
    return (image if image.is_floating_point() else image / 255).float().cpu().numpy()
