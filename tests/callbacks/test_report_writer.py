import json
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from sklearn import metrics as sklearn
from torch.utils.data import DataLoader, TensorDataset

from fashion_lightning import CLASSES, FashionMNISTClassifier
from fashion_lightning.callbacks import ReportWriter


def test_the_report_in_any_trainer(tmp_path: Path) -> None:
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
