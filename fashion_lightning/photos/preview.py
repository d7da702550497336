"""A figure of photographs: what was found in each, what the network saw, and its prediction."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from PIL import Image, ImageOps
from torch import Tensor

from fashion_lightning.data.files import CLASSES
from fashion_lightning.plotting import STYLE, NotebookFigure, percent, pixels

_BLUE, _LINE, _RUST = "#0072B2", "#9CA3AF", "#B34700"


@style.context(STYLE)
def draw_preview(
    pictures: Sequence[Image.Image],
    images: Tensor,
    probs: Tensor,
    names: Sequence[str],
    class_names: Sequence[str] = CLASSES,
    *,
    garments: Sequence[Image.Image | None] | None = None,
    are_sure: Sequence[bool | None] | None = None,
) -> Figure:
    """Draw photographs, the network's input made of them, and the three most probable classes.

    Args:
        pictures: The K photographs.
        images: The network's input, uint8, or floating point in [0, 1], ``(K, 28, 28)``.
        probs: Probabilities, ``(K, C)``.
        names: Paths of the photographs, whose file names are shown.
        class_names: Names of the C classes.
        garments: What was cut out of the photographs; None where the background is plain.
        are_sure: Whether the predictions are; those that are not are marked.
    """
    has_garments = any(garments or ())
    figure = NotebookFigure(figsize=(5.2, 1.35 * len(pictures) + 0.2), layout="constrained")
    ratios = [1, 1, 1, 1.3] if has_garments else [1, 1, 1.3]
    grid = figure.subplots(len(pictures), len(ratios), squeeze=False, width_ratios=ratios)
    if has_garments:
        grid[0, 1].set_title("garment", pad=3)
    grid[0, -2].set_title("network's input", pad=3)
    grid[0, -1].set_title("prediction", pad=3)
    for number, (axes, picture, row) in enumerate(zip(grid, pictures, probs, strict=True)):
        photo, seen, bars = axes[0], axes[-2], axes[-1]
        photo.imshow(_thumbnail(picture), cmap="gray")
        photo.set(xticks=[], yticks=[])
        photo.spines[:].set(visible=True, color="#E5E7EB")  # frames white pictures
        photo.set_title(_short_name(names[number]), parse_math=False, pad=3, loc="left")
        if has_garments:
            axes[1].axis("off")
            garment = garments[number] if garments else None
            if garment is None:
                axes[1].text(0.5, 0.5, "plain\nbackground", ha="center", va="center", color=_LINE)
            else:
                axes[1].imshow(_thumbnail(garment))
        seen.imshow(pixels(images[number]), cmap="gray", vmin=0, vmax=1)
        seen.axis("off")
        values, classes = row.topk(min(3, len(row)))
        is_unsure = are_sure is not None and are_sure[number] is False
        colors = [_LINE if is_unsure else _BLUE, _LINE, _LINE][: len(values)]
        drawn = bars.barh(range(len(values)), values.tolist(), color=colors, height=0.55)
        bars.bar_label(drawn, [percent(value, 1) for value in values.tolist()], padding=3)
        bars.set_yticks(range(len(values)), [class_names[label] for label in classes])
        bars.set(xlim=(0, 1.4), ylim=(2.6, -0.6), xticks=[])
        bars.spines["bottom"].set_visible(False)
        if is_unsure:
            bars.set_title("not sure", color=_RUST, pad=3, loc="right")
    return figure


def cut_out(picture: Image.Image, mask: Tensor, region: Sequence[int]) -> Image.Image:
    """Return a picture with white around the garment.

    Args:
        picture: As `read_picture` returns it.
        mask: uint8, ``(h, w)``: 255 is garment.
        region: Left, top, right and bottom of what the mask covers, in pixels.
    """
    left, top, right, bottom = region
    alpha = Image.new("L", picture.size)
    size = right - left, bottom - top
    alpha.paste(Image.fromarray(mask.numpy()).resize(size, Image.Resampling.BILINEAR), (left, top))
    white = Image.new("RGB", picture.size, "white")
    return Image.composite(picture.convert("RGB"), white, alpha)


def _thumbnail(picture: Image.Image) -> Any:
    """Return a small upright copy of a picture as an array."""
    picture = ImageOps.exif_transpose(picture)
    picture.thumbnail((300, 300))
    # RGBA would lose most of 16 or 32 bits per pixel.
    return np.asarray(picture if picture.mode[0] in "IF" else picture.convert("RGBA"))


def _short_name(name: str) -> str:
    """Shorten a file's name to fit above an image, with boxes for glyphs that the font lacks."""
    name, font = PurePath(name).name, get_font(findfont("DejaVu Sans"))
    name = name if len(name) <= 16 else f"{name[:7]}…{name[-8:]}"
    return "".join(char if font.get_char_index(ord(char)) else "□" for char in name)
