"""What a person reads who runs the command."""

import logging
import re
import warnings
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from support import Command

from fashion_lightning import MLP, FashionMNISTClassifier, FashionMNISTDataModule
from fashion_lightning.cli.output import EpochBar, leave_out_notices, results


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
    assert "\nReport: lightning_logs/version_0/report/report.html\n" in said.text
    data = [line for line in said.messages if line.startswith("FashionMNIST: ")]
    assert len(data) == said.messages.count(lines[0])
    layers = next(text for text in said.messages if "In sizes" in text)
    assert max(map(len, layers.splitlines())) <= 100
    assert layers.endswith("\n  669,706 parameters, of which 669,706 are trained\n")


def test_the_bar_counts_epochs_as_the_lines_do(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[EpochBar()],
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_model_summary=False,
        logger=False,
        log_every_n_steps=1,
        limit_train_batches=3,
        limit_val_batches=3,
        max_epochs=2,
    )
    classifier = FashionMNISTClassifier(MLP(hidden_features=8))
    trainer.fit(classifier, FashionMNISTDataModule(data_dir, mirrors=[]))
    last = capsys.readouterr().out.split("\r")[-1]
    assert last.startswith("Epoch 2 of 2: 100%")
    assert re.findall(r"\w+(?==)", last) == ["train_loss_step", "val_acc"]


def test_losses_have_four_digits_and_fractions_are_percent() -> None:
    table = results({"val_loss": 0.25, "val_acc": 0.90390, "val_ece": 0.0065273})
    assert table.split() == ["val_acc", "90.39", "%", "val_ece", "0.65", "%", "val_loss", "0.2500"]


def test_advertisements_are_left_out_and_facts_are_not(caplog: pytest.LogCaptureFixture) -> None:
    leave_out_notices()
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO, log.name):
        for text in ("GPU available: False, used: False", "💡 Tip: ...", "GPU available: True"):
            log.info(text)
        log.info("You are using a CUDA device ('NVIDIA H200') that has Tensor Cores.")
    assert caplog.messages == ["GPU available: True"]


def test_nobody_is_told_to_load_images_in_memory_by_workers(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    connector = "lightning.pytorch.trainer.connectors.data_connector"
    monkeypatch.setattr(f"{connector}.suggested_max_num_workers", lambda devices: 7)  # 8 cores
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        command("validate", "--ckpt_path", "pretrained:mlp", "--trainer.limit_val_batches", "1")
    assert [w for w in caught if "workers" in str(w.message)] == []
