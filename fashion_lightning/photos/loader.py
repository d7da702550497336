"""A data set of photographs, and its batches."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fashion_lightning.data.batches import NO_IMAGE
from fashion_lightning.data.files import IMAGE_SIZE
from fashion_lightning.photos.background import SURE
from fashion_lightning.photos.conversion import to_fashion_mnist
from fashion_lightning.photos.reading import decode, escape_name, naming

_THREADS = 4  # Each may hold a picture of 100 million pixels.


class PhotoBatch(NamedTuple):
    """The readable photographs of a batch, and why others were left out.

    Attributes:
        images: float32 in [0, 1], ``(B, 1, 28, 28)``.
        index: int64, ``(B,)``: positions in `Photos.paths`.
        path: B paths, printable and safe in a spreadsheet.
        problems: One sentence for each unreadable file, by its path.
        background: B times ``plain`` or ``real``. This and the rest: None unless `Photos` has a
            classifier; see `PhotoResult`.
        probs: float32, ``(B, 10)``; zeros on plain backgrounds.
        threshold: float32, ``(B,)``: confidence from which a prediction is sure; NaN if unknown.
        mask: uint8, ``(B, 64, 64)``; zeros on plain backgrounds.
        region: int64, ``(B, 4)``, in pixels; zeros on plain backgrounds.
    """

    images: Tensor
    index: Tensor  # type: ignore[assignment]  # Tuples have a method of that name.
    path: list[str]
    problems: dict[str, str]
    background: list[str] | None = None
    probs: Tensor | None = None
    threshold: Tensor | None = None
    mask: Tensor | None = None
    region: Tensor | None = None


def read_image(path: str | Path) -> Tensor:
    """Convert a photograph to an image of FashionMNIST.

    Args:
        path: A PNG, JPEG, WebP, HEIC, AVIF, BMP, TIFF or GIF file; of an animation, the first frame
            is used.

    Returns:
        uint8, ``(28, 28)``: the garment light on black, see `to_fashion_mnist`.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not such a picture, is damaged or too large, or shows no garment.
    """
    with naming(path):
        return to_fashion_mnist(decode(Path(path)))


class Photos(Dataset[Any]):
    """A data set of photographs, each as an image of FashionMNIST, float32 ``(1, 28, 28)``.

    With a classifier, each is what its `look_at` returns.

    With `collate_photos`, a DataLoader serves `PhotoBatch`es, which leave out unreadable files and
    may be empty. Batches are decoded in several threads.

    Args:
        paths: The files, for example from `find_images`.
        classifier: A `PhotoClassifier`.
    """

    def __init__(self, paths: Sequence[str | Path], classifier: Any = None) -> None:
        self.paths = [Path(path) for path in paths]
        self.classifier = classifier

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        """Return one photograph; raises like `read_image`, also if no garment is found."""
        if self.classifier is None:
            return read_image(self.paths[index]).unsqueeze(0).float().div_(255)
        with naming(self.paths[index]):
            result = self.classifier.look_at(decode(self.paths[index]))
            if result.reason:
                raise ValueError(result.reason)
        return result

    def __getitems__(self, indices: Sequence[int]) -> "_Samples":
        """Return several photographs."""
        indices = [index for index in indices if index != NO_IMAGE]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # in each of the pool's, which keep the cores busy together
        try:
            with ThreadPoolExecutor(_THREADS) as pool:  # PIL releases the GIL while it decodes.
                samples = _Samples(self.paths, indices, pool.map(self._try, indices))
        finally:
            torch.set_num_threads(threads)
        samples.classifies = self.classifier is not None
        return samples

    def _try(self, index: int) -> Any:
        try:
            return self[index]
        except (OSError, ValueError) as error:
            return error


class _Samples(list[Any]):
    """Samples that were read together, with errors for unreadable files.

    Iterating yields the errors, for `collate_photos`; indexing raises them, for PyTorch's collate.
    """

    classifies = False

    def __init__(self, paths: list[Path], indices: Sequence[int], samples: Any) -> None:
        super().__init__(samples)
        self.paths, self.indices = paths, indices

    def __getitem__(self, place: Any) -> Any:
        for sample in self:
            if isinstance(sample, Exception):
                raise sample
        return super().__getitem__(place)


def collate_photos(samples: Any) -> PhotoBatch:
    """Return what a DataLoader has read from `Photos` as a batch."""
    read, index, problems = [], [], {}
    for place, sample in zip(samples.indices, samples, strict=True):
        if isinstance(sample, Exception):  # The cause is the error without the file's name.
            problems[escape_name(samples.paths[place])] = str(sample.__cause__)
        else:
            read.append(sample)
            index.append(place)
    paths = [escape_name(samples.paths[place]) for place in index]
    with torch.device("cpu"):  # whatever the default device is
        where = torch.tensor(index, dtype=torch.int64)
        none = torch.zeros(64, 64, dtype=torch.uint8)
        if samples.classifies:
            return PhotoBatch(
                _stacked(
                    [each.seen.unsqueeze(0) / 255 for each in read], 1, IMAGE_SIZE, IMAGE_SIZE
                ),
                where,
                paths,
                problems,
                [each.background for each in read],
                _stacked([each.probabilities for each in read], 10),
                torch.tensor([math.nan if e.sure is None else SURE[e.background] for e in read]),
                _stacked([none if e.mask is None else e.mask for e in read], 64, 64).byte(),
                torch.tensor([each.region or (0, 0, 0, 0) for each in read]).reshape(-1, 4),
            )
        return PhotoBatch(_stacked(read, 1, IMAGE_SIZE, IMAGE_SIZE), where, paths, problems)


def _stacked(tensors: list[Tensor], *shape: int) -> Tensor:
    return torch.stack(tensors) if tensors else torch.empty(0, *shape)
