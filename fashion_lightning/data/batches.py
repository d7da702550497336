"""Images in memory, of which one indexing operation takes a whole batch.

A DataLoader collects single images more slowly than this network trains on them.
"""

import operator
from array import array
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from fashion_lightning.arguments import expect

NO_IMAGE = -(2**62)
"""The index that stands for an empty batch, for a process without images."""


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


class ImageDataset(Dataset[Any]):
    """Images in memory, with their views; samples are ``(image (C, H, W), label, ...)``.

    A DataLoader finds view `v` of image `i` at index ``i + v * len(self)`` (`ShuffledSampler` draws
    such indices). Plain indexing and iteration return the images unchanged.

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
        return len(self.images)

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        """Return one image and what belongs to it, or several by a slice, a list or a tensor.

        Raises:
            IndexError: If there is no such image.
        """
        if isinstance(index, slice):
            index = range(*index.indices(len(self)))
        if isinstance(index, Sequence) or (isinstance(index, Tensor) and index.dim()):
            return tuple(self.__getitems__([from_start(i, len(self)) for i in index]).columns)
        return self.__getitems__([from_start(index, len(self))])[0]

    def __getitems__(self, indices: Sequence[int]) -> "Samples":
        """Return several images at once, in memory of their own."""
        if len(indices) == 0 or indices[0] == NO_IMAGE:
            return self.take(torch.empty(0, dtype=torch.int64, device="cpu"))
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


class Samples:
    """Samples taken together: a sequence of tuples, which `collate` joins without copying.

    Args:
        columns: For each part of a sample (image, label), all of them in one tensor.
        names: Names of the parts, if the batch is to be a dict.
    """

    def __init__(self, columns: list[Tensor], names: tuple[str, ...] | None = None) -> None:
        self.columns = columns
        self.names = names

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(column[index] for column in self.columns)

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


def from_start(index: Any, length: int) -> int:
    """Return an index counted from the start.

    Raises:
        IndexError: If there is no such image.
    """
    number = int(operator.index(index))
    if not -length <= number < length:
        raise IndexError(f"Expected an index below {length}, but got {number}.")
    return number % length
