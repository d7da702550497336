"""The LightningModule: how any network for FashionMNIST is trained, measured and asked."""

import io
import math
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import IO, Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import Self, override

from fashion_lightning.calibration import fit_temperature
from fashion_lightning.checkpoints import (
    check_network,
    check_weights,
    is_safetensors,
    read_checkpoint,
)
from fashion_lightning.checks import expect
from fashion_lightning.evaluation import Batch, collect, gather, metrics
from fashion_lightning.network import MLP, check_floating_point
from fashion_lightning.pretrained import pretrained
from fashion_lightning.training import decay, distillation_loss, lr_factor


class FashionMNISTClassifier(LightningModule):
    """Trains a network that turns images into logits, and answers with probabilities.

    Images are float in [0, 1], as torchvision's ToTensor gives them. They are normalised here, with
    constants that travel in the checkpoint. Validation, test and predict compute in full precision
    whatever the trainer's `precision`, so their numbers agree on every machine.

    Each validation of a fit finds the temperature by which logits are to be divided so that their
    probabilities are calibrated (`fit_temperature`). It travels in the checkpoint, too. Training
    itself, and a network that was never validated, have temperature 1.

    Logged: ``train_loss`` (what is minimised) and ``train_acc``; every `log_every_n_steps` steps
    ``train_loss_step`` and ``lr``; for validation and test ``*_loss`` (mean negative
    log-likelihood), ``*_acc``, ``*_f1`` (macro) and ``*_ece`` (expected calibration error: 15 bins,
    norm l1, a fraction).

    Args:
        network: Images ``(N, 1, 28, 28)`` in, logits ``(N, num_classes)`` out. None: `MLP`.
        num_classes: Number of classes.
        optimizer: ``adamw``, or ``sgd`` with Nesterov momentum 0.9.
        lr: Peak learning rate, > 0.
        weight_decay: As the optimizer defines it, >= 0.
        beta2: Decay of AdamW's running mean of squared gradients, in [0, 1). In runs as short as
            ours, PyTorch's 0.999 remembers the noisy beginning for too long.
        warmup: Fraction of the run's steps in which the learning rate rises linearly to `lr`, in
            [0, 1]. In the rest it falls linearly to 0.
        label_smoothing: Probability mass that training spreads over all classes in its first step,
            in [0, 1).
        label_smoothing_power: Power with which it decays, >= 0: after a fraction t of the run's
            steps, `label_smoothing` times (1 - t) to this power remains. Smoothing for good makes a
            network that no temperature calibrates. 0: it stays, as it does in a run without an end.
        teacher_temperature: If batches bring a teacher's logits, as those of a datamodule with
            `teacher` do, its classes' probabilities at this temperature, > 0, are what training
            aims at, without smoothing; the labels only count for the accuracy.
            Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531
        flip_averaging: Whether it answers, unless it trains, with the mean of the logits of an
            image and of its mirror, at twice the cost.
        mean: Mean of the pixels, subtracted. The default is that of the 60,000 training images.
        std: Standard deviation of the pixels, > 0, divided by. Default likewise.
        compile_network: Whether training runs through `torch.compile`, which takes its time at the
            start. Evaluation does not, and a checkpoint looks the same.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> classifier = FashionMNISTClassifier()
        >>> classifier(torch.rand(3, 28, 28)).shape
        torch.Size([3, 10])
    """

    mean: Tensor
    std: Tensor
    temperature: Tensor

    def __init__(
        self,
        network: nn.Module | None = None,
        *,
        num_classes: int = 10,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        lr: float = 2.5e-3,
        weight_decay: float = 0.35,
        beta2: float = 0.95,
        warmup: float = 0.1,
        label_smoothing: float = 0.1,
        label_smoothing_power: float = 3.0,
        teacher_temperature: float = 2.0,
        flip_averaging: bool = False,
        mean: float = 0.2860,
        std: float = 0.3530,
        compile_network: bool = False,
    ) -> None:
        super().__init__()
        expect(num_classes >= 2, "num_classes", "an int >= 2", num_classes)
        expect(optimizer in ("adamw", "sgd"), "optimizer", "'adamw' or 'sgd'", optimizer)
        expect(0 < lr < math.inf, "lr", "a finite number > 0", lr)
        expect(0 <= weight_decay < math.inf, "weight_decay", "a finite number >= 0", weight_decay)
        expect(0 <= beta2 < 1, "beta2", "in [0, 1)", beta2)
        expect(0 <= warmup <= 1, "warmup", "in [0, 1]", warmup)
        expect(0 <= label_smoothing < 1, "label_smoothing", "in [0, 1)", label_smoothing)
        expect(
            0 <= label_smoothing_power < math.inf,
            "label_smoothing_power",
            "a finite number >= 0",
            label_smoothing_power,
        )
        expect(
            0 < teacher_temperature < math.inf,
            "teacher_temperature",
            "a finite number > 0",
            teacher_temperature,
        )
        expect(math.isfinite(mean), "mean", "a finite number", mean)
        expect(0 < std < math.inf, "std", "a finite number > 0", std)
        init_args = getattr(network, "init_args", None)
        # Plain values only: a checkpoint must be readable without running anybody's code.
        self.save_hyperparameters(ignore=["network"])
        if "_instantiator" in self.hparams:  # LightningCLI knows how it built the network.
            self.save_hyperparameters("network")
        elif init_args and "network" in signature(type(self)).parameters:
            class_path = f"{type(network).__module__}.{type(network).__qualname__}"
            self.save_hyperparameters(
                {
                    "network": {"class_path": class_path, "init_args": init_args},
                    "_instantiator": "lightning.pytorch.cli.instantiate_module",
                }
            )
        self.network = MLP(num_classes=num_classes) if network is None else network
        self.num_classes = num_classes
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.beta2 = beta2
        self.warmup = warmup
        self.label_smoothing = label_smoothing
        self.label_smoothing_power = label_smoothing_power
        self.teacher_temperature = teacher_temperature
        self.flip_averaging = flip_averaging
        self.compile_network = compile_network
        self._compiled_forward: Callable[[Tensor], Tensor] | None = None  # while it trains
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.register_buffer("temperature", torch.tensor(1.0))
        self._fitted_temperature = 1.0  # by the last validation of the running fit
        # Logits and labels of the running epoch of each stage.
        self._epoch: dict[str, list[Batch]] = {"train": [], "val": [], "test": []}
        self._losses: list[Tensor] = []  # of the running training epoch
        self._first_step = 0  # of the losses
        self._carried = (0.0, 0, 0)  # sums of the running epoch from before an interruption
        self._rng_states: dict[str, Tensor] = {}  # to be restored
        self.train_seconds = 0.0  # how long the weights were trained, in all runs; in checkpoints
        self._train_began = 0.0  # when it would have been without interruption
        self._total_steps = math.inf  # of the running fit
        self.example_input_array = torch.zeros(3, 1, 28, 28)  # Lightning's summary shows its way

    @classmethod
    @override
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Build the module that a checkpoint, or a ``.safetensors`` export of one, describes.

        Nothing in the file can run code, and only this package's networks are built because it
        names them: for another one, give `network`.

        Args:
            checkpoint_path: The file, or its path.
            map_location: Where to put the weights. None: where they were.
            hparams_file: A YAML file with hyperparameters to take instead.
            strict: Whether names of all weights must match. None: yes.
            weights_only: Not used: always True.
            **kwargs: Hyperparameters to take instead.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no checkpoint of this class, of another network, or names one that
                is not this package's.
        """
        content = read_checkpoint(checkpoint_path)
        if "network" not in kwargs:
            check_network(content)
        if isinstance(checkpoint_path, str | Path) and is_safetensors(checkpoint_path):
            checkpoint_path = io.BytesIO()  # Lightning only reads what `torch.save` has written.
            torch.save(content, checkpoint_path)
            checkpoint_path.seek(0)
        return super().load_from_checkpoint(
            checkpoint_path, map_location, hparams_file, strict, weights_only=True, **kwargs
        )

    @classmethod
    def from_pretrained(cls, name: str, **kwargs: Any) -> Self:
        """Build a trained classifier that comes with this package.

        Args:
            name: ``mlp`` or ``convnet``.
            **kwargs: Hyperparameters to take instead.

        Returns:
            The classifier, in eval mode.

        Raises:
            ValueError: If there is none of this name, or the installed file is damaged.

        Example:
            >>> classifier = FashionMNISTClassifier.from_pretrained("mlp")
            >>> probs = classifier(torch.zeros(1, 28, 28)).softmax(dim=1)
        """
        return cls.load_from_checkpoint(pretrained(name), **kwargs).eval()

    @override
    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the name of every hook it runs, some fifty times a training step. What
        # nn.Module does to sort out parameters takes 2 microseconds each time; a name needs none.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Score a batch of images.

        Args:
            images: Floating point in [0, 1], ``(N, 1, 28, 28)`` or ``(N, 28, 28)``.

        Returns:
            Calibrated logits, ``(N, num_classes)``: the network's, averaged if `flip_averaging`,
            divided by the temperature.

        Raises:
            ValueError: If the images are not floating point, or the network refuses their shape.
        """
        check_floating_point(images)
        # In place: a second temporary of this size costs more than the division.
        images = (images - self.mean).div_(self.std)
        logits: Tensor = self.network(images)
        if self.flip_averaging and not self.training:
            logits = (logits + self.network(images.flip(-1))) / 2
        return logits / self.temperature

    @override
    def setup(self, stage: str) -> None:
        """Compile the way from images to logits, if training shall."""
        if self.compile_network and stage == "fit":
            self._compiled_forward = torch.compile(self.forward)

    @override
    def teardown(self, stage: str) -> None:
        """Forget what was compiled: a module that trained can be copied and pickled like others."""
        self._compiled_forward = None

    @override
    def configure_optimizers(self) -> Any:
        """Build the optimizer and a schedule over the run's real number of steps."""
        optimizer: Optimizer
        if self.optimizer == "adamw":
            optimizer = AdamW(
                self.parameters(),
                lr=self.lr,
                betas=(0.9, self.beta2),
                weight_decay=self.weight_decay,
                fused=True,
            )
        else:
            optimizer = SGD(
                self.parameters(),
                lr=self.lr,
                weight_decay=self.weight_decay,
                momentum=0.9,
                nesterov=True,
                fused=True,
            )
        total_steps = self.trainer.estimated_stepping_batches
        if math.isinf(total_steps):  # A run without an end has no schedule.
            return optimizer
        schedule = LambdaLR(optimizer, lambda step: lr_factor(step, int(total_steps), self.warmup))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    @override
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Forget the gradients: what PyTorch's `zero_grad` does, without its bookkeeping."""
        for group in optimizer.param_groups:
            for weights in group["params"]:
                weights.grad = None

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a training batch, a scalar.

        Args:
            batch: Images, labels and, if there is a teacher, its logits, ``(N, num_classes)``.
            batch_idx: Not used.
        """
        images, labels, *teacher = batch
        logits = self._step((images, labels), "train")
        if teacher:
            loss = distillation_loss(logits, teacher[0], self.teacher_temperature)
        else:
            left = decay(self.global_step, self._total_steps, self.label_smoothing_power)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing * left)
        self._losses.append(loss.detach())
        # Logging every step would cost more than the step's arithmetic is worth watching.
        interval = getattr(self.trainer, "log_every_n_steps", 0)
        if interval and (self.global_step + 1) % interval == 0:
            self._check_losses()
            self.log("train_loss_step", loss, prog_bar=True)
            self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the logits of a validation batch, ``(N, num_classes)``."""
        return self._step(batch, "val")

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the logits of a test batch, ``(N, num_classes)``."""
        return self._step(batch, "test")

    @override
    def predict_step(self, batch: Batch | list[Tensor] | Tensor, batch_idx: int) -> Tensor:
        """Return class probabilities.

        Args:
            batch: Images, or a tuple or list that begins with the images.
            batch_idx: Not used.

        Returns:
            Probabilities, ``(N, num_classes)``; each row sums to 1.
        """
        images = batch if isinstance(batch, Tensor) else batch[0]
        return self._score(images, "predict").softmax(dim=1)

    def _score(self, images: Tensor, stage: str) -> Tensor:
        """Return float32 logits, computed in full precision unless for training."""
        if stage == "train":
            logits: Tensor = (self._compiled_forward or self)(images).float()
        else:
            with torch.autocast(self.device.type, enabled=False):
                logits = self(images).float()
        return logits

    def _step(self, batch: Batch, stage: str) -> Tensor:
        images, labels = batch
        logits = self._score(images, stage)
        # Metrics are computed once an epoch, from all its logits: exact, and nearly free a step.
        self._epoch[stage].append((logits.detach(), labels))
        return logits

    @override
    def on_fit_start(self) -> None:
        """Train at temperature 1, and keep what is known until a validation fits another."""
        self._fitted_temperature = self.temperature.item()
        self.temperature.fill_(1)

    @override
    def on_fit_end(self) -> None:
        """Answer from now on with the temperature of the last validation."""
        self.temperature.fill_(self._fitted_temperature)

    @override
    def on_train_start(self) -> None:
        """Go on with the random numbers of the run that is being continued."""
        steps = self.trainer.estimated_stepping_batches
        self._total_steps = steps if steps > 0 else math.inf  # -1: nobody knows.
        self._first_step = self.global_step
        self._train_began = time.monotonic() - self.train_seconds
        if self._rng_states:
            torch.set_rng_state(self._rng_states["cpu"])
            if "cuda" in self._rng_states and self.device.type == "cuda":
                torch.cuda.set_rng_state(self._rng_states["cuda"], self.device)
            self._rng_states = {}

    @override
    def on_train_epoch_start(self) -> None:
        """Forget what an interrupted epoch may have left."""
        self._forget_training()

    def _forget_training(self) -> None:
        self._epoch["train"].clear()
        self._losses.clear()
        self._first_step = self.global_step
        self._carried = (0.0, 0, 0)

    @override
    def on_validation_epoch_start(self) -> None:
        """Forget what an interrupted epoch may have left."""
        self._epoch["val"].clear()

    @override
    def on_test_epoch_start(self) -> None:
        """Forget what an interrupted epoch may have left."""
        self._epoch["test"].clear()

    @override
    def on_train_epoch_end(self) -> None:
        """Log the loss and the accuracy of the epoch.

        Raises:
            FloatingPointError: If a loss was not finite.
        """
        self._check_losses()
        loss, correct, num_images = self._train_sums()
        # Now, and not only when the next epoch starts: the checkpoint of this one comes in between.
        self._forget_training()
        self._log_total("train_loss", loss / num_images, prog_bar=True)
        self._log_total("train_acc", correct / num_images, prog_bar=True)

    def _train_sums(self) -> tuple[float, int, int]:
        """Return, of the running epoch in all processes: summed loss, correct answers, images."""
        sums = self._carried
        if self._losses:
            logits, labels = (torch.cat(parts) for parts in zip(*self._epoch["train"], strict=True))
            sizes = torch.tensor([len(labels) for _, labels in self._epoch["train"]])
            loss = (torch.stack(self._losses).cpu().double() * sizes).sum().item()
            correct = int((logits.argmax(dim=1) == labels).sum())
            sums = (sums[0] + loss, sums[1] + correct, sums[2] + len(labels))
        losses, corrects, nums_images = zip(*gather(sums), strict=True)
        return sum(losses), sum(corrects), sum(nums_images)

    def _check_losses(self) -> None:
        """Refuse to go on with a loss that is not finite.

        Once a loss is not, the weights and all later losses are not: only the last is looked at.
        """
        if self._losses and not self._losses[-1].isfinite():
            losses = torch.stack(self._losses).cpu()
            batch_idx = int((~losses.isfinite()).nonzero()[0])
            step = self._first_step + batch_idx // self.trainer.accumulate_grad_batches
            self._diverged(f"The loss is {losses[batch_idx].item()}", step)

    def _diverged(self, what: str, step: int) -> None:
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        raise FloatingPointError(
            f"{what} at step {step}, and training has ended. The learning rate is {lr:.3g}; "
            "a lower `lr` may help."
        )

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add our version, and what a continued run needs: random state, sums of the epoch.

        Raises:
            FloatingPointError: If a loss or a weight is not finite: it is not worth keeping.
        """
        checkpoint["fashion_lightning_version"] = version("fashion-lightning")
        if self.trainer.state.fn == TrainerFn.FITTING:
            checkpoint["state_dict"]["temperature"] = torch.tensor(self._fitted_temperature)
            self.train_seconds = time.monotonic() - self._train_began
        checkpoint["train_seconds"] = self.train_seconds
        self._check_losses()
        trains = bool(self.trainer.optimizers)
        if trains and not all(weights.isfinite().all() for weights in self.parameters()):
            self._diverged("A weight is not finite", self.global_step)
        checkpoint["train_sums"] = self._train_sums()
        # Every process draws the same numbers, from the same seed: one's state serves all.
        checkpoint["rng_states"] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            checkpoint["rng_states"]["cuda"] = torch.cuda.get_rng_state(self.device)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what `on_save_checkpoint` added; what only training needs, if it continues."""
        self.train_seconds = checkpoint.get("train_seconds", 0.0)
        if self._trainer and self._trainer.state.fn == TrainerFn.FITTING:
            self._rng_states = checkpoint.get("rng_states", {})
            if self.global_rank == 0:  # The sums are those of all processes.
                self._carried = checkpoint.get("train_sums", self._carried)

    @override
    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights as every module does, with a shorter refusal.

        Raises:
            ValueError: If `strict` and they are another network's.
        """
        if strict:
            check_weights(self, state_dict)
        return super().load_state_dict(state_dict, strict, assign)

    @override
    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation images."""
        self._log_evaluation("val")

    @override
    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test images."""
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        logits, labels = collect(self._epoch[stage])
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._fitted_temperature = fit_temperature(logits, labels)
            logits = logits / self._fitted_temperature
        values = metrics(logits, labels)
        for name, value in values.items():
            self._log_total(f"{stage}_{name}", value, prog_bar=(stage, name) == ("val", "acc"))

    def _log_total(self, name: str, value: float, prog_bar: bool) -> None:
        """Log a number that all processes have computed from all images."""
        # It is the same everywhere: the maximum keeps it, while a mean might round it.
        self.log(name, value, prog_bar=prog_bar, reduce_fx="max", sync_dist=True)
