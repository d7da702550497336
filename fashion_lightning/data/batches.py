"""DataLoaders over images in memory: what they load, and in which order.

Three parts, each of which works with PyTorch's own in the place of the others:

- `ImageDataset`: images and labels in memory, and every view of them that augmentation can make;
- `ShuffledSampler` and `TurnsSampler`: the order of training and of evaluation, for one process or
  several;
- `ResumableLoader`: a DataLoader that can continue inside an epoch.

A network this small computes faster than a DataLoader collects single images, so `ImageDataset`
collects a batch with one indexing operation. This file knows tensors only: not where they come
from, and no trainer.
"""

import operator
from array import array
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, overload

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    Subset,
    TensorDataset,
    default_collate,
)
from typing_extensions import override

from fashion_lightning.arguments import expect

NO_IMAGE = -(2**62)
"""The only index of a process that has no batch: it stands for an empty batch."""


class Samples(Sequence[tuple[Tensor, ...]]):
    """Samples that were collected together: a list of tuples to everybody, a batch to `collate`.

    Args:
        columns: For each part of a sample (image, label), all of them in one tensor.
        names: Names of the parts, if the batch is to be a dict.
    """

    def __init__(self, columns: list[Tensor], names: tuple[str, ...] | None = None) -> None:
        self.columns = columns
        self.names = names

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.columns[0])

    @overload
    def __getitem__(self, index: int) -> tuple[Tensor, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> "Samples": ...
    def __getitem__(self, index: int | slice) -> "tuple[Tensor, ...] | Samples":
        """Return one sample, or some of them."""
        parts = [column[index] for column in self.columns]
        return Samples(parts, self.names) if isinstance(index, slice) else tuple(parts)

    def batch(self) -> Any:
        """Return the samples as a batch: a list of tensors, or a dict if the parts have names."""
        if self.names is None:
            return self.columns
        return dict(zip(self.names, self.columns, strict=True))


def collate(samples: Sequence[Any]) -> Any:
    """Return samples as a batch: what `ImageDataset` has collected, or PyTorch's `default_collate`.

    Raises:
        ValueError: If PyTorch cannot join the samples.
    """
    if isinstance(samples, Samples):
        return samples.batch()
    try:
        return default_collate(list(samples))
    except TypeError as error:
        raise ValueError(
            "Expected the samples of the data set to be tensors, numbers or strings, such as those "
            f"of `transform=torchvision.transforms.ToTensor()`, but got: {error}"
        ) from error


class Augmentation:
    """The views of an image that augmentation can make, by number; 0 is the image as it is.

    Args:
        horizontal_flip: Whether there are mirrored views.
        shift: By how many pixels an image is moved in each direction, in 0 ... 27.
    """

    def __init__(self, horizontal_flip: bool, shift: int) -> None:
        self.horizontal_flip = horizontal_flip
        self.shift = shift
        self._places = 2 * shift + 1  # in each direction
        self._as_it_is = shift * self._places + shift

    def __len__(self) -> int:
        """Return the number of views."""
        return (1 + self.horizontal_flip) * self._places**2

    def number(self, flip: Tensor, down: Tensor, right: Tensor) -> Tensor:
        """Return the numbers of views.

        Args:
            flip: Whether they are mirrored, bool.
            down: By how many pixels they are cut off at the top after padding, in 0 ... 2 * shift.
            right: Likewise at the left.
        """
        return ((flip * self._places + down) * self._places + right - self._as_it_is) % len(self)

    def parts(self, number: Any) -> tuple[Any, Any, Any]:
        """Return flip, down and right of view numbers; the inverse of `number`."""
        place = (number + self._as_it_is) % len(self)
        flip, place = place // self._places**2, place % self._places**2
        return flip, place // self._places, place % self._places

    def view(self, image: Tensor, number: int) -> Tensor:
        """Return a view of one image, ``(..., H, W)``."""
        flip, down, right = self.parts(number)
        height, width = image.shape[-2:]
        image = image.flip(-1) if flip else image
        image = F.pad(image, (self.shift,) * 4)
        return image[..., down : down + height, right : right + width]


class ImageDataset(Dataset[tuple[Tensor, ...]]):
    """Images in memory, as a network takes them: samples are ``(image (C, H, W), label, ...)``.

    To a DataLoader, index ``i + v * len(self)`` is view `v` of image `i`, see `Augmentation`, as
    `ShuffledSampler` draws it. To everybody else this is a data set of the images as they are.

    Args:
        tensors: Images, then labels and whatever else there is for each image, on one device.
            Images are ``(N, H, W)`` or ``(N, C, H, W)``: uint8 ones become float32 in [0, 1],
            floating point ones stay as they are.
        augmentation: The views. None: the images only.
        teacher_logits: A teacher's answers to each view, ``(N, len(augmentation), C)``. Batches are
            dicts then, of ``images``, ``labels`` and ``teacher_logits``.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        augmentation: Augmentation | None = None,
        teacher_logits: Tensor | None = None,
    ) -> None:
        images, *self.others = tensors
        self.images = images if images.dim() > 3 else images.unsqueeze(1)
        self.augmentation = augmentation or Augmentation(horizontal_flip=False, shift=0)
        self.teacher_logits = teacher_logits
        self._views = views(self.images, self.augmentation)
        if not self.augmentation.shift:
            # What an index of a view finds directly: mirrors lie behind the images.
            mirrors = len(self.augmentation) - 1
            self._images = self._views[:, 0, 0]
            self._others = [torch.cat([part] * (1 + mirrors)) for part in self.others]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Run through the images as they are."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        """Return one image and what belongs to it, or several by a slice, a list or a tensor.

        Raises:
            IndexError: If there is no such image.
        """
        if isinstance(index, slice):
            index = [*range(*index.indices(len(self)))]
        if isinstance(index, Sequence) or (isinstance(index, Tensor) and index.dim()):
            return tuple(self.__getitems__([_checked(each, self) for each in index]).columns)
        return self.__getitems__([_checked(index, self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> Samples:
        """Return several images at once, in memory of their own."""
        if len(indices) == 0 or indices[0] == NO_IMAGE:
            return self.take(torch.empty(0, dtype=torch.int64))
        # By way of an array, which is eight times as fast as `torch.tensor(indices)`.
        index = torch.frombuffer(array("q", indices), dtype=torch.int64)
        return self.take(torch.where(index < 0, index + len(self), index))

    def take(self, index: Tensor) -> Samples:
        """Return several images by an index tensor, ``(B,)``."""
        index = index.to(self.images.device)
        if self.augmentation.shift:
            number, source = index // len(self), index % len(self)
            flip, down, right = self.augmentation.parts(number)
            images = self._views[source + len(self) * flip, down, right]
            columns = [images, *(part.index_select(0, source) for part in self.others)]
        else:  # The same, but faster.
            columns = [part.index_select(0, index) for part in (self._images, *self._others)]
        if not columns[0].is_floating_point():
            columns[0] = columns[0].float().div_(255)
        if self.teacher_logits is None:
            return Samples(columns)
        columns.append(self.teacher_logits[index % len(self), index // len(self)])
        return Samples(columns, ("images", "labels", "teacher_logits"))


class AugmentedDataset(Dataset[Any]):
    """Any data set whose samples begin with an image tensor ``(..., H, W)``, with its views.

    Args:
        dataset: A map-style data set. It is indexed as in `ImageDataset`.
        augmentation: The views.
    """

    def __init__(self, dataset: Dataset[Any], augmentation: Augmentation) -> None:
        self.dataset = dataset
        self.augmentation = augmentation

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        """Run through the images as they are."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Any:
        """Return one sample as it is.

        Raises:
            IndexError: If there is no such image.
        """
        return self.dataset[_checked(index, self)]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several samples.

        Raises:
            ValueError: If a sample that is to be augmented does not begin with an image tensor.
        """
        return [self._view(*divmod(index, len(self))) for index in indices]

    def _view(self, number: int, source: int) -> Any:
        sample = self.dataset[source]
        if number <= 0:
            return sample
        image, *others = sample if isinstance(sample, Sequence) else (sample,)
        if not isinstance(image, Tensor) or image.dim() < 2:
            raise ValueError(
                "Expected the samples of the training set to begin with an image tensor "
                "(..., H, W), which `horizontal_flip` and `shift` augment, "
                f"but got {type(image).__name__}; turn them off, or use `ToTensor()`."
            )
        return (self.augmentation.view(image, number), *others)


def _checked(index: Any, dataset: ImageDataset | AugmentedDataset) -> int:
    """Return an index, counted from the beginning, or raise an IndexError."""
    index = int(operator.index(index))
    if not -len(dataset) <= index < len(dataset):
        raise IndexError(f"Expected an index below {len(dataset)}, but got {index}.")
    return int(index) + (len(dataset) if index < 0 else 0)


def in_memory(dataset: Any) -> tuple[Tensor, ...] | None:
    """Return the tensors of a data set of images, or None if it is of another kind.

    Args:
        dataset: PyTorch's `TensorDataset`, or a `Subset` of one. A subclass of theirs may do more
            than to index tensors, and is left as it is.
    """
    if type(dataset) is Subset:
        tensors = in_memory(dataset.dataset)
        index = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return tensors and tuple(tensor[index] for tensor in tensors)
    if type(dataset) is TensorDataset and dataset.tensors[0].dim() in (3, 4):
        return dataset.tensors
    return None


def views(images: Tensor, augmentation: Augmentation) -> Tensor:
    """Return all that augmentation can make of images, without a copy of each.

    Args:
        images: ``(N, ..., H, W)``.
        augmentation: Whether images are mirrored, and by how much they are moved.

    Returns:
        ``(N or 2 N, 2 * shift + 1, 2 * shift + 1, ..., H, W)``: images, then their mirrors, each at
        each place. It is a view of them, padded.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (augmentation.shift,) * 4) if augmentation.shift else images
    both = torch.cat([padded, padded.flip(-1)]) if augmentation.horizontal_flip else padded
    places = both.unfold(-2, height, 1).unfold(-2, width, 1)  # (N, ..., y, x, H, W)
    return places.movedim((-4, -3), (1, 2))


class _Shares(DistributedSampler[int]):
    """A sampler that knows which batches are this process's.

    It *is* PyTorch's `DistributedSampler`, so that Lightning and Fabric leave it in its place.
    Process and number of processes may be given; otherwise those of `torch.distributed` count when
    an epoch begins.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        rank: int | None = None,
        num_replicas: int | None = None,
    ) -> None:
        expect(batch_size >= 1, "batch_size", "an int >= 1", batch_size)
        # Not the parent's: it fixes the processes, and lengths that follow from them, for good.
        self.dataset: Any = dataset
        self.batch_size = batch_size
        self.epoch = 0
        self.shuffle = self.drop_last = False
        self.seed = 0
        self._rank = rank
        self._num_replicas = num_replicas

    @property
    def rank(self) -> int:  # type: ignore[override]
        """Number of this process."""
        if self._rank is not None:
            return self._rank
        return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """Number of processes."""
        if self._num_replicas is not None:
            return self._num_replicas
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    @property
    def num_samples(self) -> int:  # type: ignore[override]
        """Number of indices that this process gets in a whole epoch."""
        return len(self)

    @property
    def total_size(self) -> int:  # type: ignore[override]
        """Number of indices that all processes get in a whole epoch."""
        return len(self.dataset)


class TurnsSampler(_Shares):
    """Every image in order, in batches that the processes take in turns.

    Of batches 0, 1, 2, ... process `rank` gets every `num_replicas`-th, beginning with its own
    number. So the batches, and all numbers that are computed from them, are the same for any number
    of processes. Each image comes once: some processes get one batch fewer than others, and one
    that would get none gets an empty one.

    Args:
        dataset: Has a length.
        batch_size: Images in a batch, at least 1.
        rank: Number of this process. None: that of `torch.distributed`.
        num_replicas: Number of processes. None: likewise.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        rank: int | None = None,
        num_replicas: int | None = None,
    ) -> None:
        super().__init__(dataset, batch_size, rank, num_replicas)

    def _batches(self) -> list[range]:
        num_images, size, step = len(self.dataset), self.batch_size, self.num_replicas
        batches = [
            range(first, min(first + size, num_images)) for first in range(0, num_images, size)
        ]
        return batches[self.rank :: step] or [range(NO_IMAGE, NO_IMAGE + 1)]

    @override
    def __len__(self) -> int:
        """Return the number of indices that this process gets."""
        return sum(map(len, self._batches()))

    @override
    def __iter__(self) -> Iterator[int]:
        """Return the indices of this process, batch after batch."""
        return iter([index for batch in self._batches() for index in batch])


class ShuffledSampler(_Shares):
    """The training images in an order of its own in each epoch, each in one of its views.

    The order of an epoch depends on (seed, epoch) alone, and the view of an image on (seed, epoch,
    its position in that order) alone: not on the batch size, on the number of processes, nor on the
    state of any other random number generator.

    Every iteration is the next epoch. Once `set_epoch` was called, as Lightning and Fabric do it
    before each epoch, the epoch is the one that was set, however often somebody looks into it.

    Batches of several processes are dealt out in turns, as in `TurnsSampler`. What does not fill a
    batch for each of them is left out, so that all steps weigh the same.

    Args:
        dataset: Has a length.
        batch_size: Images in a batch of one process, at least 1.
        seed: Source of order and augmentation.
        horizontal_flip: Probability that an image is mirrored, in [0, 1].
        shift: Images are moved by up to so many pixels, each direction by itself, in 0 ... 27.
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
        super().__init__(dataset, batch_size, rank, num_replicas)
        expect(0 <= horizontal_flip <= 1, "horizontal_flip", "in [0, 1]", horizontal_flip)
        expect(0 <= shift <= 27, "shift", "an int in 0 ... 27", shift)
        self.seed = seed
        self.shuffle = self.drop_last = True
        self.horizontal_flip = horizontal_flip
        self.augmentation = Augmentation(bool(horizontal_flip), shift)
        self._is_set = False  # whether somebody says which epoch it is
        self._start = (0, 0)  # an epoch, and images of it to leave out
        self._check_size()

    def _check_size(self) -> None:
        num_images, processes = len(self.dataset), self.num_replicas
        expect(
            self.batch_size * processes <= num_images,
            "batch_size",
            f"at most {num_images // processes} ({num_images} training images, "
            f"{processes} process{'es' if processes > 1 else ''})",
            self.batch_size,
        )

    @override
    def __len__(self) -> int:
        """Return the number of indices that this process gets in a whole epoch."""
        return len(self.dataset) // (self.batch_size * self.num_replicas) * self.batch_size

    @override
    def set_epoch(self, epoch: int) -> None:
        """Let this be the epoch of all following iterations.

        Args:
            epoch: Its number, from 0.
        """
        self.epoch = epoch
        self._is_set = True

    def start_at(self, epoch: int, images: int) -> None:
        """Continue: the next iteration is `epoch`, without the images that came already.

        Args:
            epoch: Its number, from 0.
            images: How many images of it all processes together have had.

        Raises:
            ValueError: If no batch begins there.
        """
        step = self.batch_size * self.num_replicas
        inside = images < len(self.dataset) // step * step
        expect(
            not inside or images % step == 0,
            "batch_size",
            f"such that batches of all {self.num_replicas} processes begin after {images} "
            "images, where the checkpoint was written",
            self.batch_size,
        )
        self._start = (epoch, images) if inside else (epoch + 1, 0)
        self.epoch = self._start[0]

    @property
    def batches_to_skip(self) -> int:
        """How many batches of the next iteration came before `start_at`."""
        epoch, images = self._start
        return images // (self.batch_size * self.num_replicas) if epoch == self.epoch else 0

    @override
    def __iter__(self) -> Iterator[int]:
        """Return the indices of this process: an epoch's rest if it continues, else all of it."""
        for index in self.batches():
            yield from index.tolist()

    def batches(self) -> Iterator[Tensor]:
        """Return the same, batch by batch."""
        # A generator: nothing of this happens before the first batch is asked for.
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
        """Return an epoch's indices of all processes, see `ImageDataset`."""
        num_images, shift = len(self.dataset), self.augmentation.shift
        # Hashing the pair keeps (seed 0, epoch 1) and (seed 1, epoch 0) apart.
        generator = torch.Generator().manual_seed(Random(f"{self.seed}, {epoch}").getrandbits(63))
        order = torch.randperm(num_images, generator=generator)
        flip = torch.rand(num_images, generator=generator) < self.horizontal_flip
        offsets = torch.zeros(2, num_images, dtype=torch.int64)
        if shift:
            offsets = torch.randint(2 * shift + 1, (2, num_images), generator=generator)
        return order + num_images * self.augmentation.number(flip, *offsets)


class ResumableLoader(DataLoader[Any]):
    """A DataLoader with a `ShuffledSampler` that can continue inside an epoch.

    Its state is the place of its newest iterator. A trainer knows better, whatever else looks into
    the loader: `place` may say where training stands.

    Attributes:
        place: Returns the running epoch and how many of its batches this process has had.
    """

    place: Callable[[], tuple[int, int]] | None = None
    _newest = (0, 0)

    @override
    def __iter__(self) -> Any:
        """Begin an epoch when its first batch is asked for."""
        sampler = self._shuffled
        epoch, skipped = sampler.epoch, sampler.batches_to_skip  # The sampler moves on by itself.
        for number, batch in enumerate(self._batches(), skipped + 1):
            self._newest = epoch, number
            yield batch

    def _batches(self) -> Iterator[Any]:
        # What PyTorch's iterator would return, without its 50 microseconds for each batch.
        is_plain = not self.num_workers and not self.pin_memory and self.collate_fn is collate
        if is_plain and isinstance(self.dataset, ImageDataset):
            return (self.dataset.take(index).batch() for index in self._shuffled.batches())
        return super().__iter__()

    @property
    def _shuffled(self) -> ShuffledSampler:
        assert isinstance(self.sampler, ShuffledSampler)
        return self.sampler

    def state_dict(self) -> dict[str, Any]:
        """Return seed, epoch and the number of its images that all processes have had."""
        sampler = self._shuffled
        epoch, batches = self.place() if self.place else self._newest
        images = batches * sampler.batch_size * sampler.num_replicas
        return {"seed": sampler.seed, "epoch": epoch, "images": images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken, also inside an epoch.

        Raises:
            ValueError: If no batch of this loader begins there.
        """
        sampler = self._shuffled
        sampler.seed = state["seed"]
        sampler.start_at(state["epoch"], state["images"])
        self._newest = sampler.epoch, sampler.batches_to_skip
