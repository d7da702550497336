"""What several test files use: the data, a run of the command, the tutorial's network."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import REPOSITORY, Command

from fashion_lightning.cli.main import main
from fashion_lightning.data import files


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the official files, made without the network."""
    folder = tmp_path_factory.mktemp("data")
    files.prepare(folder, mirrors=[])
    return folder


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """LightningCLI warns if the command is called from within a process that has arguments."""
    monkeypatch.setattr(sys, "argv", ["fashion-lightning"])


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What Lightning's `rank_zero_info` says; its logger may or may not hand on to pytest's."""
    logger = logging.getLogger("lightning.pytorch")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope="session")
def command(data_dir: Path) -> Command:
    """The command, in this process, on the data that is there."""

    def run(*args: str) -> None:
        main([*args, "--data.data_dir", str(data_dir)])

    return run


@pytest.fixture(scope="session")
def trained(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run: `configs/default.yaml` for two epochs."""
    root = tmp_path_factory.mktemp("trained")
    config = str(REPOSITORY / "configs" / "default.yaml")
    sys.argv = ["fashion-lightning"]
    command(
        *("fit", "--config", config),
        *("--trainer.max_epochs", "2", "--trainer.default_root_dir", str(root)),
        # So that the temperature is not about 1: no test could tell whether it is used.
        *("--model.label_smoothing_power", "0"),
    )
    return root / "lightning_logs" / "version_0"
