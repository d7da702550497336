"""Which weights `BestAndLast` keeps, and how it works with other callbacks and loggers."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from fashion_lightning.callbacks import BestAndLast, Interrupted
from fashion_lightning.checkpoints.atomic_io import AtomicCheckpointIO

LOADER = DataLoader(TensorDataset(torch.zeros(2, 1)), batch_size=1)


class Scripted(LightningModule):
    """Logs the given validation loss in each epoch; its weight is the epoch's number."""

    def __init__(self, losses: Sequence[float], name: str = "val_loss") -> None:
        super().__init__()
        self.losses = losses
        self.name = name
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight * 0

    def on_train_epoch_start(self) -> None:
        self.weight.data.fill_(self.current_epoch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log(self.name, self.losses[self.current_epoch])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("weight", self.weight)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(
    folder: Path, losses: Sequence[float], ckpt_path: Path | None = None, **options: Any
) -> Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": len(losses),
        "callbacks": [BestAndLast(folder)],
        "logger": False,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 1,
    }
    trainer = Trainer(**(defaults | options))
    trainer.fit(Scripted(losses), LOADER, LOADER, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def epochs(folder: Path) -> dict[str, int]:
    files = {path.name: torch.load(path, weights_only=True) for path in folder.iterdir()}
    return {name: int(content["state_dict"]["weight"]) for name, content in files.items()}


def test_the_best_and_the_last_epoch_are_kept(tmp_path: Path) -> None:
    trainer = fit(tmp_path, [0.5, 0.3, float("nan"), 0.4])
    assert epochs(tmp_path) == {"best.ckpt": 1, "last.ckpt": 3}
    (tested,) = trainer.test(dataloaders=LOADER, ckpt_path="best", verbose=False, weights_only=True)
    assert tested["weight"] == 1


def test_without_validation_the_last_epoch_is_the_best(tmp_path: Path) -> None:
    fit(tmp_path, [0.5, 0.6], limit_val_batches=0)
    assert epochs(tmp_path) == {"best.ckpt": 1, "last.ckpt": 1}


def test_a_continued_run_remembers_the_best(tmp_path: Path) -> None:
    losses = [0.5, 0.3, 0.4, 0.35]
    fit(tmp_path, losses[:3])
    fit(tmp_path, losses, tmp_path / "last.ckpt")
    assert epochs(tmp_path) == {"best.ckpt": 1, "last.ckpt": 3}


def test_fast_dev_run_writes_nothing(tmp_path: Path) -> None:
    fit(tmp_path, [0.5], fast_dev_run=True)
    assert epochs(tmp_path) == {}


class Scored(LightningModule):
    """Logs the given validation losses in turn; its weight is the number of steps."""

    def __init__(self, losses: Sequence[float], name: str = "val_loss") -> None:
        super().__init__()
        self.losses, self.name = [*losses], name
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return -self.weight

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0 and not self.trainer.sanity_checking:
            self.loss = self.losses.pop(0)
        self.log(self.name, 1.0 if self.trainer.sanity_checking else self.loss)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("weight", self.weight)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def train(module: LightningModule, *callbacks: Any, **options: Any) -> Trainer:
    trainer = Trainer(
        **{
            "max_epochs": 1,
            "logger": False,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        },
        callbacks=[*callbacks],
    )
    data = DataLoader(TensorDataset(torch.zeros(10, 1)))
    trainer.fit(module, data, LOADER)
    return trainer


def weight(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["state_dict"]["weight"])


@pytest.mark.parametrize(
    ("options", "losses", "best"),
    [
        ({"val_check_interval": 0.3}, [0.5, 0.2, 0.4], 6),
        ({"val_check_interval": 0.3}, [0.5, 0.4, 0.3], 9),
        ({"val_check_interval": 0.5}, [0.5, 0.4], 10),
        ({"val_check_interval": 4, "check_val_every_n_epoch": None}, [0.5, 0.3, 0.4], 8),
        ({"check_val_every_n_epoch": 2, "max_epochs": 4}, [0.3, 0.4], 20),
    ],
)
def test_the_best_weights_are_those_that_were_validated(
    options: dict[str, Any], losses: list[float], best: int, tmp_path: Path
) -> None:
    """Also inside an epoch. `last` is the end of the run."""
    ours = BestAndLast(tmp_path)
    options = {"max_epochs": 1, **options}
    if options.get("check_val_every_n_epoch", 1) is None:
        options |= {"max_epochs": -1, "max_steps": 12}
    trainer = train(Scored(losses), ours, **options)
    assert weight(tmp_path / "best.ckpt") == best
    assert weight(tmp_path / "last.ckpt") == trainer.global_step
    assert ours.best_model_score == min(losses)
    for name, expected in (("best", best), ("last", trainer.global_step)):
        (tested,) = trainer.test(
            dataloaders=LOADER, ckpt_path=name, verbose=False, weights_only=True
        )
        assert tested["weight"] == expected


def test_mode_max_keeps_the_highest_score(tmp_path: Path) -> None:
    losses = [0.5, 0.9, 0.7]
    train(Scored(losses, "score"), BestAndLast(tmp_path, monitor="score", mode="max"), max_epochs=3)
    assert weight(tmp_path / "best.ckpt") == 20


def test_loggers_get_it_as_a_model_checkpoint_once_per_epoch(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    ages: list[bool] = []

    class Uploads(CSVLogger):
        def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
            callback = checkpoint_callback
            paths = (callback.best_model_path, callback.last_model_path)
            assert all(Path(path).is_file() for path in paths)
            ages.append(weight(Path(callback.last_model_path)) == 10 * (len(seen) + 1))
            seen.append((Path(callback.last_model_path).name, float(callback.best_model_score)))  # type: ignore[arg-type]

    losses = [0.5, 0.3, 0.4]
    ours = BestAndLast()
    train(Scored(losses), ours, max_epochs=3, logger=Uploads(tmp_path, name="x", version="y"))
    assert [score for _, score in seen] == pytest.approx([0.5, 0.3, 0.3])
    assert ages == [True, True, True]  # Each upload of the last is up to date.
    assert ours.best_model_path == str(tmp_path / "x" / "y" / "checkpoints" / "best.ckpt")
    assert ours.current_score == pytest.approx(0.4)
    assert isinstance(ours, ModelCheckpoint)


def test_a_monitor_that_is_not_logged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"'val_loss'\. There are: val/loss\."):
        train(Scored([0.5], "val/loss"), BestAndLast(tmp_path))


def test_another_checkpoint_callback_needs_other_file_names(tmp_path: Path) -> None:
    theirs = ModelCheckpoint(tmp_path, monitor="val_loss", save_top_k=2, filename="{step}")
    train(Scored([0.5, 0.4, 0.3]), BestAndLast(tmp_path), theirs, max_epochs=3)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("best.ckpt", "last.ckpt", "step=20.ckpt", "step=30.ckpt"),
    }
    for callback in (
        ModelCheckpoint(tmp_path, save_last=True),
        ModelCheckpoint(tmp_path, filename="best"),
        BestAndLast(tmp_path, monitor="score"),
    ):
        with pytest.raises(MisconfigurationException, match="to be a folder of its own, but got"):
            train(Scored([0.5]), BestAndLast(tmp_path), callback)


def test_stochastic_weight_averaging_is_refused(tmp_path: Path) -> None:
    averaging = StochasticWeightAveraging(0.01)
    with pytest.raises(MisconfigurationException, match="use `EMAWeightAveraging`"):
        train(Scored([0.5]), BestAndLast(tmp_path), averaging)


def test_a_missing_checkpoint_is_an_error_not_random_weights(tmp_path: Path) -> None:
    module = Scored([0.5])
    train(module, BestAndLast(tmp_path))
    module.weight.data.fill_(-1)
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False}
    anew = Trainer(callbacks=[BestAndLast(tmp_path)], **options)
    arguments: Any = {"ckpt_path": "last", "weights_only": True, "verbose": False}
    (tested,) = anew.test(module, LOADER, **arguments)
    assert tested["weight"] == 10
    nothing = Trainer(callbacks=[BestAndLast(tmp_path / "none")], **options)
    for ckpt_path, error in (("last", FileNotFoundError), ("best", ValueError)):
        with pytest.raises(error, match="ckpt_path"):
            nothing.test(module, LOADER, **{**arguments, "ckpt_path": ckpt_path})


@pytest.mark.parametrize("plugin", [AsyncCheckpointIO, TorchCheckpointIO, AtomicCheckpointIO])
def test_other_checkpoint_plugins_work(plugin: type[Any], tmp_path: Path) -> None:
    train(Scored([0.5, 0.3, 0.4]), BestAndLast(tmp_path), plugins=[plugin()], max_epochs=3)
    assert (weight(tmp_path / "best.ckpt"), weight(tmp_path / "last.ckpt")) == (20, 30)


def test_a_run_of_version_0_1_0_continues(tmp_path: Path) -> None:
    train(Scored([0.5, 0.3]), BestAndLast(tmp_path), max_epochs=2)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    content["callbacks"] = {"BestAndLast": {"best_score": 0.3}}
    torch.save(content, tmp_path / "old.ckpt")
    ours = BestAndLast(tmp_path)
    trainer = Trainer(
        max_epochs=3, callbacks=[ours], logger=False, enable_progress_bar=False, accelerator="cpu"
    )
    data = DataLoader(TensorDataset(torch.zeros(10, 1)))
    trainer.fit(Scored([0.4]), data, LOADER, ckpt_path=tmp_path / "old.ckpt", weights_only=True)
    assert (weight(tmp_path / "best.ckpt"), weight(tmp_path / "last.ckpt")) == (20, 30)


def test_weights_changed_after_their_validation_are_not_the_best(tmp_path: Path) -> None:
    class Change(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            pl_module.weight.data += 1000

    train(Scored([0.5]), BestAndLast(tmp_path), Change())
    assert (weight(tmp_path / "best.ckpt"), weight(tmp_path / "last.ckpt")) == (10, 1010)


def test_the_best_of_another_run_is_replaced(tmp_path: Path) -> None:
    train(Scored([0.3]), BestAndLast(tmp_path / "a"))
    train(Scored([0.1]), BestAndLast(tmp_path / "b"), max_steps=3)
    ours = BestAndLast(tmp_path / "b")
    trainer = Trainer(
        max_epochs=2, callbacks=[ours], logger=False, enable_progress_bar=False, accelerator="cpu"
    )
    data = DataLoader(TensorDataset(torch.zeros(10, 1)))
    last = tmp_path / "a" / "last.ckpt"
    trainer.fit(Scored([0.4]), data, LOADER, ckpt_path=last, weights_only=True)
    assert weight(tmp_path / "b" / "best.ckpt") == 20
    assert ours.best_model_score == pytest.approx(0.4)


def test_a_remote_folder_works(tmp_path: Path) -> None:
    for epochs, losses in ((1, [0.3]), (3, [0.9, 0.8])):
        trainer = Trainer(
            max_epochs=epochs,
            callbacks=[BestAndLast("memory://run")],
            plugins=[AtomicCheckpointIO()],
            logger=False,
            enable_progress_bar=False,
            accelerator="cpu",
        )
        data = DataLoader(TensorDataset(torch.zeros(10, 1)))
        last = "memory://run/last.ckpt" if epochs > 1 else None
        trainer.fit(Scored(losses), data, LOADER, ckpt_path=last, weights_only=True)
    (tested,) = trainer.test(dataloaders=LOADER, ckpt_path="best", verbose=False, weights_only=True)
    assert tested["weight"] == 10
    assert not Path("memory:").exists()


class Fails(Callback):
    """Raises in the second step."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 1:
            raise ArithmeticError


def test_signals_have_their_usual_effect_after_training(tmp_path: Path) -> None:
    """Also beside another `BestAndLast`, and after an exception."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    both = [BestAndLast(tmp_path / "a"), BestAndLast(tmp_path / "b", mode="max")]
    train(Scored([0.5]), *both)
    assert [signal.getsignal(number) for number in numbers] == before
    with pytest.raises(ArithmeticError):
        train(Scored([0.5]), *both, Fails())
    assert [signal.getsignal(number) for number in numbers] == before


class Interrupts(Callback):
    """Presses Ctrl-C in the third step."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 2:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_noted_by_each(tmp_path: Path) -> None:
    both = [BestAndLast(tmp_path / "a"), BestAndLast(tmp_path / "b", mode="max")]
    with pytest.raises(Interrupted) as stop:
        train(Scored([0.5]), *both, Interrupts())
    assert stop.value.code == 128 + signal.SIGINT
    assert stop.value.checkpoint == tmp_path / "a" / "last.ckpt"
    assert [weight(tmp_path / name / "last.ckpt") for name in ("a", "b")] == [3, 3]


def test_a_second_run_of_one_callback_forgets_the_first(tmp_path: Path) -> None:
    """As in a loop over folds: the same object, another trainer, a worse module."""
    callback = BestAndLast(tmp_path)
    for losses in ([0.1, 0.2], [0.9, 0.8]):
        fit(tmp_path, losses, callbacks=[callback])
    assert callback.best_model_score == pytest.approx(0.8)
    assert epochs(tmp_path) == {"best.ckpt": 1, "last.ckpt": 1}


def test_the_best_stays_where_files_are_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Lightning writes if its temporary folder is on another file system."""

    def overwrite(self: Any, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)

    monkeypatch.setattr(TorchCheckpointIO, "save_checkpoint", overwrite)
    fit(tmp_path, [0.5, 0.9, 0.8])
    assert epochs(tmp_path) == {"best.ckpt": 0, "last.ckpt": 2}
