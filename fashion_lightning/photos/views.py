"""What the network sees of a garment in a photograph: several images like FashionMNIST's.

The garment is cut out by its mask, fitted into 28 x 28 pixels and inverted, light on black as in
the dataset. Garments that lie at home are wider than the dataset's, which hang: in some views they
are narrower, in half of the views the contrast is weak, and every second one is mirrored. Errors of
one view are not those of another: the mean of their logits is right more often than any single one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fashion_lightning.data.files import IMAGE_SIZE

_WIDTHS = (1.0, 0.925, 0.85, 0.775, 0.7)  # relative to the garment's
_DARKEST = (0.35, 0.8)  # where a contrast begins; it ends at 1
_FINE = 4  # samples per pixel and direction
_MIN_RANGE = 0.15  # of a garment's values, which are stretched by at most its reciprocal
_EDGE = 0.004  # Share of the mask's pixels that may lie outside on each side.
_LUMA = (0.299, 0.587, 0.114)


def render(
    picture: Tensor,
    mask: Tensor,
    widths: tuple[float, ...] = _WIDTHS,
    darkest: tuple[float, ...] = _DARKEST,
) -> Tensor:
    """Make images of FashionMNIST from a garment.

    Args:
        picture: `(3, H, W)` in [0, 1].
        mask: `(1, h, w)` in [0, 1], of the same region: 1 is garment. Some values exceed 0.5.
        widths: Of the garment in the views, relative to its own.
        darkest: Of the views, values of the garment's lightest parts.

    Returns:
        Views, `(len(darkest) * len(widths), 1, 28, 28)` in [0, 1].
    """
    height, width = picture.shape[1:]
    grey = 1 - torch.einsum("c,chw->hw", torch.tensor(_LUMA), picture)
    rows, columns = torch.nonzero(mask[0] > 0.5, as_tuple=True)
    left, right = (edge * width for edge in _extent((columns + 0.5) / mask.shape[2]))
    top, bottom = (edge * height for edge in _extent((rows + 0.5) / mask.shape[1]))
    cell = max(width / mask.shape[2], height / mask.shape[1])
    half = (float(max(right - left, bottom - top)) + cell) / 2  # pixels
    steps = (torch.arange(IMAGE_SIZE * _FINE) + 0.5) * (2 / (IMAGE_SIZE * _FINE)) - 1
    y = ((top + bottom) / 2 + half * steps) * (2 / height) - 1
    grids = []
    for wide in widths:
        x = ((left + right) / 2 + half / wide * steps) * (2 / width) - 1
        grids.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1))
    grid, count = torch.stack(grids), len(widths)
    # Averages first where a cell of the grid spans several pixels.
    shrink = max(1, round(2 * half / (IMAGE_SIZE * _FINE)))
    if shrink > 1:
        small = (max(1, height // shrink), max(1, width // shrink))
        grey = F.interpolate(grey[None, None], small, mode="area")[0, 0]
    values = F.grid_sample(
        grey.expand(count, 1, -1, -1), grid, padding_mode="border", align_corners=False
    )
    alpha = F.grid_sample(mask.expand(count, 1, -1, -1), grid, align_corners=False)
    low, high = _range(values[0], alpha[0])
    values = ((values - low) / (high - low).clamp(min=_MIN_RANGE)).clamp(0, 1)
    views = torch.cat(
        [F.avg_pool2d(alpha * (dark + (1 - dark) * values), _FINE) for dark in darkest]
    )
    views[1::2] = views[1::2].flip(3)
    return views


def _extent(places: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends of an interval with nearly all places."""
    ordered = places.sort().values
    outside = int(len(ordered) * _EDGE)
    return ordered[outside], ordered[-1 - outside]


def _range(values: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Return the 2nd and 98th percentile of the garment's values."""
    inside = values[alpha > 0.5].sort().values
    count = len(inside)
    return inside[int(0.02 * count)], inside[int(0.98 * (count - 1))]
