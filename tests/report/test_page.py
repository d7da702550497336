from base64 import b64decode
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binomtest
from support.browser import Browser
from torch import Tensor
from typing_extensions import override

from fashion_lightning import CLASSES, plotting
from fashion_lightning.report.page import render, wilson_interval


class Page(HTMLParser):
    """The contents of a page. Elements that are not closed in order fail."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: dict[str, str] = {}  # by the innermost tag
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "link", "img"):
            self._open.append(tag)

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    @override
    def handle_data(self, data: str) -> None:
        tag = self._open[-1] if self._open else ""
        self.texts[tag] = self.texts.get(tag, "") + data.replace("\u00a0", " ")


FACTS = {"Device": "cuda (NVIDIA H100)", "Seed": "17", "Training time": "13.2 s"}


def a_report(labels: Tensor, predictions: Tensor) -> dict[str, Any]:
    """A report like metrics.json: accuracy and confusions are those of the labels."""
    confusion = torch.zeros(10, 10, dtype=torch.long)
    confusion.index_put_((labels, predictions), torch.tensor(1), accumulate=True)
    return {
        "test_acc": (labels == predictions).double().mean().item(),
        "test_loss": 0.43216,
        "test_f1": 0.71234,
        "test_ece": 0.012345,
        "num_images": len(labels),
        "temperature": 0.65432,
        "uncalibrated": {"test_loss": 0.54321, "test_ece": 0.0987},
        "per_class": {
            name: {
                "precision": 0.3 + i / 50,
                "recall": 0.6 + i / 50,
                "f1": i / 20,
                "support": 90 + i,
            }
            for i, name in enumerate(CLASSES)
        },
        "confusion_matrix": confusion.tolist(),
        "checkpoint": "/runs/version_3/checkpoints/best.ckpt",
    }


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    labels = torch.arange(400) % 10
    return a_report(labels, torch.where(torch.arange(400) % 7 == 0, 9 - labels, labels))


@pytest.fixture(scope="module")
def figures(report: dict[str, Any]) -> dict[str, bytes]:
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(200, 10, generator=generator).softmax(dim=1)
    labels = torch.randint(10, (200,), generator=generator)
    images = torch.rand(12, 28, 28, generator=generator)
    curves = {"train_loss": [(0.0, 0.9), (1.0, 0.5)], "val_loss": [(0.0, 0.8), (1.0, 0.6)]}
    drawn = {
        "confusion_matrix": plotting.confusion_matrix(report["confusion_matrix"]),
        "reliability_diagram": plotting.reliability_diagram(probs, labels),
        "mistakes": plotting.draw_mistakes(images, labels[:12], 9 - labels[:12], probs[:12, 0]),
        "learning_curves": plotting.learning_curves(curves),
    }
    return {name: plotting.png(figure) for name, figure in drawn.items()}


def test_the_page_shows_all_numbers_and_facts(
    report: dict[str, Any], figures: dict[str, bytes]
) -> None:
    text = " ".join(Page(render(report, figures, FACTS, "model:\n  lr: 0.0025\n")).texts.values())
    correct = sum(report["confusion_matrix"][label][label] for label in range(10))
    interval = binomtest(correct, 400).proportion_ci(method="wilson")
    for number in (
        *(f"{correct} of 400", f"{correct / 4:.2f} %"),
        f"95 % interval: {100 * interval.low:.2f} % to {100 * interval.high:.2f} %",
        *("0.4322", "0.5432", "71.23 %", "1.23 %", "9.87 %", "0.6543"),
        *(f"{30 + 2 * i}.0 %" for i in range(10)),
        *(f"{60 + 2 * i}.0 %" for i in range(10)),
        *(f"{5 * i}.0 %" for i in range(10)),
        *(str(90 + i) for i in range(10)),
        *CLASSES,
        *FACTS,
        *FACTS.values(),
        *("/runs/version_3/checkpoints/best.ckpt", "lr: 0.0025"),
    ):
        assert number in text, number


def test_the_page_names_the_most_frequent_confusions() -> None:
    labels = torch.tensor([6] * 7 + [2] * 5 + [4] * 3 + [8] * 1)
    predictions = torch.tensor([0] * 7 + [4] * 5 + [2] * 3 + [9] * 1)
    figures = {"confusion_matrix": b""}
    page = render(a_report(labels, predictions), figures, {})
    caption = page.split("<figcaption>")[1].split("</figcaption>")[0]
    text = "".join(part.split(">")[-1] for part in caption.split("<"))
    assert " ".join(text.split()) == (
        "Most frequent confusions: Shirt predicted as T-shirt/top (7), "
        "Pullover predicted as Coat (5), Coat predicted as Pullover (3)."
    )
    labels = torch.arange(10)
    assert "Every prediction is correct." in render(a_report(labels, labels), figures, {})


def test_the_page_is_valid_html_without_scripts_or_links(
    report: dict[str, Any], figures: dict[str, bytes]
) -> None:
    page = Page(render(report, figures, FACTS, "mirror: http://example.org/x\n"))
    assert page.tags.count("img") == 4
    assert page.tags.count("h1") == page.tags.count("title") == 1
    assert not {"script", "iframe", "object", "form"} & set(page.tags)
    targets = [value for name, value in page.attributes if name in ("src", "href", "srcset")]
    assert len(targets) == 5
    assert all(target.startswith("data:") for target in targets)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "url(" not in page.texts["style"]
    assert "@import" not in page.texts["style"]
    assert all(value for name, value in page.attributes if name == "alt")
    assert ("lang", "en") in page.attributes
    (policy,) = (value for _, value in page.attributes if value.startswith("default-src"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    encoded = [target.split(",")[1] for target in targets if "png" in target]
    assert sorted(map(b64decode, encoded)) == sorted(figures.values())


def test_texts_are_escaped(report: dict[str, Any]) -> None:
    hostile = '</pre><script src=\'http://example.org\'>&amp;"<b onload="x">'
    report = {
        **report,
        "checkpoint": f"/{hostile}/\udcff.ckpt",
        "per_class": {f"{name}{hostile}": row for name, row in report["per_class"].items()},
    }
    content = render(
        report, {"confusion_matrix": b""}, {f"key{hostile}": f"fact{hostile}"}, hostile
    )
    content.encode()  # So can a file name that is not Unicode.
    page = Page(content)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert page.texts["pre"] == hostile
    assert page.texts["dt"].endswith(f"key{hostile}")
    assert page.texts["dd"] == f"/{hostile}/?.ckptfact{hostile}"
    assert hostile in page.texts["th"]
    assert hostile in page.texts["strong"]


def test_what_is_absent_is_left_out(report: dict[str, Any], figures: dict[str, bytes]) -> None:
    report = {**report, "temperature": None, "uncalibrated": None, "checkpoint": None}
    figures = {name: content for name, content in figures.items() if name != "learning_curves"}
    page = Page(render(report, figures, {}))
    text = " ".join(page.texts.values())
    assert "temperature" not in text
    assert "None" not in text
    assert "before temperature scaling" not in text
    assert "Learning curves" not in text
    assert "Configuration" not in text
    assert page.texts["dd"] == "none"


@pytest.mark.parametrize(("correct", "n"), [(9044, 10_000), (0, 7), (7, 7), (1, 2)])
def test_the_interval_equals_scipys(correct: int, n: int) -> None:
    interval = binomtest(correct, n).proportion_ci(method="wilson")
    assert wilson_interval(correct / n, n) == pytest.approx((interval.low, interval.high), abs=1e-6)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


@pytest.mark.long
def test_the_page_in_a_real_browser(
    browser: Browser, tmp_path: Path, report: dict[str, Any], figures: dict[str, bytes]
) -> None:
    path = tmp_path / "report.html"
    config = f"model:\n  lr: 0.0025\n  name: {'long' * 100}\n" * 30
    facts = {**FACTS, "Command": "x" * 300}
    page = render(report, figures, facts, config)
    # A picture from elsewhere that is too wide, to show that the browser notices.
    picture = '<img src="http://127.0.0.1:9/a.png" style="width: 2000px">'
    path.write_text(page.replace("</main>", f"{picture}</main>").replace("data:;", "*;"))
    browser.open(path, width=400)
    assert browser.requests == ["http://127.0.0.1:9/a.png"]
    assert browser.complaints
    assert browser.width > 400
    path.write_text(page)
    for width in (320, 400, 1400):
        for dark in (False, True):
            browser.open(path, width=width, dark=dark)
            assert browser.requests == []
            assert browser.complaints == []
            assert browser.width <= width
            pictures = "[...document.images].every(image => image.complete && image.naturalWidth)"
            assert browser.evaluate(pictures)
            background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
            red = int(background.removeprefix("rgb(").split(",")[0])
            assert (red < 64) == dark
