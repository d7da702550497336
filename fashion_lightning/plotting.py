"""Figures: tensors and plain values in, matplotlib figures out. No trainer, no files, no pyplot.

All are as wide as a phone shows well: their smallest text can be read at 400 pixels.
"""

import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
import torch
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from PIL import Image, ImageOps
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.utilities.plot import plot_confusion_matrix

from fashion_lightning.data.files import CLASSES

# Of Okabe and Ito's palette: colour-blind readers tell these two apart, and so does grey print.
_BLUE, _ORANGE = "#0072B2", "#D55E00"
_RUST = "#B34700"  # A darker orange, in which small text can be read.
_WIDTH = 5.2  # inches
_INK, _LINE, _GRID = "#374151", "#9CA3AF", "#E5E7EB"
# On top of matplotlib's defaults: a user's matplotlibrc is for the user's own figures.
_STYLE: list[Any] = [
    "default",
    {
        "figure.dpi": 150,
        "font.size": 9,
        "axes.titlesize": "medium",
        "axes.edgecolor": _LINE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": _GRID,
        "lines.markersize": 4,
        "legend.frameon": False,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "xtick.labelcolor": _INK,
        "ytick.labelcolor": _INK,
        "xtick.color": _LINE,
        "ytick.color": _LINE,
    },
]


@style.context(_STYLE)
def png(figure: Figure) -> bytes:
    r"""Render a figure, 780 pixels wide.

    Example:
        >>> png(learning_curves({"val_acc": [(0, 0.8), (1, 0.9)]}))[:4]
        b'\x89PNG'
    """
    content = BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


@style.context(_STYLE)
def confusion_matrix(
    confusion: Tensor | Sequence[Sequence[int]], class_names: Sequence[str] = CLASSES
) -> Figure:
    """Draw how many images of each class were taken for which class.

    Args:
        confusion: Counts, ``(C, C)``, row = true class, column = predicted class.
        class_names: Names of the C classes. Of more than 20, only some are shown, and no counts.
    """
    figure = _figure(5.0, "compressed")
    axes = figure.subplots()
    # Nearly all images lie on the diagonal. A square root lets the mistakes beside it be seen.
    shades = ListedColormap(colormaps["Blues"](np.linspace(0, 1, 256) ** 0.5))
    many = len(class_names) > 20
    with warnings.catch_warnings():
        # NumPy 2 asks of tensors what PyTorch does not have yet.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        plot_confusion_matrix(
            torch.as_tensor(confusion),
            ax=axes,
            labels=[*class_names],
            cmap=shades,
            add_text=not many,
        )
    step = -(-len(class_names) // 20)
    places, names = range(0, len(class_names), step), class_names[::step]
    axes.set_xticks(places, names, rotation=40, ha="right", rotation_mode="anchor", size="medium")
    axes.set_yticks(places, names, rotation=0, size="medium")
    axes.set_xlabel("predicted class", size="medium")
    axes.set_ylabel("true class", size="medium")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for text in axes.texts:
        text.set_fontsize("medium")
        if text.get_text() == "0":
            text.set_color(_LINE)
    return figure


@style.context(_STYLE)
def reliability_diagram(
    probs: Tensor, labels: Tensor, uncalibrated: Tensor | None = None, n_bins: int = 15
) -> Figure:
    """Draw how often predictions of some confidence are right, above how many of them there are.

    The bins are those of torchmetrics' calibration error: `n_bins` of equal width, each with its
    lower edge, and one for a confidence of exactly 1. A point stands at the mean confidence and the
    accuracy of a bin that has images.

    Source: Guo et al. 2017, section 2, https://arxiv.org/abs/1706.04599

    Args:
        probs: Probabilities, ``(N, num_classes)``.
        labels: Class numbers, ``(N,)``.
        uncalibrated: Probabilities before temperature scaling, ``(N, num_classes)``, to compare.
        n_bins: Number of bins.
    """
    figure = _figure(5.6)
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
        curve.plot(
            confidence,
            accuracy,
            color=color,
            marker=marker,
            linewidth=width,
            clip_on=False,  # Points on the edge are seen whole.
            label=f"{label}ECE {percent(ece.item(), 1)}",
        )
        counts[-2] += counts[-1]  # A bin without a width has no bar.
        histogram.stairs(
            counts[:-1], edges, color=color, linewidth=width, fill=values is probs, zorder=3 - width
        )
    curve.legend(loc="lower right")
    curve.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1))
    histogram.set(xlabel="confidence", ylabel="images")
    histogram.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    curve.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    histogram.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    for axes in (curve, histogram):
        axes.grid()
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


@style.context(_STYLE)
def mistakes(
    images: Tensor,
    labels: Tensor,
    predictions: Tensor,
    confidences: Tensor,
    columns: int = 4,
    class_names: Sequence[str] = CLASSES,
) -> Figure:
    """Draw wrongly classified images with their true and their predicted class.

    Args:
        images: uint8, or floating point in [0, 1], ``(K, 28, 28)``, in the order to be drawn in.
        labels: True classes, ``(K,)``.
        predictions: Predicted classes, ``(K,)``.
        confidences: Probabilities of the predicted classes, ``(K,)``.
        columns: Number of images beside one another.
        class_names: Names of the classes.
    """
    if not len(images):
        return _notice("No mistakes: every prediction is right.")
    rows, width = -(-len(images) // columns), _WIDTH / columns
    side = width - 0.38
    height = side + 0.6  # There are three lines of text.
    figure = _figure(height * rows, None)
    axes = figure.add_axes((0, 0, 1, 1))  # One for all, in inches: two dozen are slow to draw.
    for number, (image, label, prediction, confidence) in enumerate(
        zip(images, labels.tolist(), predictions.tolist(), confidences.tolist(), strict=True)
    ):
        row, column = divmod(number, columns)
        left, top = column * width + 0.19, row * height + 0.19
        _show(axes, image, extent=(left, left + side, top + side, top))
        middle = left + side / 2
        axes.text(middle, top - 0.04, f"true {class_names[label]}", ha="center", va="bottom")
        text = f"predicted\n{class_names[prediction]} {percent(confidence, 1)}"
        axes.text(middle, top + side + 0.03, text, ha="center", va="top", color=_RUST)
    axes.axis("off")
    axes.set(xlim=(0, _WIDTH), ylim=(height * rows, 0))
    return figure


@style.context(_STYLE)
def learning_curves(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Draw loss, accuracy and learning rate of a run, each where there is something to draw.

    Args:
        curves: Points ``(epoch, value)`` of ``train_loss``, ``val_loss``, ``train_acc`` and
            ``val_acc``, and ``(step, value)`` of ``lr``. Any may be absent or empty.
    """
    panels = {
        "loss": ("train_loss", "val_loss"),
        "accuracy": ("train_acc", "val_acc"),
        "learning rate": ("lr",),
    }
    shown = {
        panel: drawn
        for panel, names in panels.items()
        if (drawn := [n for n in names if curves.get(n)])
    }
    if not shown:
        return _notice("No learning curves were logged.")
    heights = [1.0 if panel == "learning rate" else 2.0 for panel in shown]
    figure = _figure(0.4 + 1.1 * sum(heights))
    grid = figure.subplots(len(shown), squeeze=False, height_ratios=heights).flat
    for axes, (panel, names) in zip(grid, shown.items(), strict=True):
        for name in names:
            validation, many = name.startswith("val"), len(curves[name]) > 30
            axes.plot(
                *zip(*curves[name], strict=True),
                color=_ORANGE if validation else _BLUE,
                marker="" if many else "s" if validation else "o",
                label="validation" if validation else "training",
            )
        axes.set(xlabel="step" if panel == "learning rate" else "epoch", ylabel=panel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid()
        if panel == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        if panel != "learning rate":
            axes.legend()
    figure.align_ylabels()
    return figure


@style.context(_STYLE)
def samples(
    images: Tensor,
    labels: Tensor,
    per_class: int = 8,
    class_names: Sequence[str] = CLASSES,
) -> Figure:
    """Draw the first images of each class, one row per class.

    Args:
        images: uint8, or floating point in [0, 1], ``(N, 28, 28)``.
        labels: Class numbers, ``(N,)``.
        per_class: Images in a row. A class that has fewer leaves the rest of its row empty.
        class_names: Names of the classes.
    """
    figure = _figure(min(5.7, 45 / per_class), "compressed")
    axes = figure.subplots()
    side = images.shape[-1] + 2  # One picture of all: eighty axes are slow to draw.
    sheet = np.full((side * len(class_names), side * per_class), np.nan)
    for label in range(len(class_names)):
        for column, image in enumerate(images[labels == label][:per_class]):
            top, left = label * side, column * side
            sheet[top : top + side - 2, left : left + side - 2] = _pixels(image)
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="none")
    places = [side * label + side / 2 - 1.5 for label in range(len(class_names))]
    axes.set_yticks(places, class_names)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@style.context(_STYLE)
def draw_seeds(summary: Mapping[str, Any]) -> Figure:
    """Draw the accuracy of runs that differ by their seed, and the F1 score of each class.

    Args:
        summary: What `fashion_lightning.seeds.summarize` has returned.
    """
    classes = summary["per_class"]
    panels = [
        ("test accuracy", {"all images": summary["metrics"]["test_acc"]}),
        ("F1 score", {name: numbers["f1"] for name, numbers in classes.items()}),
    ]
    figure = _figure(1.6 + 0.32 * len(classes))
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
        axes.locator_params(axis="x", nbins=6)  # Seeds may differ in the third decimal only.
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    grid[0].set_title(
        f"{len(summary['seeds'])} seeds: points, their mean, and its 95 % interval", pad=6
    )
    return figure


@style.context(_STYLE)
def preview(
    pictures: Sequence[Image.Image],
    images: Tensor,
    probs: Tensor,
    names: Sequence[str],
    class_names: Sequence[str] = CLASSES,
) -> Figure:
    """Draw pictures beside what the network sees of them, and its three most probable classes.

    Args:
        pictures: The originals, K of them.
        images: What the network is given, uint8, or floating point in [0, 1], ``(K, 28, 28)``.
        probs: Probabilities, ``(K, C)``.
        names: The originals' paths; the files' names stand above them.
        class_names: Names of the C classes.
    """
    figure = _figure(1.35 * len(pictures) + 0.2)
    grid = figure.subplots(len(pictures), 3, squeeze=False, width_ratios=[1, 1, 1.3])
    grid[0, 1].set_title("the network sees", pad=3)
    grid[0, 2].set_title("its answer", pad=3)
    for (original, seen, answer), picture, image, row, name in zip(
        grid, pictures, images, probs, names, strict=True
    ):
        original.imshow(_small(picture), cmap="gray")
        original.set(xticks=[], yticks=[])
        original.spines[:].set(visible=True, color=_GRID)  # White pictures have edges, too.
        original.set_title(_printable(name), parse_math=False, pad=3)
        _show(seen, image)
        seen.axis("off")
        values, classes = row.topk(min(3, len(row)))
        colors = [_BLUE, _LINE, _LINE][: len(values)]
        bars = answer.barh(range(len(values)), values.tolist(), color=colors, height=0.55)
        answer.bar_label(bars, [percent(value, 1) for value in values.tolist()], padding=3)
        answer.set_yticks(range(len(values)), [class_names[label] for label in classes])
        answer.set(xlim=(0, 1.4), ylim=(2.6, -0.6), xticks=[])
        answer.spines["bottom"].set_visible(False)
        answer.tick_params(length=0)
    return figure


def _figure(
    height: float, layout: Literal["constrained", "compressed"] | None = "constrained"
) -> Figure:
    return Figure(figsize=(_WIDTH, height), layout=layout)


def _notice(text: str) -> Figure:
    figure = _figure(1.0)
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure


def percent(fraction: float, digits: int = 2) -> str:
    """Return a fraction in percent, with a no-break space, such as ``90.36 %``."""
    return f"{100 * fraction:.{digits}f}\u00a0%"


def _pixels(image: Tensor) -> Any:
    """Return an image as an array in [0, 1]."""
    return (image if image.is_floating_point() else image / 255).float().cpu().numpy()


def _show(axes: Axes, image: Tensor, **where: Any) -> None:
    axes.imshow(_pixels(image), cmap="gray", vmin=0, vmax=1, **where)


def _small(picture: Image.Image) -> Any:
    """Return a picture, upright, in a size and colours that can be drawn."""
    picture = ImageOps.exif_transpose(picture)
    picture.thumbnail((300, 300))
    # What has 16 or 32 bits a pixel would lose most of them in RGBA.
    return np.asarray(picture if picture.mode[0] in "IF" else picture.convert("RGBA"))


def _printable(name: str) -> str:
    """Cut a file's name to what fits above an image, with a box for what the font has not got."""
    name, font = PurePath(name).name, get_font(findfont("DejaVu Sans"))
    name = name if len(name) <= 16 else f"{name[:7]}…{name[-8:]}"
    return "".join(char if font.get_char_index(ord(char)) else "□" for char in name)
