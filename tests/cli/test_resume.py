"""A run that was killed, stopped or has failed ends with the bits of one that was not."""

import csv
import math
import re
import signal
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from support.faulty_mirror import mirror
from support.interruptions import MOMENTS, Noisy, run

from fashion_lightning import FashionMNISTClassifier, FashionMNISTDataModule

EPOCHS, STEPS = 3, 12
SHORT = (
    *("--config", "short.yaml", "--every_n_train_steps", "5"),
    *("--model.network", "support.interruptions.Noisy", "--data.shift", "1"),
    *("--trainer.max_epochs", f"{EPOCHS}", "--trainer.limit_train_batches", f"{STEPS}"),
    *("--trainer.log_every_n_steps", "1", "--test_after_fit", "false"),
)
CHECKPOINTS = Path("lightning_logs", "version_0", "checkpoints")


def fit(folder: Path, data_dir: Path, *args: str, hit: Any = None, url: str = "") -> int | None:
    """Train for a few steps, from the last checkpoint if there is one."""
    folder.mkdir(exist_ok=True)
    (folder / "short.yaml").write_text(f"data:\n  mirrors: [{url}]\n")
    data = ("--data.data_dir", str(data_dir))
    # A run that was killed before its first checkpoint begins anew, in another folder.
    runs = sorted((folder / "lightning_logs").glob("version_*/checkpoints/last.ckpt"))
    resume = ("--ckpt_path", str(runs[-1])) if runs else ()
    return run(folder, ["fit", *SHORT, *data, *resume, *args], hit)


def load(path: Path) -> Any:
    """Read a checkpoint, without the time that its run took."""
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["callbacks"]["Timer"]
    return checkpoint


def outcome(folder: Path) -> dict[str, Any]:
    """Return what a run leaves, in its last folder."""
    *_, run_folder = sorted((folder / "lightning_logs").iterdir())
    last, best = (load(run_folder / "checkpoints" / f"{name}.ckpt") for name in ("last", "best"))
    rows = [
        row
        for file in run_folder.glob("metrics*.csv")
        for row in csv.DictReader(file.read_text().splitlines())
    ]
    keys = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "rng_states", "epoch")
    return {
        "best": [best[key] for key in keys],
        "last": [last[key] for key in keys],
        "step": last["global_step"],
        # Of the last epoch: an earlier one may have been killed before its numbers were written.
        "metrics": {
            key: {row[key] for row in rows if row["epoch"] == f"{EPOCHS - 1}" and row.get(key)}
            for key in ("train_loss", "train_acc", "val_loss", "val_ece")
        },
    }


def assert_same(first: Any, second: Any) -> None:
    """Compare nested values, tensors bit for bit."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        assert_same([*first.values()], [*second.values()])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert fit(folder, data_dir) == 0, (folder / "output.txt").read_text()
    ended = outcome(folder)
    assert ended["step"] == EPOCHS * STEPS
    assert all(len(values) == 1 for values in ended["metrics"].values())
    return ended


def kill_and_continue(
    folder: Path, data_dir: Path, hits: list[tuple[str, int, float]], expected: dict[str, Any]
) -> list[str]:
    """Kill a run at each of these moments, continue it, and compare how it ends."""
    killed = []
    with mirror(seconds=0.05) as url:
        for moment, count, delay in hits:
            data = folder / "data" if moment in ("download", "unpack") else data_dir
            code = fit(folder, data, hit=(moment, count, delay, signal.SIGKILL), url=url)
            assert code in (-signal.SIGKILL, 0)
            killed += [moment] if code else []
        assert fit(folder, folder / "data", url=url) == 0, (folder / "output.txt").read_text()
    assert_same(outcome(folder), expected)
    # Nobody continues a run that was killed in its first checkpoint: the file's beginning remains.
    unfinished = {path for path in folder.rglob("checkpoints") if not [*path.glob("*.ckpt")]}
    leftovers = {path.name for path in folder.rglob(".*") if path.parent not in unfinished}
    assert leftovers <= {".lock"}
    return killed


@pytest.mark.parametrize(
    ("moment", "count", "delay"),
    [
        pytest.param("download", 1, 0.02, marks=pytest.mark.long),
        pytest.param("unpack", 2, 0.0, marks=pytest.mark.long),
        ("training step", STEPS + 8, 0.0),
        ("checkpoint write", 4, 0.001),
        pytest.param("validation", 15, 0.0, marks=pytest.mark.long),
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(
    moment: str, count: int, delay: float, tmp_path: Path, data_dir: Path, uninterrupted: Any
) -> None:
    assert kill_and_continue(tmp_path, data_dir, [(moment, count, delay)], uninterrupted)


def test_a_run_that_seldom_validates_keeps_its_best_epoch(tmp_path: Path, data_dir: Path) -> None:
    """The run is killed after its only validation, and continues in an epoch without one."""
    seldom = (
        *("--trainer.check_val_every_n_epoch", "2", "--trainer.max_epochs", "3"),
        *("--model.optimizer", "muon"),
    )
    assert fit(tmp_path / "whole", data_dir, *seldom) == 0
    hit = ("training step", 2 * STEPS + 3, 0.0, signal.SIGKILL)
    assert fit(tmp_path / "killed", data_dir, *seldom, hit=hit) == -signal.SIGKILL
    assert fit(tmp_path / "killed", data_dir, *seldom) == 0
    assert_same(
        *(
            [
                load(tmp_path / name / CHECKPOINTS / file)[key]
                for file in ("best.ckpt", "last.ckpt")
                for key in ("epoch", "state_dict", "callbacks")
            ]
            for name in ("killed", "whole")
        )
    )


@pytest.mark.long
def test_runs_that_are_killed_again_and_again(
    tmp_path: Path, data_dir: Path, uninterrupted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    random = Random(0)
    most = {
        "download": 4,
        "unpack": 4,
        "training step": EPOCHS * STEPS,
        "checkpoint write": 9,
        "validation": 20 * EPOCHS,
    }
    killed: list[str] = []
    number = 0
    while len(killed) < 120:
        number += 1
        moments = random.choices([*MOMENTS], weights=(1, 1, 3, 3, 2), k=3)
        hits = [
            (m, random.randint(1, most[m]), random.choice((0, 0.01 * random.random())))
            for m in moments
        ]
        killed += kill_and_continue(tmp_path / str(number), data_dir, hits, uninterrupted)
    with capsys.disabled():
        tally = ", ".join(f"{killed.count(moment)} at {moment}" for moment in MOMENTS)
        print(
            f"\n{number} runs, {len(killed)} kills ({tally}): all ended with the same bits", end=""
        )


@pytest.mark.parametrize(
    ("signum", "moment", "count", "step"),
    [
        pytest.param(signal.SIGINT, "training step", 3, 3, marks=pytest.mark.long),
        (signal.SIGTERM, "training step", STEPS + 7, STEPS + 7),
        pytest.param(signal.SIGTERM, "validation", 7, STEPS, marks=pytest.mark.long),
        (signal.SIGINT, "validation", 20 * EPOCHS, EPOCHS * STEPS),
    ],
)
def test_a_signal_leaves_a_checkpoint_and_the_command_that_continues(
    signum: int,
    moment: str,
    count: int,
    step: int,
    tmp_path: Path,
    data_dir: Path,
    uninterrupted: Any,
) -> None:
    code = fit(
        tmp_path, data_dir, "--every_n_train_steps", "null", hit=(moment, count, 0.0, signum)
    )
    output = (tmp_path / "output.txt").read_text()
    assert code == 128 + signum, output
    assert torch.load(tmp_path / CHECKPOINTS / "last.ckpt", weights_only=True)["global_step"] in (
        step,
        step + 1,
    )
    config = CHECKPOINTS.parent / "config.yaml"
    command = f"fashion-lightning fit --config {config} --ckpt_path {CHECKPOINTS / 'last.ckpt'}"
    assert command in output
    assert "Traceback" not in output
    assert run(tmp_path, command.split()[1:]) == 0
    assert_same(outcome(tmp_path), uninterrupted)


@pytest.mark.parametrize("interval", ["1", pytest.param("50", marks=pytest.mark.long)])
def test_a_loss_that_is_not_finite_ends_training_and_spares_the_checkpoint(
    interval: str, tmp_path: Path, data_dir: Path
) -> None:
    """SGD with a rising learning rate, until the loss overflows."""
    code = fit(
        *(tmp_path, data_dir, "--model.network", "fashion_lightning.MLP"),
        *("--model.optimizer", "sgd", "--model.lr", "24", "--model.warmup", "1"),
        *("--trainer.log_every_n_steps", interval),
    )
    output = (tmp_path / "output.txt").read_text()
    assert code == 1
    found = re.search(
        r"^error: The loss is (nan|inf) at step (\d+), .* learning rate is \d", output, re.M
    )
    assert found, output
    assert "Traceback" not in output
    last = torch.load(tmp_path / CHECKPOINTS / "last.ckpt", weights_only=True)
    assert last["global_step"] == int(found[2]) // 5 * 5
    assert all(weights.isfinite().all() for weights in last["state_dict"].values())
    if interval == "1":
        text = (tmp_path / CHECKPOINTS.parent / "metrics.csv").read_text()
        losses = [row["train_loss_step"] for row in csv.DictReader(text.splitlines())]
        assert len(losses) == int(found[2])
        assert all(math.isfinite(float(loss)) for loss in losses)


# Within an epoch, and at its end.
@pytest.mark.parametrize("save", [pytest.param(3, marks=pytest.mark.long), 4])
def test_a_full_disk_spares_the_checkpoints(
    save: int, tmp_path: Path, data_dir: Path, uninterrupted: Any
) -> None:
    assert fit(tmp_path, data_dir, hit=("training step", 3 + 5 * save, 0.0, signal.SIGXFSZ)) == 1
    output = (tmp_path / "output.txt").read_text()
    assert re.search(r"^error: .*File too large: .*ckpt", output, re.MULTILINE), output
    assert "Traceback" not in output
    steps = [
        torch.load(tmp_path / CHECKPOINTS / f"{name}.ckpt", weights_only=True)["global_step"]
        for name in ("best", "last")
    ]
    assert steps[0] == STEPS
    assert fit(tmp_path, data_dir) == 0
    assert_same(outcome(tmp_path), uninterrupted)


def test_a_fit_does_not_continue_what_a_test_has_loaded(tmp_path: Path, data_dir: Path) -> None:
    """Only `fit` with a checkpoint continues its epoch and its random numbers."""

    def fit_anew(test_before: bool) -> list[float]:
        torch.manual_seed(1)
        classifier = FashionMNISTClassifier(Noisy())
        datamodule = FashionMNISTDataModule(data_dir, mirrors=[])
        start = {name: value.clone() for name, value in classifier.state_dict().items()}
        trainer = Trainer(
            max_epochs=1,
            limit_train_batches=2,
            limit_val_batches=0,
            limit_test_batches=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        if test_before:
            trainer.test(classifier, datamodule, ckpt_path=tmp_path / "first.ckpt", verbose=False)
            classifier.load_state_dict(start)
        torch.manual_seed(1)
        trainer.fit(classifier, datamodule)
        trainer.save_checkpoint(tmp_path / "first.ckpt", weights_only=False)
        return [float(weights.detach().double().sum()) for weights in classifier.parameters()]

    assert fit_anew(test_before=False) == fit_anew(test_before=True)
