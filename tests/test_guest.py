"""Every part in code that knows nothing of us: own steps, batches, loaders, networks and loops."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateFinder,
)
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torchvision import models
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor, v2

from fashion_lightning import MLP, ConvNet, FashionMNISTClassifier, FashionMNISTDataModule
from fashion_lightning.callbacks import BestAndLast

IMAGES, LABELS = torch.rand(40, 1, 28, 28), torch.arange(40) % 10


def trainer(**arguments: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 1,
        "limit_train_batches": 4,
        "limit_val_batches": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**(defaults | arguments))


def loader(*parts: Any, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*(parts or (IMAGES, LABELS))), batch_size=10, **options)


@pytest.fixture
def data(data_dir: Path) -> Callable[..., FashionMNISTDataModule]:
    def new(kind: type[FashionMNISTDataModule] = FashionMNISTDataModule, **arguments: Any) -> Any:
        return kind(data_dir, **arguments)

    return new


# Steps of their own.


class Weighted(FashionMNISTClassifier):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self(images), labels, weight=torch.arange(1.0, 11.0))


class Skipping(FashionMNISTClassifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx % 2 else super().training_step(batch, batch_idx)


class NoneAtAll(FashionMNISTClassifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None


class OwnValidation(FashionMNISTClassifier):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        images, labels = batch
        self.log("val_loss", F.cross_entropy(self(images), labels))


class Manual(FashionMNISTClassifier):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        optimizer.step()
        return loss


class TwoOptimizers(Manual):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=0.1), torch.optim.Adam(self.parameters())]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = FashionMNISTClassifier.training_step(self, batch, batch_idx)
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.step()
        return loss


class NoOptimizer(FashionMNISTClassifier):
    def configure_optimizers(self) -> Any:
        return None


@pytest.mark.filterwarnings("ignore:.*returned .None.*")
@pytest.mark.filterwarnings("ignore:.configure_optimizers. returned .None.")
@pytest.mark.parametrize(
    "kind",
    [Weighted, Skipping, NoneAtAll, OwnValidation, Manual, TwoOptimizers, NoOptimizer],
)
def test_own_steps_and_optimizers(kind: type[FashionMNISTClassifier], data: Any) -> None:
    theirs = trainer(max_epochs=2, log_every_n_steps=1)
    theirs.fit(kind(), data())
    logged = theirs.callback_metrics
    assert logged["val_loss"].isfinite()
    # What nobody has collected is not logged.
    assert ("train_loss" in logged) == (kind not in (Weighted, NoneAtAll))
    assert ("val_acc" in logged) == (kind is not OwnValidation)


@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [("adamw", "32-true"), ("muon", "32-true"), ("sgd", "32-true"), ("muon", "bf16-mixed")],
)
def test_gradients_are_clipped_in_any_precision(precision: Any, optimizer: Any, data: Any) -> None:
    norms: list[float] = []

    class Watch(Callback):
        def on_before_zero_grad(self, *_: Any) -> None:
            gradients = [p.grad for p in classifier.parameters() if p.grad is not None]
            norms.extend([float(nn.utils.get_total_norm(gradients))] if gradients else [])

    classifier = FashionMNISTClassifier(MLP(hidden_features=64), optimizer=optimizer)
    before = nn.utils.parameters_to_vector(classifier.parameters()).clone()
    theirs = trainer(
        precision=precision, gradient_clip_val=1e-3, callbacks=[Watch()], limit_train_batches=6
    )
    theirs.fit(classifier, data())
    assert not torch.equal(before, nn.utils.parameters_to_vector(classifier.parameters()))
    assert len(norms) == 5
    assert max(norms) == pytest.approx(1e-3, rel=0.01)


def test_steps_by_hand_need_no_trainer_and_keep_nothing() -> None:
    classifier = FashionMNISTClassifier()
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        loss = classifier.training_step((IMAGES, LABELS), 0)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
        classifier.validation_step((IMAGES, LABELS), 0)
        classifier.test_step((IMAGES, LABELS), 0)
    assert losses[-1] < losses[0]
    assert classifier.predict_step(IMAGES, 0).shape == (40, 10)
    kept = pickle.dumps(classifier)
    assert len(kept) < 1.1 * len(pickle.dumps(FashionMNISTClassifier()))


def test_steps_by_hand_after_a_fit(data: Any) -> None:
    classifier = FashionMNISTClassifier()
    trainer().fit(classifier, data())
    assert classifier.training_step((IMAGES, LABELS), 0).isfinite()
    assert classifier.validation_step((IMAGES, LABELS), 0).shape == (40, 10)


def test_fabric(data: Any) -> None:
    """Lightning Fabric drives our steps and our loaders."""
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    fabric.launch()
    classifier, datamodule = FashionMNISTClassifier(), data(batch_size=500)
    datamodule.prepare_data()
    datamodule.setup("fit")
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-3)
    model, optimizer = fabric.setup(classifier, optimizer)
    model.mark_forward_method("training_step")
    train = fabric.setup_dataloaders(datamodule.train_dataloader())
    orders = []
    for _ in range(2):
        labels = []
        for number, batch in enumerate(train):
            if number < 3:
                optimizer.zero_grad()
                fabric.backward(model.training_step(batch, number))
                optimizer.step()
            labels.append(batch[1])
        orders.append(torch.cat(labels))
    assert len(orders[0]) == 55_000
    assert not torch.equal(*orders)
    val = fabric.setup_dataloaders(datamodule.val_dataloader())
    assert sum(len(labels) for _, labels in val) == 5000


def test_what_others_call_a_step_for_counts_nowhere(data: Any) -> None:
    """A callback may look at a batch, and a step may have numbers of its own."""

    class Look(Callback):
        def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            pl_module.validation_step((IMAGES, LABELS), 0)

        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            pl_module.training_step((IMAGES, LABELS), 0)

    class Unnumbered(FashionMNISTClassifier):
        def training_step(self, batch: Any) -> Any:  # type: ignore[override]
            return super().training_step(batch, 0)

        def validation_step(self, batch: Any) -> Any:  # type: ignore[override]
            return super().validation_step(batch, 0)

    outcomes = []
    for kind, callbacks in (
        (FashionMNISTClassifier, []),
        (FashionMNISTClassifier, [Look()]),
        (Unnumbered, []),
    ):
        torch.manual_seed(0)
        classifier, theirs = kind(), trainer(callbacks=callbacks, log_every_n_steps=1)
        theirs.fit(classifier, data())
        outcomes.append((theirs.callback_metrics, classifier.temperature.item()))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_a_module_around_ours(data: Any) -> None:
    class Outer(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = FashionMNISTClassifier()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.inner.training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            self.inner.validation_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            return self.inner.configure_optimizers()

    theirs = trainer(log_every_n_steps=1)
    theirs.fit(Outer(), data())
    assert theirs.global_step == 4


def test_a_step_that_is_skipped_is_not_logged() -> None:
    class Careful(FashionMNISTClassifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss if loss.isfinite() else None

    images = IMAGES.clone()
    images[30:] = torch.nan  # the last of four batches
    theirs = trainer()
    theirs.fit(Careful(), loader(images, LABELS), loader())
    assert theirs.callback_metrics["train_loss"].isfinite()


def test_the_optimizer_by_hand() -> None:
    made = FashionMNISTClassifier().configure_optimizers()
    rates = []
    for _ in range(3):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert rates == [2.5e-3] * 3  # No trainer has said how long the run is.


def test_constants_stand_when_weights_come_later() -> None:
    trained = FashionMNISTClassifier.from_pretrained("mlp")
    with torch.device("meta"):
        empty = FashionMNISTClassifier()
    empty.load_state_dict(trained.state_dict(), assign=True)
    assert torch.equal(empty.eval()(IMAGES), trained(IMAGES))


# Batches of their own.


@dataclass
class Named:
    image: Tensor
    label: Tensor


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, LABELS, torch.arange(40)),
        [IMAGES, LABELS, torch.rand(40, 10)],  # weights of their own, and no teacher's logits
        {"image": IMAGES, "label": LABELS},
        {"x": IMAGES, "y": LABELS, "id": torch.arange(40)},
        Named(IMAGES, LABELS),
        (IMAGES, F.one_hot(LABELS, 10).float()),
    ],
    ids=["index", "weights", "dict", "xy", "dataclass", "soft"],
)
def test_images_and_labels_are_found(batch: Any) -> None:
    expected = FashionMNISTClassifier(MLP(), label_smoothing=0)
    loss = expected.training_step((IMAGES, LABELS), 0)
    assert expected.training_step(batch, 0).item() == pytest.approx(loss.item(), rel=1e-5)
    batches: Any = DataLoader([batch], batch_size=None, collate_fn=lambda each: each)  # type: ignore[arg-type]
    theirs = trainer()
    theirs.fit(expected, batches, batches)
    assert theirs.callback_metrics["val_acc"] >= 0
    theirs.test(expected, batches, verbose=False)
    (probs,) = theirs.predict(expected, batches) or []
    assert isinstance(probs, Tensor)
    assert probs.shape == (40, 10)


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        (IMAGES, r"float32 \(40, 1, 28, 28\)"),
        ((LABELS, IMAGES), r"\[int64 \(40,\), float32"),
        ((IMAGES, LABELS[:7]), r"int64 \(7,\)"),
        ({"picture": IMAGES}, r"\{picture: float32"),
        ((IMAGES, F.one_hot(LABELS, 10)), r"int64 \(40, 10\)"),
        (["a.jpg"], r"\[str\]"),
    ],
)
def test_batches_without_images_and_labels_are_refused_in_one_sentence(
    batch: Any, got: str
) -> None:
    with pytest.raises(ValueError, match=f"Expected a batch to begin with images .* {got}"):
        FashionMNISTClassifier().training_step(batch, 0)


def test_mixup_and_cutmix_in_a_hook(data: Any) -> None:
    class Mixed(FashionMNISTDataModule):
        mix = v2.RandomChoice([v2.MixUp(num_classes=10), v2.CutMix(num_classes=10)])

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            assert self.trainer is not None
            return self.mix(*batch) if self.trainer.training else batch

    theirs = trainer()
    theirs.fit(FashionMNISTClassifier(), data(Mixed))
    assert 0 < theirs.callback_metrics["train_loss"] < 3


# Loaders, and data sets in the place of ours.


def test_a_callback_that_peeks_changes_nothing(data: Any) -> None:
    class Peek(Callback):
        def on_train_start(self, trainer: Trainer, *_: Any) -> None:
            next(iter(trainer.train_dataloader))  # type: ignore[arg-type]

        def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
            next(iter(trainer.train_dataloader))  # type: ignore[arg-type]

        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            next(iter(trainer.train_dataloader))  # type: ignore[arg-type]

        def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
            next(iter(trainer.val_dataloaders))  # type: ignore[arg-type]

    class Dropping(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.Dropout(), nn.Linear(784, 10))

    outcomes = []
    for callbacks in ([], [Peek()]):
        torch.manual_seed(4)
        classifier = FashionMNISTClassifier(Dropping())
        theirs = trainer(max_epochs=2, limit_train_batches=10, callbacks=callbacks)
        theirs.fit(classifier, data())
        outcomes.append((classifier.state_dict()["network.2.weight"], theirs.callback_metrics))
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1] == outcomes[1][1]


def test_several_of_our_loaders_at_once(data: Any) -> None:
    datamodule = data(batch_size=5000)
    datamodule.prepare_data()
    datamodule.setup("fit")
    both = CombinedLoader(
        {"a": datamodule.train_dataloader(), "b": datamodule.train_dataloader()}, "min_size"
    )
    for batch, _, _ in both:
        assert torch.equal(batch["a"][1], batch["b"][1])


def test_workers_load_the_same(data: Any) -> None:
    batches = []
    for workers in (0, 1):
        torch.manual_seed(0)
        datamodule = data(num_workers=workers, shift=1, batch_size=2000, val_size=50_000)
        datamodule.prepare_data()
        datamodule.setup("fit")
        loader = datamodule.train_dataloader()
        batches.append([*loader, *loader, next(iter(datamodule.val_dataloader()))])
    for ours, theirs in zip(*batches, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def check_order(_: int, loader: Any, labels: Tensor) -> None:
    """Do the work of one process of the next test."""
    assert torch.equal(torch.cat([batch[1] for batch in loader]), labels)


@pytest.mark.long
def test_processes_are_spawned_with_a_loader(data: Any) -> None:
    """Each gets a copy of its own, as strategy="ddp_spawn" does it."""
    datamodule = data(batch_size=5000)
    datamodule.prepare_data()
    datamodule.setup("fit")
    loader = datamodule.train_dataloader()
    labels = torch.cat([labels for _, labels in copy.deepcopy(loader)])
    spawn(check_order, (loader, labels), nprocs=2)  # type: ignore[no-untyped-call]


class Floats(FashionMNISTDataModule):
    """Images as floats in [0, 1], made once."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        for name in ("train_set", "val_set"):
            images, labels = getattr(self, name).tensors
            setattr(self, name, TensorDataset(images.unsqueeze(1) / 255, labels))


class Subsets(FashionMNISTDataModule):
    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.train_set = Subset(self.train_set, range(len(self.train_set)))
        self.val_set = Subset(self.val_set, range(len(self.val_set)))


class Foreign(FashionMNISTDataModule):
    """The same images, loaded one by one by somebody else's class."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.train_set = [(i[None] / 255, int(y)) for i, y in zip(*self.train_set.tensors)]  # noqa: B905
        self.val_set = [(i[None] / 255, int(y)) for i, y in zip(*self.val_set.tensors)]  # noqa: B905


@pytest.mark.parametrize(("kind", "shift"), [(Floats, 0), (Subsets, 0), (Floats, 1), (Foreign, 1)])
def test_other_data_sets_of_the_same_images_train_alike(
    kind: type[FashionMNISTDataModule], shift: int, data: Any
) -> None:
    outcomes = []
    for each in (FashionMNISTDataModule, kind):
        torch.manual_seed(0)
        classifier = FashionMNISTClassifier(MLP(hidden_features=8))
        theirs = trainer()
        theirs.fit(classifier, data(each, shift=shift, val_size=55_000, batch_size=100))
        outcomes.append((classifier.network.state_dict(), theirs.callback_metrics))
    for ours, other in zip(outcomes[0][0].values(), outcomes[1][0].values(), strict=True):
        assert torch.equal(ours, other)
    assert outcomes[0][1] == outcomes[1][1]


class Torchvisions(FashionMNISTDataModule):
    def setup(self, stage: str) -> None:
        super().setup(stage)
        whole = FashionMNIST(self.data_dir, transform=ToTensor())
        self.train_set, self.val_set = Subset(whole, range(1000)), Subset(whole, range(1000, 1500))


class Streamed(FashionMNISTDataModule):
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter([(image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True)])

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.train_set = self.Stream()


def test_a_data_set_of_torchvision_and_a_stream(data: Any) -> None:
    theirs = trainer(max_epochs=2)
    theirs.fit(FashionMNISTClassifier(), data(Torchvisions, batch_size=100))
    assert theirs.callback_metrics["train_acc"] > 0.3
    theirs = trainer(limit_train_batches=None)
    theirs.fit(FashionMNISTClassifier(), data(Streamed, batch_size=10, horizontal_flip=0))
    assert theirs.global_step == 4
    with pytest.raises(ValueError, match="`horizontal_flip` to be 0 with an IterableDataset"):
        trainer().fit(FashionMNISTClassifier(), data(Streamed))
    with pytest.raises(ValueError, match="`teacher` to be None unless `train_set` lies in memory"):
        trainer().fit(FashionMNISTClassifier(), data(Torchvisions, teacher="pretrained:mlp"))


def test_training_on_nothing(data: Any) -> None:
    for limit in (0, 0.0):
        theirs = trainer(limit_train_batches=limit)
        theirs.fit(FashionMNISTClassifier(), data())
        assert theirs.global_step == 0


def test_a_datamodule_and_a_module_can_be_copied_after_a_fit(data: Any) -> None:
    classifier, datamodule = FashionMNISTClassifier(), data()
    trainer().fit(classifier, datamodule)
    for twin in (copy.deepcopy(datamodule), pickle.loads(pickle.dumps(datamodule))):
        assert twin.trainer is None
        assert len(twin.train_dataloader()) == 110
    for module in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert torch.equal(module.eval()(IMAGES), classifier.eval()(IMAGES))


def test_a_teacher_is_asked_anew_when_the_images_are_others(data: Any) -> None:
    class Changing(FashionMNISTDataModule):
        first = 0

        def setup(self, stage: str) -> None:
            super().setup(stage)
            images, labels = self.train_set.tensors
            part = slice(self.first, self.first + 500)
            self.train_set.tensors = images[part], labels[part]

    datamodule = data(Changing, teacher="pretrained:mlp", batch_size=500, horizontal_flip=0)
    teacher = FashionMNISTClassifier.from_pretrained("mlp")
    for first in (0, 1000):
        datamodule.first = first
        datamodule.setup("fit")
        (batch,) = datamodule.train_dataloader()
        with torch.no_grad():
            expected = teacher(batch["images"])
        assert torch.allclose(batch["teacher_logits"], expected, atol=1e-5)


# Several loaders.


def test_two_validation_loaders_have_metrics_of_their_own() -> None:
    one, other = loader(), loader(torch.rand(40, 1, 28, 28), (LABELS + 3) % 10)
    for loaders in ([one, other], [other, one]):
        torch.manual_seed(1)
        classifier = FashionMNISTClassifier(label_smoothing_power=0)
        theirs = trainer(limit_val_batches=None)
        theirs.fit(classifier, one, loaders)
        logged, temperature = theirs.callback_metrics, classifier.temperature.item()
        alone = trainer(limit_val_batches=None)
        for number, each in enumerate(loaders):
            (expected,) = alone.validate(classifier, each, verbose=False)
            for name, value in expected.items():
                got = logged[f"{name}/dataloader_idx_{number}"].item()
                assert got == pytest.approx(value, rel=1e-5)
                if number == 0:
                    assert logged[name].item() == pytest.approx(value, rel=1e-5)
        torch.manual_seed(1)
        again = FashionMNISTClassifier(label_smoothing_power=0)
        trainer(limit_val_batches=None).fit(again, one, loaders[0])
        assert again.temperature.item() == temperature


# Networks of others.


class Lazy(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(10))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.filterwarnings("ignore:The total number of parameters detected may be inaccurate")
def test_lazy_networks_train_and_load(tmp_path: Path) -> None:
    classifier = FashionMNISTClassifier(Lazy())
    theirs = trainer()
    theirs.fit(classifier, loader(), loader())
    theirs.save_checkpoint(tmp_path / "lazy.ckpt")
    loaded = FashionMNISTClassifier.load_from_checkpoint(tmp_path / "lazy.ckpt", network=Lazy())
    assert torch.equal(loaded.eval()(IMAGES), classifier.eval()(IMAGES))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_networks_get_their_weights_before_lightning_moves_them() -> None:
    classifier = FashionMNISTClassifier(Lazy())
    classifier._device = torch.device("meta")  # As Lightning sets it before `setup`, on a GPU.
    classifier.setup("fit")
    assert classifier.eval()(IMAGES).device.type == "cpu"


def test_networks_that_return_more_than_logits_are_refused_in_one_sentence() -> None:
    class Auxiliary(nn.Module):
        def forward(self, images: Tensor) -> Any:
            return images.flatten(1)[:, :10], images

    with pytest.raises(TypeError, match=r"Expected `network` to return logits, .* but got tuple"):
        FashionMNISTClassifier(Auxiliary())(IMAGES)


def test_a_network_in_the_wrapper_of_torch_compile_is_refused_and_one_without_loads(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=r"`torch\.compile` has not wrapped.*but got 'Optimized"):
        FashionMNISTClassifier(torch.compile(MLP(hidden_features=8)))  # type: ignore[arg-type]
    network = MLP(hidden_features=8)
    network.compile(backend="eager")
    theirs = trainer()
    theirs.fit(FashionMNISTClassifier(network), loader(), loader())
    theirs.save_checkpoint(tmp_path / "compiled.ckpt")
    loaded = FashionMNISTClassifier.load_from_checkpoint(tmp_path / "compiled.ckpt")
    assert torch.equal(loaded.network(IMAGES), network(IMAGES))


def test_a_network_of_torchvision_on_three_channels() -> None:
    class ThreeChannels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = models.resnet18(num_classes=7)

        def forward(self, images: Tensor) -> Any:
            return self.network(images.expand(-1, 3, -1, -1))

    classifier = FashionMNISTClassifier(ThreeChannels(), num_classes=7)
    theirs = trainer(enable_model_summary=True)  # Lightning's own looks at no example.
    theirs.fit(classifier, loader(IMAGES, LABELS % 7), loader(IMAGES, LABELS % 7))
    assert theirs.callback_metrics["val_acc"] >= 0


@pytest.mark.parametrize("network", [MLP(), ConvNet(channels=2)])
def test_weights_are_plain_contiguous_tensors(network: nn.Module, data: Any) -> None:
    vector = nn.utils.parameters_to_vector(network.parameters())
    nn.utils.vector_to_parameters(2 * vector, network.parameters())
    assert torch.equal(nn.utils.parameters_to_vector(network.parameters()), 2 * vector)

    class SecondOrder(FashionMNISTClassifier):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.01, max_iter=2)

    theirs = trainer(limit_train_batches=2)
    theirs.fit(SecondOrder(network), data(batch_size=20))
    assert theirs.global_step == 2


@pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.LightningModule.to_torchscript. has been deprecated")
@pytest.mark.parametrize(
    ("network", "flip_averaging"),
    [(MLP(), False), pytest.param(ConvNet(channels=2), True, marks=pytest.mark.long)],
)
def test_pytorch_exports_the_module_itself(
    network: nn.Module, flip_averaging: bool, tmp_path: Path
) -> None:
    import onnxruntime

    classifier = FashionMNISTClassifier(network, flip_averaging=flip_averaging).eval()
    classifier.temperature.fill_(1.7)
    expected = classifier(IMAGES)
    program = torch.export.export(
        classifier, (IMAGES[:2],), dynamic_shapes=({0: torch.export.Dim("N")},)
    )
    torch.testing.assert_close(program.module()(IMAGES), expected)
    traced: Any = classifier.to_torchscript(method="trace", example_inputs=IMAGES[:2])
    torch.testing.assert_close(traced(IMAGES), expected)
    buffer = io.BytesIO()
    torch.jit.save(classifier.to_torchscript(), buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loaded(IMAGES), expected)
    classifier.to_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (logits,) = session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


# What a fit leaves, and what it finds.


def test_a_loaded_network_trains_as_a_whole(data: Any) -> None:
    """`from_pretrained` returns it in eval mode: a fit is to train its normalization, too."""
    classifier = FashionMNISTClassifier.from_pretrained("convnet")
    before = {name: value.clone() for name, value in classifier.named_buffers()}
    trainer().fit(classifier, data(batch_size=50))
    changed = [name for name, value in classifier.named_buffers() if (value != before[name]).any()]
    assert len(changed) == len(before)


def test_explicit_constants_win_over_a_checkpoints() -> None:
    classifier = FashionMNISTClassifier.from_pretrained("mlp", mean=0.0, std=1.0)
    with torch.no_grad():
        expected = classifier.network(IMAGES) / classifier.temperature
    assert torch.equal(classifier(IMAGES), expected)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_fit_that_is_broken_off_leaves_the_temperature(
    error: type[BaseException], data: Any
) -> None:
    class Break(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.current_epoch == broken_in:
                raise error

    classifier = FashionMNISTClassifier.from_pretrained("mlp")
    before, broken_in = classifier.temperature.item(), 0
    assert before != 1
    with pytest.raises((error, SystemExit)):
        trainer(callbacks=[Break()]).fit(classifier, data())
    assert classifier.temperature.item() == before
    broken_in = 1
    with pytest.raises((error, SystemExit)):
        trainer(callbacks=[Break()], max_epochs=2, limit_val_batches=None).fit(classifier, data())
    assert classifier.temperature.item() not in (before, 1)


def test_averaged_weights_have_one_answer(tmp_path: Path, data: Any) -> None:
    """A test in the same trainer, the file, and a continued run agree."""

    def fit(**more: Any) -> tuple[FashionMNISTClassifier, Trainer]:
        torch.manual_seed(0)
        classifier = FashionMNISTClassifier(label_smoothing_power=0)
        callbacks = [EMAWeightAveraging(decay=0.9), BestAndLast(tmp_path)]
        theirs = trainer(
            enable_checkpointing=True, callbacks=callbacks, limit_val_batches=None, max_epochs=2
        )
        theirs.fit(classifier, data(), **more)
        return classifier, theirs

    _, theirs = fit()
    (tested,) = theirs.test(ckpt_path="best", datamodule=data(), verbose=False, weights_only=True)
    loaded = FashionMNISTClassifier.load_from_checkpoint(tmp_path / "best.ckpt")
    (again,) = trainer().test(loaded, data(), verbose=False)
    assert tested == again
    (validated,) = trainer(limit_val_batches=None).validate(loaded, data(), verbose=False)
    checkpoints: Any = theirs.checkpoint_callback
    assert validated["val_loss"] == pytest.approx(float(checkpoints.best_model_score))
    last = FashionMNISTClassifier.load_from_checkpoint(tmp_path / "last.ckpt")
    assert last.temperature.item() != 1
    _, theirs = fit(ckpt_path=tmp_path / "last.ckpt")
    assert theirs.global_step == 8


@pytest.mark.filterwarnings("ignore:The learning rate goes on")
def test_what_searches_find_counts(data: Any) -> None:
    rates: list[float] = []

    class Note(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if trainer.max_epochs == 2:
                rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    classifier = FashionMNISTClassifier(lr=1e-5, warmup=0.5)
    theirs = trainer(
        callbacks=[LearningRateFinder(num_training_steps=25), Note()],
        max_epochs=2,
        limit_train_batches=10,
    )
    theirs.fit(classifier, data())
    assert classifier.lr != 1e-5
    rates = rates[-20:]
    assert max(rates) == pytest.approx(classifier.lr, rel=0.2)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[0] < 0.2 * classifier.lr

    datamodule = data(batch_size=500)
    finder = BatchSizeFinder(max_trials=2, init_val=2750, steps_per_trial=1)
    theirs = trainer(callbacks=[finder], limit_train_batches=None)
    theirs.fit(FashionMNISTClassifier(MLP(hidden_features=8)), datamodule)
    assert datamodule.batch_size > 500
    assert theirs.global_step == 55_000 // datamodule.batch_size
    assert theirs.optimizers[0].param_groups[0]["lr"] == 0  # The schedule ends with the run.


def test_a_warm_up_of_a_run_that_ends_early_is_said(
    said: pytest.LogCaptureFixture, data: Any
) -> None:
    theirs = trainer(callbacks=[EarlyStopping("val_loss")], max_epochs=1000, max_steps=4)
    theirs.fit(FashionMNISTClassifier(), data())
    assert "EarlyStopping" not in said.text.replace("that EarlyStopping or `max_time` ends", "")
    theirs = trainer(callbacks=[EarlyStopping("val_loss", patience=0)], max_epochs=1000)
    theirs.fit(FashionMNISTClassifier(lr=1e-9), data())
    assert "rises for 400 steps and falls until step 4,000" in said.text


def test_a_mid_epoch_checkpoint_is_no_resume_for_a_datamodule_alone(
    tmp_path: Path, data: Any
) -> None:
    theirs = trainer(max_steps=3, limit_train_batches=None)
    theirs.fit(FashionMNISTClassifier(), data())
    theirs.save_checkpoint(tmp_path / "mid.ckpt")
    datamodule = FashionMNISTDataModule.load_from_checkpoint(
        tmp_path / "mid.ckpt", data_dir=data().data_dir, weights_only=True
    )
    theirs = trainer(limit_train_batches=None)
    theirs.fit(FashionMNISTClassifier(MLP(hidden_features=4)), datamodule)
    assert theirs.global_step == 110


def test_a_run_on_foreign_loaders_continues(tmp_path: Path) -> None:
    theirs = trainer(limit_train_batches=None)
    theirs.fit(FashionMNISTClassifier(), loader(), loader())
    theirs.save_checkpoint(tmp_path / "one.ckpt")
    theirs = trainer(limit_train_batches=None, max_epochs=2)
    with pytest.warns(UserWarning, match="this run plans 8 steps"):
        theirs.fit(
            FashionMNISTClassifier(),
            loader(),
            loader(),
            ckpt_path=tmp_path / "one.ckpt",
            weights_only=True,
        )
    assert theirs.global_step == 8
    assert theirs.callback_metrics["train_acc"] >= 0


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_run_goes_on_inside_an_epoch(by_hand: bool, tmp_path: Path, data: Any) -> None:
    """Also with our loader in other hands, and after an error in the middle of a step."""

    class Broken(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if not by_hand:
                self._break(trainer)

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if by_hand:  # Such a loader knows what it has served, not what became of it.
                self._break(trainer)

        def _break(self, trainer: Trainer) -> None:
            if trainer.global_step == 6 and breaks:
                trainer.save_checkpoint(tmp_path / "broken.ckpt")
                raise RuntimeError("power is out")

    def fit(**more: Any) -> list[Tensor]:
        torch.manual_seed(3)
        classifier = FashionMNISTClassifier(MLP(hidden_features=8))
        datamodule = data(shift=1, batch_size=2000)
        theirs = trainer(max_epochs=2, limit_train_batches=None, callbacks=[Broken()])
        batches: Any = {"datamodule": datamodule}
        if by_hand:
            datamodule.prepare_data()
            datamodule.setup("fit")
            batches = {"train_dataloaders": datamodule.train_dataloader()}
            batches["val_dataloaders"] = datamodule.val_dataloader()
        theirs.fit(classifier, **batches, **more)
        return [*classifier.parameters()]

    breaks = False
    whole = fit()
    breaks = True
    with pytest.raises(RuntimeError, match="power"):
        fit()
    breaks = False
    again = fit(ckpt_path=tmp_path / "broken.ckpt", weights_only=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(whole, again, strict=True))


def test_a_file_that_somebody_trusts_is_read(tmp_path: Path, data: Any) -> None:
    """Another datamodule may record what is no plain value; who trusts the file says so."""
    theirs = trainer()
    theirs.fit(FashionMNISTClassifier(), data())
    theirs.save_checkpoint(tmp_path / "plain.ckpt")
    content = torch.load(tmp_path / "plain.ckpt", weights_only=True)
    content["datamodule_hyper_parameters"]["root"] = Path("somewhere")
    torch.save(content, tmp_path / "path.ckpt")
    cases: list[dict[str, Any]] = [{}, {"weights_only": True}]
    for explicit in cases:
        with pytest.raises(ValueError, match="`weights_only=False` of `load_from_checkpoint`"):
            FashionMNISTClassifier.load_from_checkpoint(tmp_path / "path.ckpt", **explicit)
    loaded = FashionMNISTClassifier.load_from_checkpoint(tmp_path / "path.ckpt", weights_only=False)
    assert torch.equal(loaded.mean, torch.tensor(0.2860))
