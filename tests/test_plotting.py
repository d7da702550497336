import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

from fashion_lightning import CLASSES, plotting
from fashion_lightning.data import files
from fashion_lightning.photos import draw_preview


@pytest.fixture(autouse=True)
def matplotlib_stays_as_it_was() -> Iterator[None]:
    """No figure is left open, and no setting of the user is changed."""
    settings = dict(mpl.rcParams)
    yield
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == settings


@pytest.fixture(scope="module")
def test_set(data_dir: Path) -> tuple[Tensor, Tensor]:
    return files.load(data_dir, train=False)


def texts(figure: Figure) -> list[str]:
    """All texts of a figure, which is not cut off anywhere."""
    plotting.png(figure)  # creates some of the texts
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) > -1e-6
    shown: list[Any] = figure.findobj(Text)
    return [text.get_text() for text in shown if text.get_visible() and text.get_text()]


def pixels(axes: Axes) -> Any:
    (image,) = axes.images
    return image.get_array()


def random_probs(n: int, *, seed: int, scale: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (n,), generator=generator)
    logits = torch.randn(n, 10, generator=generator) + 2 * torch.eye(10)[labels]
    return (scale * logits.double()).softmax(dim=1), labels


def test_a_figure_is_a_png_of_780_pixels_width() -> None:
    picture = Image.open(io.BytesIO(plotting.png(plotting.confusion_matrix(torch.eye(10).long()))))
    assert picture.format == "PNG"
    assert picture.width == 780


def test_figures_of_real_images_are_small_files(test_set: tuple[Tensor, Tensor]) -> None:
    images, labels = test_set
    confidences = torch.linspace(0.99, 0.5, 24)
    sheet = plotting.draw_mistakes(images[:24], labels[:24], (labels[:24] + 1) % 10, confidences)
    for figure in (sheet, plotting.samples(images, labels)):
        assert 20_000 < len(plotting.png(figure)) < 300_000


def test_a_notebook_shows_a_figure() -> None:
    """IPython asks an object that it does not know for this method."""
    figure: Any = plotting.confusion_matrix([[1, 0], [0, 1]], ["a", "b"])
    assert figure._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_users_style_does_not_apply() -> None:
    curves = {"val_acc": [(0.0, 0.5), (1.0, 0.75)]}
    plain = plotting.png(plotting.learning_curves(curves))
    with mpl.rc_context({"font.size": 30, "savefig.dpi": 20, "axes.facecolor": "black"}):
        assert plotting.png(plotting.learning_curves(curves)) == plain


@pytest.mark.parametrize("per_class", [1, 8, 20])
def test_samples_fit_into_their_figure(per_class: int, test_set: tuple[Tensor, Tensor]) -> None:
    assert set(texts(plotting.samples(*test_set, per_class))) == {*CLASSES}


@pytest.mark.parametrize("convert", [torch.as_tensor, Tensor.tolist])
def test_the_confusion_matrix_has_true_classes_in_rows(convert: Any) -> None:
    confusion = torch.arange(100).view(10, 10) * 11
    figure = plotting.confusion_matrix(convert(confusion))
    texts(figure)
    (axes,) = figure.axes
    counts = {text.get_position(): text.get_text() for text in axes.texts}
    expected = {
        (column, row): str(confusion[row, column].item())
        for row in range(10)
        for column in range(10)
    }
    assert counts == expected
    assert [label.get_text() for label in axes.get_xticklabels()] == [*CLASSES]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*CLASSES]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert np.array_equal(pixels(axes), confusion)


def bins(probs: Any, labels: Any, n_bins: int) -> tuple[Any, Any]:
    """Mean confidence and accuracy of the bins that have images, and all counts, by NumPy."""
    confidence, correct = probs.max(1), probs.argmax(1) == labels
    points, counts = [], []
    for number in range(n_bins + 1):  # The last one is for those that are exactly 1.
        inside = (confidence * n_bins >= number) & (confidence * n_bins < number + 1)
        counts.append(inside.sum())
        if inside.any():
            points.append((confidence[inside].mean(), correct[inside].mean()))
    return np.array(points), np.array(counts)


@pytest.mark.parametrize("n_bins", [15, 4])
def test_the_reliability_diagram_shows_bins_computed_by_numpy(n_bins: int) -> None:
    probs, labels = random_probs(3000, seed=0, scale=1.5)
    probs[:3] = torch.eye(10)[:3]  # A confidence of exactly 1.
    before, _ = random_probs(3000, seed=0, scale=0.5)
    figure = plotting.reliability_diagram(probs, labels, before, n_bins)
    curve, histogram = figure.axes
    diagonal, *lines = curve.lines
    assert np.array_equal(diagonal.get_xydata(), [[0, 0], [1, 1]])
    patches: Any = histogram.patches
    for values, line, bars in zip((before, probs), lines, patches, strict=True):
        points, counts = bins(values.numpy(), labels.numpy(), n_bins)
        assert np.allclose(line.get_xydata(), points)
        assert np.array_equal(bars.get_data().values, [*counts[:-2], counts[-2:].sum()])
        assert np.allclose(bars.get_data().edges, np.linspace(0, 1, n_bins + 1))
        ece = np.average(abs(points[:, 0] - points[:, 1]), weights=counts[counts > 0])
        assert str(line.get_label()).endswith(f"ECE {100 * ece:.1f}\u00a0%")
    before_name, after_name = (str(line.get_label()) for line in lines)
    assert before_name.startswith("before temperature scaling")
    assert after_name.startswith("after temperature scaling")
    shown = texts(figure)
    for text in ("confidence", "accuracy", "images", "perfectly calibrated"):
        assert text in shown


def test_a_network_without_temperature_has_one_curve() -> None:
    probs, labels = random_probs(100, seed=1, scale=1)
    figure = plotting.reliability_diagram(probs.float(), labels)
    assert len(figure.axes[0].lines) == 2
    assert not [text for text in texts(figure) if "temperature" in text]


@pytest.mark.parametrize("k", [1, 4, 9])
def test_a_mistake_has_its_image_its_classes_and_its_confidence(
    k: int, test_set: tuple[Tensor, Tensor]
) -> None:
    images, labels = test_set[0][:k], test_set[1][:k]
    predictions = (labels + 3) % 10
    figure = plotting.draw_mistakes(images, labels, predictions, torch.linspace(0.987, 0.5, k))
    shown = texts(figure)
    assert shown.count(f"true {CLASSES[labels[0]]}") == labels.eq(labels[0]).sum()
    (axes,) = figure.axes
    assert len(axes.images) == k
    places = set()
    for number, (drawn, image) in enumerate(zip(axes.images, images, strict=True)):
        np.testing.assert_allclose(np.asarray(drawn.get_array()), image / 255)
        left, right, bottom, top = drawn.get_extent()
        places.add((left, top))
        above, below = axes.texts[2 * number : 2 * number + 2]
        assert above.get_text() == f"true {CLASSES[labels[number]]}"
        assert below.get_text().startswith(f"predicted\n{CLASSES[predictions[number]]} ")
        for text, edge in ((above, top), (below, bottom)):
            assert text.get_position() == pytest.approx(((left + right) / 2, edge), abs=0.1)
    assert len(places) == k
    assert axes.texts[1].get_text().endswith(" 98.7\u00a0%")


def test_no_mistakes_have_a_notice() -> None:
    none = torch.zeros(0, dtype=torch.long)
    (text,) = texts(plotting.draw_mistakes(torch.zeros(0, 28, 28), none, none, none.float()))
    assert text.startswith("No mistakes")


def test_bytes_and_fractions_look_the_same(test_set: tuple[Tensor, Tensor]) -> None:
    images, labels = test_set[0][:50], test_set[1][:50]
    sheets = [plotting.samples(values, labels, 2) for values in (images, images.float() / 255)]
    assert plotting.png(sheets[0]) == plotting.png(sheets[1])


CURVES = {
    "train_loss": [(0.0, 0.9), (1.0, 0.5), (2.0, 0.4)],
    "val_loss": [(0.0, 0.8), (2.0, 0.6)],
    "train_acc": [(0.0, 0.7), (1.0, 0.75), (2.0, 0.8)],
    "val_acc": [(0.0, 0.65)],
    "lr": [(49.0, 0.001), (99.0, 0.002)],
}


def test_learning_curves_go_through_their_points() -> None:
    figure = plotting.learning_curves(CURVES)
    loss, accuracy, lr = figure.axes
    drawn = [line for axes in (loss, accuracy, lr) for line in axes.lines]
    for line, points in zip(drawn, CURVES.values(), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), points)
        assert line.get_marker() in ("o", "s")  # makes a single point visible
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy", "learning rate"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["epoch", "epoch", "step"]
    for axes in (loss, accuracy):
        assert [line.get_label() for line in axes.lines] == ["training", "validation"]
    assert {"training", "validation"} <= set(texts(figure))


def test_curves_that_were_not_logged_have_no_panel() -> None:
    figure = plotting.learning_curves(
        {"val_acc": CURVES["val_acc"], "train_loss": [], "x": [(0, 1)]}
    )
    (axes,) = figure.axes
    assert axes.get_ylabel() == "accuracy"
    (line,) = axes.lines
    assert line.get_label() == "validation"
    (text,) = texts(plotting.learning_curves({}))
    assert "No learning curves" in text


def test_samples_are_the_first_images_of_each_class(test_set: tuple[Tensor, Tensor]) -> None:
    images, labels = test_set
    of_a_bag = (labels == 8).nonzero()[:2]  # Only two bags: the rest of their row stays empty.
    keep = (labels != 8).scatter(0, of_a_bag.squeeze(1), True)
    images, labels = images[keep], labels[keep]
    figure = plotting.samples(images, labels, per_class=5)
    (axes,) = figure.axes
    sheet = pixels(axes).filled(np.nan)
    shown = texts(figure)
    assert [text for text in shown if text in CLASSES] == [*CLASSES]
    for label, place in enumerate(axes.get_yticks()):
        top = round(place - 13.5)  # The name stands beside the middle of the row.
        for column, image in enumerate(images[labels == label][:5]):
            left = column * sheet.shape[1] // 5
            tile = sheet[top : top + 28, left : left + 28]
            np.testing.assert_allclose(tile, image / 255, atol=1e-6)
    assert np.isnan(sheet[round(axes.get_yticks()[8]), 2 * sheet.shape[1] // 5 :]).all()


def test_a_preview_has_one_row_per_photograph() -> None:
    pictures = [Image.new("RGB", (400 + k, 30), (10 * k, 0, 0)) for k in range(6)]
    images = torch.rand(6, 28, 28)
    probs = torch.rand(6, 10).softmax(dim=1)
    figure = draw_preview(pictures, images, probs, [f"/a/{k}.png" for k in range(6)])
    for k, (photo, seen, bars) in enumerate(np.reshape(np.array(figure.axes), (6, 3))):
        assert photo.get_title(loc="left") == f"{k}.png"
        assert (pixels(photo)[0, 0, :3] == [10 * k, 0, 0]).all()
        np.testing.assert_array_equal(pixels(seen), images[k])
        values, classes = probs[k].sort(descending=True)
        names = [label.get_text() for label in bars.get_yticklabels()]
        assert names == [CLASSES[label] for label in classes[:3]]
        widths = [bar.get_width() for bar in bars.patches]
        np.testing.assert_allclose(widths, values[:3], rtol=1e-6)
        assert [text.get_text() for text in bars.texts] == [
            f"{100 * value:.1f}\u00a0%" for value in values[:3].tolist()
        ]
    assert {"network's input", "prediction"} <= set(texts(figure))
    assert pictures[0].size == (400, 30)  # The figure holds a copy.


def test_a_preview_takes_any_names_and_image_modes() -> None:
    modes = ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "I", "F"]
    names = [
        "$\\frac$.png",
        "$",
        "日本.jpg",
        "\udcff\n\t.png",
        "",
        "a" * 200,
        "x_{}^.gif",
        "ä",
        "b",
    ]
    pictures = [Image.new(mode, (3, 900)) for mode in modes]
    deep = Image.fromarray(np.array([[0, 30_000], [40_000, 65_535]], dtype=np.uint16))
    pictures[6] = deep
    probs = torch.eye(10)[:9]
    figure = draw_preview(pictures, torch.zeros(9, 28, 28), probs, names)
    shown = texts(figure)
    for name in ("$\\frac$.png", "$", "□□.jpg", "□□□.png", "aaaaaaa…aaaaaaaa", "ä"):
        assert name in shown
    levels = pixels(figure.axes[3 * 6])
    assert len(np.unique(levels)) == 4  # Sixteen bits are not cut off.
