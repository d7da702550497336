"""The reported numbers against scikit-learn, and the calibration error against its definition."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn
from torch import Tensor

from fashion_lightning.evaluation import collect, metrics, per_class


@pytest.fixture
def predictions() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (2000,), generator=generator)
    logits = torch.randn(2000, 10, generator=generator, dtype=torch.float64)
    logits[torch.arange(2000), labels] += 2
    return logits, labels


def test_metrics_are_scikit_learns(predictions: tuple[Tensor, Tensor]) -> None:
    logits, labels = predictions
    probs, predicted = logits.softmax(1), logits.argmax(1)
    values = metrics(logits, labels)
    assert values["loss"] == pytest.approx(sklearn.log_loss(labels, probs), abs=1e-9)
    assert values["acc"] == pytest.approx(sklearn.accuracy_score(labels, predicted), abs=1e-6)
    expected = sklearn.f1_score(labels, predicted, average="macro")
    assert values["f1"] == pytest.approx(expected, abs=1e-6)


def test_calibration_error_is_the_weighted_gap_of_15_bins(
    predictions: tuple[Tensor, Tensor],
) -> None:
    logits, labels = predictions
    probs = logits.softmax(1).numpy()
    confidence, correct = probs.max(1), probs.argmax(1) == labels.numpy()
    bins = np.minimum((confidence * 15).astype(int), 14)
    expected = sum(
        abs(correct[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    )
    assert metrics(logits, labels)["ece"] == pytest.approx(expected, abs=1e-6)


def test_classes_are_measured_like_scikit_learn(predictions: tuple[Tensor, Tensor]) -> None:
    logits, labels = predictions
    predicted = logits.argmax(1)
    ours = per_class(logits, labels)
    theirs = sklearn.precision_recall_fscore_support(labels, predicted)
    for name, expected in zip(("precision", "recall", "f1", "support"), theirs, strict=True):
        assert ours[name] == pytest.approx(expected.tolist(), abs=1e-6)
    assert ours["confusion_matrix"] == sklearn.confusion_matrix(labels, predicted).tolist()


def test_batches_are_joined_in_order() -> None:
    batches = [(torch.rand(3, 10), torch.arange(3)), (torch.rand(2, 10), torch.arange(2))]
    logits, labels = collect(batches)
    assert labels.tolist() == [0, 1, 2, 0, 1]
    assert torch.equal(logits, torch.cat([batches[0][0], batches[1][0]]).double())
