"""Photographs: there and back on the dataset's own images, and files that nobody should open."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import DataLoader

from fashion_lightning import FashionMNISTClassifier
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


@pytest.mark.parametrize("number", [100, pytest.param(1000, marks=pytest.mark.long)])
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


def test_photographs_look_like_the_images_they_were_made_of(data_dir: Path, tmp_path: Path) -> None:
    """A class could survive much; half a pixel aside is a difference of 12, no sharpening of 8."""
    path, random = tmp_path / "photo.jpg", Random(0)
    differences = []
    for original in files.load(data_dir, train=False)[0][:40]:
        path.write_bytes(photograph(original, random))
        differences.append((read_image(path).float() - original.float()).abs().mean())
    assert torch.stack(differences).mean() < 7.5


def test_the_datasets_own_images_stay_as_they_are(data_dir: Path, tmp_path: Path) -> None:
    for original in files.load(data_dir, train=False)[0][:50]:
        Image.fromarray(original.numpy()).save(tmp_path / "image.png")
        assert torch.equal(read_image(tmp_path / "image.png"), original)
        assert torch.equal(to_fashion_mnist(Image.fromarray(255 - original.numpy())), original)


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
        ((215, 215, 215), (255, 255, 255), "RGB"),
        ((0, 0), (40, 255), "LA"),
        ((255,), (0,), "1"),
        ((65_535,), (9_000,), "I;16"),
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


def test_a_white_garment_with_a_print_is_not_trimmed_to_the_print() -> None:
    picture = Image.new("RGBA", (300, 400), (0, 0, 0, 0))
    ImageDraw.Draw(picture).ellipse((50, 50, 250, 350), fill="white")
    picture.paste((200, 0, 0, 255), (130, 180, 170, 220))
    image = to_fashion_mnist(picture)
    assert image[3, 14] > 200  # cloth
    assert image[13, 14] < 150  # print


def test_a_photograph_with_round_corners_is_one_of_the_garment() -> None:
    plain = garment((255, 255, 255), (20, 30, 90), "RGB")
    mask = Image.new("L", plain.size)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 299, 399), 40, fill=255)
    rounded = plain.convert("RGBA")
    rounded.putalpha(mask)
    assert torch.equal(to_fashion_mnist(rounded), to_fashion_mnist(plain))


def test_palettes_with_transparency_and_cmyk_jpegs_are_read(tmp_path: Path) -> None:
    garment((0, 0, 0, 0), (0, 0, 0, 255), "RGBA").quantize(8).save(tmp_path / "palette.png")
    garment((0, 0, 0, 0), (0, 0, 0, 255), "CMYK").save(tmp_path / "print.jpg")
    expected = to_fashion_mnist(garment((255, 255, 255), (0, 0, 0), "RGB"))
    for name in ("palette.png", "print.jpg"):
        assert (read_image(tmp_path / name).float() - expected.float()).abs().mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_picture_counts(kind: str, tmp_path: Path) -> None:
    first, second = (garment((255, 255, 255), (0, 0, 0), "RGB").rotate(a) for a in (0, 180))
    second.paste((0, 0, 0), (0, 0, 150, 400))
    first.save(tmp_path / "image", kind, save_all=True, append_images=[second], lossless=True)
    assert torch.equal(read_image(tmp_path / "image"), to_fashion_mnist(first))


def test_a_large_jpeg_gives_the_same_image_as_a_small_one(tmp_path: Path) -> None:
    picture = garment((250, 250, 250), (0, 0, 0), "RGB")
    picture.resize((3000, 4000), Image.Resampling.NEAREST).save(tmp_path / "large.jpg")
    assert (read_image(tmp_path / "large.jpg").float() - to_fashion_mnist(picture)).abs().max() < 9
    assert max(read_picture(tmp_path / "large.jpg").size) < 900


@pytest.mark.parametrize("damage", ["header", "entries"])
def test_damaged_exif_data_do_not_cost_the_photograph(damage: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a shirt"
    content = io.BytesIO()
    picture = garment((255, 255, 255), (0, 0, 0), "RGB")
    picture.save(content, "JPEG", exif=exif)
    changed = bytearray(content.getvalue())
    start = changed.index(b"Exif") + (6 if damage == "header" else 14)
    changed[start : start + 2] = b"\xff\xff"
    (tmp_path / "photo.jpg").write_bytes(changed)
    assert (read_image(tmp_path / "photo.jpg").float() - to_fashion_mnist(picture)).abs().max() < 9


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
def test_formats_that_lose_nothing_are_read_alike(kind: str, tmp_path: Path) -> None:
    picture = garment((255, 255, 255), (0, 0, 0), "RGB")
    content = io.BytesIO()
    picture.save(content, kind, **({"lossless": True} if kind == "WEBP" else {}))
    (tmp_path / "picture").write_bytes(content.getvalue())
    assert torch.equal(read_image(tmp_path / "picture"), to_fashion_mnist(picture))


def test_files_that_are_none_are_named_and_the_others_read(tmp_path: Path) -> None:
    contents = hostile_files()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    with (tmp_path / "huge.webp").open("wb") as file:  # No disk holds as much.
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


def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    with TemporaryDirectory() as name:  # pytest's folders are closed to other users.
        folder = Path(name)
        (folder / "closed").mkdir()
        for path in (folder / "closed" / "1.png", folder / "secret.png", folder / "good.png"):
            path.write_bytes(encoded("PNG"))
        folder.chmod(0o755)
        (folder / "closed").chmod(0)
        (folder / "secret.png").chmod(0)
        root = os.geteuid() == 0
        if root:  # Who may read everything.
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


def test_names_that_are_no_unicode_can_be_written_to_a_table(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(encoded("PNG"))
    (batch,) = loader(find_images(tmp_path), batch_size=1)
    assert batch.path == [str(tmp_path / r"caf\xe9.png")]


def test_pytorchs_own_collate_function_serves_photographs_or_names_the_unreadable(
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


def test_problems_are_those_of_the_last_reading(tmp_path: Path) -> None:
    path = tmp_path / "1.png"
    photos = loader([path], batch_size=1)
    (batch,) = photos
    assert (batch.path, [*batch.problems]) == ([], [str(path)])
    path.write_bytes(encoded("PNG"))
    (batch,) = photos
    assert (batch.path, batch.problems) == ([str(path)], {})


@pytest.mark.parametrize("read", [read_image, read_picture])
def test_a_script_is_told_the_file_and_the_reason(
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
        loader(paths, 3, sampler=TurnsSampler(paths, 3, rank=rank, num_replicas=world_size))
        for rank in range(world_size)
    ]
    batches = [batch for share in shares for batch in share]
    assert sorted(index for batch in batches for index in batch.index.tolist()) == [*range(5)]
    assert [len(share) for share in shares] == [len(list(share)) for share in shares]
    assert all(batch.images.shape == (len(batch.path), 1, 28, 28) for batch in batches)


@pytest.fixture
def save() -> Callable[[Path, Tensor], None]:
    return lambda path, image: Image.fromarray(image.numpy()).save(path)
