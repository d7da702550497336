"""Photographs: there and back on the dataset's own images, and files that nobody should open."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fashion_lightning import FashionMNISTClassifier, files
from fashion_lightning.photos import Photos, find_images, read_image, to_fashion_mnist


def photograph(image: Tensor, random: Random) -> bytes:
    """What a shop might show: the image enlarged, coloured, somewhere on a light ground; a JPEG."""
    side, white = random.randint(300, 600), random.choice([255, 255, random.randint(225, 254)])
    grey = Image.fromarray(255 - image.numpy()).resize((side, side), Image.Resampling.BICUBIC)
    dye = np.array([random.randint(0, 120) for _ in range(3)])
    colours = dye + (255 - dye) * np.asarray(grey)[:, :, None] / 255
    left, top, right, bottom = (random.randint(0, 200) for _ in range(4))
    canvas = np.full((top + side + bottom, left + side + right, 3), float(white))
    canvas[top : top + side, left : left + side] = colours * white / 255
    content = io.BytesIO()
    picture = Image.fromarray(canvas.round().astype(np.uint8))
    picture.save(content, "JPEG", quality=random.randint(85, 95))
    return content.getvalue()


@pytest.mark.parametrize("number", [200, pytest.param(1000, marks=pytest.mark.long)])
def test_photographs_of_the_test_images_keep_their_class(
    number: int, trained: Path, data_dir: Path, tmp_path: Path
) -> None:
    chosen = torch.randperm(10_000, generator=torch.Generator().manual_seed(0))[:number]
    originals = files.load(data_dir, train=False)[0][chosen]
    random, path = Random(0), tmp_path / "photo.jpg"
    images = []
    for original in originals:
        path.write_bytes(photograph(original, random))
        images.append(read_image(path))
    classifier = FashionMNISTClassifier.load_from_checkpoint(trained / "checkpoints" / "best.ckpt")
    with torch.no_grad():
        before, after = (
            classifier.eval()(pixels.unsqueeze(1) / 255).argmax(1)
            for pixels in (originals, torch.stack(images))
        )
    same = (before == after).float().mean().item()
    print(f"{number} photographs: {same:.1%} keep their class")
    assert same >= 0.97


def test_the_datasets_own_images_stay_as_they_are(data_dir: Path, tmp_path: Path) -> None:
    for original in files.load(data_dir, train=False)[0][:50]:
        Image.fromarray(original.numpy()).save(tmp_path / "image.png")
        assert torch.equal(read_image(tmp_path / "image.png"), original)


def garment(ground: tuple[int, ...], cloth: tuple[int, ...], mode: str) -> Image.Image:
    picture = Image.new(mode, (300, 400), ground)
    picture.paste(cloth, (100, 50, 200, 350))
    return picture


@pytest.mark.parametrize(
    ("ground", "cloth", "mode"),
    [
        ((255, 255, 255), (20, 30, 90), "RGB"),
        ((240, 240, 238), (250, 60, 60), "RGB"),
        ((10, 10, 10), (200, 180, 160), "RGB"),
        ((255, 255, 255, 0), (20, 30, 90, 255), "RGBA"),
        ((0, 0, 0, 0), (20, 30, 90, 255), "RGBA"),
        ((0, 0, 0, 0), (255, 255, 255, 255), "RGBA"),
        ((255,), (40,), "L"),
        ((0, 0, 0, 0), (90, 80, 20, 30), "CMYK"),
    ],
)
def test_a_garment_is_light_on_black(
    ground: tuple[int, ...], cloth: tuple[int, ...], mode: str
) -> None:
    image = to_fashion_mnist(garment(ground, cloth, mode))
    rows, columns = (image > 127).nonzero().unbind(1)
    assert (int(rows.min()), int(rows.max())) == (0, 27)
    assert (int(columns.min()), int(columns.max())) in ((9, 17), (10, 18), (9, 18), (10, 17))
    assert image[:, :8].max() == 0
    assert image[:, 20:].max() == 0


def test_a_photograph_is_turned_as_the_camera_was(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera lay on its side.
    garment((255, 255, 255), (0, 0, 0), "RGB").rotate(90, expand=True).save(
        tmp_path / "lying.jpg", exif=exif
    )
    garment((255, 255, 255), (0, 0, 0), "RGB").save(tmp_path / "upright.jpg")
    lying, upright = (read_image(tmp_path / f"{name}.jpg") for name in ("lying", "upright"))
    assert (lying.float() - upright.float()).abs().max() < 20


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of such chunks, each with its right checksum."""
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
    """Names and contents of which none is an image of a garment."""
    enormous = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
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
        "bitmap.png": encoded("BMP"),
        "gif.png": encoded("GIF"),
        "tiff.jpg": encoded("TIFF"),
        "ppm.jpg": encoded("PPM"),
        "ico.png": encoded("ICO"),
        **{f"cut{n}.png": whole["PNG"][:n] for n in (4, 8, 20, 60, 200)},
        **{f"cut{n}.jpg": whole["JPEG"][:n] for n in (2, 20, 300, 700)},
        **{f"cut{n}.webp": whole["WEBP"][:n] for n in (4, 12, 30, 100)},
        "flipped.png": bytes(flipped),
        "bomb.png": png((b"IHDR", enormous), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")),
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
        "pixel.png": encoded("PNG", Image.new("RGB", (1, 1))),
    }


def test_files_that_are_none_are_named_and_the_others_read(tmp_path: Path) -> None:
    contents = hostile_files()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "good.webp").write_bytes(encoded("WEBP"))
    photos = Photos(find_images(tmp_path), batch_size=10)
    batches = list(photos)
    assert [Path(path).name for batch in batches for path in batch.path] == ["good.webp"]
    bad = {*contents, "pipe.png", "loop.png", "gone.png"}
    assert {path.name for path in photos.problems} == bad
    assert len(bad) >= 30
    for reason in photos.problems.values():
        assert "\n" not in reason
        assert len(reason) < 300


def test_a_folder_is_listed_in_natural_order(tmp_path: Path) -> None:
    names = ["2.png", "10.PNG", "b/1.jpeg", "b/c/1.webp", "b/c/12.jpg"]
    for name in [*reversed(names), "notes.txt", ".hidden.png", ".git/1.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == names
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


@pytest.mark.parametrize(("name", "error"), [("none", FileNotFoundError), ("", ValueError)])
def test_nothing_to_read_is_refused(name: str, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match="Expected `images` to"):
        find_images(tmp_path / name)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_the_files(
    world_size: int, data_dir: Path, tmp_path: Path, save: Callable[[Path, Tensor], None]
) -> None:
    for number, image in enumerate(files.load(data_dir, train=False)[0][:5]):
        save(tmp_path / f"{number}.png", image)
    paths = find_images(tmp_path)
    shares = [
        Photos(paths, batch_size=3, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    batches = [batch for share in shares for batch in share]
    assert sorted(index for batch in batches for index in batch.index.tolist()) == [*range(5)]
    assert [len(share) for share in shares] == [len(list(share)) for share in shares]
    assert all(batch.images.shape == (len(batch.path), 1, 28, 28) for batch in batches)


@pytest.fixture
def save() -> Callable[[Path, Tensor], None]:
    return lambda path, image: Image.fromarray(image.numpy()).save(path)
