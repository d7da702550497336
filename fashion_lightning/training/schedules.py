"""The learning-rate schedule, and the decay of label smoothing."""

import math
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override


def lr_factor(step: int, total_steps: int, warmup: float) -> float:
    """Return the learning rate of a step as a fraction of the peak: a linear rise, a linear fall.

    Args:
        step: Number of the optimizer step, from 0.
        total_steps: Steps of the whole run.
        warmup: Fraction of the run in which the rate rises, in [0, 1].

    Returns:
        A factor in [0, 1]; 0 after the last step.
    """
    position, peak = (step + 1) / (total_steps + 1), max(warmup, 1 / (total_steps + 1))
    return position / peak if position <= peak else max(0.0, (1 - position) / (1 - peak))


def decay(step: int, total_steps: float, power: float) -> float:
    """Return the remaining fraction of a quantity that decays to 0 over a run.

    Args:
        step: Number of the optimizer step, from 0.
        total_steps: Steps of the whole run, > 0; infinite for a run without an end.
        power: Power of the remaining fraction of the run, >= 0.

    Returns:
        A factor in [0, 1].
    """
    remaining: float = max(0.0, 1 - step / total_steps) ** power
    return remaining


class WarmupLR(LRScheduler):
    """A learning rate that rises and falls linearly, see `lr_factor`; constant until `settle`.

    The number of steps is known only when training begins: asking earlier makes Lightning build the
    training loader, and lose the position of a continued run.

    Args:
        optimizer: Its rates are the peaks.
        lr: The module's learning rate now. A search may change it after the optimizer was made.
        warmup: Fraction of the steps in which the rate rises, in [0, 1].
    """

    def __init__(self, optimizer: Optimizer, lr: float, warmup: float) -> None:
        self.lr = lr
        self.warmup = warmup
        self.total_steps = math.inf
        self.scale = 1.0
        super().__init__(optimizer)

    @override
    def get_lr(self) -> list[Any]:
        """Return the rate of each group, also of groups that were added later, as by finetuning."""
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:
            self.base_lrs.append(group.setdefault("initial_lr", group["lr"]))
        factor = self._factor()
        return [base * factor for base in self.base_lrs]

    def _factor(self) -> float:
        if math.isinf(self.total_steps):
            return self.scale
        return self.scale * lr_factor(self.last_epoch, int(self.total_steps), self.warmup)

    def settle(self, lr: float, total_steps: float, *, sets_rate: bool = True) -> None:
        """Set the rate when training begins; warn if the rate of a continued run jumps.

        Args:
            lr: The module's learning rate now.
            total_steps: Steps of the run; infinite if it has no known end.
            sets_rate: Whether the next step gets its rate now, and not by a call of `step`.
        """
        self.total_steps = total_steps
        if lr != self.lr:
            self.scale = lr / self.lr
        if not sets_rate:
            return
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            if self.last_epoch and abs(rate - group["lr"]) > 1e-6 * group["initial_lr"]:
                rank_zero_warn(
                    f"The learning rate goes on with {rate:.3g} instead of {group['lr']:.3g}: "
                    f"this run plans {total_steps:,} steps, and the one that is continued planned "
                    "another number, `lr` or `warmup`."
                )
            group["lr"] = rate

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, also one of the `LambdaLR` of version 0.1; `warmup` stays."""
        old: Any = (state_dict.get("lr_lambdas") or [None])[0]
        found = {"lr": old["lr"], "scale": old["_scale"]} if old else {}
        names = state_dict.keys() - {"lr_lambdas", "warmup"}
        super().load_state_dict({name: state_dict[name] for name in names} | found)
