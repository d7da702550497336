"""Bad input ends in exit code 2, with one short message and nothing written."""

from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from fashion_lightning import FashionMNISTDataModule
from fashion_lightning.cli.main import main
from fashion_lightning.cli.preflight import check_batches

Case = tuple[str, tuple[str, ...]]

# A case that is accepted by mistake ends after one batch. Lightning does not check some limits of
# the trainer in a trial run: their cases are a real run of one batch, `fit_short`.
SHORT = {
    "fit": "fit --trainer.fast_dev_run true",
    "fit_short": "fit --trainer.max_epochs 1 --trainer.limit_train_batches 1",
}
MLP = "--model.network fashion_lightning.MLP --model.network.init_args"
CONVNET = "--model.network fashion_lightning.ConvNet --model.network.init_args"
LOGITS = "Expected `network` to be one that turns images (N, 1, 28, 28) into logits (N, 10)"

# Each case: the arguments, and parts of the message.
MODEL: list[Case] = [
    ("fit --model.lr fast", ("Expected `model.lr` to be a number, but got fast.",)),
    ("fit --model.lr null", ("Expected `model.lr` to be a number, but got None.",)),
    ("fit --model.lr true", ("Expected `model.lr` to be a number, but got True.",)),
    ("fit --model.lr [1]", ("Expected `model.lr` to be a number, but got [1].",)),
    ("fit --model.lr nan", ("Expected `model.lr` to be a number, but got nan.",)),
    ("fit --model.lr .nan", ("Expected `lr` to be a finite number > 0, but got nan.",)),
    ("fit --model.lr .inf", ("Expected `lr` to be a finite number > 0, but got inf.",)),
    ("fit --model.lr 0", ("Expected `lr` to be a finite number > 0, but got 0.0.",)),
    ("fit --model.lr -1", ("Expected `lr` to be a finite number > 0, but got -1.0.",)),
    ("fit --model.lr", ("--model.lr: expected one argument",)),
    ("fit --model.num_classes 1", ("Expected `num_classes` to be an int >= 2, but got 1.",)),
    ("fit --model.num_classes 5", ("Expected `num_classes` to be 10, but got 5.",)),
    ("fit --model.num_classes 11", ("Expected `num_classes` to be 10, but got 11.",)),
    ("fit --model.num_classes ten", ("`model.num_classes` to be an int, but got ten.",)),
    ("fit --model.optimizer adam", ("'adamw' or 'muon' or 'sgd', but got adam.",)),
    ("fit --model.weight_decay -1", ("`weight_decay` to be a finite number >= 0, but got -1.0.",)),
    ("fit --model.weight_decay .nan", ("`weight_decay` to be a finite number >= 0, but got nan.",)),
    (
        "predict --ckpt_path pretrained:mlp --data.preview x.png",
        ("`preview` to be an option of `predict`, as `--preview`, but got 'x.png'.",),
    ),
    (
        "fit --optimizer Adam --model.lr 0.5",
        ("`model.lr` to be left out with `--optimizer`, which does not use it, but got 0.5.",),
    ),
    (
        "fit --optimizer torch.optim.Muon",
        ("`optimizer` to be replaced by `--model.optimizer muon` where a network has more",),
    ),
    (
        "fit --model.optimizer sgd --model.beta2 0.5",
        ("`model.beta2` to be left out with `model.optimizer` sgd, which does not use it",),
    ),
    (
        "fit --every_n_train_steps 2 --trainer.enable_checkpointing false",
        ("`every_n_train_steps` to be left out where no checkpoint is written, but got 2.",),
    ),
    (
        "fit --trainer.precision 16-true",
        ("`precision` to be 16-mixed or of a wider type, since weights in 16 bits do not train",),
    ),
    ("fit --model.beta2 1", ("Expected `beta2` to be in [0, 1), but got 1.0.",)),
    ("fit --model.beta2 .nan", ("Expected `beta2` to be in [0, 1), but got nan.",)),
    ("fit --model.warmup 1.5", ("Expected `warmup` to be in [0, 1], but got 1.5.",)),
    ("fit --model.warmup=-.inf", ("Expected `warmup` to be in [0, 1], but got -inf.",)),
    ("fit --model.label_smoothing 1", ("`label_smoothing` to be in [0, 1), but got 1.0.",)),
    ("fit --model.label_smoothing .nan", ("`label_smoothing` to be in [0, 1), but got nan.",)),
    ("fit --model.label_smoothing_power -1", ("to be a finite number >= 0, but got -1.0.",)),
    ("fit --model.label_smoothing_power .inf", ("to be a finite number >= 0, but got inf.",)),
    ("fit --model.teacher_temperature 0", ("to be a finite number > 0, but got 0.0.",)),
    ("fit --model.mean .nan", ("Expected `mean` to be a finite number, but got nan.",)),
    ("fit --model.mean=-.inf", ("Expected `mean` to be a finite number, but got -inf.",)),
    ("fit --model.std 0", ("Expected `std` to be a finite number > 0, but got 0.0.",)),
    ("fit --model.std .inf", ("Expected `std` to be a finite number > 0, but got inf.",)),
    ("fit --model.compile_network 3", ("`model.compile_network` to be true or false, but got 3.",)),
]
NETWORK: list[Case] = [
    ("fit --model.network 7", ("Expected `model.network` to be a class path, but got 7.",)),
    ("fit --model.network a_file", ("Expected `model.network` to be a class path",)),
    (
        "fit --model.network fashion_lightning.Nothing",
        ("`model.network`", "'fashion_lightning.Nothing'", "no attribute 'Nothing'"),
    ),
    ("fit --model.network nowhere.Net", ("`model.network`", "No module named 'nowhere'")),
    (
        "fit --model.network collections.OrderedDict",
        ("`model.network` to be a subclass of Module, but got collections.OrderedDict.",),
    ),
    ("fit --model.network torch.nn.Linear", ("`model.network`", "required: in_features")),
    ("fit --model.network torch.nn.Identity", (LOGITS, "but got (1, 1, 28, 28).")),
    ("fit --model.network torch.nn.Module", (LOGITS, 'missing the required "forward"')),
    (f"fit {MLP}.hidden 3", ("`model.network`", "Option 'hidden' is not accepted")),
    (f"fit {MLP}.hidden_features 0", ("`hidden_features` to be an int >= 1, but got 0.",)),
    (f"fit {MLP}.in_features 0", ("Expected `in_features` to be an int >= 1, but got 0.",)),
    (f"fit {MLP}.in_features 783", ("`in_features` to be a square number", "but got 783.")),
    (f"fit {MLP}.in_features 784.5", ("`in_features` to be an int, but got 784.5.",)),
    (f"fit {MLP}.in_features 100", (LOGITS, "(N, 1, 10, 10)", "but got (1, 1, 28, 28).")),
    (f"fit {MLP}.num_classes -1", ("Expected `num_classes` to be an int >= 1, but got -1.",)),
    (f"fit {MLP}.num_classes 3", (LOGITS, "but got (1, 3).")),
    (f"fit {CONVNET}.channels 0", ("Expected `channels` to be an int >= 1, but got 0.",)),
    (f"fit {CONVNET}.num_classes 0", ("Expected `num_classes` to be an int >= 1, but got 0.",)),
]
DATA: list[Case] = [
    ("fit --data.batch_size 0", ("Expected `batch_size` to be an int >= 1, but got 0.",)),
    ("fit --data.batch_size -8", ("Expected `batch_size` to be an int >= 1, but got -8.",)),
    ("fit --data.batch_size 1.5", ("Expected `data.batch_size` to be an int, but got 1.5.",)),
    ("fit --data.eval_batch_size 0", ("Expected `eval_batch_size` to be an int >= 1, but got 0.",)),
    ("fit --data.batch_size 55001", ("at most the 55000 training images, but got 55001.",)),
    ("fit --data.val_size 60000", ("`val_size` to be an int in 0 ... 59999, but got 60000.",)),
    ("fit --data.val_size -1", ("`val_size` to be an int in 0 ... 59999, but got -1.",)),
    ("fit --data.split_seed 1.5", ("Expected `data.split_seed` to be an int, but got 1.5.",)),
    ("fit --data.horizontal_flip 2", ("`horizontal_flip` to be in [0, 1], but got 2.0.",)),
    ("fit --data.horizontal_flip .nan", ("`horizontal_flip` to be in [0, 1], but got nan.",)),
    ("fit --data.shift 28", ("Expected `shift` to be an int in 0 ... 27, but got 28.",)),
    ("fit --data.shift -1", ("Expected `shift` to be an int in 0 ... 27, but got -1.",)),
    ("fit --data.teacher pretrained:x", ("'mlp' or 'convnet' or 'wide', but got 'x'.",)),
    ("fit --data.teacher pretrained:mlp --trainer.overfit_batches 2", ("0 with `teacher`",)),
    ("fit --data.teacher nowhere", ("`teacher` to be a checkpoint file, or", "got 'nowhere'.")),
    (
        "fit --data.teacher a_file",
        (
            "Expected a checkpoint",
            "but a_file is damaged",
        ),
    ),
    ("fit --data.mirrors 7", ("Expected `data.mirrors` to be a list, but got 7.",)),
    ("fit --data.mirrors [7]", ("Expected `data.mirrors` to be a string, but got 7.",)),
    ("fit --data.mirrors http://x", ("Expected `data.mirrors` to be a list, but got http://x.",)),
    ("fit --data.images nowhere", ("`images` to be a file or a", "but there is no nowhere.")),
    ("fit --data.images a_folder", ("`images` to hold PNG", "but a_folder has none.")),
]
COMMAND: list[Case] = [
    ("dance", ("one of fit, validate, test, predict, export, demo, but got 'dance'",)),
    ("demo --port x", ("Expected `port` to be an int, but got x.", "demo --help")),
    ("demo --prt 1", ("unrecognized arguments: --prt 1; did you mean --port?", "demo --help")),
    ("demo --ckpt_path best", ("Expected `ckpt_path` to be best, last", "but got best.")),
    ("--dance", ("unrecognized arguments: --dance", "fashion-lightning --help")),
    ("fit surplus", ("unrecognized arguments: surplus", "fit --help")),
    ("fit --model.lrr 1", ("unrecognized arguments: --model.lrr 1; did you mean --model.lr?",)),
    ("fit --data.batchsize 1", ("unrecognized arguments: --data.batchsize 1", "fit --help")),
    ("fit --trainer.epochs 1", ("did you mean --trainer.m", "_epochs?", "fit --help")),
    ("test --test_after_fit true", ("unrecognized arguments: --test_after_fit", "test --help")),
    ("test --predictions.path x", ("unrecognized arguments: --predictions.path", "test --help")),
    ("fit --test_after_fit perhaps", ("`test_after_fit` to be true or false, but got perhaps.",)),
    ("fit --every_n_train_steps x", ("Expected `every_n_train_steps` to be an int, but got x.",)),
    ("fit_short --every_n_train_steps 0", ("`every_n_train_steps` to be an int >= 1, but got 0.",)),
    ("fit --seeds x", ("Expected `seeds` to be an int, but got x.",)),
    ("fit_short --seeds 0", ("Expected `seeds` to be an int >= 1, but got 0.",)),
    ("fit --seeds 2", ("Expected `fast_dev_run` to be absent with `seeds`, but got True.",)),
    ("fit_short --seeds 2 --test_after_fit false", ("`test_after_fit` to be true with `seeds`",)),
    ("fit_short --seeds 2 --seed_everything false", ("`seed_everything` to be an int with",)),
    ("fit_short --seeds 2 --seed_everything 4294967295", ("`seeds` to be at most 1, but got 2.",)),
    ("fit_short --seeds 2 --trainer.accelerator cpu --trainer.devices 2", ("with 2 processes",)),
    ("fit_short --seeds 2 --trainer.limit_test_batches 0", ("`limit_test_batches` to be more",)),
    ("fit_short --seeds 2 --trainer.enable_checkpointing false", ("`enable_checkpointing` to",)),
    ("fit_short --compare_to x", ("`compare_to` to be given with `seeds`, but got 'x'.",)),
    ("fit_short --seeds 2 --compare_to nowhere", ("summary.json of `fit --seeds`, but got nowhe",)),
    ("fit_short --seeds 2 --compare_to a_file", ("but a_file holds something else.",)),
    ("predict --preview x.png", ("`preview` to be given together with `images`, but got 'x.png'",)),
    (
        "predict --preview a_folder --data.images a_file --ckpt_path pretrained:mlp",
        ("but got a_folder, which is a folder",),
    ),
    (
        "predict --preview a_file/x.png --data.images a_file --ckpt_path pretrained:mlp",
        ("a_file is no folder that can be written",),
    ),
    ("fit --preview x.png", ("unrecognized arguments: --preview", "fit --help")),
    ("predict --predictions.overwrite x", ("`predictions.overwrite` to be true or false",)),
    ("fit --seed_everything x", ("`seed_everything` to be true or false or an int, but got x.",)),
    ("fit --seed_everything 1.5", ("`seed_everything` to be true or false or an int",)),
    ("fit --seed_everything -1", ("`seed_everything` to be an int in 0 ... 4294967295", "got -1.")),
    ("fit --seed_everything 4294967296", ("an int in 0 ... 4294967295, but got 4294967296.",)),
    ("fit --optimizer Magic", ("Expected `optimizer` to be a class path, but got Magic.",)),
    ("fit --optimizer SGD --optimizer.lr fast", ("`optimizer`", "`lr`", "but got fast.")),
    ("fit --lr_scheduler Magic", ("Expected `lr_scheduler` to be a class path, but got Magic.",)),
]
CKPT = "Expected `ckpt_path` to be best, last, pretrained:NAME or a checkpoint file"
CHECKPOINT: list[Case] = [
    ("fit --ckpt_path last", (CKPT, "but got last.", "`fashion-lightning fit` makes them")),
    ("validate", (CKPT, "but got None.", "`fashion-lightning fit` makes them")),
    ("test", (CKPT, "but got None.", "`fashion-lightning fit` makes them")),
    ("predict", (CKPT, "but got None.", "`fashion-lightning fit` makes them")),
    ("export", (CKPT, "but got None.", "`fashion-lightning fit` makes them")),
    ("export --ckpt_path best --format x", ("`format` to be 'onnx'", "'tutorial', but got x.")),
    ("export --ckpt_path best --overwrite x", ("`overwrite` to be true or false, but got x.",)),
    ("fit --output x", ("unrecognized arguments: --output", "fit --help")),
    ("validate --ckpt_path best", (CKPT, "but got best.")),
    ("test --ckpt_path pretrained:x", ("'mlp' or 'convnet' or 'wide', but got 'x'.",)),
    ("predict --ckpt_path nowhere.ckpt", (CKPT, "but got nowhere.ckpt.")),
    ("test --ckpt_path a_folder", (CKPT, "but got a_folder.")),
    (
        "test --ckpt_path a_file",
        ("Expected a checkpoint of FashionMNISTClassifier, but a_file is damaged",),
    ),
    ("test --trainer.default_root_dir a_file", (CKPT, "Checkpoints below a_file/lightning_logs")),
]
TRAINER: list[Case] = [
    ("fit --trainer.max_epochs many", ("`trainer.max_epochs` to be an int, but got many.",)),
    ("fit --trainer.max_epochs -5", ("`max_epochs` must be a non-negative integer or -1", "-5")),
    ("fit --trainer.accelerator abacus", ("accelerator='abacus'", "Available names", "cpu")),
    ("fit --trainer.accelerator tpu", ("torch_xla", "accelerator=tpu")),
    ("fit --trainer.accelerator mps --trainer.devices 9", ("accelerator=mps", "devices=9")),
    ("fit --trainer.accelerator cuda --trainer.devices 9", ("accelerator=cuda", "devices=9")),
    ("fit --trainer.accelerator gpu --trainer.devices 9", ("accelerator=gpu", "devices=9")),
    ("fit --trainer.accelerator cpu --trainer.devices 0", ("devices='0'", "cpu accelerator")),
    ("fit --trainer.accelerator cpu --trainer.devices -5", ("an int > 0", "devices=-5")),
    ("fit --trainer.accelerator cpu --trainer.devices abc", ("an int > 0", "devices=abc")),
    ("fit --trainer.num_nodes 0", ("`num_nodes` must be a positive integer, but got 0.",)),
    ("fit --trainer.precision 7", ("`trainer.precision`", "'bf16-mixed'", "but got 7.")),
    ("fit --trainer.precision half", ("`trainer.precision`", "'bf16-mixed'", "but got half.")),
    ("fit --trainer.strategy magic", ("strategy='magic'", "Example choices: auto, ddp")),
    ("fit --trainer.fast_dev_run maybe", ("an int or true or false, but got maybe.",)),
    ("fit --trainer.limit_train_batches few", ("`trainer.limit_train_batches`", "but got few.")),
    ("fit_short --trainer.limit_train_batches 1.5", ("1.5 for limit_train_batches", "an int")),
    ("fit_short --trainer.limit_train_batches -1", ("-1 for limit_train_batches", "[0.0, 1.0]")),
    ("fit_short --trainer.limit_train_batches .nan", ("nan for limit_train_batches", "an int")),
    ("fit_short --trainer.default_root_dir a_file", ("`default_root_dir`", "but got a_file (")),
    ("fit_short --trainer.default_root_dir a_file/x", ("a folder that can be", "got a_file/x (")),
    ("fit --trainer.log_every_n_steps -3", ("Expected `log_every_n_steps` to be >= 0", "got -3.")),
    ("fit_short --trainer.min_epochs -3", ("Expected `min_epochs` to be >= 0, but got -3.",)),
    ("fit_short --trainer.min_steps -3", ("Expected `min_steps` to be >= 0, but got -3.",)),
    ("fit_short --trainer.num_sanity_val_steps -5", ("to be an int >= -1, but got -5.",)),
    ("fit_short --trainer.val_check_interval 2", ("at most the 1 training batches, but got 2.",)),
    ("fit_short --trainer.limit_train_batches 0.001", ("one of the 110 batches, but got 0.001.",)),
    ("fit_short --trainer.limit_val_batches 0.01", ("one of the 20 batches, but got 0.01.",)),
    ("fit_short --trainer.limit_test_batches 0.01", ("one of the 40 batches, but got 0.01.",)),
    ("fit_short --trainer.overfit_batches 0.0001", ("`limit_train_batches`", "but got 0.0001.")),
    ("fit_short --trainer.default_root_dir new/er --trainer.max_steps -7", ("`max_steps`", "-7")),
    ("fit --trainer.gradient_clip_val -1", ("Expected `gradient_clip_val` to be >= 0", "got -1.")),
    ("fit --model binary.yaml", ("Expected text in UTF-8, but got 'utf-8' codec can't decode",)),
    ("fit --data.mirrors [nonsense]", ("`mirrors` to be base URLs, but got 'nonsense'.",)),
    ("fit --trainer.accumulate_grad_batches 0", ("`accumulate_grad_batches` to be > 0", "got 0.")),
    ("fit --trainer.val_check_interval 0", ("Expected `val_check_interval` to be > 0", "got 0.")),
    ("fit --trainer.check_val_every_n_epoch 0", ("`check_val_every_n_epoch` to be > 0", "got 0.")),
    ("fit --trainer.gradient_clip_algorithm x", ("`gradient_clip_algorithm` x", "'norm'")),
    ("fit --trainer.profiler magic", ("'simple', 'advanced'", "profiler=magic")),
    ("fit --trainer.max_time forever", ("duration='forever'", "DD:HH:MM:SS")),
    ("fit --trainer.callbacks no.such.Callback", ("`trainer.callbacks`", "No module named 'no'")),
    ("fit --trainer.callbacks+=no.such.Callback", ("`trainer.callbacks`", "No module named 'no'")),
    ("fit --trainer.callbacks Nothing", ("`trainer.callbacks`", "a class path, but got Nothing.")),
    ("fit --trainer.callbacks fashion_lightning.MLP", ("`trainer.callbacks`", "of Callback")),
    ("fit --trainer.logger no.such.Logger", ("`trainer.logger`", "No module named 'no'")),
    ("fit --trainer.logger maybe", ("`trainer.logger`", "true or false, but got maybe.")),
    ("fit --trainer.plugins no.such.Plugin", ("`trainer.plugins`", "No module named 'no'")),
]
MAPPING = "Expected options with their values"
CONFIGS = {
    "empty.yaml": b"",
    "text.yaml": b"just words\n",
    "list.yaml": b"- model\n- data\n",
    "long.yaml": b"words " * 10_000,
    "binary.yaml": bytes(range(256)),
    "utf16.yaml": "model:\n  lr: 0.1\n".encode("utf-16"),
    "broken.yaml": b"data: [1, 2\n",
    "tab.yaml": b"model:\n\tlr: 0.1\n",
    "code.yaml": b"model: !!python/object/apply:os.system [touch intruded]\n",
    "group_twice.yaml": b"model:\n  lr: 0.1\nmodel:\n  beta2: 0.9\n",
    "key_twice.yaml": b"model:\n  lr: 0.1\n  lr: 0.2\n",
    "deep_twice.yaml": b"trainer:\n  callbacks:\n  - class_path: A\n    class_path: B\n",
    "misspelt.yaml": b"data:\n  batchsize: 64\n",
    "unknown.yaml": b"modell:\n  lr: 0.1\n",
    "wrong_type.yaml": b"model:\n  lr: fast\n",
    "wrong_range.yaml": b"model:\n  lr: -1\n",
    "no_group.yaml": b"model: 7\n",
    "network.yaml": b"model:\n  network:\n    class_path: nowhere.Net\n",
}
CONFIG: list[Case] = [
    ("fit --config", ("--config: expected one argument",)),
    ("fit --config nowhere.yaml", ("`config`: File does not exist", "nowhere.yaml")),
    ("--config nowhere.yaml fit", ("`config`: File does not exist", "nowhere.yaml")),
    ("fit --config a_folder", ("`config`: Path is not a file", "a_folder")),
    ("fit --config empty.yaml", ("empty.yaml: ", MAPPING)),
    ("fit --config text.yaml", ("text.yaml: ", MAPPING)),
    ("fit --config list.yaml", ("list.yaml: ", MAPPING)),
    ("fit --config long.yaml", ("long.yaml: ", MAPPING)),
    ("fit --config binary.yaml", ("binary.yaml: Expected text in UTF-8",)),
    ("fit --config utf16.yaml", ("utf16.yaml: Expected text in UTF-8",)),
    ("fit --config broken.yaml", ("broken.yaml: ", "expected ',' or ']'", "line 2")),
    ("--config broken.yaml fit", ("broken.yaml: ", "expected ',' or ']'", "line 2")),
    ("fit --config tab.yaml", ("tab.yaml: ", "cannot start any token", "line 2")),
    ("fit --config code.yaml", ("code.yaml: ", "python/object/apply:os.system", "line 1")),
    ("fit --config group_twice.yaml", ("group_twice.yaml: Expected `model` once", "line 3")),
    ("fit --config key_twice.yaml", ("key_twice.yaml: Expected `lr` once", "line 3")),
    ("fit --config deep_twice.yaml", ("deep_twice.yaml: Expected `class_path` once", "line 4")),
    ("fit --config misspelt.yaml", ("does not accept option 'data.batchsize'", "fit --help")),
    ("fit --config unknown.yaml", ("does not accept option 'modell.lr'", "fit --help")),
    ("fit --config wrong_type.yaml", ("wrong_type.yaml: ", "`model.lr` to be a number", "fast")),
    ("fit --config wrong_range.yaml", ("`lr` to be a finite number > 0, but got -1.0.",)),
    ("fit --config no_group.yaml", ("Expected `model` to be a mapping, but got 7.",)),
    ("fit --config network.yaml", ("network.yaml: ", "`model.network`", "nowhere.Net")),
    ("fit --model 7", ("`model`: Expected a mapping, but got '7'",)),
    ("fit --model nowhere.yaml", ("`model`: Expected a mapping, but got 'nowhere.yaml'",)),
    ("fit --model key_twice.yaml", ("`model`", "'key_twice.yaml'", "Expected `lr` once")),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the command runs, with a file, a folder and the wrong configs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_folder").mkdir()
    for name, content in {"a_file": b"a file\n", **CONFIGS}.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    """Return every path below a folder, with the bytes of the files."""
    return {
        path: path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))
    }


def refused(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the message of a command that must exit with 2 and leave `folder` as it was."""
    # The options that keep a run short come first, so that the case's own win.
    args = [part for word in arguments for part in SHORT.get(word, word).split()]
    before = contents(folder)
    with pytest.raises(SystemExit) as error:
        main(args)
    message = capsys.readouterr().err
    assert error.value.code == 2
    assert "Traceback" not in message
    assert len(message) < 600
    assert contents(folder) == before
    return message


@pytest.mark.parametrize(("arguments", "parts"), [*MODEL, *NETWORK, *DATA])
def test_our_own_options_are_refused_in_one_sentence(
    arguments: str, parts: tuple[str, ...], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(arguments.split(), here, capsys)
    starts = [line.partition(":")[0] for line in message.splitlines()]
    assert starts == ["tip", "error"]  # the way to the help, and the refusal
    for part in parts:
        assert part in message


@pytest.mark.parametrize(("arguments", "parts"), [*COMMAND, *CHECKPOINT, *TRAINER, *CONFIG])
def test_other_bad_input_is_refused_in_a_short_message(
    arguments: str, parts: tuple[str, ...], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(arguments.split(), here, capsys)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("val_size", [0, 700])
def test_a_fraction_that_leaves_a_batch_is_not_refused(val_size: int) -> None:
    """Half of the two batches of 700 images; any part of none."""
    trainer = Trainer(accelerator="cpu", logger=False, limit_val_batches=0.5)
    check_batches(trainer, FashionMNISTDataModule(val_size=val_size, mirrors=[]))


def test_a_fraction_must_leave_a_batch_to_every_process() -> None:
    """Of three batches, the second of two processes gets one."""
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", logger=False, limit_val_batches=0.5
    )
    with pytest.raises(ValueError, match=r"leaves one of the 1 batches, but got 0\.5"):
        check_batches(trainer, FashionMNISTDataModule(val_size=1500, eval_batch_size=500))


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("a_file", ("Expected `path` to be a new file, but a_file exists", "`overwrite`")),
        ("a_folder", ("Expected `path` to be a new file, but a_folder exists", "`overwrite`")),
        ("a_file/below.csv", ("a_file",)),
    ],
)
def test_predictions_need_a_new_file(
    path: str,
    parts: tuple[str, ...],
    trained: Path,
    data_dir: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = str(trained / "checkpoints" / "best.ckpt")
    args = ["predict", "--ckpt_path", checkpoint, "--data.data_dir", str(data_dir)]
    message = refused([*args, "--predictions.path", path], here, capsys)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("subcommand", ["validate", "test", "predict"])
def test_a_bad_option_is_refused_beside_a_good_checkpoint(
    subcommand: str, trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(trained / "checkpoints" / "best.ckpt")
    args = [subcommand, "--ckpt_path", checkpoint, "--data.batch_size", "0"]
    message = refused(args, here, capsys)
    assert "Expected `batch_size` to be an int >= 1, but got 0." in message
