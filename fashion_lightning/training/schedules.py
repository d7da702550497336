"""The learning-rate schedule, and the decay of label smoothing."""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler, Timer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
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


def planned_steps(trainer: Trainer) -> float:
    """Return the total number of optimizer steps of a fit, or infinity without a known end."""
    steps, epochs = trainer.estimated_stepping_batches, trainer.max_epochs or -1
    schedulers: list[GradientAccumulationScheduler] = [
        each
        for each in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(each, GradientAccumulationScheduler)
    ]
    if schedulers and epochs > 0 and math.isfinite(trainer.num_training_batches):
        # Lightning's estimate takes the first epoch's number of batches per step for all epochs.
        factors = map(schedulers[0].get_accumulate_grad_batches, range(epochs))
        planned = sum(-(-trainer.num_training_batches // factor) for factor in factors)
        steps = min(planned, trainer.max_steps) if trainer.max_steps > 0 else planned
    return steps if steps > 0 else math.inf


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


class ScheduledModule(LightningModule):
    """A LightningModule whose `WarmupLR` and decays span the steps of its fit.

    Attributes:
        lr: Peak learning rate.
        warmup: Fraction of the steps in which the rate rises.
    """

    lr: float
    warmup: float
    _schedule: WarmupLR | None = None  # of the running fit
    _first_step, _total_steps = 0, math.inf  # of the running fit
    _is_settled = False

    def scheduled(self, optimizer: Optimizer) -> Any:
        """Return what `configure_optimizers` returns for an optimizer with this schedule."""
        schedule = self._schedule = WarmupLR(optimizer, self.lr, self.warmup)
        self._is_settled = False
        # Subclasses may override `on_train_start` without calling it.
        optimizer.register_step_pre_hook(lambda *_: self._settle_late())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def remaining(self, power: float) -> float:
        """Return the remaining fraction of a quantity that decays over the running fit."""
        step = self.global_step // max(1, len(self.trainer.optimizers)) - self._first_step
        return decay(step, self._total_steps, power)

    @override
    def on_train_start(self) -> None:
        """Settle the schedule; a tuner may have changed rate or batch size."""
        self._settle()
        super().on_train_start()

    def _settle_late(self) -> None:
        if not self._is_settled and self._trainer:  # None: a plain PyTorch loop.
            self._settle()

    def _settle(self) -> None:
        trainer, self._is_settled = self.trainer, True
        # A trainer's second fit counts its steps from where the first has ended.
        self._first_step = 0 if trainer.ckpt_path else self.global_step
        self._total_steps = planned_steps(trainer) - self._first_step
        if self._schedule in [config.scheduler for config in trainer.lr_scheduler_configs]:
            assert self._schedule is not None  # `lr_find` installs its own scheduler.
            # Under manual optimization, the rate is at its peak until somebody steps the schedule.
            sets_rate = self.automatic_optimization
            self._schedule.settle(self.lr, self._total_steps, sets_rate=sets_rate)
            if not trainer.global_step:
                _note_early_end(trainer, self.warmup, self._total_steps)


def _note_early_end(trainer: Trainer, warmup: float, total_steps: float) -> None:
    ends_early = any(
        isinstance(each, EarlyStopping) or (isinstance(each, Timer) and each.time_remaining())
        for each in trainer.callbacks  # type: ignore[attr-defined]
    )
    if ends_early and total_steps < math.inf:
        rank_zero_info(
            f"The learning rate rises for {round(warmup * total_steps):,} steps and falls until "
            f"step {total_steps:,}, as `max_epochs` and `max_steps` say: a run that EarlyStopping "
            "or `max_time` ends before has trained at high rates only."
        )
