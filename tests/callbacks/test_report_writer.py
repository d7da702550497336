import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import Logger
from sklearn import metrics as sklearn
from torch.utils.data import DataLoader, TensorDataset

from fashion_lightning import CLASSES, MLP, FashionMNISTClassifier
from fashion_lightning.callbacks import ReportWriter


def test_the_report_of_any_trainer_equals_scikit_learns(tmp_path: Path) -> None:
    images, labels = torch.rand(200, 1, 28, 28), torch.arange(200) % 10
    loader = DataLoader(TensorDataset(images, labels), batch_size=64)
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        callbacks=[ReportWriter()],
    )
    classifier = FashionMNISTClassifier()
    (logged,) = trainer.test(classifier, loader, verbose=False)
    report = json.loads((tmp_path / "report" / "metrics.json").read_text())
    with torch.no_grad():
        predicted = classifier(images).argmax(1)
    for name, value in logged.items():
        assert report[name] == pytest.approx(value, abs=1e-6)
    assert report["num_images"] == 200
    assert report["checkpoint"] is None
    assert report["confusion_matrix"] == sklearn.confusion_matrix(labels, predicted).tolist()
    theirs = sklearn.precision_recall_fscore_support(labels, predicted, zero_division=0)
    for label, class_name in enumerate(CLASSES):
        ours = report["per_class"][class_name]
        for name, values in zip(("precision", "recall", "f1", "support"), theirs, strict=True):
            assert ours[name] == pytest.approx(values[label], abs=1e-6)


def test_two_and_two_hundred_classes(tmp_path: Path) -> None:
    for num_classes in (2, 200):
        labels = torch.arange(400) % num_classes
        loader = DataLoader(TensorDataset(torch.rand(400, 1, 28, 28), labels), batch_size=64)
        classifier = FashionMNISTClassifier(MLP(num_classes=num_classes), num_classes=num_classes)
        trainer = pl.Trainer(
            logger=False, enable_progress_bar=False, callbacks=[ReportWriter(tmp_path)]
        )
        trainer.test(classifier, loader, verbose=False)
        report = json.loads((tmp_path / "report" / "metrics.json").read_text())
        assert [*report["per_class"]] == [f"class {label}" for label in range(num_classes)]
        page = (tmp_path / "report" / "report.html").read_text()
        assert "class 1" in page
        assert "T-shirt" not in page


def test_each_of_two_test_loaders_has_its_report(tmp_path: Path) -> None:
    loaders = [
        DataLoader(TensorDataset(torch.rand(n, 1, 28, 28), torch.arange(n) % 10), batch_size=64)
        for n in (100, 70)
    ]
    writer = ReportWriter(tmp_path)
    trainer = pl.Trainer(logger=False, enable_progress_bar=False, callbacks=[writer])
    logged = trainer.test(FashionMNISTClassifier(), loaders, verbose=False)
    for number, size in enumerate((100, 70)):
        folder = tmp_path / "report" / f"dataloader_idx_{number}"
        report = json.loads((folder / "metrics.json").read_text())
        assert report["num_images"] == size
        assert any(
            each.get(f"test_acc/dataloader_idx_{number}") == pytest.approx(report["test_acc"])
            for each in logged
        )


@pytest.mark.parametrize("callbacks", [[], [Timer(verbose=False)]])
def test_the_training_time_is_that_of_lightnings_timer(
    tmp_path: Path, callbacks: list[pl.Callback]
) -> None:
    loader = DataLoader(TensorDataset(torch.rand(10, 1, 28, 28), torch.arange(10)), batch_size=5)
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, ReportWriter()],
    )
    classifier = FashionMNISTClassifier()
    for trains in (False, True):
        if trains:
            trainer.fit(classifier, loader, loader)
        trainer.test(classifier, loader, verbose=False)
        page = (tmp_path / "report" / "report.html").read_text()
        assert ("Training time" in page) == bool(trains and callbacks)


class Foreign(pl.LightningModule):
    def test_step(self, batch: Any, batch_idx: int) -> Any:
        return None


def test_outputs_that_are_no_logits_are_refused(tmp_path: Path) -> None:
    loader = DataLoader(TensorDataset(torch.rand(10, 1, 28, 28), torch.arange(10)), batch_size=5)
    trainer = pl.Trainer(
        logger=False, enable_progress_bar=False, callbacks=[ReportWriter(tmp_path)]
    )
    with pytest.raises(ValueError, match=r"Expected `test_step` to return logits .* NoneType"):
        trainer.test(Foreign(), loader)


def test_runs_of_a_logger_without_folders_have_reports_of_their_own(tmp_path: Path) -> None:
    loader = DataLoader(TensorDataset(torch.rand(10, 1, 28, 28), torch.arange(10)), batch_size=5)

    class Elsewhere(Logger):
        def __init__(self, run: str) -> None:
            super().__init__()
            self.run = run

        save_dir = property(lambda self: str(tmp_path))
        name = property(lambda self: "project")
        version = property(lambda self: self.run)

        def log_metrics(self, *_: Any, **__: Any) -> None: ...
        def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    for run in ("first", "second"):
        trainer = pl.Trainer(
            logger=Elsewhere(run), enable_progress_bar=False, callbacks=[ReportWriter()]
        )
        trainer.test(FashionMNISTClassifier(), loader, verbose=False)
        assert (tmp_path / "project" / run / "report" / "report.html").is_file()
