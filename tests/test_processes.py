"""Several processes do what one does, to the last image."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """What one, two and three processes leave, each in a folder; all test the first's model."""
    root = tmp_path_factory.mktemp("processes")
    script = Path(__file__).with_name("processes.py")
    for processes in (1, 2, 3):
        folder = root / str(processes)
        folder.mkdir()
        arguments = (data_dir, processes, 600, root / "1" / "checkpoints" / "last.ckpt")
        subprocess.run(
            [sys.executable, str(script), *map(str, arguments)], cwd=folder, check=True, timeout=100
        )
    return root


@pytest.mark.parametrize("processes", [2, 3])
def test_training_sees_the_same_batches(processes: int, outcomes: Path) -> None:
    """`batch_size` is that of a process: its batches are neighbours in the global one."""
    alone = torch.load(outcomes / "1" / "seen0.pt")
    shares = [torch.load(outcomes / str(processes) / f"seen{rank}.pt") for rank in range(processes)]
    assert torch.equal(torch.cat(shares, dim=1), alone)


@pytest.mark.parametrize("processes", [2, 3])
def test_training_comes_to_the_same_weights(processes: int, outcomes: Path) -> None:
    one, several = (
        torch.load(outcomes / str(number) / "checkpoints" / "last.ckpt", weights_only=True)
        for number in (1, processes)
    )
    for name, weights in one["state_dict"].items():
        assert torch.allclose(several["state_dict"][name], weights, atol=1e-4), name
    assert several["global_step"] == one["global_step"]


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("images", ["whole", "odd", "idle"])
def test_evaluation_gives_the_same_bytes(processes: int, images: str, outcomes: Path) -> None:
    for file in ("predictions.csv", "report/metrics.json", "logged.json"):
        one, several = (outcomes / str(number) / images / file for number in (1, processes))
        assert several.read_bytes() == one.read_bytes()


def test_evaluation_is_complete(outcomes: Path) -> None:
    report = json.loads((outcomes / "3" / "odd" / "report" / "metrics.json").read_text())
    assert report["num_images"] == 9_999
    rows = (outcomes / "3" / "odd" / "predictions.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(9_999))


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
