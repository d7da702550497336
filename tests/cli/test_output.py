"""What a person reads who runs the command."""

import logging
import re
from pathlib import Path

import pytest
from support import Command

from fashion_lightning.cli.output import leave_out_notices, results


def test_a_run_into_a_file_has_a_line_per_epoch_and_its_results(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--trainer.limit_train_batches", "3", "--trainer.log_every_n_steps", "1"]
    command("fit", "--trainer.max_epochs", "2", *few)
    printed = capsys.readouterr().out
    assert "\r" not in printed
    lines = [*dict.fromkeys(line for line in said.messages if line.startswith("Epoch "))]
    assert [line[:12] for line in lines] == ["Epoch 1 of 2", "Epoch 2 of 2"]
    assert all(re.search(r"val_loss \d\.\d{4}, val_acc \d\d\.\d\d % \(", line) for line in lines)
    assert re.search(r"^  test_acc +\d\d\.\d\d %$", printed, re.M)
    assert "report/report.html" in said.text


def test_losses_have_four_digits_and_fractions_are_percent() -> None:
    table = results({"val_loss": 0.25, "val_acc": 0.90390, "val_ece": 0.0065273})
    assert table.split() == ["val_acc", "90.39", "%", "val_ece", "0.65", "%", "val_loss", "0.2500"]


def test_advertisements_are_left_out_and_facts_are_not(caplog: pytest.LogCaptureFixture) -> None:
    leave_out_notices()
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO, log.name):
        for text in ("GPU available: False, used: False", "💡 Tip: ...", "GPU available: True"):
            log.info(text)
    assert caplog.messages == ["GPU available: True"]
