"""What `configs/photos-mask.yaml` and `configs/photos.yaml` train: data modules and a mask module.

Both data modules serve FashionMNIST with its split and its loaders, and draw on each batch when it
has arrived. What they draw depends on the batch alone: runs can be repeated and continued.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from typing_extensions import override

from fashion_lightning import arguments
from fashion_lightning.datamodule import FashionMNISTDataModule
from fashion_lightning.hooks.schedule import ScheduledModule
from fashion_lightning.photos.segmentation import SIZE, UNet
from fashion_lightning.scenes.composition import compose
from fashion_lightning.scenes.damage import damage
from fashion_lightning.training.optimizers import make_optimizer


class SceneDataModule(FashionMNISTDataModule):
    """Photographs drawn around garments of FashionMNIST, and the garments' masks.

    Batches of training and validation are ``(pictures (2 B, 3, 64, 64), masks (2 B, 1, 64, 64))``,
    floats in [0, 1]. Each scene appears twice, mirrored and in other colours the second time: to
    draw it takes half as long as to train on it.
    """

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Return the scenes of a batch of images and labels."""
        images, labels = (part.cpu() for part in batch)
        generator = _generator(images)
        with torch.device("cpu"):
            pictures, masks = compose(images, labels, SIZE, generator)
            channels = torch.randperm(3, generator=generator)
        pictures = torch.cat([pictures, pictures[:, channels].flip(3)])
        return pictures.to(batch[0].device), torch.cat([masks, masks.flip(3)]).to(batch[0].device)


class DamagedDataModule(FashionMNISTDataModule):
    """FashionMNIST with three quarters of each training and validation batch damaged: `damage`."""

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Return the batch, damaged unless it is of the test images."""
        if not self.trainer or self.trainer.testing or self.trainer.predicting:
            return batch
        images, labels = (part.cpu() for part in batch)
        count = 3 * len(images) // 4
        with torch.device("cpu"):
            damaged = damage(images[:count], labels[:count], _generator(images))
        return [torch.cat([damaged.to(batch[0].device), batch[0][count:]]), batch[1]]


def _generator(images: Tensor) -> Generator:
    """Return random numbers that depend on a batch alone."""
    return Generator().manual_seed(zlib.crc32(images.numpy().tobytes()))


class MaskModule(ScheduledModule):
    """Trains a `UNet` that marks the pixels of a garment.

    The loss is the mean of the pixels' cross-entropy and of the overlap that is missing (dice).
    Logged: ``train_loss``, ``val_loss`` and ``val_iou``, the mean overlap divided by the union.

    Args:
        channels: Widths of the network's levels.
        lr: Peak learning rate, > 0.
        weight_decay: Of AdamW, >= 0.
        beta2: AdamW's decay of the running mean of squared gradients, in [0, 1).
        warmup: Fraction of the steps, in [0, 1], in which the learning rate rises.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 128),
        *,
        lr: float = 4e-3,
        weight_decay: float = 0.02,
        beta2: float = 0.98,
        warmup: float = 0.1,
    ) -> None:
        super().__init__()
        arguments.positive(lr=lr)
        arguments.non_negative(weight_decay=weight_decay)
        arguments.below_one(beta2=beta2)
        arguments.fraction(warmup=warmup)
        self.save_hyperparameters()
        self.network = UNet(channels)
        self.lr, self.weight_decay, self.beta2, self.warmup = lr, weight_decay, beta2, warmup

    @override
    def forward(self, pictures: Tensor) -> Tensor:
        """Return masks `(B, 1, S, S)` in [0, 1] of pictures `(B, 3, S, S)`."""
        masks: Tensor = self.network(pictures).sigmoid()
        return masks

    @override
    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule."""
        return self.scheduled(
            make_optimizer(
                "adamw", self, lr=self.lr, weight_decay=self.weight_decay, beta2=self.beta2
            )
        )

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        pictures, masks = batch
        loss = mask_loss(self.network(pictures), masks)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(masks))
        return loss

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log loss and overlap of a batch."""
        pictures, masks = batch
        logits = self.network(pictures)
        found, true = logits > 0, masks > 0.5
        common, union = (
            (f(found, true)).sum((1, 2, 3)) for f in (torch.logical_and, torch.logical_or)
        )
        values = {
            "val_loss": mask_loss(logits, masks),
            "val_iou": (common / union.clamp(min=1)).mean(),
        }
        self.log_dict(values, prog_bar=True, batch_size=len(masks))


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return cross-entropy plus half the dice loss, a scalar."""
    probs = logits.sigmoid()
    common, total = (probs * masks).sum((1, 2, 3)), (probs + masks).sum((1, 2, 3))
    dice = 1 - (2 * common + 1) / (total + 1)
    return F.binary_cross_entropy_with_logits(logits, masks) + 0.5 * dice.mean()
