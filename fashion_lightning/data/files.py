"""The four official files of FashionMNIST: found or downloaded, verified, unpacked and read.

Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
Machine Learning Algorithms", 2017, https://github.com/zalandoresearch/fashion-mnist
"""

import hashlib
import time
import zlib
from collections.abc import Sequence
from http.client import HTTPException
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from fashion_lightning.atomic import replacing
from fashion_lightning.data.download import download

NUM_TRAIN, NUM_TEST = 60_000, 10_000
"""Sizes of the official training and test set."""

IMAGE_SIZE = 28
"""Height and width of an image, in pixels."""

MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
"""Sources of the files if this package has no copy: torchvision's mirror, the dataset's own."""

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
"""The names of the ten classes, in label order."""


def default_names(num_classes: int) -> list[str]:
    """Return FashionMNIST's class names if there are ten classes, otherwise numbered ones."""
    numbered = [f"class {label}" for label in range(num_classes)]
    return [*CLASSES] if num_classes == len(CLASSES) else numbered


_DOWNLOAD_SECONDS = 45.0  # for all mirrors together

_SHA256 = {  # of the unpacked files
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def prepare(data_dir: str | Path, mirrors: Sequence[str] | None = None) -> str:
    """Bring the four unpacked files into `data_dir`.

    Missing and damaged files are unpacked from .gz files beside them, else downloaded from
    `mirrors`, else unpacked from this package's copy. They are verified before they get their
    names. Only one process at a time does this; the others wait.

    Args:
        data_dir: The files are in ``FashionMNIST/raw`` below it, as for torchvision.
        mirrors: Base URLs, tried in this order. None: `MIRRORS` if this package was built without
            its copy, else no downloads.

    Returns:
        One line that says where the files came from. If `data_dir` is not writable, it says so, and
        `load` reads the package's copy instead.
    """
    raw = _raw(data_dir)
    if not _missing(raw):
        return f"FashionMNIST: verified files in {raw}"
    try:
        raw.mkdir(parents=True, exist_ok=True)
        # The operating system releases the lock of a process that dies.
        with FileLock(raw.parent / ".lock", timeout=2 * _DOWNLOAD_SECONDS):
            return _fill(raw, mirrors)
    except (OSError, NotImplementedError) as error:  # The latter: a file system without locks.
        return f"FashionMNIST: the package's copy, since {raw} cannot be written ({error})"


def _fill(raw: Path, mirrors: Sequence[str] | None) -> str:
    """Write the files that are missing in `raw`; return the line that `prepare` returns."""
    if mirrors is None:
        mirrors = () if all(_package_path(name).is_file() for name in _SHA256) else MIRRORS
    missing = _missing(raw)
    if not missing:
        return f"FashionMNIST: verified files in {raw}, which another process has just made"
    damaged = [name for name in missing if (raw / name).exists()]
    started = time.monotonic()
    sources: dict[str, None] = {}  # a set that keeps its order
    problems: dict[str, str] = {}
    for name in missing:
        beside, source = raw / f"{name}.gz", f"unpacked from .gz files in {raw}"
        content = _unpack(name, beside.read_bytes()) if beside.is_file() else None
        if content is None:
            content, source = _obtain(name, mirrors, started, problems)
        with replacing(raw / name) as new:
            new.write_bytes(content)
        sources[source] = None
    line = f"FashionMNIST: {' and '.join(sources)}, verified, now in {raw}"
    if damaged:
        line += f"; replaced damaged {', '.join(damaged)}"
    if problems:
        line += f" ({'; '.join(f'{mirror}: {why}' for mirror, why in problems.items())})"
    return line


def _obtain(
    name: str, mirrors: Sequence[str], started: float, problems: dict[str, str]
) -> tuple[bytes, str]:
    """Return a file's content and its source; note in `problems` why mirrors failed."""
    for number, mirror in enumerate(mirrors, 1):
        if mirror in problems:  # It failed for an earlier file.
            continue
        # Each mirror has its share of the time, plus what those before it have not used.
        deadline = started + _DOWNLOAD_SECONDS * number / len(mirrors)
        try:
            packed = download(f"{mirror.rstrip('/')}/{name}.gz", _size(name), deadline)
        except (OSError, HTTPException, ValueError) as error:
            # Some reasons have several lines.
            problems[mirror] = " ".join(str(getattr(error, "reason", "") or error).split())
            continue
        content = _unpack(name, packed)
        if content is not None:
            return content, f"downloaded from {mirror}"
        problems[mirror] = f"{name}.gz has a wrong checksum"
    return _packaged(name), "the package's copy"


def load(data_dir: str | Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Read the images and labels of one of the two official sets.

    Args:
        data_dir: The folder given to `prepare`. Missing and damaged files are read from this
            package's copy instead.
        train: True: the 60,000 training images; False: the 10,000 test images.

    Returns:
        Images, uint8 in 0 ... 255, ``(N, 28, 28)``, and labels, int64 in 0 ... 9, ``(N,)``.
    """
    images, labels = (
        torch.frombuffer(
            _read(_raw(data_dir) / name) or bytearray(_packaged(name)), dtype=torch.uint8
        )
        for name in _SHA256
        if name.startswith("train" if train else "t10k")
    )
    # The idx format: a header of 4 bytes plus 4 per dimension, then the values.
    return images[16:].view(-1, IMAGE_SIZE, IMAGE_SIZE), labels[8:].long()


def _raw(data_dir: str | Path) -> Path:
    return Path(data_dir) / "FashionMNIST" / "raw"


def _missing(raw: Path) -> list[str]:
    return [name for name in _SHA256 if not _is_intact(raw / name)]


def _size(name: str) -> int:
    num_images = NUM_TRAIN if name.startswith("train") else NUM_TEST
    return 16 + num_images * IMAGE_SIZE**2 if "images" in name else 8 + num_images


def _is_intact(path: Path) -> bool:
    """Return whether an unpacked file is there and undamaged, without holding it in memory."""
    digest = hashlib.sha256()
    try:
        if path.stat().st_size != _size(path.name):
            return False
        with path.open("rb", buffering=0) as file:
            while block := file.read(1 << 18):
                digest.update(block)
    except OSError:
        return False
    return digest.hexdigest() == _SHA256[path.name]


def _read(path: Path) -> memoryview | None:
    """Return the content of an unpacked file, or None if it is missing or damaged."""
    content = np.empty(_size(path.name), np.uint8).data  # not filled with zeros first
    try:
        with path.open("rb") as file:
            if file.readinto(content) != len(content) or file.read(1):
                return None
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == _SHA256[path.name] else None


def _unpack(name: str, packed: bytes) -> bytes | None:
    """Return the content of a file's .gz, or None if it is damaged."""
    try:
        # The limit stops gzip bombs.
        content = zlib.decompressobj(wbits=31).decompress(packed, _size(name))
    except zlib.error:
        return None
    return content if hashlib.sha256(content).hexdigest() == _SHA256[name] else None


def _package_path(name: str) -> Path:
    return Path(str(resources.files("fashion_lightning.data") / "raw" / f"{name}.gz"))


def _packaged(name: str) -> bytes:
    path = _package_path(name)
    content = _unpack(name, path.read_bytes())
    if content is None:
        raise ValueError(f"Expected {path} as it was released, but its checksum is another one.")
    return content
