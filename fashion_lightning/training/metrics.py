"""Accumulators of an epoch, and metrics of an evaluated set."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from fashion_lightning.data.parts import hard

METRICS = ("acc", "loss", "f1", "ece")
"""The names of what `metrics` returns; logged with ``val_`` or ``test_`` before them.

A new one needs its name here and its value in `metrics`. The report's tiles
(`report/page.html.j2`) choose among them.
"""


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, in the order of their ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _gather_states(state: Tensor, group: Any = None) -> list[Tensor]:
    """Return a metric's state of all processes, whatever their lengths, on the CPU."""
    return gather(state.cpu())


class TrainingTotals(Metric):
    """Mean loss and accuracy of the training images of an epoch; sums are float64.

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
        self.add_state(
            "totals", torch.zeros(3, dtype=torch.float64, device="cpu"), dist_reduce_fx="sum"
        )

    @override
    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add images: mean loss, logits ``(N, C)``, labels ``(N,)`` or soft ones ``(N, C)``."""
        correct = (logits.argmax(dim=1) == hard(labels)).sum()
        added = [loss.item() * len(labels), correct.item(), len(labels)]
        self.totals = self.totals + self.totals.new_tensor(added)

    @override
    def compute(self) -> dict[str, float]:
        """Return ``loss`` and ``acc`` of the images of all processes; ``{}`` without images."""
        loss, correct, num_images = self.totals.tolist()
        return {"loss": loss / num_images, "acc": correct / num_images} if num_images else {}


class Steps:
    """The training steps of an epoch, added 512 at a time: a tenth of the cost per step."""

    def __init__(self) -> None:
        self._totals = TrainingTotals()
        self._noted: list[tuple[int, Tensor, Tensor, Tensor]] = []

    def note(self, step: int, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Keep a step: its number, and what `TrainingTotals.update` takes."""
        self._noted.append((step, loss.detach(), logits.detach(), labels))
        if len(self._noted) >= 512 and not self.first_not_finite():
            self._add()

    def drop(self) -> None:
        """Forget the latest step."""
        del self._noted[-1:]

    def _add(self) -> None:
        if self._noted:
            _, losses, logits, labels = zip(*self._noted, strict=True)
            sizes = torch.tensor([len(part) for part in labels], device="cpu")
            mean = (torch.stack(losses).cpu().double() * sizes).sum() / sizes.sum()
            self._totals.update(mean, torch.cat(logits), torch.cat([hard(part) for part in labels]))
        self._noted = []

    def sums(self) -> tuple[float, int, int]:
        """Return summed loss, correct predictions and images of all processes."""
        self._add()
        shares = gather(self._totals.totals.tolist())
        loss, correct, num_images = (sum(each) for each in zip(*shares, strict=True))
        return loss, int(correct), int(num_images)

    def reset(self, sums: Sequence[float] = (0.0, 0, 0)) -> None:
        """Forget all steps; begin with what `sums` has returned."""
        self._noted = []
        self._totals.reset()
        self._totals.totals = self._totals.totals.new_tensor(sums)

    def first_not_finite(self) -> tuple[int, float] | None:
        """Return step and value of the first loss that is not finite, or None.

        Only the latest is checked: after a loss that is not finite, all later ones are not.
        """
        if not self._noted or self._noted[-1][1].isfinite():
            return None
        losses = torch.stack([loss for _, loss, _, _ in self._noted]).cpu()
        first = int((~losses.isfinite()).nonzero()[0])
        return self._noted[first][0], losses[first].item()


class Outputs(Metric):
    """All logits and labels of an evaluated set, in the order of its batches.

    Batches must be assigned round-robin, as by `TurnsSampler`; the result is then the same for any
    number of processes.

    Args:
        once: Whether to keep one image per place only.

    Example:
        >>> outputs = Outputs()
        >>> outputs.update(torch.rand(3, 10), torch.arange(3))
        >>> logits, labels = outputs.compute()
        >>> logits.dtype, labels
        (torch.float64, tensor([0, 1, 2]))
    """

    full_state_update = True  # `update` depends on the number of earlier batches.
    logits: list[Tensor]
    labels: list[Tensor]
    turns: list[Tensor]  # for each image, the number of its batch among those of all processes

    def __init__(self, once: bool = False) -> None:
        super().__init__(dist_sync_fn=_gather_states)
        self.once = once
        for name in ("logits", "labels", "turns"):
            self.add_state(name, [], dist_reduce_fx="cat")

    @override
    def update(self, logits: Tensor, labels: Tensor, places: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            logits: ``(N, C)``.
            labels: Class numbers ``(N,)``, or soft labels ``(N, C)``.
            places: The images' places in their order, ``(N,)``. None: as the processes take turns.
        """
        if places is None:
            is_several = dist.is_available() and dist.is_initialized()
            rank, step = (dist.get_rank(), dist.get_world_size()) if is_several else (0, 1)
            places = torch.tensor([len(self.turns) * step + rank], device="cpu").expand(len(labels))
        # Copies, since hooks may change what a step has returned.
        self.logits.append(logits.detach().clone())
        self.labels.append(labels.clone())
        self.turns.append(places.to(labels.device))

    @override
    def compute(self) -> tuple[Tensor, Tensor]:
        """Return logits, float64, and labels of all processes, on the CPU."""
        logits, labels, turns = (
            dim_zero_cat(state).cpu() for state in (self.logits, self.labels, self.turns)
        )
        order = turns.argsort(stable=True)
        if self.once:
            turns = turns[order]
            order = order[torch.cat([turns[:1] == turns[:1], turns[1:] != turns[:-1]])]
        return logits[order].double(), labels[order]

    @override
    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Append the batches of another `Outputs`."""
        state = incoming_state if isinstance(incoming_state, dict) else vars(incoming_state)
        logits, labels, turns = (
            [value] if isinstance(value, Tensor) else value
            for value in (state["logits"], state["labels"], state["turns"])
        )
        for batch in zip(logits, labels, turns, strict=True):
            self.update(*batch[: 3 if self.once else 2])

    def result(self) -> tuple[Tensor, Tensor]:
        """Return what `compute` returns, also of a single image, whose dimension Metric drops."""
        logits, labels = self.compute()
        return logits, labels.reshape(len(logits), *labels.shape[1:])


def metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return how well logits predict labels.

    Args:
        logits: ``(N, num_classes)``.
        labels: Class numbers, ``(N,)``, or soft labels, ``(N, num_classes)``, which count in the
            loss as they are and elsewhere by their largest.

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
