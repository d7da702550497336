"""Photographs on backgrounds that no training scene has: garments of the test set, drawn here."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from support import REPOSITORY
from torch import Tensor

from fashion_lightning import CLASSES, MLP, FashionMNISTClassifier
from fashion_lightning.checkpoints import weights_file
from fashion_lightning.data import files
from fashion_lightning.photos import (
    PhotoClassifier,
    Photos,
    classify,
    collate_photos,
    find_images,
    is_plain,
    read_image,
    to_fashion_mnist,
)
from fashion_lightning.photos.segmentation import largest_parts
from fashion_lightning.photos.views import render

SIZE = (360, 480)
CLOTHS = [(40, 60, 130), (150, 40, 50), (235, 230, 215), (30, 30, 34), (70, 120, 80)]


def bricks(draw: ImageDraw.ImageDraw) -> None:
    """Draw a wall of bricks with light joints."""
    for row, top in enumerate(range(-10, SIZE[1], 32)):
        for left in range(-40 * (row % 2), SIZE[0], 80):
            shade = 12 * ((left * 7 + top * 3) % 3)
            draw.rectangle((left + 2, top + 2, left + 77, top + 29), (186 + shade, 120 + shade, 96))


def terrazzo(draw: ImageDraw.ImageDraw) -> None:
    """Draw a floor with chips of stone."""
    random = np.random.default_rng(0)
    for x, y, radius in random.integers((0, 0, 2), (*SIZE, 7), (900, 3)).tolist():
        grey = 120 + (7 * x + 3 * y) % 115
        draw.ellipse((x, y, x + radius, y + 1.4 * radius), (grey, grey - 8, grey - 20))


def lawn(draw: ImageDraw.ImageDraw) -> None:
    """Draw blades of grass."""
    random = np.random.default_rng(1)
    for x, y, lean, length in random.integers((0, 0, -5, 4), (*SIZE, 6, 14), (6000, 4)).tolist():
        green = 110 + (5 * x + 11 * y) % 90
        draw.line((x, y, x + lean, y - length), (green // 2, green, green // 3), 2)


BACKGROUNDS: list[tuple[Callable[[ImageDraw.ImageDraw], None], tuple[int, int, int]]] = [
    (bricks, (222, 214, 200)),
    (terrazzo, (200, 194, 184)),
    (lawn, (70, 120, 50)),
]


def photograph(image: Tensor, number: int) -> Image.Image:
    """Return a garment of the dataset in coloured cloth on one of the backgrounds."""
    draw_on, colour = BACKGROUNDS[number % len(BACKGROUNDS)]
    scene = Image.new("RGB", SIZE, colour)
    draw_on(ImageDraw.Draw(scene))
    large = Image.fromarray(image.numpy()).resize((280, 280), Image.Resampling.BICUBIC)
    mask = large.point(lambda value: 255 * (value > 24)).filter(ImageFilter.MedianFilter(9))
    folds = (np.asarray(large, dtype=np.float32)[:, :, None] / 255) * 0.6 + 0.55
    cloth = (np.array(CLOTHS[number % len(CLOTHS)]) * folds).clip(0, 255).astype(np.uint8)
    shadow = mask.filter(ImageFilter.GaussianBlur(6)).point(lambda value: value // 3)
    scene.paste("black", (46, 106), shadow)
    scene.paste(Image.fromarray(cloth), (40, 100), mask)
    return scene.filter(ImageFilter.GaussianBlur(0.7))


@pytest.fixture(scope="module")
def garments(data_dir: Path) -> tuple[Tensor, Tensor]:
    """Return the first three test images of each class."""
    images, labels = files.load(data_dir, train=False)
    chosen = torch.cat([(labels == number).nonzero()[:3, 0] for number in range(10)])
    return images[chosen], labels[chosen]


@pytest.fixture(scope="module")
def classifier() -> PhotoClassifier:
    return PhotoClassifier()


def test_most_garments_on_unknown_backgrounds_are_recognized(
    classifier: PhotoClassifier, garments: tuple[Tensor, Tensor]
) -> None:
    results = [classifier(photograph(image, n)) for n, image in enumerate(garments[0])]
    assert all(result.background == "real" for result in results)
    right = [r.prediction == label for r, label in zip(results, garments[1].tolist(), strict=True)]
    sure = [is_right for is_right, result in zip(right, results, strict=True) if result.sure]
    assert sum(right) >= 0.7 * len(right)
    assert len(sure) >= 0.4 * len(right)
    assert sum(sure) >= 0.85 * len(sure)


def test_masks_help(classifier: PhotoClassifier, garments: tuple[Tensor, Tensor]) -> None:
    parts = classifier, PhotoClassifier(without=["masks"])
    pictures = [photograph(image, n) for n, image in enumerate(garments[0][::2])]
    right = [
        sum(
            part(picture).prediction == label
            for picture, label in zip(pictures, labels, strict=True)
        )
        for labels in [garments[1][::2].tolist()]
        for part in parts
    ]
    assert right[0] > right[1] + 3


def changed(picture: Image.Image) -> dict[str, Image.Image]:
    """Return the same garment photographed differently."""
    hue = picture.convert("HSV")
    turned = Image.merge(
        "HSV", (hue.getchannel(0).point(lambda v: (v + 90) % 256), *hue.split()[1:])
    )
    exif, file = Image.Exif(), io.BytesIO()
    exif[274] = 6  # The camera was turned by 90 degrees.
    picture.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    return {
        "shifted": picture.transform(SIZE, Image.Transform.AFFINE, (1, 0, 12, 0, 1, -9)),
        "smaller": picture.resize((240, 320)),
        "larger": picture.resize((900, 1200)),
        "mirrored": ImageOps.mirror(picture),
        "colour": turned.convert("RGB"),
        "exif": Image.open(file),
    }


def test_the_answer_does_not_depend_on_how_the_garment_was_photographed(
    classifier: PhotoClassifier, garments: tuple[Tensor, Tensor]
) -> None:
    same: dict[str, list[bool]] = {}
    for number in range(0, 30, 6):
        picture = photograph(garments[0][number], number)
        before = classifier(picture)
        for name, other in changed(picture).items():
            after = classifier(other)
            is_same = after.prediction == before.prediction
            same.setdefault(name, []).append(is_same or not (before.sure or after.sure))
            if name == "exif":
                assert torch.equal(after.probabilities, before.probabilities)
    assert all(sum(each) >= len(each) - 1 for each in same.values()), same


def test_plain_backgrounds_keep_the_conversion_and_the_network(
    classifier: PhotoClassifier, garments: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    network = FashionMNISTClassifier.from_pretrained("convnet")
    for image in garments[0][::11]:
        large = Image.fromarray(255 - image.numpy()).resize((280, 280))
        picture = ImageOps.expand(large, 30, 255)
        picture.save(tmp_path / "garment.png")
        seen = read_image(tmp_path / "garment.png")
        result = classify(tmp_path / "garment.png")[0]
        assert result.background == "plain"
        assert result.seen is not None
        assert torch.equal(result.seen, seen)
        assert torch.equal(result.seen, to_fashion_mnist(picture))
        probs = network.predict_step(seen[None, None].float().div_(255), 0)[0]
        assert torch.equal(result.probabilities, probs)


def test_pictures_of_any_kind_in_any_number(
    garments: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    picture = photograph(garments[0][0], 0)
    picture.save(tmp_path / "a.png")
    results = classify([tmp_path / "a.png", str(tmp_path / "a.png"), picture, np.array(picture)])
    assert len({tuple(result.probabilities.tolist()) for result in results}) == 1
    result = classify(picture)[0]
    assert result.class_name == CLASSES[result.prediction]
    assert result.confidence == result.probabilities.max()
    assert result.mask is not None
    assert result.mask.shape == (64, 64)
    assert result.seen is not None
    assert result.seen.shape == (28, 28)
    with pytest.raises(ValueError, match=r"Expected `picture` to be uint8, \(H, W\)"):
        classify(np.zeros((4, 4, 2), dtype=np.uint8))


def test_a_checkpoint_serves_both_paths_and_makes_no_promise(
    garments: tuple[Tensor, Tensor],
) -> None:
    result = classify(photograph(garments[0][0], 0), checkpoint="pretrained:mlp")[0]
    assert result.sure is None
    assert result.background == "real"


def test_what_a_trainer_does_with_the_network_of_plain_backgrounds_is_no_matter(
    garments: tuple[Tensor, Tensor],
) -> None:
    classifier = PhotoClassifier()
    picture = photograph(garments[0][0], 0)
    before = classifier.look_at(picture)
    classifier.plain.to("meta")  # as to a GPU
    assert torch.equal(classifier.look_at(picture).probabilities, before.probabilities)


class OnGpu(FashionMNISTClassifier):
    """Stands for a classifier whose network its owner has moved to a GPU."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.device.type == "meta"
        return torch.eye(10, device="cpu")[:1].expand(len(images), 10)


@pytest.mark.parametrize("place", [0, None])
def test_a_classifier_is_asked_where_it_is(
    place: int | None, garments: tuple[Tensor, Tensor]
) -> None:
    picture = Image.new("RGB", (400, 300), "white")
    picture.paste("black", (100, 150, 300, 250))
    if place is not None:
        picture = photograph(garments[0][place], 0)
    with torch.device("meta"):  # what a script may have set as the default device
        result = PhotoClassifier(OnGpu(MLP()))(picture)
    assert result.prediction == 0
    assert result.background == ("plain" if place is None else "real")


def test_a_batch_may_hold_photographs_with_and_without_masks(
    classifier: PhotoClassifier, garments: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    plain = Image.new("RGB", (400, 300), "white")
    plain.paste("black", (100, 150, 300, 250))
    for name, picture in {"plain": plain, "real": photograph(garments[0][0], 0)}.items():
        picture.save(tmp_path / f"{name}.png")
    photos = Photos(find_images(tmp_path), classifier)
    with torch.device("meta"):  # what a script may have set as the default device
        batch = collate_photos(photos.__getitems__([0, 1]))
    assert batch.mask is not None
    assert batch.background == ["plain", "real"]
    assert batch.mask.dtype == torch.uint8
    assert [bool(mask.any()) for mask in batch.mask] == [False, True]


def test_probabilities_with_a_raised_largest_one_still_sum_to_one(
    classifier: PhotoClassifier, garments: tuple[Tensor, Tensor]
) -> None:
    for number in (0, 9, 18):
        result = classifier(photograph(garments[0][number], number))
        assert result.probabilities.sum() == pytest.approx(1)
        assert result.confidence == result.probabilities.max()
        assert result.sure == (result.confidence >= 0.7)


def flooded(inside: Tensor) -> list[set[tuple[int, int]]]:
    """Return the connected parts of a mask, diagonals included."""
    left = {(row, column) for row, column in inside.nonzero().tolist()}
    parts = []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            row, column = edge.pop()
            part.add((row, column))
            near = {(row + y, column + x) for y in (-1, 0, 1) for x in (-1, 0, 1)} & left
            left -= near
            edge.extend(near)
        parts.append(part)
    return parts


@pytest.mark.parametrize("size", [1, 3, 7, 15])
def test_small_parts_of_a_mask_do_not_count(size: int) -> None:
    noise = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(size))
    mask = (size * F.avg_pool2d(noise, size, 1, size // 2) - 0.5).sigmoid()
    parts = flooded(mask[0] > 0.5)
    kept = [part for part in parts if len(part) >= 0.2 * max(map(len, parts))]
    expected = torch.zeros(64, 64, dtype=torch.bool)
    for row, column in set().union(*kept):
        expected[row, column] = True
    assert torch.equal(largest_parts(mask)[0] > 0.5, expected)


def nothing(kind: str) -> Image.Image:
    random = np.random.default_rng(2)
    if kind == "one colour":
        return Image.new("RGB", SIZE, "grey")
    scene = Image.new("RGB", SIZE, BACKGROUNDS[1][1])
    if kind == "floor":
        terrazzo(ImageDraw.Draw(scene))
        return scene
    return Image.fromarray(random.integers(0, 256, (*SIZE, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["one colour"])
def test_what_shows_no_garment_is_not_classified(classifier: PhotoClassifier, kind: str) -> None:
    result = classifier(nothing(kind))
    assert result.class_name is None
    assert result.prediction == -1
    assert result.reason


def test_the_border_tells_plain_backgrounds() -> None:
    plain = Image.new("RGB", SIZE, "white")
    plain.paste("navy", (100, 100, 200, 480))  # It touches the edge.
    assert is_plain(plain)
    cropped = Image.new("RGB", SIZE, "white")
    width, height = SIZE
    cropped.paste("navy", (0, height // 5, width, height))  # to the garment, but above it
    ImageDraw.Draw(cropped).rectangle((0, height // 2, width // 9, height), fill="white")
    assert is_plain(cropped)
    assert is_plain(Image.new("RGB", (28, 28)))
    transparent = Image.new("RGBA", SIZE, (9, 200, 30, 0))
    assert is_plain(transparent)
    gradient = Image.linear_gradient("L").convert("RGB")
    assert not is_plain(gradient)


@pytest.mark.parametrize("name", ["photos", "photos-mask"])
def test_the_packaged_networks_are_small_and_their_configs_beside_them(name: str) -> None:
    path = weights_file(name)
    config = REPOSITORY / "configs" / f"{name}.yaml"
    assert path.with_suffix(".yaml").read_text() == config.read_text()
    assert path.stat().st_size < 1_300_000


def test_views_show_the_garment_as_wide_as_it_is_and_narrower() -> None:
    picture, mask = torch.rand(3, 40, 40), torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    seen = (render(picture, mask) > 0.1).any(2).sum(-1).flatten().tolist()  # columns
    height = (render(picture, mask) > 0.1).any(3).sum(-1).flatten().tolist()
    assert seen[0] == max(seen) >= 26
    assert seen[:5] == sorted(seen[:5], reverse=True)
    assert seen[4] == pytest.approx(0.7 * seen[0], abs=1.5)
    assert len(set(height)) == 1
