"""A picture of the first photographs, the network's input made of them, and the predictions."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from fashion_lightning.atomic import replacing
from fashion_lightning.callbacks.outputs import check_probabilities, names_of_classes

_ROWS = 20


class PreviewWriter(BasePredictionWriter):
    """Draws the first 20 photographs of `fashion_lightning.photos.Photos` and their predictions.

    Works with any LightningModule whose `predict_step` returns probabilities ``(N, C)``.

    Args:
        path: The PNG file. One that exists is replaced.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(write_interval="batch")
        self.path = Path(path)
        self._images: list[Tensor] = []
        self._paths: list[Path] = []
        self._probs: list[Tensor] = []

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an interrupted prediction left."""
        for kept in (self._images, self._paths, self._probs):
            kept.clear()

    @override
    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep what will be drawn of a batch."""
        num_rows = _ROWS - len(self._paths)
        paths = getattr(getattr(trainer.predict_dataloaders, "dataset", None), "paths", None)
        if paths is None or not hasattr(batch, "index"):
            raise ValueError(
                "Expected the predict loader to serve photographs (`images` of "
                "`FashionMNISTDataModule`), of which `PreviewWriter` draws the first, but got "
                f"batches of type {type(batch).__name__}."
            )
        check_probabilities(prediction, "PreviewWriter")
        self._images.extend(batch.images[:num_rows].squeeze(1).cpu())
        self._paths.extend(paths[index] for index in batch.index[:num_rows].tolist())
        self._probs.extend(prediction[:num_rows].cpu())

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the photographs, of which the first process has the first."""
        if not (trainer.is_global_zero and self._paths):
            return
        # PIL and matplotlib are slow to import.
        from fashion_lightning.photos.conversion import read_picture
        from fashion_lightning.plotting import draw_preview, png

        pictures = [read_picture(path) for path in self._paths]
        names = [path.name for path in self._paths]
        images, probs = torch.stack(self._images), torch.stack(self._probs)
        class_names = names_of_classes(pl_module, probs.shape[1])
        figure = draw_preview(pictures, images, probs, names, class_names)
        with replacing(self.path) as new:
            new.write_bytes(png(figure))
        rank_zero_info(f"Preview: {self.path}")
