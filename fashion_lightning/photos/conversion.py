"""The procedure by which the images of FashionMNIST were made, for any photograph.

Xiao, Rasul and Vollgraf 2017, section 2, https://arxiv.org/abs/1708.07747
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fashion_lightning.data.files import IMAGE_SIZE
from fashion_lightning.photos.reading import upright

Pixels = npt.NDArray[np.float32]  # (H, W) or (H, W, 3), 0 ... 255

_TOLERANCE = 0.05 * 255  # How far the background's colour may vary.
_SHARPENING = 0.5  # Weight of the difference between an image and its blurred version.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as in PIL


def to_fashion_mnist(picture: Image.Image) -> Tensor:
    """Make an image of FashionMNIST from a picture of a garment on a plain background.

    1. Trim edges whose colour differs by at most 5 % from that of the corners.
    2. Resize the longest edge to 28 pixels, each the mean of the area that it covers.
    3. Sharpen with a Gaussian of radius and standard deviation 1.
    4. Extend to 28 x 28 pixels, with the garment in the centre.
    5. Negate, unless the garment is lighter than the background.

    Where the paper is silent, training images that had been enlarged, tinted, put on light
    backgrounds and saved as JPEG decided: the background is the colour of the corner that most of
    the border shares; blurred edges are cut at half their height; means need less sharpening (0.5
    instead of ImageMagick's 0.83 times the difference from the Gaussian); and the contrast is
    stretched to 255, since each of the 60,000 training images reaches 254.

    Transparent parts are background: white, or black if the garment would disappear on white. A
    picture of 28 x 28 pixels is only converted to grey, and negated if its background is light, so
    that the dataset's own images stay as they are.

    Args:
        picture: Any size, any mode that PIL converts to RGB.

    Returns:
        uint8, ``(28, 28)``: the garment light on black.

    Raises:
        ValueError: If nothing stands out from the background, or it has fewer than 14 pixels.

    Example:
        >>> picture = Image.new("RGB", (400, 300), "white")
        >>> picture.paste("black", (100, 150, 300, 250))
        >>> image = to_fashion_mnist(picture)
        >>> image[:7].max().item(), image[7:21].min().item(), image[21:].max().item()
        (0, 255, 0)
    """
    pixels = _fill_transparent(upright(picture))
    background = _background_colour(pixels)
    box = _foreground(_difference(pixels, background))
    if box is None:
        raise ValueError("Expected `picture` to show something, but got one colour all over.")
    grey, grey_background = pixels @ _LUMA, background @ _LUMA
    contrast = (grey - grey_background)[box]
    is_lighter = contrast[abs(contrast) > _TOLERANCE].sum() >= 0
    if grey.shape == (IMAGE_SIZE, IMAGE_SIZE):
        return _to_uint8(grey if is_lighter else 255 - grey)
    garment = (contrast if is_lighter else -contrast).clip(min=0)
    height, width = garment.shape
    longest = max(height, width)
    if longest < IMAGE_SIZE // 2 or garment.max() < 1:  # below 1: another hue of the same luma
        raise ValueError(
            f"Expected `picture` to show something of {IMAGE_SIZE // 2} pixels, lighter or darker "
            f"than the background, but got {width} x {height}."
        )
    height, width = (max(1, round(edge * IMAGE_SIZE / longest)) for edge in (height, width))
    small = np.asarray(Image.fromarray(garment).resize((width, height), Image.Resampling.BOX))
    top, left = (IMAGE_SIZE - height + 1) // 2, (IMAGE_SIZE - width + 1) // 2
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    image[top : top + height, left : left + width] = small
    image += _SHARPENING * (image - _gaussian_blur(image))
    # Sharpening must not exceed the largest contrast that this background allows.
    image = image.clip(0, 255 - grey_background if is_lighter else grey_background)
    return _to_uint8(image * (255 / image.max()))


def _to_uint8(image: Pixels) -> Tensor:
    return torch.from_numpy(image.round().clip(0, 255).astype(np.uint8))


def _gaussian_blur(image: Pixels) -> Pixels:
    """Blur with a Gaussian of radius 1 and standard deviation 1."""
    side = np.exp(np.float32(-0.5))
    for _ in range(2):  # once along each axis
        padded = np.pad(image, ((1, 1), (0, 0)))
        image = ((padded[1:-1] + side * (padded[:-2] + padded[2:])) / (1 + 2 * side)).T
    return image


def _fill_transparent(picture: Image.Image) -> Pixels:
    """Return the pixels of an RGB or RGBA picture, with white or black for transparent ones."""
    pixels: Pixels = np.asarray(picture, dtype=np.float32)
    if picture.mode == "RGB":
        return pixels
    alpha = pixels[:, :, 3]
    on_black: Pixels = pixels[:, :, :3] * (pixels[:, :, 3:] / np.float32(255))
    on_white: Pixels = on_black + (255 - pixels[:, :, 3:])
    opaque, visible = _foreground(alpha), _foreground(_difference(on_white, (255, 255, 255)))
    if opaque is None:
        return on_white
    if visible is None:
        return on_black
    # An opaque rectangle, even with round corners, is a photograph rather than a cut-out garment.
    is_cut_out = (alpha[opaque] > 127).mean() < 0.95
    sizes = zip(alpha[visible].shape, alpha[opaque].shape, strict=True)
    is_lost_on_white = any(seen < 0.9 * whole for seen, whole in sizes)
    return on_black if is_cut_out and is_lost_on_white else on_white


def _background_colour(pixels: Pixels) -> Pixels:
    """Return the colour, ``(3,)``, of the corner that matches most of the border."""
    size = max(1, max(pixels.shape) // 64)  # Single pixels of a JPEG vary too much.
    ends = (slice(None, size), slice(-size, None))
    corners = [np.median(pixels[y, x], axis=(0, 1)) for y in ends for x in ends]
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return max(corners, key=lambda c: (abs(border - c).max(axis=1) <= _TOLERANCE).sum())


def _difference(pixels: Pixels, colour: Sequence[float] | Pixels) -> Pixels:
    """Return ``abs(pixels - colour).max(axis=2)``, several times as fast."""
    largest: Pixels = abs(pixels[:, :, 0] - colour[0])
    for channel in (1, 2):
        np.maximum(largest, abs(pixels[:, :, channel] - colour[channel]), out=largest)
    return largest


def _foreground(difference: Pixels) -> tuple[slice, slice] | None:
    """Return the rows and columns where ``(H, W)`` differences exceed the tolerance, or None."""
    height, width = difference.shape
    # A row counts if more than 0.5 % of its pixels differ; fewer are dirt.
    rows = np.partition(difference, -1 - width // 200, axis=1)[:, -1 - width // 200]
    turned = np.ascontiguousarray(difference.T)  # Partitioning along axis 0 takes longer.
    columns = np.partition(turned, -1 - height // 200, axis=1)[:, -1 - height // 200]
    places = [np.flatnonzero(profile > _TOLERANCE) for profile in (rows, columns)]
    if not all(len(each) for each in places):
        return None
    spans = [slice(each[0], each[-1] + 1) for each in places]
    # A blurred edge rises over about half a pixel of the final image.
    rise = max(span.stop - span.start for span in spans) // (2 * IMAGE_SIZE)
    top, left = (
        slice(
            span.start + _half_height(profile[span], rise),
            span.stop - _half_height(profile[span][::-1], rise),
        )
        for profile, span in zip((rows, columns), spans, strict=True)
    )
    return top, left


def _half_height(profile: Pixels, rise: int) -> int:
    """Return the first position with at least half the value found `rise` further in."""
    ahead = np.append(profile[rise:], np.repeat(profile[-1], rise))[: len(profile)]
    return int(np.argmax(profile >= 0.5 * ahead))
