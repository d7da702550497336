"""What changes over a run: the learning rate, and anything that decays."""

import math

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.optim.lr_scheduler import LambdaLR


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
    """Return which fraction of something remains that decays to 0 over a run.

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
    """The factors of a `LambdaLR`: see `lr_factor`.

    The number of steps is known only when training begins (`settle`): asking for it earlier makes
    Lightning load the training batches, and forget where a continued run stands in them. The
    factors follow the module's `lr`, which a search may change after the optimizer was made.

    Args:
        lr: The optimizer's learning rate.
        warmup: Fraction of the steps in which the rate rises, in [0, 1].
    """

    def __init__(self, lr: float, warmup: float) -> None:
        self.lr = lr
        self.warmup = warmup
        self.total_steps = math.inf  # no known end: a constant rate
        self._scale = 1.0

    def __call__(self, step: int) -> float:
        """Return the factor of a step."""
        if math.isinf(self.total_steps):
            return self._scale
        return self._scale * lr_factor(step, int(self.total_steps), self.warmup)

    def settle(self, trainer: Trainer, lr: float, total_steps: float) -> None:
        """Take what is known when training begins, and warn of what a user may not expect.

        Args:
            trainer: Its optimizer gets the right rate for its next step.
            lr: The module's learning rate now.
            total_steps: Steps of the run; infinite if it has no known end.
        """
        self.total_steps = total_steps
        if lr != self.lr:
            self._scale = lr / self.lr
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if not isinstance(scheduler, LambdaLR) or self not in scheduler.lr_lambdas:
                continue  # Another one's, such as that of a search for a learning rate.
            self._warn_of_early_end(trainer)
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

    def _warn_of_early_end(self, trainer: Trainer) -> None:
        ends_early = any(isinstance(each, EarlyStopping) for each in trainer.callbacks)  # type: ignore[attr-defined]
        if ends_early and self.total_steps < math.inf and not trainer.global_step:
            rank_zero_info(
                f"The learning rate rises for {round(self.warmup * self.total_steps):,} steps and "
                f"falls until step {self.total_steps:,}, as `max_epochs` and `max_steps` say: "
                "a run that EarlyStopping ends before has trained at high rates only."
            )
