"""Photographs in `predict`: each is classified as its background demands."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from typing_extensions import override

from fashion_lightning.module import FashionMNISTClassifier
from fashion_lightning.photos import PhotoBatch


class PhotoModule(LightningModule):
    """Predicts photographs that a `PhotoClassifier` has looked at.

    Args:
        plain: The network of plain backgrounds, which takes a whole batch at once.
    """

    def __init__(self, plain: FashionMNISTClassifier) -> None:
        super().__init__()
        self.plain = plain
        self.class_names = plain.class_names

    @override
    def predict_step(self, batch: PhotoBatch, batch_idx: int) -> Tensor:
        """Return class probabilities, ``(N, 10)``."""
        probs = self.plain.predict_step(batch.images, batch_idx)
        if batch.background is None or batch.probs is None:
            return probs
        is_real = torch.tensor([each == "real" for each in batch.background], dtype=torch.bool)
        return torch.where(is_real.to(probs.device)[:, None], batch.probs, probs)
