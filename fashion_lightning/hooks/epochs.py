"""Accumulates what steps return, and logs metrics when the epoch ends."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import override

from fashion_lightning.training.metrics import Outputs, Steps, metrics


class EpochModule(LightningModule):
    """Accumulates training steps and evaluated logits in metrics, each reset with its epoch.

    Steps that are not called by the trainer are not accumulated.
    """

    def __init__(self) -> None:
        super().__init__()
        self._steps = Steps()  # of the running epoch
        self._is_noted = False  # whether the running step has been noted
        self._outputs = dict[tuple[str, int], Outputs]()  # by stage and number of the loader

    def caller(self, step: str) -> Trainer | None:
        """Return the trainer if it has called this step; None if a callback, a loop or a user did.

        Lightning documents no other way to tell them apart.
        """
        return self._trainer if self._current_fx_name == step else None

    def is_fitting(self) -> bool:
        """Return whether a trainer is fitting, including the validation of a fit."""
        trainer = self._trainer  # `trainer` raises where there is none.
        return trainer is not None and trainer.state.fn == TrainerFn.FITTING

    def note_step(self, trainer: Trainer, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a training step to its epoch; log it every `log_every_n_steps` steps.

        Raises:
            FloatingPointError: If it is logged and a loss was not finite.
        """
        step = self.global_step
        self._steps.note(step, loss, logits, labels)
        self._is_noted = True
        # Manual optimization may take several steps per batch: Lightning drops what is too much.
        interval = trainer.log_every_n_steps if self.automatic_optimization else 1  # type: ignore[attr-defined]
        if interval and (step + 1) % interval == 0:
            self.check_loss()
            self.log("train_loss_step", loss, prog_bar=True)
            for group in _groups(trainer)[:1]:
                self.log("lr", group["lr"])

    def note_outputs(self, stage: str, loader: int, logits: Tensor, labels: Tensor) -> None:
        """Add the logits of a batch to those of its stage and loader."""
        self._outputs.setdefault((stage, loader), Outputs()).update(logits, labels)

    def outputs_of(self, stage: str, loader: int) -> tuple[Tensor, Tensor] | None:
        """Return logits and labels of an epoch, or None if there are none."""
        outputs = self._outputs.get((stage, loader))
        return outputs.result() if outputs else None

    @override
    def on_fit_start(self) -> None:
        """Put all layers in train mode; `from_pretrained` returns eval mode."""
        super().on_fit_start()
        if not self.training:
            self.train()

    @override
    def on_train_epoch_start(self) -> None:
        self._steps.reset()  # of an interrupted epoch

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._is_noted and not outputs and self.automatic_optimization:
            self._steps.drop()  # Lightning skips steps that return None.
        self._is_noted = False
        super().on_train_batch_end(outputs, batch, batch_idx)

    @override
    def on_train_epoch_end(self) -> None:
        """Log loss and accuracy of the epoch.

        Raises:
            FloatingPointError: If a loss was not finite.
        """
        self.check_loss()
        loss, correct, num_images = self._steps.sums()
        # Here, so that this epoch's checkpoint does not hold its sums.
        self._steps.reset()
        if num_images:
            self._log_total("train_loss", loss / num_images)
            self._log_total("train_acc", correct / num_images)

    @override
    def on_validation_start(self) -> None:
        self._outputs.clear()  # of an interrupted evaluation

    @override
    def on_test_start(self) -> None:
        self._outputs.clear()

    @override
    def on_test_epoch_end(self) -> None:
        self.log_evaluation("test")

    def log_evaluation(self, stage: str, divisor: Tensor | None = None) -> None:
        """Log each loader's metrics, of its logits divided by `divisor`, and discard these."""
        loaders = {key[1]: key for key in self._outputs if key[0] == stage}
        for index, key in sorted(loaders.items()):
            logits, labels = self._outputs.pop(key).result()
            if divisor is not None:
                logits = logits / divisor.double()
            for name, value in metrics(logits, labels).items():
                if index == 0:
                    is_on_bar = (stage, name) == ("val", "acc")
                    self._log_total(f"{stage}_{name}", value, prog_bar=is_on_bar)
                if len(loaders) > 1:
                    self._log_total(f"{stage}_{name}/dataloader_idx_{index}", value)

    def _log_total(self, name: str, value: float, prog_bar: bool = False) -> None:
        """Log a number that every process has computed from all images."""
        # The maximum of equal numbers keeps every bit, while their mean might round.
        exact: dict[str, Any] = {"reduce_fx": "max", "sync_dist": True, "add_dataloader_idx": False}
        self.log(name, value, prog_bar=prog_bar, **exact)

    def check_loss(self) -> None:
        """Refuse to continue with a loss that is not finite.

        Raises:
            FloatingPointError: Names the step of the first one.
        """
        found = self._steps.first_not_finite()
        if found:
            step, loss = found
            raise self.diverged(f"The loss is {loss}", step)

    def diverged(self, what: str, step: int) -> FloatingPointError:
        """Return the error for a diverged run."""
        rates = [group.get("initial_lr", group["lr"]) for group in _groups(self.trainer)]
        peak = f" The learning rate is {rates[0]:.3g} at its peak; a lower `lr` may help."
        advice = peak if rates else ""
        return FloatingPointError(f"{what} at step {step}, and training has ended.{advice}")


def _groups(trainer: Trainer) -> list[dict[str, Any]]:
    """Return the groups of all optimizers; Lightning's stand-in for no optimizer has none."""
    return [group for each in trainer.optimizers for group in each.param_groups]
