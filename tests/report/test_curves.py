from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from fashion_lightning.report.curves import keep_curves, read_curves


def log(run: Path, rows: list[tuple[int, dict[str, Tensor | float]]]) -> None:
    """Write metrics.csv as Lightning does."""
    logger = CSVLogger(run, name="", version="")
    for step, values in rows:
        logger.log_metrics(values, step)
    logger.save()


def test_curves_are_read_as_lightning_logs_them(tmp_path: Path) -> None:
    log(
        tmp_path,
        [
            (49, {"epoch": 0, "lr": 0.1, "train_loss_step": 2.0}),
            (109, {"epoch": 0, "val_loss": 0.5, "val_acc": 0.8, "val_f1": 0.8}),
            (109, {"epoch": 0, "train_loss": 1.5, "train_acc": 0.7}),
            (149, {"epoch": 1, "lr": 0.2, "train_loss_step": 1.0}),
            (219, {"epoch": 1, "val_loss": 0.4, "val_acc": 0.9, "val_f1": 0.9}),
            (219, {"epoch": 1, "train_loss": 1.2, "train_acc": 0.8}),
            (220, {"epoch": 2, "test_loss": 0.3, "test_acc": 0.9}),
        ],
    )
    assert read_curves(tmp_path) == {
        "train_loss": [(0, 1.5), (1, 1.2)],
        "val_loss": [(0, 0.5), (1, 0.4)],
        "train_acc": [(0, 0.7), (1, 0.8)],
        "val_acc": [(0, 0.8), (1, 0.9)],
        "lr": [(49, 0.1), (149, 0.2)],
    }


def test_newer_files_of_a_resumed_run_replace_older_points_from_their_first_on(
    tmp_path: Path,
) -> None:
    for number in range(1, 13):  # metrics_10.csv is after metrics_9.csv.
        epochs = [number - 1, number, number + 1]
        part = tmp_path / str(number)
        log(part, [(epoch, {"epoch": epoch, "val_loss": number}) for epoch in epochs])
        (part / "metrics.csv").rename(tmp_path / f"metrics_{number}.csv")
    (tmp_path / "metrics.csv").write_text("epoch,step,val_loss\n11,11,0.5\n")
    (tmp_path / "metrics_old.csv").write_text("a user's own")
    expected = [*((epoch, epoch + 1) for epoch in range(11)), (11, 0.5)]
    assert read_curves(tmp_path) == {"val_loss": expected}


def test_missing_and_truncated_files_are_no_error(tmp_path: Path) -> None:
    assert read_curves(tmp_path / "nowhere") == {}
    (tmp_path / "metrics.csv").write_text("epoch,step,lr,val_loss\n0,9,0.1,\n1,19,,0.4\n2,29,0.1e")
    assert read_curves(tmp_path) == {"val_loss": [(1, 0.4)], "lr": [(9, 0.1)]}
    (tmp_path / "metrics.csv").write_text("")
    assert read_curves(tmp_path) == {}


def test_curves_are_kept_under_the_next_free_number(tmp_path: Path) -> None:
    keep_curves(tmp_path)
    assert list(tmp_path.iterdir()) == []
    for name in ("metrics_2.csv", "metrics_old.csv"):
        (tmp_path / name).write_text("kept")
    (tmp_path / "metrics.csv").write_text("new")
    keep_curves(tmp_path)
    contents = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert contents == {"metrics_2.csv": "kept", "metrics_old.csv": "kept", "metrics_3.csv": "new"}
