"""The demo: its answers, its refusals, and the page in a real browser."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from socket import socket
from time import monotonic

import pytest
import torch
from PIL import Image
from support.browser import Browser

from fashion_lightning.cli.main import main
from fashion_lightning.data import files
from fashion_lightning.demo import answer, serve
from fashion_lightning.photos import PhotoClassifier

# Prints each address that the process connects to.
PROGRAM = """
import sys
from time import monotonic
def report(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print("connects:", args[1] if event == "socket.connect" else args[0], flush=True)
sys.addaudithook(report)
import gradio
from fashion_lightning.cli.main import main
from fashion_lightning import demo
print("imported", flush=True)
main(["demo", "--port", sys.argv[1]])
"""


@pytest.fixture(scope="module")
def classifier() -> PhotoClassifier:
    return PhotoClassifier()


@pytest.fixture
def boot(data_dir: Path, tmp_path: Path) -> Path:
    """A photograph of a boot on white."""
    image = Image.fromarray(255 - files.load(data_dir, train=False)[0][0].numpy())
    path = tmp_path / "boot.jpg"
    image.resize((300, 300)).save(path)
    return path


def test_an_answer_shows_the_class_the_input_and_all_probabilities(
    classifier: PhotoClassifier, boot: Path
) -> None:
    page = answer(classifier, boot)
    assert "<h2>Ankle boot</h2>" in page
    assert "Not sure" not in page
    names = re.findall(r'<th scope="row">(.*?)</th>', page)
    assert names[0] == "Ankle boot"
    assert sorted(names) == sorted(files.CLASSES)
    shares = [float(share) for share in re.findall(r"--share: (\S+)\"", page)]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert re.findall(r'src="(.{22})', page) == ["data:image/png;base64,"]


def test_what_is_not_sure_says_so(
    classifier: PhotoClassifier, data_dir: Path, tmp_path: Path
) -> None:
    images = files.load(data_dir, train=False)[0][:200]
    with torch.no_grad():
        confidences = classifier.plain.predict_step(images[:, None] / 255, 0).amax(1)
    path = tmp_path / "least_confident.png"
    Image.fromarray(images[confidences.argmin()].numpy()).save(path)
    page = answer(classifier, path)
    assert "<h2>Not sure</h2>" in page
    assert "Most probably " in page


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<b>text</b>", "Expected a PNG, JPEG, WebP"),
        (b"\x89PNG\r\n\x1a\n", "Expected"),
        (None, "Expected `picture` to show something, but got one colour all over."),
    ],
)
def test_what_cannot_be_classified_is_explained(
    classifier: PhotoClassifier, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (300, 300), "white").save(path)
    if content:
        path.write_bytes(content)
    page = answer(classifier, path)
    assert "<h2>No prediction</h2>" in page
    assert reason in page
    assert str(tmp_path) not in page
    assert "<table>" not in page


def test_names_of_classes_are_escaped(boot: Path) -> None:
    classifier = PhotoClassifier("pretrained:mlp")
    classifier.plain.class_names = tuple(f"<script>{label}" for label in range(10))
    assert "<script>" not in answer(classifier, boot)


def test_without_gradio_the_demo_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fashion_lightning.arguments.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as error:
        main(["demo"])
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert "Expected gradio to be installed for the demo" in message
    assert "fashion-lightning[demo]" in message


def test_a_port_out_of_range_is_refused() -> None:
    pytest.importorskip("gradio", reason="the extra `demo`")
    with pytest.raises(ValueError, match=r"Expected `port` to be in 1 \.\.\. 65535, but got 0\."):
        serve(port=0)


def test_the_help_fits_on_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 24
    assert [line.split()[0] for line in lines if line.startswith("  --")] == [
        *("--ckpt_path", "--host", "--port")
    ]


def start(folder: Path) -> tuple["subprocess.Popen[str]", list[str]]:
    """Start the command in an empty folder; return it, and what it printed: last, the address."""
    for name in ("here", "home", "temporary"):
        (folder / name).mkdir()
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(port)],
        cwd=folder / "here",
        env={**os.environ, "TMPDIR": str(folder / "temporary"), "HOME": str(folder / "home")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    lines = iter(process.stdout.readline, "")
    said = list(iter(lambda: next(lines), "imported\n"))
    began = monotonic()
    while not (said and said[-1].startswith("Drop photographs")):
        said.append(next(lines))
    print(f"The demo starts {monotonic() - began:.1f} s after the imports.")
    assert monotonic() - began < 10
    return process, said


@pytest.mark.long
def test_the_page_in_a_real_browser(boot: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the extra `demo`")
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(boot.read_bytes()[:300])
    process, said = start(tmp_path)
    browser = Browser(tmp_path / "profile")
    target = "button.upload-container:not(.hidden)"
    heading = "document.querySelector('.answer h2')?.innerText"
    remove = "document.querySelector('[title=\"Remove Image\"]')"
    try:
        url = re.findall(r"http://127\.0\.0\.1:\d+/", said[-1])[0]
        for width in (400, 1400):
            for dark in (False, True):
                browser.open(url, width=width, dark=dark)
                for photo, expected in ((boot, "Ankle boot"), (damaged, "No prediction")):
                    browser.wait(f"!!document.querySelector('{target}')")
                    browser.drop(photo, target)
                    browser.wait(f"{heading} == '{expected}'")
                    assert browser.width <= width
                    browser.wait(f"!!{remove}")
                    browser.evaluate(f"{remove}.click(); 0")
                    browser.wait("!document.querySelector('.answer h2')")
                browser.evaluate("document.querySelectorAll('.gallery-item')[8].click(); 0")
                browser.wait(f"{heading} == 'Bag'")
                rows = "document.querySelectorAll('.answer tr').length"
                assert browser.evaluate(rows) == 10
                assert [each for each in browser.requests if not each.startswith(url)] == []
                # A warning of Gradio 6, whenever a prediction is complete.
                ours = [c for c in browser.complaints if "Method not implemented." not in c]
                assert ours == []
    finally:
        browser.close()
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=30)[0].splitlines()
    assert process.returncode == 0
    addresses = [line for line in said if line.startswith("connects:")]
    assert addresses
    assert [line for line in addresses if "127.0.0.1" not in line] == []
    assert [*(tmp_path / "here").iterdir()] == []
    left = [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]
    assert left == []
