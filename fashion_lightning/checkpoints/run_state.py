"""What belongs to a run and not to its network: its time, random numbers and running epoch.

A continued run needs all of it to end with the bits of one that was never interrupted.
"""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn.parameter import is_lazy

from fashion_lightning.training.metrics import Steps


class RunState:
    """The state of a module's running fit, in checkpoints under keys of its own.

    Args:
        steps: Those of the running epoch.

    Attributes:
        train_seconds: How long the weights were trained, in all runs.
    """

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.train_seconds = 0.0
        self._began: float | None = None  # when it would have been without interruption
        self._rng_states: dict[str, Tensor] = {}  # to be restored

    def start(self, module: LightningModule) -> None:
        """Start the clock, and go on with the random numbers of the run that is continued."""
        self._began = time.monotonic() - self.train_seconds
        if self._rng_states:
            torch.set_rng_state(self._rng_states["cpu"])
            if "cuda" in self._rng_states and module.device.type == "cuda":
                torch.cuda.set_rng_state(self._rng_states["cuda"], module.device)
            self._rng_states = {}

    def stop(self) -> None:
        """Stop the clock."""
        if self._began is not None:
            self.train_seconds = time.monotonic() - self._began
        self._began = None

    def check_loss(self, module: LightningModule) -> None:
        """Refuse to go on with a loss that is not finite.

        Raises:
            FloatingPointError: Says at which step the first one was.
        """
        found = self.steps.first_not_finite()
        if found:
            step, loss = found
            raise _diverged(module, f"The loss is {loss}", step)

    def save(self, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the state to a checkpoint.

        Raises:
            FloatingPointError: If a loss or a weight is not finite: it is not worth keeping.
        """
        trainer = module.trainer
        self.check_loss(module)
        if trainer.optimizers:
            for weights in module.parameters():
                if not is_lazy(weights) and not weights.isfinite().all():
                    raise _diverged(module, "A weight is not finite", module.global_step)
        if self._began is not None and trainer.training:
            self.train_seconds = time.monotonic() - self._began
        checkpoint["train_seconds"] = self.train_seconds
        self.steps.add()
        checkpoint["train_sums"] = self.steps.totals.sums()
        # Every process draws the same numbers, from the same seed: one's state serves all.
        checkpoint["rng_states"] = {"cpu": torch.get_rng_state()}
        if module.device.type == "cuda":
            checkpoint["rng_states"]["cuda"] = torch.cuda.get_rng_state(module.device)

    def load(self, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take what `save` has added; what only training needs, if it continues."""
        self.train_seconds = checkpoint.get("train_seconds", 0.0)
        trainer = module._trainer
        if trainer and trainer.state.fn == TrainerFn.FITTING:
            self._rng_states = checkpoint.get("rng_states", {})
            self.steps.reset()
            if trainer.global_rank == 0:  # The sums are those of all processes.
                self.steps.totals.add_sums(checkpoint.get("train_sums", (0.0, 0, 0)))


def learning_rates(trainer: Trainer) -> list[float]:
    """Return the learning rates of all groups of all optimizers."""
    return [group["lr"] for each in trainer.optimizers for group in each.param_groups]


def _diverged(module: LightningModule, what: str, step: int) -> FloatingPointError:
    """Return the error that ends a run."""
    rates = learning_rates(module.trainer)
    advice = f" The learning rate is {rates[0]:.3g}; a lower `lr` may help." if rates else ""
    return FloatingPointError(f"{what} at step {step}, and training has ended.{advice}")
