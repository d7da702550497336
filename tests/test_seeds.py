"""Statistics over several seeds, against NumPy and SciPy, and the command that trains them."""

import csv
import json
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from scipy import stats
from support import Command
from support.interruptions import run as run_command

from fashion_lightning import CLASSES
from fashion_lightning.plotting import draw_seeds
from fashion_lightning.seeds import compare, describe, read_summary, summarize

METRICS = ("test_acc", "test_loss", "test_f1", "test_ece")


def reports(seeds: list[int], source: int) -> dict[int, dict[str, Any]]:
    """Random reports."""
    random = np.random.default_rng(source)
    return {
        seed: {
            **{name: random.normal(0.9, 0.01) for name in METRICS},
            "per_class": {
                name: {kind: random.uniform(0.8, 1) for kind in ("precision", "recall", "f1")}
                for name in CLASSES
            },
        }
        for seed in seeds
    }


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_a_summary_agrees_with_numpy_and_scipy(n: int) -> None:
    runs = reports([*range(n)], source=n)
    summary = summarize(runs)
    numbers = [
        (summary["metrics"]["test_loss"], [run["test_loss"] for run in runs.values()]),
        (
            summary["per_class"]["Coat"]["recall"],
            [run["per_class"]["Coat"]["recall"] for run in runs.values()],
        ),
    ]
    for number, values in numbers:
        assert number["values"] == values
        assert number["mean"] == pytest.approx(np.mean(values), rel=1e-12)
        assert number["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-9)
        expected = stats.t.interval(0.95, n - 1, loc=np.mean(values), scale=stats.sem(values))
        assert number["interval"] == pytest.approx(expected, rel=1e-9)


def test_runs_are_compared_seed_by_seed() -> None:
    ours, theirs = summarize(reports([0, 1, 2, 3, 4], 1)), summarize(reports([9, 4, 2, 1, 0], 2))
    comparison = compare(ours, theirs)
    assert comparison["seeds"] == [0, 1, 2, 4]
    a, b = (each["metrics"]["test_acc"]["values"] for each in (ours, theirs))
    differences = np.array([a[0] - b[4], a[1] - b[3], a[2] - b[2], a[4] - b[1]])
    found = comparison["metrics"]["test_acc"]
    test = stats.ttest_1samp(differences, 0)
    assert found["difference"] == pytest.approx(differences.mean())
    assert found["p_value"] == pytest.approx(test.pvalue)
    assert found["interval"] == pytest.approx([*test.confidence_interval(0.95)])


def test_equal_runs_have_no_difference() -> None:
    summary = summarize(reports([0, 1, 2], 1))
    for number in compare(summary, summary)["metrics"].values():
        assert number == {"difference": 0, "interval": [0, 0], "p_value": 1}


def test_a_metric_that_only_one_summary_has_is_not_compared() -> None:
    runs = reports([0, 1], 1)
    more = summarize({seed: {**run, "test_auc": 0.9} for seed, run in runs.items()})
    assert more["metrics"]["test_auc"]["mean"] == 0.9
    assert set(compare(more, summarize(runs))["metrics"]) == {*METRICS}


def test_one_seed_or_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected `reports` to be those of two seeds or more"):
        summarize(reports([0], 0))
    summary = summarize(reports([0, 1], 0))
    with pytest.raises(ValueError, match=r"two of the same seeds, but got \[1, 2\]"):
        compare(summary, summarize(reports([1, 2], 0)))


def test_runs_with_equal_numbers_have_an_interval_of_no_width() -> None:
    summary = summarize({seed: {"test_f1": 0.5, "per_class": {}} for seed in range(3)})
    assert summary["metrics"]["test_f1"]["interval"] == [0.5, 0.5]


def test_without_scipy_several_seeds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=r"pip install 'fashion-lightning\[seeds\]'"):
        summarize(reports([0, 1], 0))


def test_a_summary_is_described_and_drawn() -> None:
    summary = summarize(reports([0, 1, 2], 1))
    text = describe({**summary, "comparison": {"with": "x.json", **compare(summary, summary)}})
    assert f"test_acc{summary['metrics']['test_acc']['mean']:.4f}" in text.replace(" ", "")
    assert "3 pairs: this minus x.json" in text
    shown = {text.get_text() for text in draw_seeds(summary).findobj(Text)}
    assert {*CLASSES} <= shown


def test_tick_labels_do_not_overlap_if_seeds_are_close() -> None:
    runs = reports([0, 1, 2, 3, 4], 1)
    for run, accuracy in zip(runs.values(), (0.9191, 0.9179, 0.9181, 0.9189, 0.9197), strict=True):
        run["test_acc"] = accuracy
    figure = draw_seeds(summarize(runs))
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert len(boxes) > 2
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"seeds": [], "metrics": {}}', '{"seeds": [0], "metrics": {"test_acc": 1}}'],
)
def test_a_file_without_a_summary_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=r"summary\.json of `fit --seeds`, but .* something else"):
        read_summary(tmp_path / "x.json")


def test_the_command_trains_several_seeds(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    short = (
        *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3"),
        *("--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "2"),
    )
    command("fit", *short, "--seed_everything", "7", "--seeds", "2")
    logs = tmp_path / "lightning_logs"
    summary = json.loads((logs / "seeds_0" / "summary.json").read_text())
    assert summary["seeds"] == [7, 8]
    for number, value in enumerate(summary["metrics"]["test_acc"]["values"]):
        report = json.loads((logs / f"version_{number}" / "report" / "metrics.json").read_text())
        assert report["test_acc"] == value
    with (logs / "seeds_0" / "summary.csv").open(newline="") as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["7", "8"]
    with Image.open(logs / "seeds_0" / "summary.png") as picture:
        assert picture.format == "PNG"
    assert "The summary's folder is lightning_logs/seeds_0." in said.text
    assert "Report: lightning_logs/version_1/" in said.text
    assert "Next:" not in said.text

    comparison = ("--seeds", "2", "--compare_to", str(logs / "seeds_0" / "summary.json"))
    command("fit", *short, "--seed_everything", "7", "--model.lr", "0.01", *comparison)
    second = json.loads((logs / "seeds_1" / "summary.json").read_text())
    assert second["comparison"]["seeds"] == [7, 8]
    ours, theirs = (each["metrics"]["test_loss"]["values"] for each in (second, summary))
    difference = np.mean(ours) - np.mean(theirs)
    assert second["comparison"]["metrics"]["test_loss"]["difference"] == pytest.approx(difference)

    # The config file of one run describes that run alone.
    config = str(logs / "version_1" / "config.yaml")
    command(
        *("fit", "--config", config, "--trainer.default_root_dir", str(tmp_path)),
        *("--test_after_fit", "false"),
    )
    weights = [
        torch.load(logs / f"version_{number}" / "checkpoints" / "best.ckpt", weights_only=True)
        for number in (0, 1, 4)
    ]
    for name, tensor in weights[1]["state_dict"].items():
        assert torch.equal(tensor, weights[2]["state_dict"][name])
    assert not all(
        torch.equal(tensor, weights[0]["state_dict"][name])
        for name, tensor in weights[1]["state_dict"].items()
    )


@pytest.mark.long
def test_several_seeds_continue_where_they_stopped(tmp_path: Path, data_dir: Path) -> None:
    """Stopped in the second of three runs, they end with the weights of an uninterrupted series."""
    words = [
        *("fit", "--seeds", "3", "--trainer.max_epochs", "2", "--every_n_train_steps", "1"),
        *("--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "2"),
        *("--trainer.limit_test_batches", "2", "--data.teacher", "pretrained:mlp"),
        *("--data.batch_size", "20", "--data.horizontal_flip", "0"),
        *("--data.data_dir", str(data_dir)),
    ]
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    logs, output = stopped / "lightning_logs", stopped / "output.txt"
    code = run_command(stopped, words, hit=("training step", 10, 0.0, signal.SIGTERM))
    assert code == 128 + signal.SIGTERM
    assert "the same command, with --ckpt_path last" in output.read_text()
    assert not (logs / "version_1" / "report").exists()

    assert run_command(stopped, [*words, "--ckpt_path", "last", "--data.shift", "1"]) == 2
    assert "settings with which lightning_logs/seeds_0 began" in output.read_text()
    assert run_command(stopped, [*words, "--ckpt_path", "last"]) == 0
    assert {path.name for path in logs.iterdir()} == {
        *("seeds_0", "version_0", "version_1", "version_2"),
    }
    assert json.loads((logs / "seeds_0" / "summary.json").read_text())["seeds"] == [0, 1, 2]
    assert run_command(stopped, [*words, "--ckpt_path", "last"]) == 2
    assert "none below lightning_logs of which a run is missing" in output.read_text()

    assert run_command(whole, words) == 0
    # The teacher predicts once for all of a process's seeds.
    assert (whole / "output.txt").read_text().count("The teacher predicts") == 1
    for name in ("version_0", "version_1", "version_2"):
        ours, theirs = (
            torch.load(
                folder / "lightning_logs" / name / "checkpoints" / "last.ckpt", weights_only=True
            )
            for folder in (stopped, whole)
        )
        for key, value in ours["state_dict"].items():
            assert torch.equal(value, theirs["state_dict"][key])
