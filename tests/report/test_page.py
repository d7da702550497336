import json
import os
import shutil
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from select import select
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from scipy.stats import binomtest
from torch import Tensor
from typing_extensions import override

from fashion_lightning import CLASSES, plotting
from fashion_lightning.report.page import read_curves, render, wilson_interval


class Page(HTMLParser):
    """What stands in a page; an element that is closed in the wrong order is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: dict[str, str] = {}  # by the tag that they stand in
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


class Browser:
    """Headless Chromium with one page, asked over a pipe by the DevTools protocol.

    What the page itself asks the network for is told apart from what Chromium does on its own: only
    the page's events are listened to.
    """

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium")
        assert program, "Expected `chromium` to be installed: the report is checked in it."
        # Chromium reads its commands from file 3 and writes its answers to file 4.
        reads, self._commands = os.pipe()
        self._answers, writes = os.pipe()
        start = f'exec "$@" 3</dev/fd/{reads} 4>/dev/fd/{writes}'
        options = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--remote-debugging-pipe", f"--user-data-dir={profile}"),
        )
        self._process = subprocess.Popen(
            ["sh", "-c", start, "sh", program, *options],
            pass_fds=(reads, writes),
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self._number, self._rest = 0, b""
        self.events: list[dict[str, Any]] = []
        self._session: dict[str, str] = {}
        target = self("Target.createTarget", url="about:blank")["targetId"]
        session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Network", "Log", "Runtime"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params, **self._session}
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while (message := self._receive()).get("id") != self._number:
            self.events.append(message)
        assert "result" in message, message
        result: dict[str, Any] = message["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select([self._answers], [], [], 60)[0], "Chromium does not answer."
            received = os.read(self._answers, 1 << 16)
            assert received, "Chromium has ended."
            self._rest += received
        message, _, self._rest = self._rest.partition(b"\0")
        content: dict[str, Any] = json.loads(message)
        return content

    def open(self, path: Path, *, width: int, dark: bool = False) -> None:
        """Load a file into a window of a width, in CSS pixels, as a telephone has it."""
        self(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self._url = path.as_uri()
        self("Page.navigate", url=self._url)
        while not self._of("Page.loadEventFired"):
            self.events.append(self._receive())
        time.sleep(0.5)  # What comes late is not to be missed.
        self.evaluate("0")

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"]["value"]

    @property
    def requests(self) -> list[str]:
        """What the page has asked for since it was opened, its own file and data: URLs left out."""
        events = [event["params"] for event in self._of("Network.requestWillBeSent")]
        urls = [event["request"]["url"] for event in events]
        return [url for url in urls if url != self._url and not url.startswith("data:")]

    @property
    def complaints(self) -> list[str]:
        """What the console shows as an error or a warning."""
        entries = [event["params"]["entry"] for event in self._of("Log.entryAdded")]
        texts = [entry["text"] for entry in entries if entry["level"] in ("error", "warning")]
        calls = [event["params"] for event in self._of("Runtime.consoleAPICalled")]
        texts += [str(call["args"]) for call in calls if call["type"] in ("error", "warning")]
        return texts + [str(event["params"]) for event in self._of("Runtime.exceptionThrown")]

    def _of(self, method: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["method"] == method]

    @property
    def width(self) -> int:
        """How wide what the page shows is, in CSS pixels: more than its window if it overflows."""
        return int(self.evaluate("document.documentElement.scrollWidth"))

    def close(self) -> None:
        self._session = {}
        self("Browser.close")
        self._process.wait(30)
        os.close(self._commands)
        os.close(self._answers)


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
        "mistakes": plotting.mistakes(images, labels[:12], 9 - labels[:12], probs[:12, 0]),
        "learning_curves": plotting.learning_curves(curves),
    }
    return {name: plotting.png(figure) for name, figure in drawn.items()}


def test_the_page_says_all_numbers_and_facts(
    report: dict[str, Any], figures: dict[str, bytes]
) -> None:
    text = " ".join(Page(render(report, figures, FACTS, "model:\n  lr: 0.0025\n")).texts.values())
    right = sum(report["confusion_matrix"][label][label] for label in range(10))
    interval = binomtest(right, 400).proportion_ci(method="wilson")
    for number in (
        *(f"{right} of 400", f"{right / 4:.2f} %"),
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
    (caption,) = (part.split("<")[0] for part in page.split("<figcaption>")[1:])
    assert caption == "Most often, it takes "
    names = Page(page).texts["strong"]
    assert names.endswith("ShirtT-shirt/topPulloverCoatCoatPullover")
    labels = torch.arange(10)
    assert "It confuses none." in render(a_report(labels, labels), figures, {})


def test_the_page_is_sound_html_that_refers_to_nothing_outside_it(
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


def test_hostile_texts_stay_text(report: dict[str, Any]) -> None:
    hostile = '</pre><script src=\'http://example.org\'>&amp;"<b onload="x">'
    report = {
        **report,
        "checkpoint": f"/{hostile}/\udcff.ckpt",
        "per_class": {f"{name}{hostile}": row for name, row in report["per_class"].items()},
    }
    content = render(
        report, {"confusion_matrix": b""}, {f"key{hostile}": f"fact{hostile}"}, hostile
    )
    content.encode()  # A name that is no Unicode can be written, too.
    page = Page(content)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert page.texts["pre"] == hostile
    assert page.texts["dt"].endswith(f"key{hostile}")
    assert page.texts["dd"] == f"/{hostile}/?.ckptfact{hostile}"
    assert hostile in page.texts["th"]
    assert hostile in page.texts["strong"]


def test_what_there_is_not_is_left_out(report: dict[str, Any], figures: dict[str, bytes]) -> None:
    report = {**report, "temperature": None, "uncalibrated": None, "checkpoint": None}
    figures = {name: content for name, content in figures.items() if name != "learning_curves"}
    page = Page(render(report, figures, {}))
    text = " ".join(page.texts.values())
    assert "temperature" not in text
    assert "None" not in text
    assert "How it learned" not in text
    assert "Configuration" not in text
    assert page.texts["dd"] == "none"


@pytest.mark.parametrize(("right", "n"), [(9044, 10_000), (0, 7), (7, 7), (1, 2)])
def test_the_interval_is_scipys(right: int, n: int) -> None:
    interval = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson_interval(right / n, n) == pytest.approx((interval.low, interval.high), abs=1e-6)


def log(run: Path, rows: list[tuple[int, dict[str, Tensor | float]]]) -> None:
    """Write metrics.csv as Lightning does."""
    logger = CSVLogger(run, name="", version="")
    for step, values in rows:
        logger.log_metrics(values, step)
    logger.save()


def test_curves_are_read_as_lightning_logs_them(tmp_path: Path) -> None:
    log(
        tmp_path,
        [
            (49, {"epoch": 0, "lr": 0.1, "train_loss_step": 2.0}),
            (109, {"epoch": 0, "val_loss": 0.5, "val_acc": 0.8, "val_f1": 0.8}),
            (109, {"epoch": 0, "train_loss": 1.5, "train_acc": 0.7}),
            (149, {"epoch": 1, "lr": 0.2, "train_loss_step": 1.0}),
            (219, {"epoch": 1, "val_loss": 0.4, "val_acc": 0.9, "val_f1": 0.9}),
            (219, {"epoch": 1, "train_loss": 1.2, "train_acc": 0.8}),
            (220, {"epoch": 2, "test_loss": 0.3, "test_acc": 0.9}),
        ],
    )
    assert read_curves(tmp_path) == {
        "train_loss": [(0, 1.5), (1, 1.2)],
        "val_loss": [(0, 0.5), (1, 0.4)],
        "train_acc": [(0, 0.7), (1, 0.8)],
        "val_acc": [(0, 0.8), (1, 0.9)],
        "lr": [(49, 0.1), (149, 0.2)],
    }


def test_a_continued_runs_newer_part_wins_from_where_it_begins(tmp_path: Path) -> None:
    for number in range(1, 13):  # As many as make the order of names another than that of numbers.
        epochs = [number - 1, number, number + 1]
        part = tmp_path / str(number)
        log(part, [(epoch, {"epoch": epoch, "val_loss": number}) for epoch in epochs])
        (part / "metrics.csv").rename(tmp_path / f"metrics_{number}.csv")
    (tmp_path / "metrics.csv").write_text("epoch,step,val_loss\n11,11,0.5\n")
    (tmp_path / "metrics_old.csv").write_text("a user's own")
    expected = [*((epoch, epoch + 1) for epoch in range(11)), (11, 0.5)]
    assert read_curves(tmp_path) == {"val_loss": expected}


def test_curves_that_are_missing_or_cut_off_are_no_error(tmp_path: Path) -> None:
    assert read_curves(tmp_path / "nowhere") == {}
    (tmp_path / "metrics.csv").write_text("epoch,step,lr,val_loss\n0,9,0.1,\n1,19,,0.4\n2,29,0.1e")
    assert read_curves(tmp_path) == {"val_loss": [(1, 0.4)], "lr": [(9, 0.1)]}
    (tmp_path / "metrics.csv").write_text("")
    assert read_curves(tmp_path) == {}


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
    # The browser does see what is wrong: here, a picture from elsewhere, which is too wide.
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
