"""The module in other people's subclasses and fits: what they replace, repeat or continue."""

import logging
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset, random_split

from fashion_lightning import MLP, FashionMNISTClassifier, FashionMNISTDataModule
from fashion_lightning.data.batches import ImageDataset
from fashion_lightning.data.foreign import in_memory

# Lightning's advice about what these tests do on purpose.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "You defined a `validation_step` but have no",
        r"When using `Trainer\(accumulate_grad_batches != 1\)` and overriding",
        "SWA is currently only supported every epoch",
        "You requested to overfit but enabled train dataloader shuffling",
    )
]

IMAGES, LABELS = torch.rand(40, 1, 28, 28), torch.arange(40) % 10


def loader(*parts: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*(parts or (IMAGES, LABELS))), batch_size=4)


def trainer(**arguments: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**(defaults | arguments))


class Rates(Callback):
    """Keeps the rate of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.after = trainer.optimizers[0].param_groups[0]["lr"]


def rises_and_falls(rates: list[float], steps: int, lr: float = 2.5e-3) -> bool:
    peak = rates.index(max(rates))
    rise = rates[: peak + 1] == sorted(rates[: peak + 1])
    fall = rates[peak:] == sorted(rates[peak:], reverse=True)
    return len(rates) == steps and rise and fall and max(rates) <= lr and rates[-1] < 0.2 * lr


class Doubled(FashionMNISTClassifier):
    """Its own forward sees images of another size."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(F.interpolate(images, size=32))


class Uncalibrated(FashionMNISTClassifier):
    """Its own forward has no temperature."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


class Ensemble(FashionMNISTClassifier):
    """Its own forward averages probabilities: no temperature divides the outcome."""

    def forward(self, images: Tensor) -> Tensor:
        turned = super().forward(images.rot90(1, (-2, -1))).softmax(1)
        return (super().forward(images).softmax(1) + turned).log()


@pytest.mark.parametrize("kind", [Doubled, Uncalibrated, Ensemble])
def test_an_own_forward_is_what_every_step_uses(kind: type[FashionMNISTClassifier]) -> None:
    side = 32 if kind is Doubled else 28
    module = kind(nn.Sequential(nn.Flatten(), nn.Linear(side**2, 10)))
    theirs, labels = trainer(max_epochs=1), LABELS.roll(3)  # Memorized images have no temperature.
    theirs.fit(module, loader(), loader(IMAGES, labels))
    val_loss = theirs.callback_metrics["val_loss"].item()
    with torch.no_grad():
        loss = F.cross_entropy(module.eval()(IMAGES), labels).item()
    assert val_loss == pytest.approx(loss, rel=1e-5)
    theirs.test(module, loader(IMAGES, labels), verbose=False)
    assert theirs.callback_metrics["test_loss"].item() == pytest.approx(loss, rel=1e-5)
    probs: Any = theirs.predict(module, loader())
    assert torch.allclose(torch.cat(probs), module(IMAGES).softmax(1), atol=1e-6)
    assert (module.temperature == 1) == (kind is not Doubled)


class OwnStart(FashionMNISTClassifier):
    def on_train_start(self) -> None:
        self.greeting = "hello"


def test_an_own_start_does_not_lose_the_schedule() -> None:
    rates = Rates()
    trainer(callbacks=[rates]).fit(OwnStart(), loader())
    assert rises_and_falls(rates.rates, 20)


class Manual(FashionMNISTClassifier):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


def test_manual_optimization_trains_at_the_given_rate() -> None:
    module, rates = Manual(), Rates()
    before = [weights.clone() for weights in module.parameters()]
    trainer(callbacks=[rates]).fit(module, loader())
    assert rates.after == module.lr
    assert not any(map(torch.equal, before, module.parameters()))


def test_a_second_fit_has_a_schedule_of_its_own() -> None:
    rates = Rates()
    theirs, module = trainer(max_epochs=1, callbacks=[rates]), FashionMNISTClassifier()
    theirs.fit(module, loader())
    first, rates.rates = rates.rates, []
    theirs.fit_loop.max_epochs = 4
    theirs.fit(module, loader())
    assert rises_and_falls(first, 10)
    assert rises_and_falls(rates.rates, 30)


def test_steps_that_accumulate_more_and_more_batches_are_counted() -> None:
    rates = Rates()
    theirs = trainer(max_epochs=3, callbacks=[rates, GradientAccumulationScheduler({0: 1, 1: 5})])
    theirs.fit(FashionMNISTClassifier(), loader())
    assert rises_and_falls(rates.rates, 14)


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU())
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images))
        return logits


class Finetuned(FashionMNISTClassifier):
    @property
    def backbone(self) -> Any:
        return self.network.backbone


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_groups_that_finetuning_adds_follow_the_schedule(optimizer: Any) -> None:
    seen: list[list[float]] = []

    class Groups(Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            seen.append([group["lr"] for group in optimizer.param_groups])

    unfreeze = BackboneFinetuning(unfreeze_backbone_at_epoch=1, verbose=False)
    theirs = trainer(max_epochs=3, callbacks=[unfreeze, Groups()])
    module = Finetuned(Backbone(), optimizer=optimizer)
    theirs.fit(module, loader())
    own = len(seen[0])
    assert [len(rates) for rates in seen] == [own] * 10 + [own + 1] * 20
    assert seen[-1][own] < 0.5 * seen[11][own]
    by_muon = "momentum_buffer" in theirs.optimizers[0].state[module.backbone[1].weight]
    assert by_muon == (optimizer == "muon")


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit_val_batches": 0},
        {"callbacks": [StochasticWeightAveraging(1e-2, 1)]},
        {"val_check_interval": 0.3},
        {"check_val_every_n_epoch": 2},
    ],
)
def test_a_temperature_of_other_weights_is_named(arguments: dict[str, Any]) -> None:
    module = FashionMNISTClassifier.from_pretrained("mlp")
    with pytest.warns(UserWarning, match=r"The temperature is .*, of other weights than these"):
        trainer(max_epochs=3, **arguments).fit(module, loader(), loader())


def test_a_run_continues_with_its_optimizer_or_not_at_all(tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, filename="x")
    first = trainer(max_epochs=1, callbacks=[save], enable_checkpointing=True)
    first.fit(FashionMNISTClassifier(), loader())
    for name, value in {"optimizer": "sgd", "weight_decay": 0.0, "beta2": 0.5}.items():
        module = FashionMNISTClassifier(**cast("dict[str, Any]", {name: value}))
        with pytest.raises(ValueError, match=f"`{name}` to be .*, with which the run .* but got"):
            trainer().fit(module, loader(), ckpt_path=str(tmp_path / "x.ckpt"))


def test_every_call_of_a_step_counts_whatever_hooks_are_replaced() -> None:
    class Halves(FashionMNISTClassifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            halves = zip(*(part.chunk(2) for part in batch), strict=True)
            first, second = (super(Halves, self).training_step(half, 0) for half in halves)
            return (first + second) / 2

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            """Do without the parent's."""

    losses = []
    for kind in (FashionMNISTClassifier, Halves):
        torch.manual_seed(0)
        theirs = trainer(max_epochs=1)
        theirs.fit(kind(), loader())
        losses.append(theirs.callback_metrics["train_loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_schedule_that_somebody_steps_under_manual_optimization() -> None:
    class Stepped(Manual):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            super().training_step(batch, batch_idx)
            self.lr_schedulers().step()  # type: ignore[union-attr]

    class After(Callback):
        rates: list[float]

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    after = After()
    after.rates = []
    trainer(max_epochs=2, callbacks=[after]).fit(Stepped(), loader())
    assert len({*after.rates}) == 20
    assert after.rates[-1] == 0


def test_a_rate_set_by_a_callback_stays_in_a_run_without_an_end() -> None:
    class Own(Rates):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            trainer.optimizers[0].param_groups[0]["lr"] = 1e-4 * (trainer.global_step + 1)

    own = Own()
    trainer(max_epochs=-1, max_steps=-1, max_time={"seconds": 1}, callbacks=[own]).fit(
        FashionMNISTClassifier(MLP(hidden_features=4)), loader()
    )
    assert own.rates == [pytest.approx(1e-4 * (n + 1)) for n in range(len(own.rates))]


def test_a_forward_that_returns_probabilities_is_refused() -> None:
    class Probs(FashionMNISTClassifier):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).softmax(dim=1)

    with pytest.raises(ValueError, match=r"`forward` to be one that returns logits, .* but got"):
        trainer().fit(Probs(), loader(), loader())


def test_nothing_grows_in_a_subclass_with_hooks_of_its_own() -> None:
    class Own(FashionMNISTClassifier):
        def on_validation_epoch_start(self) -> None:
            """Forget nothing."""

        def on_validation_epoch_end(self) -> None:
            """Log nothing."""

    module = Own()
    trainer(max_epochs=3).fit(module, loader(), loader())
    outputs = module.outputs_of("val", 0)
    assert outputs is not None
    assert len(outputs[1]) == len(LABELS)


def test_a_network_of_another_number_of_classes_is_refused() -> None:
    module = FashionMNISTClassifier(MLP(num_classes=3), num_classes=2)
    right = r"`network` to be one that returns logits \(N, 2\), .*, but got \(40, 3\)"
    with pytest.raises(ValueError, match=right):
        module(IMAGES)


def test_frozen_networks_are_refused_and_odd_labels_are_understood() -> None:
    module = FashionMNISTClassifier()
    module.freeze()
    with pytest.raises(ValueError, match="`network` to be one with weights that require a grad"):
        trainer().fit(module, loader())
    for kind in (torch.int32, torch.uint8):
        trainer(max_epochs=1).fit(FashionMNISTClassifier(), loader(IMAGES, LABELS.to(kind)))
    with pytest.raises(ValueError, match="Expected a batch to begin with images"):
        trainer().fit(FashionMNISTClassifier(), loader(IMAGES, LABELS.float()))


def test_images_are_bytes_or_floats_of_the_default_type() -> None:
    with pytest.raises(ValueError, match="`images` to be uint8 or floating point"):
        ImageDataset([torch.zeros(3, 28, 28, dtype=torch.int32), torch.zeros(3)])
    torch.set_default_dtype(torch.float64)
    try:
        dataset = ImageDataset([torch.zeros(3, 28, 28, dtype=torch.uint8), torch.zeros(3)])
        assert dataset[0][0].dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_joined_data_sets_and_dict_samples_are_augmented(data_dir: Path) -> None:
    whole = TensorDataset(IMAGES, LABELS)
    halves: ConcatDataset[Any] = ConcatDataset(random_split(whole, [20, 20]))
    found = in_memory(halves)
    assert found is not None
    assert sorted(found[1].tolist()) == sorted(LABELS.tolist())

    class Dicts(FashionMNISTDataModule):
        def setup(self, stage: str) -> None:
            self.train_set = [{"image": i, "label": n} for i, n in zip(IMAGES, LABELS, strict=True)]

    datamodule = Dicts(data_dir, mirrors=[], batch_size=40, horizontal_flip=1.0)
    datamodule.setup("fit")
    (batch,) = datamodule.train_dataloader()
    mirrored = IMAGES.flip(-1).sum(dim=2).flatten(1)
    assert {tuple(row) for row in batch["image"].sum(dim=2).flatten(1).tolist()} == {
        tuple(row) for row in mirrored.tolist()
    }


def test_our_loader_serves_where_lightning_replaces_its_sampler(data_dir: Path) -> None:
    datamodule = FashionMNISTDataModule(data_dir, mirrors=[], batch_size=1000)
    datamodule.setup("fit")
    theirs, module = trainer(overfit_batches=2, max_epochs=1), FashionMNISTClassifier()
    probs: Any = theirs.predict(module, datamodule.train_dataloader())
    assert sum(map(len, probs)) in (55_000, 55_000 // 1000 * 1000)
    theirs.fit(module, datamodule.train_dataloader())
    theirs.fit(module, datamodule)
    by_hand = datamodule.train_dataloader()
    first, second = (torch.cat([labels for _, labels in by_hand]) for _ in range(2))
    assert not torch.equal(first, second)  # The trainer is over, and with it `overfit_batches`.
    next(iter(by_hand))
    state: dict[str, Any] = by_hand.state_dict()  # type: ignore[attr-defined]
    assert (state["epoch"], state["images"]) == (2, 1000)


def test_a_run_that_time_ends_is_told_of_its_schedule(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("lightning.pytorch")
    logger.addHandler(caplog.handler)
    try:
        theirs = trainer(max_epochs=1000, max_steps=3, max_time={"seconds": 60})
        theirs.fit(FashionMNISTClassifier(), loader())
    finally:
        logger.removeHandler(caplog.handler)
    assert "falls until step 3" in caplog.text
