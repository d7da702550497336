"""Data sets that return a whole batch by one indexing operation.

A DataLoader collects single images more slowly than this network trains on them. `ImageDataset`
holds all images in memory and takes a batch at once; `AugmentedDataset` augments data sets of any
other kind, image by image.
"""

import operator
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, default_collate

from fashion_lightning.arguments import expect
from fashion_lightning.data.parts import name_of_images

NO_IMAGE = -(2**62)
"""The index that stands for an empty batch, for a process without images."""


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


class Augmentation:
    """The views of an image that augmentation can make, by number; 0 is the image itself.

    Args:
        horizontal_flip: Whether there are mirrored views.
        shift: By how many pixels an image is moved in each direction, in 0 ... 27.
    """

    def __init__(self, horizontal_flip: bool, shift: int) -> None:
        self.horizontal_flip = horizontal_flip
        self.shift = shift
        self._places = 2 * shift + 1  # in each direction
        self._identity = shift * self._places + shift

    def __len__(self) -> int:
        """Return the number of views."""
        return (1 + self.horizontal_flip) * self._places**2

    def number(self, flip: Tensor, down: Tensor, right: Tensor) -> Tensor:
        """Return the numbers of views.

        Args:
            flip: Whether they are mirrored, bool.
            down: Rows cut off at the top after padding, in 0 ... 2 * shift.
            right: Columns cut off at the left, likewise.
        """
        return ((flip * self._places + down) * self._places + right - self._identity) % len(self)

    def parts(self, number: Any) -> tuple[Any, Any, Any]:
        """Return flip, down and right of view numbers; the inverse of `number`."""
        place = (number + self._identity) % len(self)
        flip, place = place // self._places**2, place % self._places**2
        return flip, place // self._places, place % self._places

    def views(self, images: Tensor) -> Tensor:
        """Return all views of images ``(N, ..., H, W)`` without copying each.

        Returns:
            ``(N or 2 N, 2 * shift + 1, 2 * shift + 1, ..., H, W)``: the images, then their mirror
            images, each at each place; a strided view of the padded images.
        """
        height, width = images.shape[-2:]
        padded = F.pad(images, (self.shift,) * 4) if self.shift else images
        both = torch.cat([padded, padded.flip(-1)]) if self.horizontal_flip else padded
        places = both.unfold(-2, height, 1).unfold(-2, width, 1)  # (N, ..., y, x, H, W)
        return places.movedim((-4, -3), (1, 2))

    def view(self, image: Tensor, number: int) -> Tensor:
        """Return one view of one image, ``(..., H, W)``."""
        flip, down, right = self.parts(number)
        height, width = image.shape[-2:]
        image = F.pad(image.flip(-1) if flip else image, (self.shift,) * 4)
        return image[..., down : down + height, right : right + width]


class AugmentedDataset(Dataset[Any]):
    """A data set whose samples begin with an image tensor ``(..., H, W)``, with its views.

    A DataLoader finds view `v` of image `i` at index ``i + v * len(self)`` (`ShuffledSampler` draws
    such indices). Plain indexing and iteration return
    the images unchanged.

    Args:
        dataset: A map-style data set.
        augmentation: The views.
    """

    def __init__(self, dataset: Dataset[Any], augmentation: Augmentation) -> None:
        self.dataset = dataset
        self.augmentation = augmentation

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the images as they are."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        """Return one sample as it is.

        Raises:
            IndexError: If there is no such image.
        """
        return self.__getitems__([self._from_start(index)])[0]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        """Return several samples, each in its view.

        Raises:
            ValueError: If a sample that is to be augmented does not begin with an image tensor.
        """
        return [self._view(*divmod(index, len(self))) for index in indices]

    def _view(self, number: int, source: int) -> Any:
        sample = self.dataset[source]
        if number <= 0:
            return sample
        name = name_of_images(sample)
        if name is not None:
            return {**sample, name: self.augmentation.view(sample[name], number)}
        image, *others = sample if isinstance(sample, Sequence) else (sample,)
        if not isinstance(image, Tensor) or image.dim() < 2:
            raise ValueError(
                "Expected the samples of the training set to begin with an image tensor "
                "(..., H, W), which `horizontal_flip` and `shift` augment, "
                f"but got {type(image).__name__}; turn them off, or use `ToTensor()`."
            )
        return (self.augmentation.view(image, number), *others)

    def _from_start(self, index: Any) -> int:
        number, length = int(operator.index(index)), len(self)
        if not -length <= number < length:
            raise IndexError(f"Expected an index below {length}, but got {number}.")
        return number % length


class ImageDataset(AugmentedDataset):
    """Images in memory; samples are ``(image (C, H, W), label, ...)``, indexed as in its parent.

    Args:
        tensors: Images, then labels and whatever else there is for each image, on one device.
            Images are ``(N, H, W)`` or ``(N, C, H, W)``; uint8 ones become floats in [0, 1] of
            PyTorch's default type, floating point ones stay as they are.
        augmentation: The views. None: the images only.
        teacher_logits: A teacher's logits for each view, ``(N, len(augmentation), C)``. Batches are
            then dicts of ``images``, ``labels`` and ``teacher_logits``.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        augmentation: Augmentation | None = None,
        teacher_logits: Tensor | None = None,
    ) -> None:
        images, *self.others = tensors
        right, is_known = "uint8 or floating point", images.is_floating_point()
        expect(is_known or images.dtype == torch.uint8, "images", right, images.dtype)
        self.images = images if images.dim() > 3 else images.unsqueeze(1)
        self.augmentation = augmentation or Augmentation(horizontal_flip=False, shift=0)
        self.teacher_logits = teacher_logits
        self._views = self.augmentation.views(self.images)
        if not self.augmentation.shift:  # Images and, behind them, their mirror images.
            self._images = self._views[:, 0, 0]
            self._others = [torch.cat([part] * len(self.augmentation)) for part in self.others]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        """Return one image and what belongs to it, or several by a slice, a list or a tensor.

        Raises:
            IndexError: If there is no such image.
        """
        if isinstance(index, slice):
            index = range(*index.indices(len(self)))
        if isinstance(index, Sequence) or (isinstance(index, Tensor) and index.dim()):
            return tuple(self.__getitems__([*map(self._from_start, index)]).columns)
        return self.__getitems__([self._from_start(index)])[0]

    def __getitems__(self, indices: Sequence[int]) -> "Samples":
        """Return several images at once, in memory of their own."""
        if len(indices) == 0 or indices[0] == NO_IMAGE:
            return self.take(torch.empty(0, dtype=torch.int64))
        # Through an array, eight times as fast as `torch.tensor(indices)`.
        index = torch.frombuffer(array("q", indices), dtype=torch.int64)
        return self.take(torch.where(index < 0, index + len(self), index))

    def take(self, index: Tensor) -> "Samples":
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
            columns[0] = columns[0].to(torch.get_default_dtype()).div_(255)
        if self.teacher_logits is None:
            return Samples(columns)
        columns.append(self.teacher_logits[index % len(self), index // len(self)])
        return Samples(columns, ("images", "labels", "teacher_logits"))


class Samples(Sequence[tuple[Tensor, ...]]):
    """Samples taken together: a sequence of tuples, which `collate` joins without copying.

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
        """Return the samples as a list of tensors, or as a dict if the parts have names."""
        return dict(zip(self.names, self.columns, strict=True)) if self.names else self.columns


def collate(samples: Sequence[Any]) -> Any:
    """Return samples as a batch: `Samples` as they are, others by PyTorch's `default_collate`.

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


def in_memory(dataset: Any) -> tuple[Tensor, ...] | None:
    """Return the tensors of a data set of images, or None if it is of another kind.

    Args:
        dataset: PyTorch's `TensorDataset`, a `Subset` of one, or a `ConcatDataset` of such. A
            subclass may override indexing and counts as another kind.
    """
    if type(dataset) is Subset:
        tensors = in_memory(dataset.dataset)
        index = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return tensors and tuple(tensor[index] for tensor in tensors)
    if type(dataset) is ConcatDataset:
        parts = [in_memory(part) for part in dataset.datasets]
        if all(part and len(part) == len(parts[0] or ()) for part in parts):
            return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return None
    if type(dataset) is TensorDataset and dataset.tensors[0].dim() in (3, 4):
        return dataset.tensors
    return None
