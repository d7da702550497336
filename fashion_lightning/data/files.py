"""The four official files of FashionMNIST: found, downloaded, verified, unpacked, read.

This file knows of bytes and folders only; what the images are used for is not its concern.

The dataset: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
Machine Learning Algorithms", 2017, https://github.com/zalandoresearch/fashion-mnist
"""

import gzip
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from importlib import resources
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from fashion_lightning.atomic import replacing
from fashion_lightning.data.download import download

NUM_TRAIN, NUM_TEST = 60_000, 10_000
"""How many images the two official sets hold."""

IMAGE_SIZE = 28
"""Height and width of an image, in pixels."""

MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
"""Where files come from if the package has no copy: torchvision's mirror, the authors' own."""

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""The names of the ten classes, in the order of their labels."""


def default_names(num_classes: int) -> list[str]:
    """Return names for classes that have none: FashionMNIST's if there are ten."""
    if num_classes == len(CLASSES):
        return [*CLASSES]
    return [f"class {label}" for label in range(num_classes)]


_DOWNLOAD_SECONDS = 45.0  # for all mirrors together


@dataclass(frozen=True)
class _File:
    """What is known of one official file, packed (.gz) and unpacked."""

    name: str
    packed_size: int
    packed_sha256: str
    size: int
    sha256: str


_FILES = (
    _File(
        "train-images-idx3-ubyte",
        26_421_880,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        47_040_016,
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    _File(
        "train-labels-idx1-ubyte",
        29_515,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        60_008,
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    _File(
        "t10k-images-idx3-ubyte",
        4_422_102,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        7_840_016,
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    _File(
        "t10k-labels-idx1-ubyte",
        5_148,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        10_008,
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
)


def prepare(data_dir: str | Path, mirrors: Sequence[str] | None = None) -> str:
    """Bring the four unpacked files into `data_dir`, in torchvision's layout.

    What is there and correct stays. The rest is unpacked from correct .gz files that lie beside it,
    else from the copy in this package; if mirrors are named, from the first that serves a correct
    file, and from the package's copy only if none does. No file gets its name before its checksum
    is verified. Of several processes one does it, while the others wait.

    Args:
        data_dir: The files go to ``FashionMNIST/raw`` below it, so that
            ``torchvision.datasets.FashionMNIST(data_dir)`` reads them too.
        mirrors: Base URLs, tried in this order. None: `MIRRORS`, if this package was built without
            its copy. Empty: the network is left alone.

    Returns:
        One line that says where the files came from. If `data_dir` cannot be written, it says so,
        and `load` reads the copy in the package instead.
    """
    raw = _raw(data_dir)
    if not _missing(raw):
        return f"FashionMNIST: verified files in {raw}"
    try:
        raw.mkdir(parents=True, exist_ok=True)
        # The operating system frees the lock of a process that dies.
        with FileLock(raw.parent / ".lock", timeout=2 * _DOWNLOAD_SECONDS):
            return _fill(raw, mirrors)
    except (OSError, NotImplementedError) as error:  # The latter: a file system without locks.
        return f"FashionMNIST: the package's copy, since {raw} cannot be written ({error})"


def _fill(raw: Path, mirrors: Sequence[str] | None) -> str:
    """Write what is missing in `raw`; say what was done."""
    if mirrors is None:
        mirrors = () if all(_package_path(file).is_file() for file in _FILES) else MIRRORS
    missing = _missing(raw)
    if not missing:
        return f"FashionMNIST: verified files in {raw}, which another process has just made"
    started = time.monotonic()
    sources: dict[str, None] = {}  # a set that keeps the order
    problems: dict[str, str] = {}
    damaged: list[str] = []

    def write(path: Path, content: bytes | bytearray) -> None:
        if path.exists():
            damaged.append(path.name)
        with replacing(path) as new:
            new.write_bytes(content)

    for file in missing:
        beside = raw / f"{file.name}.gz"
        packed: bytes | bytearray | None = _read(beside, file.packed_size, file.packed_sha256)
        if packed:
            source = f"unpacked from .gz files in {raw}"
        else:
            packed, source = _obtain(file, mirrors, started, problems)
            if beside.is_file():
                write(beside, packed)
        # Verified, so it is no gzip bomb: what comes out is what went in.
        write(raw / file.name, gzip.decompress(packed))
        sources[source] = None
    line = f"FashionMNIST: {' and '.join(sources)}, verified, now in {raw}"
    if damaged:
        line += f"; replaced damaged {', '.join(damaged)}"
    if problems:
        line += f" ({'; '.join(f'{mirror}: {why}' for mirror, why in problems.items())})"
    return line


def load(data_dir: str | Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Read the images and labels of one of the two official sets.

    Args:
        data_dir: The folder given to `prepare`. What it does not hold, or holds damaged, is read
            from the copy in the package.
        train: Whether to read the 60,000 training images or the 10,000 test images.

    Returns:
        Images, uint8 in 0 ... 255, ``(N, 28, 28)``, and labels, int64 in 0 ... 9, ``(N,)``.
    """
    images, labels = (
        _read(_raw(data_dir) / file.name, file.size, file.sha256)
        or bytearray(gzip.decompress(_packaged(file)))
        for file in _FILES
        if file.name.startswith("train" if train else "t10k")
    )
    # The idx format: a header of 4 bytes and 4 more a dimension, then the values.
    return (
        torch.frombuffer(images, dtype=torch.uint8, offset=16).view(-1, 28, 28),
        torch.frombuffer(labels, dtype=torch.uint8, offset=8).long(),
    )


def _raw(data_dir: str | Path) -> Path:
    return Path(data_dir) / "FashionMNIST" / "raw"


def _missing(raw: Path) -> list[_File]:
    return [file for file in _FILES if not _read(raw / file.name, file.size, file.sha256)]


def _read(path: Path, size: int, sha256: str) -> bytearray | None:
    """Return a file's content, or None if it cannot be read or is not what it should be."""
    try:
        if path.stat().st_size != size:
            return None
        content = bytearray(size)
        with path.open("rb") as file:
            file.readinto(content)
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


def _package_path(file: _File) -> Path:
    return Path(str(resources.files("fashion_lightning.data") / "raw" / f"{file.name}.gz"))


def _packaged(file: _File) -> bytes:
    return _package_path(file).read_bytes()


def _obtain(
    file: _File, mirrors: Sequence[str], started: float, problems: dict[str, str]
) -> tuple[bytes, str]:
    """Return the verified .gz of a file and its source; note in `problems` what mirrors failed."""
    for number, mirror in enumerate(mirrors, 1):
        if mirror in problems:  # Failed for an earlier file: not worth another wait.
            continue
        # Each has its share of the time, and what those before it have left over.
        deadline = started + _DOWNLOAD_SECONDS * number / len(mirrors)
        try:
            packed = download(f"{mirror.rstrip('/')}/{file.name}.gz", file.packed_size, deadline)
        except (OSError, HTTPException, ValueError) as error:
            # Some reasons have several lines, and `prepare` promises one.
            problems[mirror] = " ".join(str(getattr(error, "reason", "") or error).split())
            continue
        if hashlib.sha256(packed).hexdigest() == file.packed_sha256:
            return packed, f"downloaded from {mirror}"
        problems[mirror] = f"{file.name}.gz has a wrong checksum"
    return _packaged(file), "the package's copy"
