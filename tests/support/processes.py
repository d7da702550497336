"""A script as users write it, run as one or several processes by `test_processes.py`.

It trains, tests and predicts, and leaves what came out in the folder in which it runs.
"""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from fashion_lightning import FashionMNISTClassifier, FashionMNISTDataModule
from fashion_lightning.callbacks import BestAndLast, PredictionWriter, ReportWriter


class Shortened(FashionMNISTDataModule):
    """Serves only the first `num_images` of the test images."""

    num_images = 10_000

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage in ("test", "predict"):
            images, labels = self.test_set.tensors
            self.test_set.tensors = (images[: self.num_images], labels[: self.num_images])


class Foreign(LightningModule):
    """Predicts the class whose number is that of the brightest of the first ten rows."""

    def test_step(self, batch, batch_idx):  # type: ignore[no-untyped-def]
        images, labels = batch
        rows = images.squeeze(1).sum(dim=2)[:, :10]
        self.log("accuracy", (rows.argmax(1) == labels).float().mean(), sync_dist=True)
        return rows


class Seen(Callback):
    """Keeps the labels of the training batches of this process."""

    def __init__(self) -> None:
        self.labels: list[Tensor] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):  # type: ignore[no-untyped-def]
        self.labels.append(batch[1])


if __name__ == "__main__":
    data_dir, processes, global_batch_size, checkpoint = sys.argv[1:]
    seed_everything(0)
    seen, predictions, report = Seen(), PredictionWriter(), ReportWriter()
    trainer = Trainer(
        accelerator="cpu",
        devices=int(processes),
        strategy="auto" if processes == "1" else "ddp",
        max_epochs=1,
        limit_train_batches=6,
        logger=False,
        enable_progress_bar=False,
        callbacks=[seen, BestAndLast("checkpoints"), predictions, report],
    )
    datamodule = Shortened(
        data_dir, mirrors=[], batch_size=int(global_batch_size) // int(processes)
    )
    trainer.fit(FashionMNISTClassifier(), datamodule)
    torch.save(torch.stack(seen.labels), f"seen{trainer.global_rank}.pt")

    classifier = FashionMNISTClassifier.load_from_checkpoint(checkpoint)
    for name, num_images, batch_size in (
        ("whole", 10_000, 500),
        ("odd", 9_999, 10_000),  # so large that only the first process has images
    ):
        datamodule = Shortened(data_dir, eval_batch_size=batch_size)
        datamodule.num_images = num_images
        report.dirpath, predictions.path = name, f"{name}/predictions.csv"
        (logged,) = trainer.test(classifier, datamodule)
        trainer.predict(classifier, datamodule, return_predictions=False)
        if trainer.is_global_zero:
            Path(name, "logged.json").write_text(json.dumps(logged))

    # A module of others, which synchronizes in each step.
    datamodule = Shortened(data_dir, eval_batch_size=4000)
    datamodule.num_images = 8_500
    report.dirpath = "foreign"
    (logged,) = trainer.test(Foreign(), datamodule)
    if trainer.is_global_zero:
        Path("foreign", "logged.json").write_text(json.dumps(logged))
