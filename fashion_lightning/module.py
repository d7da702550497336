"""The LightningModule: how a FashionMNIST classifier is trained, evaluated and used."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from fashion_lightning import arguments
from fashion_lightning.checkpoints.loading import SafeLoading
from fashion_lightning.checkpoints.trust import describe_network
from fashion_lightning.data.files import default_names
from fashion_lightning.data.parts import images_and_labels, images_of
from fashion_lightning.hooks.calibration import CalibratedModule
from fashion_lightning.hooks.resuming import ResumableModule
from fashion_lightning.hooks.schedule import ScheduledModule
from fashion_lightning.network import MLP, materialize
from fashion_lightning.speed import LeanModule
from fashion_lightning.training.losses import distillation_loss
from fashion_lightning.training.optimizers import OptimizerName, make_optimizer


class FashionMNISTClassifier(
    SafeLoading, ResumableModule, CalibratedModule, ScheduledModule, LeanModule
):
    """Trains a network that maps images to logits, and predicts calibrated probabilities.

    Images are floats in [0, 1], as torchvision's ToTensor produces them; they are normalized here,
    with constants that checkpoints store. Batches are ``(images, labels, ...)``, or dicts or
    objects that name them; labels are class numbers ``(N,)`` or soft labels ``(N, num_classes)``.
    Each step can be called without a Trainer: from a subclass, under Fabric or directly.

    Each validation of a fit finds the temperature that calibrates the logits (`fit_temperature`, on
    the first loader); checkpoints store it. Evaluation ignores the trainer's mixed precision.

    Logged: ``train_loss`` (what is minimized) and ``train_acc``; ``train_loss_step`` and ``lr``
    every `log_every_n_steps` steps; for validation and test ``*_loss`` (mean negative log-
    likelihood), ``*_acc``, ``*_f1`` (macro) and ``*_ece`` (15 bins, norm l1, a fraction) of the
    first loader, and of each with the ending ``/dataloader_idx_N`` if there are several.

    Args:
        network: Images ``(N, 1, 28, 28)`` in, logits ``(N, num_classes)`` out. None: `MLP`.
        num_classes: Number of classes, >= 2.
        class_names: Names in the order of the labels. None: those of FashionMNIST if there are ten,
            else ``class 0``, ``class 1``, ...
        optimizer: ``adamw``; ``muon``, which trains matrices and kernels by `Muon` and the rest by
            AdamW; or ``sgd`` with Nesterov momentum 0.9.
        lr: Peak learning rate, > 0.
        weight_decay: As the optimizer defines it, >= 0.
        beta2: AdamW's decay of the running mean of squared gradients, in [0, 1). In runs this
            short, PyTorch's 0.999 averages over too many of the noisy first steps.
        warmup: Fraction of the steps, in [0, 1], in which the learning rate rises linearly to `lr`;
            then it falls linearly to 0.
        label_smoothing: Probability mass spread over all classes in the first step, in [0, 1).
        label_smoothing_power: Exponent p >= 0: after a fraction t of the steps the smoothing is
            ``label_smoothing * (1 - t) ** p``. 0 keeps it; no temperature then calibrates well.
        teacher_temperature: Temperature > 0 at which batches with ``teacher_logits`` are trained on
            the teacher's probabilities instead of the labels.
        flip_averaging: Outside training, average the logits of an image and its mirror image.
        mean: Mean of the pixels, subtracted. The default is that of the 60,000 training images.
        std: Standard deviation of the pixels, > 0, divided by. Default likewise.
        compile_network: Train through `torch.compile`, which is slow to start.

    Raises:
        ValueError: If an argument is out of its range, or a batch has no images and labels.

    Example:
        >>> import torch
        >>> FashionMNISTClassifier()(torch.rand(3, 28, 28)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        *,
        num_classes: int = 10,
        class_names: Sequence[str] | None = None,
        optimizer: OptimizerName = "adamw",
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
        arguments.at_least(2, num_classes=num_classes)
        arguments.names(num_classes, class_names=class_names)
        arguments.one_of(get_args(OptimizerName), optimizer=optimizer)
        arguments.positive(lr=lr, std=std, teacher_temperature=teacher_temperature)
        arguments.non_negative(
            weight_decay=weight_decay, label_smoothing_power=label_smoothing_power
        )
        arguments.below_one(beta2=beta2, label_smoothing=label_smoothing)
        arguments.fraction(warmup=warmup)
        arguments.finite(mean=mean)
        arguments.not_compiled(network=network)
        # Plain values only: a checkpoint must be readable without running anybody's code.
        names = None if class_names is None else [str(name) for name in class_names]
        self.save_hyperparameters(ignore=["network", "class_names"])
        self.save_hyperparameters({"class_names": names})
        if "_instantiator" in self.hparams:  # LightningCLI has recorded how it built the network.
            self.save_hyperparameters("network")
        else:
            self.save_hyperparameters(describe_network(type(self), network))
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
        self.mean = torch.tensor(mean, device="cpu")  # Stored by `SafeLoading`, like the next two.
        self.std = torch.tensor(std, device="cpu")
        self.temperature = torch.tensor(1.0, device="cpu")

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Return logits, ``(N, num_classes)``: calibrated in eval mode, else the network's own.

        Args:
            images: Floating point in [0, 1], ``(N, 1, 28, 28)`` or ``(N, 28, 28)``.

        Raises:
            TypeError: If the network does not return a tensor.
            ValueError: If the images are not floating point, or the network refuses their shape.
        """
        logits = self.logits(images)
        if self.training:
            return logits
        if self._is_calibrating:
            self._is_raw = True
            return logits
        return logits / self.temperature

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits that training optimizes, uncalibrated, ``(N, num_classes)``."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            arguments.floating_point(images=images)
        # In place: a second temporary of this size costs more than the division.
        images = (images - self.mean).div_(self.std)
        logits: Tensor = self.network(images)
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            arguments.returns_logits(self.num_classes, network=logits)
        if self.flip_averaging and not self.training:
            logits = (logits + self.network(images.flip(-1))) / 2
        return logits

    @override
    def setup(self, stage: str) -> None:
        """Give lazy layers their weights."""
        materialize(self)
        super().setup(stage)

    @override
    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule, which `ScheduledModule` spreads over the run."""
        optimizer = make_optimizer(
            self.optimizer,
            self,
            lr=self.lr,
            weight_decay=self.weight_decay,
            beta2=self.beta2,
            num_classes=self.num_classes,
        )
        return self.scheduled(optimizer)

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a training batch, a scalar."""
        images, labels = images_and_labels(batch)
        logits = self.compiled(self)(images).float()
        teacher = batch.get("teacher_logits") if isinstance(batch, Mapping) else None
        trainer = self.caller("training_step")
        if teacher is not None:
            loss = distillation_loss(logits, teacher, self.teacher_temperature)
        else:
            remaining = self.remaining(self.label_smoothing_power) if trainer else 1.0
            smoothing = self.label_smoothing * remaining
            loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        if trainer:
            self.note_step(trainer, loss, logits, labels)
        return loss

    @override
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return a validation batch's logits, ``(N, num_classes)``; in a fit, uncalibrated ones."""
        trainer = self.caller("validation_step")
        self._is_calibrating = trainer is not None and self.is_fitting()
        try:
            return self._evaluate(batch, "val", dataloader_idx, trainer)
        finally:
            self._is_calibrating = False

    @override
    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the calibrated logits of a test batch, ``(N, num_classes)``."""
        return self._evaluate(batch, "test", dataloader_idx, self.caller("test_step"))

    @override
    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return class probabilities, ``(N, num_classes)``; each row sums to 1.

        Args:
            batch: Images, something that begins with images, or a dict or object that names them.
            batch_idx: Unused.
            dataloader_idx: Unused.
        """
        return self.evaluated_logits(images_of(batch)).softmax(dim=1)

    @override
    def evaluated_logits(self, images: Tensor) -> Tensor:
        """Return `forward`'s logits ``(N, num_classes)``: no autocast, always calibrated."""
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self(images)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if type(self).forward is not FashionMNISTClassifier.forward:
            arguments.returns_no_probabilities(forward=logits)
            if self._is_calibrating:
                self._probe = images, logits
        is_left_out = self.training and not self._is_calibrating
        return logits / self.temperature if is_left_out else logits

    def _evaluate(self, batch: Any, stage: str, dataloader_idx: int, trainer: Any) -> Tensor:
        images, labels = images_and_labels(batch)
        logits = self.evaluated_logits(images)
        if trainer:  # Metrics are computed once per epoch from all logits: exact and cheap.
            self.note_outputs(stage, dataloader_idx, logits, labels)
        return logits
