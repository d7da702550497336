"""The package's parts in projects of other people."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor
from typing_extensions import override

from fashion_lightning import MLP, ConvNet, FashionMNISTClassifier, FashionMNISTDataModule


class TheirModule(pl.LightningModule):
    """A LightningModule as in Lightning's documentation, without any part of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 10)

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.layer(images.flatten(1)), labels)

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        accuracy = (self.layer(images.flatten(1)).argmax(1) == labels).float().mean()
        self.log("accuracy", accuracy)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def trainer(folder: Path, **arguments: Any) -> pl.Trainer:
    defaults = {"max_epochs": 1, "logger": False, "enable_progress_bar": False}
    return pl.Trainer(default_root_dir=folder, **(defaults | arguments))


def test_our_datamodule_with_their_module(tmp_path: Path, data_dir: Path) -> None:
    theirs = trainer(tmp_path)
    theirs.fit(TheirModule(), FashionMNISTDataModule(data_dir, batch_size=100, mirrors=[]))
    assert theirs.callback_metrics["accuracy"] > 0.75


def test_our_classifier_with_their_network_callbacks_and_loaders(
    tmp_path: Path, data_dir: Path
) -> None:
    dataset = FashionMNIST(data_dir, transform=ToTensor())
    train = DataLoader(Subset(dataset, range(2000)), batch_size=50, shuffle=True)
    val = DataLoader(Subset(dataset, range(2000, 2500)), batch_size=64)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    checkpoints = ModelCheckpoint(tmp_path, monitor="val_loss")
    theirs = trainer(
        tmp_path, max_epochs=3, callbacks=[checkpoints, EarlyStopping("val_acc", mode="max")]
    )
    theirs.fit(FashionMNISTClassifier(network), train, val)
    assert theirs.callback_metrics["val_acc"] > 0.6
    assert checkpoints.best_model_score == pytest.approx(
        theirs.callback_metrics["val_loss"].item(), rel=0.2
    )
    theirs.test(ckpt_path=checkpoints.best_model_path, dataloaders=val, verbose=False)


@pytest.mark.parametrize("network", ["fashion_lightning.ConvNet", None])
def test_both_in_their_cli_by_class_path(
    tmp_path: Path, data_dir: Path, network: str | None
) -> None:
    cli = LightningCLI(
        save_config_callback=None,
        args=[
            *("fit", "--model=fashion_lightning.FashionMNISTClassifier", "--model.lr=0.01"),
            *([f"--model.network={network}", "--model.network.channels=4"] if network else []),
            *("--data=fashion_lightning.FashionMNISTDataModule", f"--data.data_dir={data_dir}"),
            *("--data.mirrors=[]", f"--trainer.default_root_dir={tmp_path}"),
            *("--trainer.max_steps=3", "--trainer.limit_val_batches=1", "--trainer.logger=false"),
            "--seed_everything=0",
        ],
    )
    assert isinstance(cli.model, FashionMNISTClassifier)
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    torch.load(checkpoint, weights_only=True)
    loaded = FashionMNISTClassifier.load_from_checkpoint(checkpoint)
    assert isinstance(loaded.network, ConvNet if network else MLP)
    for ours, theirs in zip(loaded.parameters(), cli.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_script_gets_probabilities_in_the_datasets_order(
    trained: Path, tmp_path: Path, data_dir: Path
) -> None:
    checkpoint = trained / "checkpoints" / "best.ckpt"
    classifier = FashionMNISTClassifier.load_from_checkpoint(checkpoint)
    predictions = trainer(tmp_path).predict(
        classifier, FashionMNISTDataModule(data_dir, mirrors=[])
    )
    assert predictions is not None
    probs = torch.cat(predictions)  # type: ignore[arg-type]
    assert probs.shape == (10_000, 10)
    assert torch.allclose(probs.sum(dim=1), torch.ones(10_000))

    # The same in plain PyTorch, from the checkpoint's tensors and torchvision's dataset alone.
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    network = MLP()
    network.load_state_dict(
        {key[len("network.") :]: value for key, value in state.items() if "network." in key}
    )
    test_set = FashionMNIST(data_dir, train=False, transform=ToTensor())
    images = torch.stack([test_set[index][0] for index in range(500)])
    logits = network((images - state["mean"]) / state["std"])
    expected = (logits / state["temperature"]).softmax(dim=1)
    assert torch.allclose(probs[:500], expected, atol=1e-6)
    assert (probs.argmax(1) == test_set.targets).float().mean() > 0.8


def test_training_with_plain_pytorch_on_our_loaders(data_dir: Path) -> None:
    """The loop of PyTorch's tutorial, on our batches."""
    datamodule = FashionMNISTDataModule(data_dir, mirrors=[], batch_size=200)
    datamodule.prepare_data()
    datamodule.setup("fit")
    model, loss_fn = MLP(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dataloader = datamodule.train_dataloader()
    size = len(dataloader.dataset)  # type: ignore[arg-type]
    seen = 0
    for images, labels in dataloader:
        loss = loss_fn(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen += len(images)
    assert size - 200 < seen <= size
    val = datamodule.val_dataloader()
    with torch.no_grad():
        correct = sum((model(images).argmax(1) == labels).sum().item() for images, labels in val)
    assert correct / 5000 > 0.7


class Halved(FashionMNISTDataModule):
    """A user's datamodule, with half of the training images."""

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            images, labels = self.train_set.tensors
            self.train_set = torch.utils.data.TensorDataset(images[::2], labels[::2])


class WithPenalty(FashionMNISTClassifier):
    """A user's classifier, with one more argument and one more term in the loss."""

    def __init__(self, penalty: float = 0.1, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.penalty = penalty

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + self.penalty * sum(
            parameter.abs().mean() for parameter in self.parameters()
        )


def test_subclasses(tmp_path: Path, data_dir: Path) -> None:
    theirs = trainer(tmp_path)
    theirs.fit(WithPenalty(penalty=0.5, lr=1e-3), Halved(data_dir, mirrors=[], batch_size=500))
    assert theirs.global_step == 55
    assert theirs.callback_metrics["val_acc"] > 0.7
    checkpoint = theirs.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    loaded = WithPenalty.load_from_checkpoint(checkpoint)
    assert (loaded.penalty, loaded.lr) == (0.5, 1e-3)
