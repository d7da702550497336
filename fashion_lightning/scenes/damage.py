"""Images of FashionMNIST as photographs at home show them, cut out by imperfect masks.

Sleeves are spread and dresses flared, shoes lie in pairs and are seen from above, hoods appear,
masks miss parts and take along others, cloth and light are other ones; then the result is fitted
into 28 x 28 pixels again.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from fashion_lightning.data.files import IMAGE_SIZE
from fashion_lightning.scenes.shapes import (
    DRESS,
    SHOES,
    Random,
    axes,
    is_among,
    lay_down,
    sample,
    sole,
    turn,
)
from fashion_lightning.scenes.textures import textures

_SIZE = 2 * IMAGE_SIZE
_HOODED = (2, 4)  # labels of Pullover and Coat


def damage(images: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """Return images as they might come from photographs, `(B, 1, 28, 28)` in [0, 1].

    Args:
        images: Floats in [0, 1], `(B, 1, 28, 28)`.
        labels: Class numbers, `(B,)`.
        generator: Source of randomness.
    """
    r = Random(len(images), generator)
    mask, values = _lay(images, labels, r)
    mask = _cut(mask, labels, r)
    values = _relight(values, mask, r)
    return _fit(mask * values, mask, r)


def _lay(images: Tensor, labels: Tensor, r: Random) -> tuple[Tensor, Tensor]:
    """Return masks and values of warped garments, and of pairs of shoes."""
    is_shoe = is_among(labels, SHOES)
    opaque = (images > 0.03).float()
    closed = -F.max_pool2d(-F.max_pool2d(opaque, 3, 1, 1), 3, 1, 1)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), "replicate"), 3, 1)
    layers = torch.cat([closed, torch.where(images > 0.03, images, blurred)], 1)
    wobble = r.uniform(0, 0.04) * r.noise((5, 5), _SIZE, 2)
    aspect = torch.exp(r.normal(0.16) - 0.08)  # Garments lie wider than they hang.
    aspect = aspect * torch.exp(-0.25 * is_among(labels, (DRESS,)) * r.uniform())  # short dresses
    pair = is_shoe * r.chance(0.6)
    upright = pair * r.chance(0.65)
    lying = (1 - pair) * r.chance(0.12) * 1.57 * (1 - 2 * r.chance(0.5))  # photographed sideways
    angle = r.normal(0.1) + lying + upright * (r.normal(0.2) + 1.57 * (1 - 2 * r.chance(0.5)))
    squeeze = 1 + upright * r.uniform(-0.2, 0.6)
    # Pairs lie side by side: upright ones in x, others in y.
    gap = r.uniform(0.15, 0.45)
    across, down = axes(_SIZE)

    def place(dx: Tensor, dy: Tensor, mirrored: Tensor) -> Tensor:
        zoom = 1.5 + 0.25 * pair
        x, y = turn((across - dx) * zoom, (down - dy) * zoom, angle * mirrored)
        x, y = x * aspect * mirrored + wobble[:, :1], y / aspect * squeeze + wobble[:, 1:]
        layer = sample(layers, *lay_down(x, y, labels, r, 0.9))
        outline, opening = sole(x, y, labels, r)
        leather = torch.where(layer[:, :1] > 0.5, layer[:, 1:], mean)
        leather = leather * (1 - opening * shade)
        return torch.where(above > 0, torch.cat([outline, leather], 1), layer)

    above = upright * r.chance(0.45)
    shade = r.uniform(-0.9, 0.9)
    covered = closed.sum((2, 3), keepdim=True).clamp(min=1)
    mean = (closed * images).sum((2, 3), keepdim=True) / covered
    slip = r.normal(0.08) + r.normal(0.2) * (1 - upright)
    dx, dy = pair * (gap * upright + slip), pair * gap * (1 - upright)
    mirrored = 1 - 2 * pair * torch.maximum(upright, r.chance(0.2))
    first, second = place(-dx, -dy, torch.ones(1)), place(dx, dy, mirrored)
    layers = torch.where(first[:, :1] >= second[:, :1] * pair, first, second)
    return layers[:, :1], layers[:, 1:]


def _cut(mask: Tensor, labels: Tensor, r: Random) -> Tensor:
    """Return masks with bites, holes, rough edges, and blobs that do not belong to the garment."""
    x, y = axes(_SIZE)
    near = F.max_pool2d(mask, 7, 1, 3)
    # Narrow gaps close: between sleeve and body, between legs, between the shoes of a pair.
    mask = torch.lerp(mask, -F.max_pool2d(-near, 7, 1, 3), r.chance(0.3))
    field = r.noise((7, 7), _SIZE)
    bitten = mask * (1 - ((field - r.uniform(1.2, 2.5)) * 8).sigmoid() * r.chance(0.35))
    grown = ((r.noise((7, 7), _SIZE) - r.uniform(1.0, 2.5)) * 8).sigmoid() * near * r.chance(0.35)
    mask = torch.maximum(bitten, grown)
    top = (mask > 0.5).float().amax(3, keepdim=True).argmax(2, keepdim=True) * (2 / _SIZE) - 1
    wide, high = r.uniform(0.13, 0.28), r.uniform(0.12, 0.3)
    hood = ((x / wide) ** 2 + ((y - top - 0.3 * high) / high) ** 2 < 1).float()
    mask = torch.maximum(mask, hood * is_among(labels, _HOODED) * r.chance(0.25))
    rough = (mask + 0.25 * r.uniform() * r.noise((28, 28), _SIZE) - 0.5) * r.uniform(2, 8) + 0.5
    return rough.clamp(0, 1)


def _relight(values: Tensor, mask: Tensor, r: Random) -> Tensor:
    """Return values in another contrast, of other cloth, with other details light and dark."""
    negated = r.chance(0.15)
    values = torch.where(negated > 0, 1 - values, values)
    cloth = textures(r, _SIZE, 0.5).mean(1, keepdim=True)
    cloth = cloth - cloth.mean((2, 3), keepdim=True)
    values = values * (1 - r.uniform(0, 0.8) * r.chance(0.5))
    values = values + cloth * r.uniform(0, 1) * r.chance(0.5)
    folds = r.noise((4, 6), _SIZE) + r.noise((8, 14), _SIZE)
    values = values + folds * r.uniform(0, 0.3) * r.chance(0.6)
    inside = mask > 0.5
    low = values.masked_fill(~inside, 9).amin((2, 3), keepdim=True)
    high = values.masked_fill(~inside, -9).amax((2, 3), keepdim=True)
    values = ((values - low) / (high - low).clamp(min=0.15)).clamp(0, 1)
    dark = r.uniform(0, 0.75)
    values = dark + (1 - dark) * values ** torch.exp(r.normal(0.4))
    return values * (1 - 0.15 * r.chance(0.2))


def _fit(images: Tensor, mask: Tensor, r: Random) -> Tensor:
    """Return images with the mask's longest edge fitted to 28 pixels, centred."""
    inside = mask > 0.5
    steps = torch.arange(_SIZE, dtype=torch.float32)
    spans = []
    for axis in (2, 3):
        places = inside.any(axis).view(r.count, -1) * (steps + 1)  # from 1; 0 where nothing is
        last = places.amax(1).clamp(min=2)
        first = torch.where(places > 0, places, torch.tensor(1.0 * _SIZE)).amin(1)
        first = torch.minimum(first, last) - 1
        spans.append(
            [each.view(-1, 1, 1, 1) / _SIZE for each in (first + last - _SIZE, last - first)]
        )
    (cx, wide), (cy, high) = spans
    half = torch.maximum(wide, high) * torch.exp(r.normal(0.03))
    across, down = axes(_SIZE)
    fitted = F.avg_pool2d(sample(images, cx + half * across, cy + half * down), 2)
    soft = F.avg_pool2d(F.pad(fitted, (1, 1, 1, 1)), 3, 1)
    fitted = torch.lerp(fitted, soft, r.uniform(-0.8, 0.4))
    grain = torch.randn(fitted.shape, generator=r.generator) * 0.05 * r.uniform() ** 2
    return (fitted + grain * (fitted > 0.02)).clamp(0, 1)
