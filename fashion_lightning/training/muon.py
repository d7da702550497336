"""Muon for the matrices inside a network, AdamW for all other weights: one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.optim import Optimizer
from torch.optim.adamw import adamw
from typing_extensions import override

from fashion_lightning import arguments
from fashion_lightning.speed import multiplies_bf16


class Muon(Optimizer):
    """Muon for matrices and convolution kernels, AdamW for vectors and in groups without `muon`.

    `Muon <https://kellerjordan.github.io/posts/muon/>`_ moves a matrix by its momentum with all
    singular values set to about 1, times ``0.2 * sqrt(max(rows, columns))``: a step as long as
    AdamW's, so one rate and one decay serve both. It is ``torch.optim.Muon`` with the
    `adjust_lr_fn` ``match_rms_adamw``, but kernels ``(out, in, ...)`` count as matrices
    ``(out, in * ...)``, and products are in bf16 only where the hardware multiplies it natively,
    else in float32. Groups may hold any shapes; those with one row or column are vectors.

    Args:
        params: Weights or groups of them, such as `muon_groups` returns.
        lr: Learning rate, >= 0.
        weight_decay: As AdamW's, >= 0.
        betas: AdamW's decays of the running means of gradients and of their squares, in [0, 1).
        momentum: Decay of Muon's running mean of gradients, in [0, 1).
        steps: Newton-Schulz steps, >= 1, of three matrix products each.
        block_rows: Rows that are orthogonalized together, >= 2, see `orthogonalize`. None: all.
        muon: Whether Muon trains the matrices of a group that does not say so.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> groups = Muon(muon_groups(network, num_classes=3), lr=0.005).param_groups
        >>> [[tuple(weights.shape) for weights in group["params"]] for group in groups]
        [[(8, 4), (8,), (3,)], [(3, 8)]]
    """

    _step_supports_amp_scaling = False  # GradScaler divides the gradients, not `step`.

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2.5e-3,
        *,
        weight_decay: float = 0.35,
        betas: tuple[float, float] = (0.9, 0.95),
        momentum: float = 0.95,
        steps: int = 5,
        block_rows: int | None = None,
        muon: bool = True,
    ) -> None:
        arguments.non_negative(lr=lr, weight_decay=weight_decay)
        arguments.below_one(beta1=betas[0], beta2=betas[1], momentum=momentum)
        arguments.at_least(1, steps=steps)
        arguments.at_least(2, **({"block_rows": block_rows} if block_rows is not None else {}))
        rates = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "momentum": momentum}
        # `fused` tells `load_state_dict` to keep AdamW's step counts beside the weights.
        kinds = {"steps": steps, "block_rows": block_rows, "muon": muon, "fused": True}
        super().__init__(params, {**rates, **kinds})

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the weights that have gradients; return the loss of `closure`, if given."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            trained = [weights for weights in group["params"] if weights.grad is not None]
            for weights in trained:
                if group["muon"] and _is_matrix(weights):
                    self._step_muon(weights, group)
            others = [each for each in trained if not (group["muon"] and _is_matrix(each))]
            self._step_adamw(others, group)
        return loss

    def _step_muon(self, weights: Tensor, group: dict[str, Any]) -> None:
        state, gradient, lr = self.state[weights], weights.grad, group["lr"]
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        mean = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        matrix = gradient.lerp(mean, group["momentum"]).flatten(1)  # Nesterov's look ahead
        update = orthogonalize(matrix, group["steps"], group.get("block_rows")).reshape(
            weights.shape
        )
        weights.mul_(1 - lr * group["weight_decay"])
        weights.add_(update, alpha=-lr * 0.2 * max(matrix.shape) ** 0.5)

    def _step_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for weights in parameters:
            if not self.state[weights]:
                zeros = {name: torch.zeros_like(weights) for name in ("exp_avg", "exp_avg_sq")}
                self.state[weights] = {"step": torch.zeros((), device=weights.device), **zeros}
        names = ("exp_avg", "exp_avg_sq", "step")
        means, squares, steps = ([self.state[each][name] for each in parameters] for name in names)
        adamw(
            parameters,
            [weights.grad for weights in parameters if weights.grad is not None],
            means,
            squares,
            [],  # of AMSGrad
            steps,
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )


def _is_matrix(weights: Tensor) -> bool:
    return weights.dim() > 1 and min(weights.flatten(1).shape) > 1


def orthogonalize(matrix: Tensor, steps: int = 5, block_rows: int | None = None) -> Tensor:
    """Return a matrix with the same singular vectors, and singular values of about 1.

    Args:
        matrix: ``(rows, columns)``.
        steps: Newton-Schulz steps. Five bring all but the smallest values into 0.7 ... 1.2.
        block_rows: Split the shorter side into blocks of at most so many, each orthogonalized alone
            (`MuonBP <https://arxiv.org/abs/2510.16981>`_ does so between whole steps). Blocks of 64
            take a tenth of the time for the tutorial's matrices. None: one block.

    Returns:
        ``(rows, columns)``, bf16 or float32.
    """
    is_tall, device = len(matrix) > matrix.shape[1], matrix.device.type
    with torch.autocast(device, enabled=False):
        # Emulated bf16 took 35 times as long as float32.
        x = matrix.to(torch.bfloat16 if multiplies_bf16(device) else torch.float32)
        x = x.T if is_tall else x
        rows, count = len(x), -(-len(x) // (block_rows or len(x)))
        x = pad(x, (0, 0, 0, -rows % count))  # Rows of zeros remain zeros.
        x = _newton_schulz(x.reshape(count, -1, x.shape[1]), steps).flatten(0, 1)[:rows]
    return x.T if is_tall else x


def _newton_schulz(x: Tensor, steps: int) -> Tensor:
    a, b, c = 3.4445, -4.7750, 2.0315  # Those of `torch.optim.Muon`.
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def muon_groups(module: nn.Module, num_classes: int) -> list[dict[str, Any]]:
    """Sort a network's trained weights into a group for `Muon` and one of matrices for AdamW.

    The second holds embeddings, the scales of LayerNorm and RMSNorm, and the last layer: of the
    weights with two dimensions or more and `num_classes` rows, the last in the order of
    ``parameters()``; if none has so many rows, the last of all. A network may therefore register
    its last layer first, unless a hidden one has `num_classes` outputs, too.

    Args:
        module: A network without lazy weights.
        num_classes: Number of its outputs.

    Returns:
        The groups that are not empty.
    """
    kinds = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)
    parts = [part for part in module.modules() if isinstance(part, kinds)]
    apart = {id(weights) for part in parts for weights in part.parameters(recurse=False)}
    layers = [each for each in module.parameters() if each.dim() > 1 and id(each) not in apart]
    last = [each for each in layers if len(each) == num_classes] or layers
    apart |= {id(weights) for weights in last[-1:]}
    trained = [weights for weights in module.parameters() if weights.requires_grad]
    hidden = {"params": [weights for weights in trained if id(weights) not in apart]}
    others = {"params": [weights for weights in trained if id(weights) in apart], "muon": False}
    return [group for group in (hidden, others) if group["params"]]
