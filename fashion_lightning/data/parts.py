"""Images and labels of a batch, whatever its form: a tuple, a dict or an object."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_IMAGES = ("images", "image", "pixel_values", "inputs", "input", "imgs", "img", "x")
_LABELS = ("labels", "label", "targets", "target", "y")


def images_of(batch: Any) -> Tensor:
    """Return the images of a batch: itself, its first part, or the value under a known name.

    Raises:
        ValueError: If there are none.
    """
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, list | tuple) and batch and isinstance(batch[0], Tensor):
        return batch[0]
    images = _named(batch, _IMAGES)
    if images is None:
        raise ValueError(
            "Expected a batch to be images, to begin with images, or to have one of the names "
            f"{', '.join(_IMAGES)}, but got {_described(batch)}."
        )
    return images


def images_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    """Return the images and labels of a batch.

    Args:
        batch: A tuple or list of images, labels and anything else, or a dict or another object with
            names such as ``images`` and ``labels``.

    Returns:
        Images ``(N, ...)``, and labels: class numbers ``(N,)``, or soft labels ``(N, C)``.

    Raises:
        ValueError: If they are not there.
    """
    if isinstance(batch, list | tuple) and len(batch) > 1:
        images, labels = batch[:2]
    else:
        images, labels = _named(batch, _IMAGES), _named(batch, _LABELS)
    if isinstance(images, Tensor) and isinstance(labels, Tensor) and images.dim() > 1:
        is_soft = labels.is_floating_point()
        if labels.dim() == 1 + is_soft and len(images) == len(labels):
            return images, labels if is_soft or labels.dtype == torch.int64 else labels.long()
    raise ValueError(
        "Expected a batch to begin with images (N, ...) and labels (N,) or soft labels (N, C), or "
        f"to have such parts under names like `images` and `labels`, but got {_described(batch)}."
    )


def name_of_images(sample: Any) -> str | None:
    """Return the key under which a dict holds an image ``(..., H, W)``, or None."""
    names = _IMAGES if isinstance(sample, Mapping) else ()
    images = (name for name in names if isinstance(sample.get(name), Tensor))
    return next((name for name in images if sample[name].dim() > 1), None)


def hard(labels: Tensor) -> Tensor:
    """Return class numbers ``(N,)``: the labels, or the argmax of soft labels ``(N, C)``."""
    return labels.argmax(dim=1) if labels.dim() == 2 else labels


def _named(batch: Any, names: tuple[str, ...]) -> Tensor | None:
    for name in names:
        part = batch.get(name) if isinstance(batch, Mapping) else getattr(batch, name, None)
        if isinstance(part, Tensor):
            return part
    return None


def _described(batch: Any) -> str:
    """Return types and shapes of a batch."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{key}: {_described(part)}" for key, part in batch.items()) + "}"
    if isinstance(batch, list | tuple):
        return "[" + ", ".join(map(_described, batch)) + "]"
    return type(batch).__name__
