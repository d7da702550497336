"""What a checkpoint from somewhere may do to people: nothing."""

import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fashion_lightning import ConvNet, FashionMNISTClassifier
from fashion_lightning.cli.main import main


class Intruder:
    """Unpickling this writes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("intruded"),)


EVIL_MODULE = """
from pathlib import Path

from torch import nn

Path("intruded").touch()


class Net(nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
"""


def _hparams(**values: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["hyper_parameters"].update(values)

    return change


def _network(class_path: Any, init_args: Any = None) -> Callable[[dict[str, Any]], None]:
    return _hparams(network={"class_path": class_path, "init_args": init_args or {}})


def _put(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content[name] = value

    return change


HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "object in the hyperparameters": _hparams(lr=Intruder()),
    "object beside everything": _put("extra", Intruder()),
    "object as a callback's state": _put("callbacks", {"BestAndLast": Intruder()}),
    "object among the weights": _put("state_dict", {"network.0": Intruder()}),
    "module that is imported": _network("evil.Net"),
    "module as a bare name": _hparams(network="evil.Net"),
    "function as a network": _network("os.system", {"command": "touch intruded"}),
    "script of torch": _network("torch.hub.load", {"repo_or_dir": "evil", "model": "Net"}),
    "module in an argument": _network(
        "fashion_lightning.MLP", {"hidden_features": {"class_path": "evil.Net"}}
    ),
    "module of torch": _network("torch.nn.TransformerEncoderLayer", {"activation": "evil.Net"}),
    "another instantiator": _hparams(_instantiator="os.system", network="touch intruded"),
    "optimizer as code": _hparams(optimizer="__import__('pathlib').Path('intruded').touch()"),
    "number as code": _hparams(lr={"class_path": "evil.Net"}),
    "type of the hyperparameters": _put("hparams_type", Intruder()),
    "names that are no names": _put("hyper_parameters", {7: Intruder()}),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module that must not be imported, though it could be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text(EVIL_MODULE)
    return tmp_path


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_checkpoints_are_refused(
    kind: str, trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    HOSTILE[kind](content)
    torch.save(content, "model.ckpt")
    before = {*here.iterdir()}
    for command in ("test", "fit"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--ckpt_path", "model.ckpt"])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert len(error) < 600
    with pytest.raises(Exception, match=r"Expected|allowlist"):
        FashionMNISTClassifier.load_from_checkpoint("model.ckpt")
    assert {*here.iterdir()} == before
    assert "evil" not in sys.modules


def test_a_checkpoint_does_not_say_what_is_written(
    trained: Path, data_dir: Path, here: Path
) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    content["datamodule_hyper_parameters"] |= {"images": str(here), "preview": "evil.py"}
    torch.save(content, "model.ckpt")
    main(["predict", "--ckpt_path", "model.ckpt", "--data.data_dir", str(data_dir)])
    assert (here / "evil.py").read_text() == EVIL_MODULE


def test_a_class_is_not_imported_because_a_checkpoint_names_it(trained: Path, here: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    content["hyper_parameters"]["_class_path"] = "evil.Net"
    torch.save(content, "model.ckpt")
    with pytest.raises(ValueError, match="imported subclass"):
        FashionMNISTClassifier.load_from_checkpoint("model.ckpt")
    main(["test", "--ckpt_path", "model.ckpt", "--trainer.fast_dev_run", "true"])
    assert {path.name for path in here.iterdir()} >= {"evil.py", "model.ckpt"}
    assert not Path("intruded").exists()


@pytest.mark.parametrize("kind", ["raw pickle", "pickle in an archive", "old format"])
def test_hostile_files_are_refused(
    kind: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "raw pickle":
        Path("model.ckpt").write_bytes(pickle.dumps({"state_dict": Intruder()}))
    elif kind == "old format":
        torch.save(Intruder(), "model.ckpt", _use_new_zipfile_serialization=False)
    else:
        with zipfile.ZipFile("model.ckpt", "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Intruder()))
            archive.writestr("archive/version", "3\n")
    with pytest.raises(SystemExit) as stop:
        main(["test", "--ckpt_path", "model.ckpt"])
    assert stop.value.code == 2
    assert "model.ckpt" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Expected a checkpoint of FashionMNISTClassifier"):
        FashionMNISTClassifier.load_from_checkpoint("model.ckpt")
    assert {path.name for path in here.iterdir()} == {"evil.py", "model.ckpt"}


def test_a_file_is_as_good_as_its_path(trained: Path) -> None:
    path = trained / "checkpoints" / "best.ckpt"
    with path.open("rb") as file:
        one = FashionMNISTClassifier.load_from_checkpoint(file)
    other = FashionMNISTClassifier.load_from_checkpoint(path)
    for name, weights in one.state_dict().items():
        assert torch.equal(weights, other.state_dict()[name])


@pytest.mark.parametrize("network", ["fashion_lightning.ConvNet", "support.NeuralNetwork"])
def test_a_checkpoint_of_another_network_is_refused(
    network: str, trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second has the same layers under the same names: it is not another network."""
    path = trained / "checkpoints" / "best.ckpt"
    arguments = ["--trainer.default_root_dir", str(here), "--trainer.limit_val_batches", "1"]
    if network == "support.NeuralNetwork":
        main(["validate", "--ckpt_path", str(path), "--model.network", network, *arguments])
        return
    with pytest.raises(SystemExit) as stop:
        main(["validate", "--ckpt_path", str(path), "--model.network", network, *arguments])
    assert stop.value.code == 2
    assert "`network.features.0.weight` is of shape (16, 1, 3, 3)" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Expected the checkpoint to be of this network"):
        FashionMNISTClassifier.load_from_checkpoint(path, network=ConvNet())
    content = torch.load(path, weights_only=True)
    del content["state_dict"]["network.linear_relu_stack.4.bias"]
    torch.save(content, "part.ckpt")
    with pytest.raises(ValueError, match=r"4.bias` is of shape \(10,\), but got one .* absent"):
        FashionMNISTClassifier.load_from_checkpoint("part.ckpt")
    with pytest.warns(UserWarning, match="not in the checkpoint"):
        FashionMNISTClassifier.load_from_checkpoint("part.ckpt", strict=False)


def test_a_network_of_ones_own_is_given(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = nn.Linear(784, width)
            self.init_args = {"width": width}

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.layer(images.flatten(1))
            return logits

    before = FashionMNISTClassifier(Own(10), lr=0.5)
    content = {"state_dict": before.state_dict(), "hyper_parameters": dict(before.hparams)}
    torch.save(content | {"pytorch-lightning_version": "2.6.6"}, tmp_path / "own.ckpt")
    with pytest.raises(ValueError, match=r"Expected `network` to be given, .* trained with .*Own"):
        FashionMNISTClassifier.load_from_checkpoint(tmp_path / "own.ckpt")
    after = FashionMNISTClassifier.load_from_checkpoint(tmp_path / "own.ckpt", network=Own(10))
    assert after.lr == 0.5
    assert torch.equal(after.network.layer.weight, before.network.layer.weight)  # type: ignore[union-attr, arg-type]


def test_a_continued_run_keeps_its_optimizer(
    trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(trained / "checkpoints" / "last.ckpt")
    for option, value in (("optimizer", "sgd"), ("lr", "0.5")):
        with pytest.raises(SystemExit) as stop:
            main(["fit", "--ckpt_path", path, f"--model.{option}", value])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert f"Expected `{option}` to be" in error
        assert f"but got {value}" in error.replace("'", "")


def test_a_checkpoint_says_which_version_and_split_it_is_of(trained: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["fashion_lightning_version"].count(".") == 2
    split = content["FashionMNISTDataModule"]
    assert (split["split_seed"], split["val_size"], len(split["split_digest"])) == (0, 5000, 64)
