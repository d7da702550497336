"""The LightningModule: how a FashionMNIST classifier is trained, evaluated and used."""

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import IO, Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import Self, override

from fashion_lightning.arguments import expect
from fashion_lightning.checkpoints.pretrained import weights_file
from fashion_lightning.checkpoints.reading import check_weights, load_classifier
from fashion_lightning.checkpoints.run_state import RunState, learning_rates
from fashion_lightning.data.files import default_names
from fashion_lightning.network import MLP, check_floating_point
from fashion_lightning.speed import BATCHES_BETWEEN_FLUSHES, flush_tiny_states, tune_process
from fashion_lightning.training.calibration import fit_temperature
from fashion_lightning.training.losses import (
    Schedule,
    decay,
    distillation_loss,
    images_and_labels,
    images_of,
)
from fashion_lightning.training.metrics import Outputs, Steps, TrainingTotals, metrics

_CONSTANTS = ("mean", "std", "temperature")  # in checkpoints, among the weights


class FashionMNISTClassifier(LightningModule):
    """Trains a network that maps images to logits, and predicts calibrated probabilities.

    Images are floats in [0, 1], as torchvision's ToTensor produces them. They are normalized here,
    with constants that are stored in the checkpoint. Validation, test and predict compute in the
    weights' own precision whatever mixed precision the trainer has, so their numbers agree on every
    machine.

    Batches are ``(images, labels)``, with anything behind; or dicts or objects that have both under
    such names. Labels are class numbers ``(N,)``, or soft labels ``(N, num_classes)``, as those of
    MixUp. Each step works alone, too: in a subclass that replaces others, under Fabric, or by hand.

    Each validation of a fit finds the temperature by which logits are to be divided so that their
    probabilities are calibrated (`fit_temperature`, on the first validation loader). It is stored
    in the checkpoint. In training mode, `forward` leaves it out.

    Logged: ``train_loss`` (what is minimized) and ``train_acc``; every `log_every_n_steps` steps
    ``train_loss_step`` and ``lr``; for validation and test ``*_loss`` (mean negative
    log-likelihood), ``*_acc``, ``*_f1`` (macro) and ``*_ece`` (expected calibration error: 15 bins,
    norm l1, a fraction). Several loaders: these are the first one's, and each has its own with
    Lightning's ending ``/dataloader_idx_N``.

    Args:
        network: Images ``(N, 1, 28, 28)`` in, logits ``(N, num_classes)`` out. None: `MLP`.
        num_classes: Number of classes.
        class_names: Their names, in the order of their labels. None: those of FashionMNIST if there
            are ten, else ``class 0``, ``class 1``, ...
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
        teacher_temperature: If batches are dicts with ``teacher_logits``, as those of a datamodule
            with `teacher`, training aims at the teacher's probabilities at this temperature, > 0,
            without smoothing; the labels only count for the accuracy.
            Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531
        flip_averaging: Outside training, average the logits of each image and its mirror image, at
            twice the cost.
        mean: Mean of the pixels, subtracted. The default is that of the 60,000 training images.
        std: Standard deviation of the pixels, > 0, divided by. Default likewise.
        compile_network: Train through `torch.compile`, which takes its time at the start.
            Evaluation is not compiled, and a checkpoint looks the same.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> classifier = FashionMNISTClassifier()
        >>> classifier(torch.rand(3, 28, 28)).shape
        torch.Size([3, 10])
    """

    # TorchScript would compile each property.
    __jit_unused_properties__ = [*LightningModule.__jit_unused_properties__, "train_seconds"]  # noqa: RUF012
    mean: Tensor
    std: Tensor
    temperature: Tensor

    def __init__(
        self,
        network: nn.Module | None = None,
        *,
        num_classes: int = 10,
        class_names: Sequence[str] | None = None,
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
        names = None if class_names is None else [str(name) for name in class_names]
        expect(
            names is None or len(names) == num_classes == len({*names}),
            "class_names",
            f"{num_classes} different names, as many as `num_classes`",
            names,
        )
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
        expect(
            not hasattr(network, "_orig_mod"),
            "network",
            "one that `torch.compile` has not wrapped, which renames its weights (set "
            "`compile_network`, or call `network.compile()`, which keeps the names)",
            type(network).__name__,
        )
        # Plain values only: a checkpoint must be readable without running anybody's code.
        self.save_hyperparameters(ignore=["network", "class_names"])
        self.save_hyperparameters({"class_names": names})
        init_args = getattr(network, "init_args", None)
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
        self.class_names = tuple(names or default_names(num_classes))
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
        self._compiled_logits: Callable[[Tensor], Tensor] | None = None  # while it trains
        # In checkpoints like buffers, but none: callbacks that average weights would average
        # buffers, too, while a temperature belongs to the weights that were validated.
        self.mean = torch.tensor(mean, device="cpu")
        self.std = torch.tensor(std, device="cpu")
        self.temperature = torch.tensor(1.0, device="cpu")
        self._steps = Steps(TrainingTotals())  # of the running epoch
        self._noted = False  # whether the running step is among them
        self._outputs = dict[tuple[str, int], Outputs]()  # by stage and number of the loader
        self._run = RunState(self._steps)
        self._schedule: Schedule | None = None  # of the running fit, if the optimizer is ours
        self._total_steps = math.inf  # of the running fit

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
            hparams_file: A YAML file with hyperparameters to use instead.
            strict: Whether names of all weights must match. None: yes.
            weights_only: False trusts the file: whatever is in it is unpickled, and may run code,
                and networks of any class are built. None: True.
            **kwargs: Hyperparameters to use instead.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a checkpoint of this class, of another network, or names one
                that is not this package's.
        """
        load = super().load_from_checkpoint
        module: Self = load_classifier(
            load, checkpoint_path, map_location, hparams_file, strict, weights_only, kwargs
        )
        for name in {"mean", "std"} & {*kwargs}:  # Those of the checkpoint were loaded.
            getattr(module, name).fill_(kwargs[name])
        return module

    @classmethod
    def from_pretrained(cls, name: str, **kwargs: Any) -> Self:
        """Build a trained classifier that comes with this package.

        Args:
            name: ``mlp`` or ``convnet``.
            **kwargs: Hyperparameters to use instead.

        Returns:
            The classifier, in eval mode.

        Raises:
            ValueError: If there is none of this name, or the installed file is damaged.

        Example:
            >>> classifier = FashionMNISTClassifier.from_pretrained("mlp")
            >>> probs = classifier(torch.zeros(1, 28, 28)).softmax(dim=1)
        """
        return cls.load_from_checkpoint(weights_file(name), **kwargs).eval()

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
        """Return logits, ``(N, num_classes)``.

        Args:
            images: Floating point in [0, 1], ``(N, 1, 28, 28)`` or ``(N, 28, 28)``.

        Returns:
            In eval mode calibrated logits: averaged if `flip_averaging`, divided by the
            temperature. In training mode the network's own.

        Raises:
            TypeError: If the network returns something other than a tensor.
            ValueError: If the images are not floating point, or the network refuses their shape.
        """
        logits = self.logits(images)
        return logits if self.training else logits / self.temperature

    def logits(self, images: Tensor) -> Tensor:
        """Return the network's logits before temperature scaling: what training optimizes."""
        is_scripting = torch.jit.is_scripting()  # type: ignore[attr-defined]
        if not is_scripting:
            check_floating_point(images)
        # In place: a second temporary of this size costs more than the division.
        images = (images - self.mean).div_(self.std)
        logits: Tensor = self.network(images)
        if not is_scripting and not isinstance(logits, Tensor):
            raise TypeError(
                "Expected `network` to return logits, a tensor (N, num_classes), but got "
                f"{type(logits).__name__}; wrap it in a module that returns the logits alone."
            )
        if self.flip_averaging and not self.training:
            logits = (logits + self.network(images.flip(-1))) / 2
        return logits

    @override
    def setup(self, stage: str) -> None:
        """Materialize lazy layers, and compile training if `compile_network`."""
        if any(is_lazy(weights) for weights in self.parameters()):
            modes = {module: module.training for module in self.modules()}
            with torch.no_grad():
                self.eval()(torch.zeros(2, 1, 28, 28, device=self.device))
            for module, is_training in modes.items():
                module.training = is_training
        if stage == "fit":
            tune_process()
            if self.compile_network:
                self._compiled_logits = torch.compile(self.logits)

    @override
    def teardown(self, stage: str) -> None:
        """Drop what was compiled, so that the module can be copied and pickled again."""
        self._compiled_logits = None

    @override
    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule, which `on_train_start` spreads over the run."""
        parameters = [weights for weights in self.parameters() if weights.requires_grad]
        optimizer: Optimizer
        if self.optimizer == "adamw":
            optimizer = AdamW(
                parameters,
                lr=self.lr,
                betas=(0.9, self.beta2),
                weight_decay=self.weight_decay,
                fused=True,
            )
        else:
            optimizer = SGD(
                parameters,
                lr=self.lr,
                weight_decay=self.weight_decay,
                momentum=0.9,
                nesterov=True,
                fused=True,
            )
        # PyTorch's fused optimizers offer to unscale 16-bit gradients themselves, and Lightning
        # would refuse to clip them for that. Without the offer, it unscales and clips.
        optimizer._step_supports_amp_scaling = False
        # How many steps there are is asked when training begins, and not here: Lightning would load
        # the training batches for it, and then forget where a run that is continued stands in them.
        self._schedule = Schedule(self.lr, self.warmup, math.inf)
        schedule = LambdaLR(optimizer, self._schedule)
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
            batch: Images and labels, see the class; of a dict, ``teacher_logits`` count, too.
            batch_idx: Number of the batch in its epoch.

        Raises:
            ValueError: If there are no images and labels in the batch.
        """
        images, labels = images_and_labels(batch)
        logits = (self._compiled_logits or self.logits)(images).float()
        teacher = batch.get("teacher_logits") if isinstance(batch, Mapping) else None
        trainer = self._running("training_step")
        step = self.global_step if trainer else 0
        if teacher is not None:
            loss = distillation_loss(logits, teacher, self.teacher_temperature)
        else:
            smoothing = self.label_smoothing
            if trainer:
                smoothing *= decay(step, self._total_steps, self.label_smoothing_power)
            loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        if trainer:
            self._steps.note(step, loss, logits, labels)
            self._noted = True
            # Logging every step would cost more than the step's arithmetic is worth watching.
            interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
            if interval and (step + 1) % interval == 0:
                self._run.check_loss(self)
                self.log("train_loss_step", loss, prog_bar=True)
                for rate in learning_rates(trainer)[:1]:
                    self.log("lr", rate)
        return loss

    @override
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the calibrated logits of a validation batch, ``(N, num_classes)``.

        In a fit, which is about to calibrate them, they are the network's own.
        """
        trainer = self._running("validation_step")
        fits = trainer is not None and trainer.state.fn == TrainerFn.FITTING
        return self._evaluate(batch, "val", dataloader_idx, trainer, calibrated=not fits)

    @override
    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the calibrated logits of a test batch, ``(N, num_classes)``."""
        trainer = self._running("test_step")
        return self._evaluate(batch, "test", dataloader_idx, trainer)

    @override
    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return class probabilities.

        Args:
            batch: Images, something that begins with images, or a dict or object with a part of
                such a name.
            batch_idx: Not used.
            dataloader_idx: Not used.

        Returns:
            Probabilities, ``(N, num_classes)``; each row sums to 1.

        Raises:
            ValueError: If there are no images in the batch.
        """
        return self._calibrated(images_of(batch)).softmax(dim=1)

    def _calibrated(self, images: Tensor) -> Tensor:
        """Return logits in full precision, divided by the temperature, in any mode."""
        with torch.autocast(images.device.type, enabled=False):
            return _full(self.logits(images)) / self.temperature

    def _evaluate(
        self,
        batch: Any,
        stage: str,
        dataloader_idx: int,
        trainer: Trainer | None,
        calibrated: bool = True,
    ) -> Tensor:
        images, labels = images_and_labels(batch)
        with torch.autocast(images.device.type, enabled=False):
            logits = self._calibrated(images) if calibrated else _full(self.logits(images))
        if trainer:
            # Metrics are computed once per epoch, from all its logits: exact, and nearly free.
            self._outputs.setdefault((stage, dataloader_idx), Outputs()).update(logits, labels)
        return logits

    @property
    def train_seconds(self) -> float:
        """How long the weights were trained, in all runs; kept in checkpoints."""
        return self._run.train_seconds

    def _running(self, step: str) -> Trainer | None:
        """Return the trainer, if it has called this step; None if somebody else did.

        A callback, another module or a loop may call a step, too: what they see counts nowhere.
        """
        return self._trainer if self._current_fx_name == step else None

    def _forget(self, stage: str) -> None:
        """Forget what an interrupted evaluation may have left."""
        for key in [key for key in self._outputs if key[0] == stage]:
            del self._outputs[key]

    @override
    def on_fit_start(self) -> None:
        """Train as a whole, also what was loaded to predict (`from_pretrained`)."""
        if not self.training:
            self.train()

    @override
    def on_train_start(self) -> None:
        """Settle the schedule, and go on with the state of the run that is being continued."""
        # A search may have found another rate, or another number of batches.
        self._total_steps = self._planned_steps()
        if self._schedule:
            self._schedule.settle(self.trainer, self.lr, self._total_steps)
        self._run.start(self)

    def _planned_steps(self) -> float:
        """Return the optimizer steps of the running fit; infinite if nobody knows."""
        steps = self.trainer.estimated_stepping_batches
        return steps if steps > 0 else math.inf

    @override
    def on_train_epoch_start(self) -> None:
        """Forget what an interrupted epoch may have left."""
        self._steps.reset()

    @override
    def on_validation_epoch_start(self) -> None:
        """Forget what an interrupted validation may have left."""
        self._forget("val")

    @override
    def on_test_epoch_start(self) -> None:
        """Forget what an interrupted test may have left."""
        self._forget("test")

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Forget a step that returned None, which Lightning skips; keep the optimizer fast."""
        if self._noted and not outputs and self.automatic_optimization:
            self._steps.drop()
        self._noted = False
        if batch_idx % BATCHES_BETWEEN_FLUSHES == 0:
            flush_tiny_states(self.trainer.optimizers)

    @override
    def on_train_epoch_end(self) -> None:
        """Log loss and accuracy of the epoch.

        Raises:
            FloatingPointError: If a loss was not finite.
        """
        self._run.check_loss(self)
        self._steps.add()
        loss, correct, num_images = self._steps.totals.sums()
        values = {"loss": loss, "acc": correct} if num_images else {}
        # Now, and not only when the next epoch starts: the checkpoint of this one comes in between.
        self._steps.reset()
        for name, value in values.items():
            self._log_total(f"train_{name}", value / num_images, prog_bar=True)

    @override
    def on_train_end(self) -> None:
        """Stop the clock."""
        self._run.stop()

    @override
    def on_validation_epoch_end(self) -> None:
        """In a fit, find the temperature; log the metrics of the validation images."""
        trainer = self._trainer
        fits = trainer is not None and trainer.state.fn == TrainerFn.FITTING
        if trainer and fits and not trainer.sanity_checking:
            first = self._outputs.get(("val", 0))
            if first is not None:
                self.temperature.fill_(fit_temperature(*first.result()))
        self._log_evaluation("val", uncalibrated=fits)

    @override
    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test images."""
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str, uncalibrated: bool = False) -> None:
        loaders = {index: key for key in self._outputs if key[0] == stage for index in key[1:]}
        for index, key in sorted(loaders.items()):
            logits, labels = self._outputs.pop(key).result()
            if uncalibrated:
                logits = logits / self.temperature.double()
            for name, value in metrics(logits, labels).items():
                if index == 0:
                    on_bar = (stage, name) == ("val", "acc")
                    self._log_total(f"{stage}_{name}", value, prog_bar=on_bar)
                if len(loaders) > 1:
                    self._log_total(f"{stage}_{name}/dataloader_idx_{index}", value)

    def _log_total(self, name: str, value: float, prog_bar: bool = False) -> None:
        """Log a number that all processes have computed from all images."""
        # It is the same everywhere: the maximum keeps it, while a mean might round it.
        # Names of several loaders' metrics have their ending already.
        self.log(
            name,
            value,
            prog_bar=prog_bar,
            reduce_fx="max",
            sync_dist=True,
            add_dataloader_idx=False,
        )

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add our version, and what a continued run needs: random state, totals of the epoch.

        Raises:
            FloatingPointError: If a loss or a weight is not finite: it is not worth keeping.
        """
        checkpoint["fashion_lightning_version"] = version("fashion-lightning")
        # Of averaged weights, if a callback has put them there: these were validated.
        checkpoint["state_dict"]["temperature"] = self.temperature.clone()
        self._run.save(self, checkpoint)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what `on_save_checkpoint` has added; what only training needs, if it continues."""
        fits = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        if not fits and "current_model_state" in checkpoint:
            # `WeightAveraging` goes on with these weights, after a fit even for a test. Only a fit
            # is to: in all else, a checkpoint is its averaged weights.
            checkpoint["current_model_state"] = checkpoint["state_dict"]
        self._run.load(self, checkpoint)

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
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in _CONSTANTS:
            destination[prefix + name] = getattr(self, name).clone()

    @override
    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        *args: Any,
    ) -> None:
        for name in _CONSTANTS:
            if prefix + name in state_dict:
                getattr(self, name).copy_(state_dict.pop(prefix + name))
            elif strict:
                missing_keys.append(prefix + name)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, *args
        )

    @override
    def to_onnx(self, file_path: Any = None, input_sample: Any = None, **kwargs: Any) -> Any:
        """Export `forward` as ONNX, for any number of images.

        Lightning's method, with a sample and its variable number of images filled in.
        """
        if input_sample is None and self.example_input_array is None:
            input_sample = (torch.zeros(2, 1, 28, 28),)
            if not {"dynamic_shapes", "dynamic_axes"} & {*kwargs}:
                kwargs["dynamic_shapes"] = ({0: "N"},)
        return super().to_onnx(file_path, input_sample, **kwargs)


def _full(logits: Tensor) -> Tensor:
    """Return logits in 32 bits, or in 64 if they have so many."""
    return logits if logits.dtype == torch.float64 else logits.float()
