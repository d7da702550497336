"""The four files: from everywhere they can come from, and never a wrong one."""

import gzip
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import pytest
import torch
from torchvision.datasets import FashionMNIST

from fashion_lightning import CLASSES, files

PACKAGED = Path(str(resources.files("fashion_lightning") / "data"))
RAW = Path("FashionMNIST") / "raw"
Serve = Callable[[Path], str]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A function that starts a mirror: an HTTP server for a folder."""
    servers = []

    def start(folder: Path) -> str:
        handler = partial(QuietHandler, directory=str(folder))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def assert_official(data_dir: Path) -> None:
    """Compare what is on the disk with the packed files, by Python's gzip."""
    for packed in PACKAGED.glob("*.gz"):
        assert (data_dir / RAW / packed.stem).read_bytes() == gzip.decompress(packed.read_bytes())


def test_the_packages_copy(tmp_path: Path) -> None:
    assert "the package's copy" in files.prepare(tmp_path, mirrors=[])
    assert_official(tmp_path)
    assert sorted(path.name for path in (tmp_path / RAW).iterdir()) == sorted(
        path.stem for path in PACKAGED.glob("*.gz")
    )


def test_files_that_are_there_stay(tmp_path: Path) -> None:
    files.prepare(tmp_path, mirrors=[])
    times = [path.stat().st_mtime_ns for path in (tmp_path / RAW).iterdir()]
    assert "verified files in" in files.prepare(tmp_path)
    assert times == [path.stat().st_mtime_ns for path in (tmp_path / RAW).iterdir()]


def test_packed_files_that_are_there_are_unpacked(tmp_path: Path) -> None:
    shutil.copytree(PACKAGED, tmp_path / RAW)
    assert "unpacked from .gz files" in files.prepare(tmp_path, mirrors=["http://127.0.0.1:9/"])
    assert_official(tmp_path)


@pytest.mark.parametrize("train", [True, False])
def test_torchvision_reads_the_same(data_dir: Path, train: bool) -> None:
    theirs = FashionMNIST(
        data_dir, train=train, download=True
    )  # finds all of it: downloads nothing
    images, labels = files.load(data_dir, train=train)
    assert torch.equal(images, theirs.data)
    assert torch.equal(labels, theirs.targets)
    assert list(CLASSES) == theirs.classes


def test_download(tmp_path: Path, serve: Serve) -> None:
    mirror = serve(PACKAGED)
    assert f"downloaded from {mirror}" in files.prepare(tmp_path, mirrors=[mirror])
    assert_official(tmp_path)


def test_a_mirror_that_cannot_be_reached_is_left_for_the_next(tmp_path: Path, serve: Serve) -> None:
    mirror = serve(PACKAGED)
    line = files.prepare(tmp_path, mirrors=["http://127.0.0.1:9/", "no url", mirror])
    assert f"downloaded from {mirror}" in line
    assert "Connection refused" in line
    assert_official(tmp_path)


def test_wrong_files_of_a_mirror_are_not_taken(tmp_path: Path, serve: Serve) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(PACKAGED, wrong)
    swapped = wrong / "t10k-images-idx3-ubyte.gz"
    swapped.write_bytes(swapped.read_bytes()[:-1] + b"\1")
    line = files.prepare(tmp_path / "data", mirrors=[serve(wrong)])
    assert "the package's copy" in line
    assert "t10k-images-idx3-ubyte.gz has a wrong checksum" in line
    assert_official(tmp_path / "data")


@pytest.mark.parametrize("content", [b"", b"<html>", bytes(47_040_016)])
def test_damaged_files_are_replaced(tmp_path: Path, content: bytes) -> None:
    files.prepare(tmp_path, mirrors=[])
    (tmp_path / RAW / "train-images-idx3-ubyte").write_bytes(content)
    images, _ = files.load(tmp_path, train=True)  # even before they are replaced
    assert images.shape == (60_000, 28, 28)
    assert images.any()
    line = files.prepare(tmp_path, mirrors=[])
    assert "replaced damaged train-images-idx3-ubyte" in line
    assert_official(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    line = files.prepare(tmp_path / "data", mirrors=[])
    assert "the package's copy" in line
    assert "cannot be written" in line
    images, labels = files.load(tmp_path / "data", train=False)
    assert images.shape == (10_000, 28, 28)
    assert labels.bincount().tolist() == [1000] * 10


def test_the_licence_of_the_data_comes_with_it() -> None:
    assert "Zalando SE" in (PACKAGED / "LICENSE").read_text()
