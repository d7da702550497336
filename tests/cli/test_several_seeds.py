"""`fit --seeds`, refused: what was there stays, and nothing else is left."""

from pathlib import Path

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from support import Command

from fashion_lightning import FashionMNISTClassifier

SHORT = (
    *("fit", "--seeds", "2", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"),
    *("--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"),
    *("--trainer.num_sanity_val_steps", "0", "--trainer.logger", "false"),
)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_series_leaves_nothing(command: Command, here: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        command(*SHORT, "--trainer.callbacks", "LearningRateMonitor")  # It needs a logger.
    assert stop.value.code == 2
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("step", "has_checkpoint"),
    [("validation", False), pytest.param("test", True, marks=pytest.mark.long)],
)
def test_a_continuation_leaves_the_series_as_it_was(
    step: str,
    has_checkpoint: bool,
    command: Command,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def exit_code(*words: str, hook: str = "", error: Exception | None = None) -> object:
        def fail(*_: object, **__: object) -> None:
            assert error
            raise error

        with monkeypatch.context() as patch:
            if hook:
                patch.setattr(FashionMNISTClassifier, hook, fail)
            with pytest.raises(SystemExit) as stop:
                command(*SHORT, *words)
        return stop.value.code

    assert exit_code(hook=f"{step}_step", error=FloatingPointError()) == 1
    before = contents(here)
    logs = here / "lightning_logs"
    assert logs / "seeds_0" / "runs.json" in before
    assert (logs / "version_0" / "checkpoints" / "last.ckpt" in before) == has_checkpoint

    last = ("--ckpt_path", "last")
    assert exit_code(*last, "--data.shift", "1") == 2
    assert "settings with which lightning_logs/seeds_0 began" in capsys.readouterr().err
    assert contents(here) == before
    assert exit_code(*last, "--seeds", "3") == 2
    assert "none below lightning_logs of which a run is missing" in capsys.readouterr().err
    assert contents(here) == before
    assert exit_code(*last, hook="setup", error=MisconfigurationException("no")) == 2
    assert contents(here) == before
