import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from fashion_lightning import CLASSES, FashionMNISTClassifier, FashionMNISTDataModule
from fashion_lightning.callbacks import PredictionWriter

IMAGES, LABELS = torch.rand(23, 1, 28, 28), torch.arange(23) % 10


def predict(folder: Path, writer: PredictionWriter, data: Any) -> torch.Tensor:
    trainer = pl.Trainer(
        default_root_dir=folder, logger=False, enable_progress_bar=False, callbacks=[writer]
    )
    return torch.cat(trainer.predict(FashionMNISTClassifier(), data))  # type: ignore[arg-type]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_row_for_each_image_of_their_loader(tmp_path: Path, labelled: bool) -> None:
    dataset = TensorDataset(IMAGES, LABELS) if labelled else TensorDataset(IMAGES)
    path = tmp_path / "new" / "table.csv"
    probs = predict(tmp_path, PredictionWriter(path), DataLoader(dataset, batch_size=5))
    rows = list(csv.DictReader(path.read_text().splitlines()))
    columns = ["index", "target", "prediction", "class_name", "confidence"]
    if not labelled:
        columns.remove("target")
    assert list(rows[0]) == [*columns, *(f"prob_{label}" for label in range(10))]
    assert [int(row["index"]) for row in rows] == list(range(23))
    table = torch.tensor([[float(row[f"prob_{label}"]) for label in range(10)] for row in rows])
    assert torch.equal(table, probs)
    for row, row_probs in zip(rows, probs, strict=True):
        assert int(row["prediction"]) == row_probs.argmax()
        assert row["class_name"] == CLASSES[row_probs.argmax()]
        assert float(row["confidence"]) == pytest.approx(row_probs.max().item(), rel=1e-7)
    if labelled:
        assert [int(row["target"]) for row in rows] == LABELS.tolist()
    assert [entry.name for entry in path.parent.iterdir()] == ["table.csv"]


def test_the_table_lies_in_the_trainers_folder_by_default(tmp_path: Path, data_dir: Path) -> None:
    predict(tmp_path, PredictionWriter(), FashionMNISTDataModule(data_dir, mirrors=[]))
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 10_001


def test_a_failed_prediction_leaves_nothing(tmp_path: Path) -> None:
    def loader() -> Iterator[list[Tensor]]:
        yield [IMAGES]
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        predict(tmp_path, PredictionWriter(tmp_path / "table.csv"), loader())
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("mine")
    loader = DataLoader(TensorDataset(IMAGES), batch_size=5)
    with pytest.raises(FileExistsError, match=r"table\.csv exists"):
        predict(tmp_path, PredictionWriter(path), loader)
    assert path.read_text() == "mine"
    predict(tmp_path, PredictionWriter(path, overwrite=True), loader)
    assert len(path.read_text().splitlines()) == 24
