"""Photographs with known masks: garments of FashionMNIST in drawn cloth, on drawn surroundings.

Only the outline and the folds of a garment come from the dataset. What lies around it (floors,
blankets, walls, shadows, other garments, hangers, people) is drawn from random numbers.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from fashion_lightning.scenes.shapes import (
    SHOES,
    Random,
    axes,
    is_among,
    lay_down,
    sample,
    sole,
    turn,
)
from fashion_lightning.scenes.textures import colours, textures

_TROUSER = 1


def compose(
    images: Tensor, labels: Tensor, size: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draw one photograph for each image.

    Args:
        images: Floats in [0, 1], `(B, 1, 28, 28)`.
        labels: Class numbers, `(B,)`.
        size: Edge of the photographs in pixels.
        generator: Source of randomness.

    Returns:
        Photographs `(B, 3, size, size)` in [0, 1], and masks `(B, 1, size, size)`: 1 is garment.
    """
    r = Random(len(images), generator)
    is_shoe = is_among(labels, SHOES)
    outlines = _outlines(images)
    wearers = len(images) // 4  # People are drawn for the first ones only: it takes time.
    worn = (torch.arange(len(images)) < wearers).float().view(-1, 1, 1, 1) * (1 - is_shoe)
    # The garment's place: centre, half of its extent, angle.
    extent = torch.where(worn > 0, r.uniform(0.3, 0.75), r.uniform(0.4, 1.0))
    room = (1.05 - extent).clamp(min=0)
    centre_x, centre_y = (r.uniform(-1, 1) * room * r.uniform() for _ in range(2))
    centre_y = centre_y - worn * 0.1
    any_angle = (r.chance(0.12) + 0.3 * is_shoe).clamp(max=1) * r.uniform(-3.1, 3.1)
    angle = (r.normal(0.12) + any_angle) * (1 - worn)
    aspect = torch.exp(r.normal(0.15))
    wobble = r.uniform(0, 0.04) * r.noise((5, 5), size, 2)
    across, down = axes(size)
    pair = is_shoe * r.chance(0.6)
    above = pair * r.chance(0.4)

    def place(dx: Tensor, dy: Tensor, turned: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        x, y = turn(across - centre_x - dx, down - centre_y - dy, turned)
        x = x / extent * aspect * mirrored + wobble[:, :1]
        y = y / extent / aspect + wobble[:, 1:]
        return lay_down(x, y, labels, r, 1.0)

    x, y = place(torch.zeros(1), torch.zeros(1), angle, torch.ones(1))
    garment = torch.where(above > 0, sole(x, y, labels, r)[0], _sharpen(sample(outlines, x, y), r))
    folds = sample(F.interpolate(images, scale_factor=2, mode="bilinear"), x, y)
    # A second one: the other shoe of a pair, or somebody's other clothes, which are background.
    gap = torch.where(pair > 0, r.uniform(0.5, 1.1), r.uniform(1.0, 2.0)) * extent
    side = r.uniform(-3.1, 3.1)
    mirrored = 1 - 2 * r.chance(0.5)
    x, y = place(gap * side.cos(), gap * side.sin(), angle * pair + r.normal(0.3), mirrored)
    sources = torch.where(pair > 0, outlines, outlines.roll(1, 0))
    second = torch.where(above > 0, sole(x, y, labels, r)[0], _sharpen(sample(sources, x, y), r))
    second = second * torch.maximum(pair, r.chance(0.3))
    cloth = _cloth(r, size, folds)
    scene = _surroundings(r, size)
    other = torch.where(pair > 0, cloth, textures(r, size, 0.5))
    scene = torch.lerp(scene, other, second * (1 - pair))
    # Some scenes show no garment: what is not there must not be found.
    garment = torch.maximum(garment, second * pair) * (1 - r.chance(0.06))
    frame = (extent[:wearers], centre_x[:wearers], centre_y[:wearers])
    body, hands = _person(Random(wearers, generator), labels[:wearers], *frame, size)
    body, hands = (
        F.pad(layer, (0, 0, 0, 0, 0, 0, 0, len(images) - wearers)) for layer in (body, hands)
    )
    scene = torch.lerp(scene, body[:, :3], body[:, 3:] * worn)
    scene = torch.lerp(scene, colours(r), _hanger(r, extent, centre_x, centre_y, size) * (1 - worn))
    scene = scene * (1 - _shadow(r, garment) * (1 - garment))
    scene = torch.lerp(scene, cloth, garment)
    covered = hands[:, 3:] * worn * r.chance(0.5)
    scene = torch.lerp(scene, hands[:, :3], covered)
    return _photograph(r, scene), garment * (1 - covered)


def _outlines(images: Tensor) -> Tensor:
    """Return smooth outlines, `(B, 1, 112, 112)`, with dark spots inside closed."""
    opaque = F.pad((images > 0.03).float(), (2, 2, 2, 2))
    closed = -F.max_pool2d(-F.max_pool2d(opaque, 3, 1, 1), 3, 1, 1)
    smooth = F.interpolate(closed[:, :, 2:-2, 2:-2], scale_factor=4, mode="bicubic")
    return F.avg_pool2d(smooth, 3, 1, 1).clamp(0, 1)


def _sharpen(outline: Tensor, r: Random) -> Tensor:
    return ((outline - 0.5) * r.uniform(3, 8) + 0.5).clamp(0, 1)


def _cloth(r: Random, size: int, folds: Tensor) -> Tensor:
    """Return cloth shaded by the folds of FashionMNIST's garment, with a print on some."""
    cloth = textures(r, size, 0.5)
    blob = r.noise((12, 12), size, 3) * r.noise((3, 3), size)
    printed = (blob.mean(1, keepdim=True) > 0.45).float() * r.chance(0.3)
    cloth = torch.lerp(cloth, colours(r), printed)
    strength = r.uniform(-0.5, 0.8)
    return (cloth * (1 + strength * (folds - 0.5))).clamp(0, 1)


def _surroundings(r: Random, size: int) -> Tensor:
    """Return a surface, partly with a second one beside it, and things on it near the edges."""
    x, y = axes(size)
    scene = textures(r, size, 0.35)
    across = turn(x, y, r.uniform(-3.15, 3.15))[1]
    edge = ((across - r.uniform(0.1, 0.9)) * 40).sigmoid() * r.chance(0.45)
    scene = torch.lerp(scene, textures(r, size, 0.4), edge)
    for _ in range(3):
        angle = r.uniform(-3.15, 3.15)
        distance = r.uniform(0.75, 1.2)
        u, v = turn(x - distance * angle.cos(), y - distance * angle.sin(), r.uniform(-3.1, 3.1))
        wide, high = r.uniform(0.05, 0.4), r.uniform(0.05, 0.6)
        power = torch.where(r.chance(0.5) > 0, torch.tensor(2.0), torch.tensor(8.0))
        inside = (u.abs() / wide) ** power + (v.abs() / high) ** power
        thing = ((1 - inside) * 10).sigmoid() * r.chance(0.25)
        light = 1 + r.uniform(0, 0.3) * r.noise((6, 6), size)
        scene = torch.lerp(scene, (colours(r) * light).clamp(0, 1), thing)
    return scene


def _capsule(size: int, x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor, radius: Tensor) -> Tensor:
    """Return 1 inside a thick line from one point to another."""
    x, y = axes(size)
    dx, dy = x1 - x0, y1 - y0
    along = ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy + 1e-6)
    along = along.clamp(0, 1)
    distance = ((x - x0 - along * dx) ** 2 + (y - y0 - along * dy) ** 2).sqrt()
    return ((radius - distance) * size / 2 + 0.5).clamp(0, 1)


def _hanger(r: Random, extent: Tensor, cx: Tensor, cy: Tensor, size: int) -> Tensor:
    """Return where a hook, a hanger's bar or a rail is seen above a garment."""
    x, top, thin = cx + r.normal(0.03) * extent, cy - extent * 0.9, r.uniform(0.008, 0.03)
    half, left = r.uniform(0.2, 0.6) * extent, torch.full_like(x, -1.2)
    hook = _capsule(size, x, top - r.uniform(0.05, 0.3), x, top + 0.2 * extent, thin)
    bar = _capsule(size, x - half, top + 0.12, x + half, top + 0.12, thin)
    rail = _capsule(size, left, top - 0.2, -left, top - 0.2, thin * 1.5) * r.chance(0.3)
    return torch.maximum(torch.maximum(hook, bar), rail) * r.chance(0.25)


def _person(
    r: Random, labels: Tensor, extent: Tensor, cx: Tensor, cy: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Return a person who wears the garment, and the arms in front of it, as colour and alpha."""
    red, green, blue = r.uniform(0.35, 0.95), r.uniform(0.45, 0.8), r.uniform(0.6, 0.95)
    skin = torch.cat([red, red * green, red * green * blue], 1) * (1 + 0.1 * r.noise((6, 6), size))
    cloth, hair = textures(r, size, 0.6), colours(r) * 0.6
    is_legs = is_among(labels, (_TROUSER,))
    shoulder = cy - extent * (0.85 + 0.85 * is_legs)
    hip = shoulder + extent * r.uniform(1.3, 1.9)
    width, head = extent * r.uniform(0.35, 0.55), extent * r.uniform(0.22, 0.32)
    neck = shoulder - head * 1.4
    body, hands = torch.zeros(2, r.count, 4, size, size)

    def add(colour: Tensor, *line: Tensor) -> None:
        nonlocal body
        body = _over(body, colour, _capsule(size, *line))

    add(hair, cx, neck - 0.15 * head, cx, neck + head * r.uniform(0, 1.5), head * 1.15)
    add(skin, cx, neck, cx, neck + 0.25 * head, head * 0.85)
    add(skin, cx, neck, cx, shoulder + 0.1, head * 0.45)
    legs = torch.where(r.chance(0.65) > 0, cloth, skin)
    for side in (-width, width):
        foot = cx + side * r.uniform(0.3, 0.9)
        add(legs, cx + 0.45 * side, hip, foot, hip + 2.2 * extent, width * 0.42)
    torso = torch.where(is_legs > 0, textures(r, size, 0.6), skin)
    add(torso, cx, shoulder + width, cx, hip - width * 0.5, width * 0.9)
    sleeves = torch.lerp(skin, cloth, is_legs * r.chance(0.5))
    for side in (-width, width):
        x, y = cx + side * r.uniform(1.0, 1.8), shoulder + extent * r.uniform(0.5, 0.9)
        lower = (x, y, cx + side * r.uniform(0.2, 1.9), y + extent * r.uniform(-0.2, 0.7))
        thick = width * r.uniform(0.14, 0.24)
        add(sleeves, cx + 0.9 * side, shoulder + 0.1, x, y, thick)
        add(sleeves, *lower, thick * 0.9)
        hands = _over(hands, skin, _capsule(size, *lower, thick * 0.9))
    return body, hands


def _over(layer: Tensor, colour: Tensor, alpha: Tensor) -> Tensor:
    """Return colour and alpha of a layer with something opaque on it."""
    rgb = torch.lerp(layer[:, :3], colour.expand_as(layer[:, :3]), alpha)
    return torch.cat([rgb, torch.maximum(layer[:, 3:], alpha)], 1)


def _shadow(r: Random, garment: Tensor) -> Tensor:
    """Return how much darker it is beside the garment."""
    dx, dy = (int(torch.randint(-3, 4, (), generator=r.generator)) for _ in range(2))
    moved = garment.roll((dy, dx), (2, 3))
    return F.avg_pool2d(moved, 7, 1, 3) * r.uniform(0, 0.7) * r.chance(0.7)


def _photograph(r: Random, scene: Tensor) -> Tensor:
    """Return a scene as a camera in a room sees it: cast, exposure, blur, noise."""
    cast = 1 + 0.12 * r.uniform(-1, 1, channels=3)
    x, y = axes(scene.shape[-1])
    vignette = r.uniform(-0.3, 0.3) * x + r.uniform(-0.3, 0.3) * y
    scene = (scene * cast * (1 + vignette)).clamp(1e-3, 1) ** torch.exp(r.normal(0.25))
    blurred = F.avg_pool2d(scene, 3, 1, 1, count_include_pad=False)
    scene = torch.lerp(scene, blurred, r.uniform() * r.chance(0.6))
    noise = torch.randn(scene.shape, generator=r.generator)
    return (scene + noise * 0.03 * r.uniform()).clamp(0, 1)
