"""Fixtures of several test files: the data, the command, a trained run; and who runs the tests.

The package is imported inside the fixtures: the process that only hands the tests to pytest-xdist's
workers starts 5 s sooner without it.
"""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support import Command


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return 0, which is this process, where output is wanted or single files are named."""
    options = config.option
    shown = options.capture == "no" or options.usepdb or options.markexpr == "long"
    single = options.file_or_dir and all(".py" in name for name in options.file_or_dir)
    return 0 if shown or single else None


def pytest_configure(config: pytest.Config) -> None:
    """Share the cores among the workers, and compute on the CPU, whose bits some tests compare.

    Processes that tests start inherit both.
    """
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    if hasattr(config, "workerinput") and "OMP_NUM_THREADS" not in os.environ:
        cores, workers = os.cpu_count() or 1, config.workerinput["workercount"]
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores // workers))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest test first: at the end, the other worker would wait for it for 30 s."""
    items.sort(key=lambda item: item.name != "test_every_command_and_every_program_runs")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the official files, made without the network."""
    from fashion_lightning.data import files

    folder = tmp_path_factory.mktemp("data")
    files.prepare(folder, mirrors=[])
    return folder


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """LightningCLI warns if the command is called from within a process that has arguments."""
    monkeypatch.setattr(sys, "argv", ["fashion-lightning"])


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Yield what Lightning's `rank_zero_info` logs; its logger need not propagate to pytest's."""
    logger = logging.getLogger("lightning.pytorch")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope="session")
def command(data_dir: Path) -> "Command":
    """Return the command, in this process, on the data of `data_dir`."""
    from fashion_lightning.cli.main import main

    def run(*args: str) -> None:
        main([*args, "--data.data_dir", str(data_dir)])

    return run


@pytest.fixture(scope="session")
def trained(command: "Command", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run: `configs/default.yaml` for two epochs of half the images."""
    root = tmp_path_factory.mktemp("trained")
    config = str(Path(__file__).parent.parent / "configs" / "default.yaml")
    sys.argv = ["fashion-lightning"]
    command(
        *("fit", "--config", config),
        *("--trainer.max_epochs", "2", "--trainer.default_root_dir", str(root)),
        *("--trainer.limit_train_batches", "55"),
        # Keeps the temperature away from 1, so that a test can see whether it is applied.
        *("--model.label_smoothing_power", "0"),
    )
    return root / "lightning_logs" / "version_0"
