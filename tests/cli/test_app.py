"""The command with the repository's config files and the real data."""

import csv
import json
import shutil
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from sklearn import metrics as sklearn
from support import REPOSITORY, Command, NeuralNetwork
from support.interruptions import run

from fashion_lightning import FashionMNISTClassifier, __version__
from fashion_lightning.cli.main import main
from fashion_lightning.data import files

SHORT = (
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3"),
    *("--trainer.log_every_n_steps", "1"),
)
CONFIGS = REPOSITORY / "configs"
# Without the test at the end, whose report takes longer than such a run.
UNTESTED = (*SHORT, "--trainer.limit_val_batches", "1", "--test_after_fit", "false")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder in which the command runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_runs_folder_holds_everything(trained: Path) -> None:
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 2
    assert config["model"]["lr"] == 0.004
    rows = list(csv.DictReader((trained / "metrics.csv").read_text().splitlines()))
    columns = {
        "train_loss",
        "train_acc",
        "val_loss",
        "val_acc",
        "test_loss",
        "test_acc",
        "lr",
    }
    for column in columns:
        assert any(row[column] for row in rows), column
    assert {path.name for path in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (trained / "report" / "metrics.json").is_file()


@pytest.mark.parametrize("name", ["best", "last"])
def test_checkpoints_hold_plain_values(trained: Path, name: str) -> None:
    path = trained / "checkpoints" / f"{name}.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    network = checkpoint["hyper_parameters"]["network"]
    assert network["class_path"] in ("fashion_lightning.MLP", "fashion_lightning.network.MLP")
    assert FashionMNISTClassifier.load_from_checkpoint(path).lr == 0.004


def test_a_new_process_tests_with_the_same_numbers(trained: Path, data_dir: Path) -> None:
    report, page = trained / "report" / "metrics.json", trained / "report" / "report.html"
    before = json.loads(report.read_text())
    report.unlink()
    page.unlink()
    root = trained.parent.parent
    where = ["--trainer.default_root_dir", str(root), "--data.data_dir", str(data_dir)]
    assert run(root, ["test", "--ckpt_path", "best", *where]) == 0
    assert json.loads(report.read_text()) == before
    assert before["test_acc"] > 0.8
    assert before["num_images"] == 10_000
    assert Path(before["checkpoint"]).name == "best.ckpt"
    assert "Training time" in page.read_text()  # from the checkpoint's `Timer`


def test_the_prediction_table_agrees_with_the_report(trained: Path, command: Command) -> None:
    root = str(trained.parent.parent)
    command("predict", "--ckpt_path", "best", "--trainer.default_root_dir", root)
    rows = list(csv.DictReader((trained / "predictions.csv").read_text().splitlines()))
    report = json.loads((trained / "report" / "metrics.json").read_text())
    assert [int(row["index"]) for row in rows] == list(range(10_000))
    targets = [int(row["target"]) for row in rows]
    predictions = [int(row["prediction"]) for row in rows]
    probs = np.array([[float(row[f"prob_{label}"]) for label in range(10)] for row in rows])
    assert report["test_acc"] == pytest.approx(sklearn.accuracy_score(targets, predictions))
    assert np.allclose(probs.sum(axis=1), 1, atol=1e-6)
    loss = sklearn.log_loss(targets, probs / probs.sum(axis=1, keepdims=True))
    assert report["test_loss"] == pytest.approx(loss, abs=1e-6)
    assert report["confusion_matrix"] == sklearn.confusion_matrix(targets, predictions).tolist()
    assert report["per_class"]["Ankle boot"]["support"] == 1000

    # Without the temperature: the softmax of scaled logits is a normalized power of the softmax.
    powers = probs ** report["temperature"]
    before = powers / powers.sum(axis=1, keepdims=True)
    assert report["uncalibrated"]["test_loss"] == pytest.approx(
        sklearn.log_loss(targets, before), abs=1e-6
    )
    for table, name in ((before, report["uncalibrated"]["test_ece"]), (probs, report["test_ece"])):
        assert name == pytest.approx(expected_calibration_error(table, targets), abs=1e-4)


def expected_calibration_error(probs: NDArray[np.float64], targets: list[int]) -> float:
    """Return the error of Guo et al. 2017, equation 3, with 15 bins of equal width."""
    confidences, correct = probs.max(axis=1), probs.argmax(axis=1) == targets
    bins = np.minimum((confidences * 15).astype(int), 14)
    gaps = [abs(correct[bins == b].sum() - confidences[bins == b].sum()) for b in range(15)]
    return float(sum(gaps) / len(targets))


def test_a_test_writes_its_figures_and_one_page_with_all_of_them(trained: Path) -> None:
    names = ("confusion_matrix", "learning_curves", "mistakes", "reliability_diagram")
    page = (trained / "report" / "report.html").read_text()
    for name in names:
        content = (trained / "report" / f"{name}.png").read_bytes()
        assert b64encode(content).decode() in page
    report = json.loads((trained / "report" / "metrics.json").read_text())
    assert f"{100 * report['test_acc']:.2f}" in page
    assert "horizontal_flip: 0.15" in page  # of config.yaml
    assert torch.__version__.partition("+")[0] in page


def test_an_export_of_another_network_than_the_tutorials_is_refused(
    command: Command, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        command("export", "--ckpt_path", "pretrained:convnet", "--format", "tutorial")
    assert error.value.code == 2
    assert "Expected `network` to be the tutorial's" in capsys.readouterr().err
    assert not list(here.iterdir())


def test_predictions_are_overwritten_only_with_an_option(
    trained: Path, command: Command, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("predict", "--ckpt_path", str(trained / "checkpoints" / "last.ckpt"))
    (here / "mine.csv").write_text("mine")
    with pytest.raises(SystemExit) as error:
        command(*arguments, "--predictions.path", "mine.csv")
    assert error.value.code == 2
    assert "mine.csv exists" in capsys.readouterr().err
    assert (here / "mine.csv").read_text() == "mine"
    command(*arguments, "--predictions.path", "mine.csv", "--predictions.overwrite", "true")
    assert len((here / "mine.csv").read_text().splitlines()) == 10_001


def test_photographs_are_predicted_and_broken_ones_end_in_exit_code_1(
    trained: Path, here: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, _ = files.load(data_dir, train=False)
    (here / "shop").mkdir()
    for number in (2, 10):
        Image.fromarray(images[number].numpy()).save(here / "shop" / f"{number}.png")
    arguments = ["predict", "--ckpt_path", str(trained / "checkpoints" / "best.ckpt")]
    arguments += ["--data.images", "shop", "--predictions.path", "out/table.parquet"]
    main([*arguments, "--preview", "preview.png"])
    table = pq.read_table("out/table.parquet").to_pylist()
    assert [row["path"] for row in table] == ["shop/2.png", "shop/10.png"]
    with Image.open("preview.png") as preview:
        assert preview.format == "PNG"
    (here / "shop" / "3.jpg").write_bytes(b"")
    capsys.readouterr()
    with pytest.raises(SystemExit) as error:
        main([*arguments, "--predictions.overwrite", "true"])
    assert error.value.code == 1
    assert "shop/3.jpg: " in capsys.readouterr().err
    assert pq.read_table("out/table.parquet").column("index").to_pylist() == [0, 2]


def test_photographs_need_no_checkpoint(
    here: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plain background's numbers are those of pretrained:convnet, bit for bit."""

    def rows(name: str) -> list[dict[str, str]]:
        return list(csv.DictReader((here / name).read_text().splitlines()))

    images, _ = files.load(data_dir, train=False)
    (here / "photos").mkdir()
    for number in range(2):
        garment = Image.fromarray(255 - images[number].numpy()).resize((280, 280))
        white = Image.new("L", (400, 400), "white")
        white.paste(garment, (60, 60))
        white.save(here / "photos" / f"{number}.png")
    columns = np.indices((400, 400))[1]
    floor = Image.fromarray((90 + 80 * (columns // 20 % 2)).astype(np.uint8)).convert("RGB")
    cut_out = Image.fromarray(images[0].numpy()).resize((280, 280))
    floor.paste((150, 40, 40), (60, 60), cut_out.point(lambda value: 255 * (value > 20)))
    floor.save(here / "photos" / "2.png")
    predict = ("predict", "--data.images", "photos", "--predictions.path")
    main([*predict, "a.csv", "--preview", "a.png"])
    main([*predict, "b.csv", "--ckpt_path", "pretrained:convnet"])
    ours, theirs = rows("a.csv"), rows("b.csv")
    assert [row["background"] for row in ours] == ["plain", "plain", "real"]
    assert {row["sure"] for row in ours} <= {"true", "false"}
    assert "sure" not in theirs[0]  # Its calibration on photographs is unknown.
    for first, second in zip(ours[:2], theirs[:2], strict=True):
        assert {**first, "sure": None} == {**second, "sure": None}
    assert ours[2]["confidence"] != theirs[2]["confidence"]
    Image.new("RGB", (300, 300), "white").save(here / "photos" / "3.png")
    with pytest.raises(SystemExit) as stop:
        main([*predict, "c.csv"])
    assert stop.value.code == 1
    assert "photos/3.png: " in capsys.readouterr().err
    assert len(rows("c.csv")) == 3


def test_export_writes_into_the_runs_folder(
    trained: Path, command: Command, said: pytest.LogCaptureFixture
) -> None:
    arguments = ("--ckpt_path", "best", "--format", "tutorial")
    command("export", *arguments, "--trainer.default_root_dir", str(trained.parent.parent))
    assert "10,000 of 10,000" in said.text
    network = NeuralNetwork()
    network.load_state_dict(torch.load(trained / "model.pth", weights_only=True))


def test_an_export_to_a_named_file_makes_no_run(
    command: Command, here: Path, said: pytest.LogCaptureFixture
) -> None:
    (here / "lightning_logs").write_text("no folder")
    arguments = ("--ckpt_path", "pretrained:mlp", "--format", "safetensors")
    command("export", *arguments, "--output", "out/model.safetensors")
    assert any(line.startswith("out/model.safetensors: 10,000 of") for line in said.messages)
    assert {path.name for path in here.rglob("*")} == {"lightning_logs", "out", "model.safetensors"}
    assert "files in out" in said.text


def test_validate(trained: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command("validate", "--ckpt_path", str(trained / "checkpoints" / "best.ckpt"))
    assert "val_acc" in capsys.readouterr().out


@pytest.mark.parametrize("config", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_every_config_trains(config: str, command: Command, here: Path) -> None:
    # The teacher's predictions take minutes: a smaller teacher and fewer views do here.
    teacher = ("--data.teacher", "pretrained:mlp", "--data.shift", "0")
    more = teacher if "teacher:" in (CONFIGS / config).read_text() else ()
    small = ("--data.batch_size", "10", "--data.eval_batch_size", "50")
    command("fit", "--config", str(CONFIGS / config), *UNTESTED, *small, *more)
    assert (here / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt").is_file()


def test_a_second_fit_gets_its_own_folder(command: Command, here: Path) -> None:
    command("fit", *UNTESTED)
    first = here / "lightning_logs" / "version_0"
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    command("fit", *UNTESTED, "--seed_everything", "1")
    assert before == {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert (here / "lightning_logs" / "version_1" / "checkpoints" / "best.ckpt").is_file()


def test_last_is_the_last_epoch_and_best_the_one_of_the_lowest_val_loss(
    command: Command, here: Path
) -> None:
    climb = ("--optimizer", "SGD", "--optimizer.lr", "0.01", "--optimizer.maximize", "true")
    command("fit", *UNTESTED, "--trainer.max_epochs", "3", *climb)
    run = here / "lightning_logs" / "version_0"
    rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    losses = [float(row["val_loss"]) for row in rows if row["val_loss"]]
    assert losses == sorted(losses)  # It maximizes the loss, so that the first epoch is the best.
    best, last = (
        torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"]
        for name in ("best", "last")
    )
    assert (best, last) == (0, 2)


def test_fit_without_logger(command: Command, here: Path) -> None:
    expected = {"checkpoints", "config.yaml"}
    for number, (options, more) in enumerate(((SHORT, {"report"}), (UNTESTED, set()))):
        command("fit", *options, "--trainer.logger", "false")
        run = here / "lightning_logs" / f"version_{number}"
        assert {path.name for path in run.iterdir()} == expected | more


def test_fit_without_validation_images(command: Command, here: Path) -> None:
    command("fit", *SHORT, "--data.val_size", "0")
    report = here / "lightning_logs" / "version_0" / "report" / "metrics.json"
    assert json.loads(report.read_text())["num_images"] == 10_000


def test_callbacks_of_the_user_run_beside_ours(command: Command, here: Path) -> None:
    command(
        *("fit", *SHORT, "--trainer.callbacks+=RichProgressBar"),
        *("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=theirs"),
    )
    assert len(list((here / "theirs").glob("*.ckpt"))) == 1
    report = json.loads((here / "lightning_logs/version_0/report/metrics.json").read_text())
    assert report["checkpoint"].endswith("version_0/checkpoints/best.ckpt")


def test_a_run_ends_after_max_time(command: Command, here: Path) -> None:
    """The timer that measures the training time does not replace that of `max_time`."""
    endless = ("--trainer.max_epochs", "-1", "--trainer.max_time", "00:00:00:01")
    command("fit", *UNTESTED, *endless, "--trainer.logger", "false")
    last = here / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    assert 1 <= train_seconds(last) < 30


def test_fast_dev_run_leaves_nothing(command: Command, here: Path) -> None:
    command("fit", "--trainer.fast_dev_run", "true")
    assert list(here.iterdir()) == []


def test_the_test_at_the_end_can_be_turned_off(command: Command, here: Path) -> None:
    command("fit", *UNTESTED)
    assert not (here / "lightning_logs" / "version_0" / "report").exists()


def test_overfitting_a_few_batches(command: Command, here: Path) -> None:
    """The same images come in every epoch, so that the network learns them by heart."""
    command(
        *("fit", "--trainer.max_epochs", "40", "--trainer.overfit_batches", "2"),
        *("--data.batch_size", "20", "--trainer.limit_val_batches", "0"),
        *("--test_after_fit", "false"),
    )
    text = (here / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    accuracies = [row["train_acc"] for row in csv.DictReader(text.splitlines())]
    assert float([value for value in accuracies if value][-1]) == 1


def test_lightnings_optimizer_and_scheduler_take_over(command: Command, here: Path) -> None:
    command(
        *("fit", *UNTESTED, "--optimizer", "RMSprop", "--optimizer.lr", "0.0004"),
        *("--lr_scheduler", "StepLR", "--lr_scheduler.step_size", "1"),
    )
    rows = csv.DictReader(
        (here / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    )
    rates = [float(row["lr"]) for row in rows if row["lr"]]
    assert rates[0] == pytest.approx(0.0004)


def test_explicit_arguments_win_over_the_checkpoints(
    trained: Path, command: Command, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(trained / "checkpoints" / "best.ckpt")
    for explicit, expected in (((), "0.1"), (("--model.label_smoothing", "0.25"), "0.25")):
        with pytest.raises(SystemExit) as stop:
            command("test", "--ckpt_path", checkpoint, *explicit, "--print_config")
        assert stop.value.code == 0
        printed = yaml.safe_load(capsys.readouterr().out)
        assert str(printed["model"]["label_smoothing"]) == expected


def train_seconds(checkpoint: Path) -> float:
    states = torch.load(checkpoint, weights_only=True)["callbacks"]
    return float(states["Timer"]["time_elapsed"]["train"])


def test_a_run_can_be_continued(command: Command, here: Path) -> None:
    command("fit", *SHORT)
    last = here / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    seconds = train_seconds(last)
    with pytest.warns(UserWarning, match="learning rate goes on with .* instead of 0"):
        command("fit", "--ckpt_path", "last", *UNTESTED, "--trainer.max_epochs", "2")
    (run,) = (here / "lightning_logs").iterdir()
    assert torch.load(last, weights_only=True)["global_step"] == 6
    assert train_seconds(last) > seconds > 0
    curves = [(run / name).read_text() for name in ("metrics_1.csv", "metrics.csv")]
    steps = [[int(row["step"]) for row in csv.DictReader(text.splitlines())] for text in curves]
    assert yaml.safe_load((run / "config.yaml").read_text())["ckpt_path"] is None
    assert set(steps[0]) == {0, 1, 2, 3}  # Nothing of the first part is lost (3 is its test).
    assert set(steps[1]) == {3, 4, 5}


def test_print_config_can_be_used_as_a_config(
    command: Command, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command("fit", "--model.lr", "0.25", "--print_config")
    (here / "printed.yaml").write_text(capsys.readouterr().out)
    command("fit", "--config", "printed.yaml", *UNTESTED)
    config = yaml.safe_load((here / "lightning_logs/version_0/config.yaml").read_text())
    assert config["model"]["lr"] == 0.25
    assert config["trainer"]["devices"] == 1  # With all GPUs, a step would see more images.


def test_a_launcher_decides_how_many_devices_there_are(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")  # as torchrun sets it
    with pytest.raises(SystemExit):
        command("fit", "--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["devices"] == "auto"


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"], ["--version"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert __version__ in out if arguments == ["--version"] else "--config" in out


@pytest.mark.parametrize("name", ["fit", "validate", "test", "predict", "export"])
def test_the_help_of_a_command_fits_in_three_screens(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 110
    assert 20 < len(lines) < (100 if name == "fit" else 50)
    assert ("--model.lr " in "".join(lines)) == (name == "fit")
    assert f"{name} --help_all" in lines[-1]


def test_all_options_have_their_types(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--help_all"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "--trainer.sync_batchnorm" in out
    assert "(type: " in out


def test_a_run_prints_device_precision_and_folder(
    command: Command, here: Path, said: pytest.LogCaptureFixture
) -> None:
    command("fit", *UNTESTED, "--trainer.accelerator", "cpu", "--trainer.precision", "32-true")
    assert "fit: on cpu, precision 32-true" in said.text
    assert "lightning_logs/version_0" in said.text


class Intruder:
    """Part of a hostile checkpoint: unpickling it writes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("intruded"),)


@pytest.mark.parametrize("kind", ["garbage", "cut", "foreign", "weights", "hostile"])
@pytest.mark.parametrize("subcommand", ["fit", "test"])
def test_other_files_than_checkpoints_are_refused(
    subcommand: str, kind: str, trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = trained / "checkpoints" / "best.ckpt"
    path = here / "model.ckpt"
    if kind == "garbage":
        path.write_bytes(b"no checkpoint" * 100)
    elif kind == "cut":
        path.write_bytes(real.read_bytes()[:1_000_000])
    elif kind == "weights":
        torch.save(FashionMNISTClassifier().state_dict(), path)
    elif kind == "foreign":
        torch.save({"hyper_parameters": {"num_layers": 3}, "state_dict": {}}, path)
    else:
        torch.save({"hyper_parameters": {"lr": Intruder()}, "state_dict": {}}, path)
    with pytest.raises(SystemExit) as error:
        main([subcommand, "--ckpt_path", str(path)])
    assert error.value.code == 2
    printed = capsys.readouterr().err
    assert "model.ckpt" in printed
    assert "Traceback" not in printed
    assert [entry.name for entry in here.iterdir()] == ["model.ckpt"]


def test_without_ckpt_path_the_existing_checkpoints_are_named(
    trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, here / "lightning_logs" / "version_7")
    with pytest.raises(SystemExit):
        main(["test"])
    assert "lightning_logs/version_7/checkpoints/best.ckpt" in capsys.readouterr().err


def test_a_config_file_of_version_0_1_is_read(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It holds `data.preview`, which is an option of `predict` now."""
    (here / "old.yaml").write_text("data:\n  preview: null\n  val_size: 4000\n")
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", "old.yaml", "--print_config"])
    assert "val_size: 4000" in capsys.readouterr().out
