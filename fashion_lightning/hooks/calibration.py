"""When the temperature is fitted: at the end of each validation of a fit."""

from typing import Any

import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from fashion_lightning.hooks.epochs import EpochModule
from fashion_lightning.training.calibration import fit_temperature


class CalibratedModule(EpochModule):
    """An `EpochModule` that fits the temperature of its logits to the first validation loader.

    While a fit validates, `forward` leaves out the temperature and notes that in `_is_raw`. A
    subclass whose `forward` never does so is not calibrated, nor is one that does anything but
    divide the logits by the temperature: in both cases it stays 1.

    Attributes:
        temperature: Divisor of the logits in evaluation.
    """

    temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._is_calibrating = False  # Whether `forward` is to leave out the temperature.
        self._is_raw = False  # Whether it has done so in the running validation.
        self._probe: tuple[Tensor, Tensor] | None = None  # Images and what an own `forward` gave.
        self._calibrated_at = -1  # The step whose weights the temperature belongs to.

    @override
    def on_train_start(self) -> None:
        """Note whose temperature this is: that of the weights with which training begins."""
        self._calibrated_at = self.global_step
        super().on_train_start()

    @override
    def on_validation_epoch_end(self) -> None:
        """In a fit, fit the temperature; log the metrics of the validation images."""
        is_raw, self._is_raw = self._is_raw, False
        outputs = self.outputs_of("val", 0)
        if is_raw and outputs and not self.trainer.sanity_checking:
            self.temperature.fill_(fit_temperature(*outputs))
            if not self._divides_logits():
                self.temperature.fill_(1.0)
            self._calibrated_at = self.global_step
        self.log_evaluation("val", self.temperature if is_raw else None)

    def _divides_logits(self) -> bool:
        """Return whether an own `forward` divides its logits by the temperature, as ours does."""
        divides = True
        if self._probe:
            images, raw = self._probe
            scaled = self.evaluated_logits(images)
            divides = torch.allclose(scaled, raw / self.temperature, rtol=1e-3, atol=1e-3)
            self._probe = None
        return self.trainer.strategy.reduce_boolean_decision(divides)

    def evaluated_logits(self, images: Tensor) -> Tensor:
        """Return the logits from which metrics and probabilities are computed."""
        raise NotImplementedError

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Callbacks may have averaged the weights, but not what a validation has found.
        checkpoint["state_dict"]["temperature"] = self.temperature.clone()
        super().on_save_checkpoint(checkpoint)

    @override
    def on_train_end(self) -> None:
        """Warn if the temperature was fitted to other weights."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        averages = any(isinstance(each, StochasticWeightAveraging) for each in callbacks)
        if self.temperature != 1 and (averages or self._calibrated_at != self.global_step):
            rank_zero_warn(
                f"The temperature is {self.temperature:.3g}, of other weights than these, which "
                f"were {'averaged' if averages else 'trained'} since: their probabilities are not "
                "calibrated."
            )
        super().on_train_end()
