"""The optimizers that `FashionMNISTClassifier` knows by name."""

from typing import Any, Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from fashion_lightning.arguments import expect
from fashion_lightning.training.muon import Muon, muon_groups

OptimizerName = Literal["adamw", "muon", "sgd"]


def make_optimizer(
    name: OptimizerName,
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    beta2: float,
    num_classes: int = 0,
) -> Optimizer:
    """Return AdamW, `Muon`, or SGD with Nesterov's look ahead; momentum 0.9.

    Args:
        name: ``adamw``, ``muon`` or ``sgd``.
        module: Its weights that require a gradient are optimized.
        lr: Learning rate.
        weight_decay: As the optimizer defines it.
        beta2: AdamW's decay of the running mean of squared gradients.
        num_classes: By which `muon_groups` finds the last layer.

    Raises:
        ValueError: If no parameter requires a gradient.
    """
    trained = [weights for weights in module.parameters() if weights.requires_grad]
    expect(bool(trained), "network", "one with weights that require a gradient", "none")
    optimizer: Optimizer
    betas = (0.9, beta2)
    if name == "adamw":
        optimizer = AdamW(trained, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
    elif name == "muon":
        groups = muon_groups(module, num_classes)
        rates: dict[str, Any] = {"weight_decay": weight_decay, "betas": betas, "momentum": 0.9}
        optimizer = Muon(groups, lr, **rates, block_rows=64)
    else:
        optimizer = SGD(
            trained, lr=lr, weight_decay=weight_decay, momentum=0.9, nesterov=True, fused=True
        )
    # Fused optimizers offer to unscale 16-bit gradients themselves, and Lightning therefore refuses
    # to clip them. Without the offer, PyTorch's GradScaler unscales and Lightning clips.
    optimizer._step_supports_amp_scaling = False
    return optimizer
