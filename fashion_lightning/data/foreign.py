"""Other people's data sets: which are in memory, and how the others are augmented."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from fashion_lightning.data.batches import Augmentation, from_start
from fashion_lightning.data.parts import name_of_images


class AugmentedDataset(Dataset[Any]):
    """A data set whose samples begin with an image tensor ``(..., H, W)``, with its views.

    Indices are those of `ImageDataset`.

    Args:
        dataset: A map-style data set.
        augmentation: The views.
    """

    def __init__(self, dataset: Dataset[Any], augmentation: Augmentation) -> None:
        self.dataset = dataset
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: Any) -> Any:
        """Return one sample as it is.

        Raises:
            IndexError: If there is no such image.
        """
        return self.__getitems__([from_start(index, len(self))])[0]

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


def in_memory(dataset: Any) -> tuple[Tensor, ...] | None:
    """Return the tensors of a data set of images, or None if it is of another kind.

    Args:
        dataset: PyTorch's `TensorDataset`, a `Subset` of one, or a `ConcatDataset` of such. A
            subclass may override indexing and counts as another kind.
    """
    if type(dataset) is Subset:
        tensors = in_memory(dataset.dataset)
        if tensors is None:
            return None
        index = torch.as_tensor(dataset.indices, dtype=torch.int64, device=tensors[0].device)
        return tuple(tensor[index] for tensor in tensors)
    if type(dataset) is ConcatDataset:
        parts = [in_memory(part) for part in dataset.datasets]
        if all(part and len(part) == len(parts[0] or ()) for part in parts):
            return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return None
    if type(dataset) is TensorDataset and dataset.tensors[0].dim() in (3, 4):
        return dataset.tensors
    return None
