"""Procedural surfaces, for cloth as well as for floors, walls, carpets and blankets.

Each is a base colour mixed with a second one by a pattern (plain, stripes, checks, blobs, lines of
planks or tiles, fibres), then shaded and grained.
"""

import torch
from torch import Tensor

from fashion_lightning.scenes.shapes import Random, axes, turn

_PATTERNS = 6


def colours(r: Random) -> Tensor:
    """Return colours as they are found at home, `(B, 3, 1, 1)`: most are grey, brown or dull."""
    value, tint = r.uniform(), r.uniform(-1, 1, channels=3)
    saturation = r.uniform() ** 2
    return (value.sqrt() * (0.05 + 0.9 * r.uniform()) + 0.0 + 0.45 * saturation * tint).clamp(
        0.02, 0.98
    )


def textures(r: Random, size: int, plain: float) -> Tensor:
    """Return surfaces in [0, 1], `(B, 3, size, size)`, a share of which has one colour."""
    x, y = turn(*axes(size), r.uniform(-3.15, 3.15))
    frequency = torch.exp(r.uniform(0.7, 3.4))
    sharpness = torch.exp(r.uniform(0, 3))
    u = (x * frequency + r.uniform(0, 6)).sin()
    v = (y * frequency * torch.exp(r.uniform(-0.7, 0.7)) + r.uniform(0, 6)).sin()
    stripes = (u * sharpness).sigmoid()
    checks = 0.5 * stripes + 0.5 * (v * sharpness).sigmoid()
    cells = int(torch.randint(3, 14, (), generator=r.generator))
    blobs = ((r.noise((cells, cells), size) - r.uniform(0, 0.8)) * 2 * sharpness).sigmoid()
    width = r.uniform(0.01, 0.12)
    lines = torch.maximum((u.abs() < width).float(), (v.abs() < width).float() * r.chance(0.6))
    fibres = r.noise((size // 2, 3), size)
    fibres = torch.where(r.chance(0.5) > 0, fibres, fibres.transpose(2, 3))
    fibres = (0.5 + 0.35 * fibres).clamp(0, 1)
    planks = (0.5 * fibres + lines).clamp(0, 1)
    patterns = torch.stack([stripes, checks, blobs, lines.expand_as(blobs), fibres, planks])
    chosen = torch.randint(_PATTERNS, (r.count,), generator=r.generator)
    pattern = patterns[chosen, torch.arange(r.count)] * (1 - r.chance(plain))
    base = colours(r)
    other = torch.where(r.chance(0.6) > 0, (base + r.uniform(-0.3, 0.3)).clamp(0, 1), colours(r))
    surface = base + (other - base) * pattern * r.uniform(0.2, 1)
    light = r.uniform(-0.25, 0.25) * x + r.uniform(0, 0.12) * r.noise((4, 4), size)
    light = light + r.uniform(0, 0.15) * r.noise((9, 9), size)
    grain = torch.randn((r.count, 1, size, size), generator=r.generator)
    grain = grain * r.uniform(0, 0.4) ** 3
    return (surface * light.exp() + grain).clamp(0, 1)
