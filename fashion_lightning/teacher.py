"""A teacher's logits for every view of the training images, computed once."""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from fashion_lightning.arguments import expect
from fashion_lightning.checkpoints.pretrained import resolve
from fashion_lightning.data.batches import Augmentation
from fashion_lightning.module import FashionMNISTClassifier

_BATCH_SIZE = 500
_latest: tuple[Any, Tensor] | None = None  # the latest request, and its logits


def teacher_logits(
    teacher: str | Path,
    tensors: Sequence[Tensor],
    augmentation: Augmentation,
    *,
    device: torch.device,
    precision: Any = None,
) -> Tensor:
    """Return a teacher's calibrated logits of all views of the training images.

    The latest result is kept, so that runs over the same images, such as those of several seeds,
    compute it once. Any other request is computed again.

    Args:
        teacher: Checkpoint of a trained `FashionMNISTClassifier`, or ``pretrained:NAME``.
        tensors: Images, uint8 ``(N, H, W)`` or ``(N, C, H, W)``, or floating point in [0, 1], and
            labels, which are not used.
        augmentation: The views.
        device: Where to compute.
        precision: Lightning's precision plugin. None: full precision.

    Returns:
        ``(N, len(augmentation), num_classes)``, on `device`.

    Raises:
        ValueError: If there is no such checkpoint, or it is not of a `FashionMNISTClassifier`.
    """
    global _latest
    path = resolve(teacher)
    images = tensors[0] if tensors[0].dim() > 3 else tensors[0].unsqueeze(1)
    expect(path.is_file(), "teacher", "a checkpoint file, or pretrained:NAME", str(teacher))
    request = (
        hashlib.sha256(path.read_bytes()).digest(),
        hashlib.sha256(images.contiguous().cpu().numpy().data).digest(),
        (images.dtype, augmentation.horizontal_flip, augmentation.shift),
        (str(device), type(precision).__name__, getattr(precision, "precision", "32-true")),
    )
    if _latest is None or _latest[0] != request:
        _latest = request, _predict(path, images.to(device), augmentation, precision)
    return _latest[1]


@torch.no_grad()
def _predict(path: Path, images: Tensor, augmentation: Augmentation, precision: Any) -> Tensor:
    from rich.console import Console  # Only runs with a teacher need it.
    from rich.progress import Progress

    classifier = FashionMNISTClassifier.load_from_checkpoint(path).eval().to(images.device)
    views, side = augmentation.views(images), 2 * augmentation.shift + 1
    num_images = len(images)
    # A teacher that averages an image and its mirror image predicts the same for both.
    flips = 2 if augmentation.horizontal_flip and not classifier.flip_averaging else 1
    number_of = {
        place: int(augmentation.number(*map(torch.tensor, place)))
        for place in product(range(1 + augmentation.horizontal_flip), range(side), range(side))
    }
    shape = (num_images, len(augmentation), classifier.num_classes)
    logits = torch.empty(shape, device=images.device)
    num_views = num_images * flips * side**2
    rank_zero_info(f"The teacher predicts {num_views:,} views of the training images.")
    console = Console(stderr=True)
    with (
        precision.forward_context() if precision else nullcontext(),
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("Teacher", total=num_views)
        for flip, first in product(range(flips), range(0, num_images, _BATCH_SIZE)):
            rows = slice(first, min(first + _BATCH_SIZE, num_images))
            these = views[flip * num_images : (flip + 1) * num_images][rows]
            for down, right in product(range(side), range(side)):
                batch = these[:, down, right].float()
                batch = batch if images.is_floating_point() else batch / 255
                logits[rows, number_of[flip, down, right]] = classifier(batch).float()
            progress.advance(task, (rows.stop - rows.start) * side**2)
    if flips == 1 and augmentation.horizontal_flip:
        # Mirroring an image shifted right equals shifting its mirror image left.
        for down, right in product(range(side), range(side)):
            mirrored = number_of[0, down, side - 1 - right]
            logits[:, number_of[1, down, right]] = logits[:, mirrored]
    return logits
