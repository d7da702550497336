"""Files that are pictures are found and read; the others are reported."""

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pillow_heif
import pytest
import torch
from PIL import Image
from test_conversion import garment
from torch.utils.data import DataLoader

from fashion_lightning.data import files
from fashion_lightning.data.sampling import TurnsSampler
from fashion_lightning.photos import (
    Photos,
    collate_photos,
    find_images,
    read_image,
    read_picture,
    to_fashion_mnist,
)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of these chunks, with correct checksums."""
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encoded(kind: str, picture: Image.Image | None = None) -> bytes:
    content = io.BytesIO()
    (picture or garment((255, 255, 255), (0, 0, 0), "RGB")).save(content, kind)
    return content.getvalue()


def hostile_files() -> dict[str, bytes]:
    """Return names and contents of files that are not pictures of a garment."""
    enormous = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    large = struct.pack(">IIBBBBB", 11_000, 11_000, 8, 2, 0, 0, 0)  # PIL would only warn.
    ihdr = struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0)
    whole = {kind: encoded(kind) for kind in ("PNG", "JPEG", "WEBP")}
    flipped = bytearray(whole["PNG"])
    flipped[40] ^= 255
    blank = Image.new("RGB", (300, 300), "white")
    return {
        "empty.png": b"",
        "zeros.jpg": bytes(1000),
        "text.png": b"a text",
        "page.png": b"<!DOCTYPE html><html></html>",
        "drawing.webp": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "script.jpg": b"#!/bin/sh\ntouch intruded\n",
        "postscript.png": b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 10 10\n",
        "pixmap.png": encoded("PPM"),
        "targa.png": encoded("TGA"),
        "pcx.jpg": encoded("PCX"),
        "IMG_1.HEIC": b"\0\0\0\x18ftypheic" + bytes(50),
        "ppm.jpg": encoded("PPM"),
        "ico.png": encoded("ICO"),
        **{f"cut{n}.png": whole["PNG"][:n] for n in (4, 8, 20, 60, 200)},
        **{f"cut{n}.jpg": whole["JPEG"][:n] for n in (2, 20, 300, 700)},
        **{f"cut{n}.webp": whole["WEBP"][:n] for n in (4, 12, 30, 100)},
        "flipped.png": bytes(flipped),
        "bomb.png": png((b"IHDR", enormous), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")),
        "large.png": png((b"IHDR", large), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")),
        "texts.png": png(
            (b"IHDR", ihdr),
            *[(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7)))] * 8,
            (b"IDAT", zlib.compress(bytes(29 * 28))),
            (b"IEND", b""),
        ),
        "no_pixels.png": png((b"IHDR", ihdr), (b"IEND", b"")),
        "no_header.png": png((b"IEND", b"")),
        "white.png": encoded("PNG", blank),
        "white.jpg": encoded("JPEG", blank),
        "clear.png": encoded("PNG", Image.new("RGBA", (300, 300), (9, 9, 9, 0))),
        "wide.jpg": whole["JPEG"].replace(bytes([1, 144, 1, 44]), b"\xff\xff\xff\xff", 1),
        "wide.webp": whole["WEBP"][:26] + b"\xff\x3f\xff\x3f" + whole["WEBP"][30:],
        "profile.png": png(
            (b"IHDR", ihdr), (b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8))), (b"IEND", b"")
        ),
        "speck.png": encoded("PNG", garment((255,) * 3, (0, 0, 0), "RGB").resize((9, 12))),
        "pixel.png": encoded("PNG", Image.new("RGB", (1, 1))),
    }


def loader(paths: list[Path], batch_size: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(Photos(paths), batch_size=batch_size, collate_fn=collate_photos, **options)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "PNG", "WEBP"])
def test_lossless_formats_give_the_same_image(kind: str, tmp_path: Path) -> None:
    picture = garment((255, 255, 255), (0, 0, 0), "RGB")
    content = io.BytesIO()
    picture.save(content, kind, **({"lossless": True} if kind == "WEBP" else {}))
    (tmp_path / "picture").write_bytes(content.getvalue())
    assert torch.equal(read_image(tmp_path / "picture"), to_fashion_mnist(picture))


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "MPO"])
def test_the_formats_of_phones_are_read_upright(kind: str, tmp_path: Path) -> None:
    """The camera was turned; each format notes that in its own way."""
    picture, exif = garment((255, 255, 255), (0, 0, 0), "RGB"), Image.Exif()
    exif[0x0112] = 6
    lying = picture.rotate(90, expand=True)
    if kind == "HEIF":
        pillow_heif.from_pillow(lying).save(tmp_path / "picture", exif=exif.tobytes())
    else:
        lying.save(tmp_path / "picture", kind, exif=exif, quality=90)
    image = read_image(tmp_path / "picture")
    assert (image.float() - to_fashion_mnist(picture).float()).abs().mean() < 3


@pytest.mark.parametrize("mode", ["I;16", "LA", "P", "1", "CMYK"])
def test_pictures_of_any_mode_are_read(mode: str, tmp_path: Path) -> None:
    picture = garment((255, 255, 255), (0, 0, 0), "RGB")
    if mode == "I;16":
        other = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    else:
        other = picture.convert(mode)
    other.save(tmp_path / "picture", "TIFF" if mode == "CMYK" else "PNG")
    image = read_image(tmp_path / "picture")
    assert (image.float() - to_fashion_mnist(picture).float()).abs().mean() < 1


def test_a_heic_photograph_without_its_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "one.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"one\.heic: Expected pillow_heif .*\[photos\]"):
        read_image(tmp_path / "one.heic")


def test_unreadable_files_are_reported_and_the_others_read(tmp_path: Path) -> None:
    contents = hostile_files()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    with (tmp_path / "huge.webp").open("wb") as file:  # sparse: it takes no space on the disk
        file.write(encoded("WEBP")[:30])
        file.truncate(10**12)
    (tmp_path / "good.webp").write_bytes(encoded("WEBP"))
    batches = list(loader(find_images(tmp_path), batch_size=10))
    problems = {Path(path): why for batch in batches for path, why in batch.problems.items()}
    assert [Path(path).name for batch in batches for path in batch.path] == ["good.webp"]
    bad = {*contents, "pipe.png", "loop.png", "gone.png", "device.png", "huge.webp"}
    assert {path.name for path in problems} == bad
    assert len(bad) >= 30
    reasons = {path.name: reason for path, reason in problems.items()}
    assert "200 MB" in reasons["huge.webp"]
    enormous = ("bomb.png", "large.png", "wide.jpg", "wide.webp")
    assert all("million pixels" in reasons[name] for name in enormous)
    for reason in reasons.values():
        assert "\n" not in reason
        assert len(reason) < 300


def test_files_without_read_permission_are_reported(tmp_path: Path) -> None:
    with TemporaryDirectory() as name:  # Other users cannot enter pytest's folders.
        folder = Path(name)
        (folder / "closed").mkdir()
        for path in (folder / "closed" / "1.png", folder / "secret.png", folder / "good.png"):
            path.write_bytes(encoded("PNG"))
        folder.chmod(0o755)
        (folder / "closed").chmod(0)
        (folder / "secret.png").chmod(0)
        root = os.geteuid() == 0
        if root:  # root may read everything
            os.seteuid(65_534)
        try:
            (batch,) = loader(find_images(folder), batch_size=9)
        finally:
            if root:
                os.seteuid(0)
            (folder / "closed").chmod(0o755)
    assert batch.path == [str(folder / "good.png")]
    assert {Path(path).name for path in batch.problems} == {"closed", "secret.png"}
    assert all("Permission denied" in reason for reason in batch.problems.values())


def test_file_names_that_are_not_unicode_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(encoded("PNG"))
    (batch,) = loader(find_images(tmp_path), batch_size=1)
    assert batch.path == [str(tmp_path / r"caf\xe9.png")]


def test_names_neither_steer_a_terminal_nor_are_computed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("=1+1.png").write_bytes(encoded("PNG"))
    Path("a\x1b[2J\nb.png").write_bytes(b"")
    ((batch),) = loader([Path("=1+1.png"), Path("a\x1b[2J\nb.png")], batch_size=2)
    assert batch.path == ["./=1+1.png"]
    assert [*batch.problems] == [r"a\x1b[2J\nb.png"]


def test_pytorchs_collate_function_works_or_raises_for_an_unreadable_file(
    tmp_path: Path,
) -> None:
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(encoded("PNG"))
    paths = find_images(tmp_path)
    (batch,) = DataLoader(Photos(paths), batch_size=2)
    assert torch.equal(batch, torch.stack([read_image(path)[None] / 255 for path in paths]))
    (tmp_path / "2.png").write_text("<html>")
    with pytest.raises(ValueError, match=r"2\.png: Expected a PNG"):
        next(iter(DataLoader(Photos(paths), batch_size=2)))


def test_a_repaired_file_is_no_longer_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "1.png"
    photos = loader([path], batch_size=1)
    (batch,) = photos
    assert (batch.path, [*batch.problems]) == ([], [str(path)])
    path.write_bytes(encoded("PNG"))
    (batch,) = photos
    assert (batch.path, batch.problems) == ([str(path)], {})


@pytest.mark.parametrize("read", [read_image, read_picture])
def test_errors_name_the_file_and_the_reason(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    (tmp_path / "page.png").write_text("<html>")
    with pytest.raises(ValueError, match=r"page\.png: Expected a PNG, JPEG, WebP.* picture, but"):
        read(tmp_path / "page.png")
    with pytest.raises(FileNotFoundError, match=r"none\.png: Expected .* No such file"):
        read(tmp_path / "none.png")


def test_a_folder_is_listed_in_natural_order(tmp_path: Path) -> None:
    names = ["2.png", "10.PNG", "b/1.jpeg", "b/c/1.webp", "b/c/12.jpg"]
    for name in [*reversed(names), "notes.txt", ".hidden.png", ".git/1.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == names
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


@pytest.mark.parametrize(("name", "error"), [("none", FileNotFoundError), ("", ValueError)])
def test_a_place_without_pictures_is_refused(
    name: str, error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error, match="Expected `images` to"):
        find_images(tmp_path / name)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_the_files(world_size: int, data_dir: Path, tmp_path: Path) -> None:
    for number, image in enumerate(files.load(data_dir, train=False)[0][:5]):
        Image.fromarray(image.numpy()).save(tmp_path / f"{number}.png")
    paths = find_images(tmp_path)
    shares = [
        loader(paths, 3, sampler=TurnsSampler(paths, 3, rank=rank, num_replicas=world_size))
        for rank in range(world_size)
    ]
    batches = [batch for share in shares for batch in share]
    assert sorted(index for batch in batches for index in batch.index.tolist()) == [*range(5)]
    assert [len(share) for share in shares] == [len(list(share)) for share in shares]
    assert all(batch.images.shape == (len(batch.path), 1, 28, 28) for batch in batches)
