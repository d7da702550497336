"""Batches cut from tensors in memory, on the device where they are used.

A network this small computes faster than a DataLoader collects single images, so a batch is one
indexing operation here. This file knows tensors only: not where they come from, and no trainer.
"""

from collections.abc import Iterator
from random import Random
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor
from torch.utils.data import TensorDataset

from fashion_lightning.checks import expect


class Batches:
    """An iterable of batches ``(images float32 (B, 1, 28, 28) in [0, 1], labels int64 (B,))``.

    With `targets`, a training batch has a third part, those of its images as they are augmented.

    With `seed` it serves training: every iteration is one epoch in an order of its own, augmented,
    and a last incomplete batch is left out, so that all steps weigh the same. Without, it serves
    evaluation: every image once, in order, unchanged.

    The order of an epoch depends on (seed, epoch) alone, and how an image is augmented on (seed,
    epoch, its position in that order) alone: not on the batch size, on the number of processes,
    nor on the state of any other random number generator.

    Several processes share the work by taking turns: of batches 0, 1, 2, ... process `rank` gets
    every `world_size`-th, beginning with its own number. In evaluation, a process that would get
    none gets an empty one, since Lightning leaves out a process without batches, for which the
    others would wait.

    Args:
        images: uint8, ``(N, 28, 28)``.
        labels: int64, ``(N,)``, on the device of `images`. The batches are cut there.
        batch_size: Images in a batch of one process, at least 1.
        seed: Source of the order and the augmentation, or None for evaluation.
        horizontal_flip: Probability that a training image is mirrored, in [0, 1].
        shift: Training images are moved by up to so many pixels, each direction by itself, filled
            with black; in 0 ... 27.
        targets: What belongs to each of the `views` of the images, ``(*views.shape[:3], C)``.
        rank: Number of this process.
        world_size: Number of processes.

    Raises:
        ValueError: If an argument is out of its range, or the images do not fill one training batch
            for each process.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        seed: int | None = None,
        horizontal_flip: float = 0.0,
        shift: int = 0,
        targets: Tensor | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        expect(batch_size >= 1, "batch_size", "an int >= 1", batch_size)
        expect(0 <= horizontal_flip <= 1, "horizontal_flip", "in [0, 1]", horizontal_flip)
        expect(0 <= shift <= 27, "shift", "an int in 0 ... 27", shift)
        self.dataset = TensorDataset(images, labels)
        self.batch_size = batch_size
        self.seed = seed
        self.horizontal_flip = horizontal_flip
        self.shift = shift
        self.targets = targets
        self.rank = rank
        self.world_size = world_size
        self._epoch = 0  # of the iteration that is running, or of the first
        self._cut = 0  # batches cut in it
        self._resuming = True  # the next iteration begins at (_epoch, _cut), not with a new epoch
        if seed is not None:
            expect(
                len(self) > 0,
                "batch_size",
                f"at most {len(labels) // world_size} ({len(labels)} training images, "
                f"{world_size} process{'es' if world_size > 1 else ''})",
                batch_size,
            )
            self._views = views(images, horizontal_flip, shift)
            self._collected = torch.empty_like(images)

    def __len__(self) -> int:
        """Batches that this process gets in an epoch."""
        num_images = len(self.dataset)
        if self.seed is not None:
            return num_images // (self.batch_size * self.world_size)
        step = self.batch_size * self.world_size
        return max(1, len(range(self.rank * self.batch_size, num_images, step)))

    def __iter__(self) -> Iterator[Any]:
        """Run through one epoch; each further iteration is the next epoch."""
        # A generator: nothing of this happens before the first batch is asked for, so Lightning
        # may call iter() more often than it runs through an epoch.
        if not self._resuming:
            self._epoch, self._cut = self._epoch + 1, 0
        self._resuming = False
        images, *others = self.dataset.tensors if self.seed is None else self._shuffled()
        while self._cut < len(self):
            first = self.first_index(self._cut)
            self._cut += 1
            rows = slice(first, first + self.batch_size)
            yield images[rows].unsqueeze(1).float().div_(255), *(part[rows] for part in others)

    @property
    def batch_sampler(self) -> SimpleNamespace:
        """Where Lightning looks for `set_epoch`, as in a DataLoader."""
        return SimpleNamespace(sampler=self)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be an epoch, from its beginning unless it has already begun."""
        if epoch != self._epoch:
            self._epoch, self._cut, self._resuming = epoch, 0, True

    def first_index(self, batch_idx: int) -> int:
        """Return the place, in the order of the epoch, of the first image of a batch."""
        return (batch_idx * self.world_size + self.rank) * self.batch_size

    def _shuffled(self) -> tuple[Tensor, ...]:
        """Return all images, labels and targets in the running epoch's order, augmented.

        Collecting them once an epoch leaves next to nothing to do for each batch.
        """
        labels = self.dataset.tensors[1]
        num_images, device = len(labels), labels.device
        # Hashing the pair keeps (seed 0, epoch 1) and (seed 1, epoch 0) apart.
        seed = Random(f"{self.seed}, {self._epoch}").getrandbits(63)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(num_images, generator=generator)
        flip = torch.rand(num_images, generator=generator) < self.horizontal_flip
        source = (order + num_images * flip).to(device)
        offsets = torch.zeros(2, num_images, dtype=torch.int64, device=device)
        if self.shift:
            drawn = torch.randint(2 * self.shift + 1, (2, num_images), generator=generator)
            offsets = drawn.to(device)
            images = self._views[(source, *offsets)]
        else:  # The same, but copies an image at once.
            images = self._collected
            torch.index_select(self._views[:, 0, 0], 0, source, out=images)
        targets = () if self.targets is None else (self.targets[(source, *offsets)],)
        return images, labels[order.to(device)], *targets

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration stands; Lightning keeps it in every checkpoint."""
        images = self._cut * self.batch_size * self.world_size
        return {"seed": self.seed, "epoch": self._epoch, "images": images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration continue where `state` was taken, also inside an epoch.

        Raises:
            ValueError: If `state` was taken inside an epoch, at a place where none of these batches
                begins.
        """
        self.seed, self._epoch = state["seed"], state["epoch"]
        self._cut, rest = divmod(state["images"], self.batch_size * self.world_size)
        self._resuming = self._cut < len(self)
        expect(
            rest == 0 or not self._resuming,
            "batch_size",
            f"such that batches of all {self.world_size} processes begin after {state['images']} "
            "images, where the checkpoint was written",
            self.batch_size,
        )


def views(images: Tensor, horizontal_flip: float, shift: int) -> Tensor:
    """Return all that augmentation can make of images, without a copy of each.

    Args:
        images: ``(N, 28, 28)``.
        horizontal_flip: Probability that an image is mirrored; 0 leaves the mirrored ones out.
        shift: By how many pixels images are moved.

    Returns:
        ``(N or 2 N, 2 * shift + 1, 2 * shift + 1, 28, 28)``: images, then their mirrors, each at
        each place. It is a view of them, padded.
    """
    padded = F.pad(images, (shift,) * 4)
    both = torch.cat([padded, padded.flip(-1)]) if horizontal_flip else padded
    return both.unfold(1, images.shape[1], 1).unfold(2, images.shape[2], 1)
