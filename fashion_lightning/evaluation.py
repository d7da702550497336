"""Numbers about a whole evaluated set: its logits and labels in, plain numbers out."""

from itertools import zip_longest
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

Batch = tuple[Tensor, Tensor]


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, in the order of their numbers."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def collect(batches: list[Batch]) -> Batch:
    """Join the batches of all processes, in the order in which `Batches` dealt them out.

    Args:
        batches: Logits ``(B, num_classes)`` and labels ``(B,)`` of this process's batches.

    Returns:
        Logits, float64, ``(N, num_classes)``, and labels ``(N,)`` of the whole set, on the CPU,
        the same for any number of processes.
    """
    shares = gather([(logits.cpu(), labels.cpu()) for logits, labels in batches])
    batches = [batch for turn in zip_longest(*shares) for batch in turn if batch is not None]
    logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return logits.double(), labels


def metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Measure how well logits predict labels.

    Args:
        logits: ``(N, num_classes)``.
        labels: Class numbers, ``(N,)``.

    Returns:
        ``loss``, the mean negative log-likelihood in nats, >= 0; ``acc``, the accuracy, and ``f1``,
        the mean of the classes' F1 scores, both in [0, 1]; ``ece``, the expected calibration error
        (15 bins, norm l1; Guo et al. 2017, https://arxiv.org/abs/1706.04599), a fraction in [0, 1].
    """
    num_classes = logits.shape[1]
    probs = logits.softmax(dim=1)
    values = {
        "loss": F.cross_entropy(logits, labels),
        "acc": multiclass_accuracy(logits, labels, num_classes, average="micro"),
        "f1": multiclass_f1_score(logits, labels, num_classes, average="macro"),
        "ece": multiclass_calibration_error(probs, labels, num_classes, n_bins=15, norm="l1"),
    }
    return {name: value.item() for name, value in values.items()}


def per_class(logits: Tensor, labels: Tensor) -> dict[str, list[Any]]:
    """Measure each class by itself.

    Args:
        logits: ``(N, num_classes)``.
        labels: Class numbers, ``(N,)``.

    Returns:
        ``precision``, ``recall`` and ``f1``, in [0, 1], and ``support``, the number of images, of
        each class; ``confusion_matrix``, counts, row = true class, column = predicted class.
    """
    num_classes = logits.shape[1]
    confusion = multiclass_confusion_matrix(logits, labels, num_classes)
    return {
        "precision": multiclass_precision(logits, labels, num_classes, average="none").tolist(),
        "recall": multiclass_recall(logits, labels, num_classes, average="none").tolist(),
        "f1": multiclass_f1_score(logits, labels, num_classes, average="none").tolist(),
        "support": confusion.sum(dim=1).tolist(),
        "confusion_matrix": confusion.tolist(),
    }
