"""Photographs: found in folders, and decoded with limits, since they may come from anywhere."""

import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fashion_lightning.arguments import installed
from fashion_lightning.data.files import IMAGE_SIZE

# PIL has more, some of them risky. HEIC is read by pillow-heif.
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "TIFF", "GIF")
_FORMAT_NAMES = "PNG, JPEG, WebP, HEIC, AVIF, BMP, TIFF or GIF"
_HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypheim", b"ftypheis", b"ftypmif1", b"ftypmsf1")
# All of these are listed as pictures; those that cannot be decoded are then reported.
_ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".raw", ".dng", ".cr2", ".cr3"),
    *(".nef", ".arw", ".orf", ".rw2", ".ico", ".tga", ".ppm", ".pgm", ".pbm", ".apng", ".dib"),
)
MAX_PIXELS = 100_000_000
MAX_BYTES = 200_000_000
_WORKING_SIZE = 16 * IMAGE_SIZE  # The longest edge is reduced to less than twice this.

_warning_filters = threading.Lock()


def find_images(path: str | Path) -> list[Path]:
    """List the pictures in a folder.

    Args:
        path: A file, which may have any name, or a folder.

    Returns:
        The file, or all files in the folder and its subfolders with a picture's ending, in natural
        order: ``img2`` before ``img10``. Unsupported formats and unsearchable subfolders are
        included, so that reading reports them; hidden files and linked folders are not.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If the folder holds no pictures.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"Expected `images` to be a file or a folder, but there is no {path}."
        )
    if not path.is_dir():
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
        raise ValueError(f"Expected `images` to hold {_FORMAT_NAMES} files, but {path} has none.")
    return sorted(found, key=_natural_order)


def _natural_order(path: Path) -> tuple[list[list[str | int]], str]:
    """Return a sort key in which digits count as numbers."""
    # Splitting alternates between text and digits, so that the same types are compared.
    parts = [re.split(r"(\d+)", part.casefold()) for part in path.parts]
    return [[int(s) if i % 2 else s for i, s in enumerate(part)] for part in parts], str(path)


def read_picture(path: str | Path) -> Image.Image:
    """Read a photograph in colour, upright, with at most 895 pixels on its longest edge.

    Like `read_image`, but returns the picture in mode RGB, or RGBA if parts may be transparent.
    """
    with naming(path):
        return decode(Path(path))


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Prefix errors with a file's name."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise type(error)(f"{escape_name(path)}: {error}") from error


def escape_name(path: str | Path) -> str:
    r"""Return a file's name for tables and terminals, with what is not printable as ``\xff``.

    Spreadsheets compute names that begin with ``=``, ``+``, ``-`` or ``@``: they begin with ``./``.
    """
    name = os.fsencode(path).decode(errors="backslashreplace")
    name = f"./{name}" if name.startswith(tuple("=+-@")) else name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def decode(path: Path) -> Image.Image:
    """Do the work of `read_picture`; errors do not name the file."""
    with _open(path) as file:
        try:
            with _no_warnings():
                picture = _identify(file)
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise Image.DecompressionBombError
            # Decoding a JPEG at a half, a quarter or an eighth of its size is faster.
            scale = max(1, max(width, height) // _WORKING_SIZE)
            picture.draft(None, (max(1, width // scale), max(1, height // scale)))
            return upright(picture)
        except UnidentifiedImageError:
            raise ValueError(
                f"Expected a {_FORMAT_NAMES} picture, but got another format."
            ) from None
        except Image.DecompressionBombError as error:
            raise ValueError(
                f"Expected at most {MAX_PIXELS // 10**6} million pixels, but got more."
            ) from error
        except ImportError as error:
            raise ValueError(str(error)) from error
        except Exception as error:  # PIL raises almost any exception on damaged files.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"Expected an intact picture, but got: {reason}.") from error


def _identify(file: IO[bytes]) -> Image.Image:
    """Return a picture of which only the header has been read."""
    is_heic = file.read(12)[4:] in _HEIC
    file.seek(0)
    if not is_heic:
        return Image.open(file, formats=_FORMATS)
    installed("pillow_heif", "photos", "HEIC pictures")
    from pillow_heif import open_heif

    heic = open_heif(file)
    if heic.size[0] * heic.size[1] > MAX_PIXELS:
        raise Image.DecompressionBombError
    picture: Image.Image = heic.to_pillow()
    return picture


def _open(path: Path) -> IO[bytes]:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            next(path.iterdir(), None)  # Raises if `find_images` could not search the folder.
            raise ValueError("Expected a file, but got a folder.")
        if not stat.S_ISREG(status.st_mode):  # Opening a pipe might block forever.
            raise ValueError("Expected a regular file, but got a pipe, a socket or a device.")
        if status.st_size > MAX_BYTES:
            megabytes = status.st_size // 10**6
            raise ValueError(f"Expected at most {MAX_BYTES // 10**6} MB, but got {megabytes} MB.")
        return path.open("rb")
    except OSError as error:
        raise type(error)(f"Expected a readable file, but got: {error.strerror}.") from error


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Suppress PIL's warnings of what is refused here anyway, or harmless."""
    with _warning_filters, warnings.catch_warnings():  # All threads share the filters.
        warnings.simplefilter("ignore")
        yield


def upright(picture: Image.Image) -> Image.Image:
    """Return a picture in RGB or RGBA, rotated by its EXIF orientation, in working size."""
    if picture.mode.startswith("I"):  # 16 bits: PIL's conversion would clip at 255.
        picture = Image.fromarray((np.asarray(picture) / 257).clip(0, 255).astype(np.uint8))
    else:
        picture.load()
    small = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    factor = max(small.size) // _WORKING_SIZE
    if factor > 1:
        small = small.reduce(factor)
    with _no_warnings(), suppress(Exception):  # Damaged EXIF data: left as it is.
        small = ImageOps.exif_transpose(small)
    return small
