"""Where the garment is: a small U-Net marks its pixels, in the whole picture and then close up.

The network sees 64 x 64 pixels. A second look at the region that the first has found gives the mask
more detail than a larger network would. Each look is the mean of a picture and its mirror image.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn


class UNet(nn.Module):
    """A small U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597).

    It works on blocks of 2 x 2 pixels, which the last layer takes apart again.

    Args:
        channels: Widths of the levels, each with half the resolution of the one before.
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.init_args = {"channels": list(channels)}
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width = 12
        for wide in channels:
            self.down.append(nn.Sequential(*_convolution(width, wide), *_convolution(wide, wide)))
            width = wide
        for wide in reversed(channels[:-1]):
            self.up.append(nn.Sequential(*_convolution(width + wide, wide)))
            width = wide
        self.head = nn.Conv2d(width, 4, 3, padding=1)
        self.to(memory_format=torch.channels_last)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits of the mask, `(B, 1, S, S)`, of pictures `(B, 3, S, S)` in [0, 1]."""
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        features = F.pixel_unshuffle(pictures - 0.5, 2)
        levels: list[Tensor] = []
        for number, level in enumerate(self.down):
            features = level(F.max_pool2d(features, 2) if number else features)
            levels.append(features)
        for level, finer in zip(self.up, reversed(levels[:-1]), strict=True):
            features = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = level(torch.cat([features, finer], dim=1))
        return F.pixel_shuffle(self.head(features), 2)


def _convolution(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]


SIZE = 64  # pixels that the network sees
_MARGIN = 0.15  # of a garment's longest edge, around it in the second look
_CERTAIN = 0.9  # Some pixel of a garment is at least so certain.
_SMALLEST = 0.01  # share of the picture that a garment covers at least
_PART = 0.2  # of the largest part's size: smaller parts do not count


class Garment(NamedTuple):
    """Where a garment is in a photograph."""

    mask: Tensor  # (1, 64, 64) in [0, 1], of the region alone: 1 is garment
    region: tuple[int, int, int, int]  # left, top, right, bottom, in pixels


def load_unet(path: str | Path) -> UNet:
    """Return the network of a ``.safetensors`` file, in eval mode."""
    with safe_open(path, framework="pt") as file:
        network = UNet(**json.loads(file.metadata()["network"])["init_args"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    network.load_state_dict(weights)
    return network.eval()


def find_garment(network: nn.Module, picture: Tensor, looks: int = 2) -> Garment | None:
    """Find the garment in a photograph.

    Args:
        network: A trained `UNet`.
        picture: `(3, H, W)` in [0, 1].
        looks: 1 for the whole picture alone, 2 to look again at what was found there.

    Returns:
        Where the garment is; None if none was found.
    """
    height, width = picture.shape[1:]
    region = (0, 0, width, height)
    mask = largest_parts(_look(network, picture))
    if not _shows_garment(mask):
        return None
    for _ in range(looks - 1):
        closer = _surroundings(mask, region, (width, height))
        left, top, right, bottom = closer
        seen = largest_parts(_look(network, picture[:, top:bottom, left:right]))
        if not _shows_garment(seen):
            break
        mask, region = seen, closer
    return Garment(mask, region)


def _surroundings(
    mask: Tensor, region: tuple[int, int, int, int], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return the region around a mask, as square as the picture allows."""
    inside, places = mask[0] > 0.5, []
    for axis in (0, 1):
        start, length = region[axis], region[axis + 2] - region[axis]
        hit = inside.any(axis).nonzero()
        places.append(
            (start + int(hit[0]) * length / SIZE, start + (int(hit[-1]) + 1) * length / SIZE)
        )
    side = max(end - start for start, end in places) * (1 + 2 * _MARGIN)
    (left, right), (top, bottom) = (
        (max(0, int((start + end - side) / 2)), min(edge, int((start + end + side) / 2) + 1))
        for (start, end), edge in zip(places, size, strict=True)
    )
    return left, top, right, bottom


def _shows_garment(mask: Tensor) -> bool:
    return bool((mask > 0.5).float().mean() >= _SMALLEST and mask.max() >= _CERTAIN)


def _look(network: nn.Module, picture: Tensor) -> Tensor:
    """Return the mask of a picture, `(1, 64, 64)`."""
    small = F.interpolate(picture[None], (SIZE, SIZE), mode="bilinear", antialias=True)
    masks: Tensor = network(torch.cat([small, small.flip(3)]))
    return ((masks[:1] + masks[1:].flip(3)) / 2).sigmoid()[0]


def largest_parts(mask: Tensor) -> Tensor:
    """Return a mask without the parts that are much smaller than the largest one."""
    inside = mask[0] > 0.5
    # Pixels of a row that no gap separates have the same number, and likewise those of a column.
    gap, lines = (~inside).long(), torch.arange(SIZE) * (SIZE + 1)
    runs = gap.cumsum(1) + lines[:, None], gap.cumsum(0) + lines
    names = torch.arange(1, SIZE * SIZE + 1, dtype=torch.float32).view_as(inside) * inside
    while True:  # Each part gets the largest of its pixels' numbers.
        spread = F.max_pool2d(names[None], 3, 1, 1)[0] * inside
        for run in runs:
            largest = torch.zeros(SIZE * (SIZE + 1) + 1)
            largest.scatter_reduce_(0, run.flatten(), spread.flatten(), "amax")
            spread = largest[run] * inside
        if torch.equal(spread, names):
            break
        names = spread
    sizes = torch.bincount(names.long().flatten(), minlength=2)
    sizes[0] = 0
    kept = sizes >= _PART * sizes.max()
    kept[0] = False
    is_kept = kept[names.long()].float()[None]
    kept_mask: Tensor = mask * F.max_pool2d(is_kept, 3, 1, 1)  # The soft edge belongs to its part.
    return kept_mask
