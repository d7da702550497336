from functools import partial
from pathlib import Path
from shutil import which
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import special
from sklearn import metrics as sklearn
from torch import Tensor, nn
from torch import _dynamo as dynamo
from torch._dynamo.utils import counters
from torch.utils.data import DataLoader, TensorDataset

from fashion_lightning import MLP, ConvNet, FashionMNISTClassifier, FashionMNISTDataModule
from fashion_lightning.training.losses import distillation_loss
from fashion_lightning.training.schedules import lr_factor


def quiet_trainer(folder: Path, **arguments: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


def fit(
    folder: Path, data_dir: Path, classifier: FashionMNISTClassifier, **arguments: Any
) -> pl.Trainer:
    trainer = quiet_trainer(folder, **{"max_steps": 10, "limit_val_batches": 2} | arguments)
    trainer.fit(classifier, FashionMNISTDataModule(data_dir, mirrors=[], shift=1))
    return trainer


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_fit_equals_a_plain_loop_bit_for_bit(
    tmp_path: Path, data_dir: Path, optimizer: str
) -> None:
    pl.seed_everything(3)
    classifier = FashionMNISTClassifier(
        optimizer=optimizer,  # type: ignore[arg-type]
        lr=0.01,
        weight_decay=0.1,
        beta2=0.97,
        warmup=0.3,
        label_smoothing=0.1,
        label_smoothing_power=2,
    )
    network = MLP()
    network.load_state_dict(classifier.network.state_dict())
    fit(tmp_path, data_dir, classifier)

    datamodule = FashionMNISTDataModule(data_dir, mirrors=[], shift=1)
    datamodule.setup("fit")
    pl.seed_everything(3)
    plain: torch.optim.Optimizer
    if optimizer == "adamw":
        plain = torch.optim.AdamW(
            network.parameters(), weight_decay=0.1, betas=(0.9, 0.97), fused=True
        )
    else:
        plain = torch.optim.SGD(
            network.parameters(), weight_decay=0.1, momentum=0.9, nesterov=True, fused=True
        )
    for step, (images, labels) in zip(range(10), datamodule.train_dataloader(), strict=False):
        position = (step + 1) / 11
        rise, fall = position / 0.3, (1 - position) / 0.7
        plain.param_groups[0]["lr"] = 0.01 * (rise if position <= 0.3 else fall)
        logits = network((images - 0.2860) / 0.3530)
        loss = F.cross_entropy(logits, labels, label_smoothing=0.1 * (1 - step / 10) ** 2)
        plain.zero_grad()
        torch.autograd.backward(loss)
        plain.step()
    for ours, theirs in zip(classifier.network.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_student_aims_at_its_teachers_probabilities(tmp_path: Path) -> None:
    """The loss is that of Hinton et al.: its gradient is the softened probabilities' difference."""
    student, teacher = torch.randn(2, 40, 10, dtype=torch.float64)
    student.requires_grad_()
    loss = distillation_loss(student, teacher, temperature=3.0)
    (gradient,) = torch.autograd.grad(loss, student)
    difference = special.softmax(student.detach() / 3, 1) - special.softmax(teacher / 3, 1)
    np.testing.assert_allclose(gradient, 3 * difference / 40, atol=1e-12)

    classifier = FashionMNISTClassifier(teacher_temperature=3.0)
    images, labels, logits = torch.rand(8, 1, 28, 28), torch.arange(8), torch.randn(8, 10)
    before = distillation_loss(classifier(images), logits, 3.0).item()
    trainer = quiet_trainer(tmp_path, max_epochs=1, log_every_n_steps=1)
    batch = {"images": images, "labels": labels, "teacher_logits": logits}
    batches = [batch], [(images, labels)]
    trainer.fit(classifier, *(DataLoader(each, batch_size=None) for each in batches))  # type: ignore[arg-type]
    assert trainer.callback_metrics["train_loss"] == pytest.approx(before, rel=1e-5)


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, data_dir: Path) -> None:
    runs = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        pl.seed_everything(seed)
        classifier = FashionMNISTClassifier()
        fit(tmp_path / folder, data_dir, classifier)
        runs.append(torch.cat([weight.flatten() for weight in classifier.parameters()]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    factors = [lr_factor(step, total_steps=99, warmup=0.25) for step in range(100)]
    peak = factors.index(max(factors))
    assert peak == 24
    assert factors[peak] == 1
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert factors[0] > 0
    assert factors[98] > 0
    assert factors[99] == 0
    assert lr_factor(1000, total_steps=99, warmup=0.25) == 0
    assert lr_factor(0, total_steps=99, warmup=0) == 1
    assert lr_factor(98, total_steps=99, warmup=1) == pytest.approx(0.99)


def test_the_schedule_spans_the_runs_real_steps(tmp_path: Path, data_dir: Path) -> None:
    trainer = fit(
        tmp_path,
        data_dir,
        FashionMNISTClassifier(lr=0.5),
        max_steps=-1,
        max_epochs=2,
        limit_train_batches=5,
    )
    assert trainer.global_step == 10
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0


def test_a_run_without_an_end_keeps_its_learning_rate(tmp_path: Path, data_dir: Path) -> None:
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.should_stop = True

    classifier = FashionMNISTClassifier(lr=0.5)
    trainer = fit(tmp_path, data_dir, classifier, max_steps=-1, max_epochs=-1, callbacks=[Stop()])
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.5


def test_logged_metrics_are_scikit_learns(tmp_path: Path, data_dir: Path) -> None:
    datamodule = FashionMNISTDataModule(data_dir, mirrors=[], batch_size=999)
    classifier = FashionMNISTClassifier()
    trainer = quiet_trainer(tmp_path)
    (logged,) = trainer.test(classifier, datamodule, verbose=False)
    predictions = trainer.predict(classifier, datamodule)
    assert predictions is not None
    probs = torch.cat(predictions).double()  # type: ignore[arg-type]
    labels = datamodule.test_set.tensors[1]
    expected = {
        "test_acc": sklearn.accuracy_score(labels, probs.argmax(1)),
        "test_f1": sklearn.f1_score(labels, probs.argmax(1), average="macro"),
        "test_loss": sklearn.log_loss(labels, probs / probs.sum(1, keepdim=True)),
    }
    assert {name: logged[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert set(logged) == {*expected, "test_ece"}


def test_training_metrics_are_those_of_the_epochs_batches(tmp_path: Path, data_dir: Path) -> None:
    """With a learning rate of nearly 0, a second look at the batches gives the same numbers."""
    classifier = FashionMNISTClassifier(lr=1e-12, weight_decay=0, label_smoothing_power=0)
    pl.seed_everything(0)
    trainer = fit(tmp_path, data_dir, classifier, max_steps=-1, max_epochs=1, limit_train_batches=4)
    pl.seed_everything(0)
    datamodule = FashionMNISTDataModule(data_dir, mirrors=[], shift=1)
    datamodule.setup("fit")
    batches = [batch for _, batch in zip(range(4), datamodule.train_dataloader(), strict=False)]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        logits = classifier.train()(images)
    loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
    accuracy = sklearn.accuracy_score(labels, logits.argmax(1))
    assert trainer.callback_metrics["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert trainer.callback_metrics["train_acc"] == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize("network", [MLP(), ConvNet(channels=4)])
def test_only_training_uses_low_precision(
    tmp_path: Path, data_dir: Path, network: nn.Module
) -> None:
    seen: dict[str, set[torch.dtype]] = {"train": set(), "evaluate": set()}

    def note(module: nn.Module, _: Any, output: Tensor) -> None:
        seen["train" if module.training else "evaluate"].add(output.dtype)

    next(m for m in network.modules() if isinstance(m, nn.Linear)).register_forward_hook(note)
    classifier = FashionMNISTClassifier(network)
    datamodule = FashionMNISTDataModule(data_dir, mirrors=[])
    one = {f"limit_{stage}_batches": 1 for stage in ("val", "test", "predict")}
    trainer = quiet_trainer(tmp_path, max_steps=2, precision="bf16-mixed", **one)
    trainer.fit(classifier, datamodule)
    assert seen == {"train": {torch.bfloat16}, "evaluate": {torch.float32}}
    trainer.test(classifier, datamodule, verbose=False)
    trainer.predict(classifier, datamodule)
    assert seen["evaluate"] == {torch.float32}


def test_images_are_normalised_with_constants_that_travel_in_the_checkpoint(
    tmp_path: Path, data_dir: Path
) -> None:
    images = torch.rand(4, 1, 28, 28)
    classifier = FashionMNISTClassifier(mean=0.5, std=0.25)
    assert torch.equal(classifier(images), classifier.network((images - 0.5) / 0.25))
    fit(tmp_path, data_dir, classifier).save_checkpoint(tmp_path / "model.ckpt")
    loaded = FashionMNISTClassifier.load_from_checkpoint(tmp_path / "model.ckpt")
    assert torch.equal(loaded.mean, torch.tensor(0.5))
    assert torch.equal(loaded(images), classifier(images))


def test_flip_averaging_serves_both_directions_alike_unless_it_trains() -> None:
    images = torch.rand(4, 1, 28, 28)
    classifier = FashionMNISTClassifier(flip_averaging=True)
    plain = FashionMNISTClassifier(classifier.network)
    assert torch.equal(classifier(images), plain(images))
    classifier.eval()
    mean = (plain(images) + plain(images.flip(-1))) / 2
    torch.testing.assert_close(classifier(images), mean)
    torch.testing.assert_close(classifier(images.flip(-1)), mean)


def test_the_default_constants_are_those_of_the_training_images(data_dir: Path) -> None:
    datamodule = FashionMNISTDataModule(data_dir, mirrors=[], val_size=0)
    datamodule.setup("fit")
    pixels = datamodule.train_set.tensors[0].double() / 255
    classifier = FashionMNISTClassifier()
    assert classifier.mean.item() == pytest.approx(pixels.mean().item(), abs=1e-4)
    assert classifier.std.item() == pytest.approx(pixels.std().item(), abs=1e-4)


class Wide(FashionMNISTClassifier):
    """A user's subclass with an argument of its own."""

    def __init__(self, dropout: float = 0.0, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.dropout = nn.Dropout(dropout)


@pytest.mark.parametrize(
    "classifier",
    [
        FashionMNISTClassifier(lr=0.3),
        FashionMNISTClassifier(MLP(hidden_features=32)),
        FashionMNISTClassifier(ConvNet(channels=4), label_smoothing=0.3),
        Wide(dropout=0.2, lr=0.4),
    ],
    ids=["default", "MLP", "ConvNet", "subclass"],
)
def test_a_checkpoint_loads_without_arguments(
    tmp_path: Path, data_dir: Path, classifier: FashionMNISTClassifier
) -> None:
    trainer = fit(tmp_path, data_dir, classifier)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert content["hyper_parameters"]["lr"] == classifier.lr
    loaded = type(classifier).load_from_checkpoint(tmp_path / "model.ckpt")
    assert loaded.hparams == classifier.hparams
    images = torch.rand(3, 28, 28)
    assert torch.equal(loaded.eval()(images), classifier.eval()(images))


def test_a_foreign_networks_checkpoint_loads_with_the_network(
    tmp_path: Path, data_dir: Path
) -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

    classifier = FashionMNISTClassifier(network(), lr=0.3)
    fit(tmp_path, data_dir, classifier).save_checkpoint(tmp_path / "model.ckpt")
    torch.load(tmp_path / "model.ckpt", weights_only=True)
    loaded = FashionMNISTClassifier.load_from_checkpoint(tmp_path / "model.ckpt", network=network())
    assert loaded.lr == 0.3
    images = torch.rand(3, 1, 28, 28)
    assert torch.equal(loaded(images), classifier(images))


def test_predict_takes_images_with_and_without_labels(tmp_path: Path) -> None:
    images, labels = torch.rand(10, 1, 28, 28), torch.arange(10)
    trainer = quiet_trainer(tmp_path)
    classifier = FashionMNISTClassifier()
    results = [
        torch.cat(trainer.predict(classifier, DataLoader(dataset, batch_size=4)))  # type: ignore
        for dataset in (TensorDataset(images, labels), TensorDataset(images), images)
    ]
    assert results[0].shape == (10, 10)
    assert torch.allclose(results[0].sum(1), torch.ones(10))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_the_number_of_classes_is_an_option() -> None:
    assert FashionMNISTClassifier(num_classes=3)(torch.rand(2, 28, 28)).shape == (2, 3)


def test_integer_images_are_refused_before_they_are_normalised() -> None:
    with pytest.raises(ValueError, match="uint8"):
        FashionMNISTClassifier()(torch.zeros(1, 28, 28, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "Expected `num_classes` to be an int >= 2, but got 1"),
        ({"optimizer": "adam"}, "`optimizer` to be 'adamw' or 'muon' or 'sgd', but got 'adam'"),
        ({"lr": 0}, "Expected `lr` to be a finite number > 0, but got 0"),
        ({"lr": float("nan")}, "Expected `lr` to be .* got nan"),
        ({"weight_decay": -1}, "Expected `weight_decay` to be .* got -1"),
        ({"beta2": 1}, "Expected `beta2` to be .* got 1"),
        ({"warmup": 1.1}, "Expected `warmup` to be .* got 1.1"),
        ({"label_smoothing": 1}, "Expected `label_smoothing` to be .* got 1"),
        ({"teacher_temperature": 0}, "Expected `teacher_temperature` to be .* > 0, but got 0"),
        ({"label_smoothing_power": -1}, "Expected `label_smoothing_power` to be .* got -1"),
        ({"std": 0}, "Expected `std` to be .* got 0"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FashionMNISTClassifier(**arguments)


NEEDS_COMPILER = pytest.mark.skipif(not which("g++"), reason="inductor needs a C++ compiler")


@pytest.mark.parametrize(
    "backend",
    ["aot_eager", pytest.param("inductor", marks=[NEEDS_COMPILER, pytest.mark.long])],
)
def test_training_can_be_compiled(
    tmp_path: Path, data_dir: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    datamodule = FashionMNISTDataModule(data_dir, mirrors=[])
    weights = []
    for compile_network in (False, True):
        dynamo.reset()
        counters.clear()
        pl.seed_everything(1)
        classifier = FashionMNISTClassifier(
            MLP(hidden_features=16), compile_network=compile_network
        )
        calls: list[bool] = []
        hook = classifier.register_forward_pre_hook(
            lambda module, _, calls=calls: calls.append(module.training)
        )
        trainer = quiet_trainer(tmp_path, max_steps=10, limit_val_batches=1)
        trainer.fit(classifier, datamodule)
        hook.remove()
        assert sum(calls) == 10  # Hooks of users run in either case.
        # Training was compiled, and nothing but training.
        assert counters["stats"]["unique_graphs"] == int(compile_network)
        weights.append(classifier.state_dict())
    plain, compiled = weights
    assert compiled.keys() == plain.keys()
    for name in plain:
        torch.testing.assert_close(compiled[name], plain[name], rtol=1e-3, atol=1e-5)

    path = tmp_path / "compiled.ckpt"
    trainer.save_checkpoint(path)
    trainer = quiet_trainer(tmp_path, max_steps=12, limit_val_batches=0)
    with pytest.warns(UserWarning, match="this run plans 12 steps"):
        trainer.fit(classifier, datamodule, ckpt_path=path, weights_only=True)
    assert trainer.global_step == 12
    loaded = FashionMNISTClassifier.load_from_checkpoint(path)
    (probs,) = quiet_trainer(tmp_path, limit_predict_batches=1).predict(loaded, datamodule) or []
    assert isinstance(probs, Tensor)
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(250))
