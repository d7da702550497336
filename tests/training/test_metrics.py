"""The reported numbers against scikit-learn, and the calibration error against its definition."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn
from torch import Tensor

from fashion_lightning.data.parts import hard
from fashion_lightning.training.metrics import (
    Outputs,
    Steps,
    TrainingTotals,
    metrics,
)


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


def test_outputs_are_joined_in_order_and_forgotten() -> None:
    outputs = Outputs()
    batches = [(torch.rand(3, 10), torch.arange(3)), (torch.rand(2, 10), torch.arange(2))]
    for _ in range(2):
        for batch in batches:
            outputs.update(*batch)
        logits, labels = outputs.compute()
        assert labels.tolist() == [0, 1, 2, 0, 1]
        assert torch.equal(logits, torch.cat([batches[0][0], batches[1][0]]).double())
        outputs.reset()


def test_soft_labels_count_by_their_largest_and_in_the_loss_as_they_are(
    predictions: tuple[Tensor, Tensor],
) -> None:
    logits, labels = predictions
    soft = 0.9 * torch.nn.functional.one_hot(labels, 10) + 0.01
    ours, plain = metrics(logits, soft), metrics(logits, labels)
    expected = -(soft * logits.log_softmax(1)).sum(1).mean().item()
    assert ours["loss"] == pytest.approx(expected)
    assert {**ours, "loss": 0} == {**plain, "loss": 0}
    assert torch.equal(hard(soft), labels)


def test_training_totals_are_those_of_all_steps_however_many() -> None:
    steps, whole = Steps(), TrainingTotals()
    losses, sizes, correct = torch.rand(1300), torch.randint(1, 9, (1300,)), 0
    for number, (loss, size) in enumerate(zip(losses, sizes.tolist(), strict=True)):
        logits, labels = torch.rand(size, 10), torch.randint(10, (size,))
        steps.note(number, loss, logits, labels)
        whole.update(loss, logits, labels)
        correct += int((logits.argmax(1) == labels).sum())
        if number == 700:  # A run that is interrupted here.
            sums, steps = steps.sums(), Steps()
            steps.reset(sums)
    steps.note(1300, torch.tensor(100.0), torch.rand(2, 10), torch.arange(2))
    steps.drop()
    assert len(steps._noted) < 600  # Nothing grows while nobody asks.
    loss, num_images = float(losses.double() @ sizes.double()), int(sizes.sum())
    assert steps.sums() == (pytest.approx(loss), correct, num_images)  # type: ignore[comparison-overlap]
    assert whole.compute() == {
        "loss": pytest.approx(loss / num_images),
        "acc": correct / num_images,
    }


def test_the_first_loss_that_is_not_finite_is_found() -> None:
    steps = Steps()
    for step, loss in enumerate((1.0, 2.0, float("inf"), float("nan"))):
        steps.note(step, torch.tensor(loss), torch.rand(2, 10), torch.arange(2))
    assert steps.first_not_finite() == (2, float("inf"))
    steps.reset()
    assert steps.first_not_finite() is None


def test_training_totals_can_be_moved() -> None:
    totals = TrainingTotals().to("meta")  # as to a GPU
    totals.update(torch.tensor(0.5), torch.eye(4), torch.arange(4))
    assert totals.totals.device.type == "meta"


@pytest.mark.parametrize("kind", [TrainingTotals, Outputs])
def test_metrics_are_metrics(kind: type[Any]) -> None:
    """What torchmetrics documents: forward, merging, saving, and values that are never stale."""
    parts: list[tuple[Tensor, ...]] = [
        (torch.rand(n, 10), torch.randint(10, (n,))) for n in (4, 3, 5)
    ]
    if kind is TrainingTotals:
        parts = [(torch.rand(()), *part) for part in parts]

    def equal(first: Any, second: Any) -> bool:
        if isinstance(first, dict):
            return bool(first == second)
        return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    whole = kind()
    for part in parts:
        whole.update(*part)
    forward, first, second, saved, again = (kind() for _ in range(5))
    for part in parts[:2]:
        value = forward(*part)
        alone = kind()
        alone.update(*part)
        assert equal(value, alone.compute())
        forward.compute()
    forward.update(*parts[2])
    assert equal(forward.compute(), whole.compute())

    saved.persistent(True)
    for part in parts[:2]:
        saved.update(*part)
    again.persistent(True)
    again.load_state_dict(saved.state_dict())
    again.update(*parts[2])
    assert equal(again.compute(), whole.compute())

    first.update(*parts[0])
    second.update(*parts[1])
    first.merge_state(second)
    both = kind()
    for part in parts[:2]:
        both.update(*part)
    assert equal(first.compute(), both.compute())
