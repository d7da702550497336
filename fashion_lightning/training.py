"""What training minimises and how that changes over a run: plain functions of steps and logits."""

import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor


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
