"""What an epoch collects, as metrics of torchmetrics, and numbers about a whole evaluated set."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)
from typing_extensions import override


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, in the order of their numbers."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _gather_states(state: Tensor, group: Any = None) -> list[Tensor]:
    """Return a metric's state of all processes; states lie on the CPU, which NCCL cannot read."""
    return gather(state)


class TrainingTotals(Metric):
    """Mean loss and accuracy of the training images of an epoch.

    Sums are float64 on the CPU. A step only notes its tensors, which are summed up all together:
    that costs a tenth of a sum in each step.

    Example:
        >>> totals = TrainingTotals()
        >>> totals.update(torch.tensor(0.5), torch.eye(4), torch.tensor([0, 1, 2, 0]))
        >>> totals.compute()
        {'loss': 0.5, 'acc': 0.75}
    """

    full_state_update = False
    totals: Tensor  # summed loss, correct predictions, images

    def __init__(self) -> None:
        super().__init__(dist_sync_fn=_gather_states)
        self.add_state("totals", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")
        self._noted: list[tuple[int, Tensor, Tensor, Tensor]] = []

    @override
    def update(self, loss: Tensor, logits: Tensor, labels: Tensor, step: int = 0) -> None:
        """Add a batch.

        Args:
            loss: The mean over its images.
            logits: ``(N, num_classes)``.
            labels: Class numbers ``(N,)``, or soft labels ``(N, num_classes)``, whose largest
                counts.
            step: What `first_not_finite` is to say of it.
        """
        self.note(loss, logits, labels, step)

    def note(self, loss: Tensor, logits: Tensor, labels: Tensor, step: int) -> None:
        """Do what `update` does, without torchmetrics' bookkeeping, which takes 10 microseconds."""
        self._noted.append((step, loss.detach(), logits.detach(), labels))
        if len(self._noted) >= 512:  # Nothing grows if nobody asks for the result.
            self._sum_up()

    @override
    def compute(self) -> dict[str, float]:
        """Return ``loss`` and ``acc`` of the images of all processes; nothing if there are none."""
        self._sum_up()
        loss, correct, num_images = self.totals.tolist()
        return {"loss": loss / num_images, "acc": correct / num_images} if num_images else {}

    @override
    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Sum up, then synchronize."""
        self._sum_up()
        super().sync(*args, **kwargs)

    @override
    def reset(self) -> None:
        """Forget everything."""
        self._noted = []
        super().reset()

    def first_not_finite(self) -> tuple[int, float] | None:
        """Return step and value of the first loss that is not finite, or None.

        Once a loss is not finite, no later one is: only the latest is looked at.
        """
        if not self._noted or self._noted[-1][1].isfinite():
            return None
        losses = torch.stack([loss for _, loss, _, _ in self._noted]).cpu()
        first = int((~losses.isfinite()).nonzero()[0])
        return self._noted[first][0], losses[first].item()

    def sums(self) -> tuple[float, int, int]:
        """Return summed loss, correct predictions and images of all processes."""
        self._sum_up()
        loss, correct, num_images = (
            sum(sums) for sums in zip(*gather(self.totals.tolist()), strict=True)
        )
        return loss, int(correct), int(num_images)

    def add_sums(self, sums: Sequence[float]) -> None:
        """Add what `sums` has returned."""
        self.totals = self.totals + torch.tensor(sums, dtype=torch.float64)

    def _sum_up(self) -> None:
        if not self._noted:
            return
        _, losses, logits, labels = zip(*self._noted, strict=True)
        self._noted = []
        self._update_count += 1
        self._computed = None
        sizes = torch.tensor([len(part) for part in labels])
        loss = (torch.stack(losses).cpu().double() * sizes).sum()
        predictions = torch.cat([part.argmax(dim=1) for part in logits])
        correct = (predictions == torch.cat([hard(part) for part in labels])).sum().cpu()
        self.totals = self.totals + torch.stack([loss, correct.double(), sizes.sum().double()])


class Outputs(Metric):
    """All logits and labels of an evaluated set, in the order of its batches.

    Several processes are expected to take turns, as with `TurnsSampler`: what comes out is the same
    for any number of them.

    Example:
        >>> outputs = Outputs()
        >>> outputs.update(torch.rand(3, 10), torch.arange(3))
        >>> logits, labels = outputs.compute()
        >>> logits.dtype, labels
        (torch.float64, tensor([0, 1, 2]))
    """

    full_state_update = False
    logits: list[Tensor]
    labels: list[Tensor]
    turns: list[Tensor]  # for each image, the number of its batch among those of all processes

    def __init__(self) -> None:
        super().__init__(dist_sync_fn=_gather_states)
        for name in ("logits", "labels", "turns"):
            self.add_state(name, [], dist_reduce_fx="cat")
        self._noted: list[tuple[Tensor, Tensor]] = []
        self._num_batches = 0

    @override
    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits ``(N, C)``, labels ``(N,)`` or soft labels ``(N, C)``."""
        self._noted.append((logits.detach(), labels))

    @override
    def compute(self) -> tuple[Tensor, Tensor]:
        """Return logits, float64, and labels of all processes, on the CPU."""
        self._put_down()
        logits, labels, turns = (
            torch.cat(state) if isinstance(state, list) else state
            for state in (self.logits, self.labels, self.turns)
        )
        order = turns.argsort(stable=True)
        return logits[order].double(), labels[order]

    @override
    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Bring the states to the CPU, then synchronize."""
        self._put_down()
        super().sync(*args, **kwargs)

    @override
    def reset(self) -> None:
        """Forget everything."""
        self._noted, self._num_batches = [], 0
        super().reset()

    def _put_down(self) -> None:
        if not self._noted:
            return
        logits, labels = zip(*self._noted, strict=True)
        self._noted = []
        is_several = dist.is_available() and dist.is_initialized()
        rank, step = (dist.get_rank(), dist.get_world_size()) if is_several else (0, 1)
        sizes = torch.tensor([len(part) for part in labels])
        batches = torch.arange(self._num_batches, self._num_batches + len(labels))
        self._num_batches += len(labels)
        self.logits.append(torch.cat(logits).cpu())
        self.labels.append(torch.cat(labels).cpu())
        self.turns.append((batches * step + rank).repeat_interleave(sizes))


def hard(labels: Tensor) -> Tensor:
    """Return class numbers ``(N,)``: those of the largest, if labels are soft, ``(N, C)``."""
    return labels.argmax(dim=1) if labels.dim() == 2 else labels


def metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Measure how well logits predict labels.

    Args:
        logits: ``(N, num_classes)``.
        labels: Class numbers, ``(N,)``, or soft labels, ``(N, num_classes)``: for the loss they
            count as they are, for the others the largest does.

    Returns:
        ``loss``, the mean negative log-likelihood in nats, >= 0; ``acc``, the accuracy, and ``f1``,
        the mean of the classes' F1 scores, both in [0, 1]; ``ece``, the expected calibration error
        (15 bins, norm l1; Guo et al. 2017, https://arxiv.org/abs/1706.04599), a fraction in [0, 1].
    """
    num_classes = logits.shape[1]
    probs = logits.softmax(dim=1)
    loss = F.cross_entropy(logits, labels.to(logits.dtype) if labels.dim() == 2 else labels)
    labels = hard(labels)
    values = {
        "loss": loss,
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
    num_classes, labels = logits.shape[1], hard(labels)
    confusion = multiclass_confusion_matrix(logits, labels, num_classes)
    return {
        "precision": multiclass_precision(logits, labels, num_classes, average="none").tolist(),
        "recall": multiclass_recall(logits, labels, num_classes, average="none").tolist(),
        "f1": multiclass_f1_score(logits, labels, num_classes, average="none").tolist(),
        "support": confusion.sum(dim=1).tolist(),
        "confusion_matrix": confusion.tolist(),
    }
