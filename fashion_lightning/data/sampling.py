"""The order of images: shuffled in training, unchanged in evaluation.

Both samplers assign whole batches round-robin: process r of n gets batches r, r + n, r + 2n, ...
"""

from collections.abc import Iterator
from random import Random
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DistributedSampler
from typing_extensions import override

from fashion_lightning.arguments import at_least, expect, fraction
from fashion_lightning.data.batches import NO_IMAGE, Augmentation


def count_batches(
    num_images: int, batch_size: int, processes: int = 1, *, drop_last: bool = False
) -> int:
    """Return the number of batches of the process that gets the fewest.

    Args:
        num_images: Images of all processes.
        batch_size: Images in a batch of one process.
        processes: How many processes take turns.
        drop_last: Whether batches that are not full for every process are left out, as in training.
            Otherwise a process without images gets one empty batch.
    """
    if drop_last:
        return num_images // (batch_size * processes)
    batches = -(-num_images // batch_size)
    return max(1, batches // processes) if num_images else 0


class _InTurns(DistributedSampler[int]):
    """A `DistributedSampler`, so that Lightning and Fabric do not replace it.

    If `rank` and `num_replicas` are None, they are read from `torch.distributed` when an epoch
    begins: a loader may be built before the process group.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        rank: int | None = None,
        num_replicas: int | None = None,
    ) -> None:
        at_least(1, batch_size=batch_size)
        # The parent's constructor would fix rank, number of processes and lengths now.
        self.dataset: Any = dataset
        self.batch_size = batch_size
        self.epoch = self.seed = 0
        self._rank, self._num_replicas = rank, num_replicas

    @property
    def rank(self) -> int:  # type: ignore[override]
        if self._rank is not None:
            return self._rank
        return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        if self._num_replicas is not None:
            return self._num_replicas
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class TurnsSampler(_InTurns):
    """Every image once and in order, so that results do not depend on the number of processes.

    Some processes get one batch fewer than others; one that would get none gets an empty batch.

    Args:
        dataset: Has a length.
        batch_size: Images in a batch, at least 1.
        rank: Number of this process. None: that of `torch.distributed`.
        num_replicas: Number of processes. None: likewise.
    """

    @override
    def __len__(self) -> int:
        """Return the number of indices of this process."""
        return sum(map(len, self._batches()))

    @override
    def __iter__(self) -> Iterator[int]:
        """Iterate over the indices of this process."""
        return iter([index for batch in self._batches() for index in batch])

    def _batches(self) -> list[range]:
        num_images, size = len(self.dataset), self.batch_size
        starts = range(self.rank * size, num_images, size * self.num_replicas)
        batches = [range(start, min(start + size, num_images)) for start in starts]
        return batches or [range(NO_IMAGE, NO_IMAGE + 1)]


class ShuffledSampler(_InTurns):
    """The training images in a new order each epoch, each in one of its views.

    The order depends on (seed, epoch) alone, the view of an image on (seed, epoch, its position in
    the order) alone: not on the batch size, the number of processes, or any other random generator.
    Images that do not fill a batch for every process are left out.

    Each iteration is the next epoch. After `set_epoch`, which Lightning and Fabric call before each
    epoch, every iteration is of that epoch.

    Args:
        dataset: Has a length.
        batch_size: Images in a batch of one process, at least 1.
        seed: Source of order and augmentation.
        horizontal_flip: Probability that an image is mirrored, in [0, 1].
        shift: Largest shift of an image in each direction, in pixels, 0 ... 27.
        rank: Number of this process. None: that of `torch.distributed`.
        num_replicas: Number of processes. None: likewise.

    Raises:
        ValueError: If an argument is out of its range, or the images do not fill one batch for each
            process.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        seed: int,
        horizontal_flip: float = 0.0,
        shift: int = 0,
        rank: int | None = None,
        num_replicas: int | None = None,
    ) -> None:
        super().__init__(dataset, batch_size, rank=rank, num_replicas=num_replicas)
        fraction(horizontal_flip=horizontal_flip)
        expect(0 <= shift <= 27, "shift", "an int in 0 ... 27", shift)
        self.seed = seed
        self.horizontal_flip = horizontal_flip
        self.augmentation = Augmentation(bool(horizontal_flip), shift)
        self._is_set = False  # whether `set_epoch` was called
        self._start = (0, 0)  # an epoch, and how many of its images to leave out
        self._check_size()

    def _check_size(self) -> None:
        num_images, n = len(self.dataset), self.num_replicas
        processes = f"{n} process{'es' if n > 1 else ''}"
        right = f"at most {num_images // n} ({num_images} training images, {processes})"
        expect(self.batch_size * n <= num_images, "batch_size", right, self.batch_size)

    @override
    def __len__(self) -> int:
        """Return the number of indices of this process in a whole epoch."""
        sizes = len(self.dataset), self.batch_size, self.num_replicas
        return count_batches(*sizes, drop_last=True) * self.batch_size

    @override
    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0, of all following iterations."""
        self.epoch = epoch
        self._is_set = True

    def start_at(self, epoch: int, images: int) -> None:
        """Start the next iteration inside `epoch`, after the images that were used already.

        Args:
            epoch: Its number, from 0.
            images: How many images of it all processes together have used.

        Raises:
            ValueError: If no batch begins there.
        """
        step = self.batch_size * self.num_replicas
        is_inside = images < len(self.dataset) // step * step
        right = (
            f"such that batches of all {self.num_replicas} processes begin after {images} "
            "images, where the checkpoint was written"
        )
        expect(not is_inside or images % step == 0, "batch_size", right, self.batch_size)
        self._start = (epoch, images) if is_inside else (epoch + 1, 0)
        self.epoch = self._start[0]

    @property
    def batches_to_skip(self) -> int:
        """How many batches of the next iteration came before `start_at`."""
        epoch, images = self._start
        return images // (self.batch_size * self.num_replicas) if epoch == self.epoch else 0

    @override
    def __iter__(self) -> Iterator[int]:
        """Iterate over the indices of this process, from `start_at` on in the epoch it names."""
        for index in self.batches():
            yield from index.tolist()

    def batches(self) -> Iterator[Tensor]:
        """Iterate over the same indices, batch by batch."""
        # A generator: the epoch is chosen when its first batch is asked for.
        self._check_size()  # The number of processes may be known only now.
        epoch, skip = self.epoch, self.batches_to_skip
        if not self._is_set:
            self.epoch += 1
        size, step = self.batch_size, self.batch_size * self.num_replicas
        indices = self._order(epoch)
        for begin in range(skip * step, len(indices) - step + 1, step):
            place = begin + self.rank * size
            yield indices[place : place + size]

    def _order(self, epoch: int) -> Tensor:
        """Return the indices of an epoch of all processes, see `ImageDataset`."""
        num_images, shift = len(self.dataset), self.augmentation.shift
        # Hashing the pair keeps (seed 0, epoch 1) and (seed 1, epoch 0) apart.
        generator = torch.Generator("cpu")
        generator.manual_seed(Random(f"{self.seed}, {epoch}").getrandbits(63))
        drawn: dict[str, Any] = {"generator": generator, "device": "cpu"}
        order = torch.randperm(num_images, **drawn)
        flip = torch.rand(num_images, **drawn) < self.horizontal_flip
        offsets = torch.zeros(2, num_images, dtype=torch.int64, device="cpu")
        if shift:
            offsets = torch.randint(2 * shift + 1, (2, num_images), **drawn)
        return order + num_images * self.augmentation.number(flip, *offsets)
