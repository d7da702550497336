"""Every option and callback of Lightning's Trainer, in the command and in a script.

Each works, or ends in one sentence and exit code 2 with nothing written.
"""

from inspect import signature
from pathlib import Path
from typing import Any

import lightning.pytorch.callbacks as callbacks
import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from support import Command

from fashion_lightning import MLP, FashionMNISTClassifier, FashionMNISTDataModule
from fashion_lightning.callbacks import BestAndLast

# Part of the refusal; None if the option works. Independent options share a case, since each case
# costs a run.
OPTIONS: dict[str, str | None] = {
    "--trainer.accelerator auto --trainer.devices auto --trainer.num_nodes 1": None,
    "--trainer.strategy auto --trainer.sync_batchnorm true --trainer.benchmark true": None,
    "--trainer.strategy fsdp": "requires a GPU",
    "--trainer.precision bf16-true": None,
    "--trainer.precision 64-true": None,
    "--trainer.precision 16-mixed --trainer.gradient_clip_val 0.5": None,
    "--trainer.gradient_clip_val 0.5 --trainer.gradient_clip_algorithm value": None,
    "--trainer.logger false --trainer.enable_progress_bar false": None,
    "--trainer.logger CSVLogger --trainer.logger.save_dir x": None,
    "--trainer.fast_dev_run 2": None,
    "--trainer.max_epochs 0": None,
    "--trainer.max_epochs -1 --trainer.max_steps 3 --trainer.max_time 00:00:01:00": None,
    "--trainer.min_epochs 3 --trainer.min_steps 8": None,
    "--trainer.limit_train_batches 0": None,
    "--trainer.limit_train_batches 0.02 --trainer.limit_val_batches 0.1": None,
    "--trainer.limit_val_batches 0 --trainer.limit_predict_batches 0": None,
    "--trainer.overfit_batches 2": None,
    "--trainer.val_check_interval 0.5": None,
    "--trainer.val_check_interval 00:00:00:01": None,
    "--trainer.val_check_interval 4 --trainer.check_val_every_n_epoch null": None,
    "--trainer.check_val_every_n_epoch 2 --trainer.num_sanity_val_steps -1": None,
    "--trainer.log_every_n_steps 0 --trainer.enable_model_summary false": None,
    "--trainer.enable_checkpointing false --trainer.inference_mode false": None,
    "--trainer.accumulate_grad_batches 4 --trainer.detect_anomaly true": None,
    "--trainer.deterministic true --trainer.use_distributed_sampler false": None,
    "--trainer.profiler simple --trainer.enable_autolog_hparams false": None,
    "--trainer.barebones true": None,
    "--trainer.barebones true --trainer.logger true": "barebones",
    "--trainer.plugins AsyncCheckpointIO": None,
    "--trainer.reload_dataloaders_every_n_epochs 1": None,
    "--trainer.default_root_dir elsewhere": None,
    "--data.num_workers 1 --data.pad_evaluation true": None,
    "--lr_scheduler StepLR --lr_scheduler.step_size 1": "`lr_scheduler` to be given together with",
    "--optimizer Adam --lr_scheduler ReduceLROnPlateau --lr_scheduler.monitor val_loss": None,
    "--optimizer Adam --lr_scheduler ReduceLROnPlateau --lr_scheduler.monitor x": "but got 'x'",
}
CALLBACKS: dict[str, str | None] = {
    "BackboneFinetuning": "the model has no backbone",
    "BatchSizeFinder --trainer.callbacks.max_trials 2": None,
    "DeviceStatsMonitor --trainer.callbacks.cpu_stats false": None,
    "EarlyStopping --trainer.callbacks.monitor val_loss": None,
    "EarlyStopping --trainer.callbacks.monitor train_loss": None,
    "EarlyStopping --trainer.callbacks.monitor val_accuracy": "but got 'val_accuracy'",
    "EarlyStopping --trainer.callbacks.monitor val_loss --data.val_size 0": "but got 'val_loss'",
    "EarlyStopping --trainer.callbacks.monitor train_loss --trainer.val_check_interval 2": (
        "but got 'train_loss'"
    ),
    "EMAWeightAveraging": None,
    "LambdaCallback": None,
    "LearningRateFinder --trainer.callbacks.num_training_steps 20": None,
    "LearningRateMonitor": None,
    "LearningRateMonitor --trainer.fast_dev_run true": None,
    "LearningRateMonitor --trainer.logger false": "no logger",
    "ModelCheckpoint --trainer.callbacks.monitor val_loss": None,
    "ModelCheckpoint --trainer.callbacks.save_last true": "a folder of its own",
    "ModelCheckpoint --trainer.callbacks.monitor x": "but got 'x'",
    "ModelPruning --trainer.callbacks.pruning_fn l1_unstructured": None,
    "ModelSummary": None,
    "OnExceptionCheckpoint --trainer.callbacks.dirpath x": None,
    "RichModelSummary": None,
    "RichProgressBar": None,
    "SpikeDetection": None,
    "StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.01": "StochasticWeightAveraging",
    "TQDMProgressBar": None,
    "ThroughputMonitor": "batch_size_fn",
    "Timer --trainer.callbacks.duration 00:01:00:00": None,
    "WeightAveraging": None,
    "fashion_lightning.callbacks.BestAndLast": "without BestAndLast",
}
# Base classes, and one whose option is a dict of ints, which no command line can express.
NOT_IN_THE_COMMAND = {
    *("BaseFinetuning", "BasePredictionWriter", "Callback", "Checkpoint", "ProgressBar"),
    *("GradientAccumulationScheduler",),
}
SHORT = (
    *("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "4"),
    *("--trainer.limit_val_batches", "2", "--test_after_fit", "false"),
    *("--data.batch_size", "50", "--data.eval_batch_size", "50"),
)


def test_all_options_and_callbacks_have_a_case() -> None:
    tried = " ".join(OPTIONS)
    options = {*signature(Trainer).parameters} - {"callbacks", "limit_test_batches"}
    missing = {name for name in options if f"--trainer.{name} " not in tried}
    assert missing == {"model_registry"}  # It needs another package.
    names = {case.split()[0] for case in CALLBACKS}
    assert {*callbacks.__all__} - NOT_IN_THE_COMMAND - names == set()


def cases() -> list[Any]:
    """Return all cases; of those that work, and take a run each, most are marked `long`."""
    table = {**OPTIONS, **{f"--trainer.callbacks {case}": CALLBACKS[case] for case in CALLBACKS}}
    short = ("fast_dev_run true", "barebones", "val_check_interval 00")
    return [
        pytest.param(
            case,
            refusal,
            marks=[] if refusal or any(each in case for each in short) else pytest.mark.long,
        )
        for case, refusal in table.items()
    ]


@pytest.mark.parametrize(("case", "refusal"), cases())
@pytest.mark.filterwarnings("ignore")
def test_options_in_the_command(
    case: str,
    refusal: str | None,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if refusal is None:
        command("fit", *SHORT, *case.split())
        return
    with pytest.raises(SystemExit) as error:
        command("fit", *SHORT, *case.split())
    assert error.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert refusal in last
    assert list(tmp_path.iterdir()) == []


IN_A_SCRIPT: list[tuple[Any, dict[str, Any]]] = [
    (callbacks.BatchSizeFinder(max_trials=2), {}),
    (callbacks.EMAWeightAveraging(), {}),
    (callbacks.EarlyStopping("val_loss"), {}),
    (callbacks.GradientAccumulationScheduler({0: 1, 1: 2}), {}),
    (callbacks.LearningRateFinder(num_training_steps=20), {}),
    (callbacks.ModelCheckpoint(monitor="val_loss", save_last=True), {}),
    (callbacks.ModelPruning("l1_unstructured", amount=0.3), {}),
    (callbacks.StochasticWeightAveraging(0.01), {}),
    (callbacks.Timer(), {"barebones": False}),
    (callbacks.WeightAveraging(), {"precision": "bf16-mixed", "gradient_clip_val": 0.1}),
    (BestAndLast(), {"val_check_interval": 2, "accumulate_grad_batches": 3}),
]


@pytest.mark.long
@pytest.mark.parametrize(("callback", "options"), IN_A_SCRIPT)
@pytest.mark.filterwarnings("ignore")
def test_callbacks_in_a_script(
    callback: Any,
    options: dict[str, Any],
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(
        **{
            "max_epochs": 2,
            "limit_train_batches": 4,
            "limit_val_batches": 2,
            "logger": False,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            **options,
        },
        callbacks=[callback],
    )
    classifier = FashionMNISTClassifier(MLP(hidden_features=8))
    trainer.fit(classifier, FashionMNISTDataModule(data_dir, batch_size=50))
    assert trainer.callback_metrics["val_loss"].isfinite()
    assert trainer.callback_metrics["train_acc"] > 0


def test_barebones_in_a_script(data_dir: Path) -> None:
    trainer = Trainer(barebones=True, max_epochs=1, limit_train_batches=2, accelerator="cpu")
    with pytest.warns(UserWarning, match="barebones"):
        trainer.fit(FashionMNISTClassifier(), FashionMNISTDataModule(data_dir))
    with pytest.raises(MisconfigurationException, match=r"[Cc]heckpoint"):
        Trainer(barebones=True, callbacks=[BestAndLast()])
