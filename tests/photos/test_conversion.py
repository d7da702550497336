"""Photographs of the dataset's own images give them back; others become light on black."""

import io
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fashion_lightning import FashionMNISTClassifier
from fashion_lightning.data import files
from fashion_lightning.photos import (
    read_image,
    read_picture,
    to_fashion_mnist,
)


def photograph(image: Tensor, random: Random) -> bytes:
    """Return a JPEG as in a shop: the image enlarged, coloured, somewhere on a light background."""
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


def test_photographs_look_like_their_original_images(data_dir: Path, tmp_path: Path) -> None:
    """A shift by half a pixel is a mean difference of 12, missing sharpening one of 8."""
    path, random = tmp_path / "photo.jpg", Random(0)
    differences = []
    for original in files.load(data_dir, train=False)[0][:40]:
        path.write_bytes(photograph(original, random))
        differences.append((read_image(path).float() - original.float()).abs().mean())
    assert torch.stack(differences).mean() < 7.5


def test_the_datasets_own_images_are_not_changed(data_dir: Path, tmp_path: Path) -> None:
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


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
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


def test_a_photograph_with_round_corners_is_not_a_cut_out() -> None:
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
def test_the_first_frame_of_an_animation_is_used(kind: str, tmp_path: Path) -> None:
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
def test_damaged_exif_data_are_ignored(damage: str, tmp_path: Path) -> None:
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
