"""Photographs as images of FashionMNIST: found, read, made like the dataset's, cut into batches.

Knows files, pictures and tensors: no network, and no trainer. It imports PIL, which most runs do
not need, so others import this file only where they use it.

The procedure is the dataset's: Xiao, Rasul and Vollgraf 2017, section 2,
https://arxiv.org/abs/1708.07747
"""

import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from fashion_lightning.data.batches import NO_IMAGE

Pixels = npt.NDArray[np.float32]  # (H, W, 3), 0 ... 255

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # PIL knows more, some risky.
_NAMES = "PNG, JPEG, WebP, BMP, TIFF or GIF"
# Pictures by their names. Those that cannot be read are reported, and not passed over in silence.
_ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".raw", ".dng", ".cr2", ".cr3"),
    *(".nef", ".arw", ".orf", ".rw2", ".ico", ".tga", ".ppm", ".pgm", ".pbm", ".apng", ".dib"),
)
_MAX_PIXELS = 100_000_000
_MAX_BYTES = 200_000_000
_THREADS = min(4, os.cpu_count() or 1)  # Each may hold a picture of _MAX_PIXELS.

_SIZE = 28
_WORKING_SIZE = 16 * _SIZE  # Pictures are worked on with a longest edge below twice that.
_TOLERANCE = 0.05 * 255  # How far the background's colour may vary.
_SHARPENING = 0.5  # How much of the difference from its blurred version an image gains.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as in PIL

_warning_filters = threading.Lock()


class PhotoBatch(NamedTuple):
    r"""Some of the photographs that could be read.

    Attributes:
        images: float32, ``(B, 1, 28, 28)``, in [0, 1].
        index: int64, ``(B,)``, the places of the files in `Photos.paths`.
        path: The files' names, B of them. What is not Unicode in a name is written ``\xff``.
        problems: For each file that could not be read, one sentence that says why, by its path.
    """

    images: Tensor
    index: Tensor  # type: ignore[assignment]  # Tuples have a method of that name.
    path: list[str]
    problems: dict[str, str]


class Photos(Dataset[Tensor]):
    """A data set of photographs, each as an image of FashionMNIST, float32 ``(1, 28, 28)``.

    With `collate_photos`, a DataLoader makes a `PhotoBatch` of several, which it decodes in threads
    and from which files are left out that cannot be read: it may be smaller than others, or empty.

    Args:
        paths: The files, such as `find_images` returns.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> loader = DataLoader(Photos([]), batch_size=10, collate_fn=collate_photos)
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self.paths = [Path(path) for path in paths]

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """Return one photograph.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it is no picture, damaged or too large, or shows no garment.
        """
        return read_image(self.paths[index]).unsqueeze(0).float().div_(255)

    def __getitems__(self, indices: Sequence[int]) -> "_Read":
        """Read several photographs at once."""
        indices = [index for index in indices if index != NO_IMAGE]
        with ThreadPoolExecutor(_THREADS) as pool:  # PIL decodes outside Python's global lock.
            read = list(pool.map(self._try, (self.paths[index] for index in indices)))
        return _Read(self, indices, read)

    def _try(self, path: Path) -> Tensor | str:
        try:
            return to_fashion_mnist(_decoded(path))
        except (OSError, ValueError) as error:
            return str(error)


class _Read(Sequence[Tensor]):
    """Photographs that were read together: a list of samples, or a batch for `collate_photos`."""

    def __init__(self, photos: Photos, indices: Sequence[int], read: list[Tensor | str]) -> None:
        self.photos = photos
        self.indices = indices
        self.read = read

    def __len__(self) -> int:
        return len(self.read)

    def __getitem__(self, place: Any) -> Any:
        return self.photos[self.indices[place]]  # Raises what is wrong with it.


def collate_photos(samples: Any) -> PhotoBatch:
    """Return what a DataLoader has read of `Photos` as a batch."""
    paths = samples.photos.paths
    both = [*zip(samples.indices, samples.read, strict=True)]
    found = [(index, image) for index, image in both if isinstance(image, Tensor)]
    images = [image for _, image in found] or [torch.empty(_SIZE, _SIZE)]
    return PhotoBatch(
        torch.stack(images)[: len(found)].unsqueeze(1).float().div_(255),
        torch.tensor([index for index, _ in found], dtype=torch.int64),
        [_printable(paths[index]) for index, _ in found],
        {str(paths[index]): why for index, why in both if isinstance(why, str)},
    )


def find_images(path: str | Path) -> list[Path]:
    """List the pictures at a place.

    Args:
        path: A file, which may have any name, or a folder.

    Returns:
        The file, or all files in the folder and in those below it whose endings are those of
        pictures, in natural order: ``img2`` before ``img10``. Formats that cannot be read are among
        them, and so are folders that cannot be searched: reading them will say why. Hidden files
        and folders are left out, links to folders are not followed.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If the folder holds no pictures.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(
                f"Expected `images` to be a file or a folder, but there is no {path}."
            )
        return [path]
    found: list[Path] = []
    for folder, folders, names in os.walk(path, onerror=lambda e: found.append(Path(e.filename))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found.extend(
            Path(folder, name)
            for name in names
            if name.lower().endswith(_ENDINGS) and not name.startswith(".")
        )
    if not found:
        raise ValueError(f"Expected `images` to hold {_NAMES} files, but {path} has none.")
    return sorted(found, key=_natural)


def _natural(path: Path) -> tuple[list[list[str | int]], str]:
    """Return what to sort by for an order in which numbers count as numbers."""
    # Splitting gives texts and numbers by turns, so that like is compared with like.
    parts = [re.split(r"(\d+)", part.casefold()) for part in path.parts]
    key = [[int(s) if i % 2 else s for i, s in enumerate(part)] for part in parts]
    return key, str(path)


def read_image(path: str | Path) -> Tensor:
    """Make an image of FashionMNIST from a photograph.

    Args:
        path: A PNG, JPEG, WebP, BMP, TIFF or GIF file. Of an animation the first picture counts.

    Returns:
        uint8, ``(28, 28)``: the garment light on black, see `to_fashion_mnist`.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no such picture, damaged or too large, or shows no garment.
    """
    with _naming(path):
        return to_fashion_mnist(_decoded(Path(path)))


def read_picture(path: str | Path) -> Image.Image:
    """Read a photograph as it is: upright, in colours, reduced to at most 895 pixels an edge.

    Args:
        path: A PNG, JPEG, WebP, BMP, TIFF or GIF file. Of an animation the first picture counts.

    Returns:
        The picture in mode RGB, or RGBA if it may have transparent parts.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no such picture, damaged, or too large.
    """
    with _naming(path):
        return _decoded(Path(path))


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Put a file's name before what is said of it."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise type(error)(f"{_printable(path)}: {error}") from error


def _printable(path: str | Path) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def _decoded(path: Path) -> Image.Image:
    """Do the work of `read_picture`; what is raised does not name the file."""
    with _opened(path) as file:
        try:
            with _no_warnings():
                picture = Image.open(file, formats=_FORMATS)
            width, height = picture.size
            if width * height > _MAX_PIXELS:
                raise Image.DecompressionBombError
            # A JPEG can be decoded at a half, a quarter or an eighth, in less time.
            scale = max(1, max(width, height) // _WORKING_SIZE)
            picture.draft(None, (max(1, width // scale), max(1, height // scale)))
            return _upright(picture)
        except UnidentifiedImageError:
            raise ValueError(f"Expected a {_NAMES} picture, but got another format.") from None
        except Image.DecompressionBombError as error:
            raise ValueError(
                f"Expected at most {_MAX_PIXELS // 10**6} million pixels, but got more."
            ) from error
        except Exception as error:  # There is hardly one that no damaged picture makes PIL raise.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"Expected an intact picture, but got: {reason}.") from error


def _opened(path: Path) -> IO[bytes]:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            next(path.iterdir(), None)  # That of `find_images` cannot be searched.
            raise ValueError("Expected a file, but got a folder.")
        if not stat.S_ISREG(status.st_mode):  # Opening a pipe might never end.
            raise ValueError("Expected a regular file, but got a pipe, a socket or a device.")
        if status.st_size > _MAX_BYTES:
            megabytes = status.st_size // 10**6
            raise ValueError(f"Expected at most {_MAX_BYTES // 10**6} MB, but got {megabytes} MB.")
        return path.open("rb")
    except OSError as error:
        raise type(error)(f"Expected a readable file, but got: {error.strerror}.") from error


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Let PIL not warn of what is an error here, or does not matter."""
    with _warning_filters, warnings.catch_warnings():  # All threads have the same filters.
        warnings.simplefilter("ignore")
        yield


def _upright(picture: Image.Image) -> Image.Image:
    """Return a picture in RGB or RGBA, turned as its EXIF data says, in working size."""
    if picture.mode.startswith("I"):  # 16 bits, which PIL would cut off at 255.
        picture = Image.fromarray((np.asarray(picture) / 257).clip(0, 255).astype(np.uint8))
    else:
        picture.load()
    small = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    factor = max(small.size) // _WORKING_SIZE
    if factor > 1:
        small = small.reduce(factor)
    # A photograph whose EXIF data are damaged is taken as it is.
    with _no_warnings(), suppress(Exception):
        small = ImageOps.exif_transpose(small)
    return small


def to_fashion_mnist(picture: Image.Image) -> Tensor:
    """Make an image of FashionMNIST from a picture of a garment on a plain background.

    1. Trim: edges whose colour differs by at most 5 % from that of the corners are cut off.
    2. Resize: the longest edge gets 28 pixels, each the mean of the area that it covers.
    3. Sharpen with a Gaussian of radius and standard deviation 1.
    4. Extend to 28 x 28 pixels, the garment centred.
    5. Negate, unless the garment is lighter than the background.

    Where the paper is silent, or something else measured better on training images that had been
    enlarged, tinted, put on light backgrounds and saved as JPEG:

    - Of the four corners, that colour counts which most of the border shares.
    - A blurred edge is cut at half its height, not at its foot: garments came out too wide.
    - Means, instead of leaving out rows, are less ragged. Sharpening by 0.5 times the difference
      from the Gaussian suits them better than by 0.83 times, which is what ImageMagick does.
    - At last, the background becomes 0 and what differs most from it 255: each of the 60,000
      training images reaches 254, whatever the garment's colour, and half of them in one pixel.
    - What cannot lie in the very middle lies half a pixel to the right or below, as in the dataset.

    Transparent parts are background: white, or black if a garment would be lost on white. The EXIF
    orientation is honoured. A picture of 28 x 28 pixels has been through all this: it only becomes
    grey, and negated if its background is light, so that the dataset's images stay as they are.

    Args:
        picture: Of any size, in any mode that PIL converts to RGB.

    Returns:
        uint8, ``(28, 28)``: the garment light on black.

    Raises:
        ValueError: If nothing stands out from the background, or it has less than 14 pixels.

    Example:
        >>> picture = Image.new("RGB", (400, 300), "white")
        >>> picture.paste("black", (100, 150, 300, 250))
        >>> image = to_fashion_mnist(picture)
        >>> image.shape, image[:7].max().item(), image[7:21].min().item(), image[21:].max().item()
        (torch.Size([28, 28]), 0, 255, 0)
    """
    pixels = _on_backdrop(_upright(picture))
    background = _background(pixels)
    box = _box(_most(abs(pixels - background)))
    if box is None:
        raise ValueError("Expected `picture` to show something, but got one colour all over.")
    grey, backdrop = pixels @ _LUMA, background @ _LUMA
    contrast = (grey - backdrop)[box]
    lighter = contrast[abs(contrast) > _TOLERANCE].sum() >= 0
    if grey.shape == (_SIZE, _SIZE):
        return _as_uint8(grey if lighter else 255 - grey)
    garment = (contrast if lighter else -contrast).clip(min=0)
    height, width = garment.shape
    longest = max(height, width)
    if longest < _SIZE // 2 or garment.max() < 1:  # The latter: of another hue, but as light.
        raise ValueError(
            f"Expected `picture` to show something of {_SIZE // 2} pixels, lighter or darker than "
            f"the background, but got {width} x {height}."
        )
    height, width = (max(1, round(edge * _SIZE / longest)) for edge in (height, width))
    # In floating point: there are as many shades of grey as it takes.
    small = np.asarray(Image.fromarray(garment).resize((width, height), Image.Resampling.BOX))
    top, left = (_SIZE - height + 1) // 2, (_SIZE - width + 1) // 2
    image = np.zeros((_SIZE, _SIZE), dtype=np.float32)
    image[top : top + height, left : left + width] = small
    image += _SHARPENING * (image - _blurred(image))
    image = image.clip(0, 255 - backdrop if lighter else backdrop)  # Nothing is blacker than black.
    return _as_uint8(image * (255 / image.max()))


def _as_uint8(image: Pixels) -> Tensor:
    return torch.from_numpy(image.round().clip(0, 255).astype(np.uint8))


def _blurred(image: Pixels) -> Pixels:
    """Return an image blurred by a Gaussian of radius 1 and standard deviation 1."""
    side = np.exp(np.float32(-0.5))
    for _ in range(2):  # Along each axis.
        padded = np.pad(image, ((1, 1), (0, 0)))
        image = ((padded[1:-1] + side * (padded[:-2] + padded[2:])) / (1 + 2 * side)).T
    return image


def _on_backdrop(picture: Image.Image) -> Pixels:
    """Return a picture's pixels, with white or black where it is transparent."""
    if picture.mode == "RGB":
        return np.asarray(picture, dtype=np.float32)
    pixels: Pixels = np.asarray(picture, dtype=np.float32)
    alpha = pixels[:, :, 3]
    on_black: Pixels = pixels[:, :, :3] * (pixels[:, :, 3:] / np.float32(255))
    on_white: Pixels = on_black + (255 - pixels[:, :, 3:])
    there, seen = _box(alpha), _box(_most(255 - on_white))
    if there is None:
        return on_white
    # What fills a rectangle is a photograph, perhaps with round corners, and no cut-out garment.
    cut_out = (alpha[there] > 127).mean() < 0.95
    if seen is None or (
        cut_out
        and any(s < 0.9 * t for s, t in zip(alpha[seen].shape, alpha[there].shape, strict=True))
    ):
        return on_black
    return on_white


def _background(pixels: Pixels) -> Pixels:
    """Return the colour, ``(3,)``, of that corner which most of the border resembles."""
    size = max(1, max(pixels.shape) // 64)  # A single pixel of a JPEG could be anything.
    ends = (slice(None, size), slice(-size, None))
    corners = [np.median(pixels[y, x], axis=(0, 1)) for y in ends for x in ends]
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return max(corners, key=lambda c: (abs(border - c).max(axis=1) <= _TOLERANCE).sum())


def _most(difference: Pixels) -> Pixels:
    """Return the largest of each pixel's three differences, ``(H, W)``."""
    largest: Pixels = np.maximum(difference[:, :, 0], difference[:, :, 1])
    return np.maximum(largest, difference[:, :, 2], out=largest)  # `max(axis=2)` is much slower.


def _box(difference: Pixels) -> tuple[slice, slice] | None:
    """Return the rows and columns in which a picture, ``(H, W)``, is not near 0, or None."""
    height, width = difference.shape
    # A row must have a few such pixels: less than 0.5 % of it are dirt.
    rows = np.partition(difference, -1 - width // 200, axis=1)[:, -1 - width // 200]
    columns = np.partition(difference, -1 - height // 200, axis=0)[-1 - height // 200]
    limits = [np.flatnonzero(profile > _TOLERANCE) for profile in (rows, columns)]
    if not all(len(places) for places in limits):
        return None
    spans = [slice(places[0], places[-1] + 1) for places in limits]
    # From the foot to the top of a blurred edge it is about half a pixel of the final image.
    reach = max(span.stop - span.start for span in spans) // (2 * _SIZE)
    top, left = (
        slice(
            span.start + _half_height(profile[span], reach),
            span.stop - _half_height(profile[span][::-1], reach),
        )
        for profile, span in zip((rows, columns), spans, strict=True)
    )
    return top, left


def _half_height(profile: Pixels, reach: int) -> int:
    """Return the first place that has at least half the height of what is `reach` further in."""
    ahead = np.append(profile[reach:], np.repeat(profile[-1], reach))[: len(profile)]
    return int(np.argmax(profile >= 0.5 * ahead))
