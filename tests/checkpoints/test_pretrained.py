"""The trained networks that come with the package, measured on the whole test set."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from support import REPOSITORY, Command
from torchvision.datasets import FashionMNIST

from fashion_lightning import FashionMNISTClassifier
from fashion_lightning.checkpoints import pretrained
from fashion_lightning.checkpoints.pretrained import weights_file as find
from fashion_lightning.cli.main import main
from fashion_lightning.export import export

CONFIGS = {"mlp": "mlp-best.yaml", "convnet": "convnet.yaml", "wide": "wide.yaml"}


@pytest.mark.parametrize("name", ["mlp", "convnet", pytest.param("wide", marks=pytest.mark.long)])
def test_its_accuracy_is_what_is_said_of_it(name: str, data_dir: Path) -> None:
    official = FashionMNIST(data_dir, train=False)
    classifier = FashionMNISTClassifier.from_pretrained(name)
    with torch.no_grad():
        logits = torch.cat([classifier(x / 255) for x in official.data.split(1000)])
    accuracy = (logits.argmax(dim=1) == official.targets).double().mean().item()
    assert f"`pretrained:{name}` ({100 * accuracy:.2f} %" in (REPOSITORY / "README.md").read_text()


@pytest.mark.parametrize(("name", "config"), CONFIGS.items())
def test_its_config_is_beside_it(name: str, config: str) -> None:
    text = find(name).with_suffix(".yaml").read_text()
    assert text == (REPOSITORY / "configs" / config).read_text()
    said = yaml.safe_load(text)["model"]
    del said["network"]
    recorded = FashionMNISTClassifier.from_pretrained(name).hparams
    assert {key: recorded[key] for key in said} == said


def test_hyperparameters_can_be_replaced() -> None:
    classifier = FashionMNISTClassifier.from_pretrained("mlp", lr=0.5)
    assert classifier.lr == classifier.hparams["lr"] == 0.5
    assert classifier.weight_decay == 0.3
    assert classifier.temperature != 1
    assert not classifier.training


class Sparse(FashionMNISTClassifier):
    """A subclass whose first argument is another one."""

    def __init__(self, penalty: float = 0.5, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.penalty = penalty


def test_a_subclass_and_an_export_are_built_likewise(tmp_path: Path) -> None:
    classifier = Sparse.from_pretrained("convnet")
    assert classifier.penalty == 0.5
    images = torch.rand(20, 1, 28, 28)
    export(classifier, images, tmp_path / "x.safetensors", format="safetensors")
    again = FashionMNISTClassifier.load_from_checkpoint(tmp_path / "x.safetensors").eval()
    assert torch.equal(again(images), classifier(images))


def test_an_unknown_name_and_a_damaged_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'mlp' or 'convnet' or 'wide', but got 'resnet'"):
        FashionMNISTClassifier.from_pretrained("resnet")
    monkeypatch.setitem(pretrained._CHECKSUMS, "mlp", "0" * 64)
    with pytest.raises(ValueError, match=r"mlp\.safetensors as it was released, but its checksum"):
        FashionMNISTClassifier.from_pretrained("mlp")


def test_every_command_takes_it(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command("test", "--ckpt_path", "pretrained:mlp")
    runs = tmp_path / "lightning_logs"
    report = json.loads((runs / "version_0" / "report" / "metrics.json").read_text())
    assert report["test_acc"] > 0.915
    assert report["temperature"] != 1
    command("validate", "--ckpt_path", "pretrained:mlp")
    exported = ("export", "--format", "safetensors", "--output", "again.safetensors")
    command(*exported, "--ckpt_path", "pretrained:mlp")
    command("predict", "--ckpt_path", "again.safetensors", "--predictions.path", "table.csv")
    assert [path.name for path in runs.iterdir()] == ["version_0"]  # No other wrote files there.
    rows = (tmp_path / "table.csv").read_text().splitlines()[1:]
    assert sum(row.split(",")[1] == row.split(",")[2] for row in rows) == pytest.approx(
        10_000 * report["test_acc"]
    )


@pytest.mark.parametrize("content", ["text", "no metadata", "another network"])
def test_another_safetensors_file_is_refused(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.safetensors"
    metadata = {
        "network": json.dumps({"class_path": "os.system", "init_args": {}}),
        "hyperparameters": "{}",
    }
    if content == "text":
        path.write_text("a text")
    else:
        weights = {"network.weight": torch.zeros(1)}
        save_file(weights, path, metadata if content == "another network" else None)
    with pytest.raises(SystemExit) as stop:
        main(["test", "--ckpt_path", str(path)])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert ("os.system" if content == "another network" else "is damaged, or no file") in message
    assert [*tmp_path.iterdir()] == [path]
