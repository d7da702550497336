"""Which epoch is kept under which name."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from fashion_lightning.callbacks import BestAndLast

LOADER = DataLoader(TensorDataset(torch.zeros(2, 1)), batch_size=1)


class Scripted(LightningModule):
    """Has the given validation loss in each epoch, and counts its epochs in a weight."""

    def __init__(self, losses: Sequence[float]) -> None:
        super().__init__()
        self.losses = losses
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight * 0

    def on_train_epoch_start(self) -> None:
        self.weight.data.fill_(self.current_epoch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.losses[self.current_epoch])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("weight", self.weight)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(
    folder: Path, losses: Sequence[float], ckpt_path: Path | None = None, **options: Any
) -> Trainer:
    trainer = Trainer(
        max_epochs=len(losses),
        callbacks=[BestAndLast(folder)],
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        **options,
    )
    trainer.fit(Scripted(losses), LOADER, LOADER, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def epochs(folder: Path) -> dict[str, int]:
    files = {path.name: torch.load(path, weights_only=True) for path in folder.iterdir()}
    return {name: int(content["state_dict"]["weight"]) for name, content in files.items()}


def test_the_best_and_the_last_epoch_are_kept(tmp_path: Path) -> None:
    trainer = fit(tmp_path, [0.5, 0.3, float("nan"), 0.4])
    assert epochs(tmp_path) == {"best.ckpt": 1, "last.ckpt": 3}
    (tested,) = trainer.test(dataloaders=LOADER, ckpt_path="best", verbose=False, weights_only=True)
    assert tested["weight"] == 1


def test_without_validation_the_last_epoch_is_the_best(tmp_path: Path) -> None:
    fit(tmp_path, [0.5, 0.6], limit_val_batches=0)
    assert epochs(tmp_path) == {"best.ckpt": 1, "last.ckpt": 1}


def test_a_continued_run_remembers_the_best(tmp_path: Path) -> None:
    losses = [0.5, 0.3, 0.4, 0.35]
    fit(tmp_path, losses[:3])
    fit(tmp_path, losses, tmp_path / "last.ckpt")
    assert epochs(tmp_path) == {"best.ckpt": 1, "last.ckpt": 3}


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    fit(tmp_path, [0.5, 0.3, 0.4])
    assert epochs(tmp_path) == {"best.ckpt": 1, "last.ckpt": 2}


def test_a_development_run_writes_nothing(tmp_path: Path) -> None:
    fit(tmp_path, [0.5], fast_dev_run=True)
    assert epochs(tmp_path) == {}
