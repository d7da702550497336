"""Predictions for photographs, in any Trainer: the table, its log, and the picture."""

import csv
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image

from fashion_lightning import FashionMNISTClassifier, FashionMNISTDataModule
from fashion_lightning.callbacks import PredictionWriter, PreviewWriter
from fashion_lightning.data import files


def save(folder: Path, name: str, image: torch.Tensor) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.numpy()).save(path)
    return path


def predict(
    folder: Path, images: Path, trained: Path, batch_size: int
) -> tuple[list[dict[str, str]], PredictionWriter]:
    writer = PredictionWriter(folder / "table.csv")
    trainer = pl.Trainer(
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        callbacks=[writer, PreviewWriter(folder / "preview.png")],
    )
    classifier = FashionMNISTClassifier.load_from_checkpoint(trained / "checkpoints" / "best.ckpt")
    datamodule = FashionMNISTDataModule(folder / "none", images=images, batch_size=batch_size)
    trainer.predict(classifier, datamodule, return_predictions=False)
    assert not (folder / "none").exists()  # Photographs do not need the dataset.
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file)), writer


def test_photographs_have_rows_and_unreadable_ones_are_logged(
    trained: Path, data_dir: Path, tmp_path: Path
) -> None:
    images, labels = files.load(data_dir, train=False)
    folder = tmp_path / "shop"
    paths = [save(folder, f"{number // 3}/{number}.png", images[number]) for number in range(12)]
    for name in ("0/1.png", "3/10.png"):
        (folder / name).write_text("<html>")
    rows, writer = predict(tmp_path, folder, trained, batch_size=5)
    assert [*rows[0]][:5] == ["index", "path", "prediction", "class_name", "confidence"]
    readable = [number for number in range(12) if number not in (1, 10)]
    assert [int(row["index"]) for row in rows] == readable
    assert [row["path"] for row in rows] == [str(paths[number]) for number in readable]
    correct = [int(row["prediction"]) == labels[n] for n, row in zip(readable, rows, strict=True)]
    assert sum(correct) >= 8
    assert list(writer.problems) == [str(paths[1]), str(paths[10])]
    log = (tmp_path / "table.csv.log").read_text().splitlines()
    assert [line.split(": ")[0] for line in log] == [str(paths[1]), str(paths[10])]
    with Image.open(tmp_path / "preview.png") as preview:
        assert preview.height > preview.width  # ten rows
        assert np.asarray(preview.convert("L")).std() > 10  # and something in them


@pytest.mark.parametrize("name", ["table.csv", "table.csv.log", "preview.png"])
def test_no_photograph_is_written_over(
    name: str, trained: Path, data_dir: Path, tmp_path: Path
) -> None:
    image = files.load(data_dir, train=False)[0][0]
    photo = save(tmp_path / "photos", "one.png", image)
    (tmp_path / name).symlink_to(photo)
    before = photo.read_bytes()
    with pytest.raises((MisconfigurationException, FileExistsError), match=name):
        predict(tmp_path, tmp_path / "photos", trained, batch_size=5)
    assert photo.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"photos", name}


def test_a_place_that_cannot_be_written_is_refused_first(
    trained: Path, data_dir: Path, tmp_path: Path
) -> None:
    save(tmp_path / "photos", "one.png", files.load(data_dir, train=False)[0][0])
    (tmp_path / "preview.png").mkdir()
    with pytest.raises(MisconfigurationException, match="which is a folder"):
        predict(tmp_path, tmp_path / "photos", trained, batch_size=5)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "preview.png"}


def test_the_log_is_removed_once_every_photograph_is_readable(
    trained: Path, data_dir: Path, tmp_path: Path
) -> None:
    path = save(tmp_path, "one.png", files.load(data_dir, train=False)[0][0])
    (tmp_path / "table.csv.log").write_text("of a former table")
    rows, writer = predict(tmp_path, path, trained, batch_size=5)
    assert [row["path"] for row in rows] == [str(path)]
    assert writer.problems == {}
    assert not (tmp_path / "table.csv.log").exists()
