"""Shapes of garments as people lay them down: warped, turned, moved and scaled."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

SHOES = (5, 7, 9)  # labels of Sandal, Sneaker and Ankle boot
DRESS = 3
_TROUSER, _SANDAL = 1, 5
_SLEEVES = (0, 2, 4, 6)  # labels of T-shirt/top, Pullover, Coat and Shirt


class Random:
    """Random numbers per image, `(B, 1, 1, 1)`, from one generator."""

    def __init__(self, count: int, generator: Generator) -> None:
        self.count, self.generator = count, generator

    def uniform(self, low: float = 0.0, high: float = 1.0, channels: int = 1) -> Tensor:
        """Return numbers in [low, high), `(B, channels, 1, 1)`."""
        shape = (self.count, channels, 1, 1)
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def normal(self, std: float = 1.0) -> Tensor:
        """Return normal numbers."""
        return std * torch.randn((self.count, 1, 1, 1), generator=self.generator)

    def chance(self, probability: float) -> Tensor:
        """Return 1 with this probability, else 0."""
        return (self.uniform() < probability).float()

    def noise(self, cells: tuple[int, int], size: int, channels: int = 1) -> Tensor:
        """Return smooth noise of about unit variance, `(B, channels, size, size)`."""
        field = torch.randn((self.count, channels, *cells), generator=self.generator)
        return _enlarging(cells[0], size) @ field @ _enlarging(cells[1], size).T


@cache
def _enlarging(cells: int, size: int) -> Tensor:
    """Return the matrix of bicubic interpolation: twice as fast as `F.interpolate`."""
    unit = torch.eye(cells).view(1, cells, cells, 1)
    return F.interpolate(unit, (size, 1), mode="bicubic")[0, :, :, 0].T.contiguous()


def axes(size: int) -> tuple[Tensor, Tensor]:
    """Return x and y of the pixels in [-1, 1], `(1, 1, 1, size)` and `(1, 1, size, 1)`."""
    steps = (torch.arange(size) + 0.5) * (2 / size) - 1
    return steps.view(1, 1, 1, size), steps.view(1, 1, size, 1)


def sample(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the images' values at places `(B, 1, S, S)` in [-1, 1]; outside is 0."""
    grid = torch.cat([x + 0 * y, y + 0 * x], dim=1).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, align_corners=False)


def turn(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Return coordinates turned by an angle in radians."""
    cos, sin = angle.cos(), angle.sin()
    return cos * x + sin * y, cos * y - sin * x


def is_among(labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    """Return 1 where a label is one of the classes, else 0, `(B, 1, 1, 1)`."""
    return torch.isin(labels, torch.tensor(classes)).float().view(-1, 1, 1, 1)


def lay_down(
    x: Tensor, y: Tensor, labels: Tensor, r: Random, amount: float
) -> tuple[Tensor, Tensor]:
    """Warp coordinates so that sleeves and legs are spread and dresses flared, as garments lie.

    Args:
        x: Of the pixels in the frame of a garment, in [-1, 1].
        y: Likewise.
        labels: Class numbers, `(B,)`.
        r: Source of randomness.
        amount: Largest strength, 1 for sleeves that point sideways.

    Returns:
        Where in FashionMNIST's image the pixels come from.
    """
    spread = is_among(labels, _SLEEVES) * r.chance(0.7) * r.uniform(-0.1, 1.2) * amount
    joint_x, joint_y = r.uniform(0.42, 0.62), r.uniform(-0.75, -0.55)
    out, below = x.abs() - joint_x, y - joint_y
    hung = out * spread.cos() - below * spread.sin()  # where it was when the sleeve hung down
    is_sleeve = (out > 0).float()
    side = torch.where(
        hung > 0, joint_x + hung * r.uniform(0.6, 1), torch.tensor(3.0)
    )  # 3: between body and sleeve
    y = torch.lerp(y, joint_y + below * spread.cos() + out * spread.sin(), is_sleeve)
    x = torch.lerp(x, x.sign() * side, is_sleeve)
    # Legs are spread from where they meet on.
    apart = is_among(labels, (_TROUSER,)) * r.chance(0.6) * r.uniform(0, 0.6) * amount
    leg = x.abs() - apart * (y - r.uniform(-0.5, 0)).clamp(min=0)
    x = torch.where(leg > 0, x.sign() * leg, 3 * (apart > 0) + 0 * x)
    flare = is_among(labels, (DRESS,)) * r.uniform(-0.1, 0.9) * amount
    return x / (1 + flare * (y + 1) / 2) + r.normal(0.05) * (y * y - 0.3), y


def sole(x: Tensor, y: Tensor, labels: Tensor, r: Random) -> tuple[Tensor, Tensor]:
    """Return a shoe from above and what is seen of its inside, 1 inside, where side views lie."""
    length, width, power = r.uniform(0.8, 0.97), r.uniform(0.32, 0.5), r.uniform(2, 3)
    width = width * (1 + 0.25 * x).clamp(min=0.5)  # Toes are broader than heels.
    outline = (x.abs() / length) ** power + (y.abs() / width) ** power
    place, long = r.uniform(-0.5, -0.2), r.uniform(0.2, 0.5)
    opening = ((x - place) / long) ** 2 + (y / (width * r.uniform(0.4, 0.8))) ** 2
    opening = ((1 - opening) * 6 + 0.5).clamp(0, 1)
    bare = ((0.95 - outline) * 6 + 0.5).clamp(0, 1)  # Sandals are straps on a sole.
    for _ in range(3):
        strap = (x + r.uniform(-0.6, 0.7) + r.uniform(-0.8, 0.8) * y.abs()).abs()
        bare = bare * (1 - ((r.uniform(0.04, 0.22) - strap) * 12 + 0.5).clamp(0, 1) * r.chance(0.6))
    return ((1 - outline) * 6 + 0.5).clamp(0, 1), torch.lerp(
        opening, bare, is_among(labels, (_SANDAL,))
    )
