"""State for continuing a run: random numbers, and the sums of the running epoch."""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from typing_extensions import override

from fashion_lightning.arguments import expect
from fashion_lightning.hooks.epochs import EpochModule

OPTIMIZER_ARGUMENTS = ("optimizer", "weight_decay", "beta2")
"""Arguments of the module that an optimizer's state in a checkpoint overrides. It also overrides
``lr``, unless a tuner has set that."""


class ResumableModule(EpochModule):
    """An `EpochModule` that continues a run bit for bit."""

    def __init__(self) -> None:
        super().__init__()
        self._rng_states: dict[str, Tensor] = {}  # to be restored

    @override
    def on_train_start(self) -> None:
        """Restore the random states of the run that is continued."""
        if self._rng_states:
            torch.set_rng_state(self._rng_states["cpu"])
            if "cuda" in self._rng_states and self.device.type == "cuda":
                torch.cuda.set_rng_state(self._rng_states["cuda"], self.device)
            self._rng_states = {}
        super().on_train_start()

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the package's version and the state of the run.

        Raises:
            FloatingPointError: If a loss or a weight is not finite.
        """
        super().on_save_checkpoint(checkpoint)
        checkpoint["fashion_lightning_version"] = version("fashion-lightning")
        self.check_loss()
        if self.trainer.optimizers:
            for weights in self.parameters():
                if not is_lazy(weights) and not weights.isfinite().all():
                    raise self.diverged("A weight is not finite", self.global_step)
        checkpoint["train_sums"] = self._steps.sums()
        # Every process draws the same numbers from the same seed: one state serves all.
        checkpoint["rng_states"] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            checkpoint["rng_states"]["cuda"] = torch.cuda.get_rng_state(self.device)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` has added, if training continues."""
        if self.is_fitting():
            if type(self).configure_optimizers.__module__.startswith("fashion_lightning."):
                check_continued(self.hparams, checkpoint.get("hyper_parameters", {}))
            self._rng_states = checkpoint.get("rng_states", {})
            sums = checkpoint.get("train_sums", (0.0, 0, 0))  # of all processes
            self._steps.reset(sums if self.trainer.global_rank == 0 else (0.0, 0, 0))
        elif "current_model_state" in checkpoint:
            # `WeightAveraging` would continue with these weights, even in a test after a fit.
            # Outside a fit, a checkpoint is its averaged weights.
            checkpoint["current_model_state"] = checkpoint["state_dict"]


def check_continued(
    own: Mapping[str, Any],
    recorded: Mapping[str, Any],
    names: Iterable[str] = OPTIMIZER_ARGUMENTS,
) -> None:
    """Refuse optimizer arguments that the checkpoint's optimizer state would override.

    Args:
        own: The hyperparameters of this module.
        recorded: Those of the checkpoint.
        names: The arguments to compare.

    Raises:
        ValueError: Names the first that differs.
    """
    for name in names:
        right = recorded.get(name, own.get(name))
        expected = f"{right!r}, with which the run that is continued began"
        expect(own.get(name) == right, name, expected, own.get(name))
