"""A picture of the first photographs, the network's input made of them, and the predictions."""

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torch import Tensor
from typing_extensions import override

from fashion_lightning.atomic import replacing
from fashion_lightning.callbacks.outputs import check_output, check_probabilities, names_of_classes
from fashion_lightning.photos import cut_out, draw_preview, read_picture
from fashion_lightning.plotting import png

_ROWS = 20


class PreviewWriter(Callback):
    """Draws the first 20 photographs of `fashion_lightning.photos.Photos` and their predictions.

    Works with any LightningModule whose `predict_step` returns probabilities ``(N, C)``.

    Args:
        path: The PNG file. One that exists is replaced.

    Raises:
        MisconfigurationException: Before predicting, if `path` cannot be written, or is one of the
            photographs.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows: list[tuple[Path, Tensor, Tensor, Image.Image | None, bool | None]] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a file that cannot be written."""
        if stage == "predict":
            check_output(self.path)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to write over a photograph, and begin without any."""
        check_output(self.path, trainer.predict_dataloaders)
        self._rows = []  # of an interrupted prediction

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what will be drawn of a batch."""
        paths = getattr(getattr(trainer.predict_dataloaders, "dataset", None), "paths", None)
        if paths is None or not hasattr(batch, "index"):
            raise ValueError(
                "Expected the predict loader to serve photographs (`images` of "
                "`FashionMNISTDataModule`), of which `PreviewWriter` draws the first, but got "
                f"batches of type {type(batch).__name__}."
            )
        check_probabilities(outputs, "PreviewWriter")
        for row, (index, image, probs) in enumerate(
            zip(batch.index.tolist(), batch.images, outputs, strict=True)
        ):
            if len(self._rows) < _ROWS:
                found = _found(batch, row, paths[index], float(probs.max()))
                self._rows.append((paths[index], image.squeeze(0).cpu(), probs.cpu(), *found))

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the photographs, of which the first process has the first."""
        if not (trainer.is_global_zero and self._rows):
            return
        paths, images, probs, garments, are_sure = zip(*self._rows, strict=True)
        pictures, names = [read_picture(path) for path in paths], [path.name for path in paths]
        class_names = names_of_classes(pl_module, len(probs[0]), trainer.predict_dataloaders)
        figure = draw_preview(
            *(pictures, torch.stack(images), torch.stack(probs), names, class_names),
            garments=garments,
            are_sure=are_sure,
        )
        with replacing(self.path) as new:
            new.write_bytes(png(figure))
        rank_zero_info(f"Preview: {self.path}")


def _found(
    batch: Any, row: int, path: Path, confidence: float
) -> tuple[Image.Image | None, bool | None]:
    """Return the garment of a photograph, and whether its prediction is sure; None if unknown."""
    if getattr(batch, "background", None) is None:
        return None, None
    threshold = float(batch.threshold[row])
    is_sure = None if math.isnan(threshold) else confidence >= threshold
    if batch.background[row] == "plain":
        return None, is_sure
    mask, region = batch.mask[row].cpu(), batch.region[row].tolist()
    return cut_out(read_picture(path), mask, region), is_sure
