"""How often the progress bar is drawn."""

from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from fashion_lightning import MLP, FashionMNISTClassifier, FashionMNISTDataModule
from fashion_lightning.callbacks import SteadyProgressBar


@pytest.mark.parametrize(
    ("interval", "fewest", "most"), [(0, 50, 200), (3600, 2, 20)], ids=["always", "seldom"]
)
def test_it_is_drawn_by_time(
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    interval: float,
    fewest: int,
    most: int,
) -> None:
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=50,
        limit_val_batches=0,
        callbacks=[SteadyProgressBar(interval)],
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    classifier = FashionMNISTClassifier(MLP(hidden_features=8))
    trainer.fit(classifier, FashionMNISTDataModule(data_dir, mirrors=[]))
    drawings = capsys.readouterr().out.split("\r")
    assert fewest <= len(drawings) <= most
    assert "50/50" in drawings[-1]
    assert "train_loss_step=" in drawings[-1]
