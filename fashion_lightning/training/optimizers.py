"""The optimizers that `FashionMNISTClassifier` knows by name."""

from collections.abc import Iterable
from typing import Literal

from lightning.pytorch import Trainer
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

OptimizerName = Literal["adamw", "sgd"]


def make_optimizer(
    name: OptimizerName,
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    beta2: float,
) -> Optimizer:
    """Return AdamW with momentum 0.9, or SGD with Nesterov momentum 0.9; both fused.

    Args:
        name: ``adamw`` or ``sgd``.
        parameters: Those that require a gradient are optimized.
        lr: Learning rate.
        weight_decay: As the optimizer defines it.
        beta2: AdamW's decay of the running mean of squared gradients.
    """
    trained = [weights for weights in parameters if weights.requires_grad]
    optimizer: Optimizer
    if name == "adamw":
        betas = (0.9, beta2)
        optimizer = AdamW(trained, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
    else:
        optimizer = SGD(
            trained, lr=lr, weight_decay=weight_decay, momentum=0.9, nesterov=True, fused=True
        )
    # Fused optimizers offer to unscale 16-bit gradients themselves, and Lightning therefore refuses
    # to clip them. Without the offer, PyTorch's GradScaler unscales and Lightning clips.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def learning_rates(trainer: Trainer) -> list[float]:
    """Return the learning rates of all groups of all optimizers."""
    return [group["lr"] for each in trainer.optimizers for group in each.param_groups]
