"""Several processes train, test and predict like one, to the last image."""

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import FORKS, REPOSITORY

SCRIPT = REPOSITORY / "tests" / "support" / "processes.py"


def run_here(folder: Path, arguments: list[str], environment: dict[str, str]) -> None:
    """Run the script in this process."""
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = [str(SCRIPT), *arguments]
    runpy.run_path(str(SCRIPT), run_name="__main__")


def run(folder: Path, data_dir: Path, num_processes: int, checkpoint: Path) -> Path:
    """Run the script in processes with the environment variables of a cluster."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = [str(data_dir), str(num_processes), "600", str(checkpoint)]
    processes = []
    for rank in range(num_processes):
        several = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": str(rank)}
        task = (folder, arguments, several if num_processes > 1 else {})
        processes.append(FORKS.Process(target=run_here, args=task, daemon=True))
        processes[-1].start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0] * num_processes
    return folder


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """Outputs of one process, which evaluates its own checkpoint."""
    folder = tmp_path_factory.mktemp("alone")
    return run(folder, data_dir, 1, folder / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="session", params=[2, pytest.param(3, marks=pytest.mark.long)])
def several(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    data_dir: Path,
    alone: Path,
) -> Path:
    """Outputs of several processes, which evaluate the checkpoint of the one."""
    folder = tmp_path_factory.mktemp("several")
    return run(folder, data_dir, request.param, alone / "checkpoints" / "last.ckpt")


def test_training_sees_the_same_batches(alone: Path, several: Path) -> None:
    """`batch_size` is per process: together, their batches are the batch of one process."""
    shares = [torch.load(path) for path in sorted(several.glob("seen*.pt"))]
    assert len(shares) > 1
    assert torch.equal(torch.cat(shares, dim=1), torch.load(alone / "seen0.pt"))


def test_training_ends_with_the_same_weights(alone: Path, several: Path) -> None:
    ours, theirs = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in (alone, several)
    )
    for name, weights in ours["state_dict"].items():
        assert torch.allclose(theirs["state_dict"][name], weights, atol=1e-4), name
    assert theirs["global_step"] == ours["global_step"]


@pytest.mark.parametrize("images", ["whole", "odd"])
@pytest.mark.parametrize("file", ["predictions.csv", "report/metrics.json", "logged.json"])
def test_evaluation_gives_the_same_bytes(
    images: str, file: str, alone: Path, several: Path
) -> None:
    assert (several / images / file).read_bytes() == (alone / images / file).read_bytes()


def test_evaluation_is_complete(several: Path) -> None:
    report = json.loads((several / "odd" / "report" / "metrics.json").read_text())
    assert report["num_images"] == 9_999
    rows = (several / "odd" / "predictions.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(9_999))


def test_a_foreign_module_that_synchronizes_in_each_step_ends(alone: Path, several: Path) -> None:
    """Its loaders repeat the last images, so that all processes have as many batches."""
    ours, theirs = (
        json.loads((folder / "foreign" / "logged.json").read_text())["accuracy"]
        for folder in (alone, several)
    )
    assert theirs == pytest.approx(ours, abs=0.02)
    # The report goes by images, not batches, and counts each once.
    reports = [
        (folder / "foreign" / "report" / "metrics.json").read_text() for folder in (alone, several)
    ]
    assert json.loads(reports[0])["num_images"] == 8_500
    assert reports[0] == reports[1]


@pytest.mark.long
def test_the_command_runs_as_two_processes(tmp_path: Path, data_dir: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fashion_lightning", "fit"),
            *("--config", str(REPOSITORY / "configs" / "default.yaml")),
            *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "20"),
            *("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"),
            *("--data.data_dir", str(data_dir)),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "sync_dist" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"lightning_logs"}
    (folder,) = (tmp_path / "lightning_logs").iterdir()
    report = json.loads((folder / "report" / "metrics.json").read_text())
    assert report["num_images"] == 10_000
    assert report["checkpoint"] == str(folder / "checkpoints" / "best.ckpt")
