"""What training minimizes, of what, and how that changes over a run: plain functions."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

_IMAGES = ("images", "image", "pixel_values", "inputs", "input", "imgs", "img", "x")
_LABELS = ("labels", "label", "targets", "target", "y")


def images_of(batch: Any) -> Tensor:
    """Return the images of a batch: itself, its first part, or the one with such a name.

    Raises:
        ValueError: If there are none.
    """
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, list | tuple) and batch and isinstance(batch[0], Tensor):
        return batch[0]
    images = _named(batch, _IMAGES)
    if images is None:
        raise ValueError(
            "Expected a batch to be images, to begin with images, or to have one of the names "
            f"{', '.join(_IMAGES)}, but got {_described(batch)}."
        )
    return images


def images_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    """Find images and labels in a batch.

    Args:
        batch: A tuple or list of images, labels and anything else, or a dict or another object with
            names such as ``images`` and ``labels``.

    Returns:
        Images ``(N, ...)``, and labels: class numbers ``(N,)``, or soft labels ``(N, C)``.

    Raises:
        ValueError: If they are not there.
    """
    if isinstance(batch, list | tuple) and len(batch) > 1:
        images, labels = batch[:2]
    else:
        images, labels = _named(batch, _IMAGES), _named(batch, _LABELS)
    if isinstance(images, Tensor) and isinstance(labels, Tensor) and images.dim() > 1:
        dims = labels.dim()
        if len(images) == len(labels) and (dims == 1 or (dims == 2 and labels.is_floating_point())):
            return images, labels
    raise ValueError(
        "Expected a batch to begin with images (N, ...) and labels (N,) or soft labels (N, C), or "
        f"to have such parts under names like `images` and `labels`, but got {_described(batch)}."
    )


def _named(batch: Any, names: tuple[str, ...]) -> Tensor | None:
    for name in names:
        part = batch.get(name) if isinstance(batch, Mapping) else getattr(batch, name, None)
        if isinstance(part, Tensor):
            return part
    return None


def _described(batch: Any) -> str:
    """Describe a batch in a few words: types and shapes."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{key}: {_described(part)}" for key, part in batch.items()) + "}"
    if isinstance(batch, list | tuple):
        return "[" + ", ".join(map(_described, batch)) + "]"
    return type(batch).__name__


def lr_factor(step: int, total_steps: int, warmup: float) -> float:
    """Give the learning rate of a step as a fraction of the peak: a linear rise, a linear fall.

    Args:
        step: Number of the optimizer step, from 0.
        total_steps: Steps of the whole run.
        warmup: Fraction of the run in which the rate rises, in [0, 1].

    Returns:
        A factor in [0, 1]; 0 after the last step.
    """
    position, peak = (step + 1) / (total_steps + 1), max(warmup, 1 / (total_steps + 1))
    return position / peak if position <= peak else max(0.0, (1 - position) / (1 - peak))


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Measure how far from a teacher's probabilities the student's are, both softened.

    Args:
        logits: The student's, ``(N, num_classes)``.
        teacher: The teacher's, ``(N, num_classes)``.
        temperature: By which both are divided, > 0.

    Returns:
        The mean cross-entropy, a scalar, times the squared temperature, which keeps gradients of
        the same size. Source: Hinton et al. 2015, section 2, https://arxiv.org/abs/1503.02531
    """
    targets = (teacher / temperature).softmax(dim=1)
    return F.cross_entropy(logits / temperature, targets) * temperature**2


def decay(step: int, total_steps: float, power: float) -> float:
    """Give what is left of something that decays over a run, as a fraction of its beginning.

    Args:
        step: Number of the optimizer step, from 0.
        total_steps: Steps of the whole run, > 0; infinite for a run without an end.
        power: Power of the remaining fraction of the run, >= 0.

    Returns:
        A factor in [0, 1].
    """
    remaining: float = max(0.0, 1 - step / total_steps) ** power
    return remaining


class Schedule:
    """The learning rate of each step as a multiple of the optimizer's: a rise, then a fall.

    What `LambdaLR` takes. It follows the module's `lr`, which a search may change after the
    optimizer was made.

    Args:
        lr: The optimizer's learning rate.
        warmup: Fraction of the steps in which the rate rises, in [0, 1].
        total_steps: Steps of the run; infinite if nobody knows.
    """

    def __init__(self, lr: float, warmup: float, total_steps: float) -> None:
        self.lr = lr
        self.warmup = warmup
        self.total_steps = total_steps
        self._scale = 1.0

    def __call__(self, step: int) -> float:
        """Return the factor of a step."""
        if self.total_steps == float("inf"):
            return self._scale
        return self._scale * lr_factor(step, int(self.total_steps), self.warmup)

    def settle(self, trainer: Trainer, lr: float, total_steps: float) -> None:
        """Take what is known when training begins, and say what a user might not expect of it.

        Args:
            trainer: Its optimizer gets the right rate for its next step.
            lr: The module's learning rate now.
            total_steps: Steps of the run.
        """
        self.total_steps = total_steps
        if lr != self.lr:
            self._scale = lr / self.lr
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if not isinstance(scheduler, LambdaLR) or self not in scheduler.lr_lambdas:
                continue  # That of somebody else, such as a search for a learning rate.
            self._say(trainer)
            groups = scheduler.optimizer.param_groups
            for group, base in zip(groups, scheduler.base_lrs, strict=True):
                rate = base * self(scheduler.last_epoch)
                if trainer.global_step and abs(rate - group["lr"]) > 1e-6 * base:
                    rank_zero_warn(
                        f"The learning rate goes on with {rate:.3g} instead of {group['lr']:.3g}: "
                        f"this run plans {total_steps:,} steps, the one that is continued planned "
                        "another number."
                    )
                group["lr"] = rate

    def _say(self, trainer: Trainer) -> None:
        """Say that a run that is expected to end early sees only the beginning of the schedule."""
        ends_early = any(isinstance(each, EarlyStopping) for each in trainer.callbacks)  # type: ignore[attr-defined]
        if ends_early and self.total_steps < float("inf") and not trainer.global_step:
            rank_zero_info(
                f"The learning rate rises for {round(self.warmup * self.total_steps):,} steps and "
                f"falls until step {self.total_steps:,}, as `max_epochs` and `max_steps` say: "
                "a run that EarlyStopping ends before has trained at high rates only."
            )
