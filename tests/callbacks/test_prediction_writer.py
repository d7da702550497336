import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from fashion_lightning import (
    CLASSES,
    MLP,
    FashionMNISTClassifier,
    FashionMNISTDataModule,
)
from fashion_lightning.callbacks import PredictionWriter
from fashion_lightning.data.batches import ImageDataset

IMAGES, LABELS = torch.rand(23, 1, 28, 28), torch.arange(23) % 10


def predict(folder: Path, writer: PredictionWriter, data: Any) -> torch.Tensor:
    trainer = pl.Trainer(
        default_root_dir=folder, logger=False, enable_progress_bar=False, callbacks=[writer]
    )
    outputs: Any = trainer.predict(FashionMNISTClassifier(), data)
    return torch.cat(outputs) if isinstance(outputs[0], torch.Tensor) else torch.empty(0)


@pytest.mark.parametrize("labelled", [True, False])
def test_any_loader_gets_one_row_per_image(tmp_path: Path, labelled: bool) -> None:
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


def test_the_table_is_in_the_trainers_folder_by_default(tmp_path: Path, data_dir: Path) -> None:
    predict(tmp_path, PredictionWriter(), FashionMNISTDataModule(data_dir, mirrors=[]))
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 10_001


def test_a_failed_prediction_leaves_no_file(tmp_path: Path) -> None:
    def loader() -> Iterator[list[Tensor]]:
        yield [IMAGES]
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        predict(tmp_path, PredictionWriter(tmp_path / "table.csv"), loader())
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("mine")
    loader = DataLoader(TensorDataset(IMAGES), batch_size=5)
    with pytest.raises(FileExistsError, match=r"table\.csv exists"):
        predict(tmp_path, PredictionWriter(path), loader)
    assert path.read_text() == "mine"
    predict(tmp_path, PredictionWriter(path, overwrite=True), loader)
    assert len(path.read_text().splitlines()) == 24


def test_rows_of_two_loaders_name_their_loader(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    loaders = [DataLoader(TensorDataset(IMAGES[:n]), batch_size=5) for n in (7, 12)]
    predict(tmp_path, PredictionWriter(path), loaders)
    predict(tmp_path, PredictionWriter(path, overwrite=True), dict(zip("ab", loaders, strict=True)))
    rows = [
        (row["dataloader_idx"], row["index"])
        for row in csv.DictReader(path.read_text().splitlines())
    ]
    assert rows == [(str(n), str(i)) for n, size in ((0, 7), (1, 12)) for i in range(size)]


@pytest.mark.filterwarnings("ignore:Your `predict_dataloader`'s sampler has shuffling")
def test_rows_of_a_shuffled_loader_are_in_the_datasets_order(tmp_path: Path) -> None:
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=5, shuffle=True)
    predict(tmp_path, PredictionWriter(tmp_path / "table.csv"), loader)
    rows = [*csv.DictReader((tmp_path / "table.csv").read_text().splitlines())]
    assert [int(row["index"]) for row in rows] == list(range(23))
    assert [int(row["target"]) for row in rows] == LABELS.tolist()


@pytest.mark.parametrize("num_classes", [2, 200])
def test_class_names_are_the_modules(tmp_path: Path, num_classes: int) -> None:
    names = [f"kind {label}" for label in range(num_classes)]
    for class_names, expected in ((names, "kind 1"), (None, "class 1")):
        classifier = FashionMNISTClassifier(
            MLP(num_classes=num_classes), num_classes=num_classes, class_names=class_names
        )
        classifier.network.linear_relu_stack[-1].bias.data[1] = 100  # type: ignore[index,union-attr]
        writer = PredictionWriter(tmp_path / "table.csv", overwrite=True)
        trainer = pl.Trainer(logger=False, enable_progress_bar=False, callbacks=[writer])
        trainer.predict(classifier, DataLoader(TensorDataset(IMAGES), batch_size=5))
        rows = [*csv.DictReader((tmp_path / "table.csv").read_text().splitlines())]
        assert {row["class_name"] for row in rows} == {expected}
        assert f"prob_{num_classes - 1}" in rows[0]


class Foreign(pl.LightningModule):
    """Returns given outputs."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self.outputs = outputs

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.outputs


@pytest.mark.filterwarnings("ignore:predict returned None")
@pytest.mark.parametrize(
    ("outputs", "got"),
    [
        (5 * torch.eye(10)[:5] + 1, "rows that sum to 15 "),
        (torch.rand(5), r"a tensor \(5,\)"),
        (None, "NoneType"),
        ({"logits": torch.rand(5, 10)}, "dict"),
    ],
)
def test_outputs_that_are_no_probabilities_are_refused(
    outputs: Any, got: str, tmp_path: Path
) -> None:
    writer = PredictionWriter(tmp_path / "table.csv")
    trainer = pl.Trainer(logger=False, enable_progress_bar=False, callbacks=[writer])
    loader = DataLoader(TensorDataset(IMAGES), batch_size=5)
    with pytest.raises(ValueError, match=f"`predict_step` to return probabilities .* {got}"):
        trainer.predict(Foreign(outputs), loader)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Couldn't infer the batch indices")
def test_a_loader_of_unknown_order_is_refused(tmp_path: Path) -> None:
    dataset = TensorDataset(IMAGES)
    batches = BatchSampler(RandomSampler(dataset), 6, drop_last=False)
    loader = DataLoader(dataset, sampler=batches, batch_size=None)
    with pytest.raises(ValueError, match="Expected a predict loader with a batch sampler"):
        predict(tmp_path, PredictionWriter(tmp_path / "table.csv"), loader)


def test_numbers_beyond_the_classes_are_no_targets(tmp_path: Path) -> None:
    loader = DataLoader(TensorDataset(IMAGES, 1000 + LABELS), batch_size=5)
    predict(tmp_path, PredictionWriter(tmp_path / "table.csv"), loader)
    assert "target" not in (tmp_path / "table.csv").read_text().splitlines()[0]


def test_numbers_that_are_no_labels_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    """An index behind the images looks like labels at first."""
    dataset = TensorDataset(IMAGES, torch.arange(23))
    with pytest.raises(
        ValueError, match=r"Expected labels in 0 \.\.\. 9 .* but batch 2 has others"
    ):
        predict(tmp_path, PredictionWriter(tmp_path / "t.csv"), DataLoader(dataset, batch_size=5))
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


class Nameless(pl.LightningModule):
    """Predicts ten classes without names."""

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.eye(10)[batch[1] % 10]


def test_names_of_classes_are_those_of_the_data(tmp_path: Path) -> None:
    theirs: Any = TensorDataset(IMAGES, LABELS)
    ours = ImageDataset([IMAGES, LABELS])
    for number, (dataset, classes, expected) in enumerate(
        (
            (theirs, None, "class 0"),
            (theirs, [f"digit {n}" for n in range(10)], "digit 0"),
            (ours, None, "T-shirt/top"),
        )
    ):
        if classes:
            dataset.classes = classes
        path = tmp_path / f"{number}.csv"
        trainer = pl.Trainer(logger=False, callbacks=[PredictionWriter(path)], accelerator="cpu")
        trainer.predict(Nameless(), DataLoader(dataset, batch_size=5))
        first = next(csv.DictReader(path.read_text().splitlines()))
        assert first["class_name"] == expected
