"""The schedule of a fit: how many steps it spans, and when it is known."""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler, Timer
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer
from typing_extensions import override

from fashion_lightning.training.schedules import WarmupLR, decay


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
