"""Exported files, run by their target programs, against plain PyTorch on the test images."""

import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support import NeuralNetwork
from torch import Tensor, nn

from fashion_lightning import CLASSES, MLP, ConvNet, FashionMNISTClassifier
from fashion_lightning.data import files
from fashion_lightning.export import FORMATS, FormatName, Parity, export

SIZES = (1, 3, 10_000)
OWN = torch.rand(5, 1, 28, 28)


class Own(nn.Module):
    """A network from outside this package."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images.flatten(1))
        return logits


class Undecided(Own):
    """Predicts something else each time."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.dropout(super().forward(images), 0.5, True)


class Untraceable(Own):
    """Computes with NumPy in between."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.from_numpy(images.numpy()))


class Branching(Own):
    """Depends on the images in its control flow."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.sum() > 0 else -images)


class FiveClasses(Own):
    """Outputs too few classes."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, :5]


class Exported(NamedTuple):
    """A classifier, its probabilities for the test images, and its files."""

    classifier: FashionMNISTClassifier
    probs: Tensor
    paths: dict[FormatName, Path]
    parities: dict[FormatName, Parity]


@pytest.fixture(scope="module")
def images(data_dir: Path) -> Tensor:
    """The official test images as a network gets them."""
    return files.load(data_dir, train=False)[0].unsqueeze(1) / 255


def plain(network: nn.Module, images: Tensor, temperature: Tensor) -> Tensor:
    """Compute the expected probabilities step by step."""
    with torch.no_grad():
        logits: Tensor = network((images - 0.2860) / 0.3530) / temperature
    return logits.softmax(dim=1)


@pytest.fixture(scope="module", params=["MLP", pytest.param("ConvNet", marks=pytest.mark.long)])
def exported(
    request: pytest.FixtureRequest,
    trained: Path,
    images: Tensor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    """Export a trained MLP, and a small ConvNet with running statistics, to each format."""
    if request.param == "MLP":
        path = trained / "checkpoints" / "best.ckpt"
        classifier = FashionMNISTClassifier.load_from_checkpoint(path).eval()
    else:
        torch.manual_seed(0)
        classifier = FashionMNISTClassifier(ConvNet(channels=4), lr=0.5, optimizer="sgd")
        with torch.no_grad():
            classifier(images[:500])  # Update the statistics of batch normalisation.
        classifier.temperature.fill_(0.3)
        classifier.eval()
    assert classifier.temperature.item() != pytest.approx(1, abs=0.05)
    probs = plain(classifier.network, images, classifier.temperature)
    folder = tmp_path_factory.mktemp(request.param)
    formats = [format for format in FORMATS if (request.param, format) != ("ConvNet", "tutorial")]
    paths = {
        format: folder / "new" / format / f"model{FORMATS[format].ending}" for format in formats
    }
    parities = {
        format: export(classifier, images, path, format=format) for format, path in paths.items()
    }
    return Exported(classifier, probs, paths, parities)


def check(probs: Tensor, expected: Tensor) -> None:
    assert probs.dtype == torch.float32
    assert torch.equal(probs.argmax(dim=1), expected.argmax(dim=1))
    assert (probs - expected).abs().max() <= 1e-5


def check_metadata(metadata: dict[str, str], classifier: FashionMNISTClassifier) -> None:
    """Name the classes, and rebuild the classifier, from the metadata alone."""
    assert json.loads(metadata["class_names"]) == list(CLASSES)
    assert "[0, 1]" in metadata["images"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["fashion_lightning_version"])
    network = json.loads(metadata["network"])
    assert network["class_path"].split(".")[-1] == type(classifier.network).__name__
    built = {"MLP": MLP, "ConvNet": ConvNet}[type(classifier.network).__name__](
        **network["init_args"]
    )
    hyperparameters = json.loads(metadata["hyperparameters"])
    again = FashionMNISTClassifier(built, **hyperparameters)
    again.load_state_dict(classifier.state_dict(), strict=True)
    assert hyperparameters == {
        name: value
        for name, value in classifier.hparams.items()
        if name not in ("network", "_instantiator")
    }


def test_onnx_files_run_in_onnxruntime(exported: Exported, images: Tensor) -> None:
    path = exported.paths["onnx"]
    onnx.checker.check_model(path, full_check=True)
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(float)", ["N", 1, 28, 28])
    assert (output.name, output.type) == ("probs", "tensor(float)")
    assert output.shape == ["N", 10]
    for size in SIZES:
        (probs,) = session.run(None, {"images": images[:size].numpy()})
        check(torch.from_numpy(probs), exported.probs[:size])
    check_metadata(session.get_modelmeta().custom_metadata_map, exported.classifier)
    assert [entry.version for entry in onnx.load(path).opset_import] == [20]


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # PyTorch 2.11's own
def test_torch_export_files_run_without_this_package(exported: Exported, images: Tensor) -> None:
    names = ["class_names", "images", "probs", "network", "hyperparameters"]
    extra_files = dict.fromkeys([*names, "fashion_lightning_version"], "")
    program = torch.export.load(exported.paths["torch_export"], extra_files=extra_files)
    for size in SIZES:
        probs = program.module()(images[:size])
        assert not probs.requires_grad
        check(probs, exported.probs[:size])
    check_metadata(extra_files, exported.classifier)


def test_safetensors_files_hold_all_that_prediction_needs(
    exported: Exported, images: Tensor
) -> None:
    path = exported.paths["safetensors"]
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    check_metadata(metadata, exported.classifier)
    tensors = load_file(path)
    init_args = json.loads(metadata["network"])["init_args"]
    is_mlp = isinstance(exported.classifier.network, MLP)
    network = (NeuralNetwork() if is_mlp else ConvNet(**init_args)).eval()
    mean, std, temperature = (tensors.pop(name) for name in ("mean", "std", "temperature"))
    network.load_state_dict(
        {name.removeprefix("network."): value for name, value in tensors.items()}, strict=True
    )
    with torch.no_grad():
        probs = (network((images - mean) / std) / temperature).softmax(dim=1)
    check(probs, exported.probs)


def test_the_tutorials_class_predicts_from_images_in_0_to_1(
    exported: Exported, images: Tensor
) -> None:
    if "tutorial" not in exported.paths:
        with pytest.raises(ValueError, match=r"784.*, but got ConvNet\(channels=4, num_classes"):
            export(exported.classifier, images, "model.pth", format="tutorial")
        assert not Path("model.pth").exists()
        return
    model = NeuralNetwork()
    model.load_state_dict(torch.load(exported.paths["tutorial"], weights_only=True), strict=True)
    with torch.no_grad():
        check(model(images).softmax(dim=1), exported.probs)
        # As at the end of the tutorial.
        x, y = images[0], exported.probs[0].argmax()
        assert CLASSES[model(x)[0].argmax(0)] == CLASSES[y]


def test_the_parity_prints_as_one_line(exported: Exported) -> None:
    for format, parity in exported.parities.items():
        name = f"model{FORMATS[format].ending}"
        assert str(parity).startswith(
            f"{name}: 10,000 of 10,000 classes the same as the checkpoint's, "
            "probabilities differ by at most "
        )
        assert "\n" not in str(parity)
        assert (parity.num_images, parity.num_same) == (10_000, 10_000)
        assert 0 <= parity.max_difference <= 1e-5
    assert exported.parities["onnx"].max_difference > 0  # It was not run by PyTorch.
    assert f"(onnxruntime {onnxruntime.__version__})" in str(exported.parities["onnx"])


def test_files_contain_no_paths_of_this_machine(exported: Exported) -> None:
    for path in exported.paths.values():
        for part in (str(Path(torch.__file__).parent), str(Path(__file__).parents[2])):
            assert part.encode() not in path.read_bytes(), (path.name, part)


def test_an_export_changes_and_prints_nothing(
    images: Tensor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    classifier = FashionMNISTClassifier(ConvNet(channels=2)).double().train()
    classifier.network.features[1].eval()  # type: ignore[index, union-attr]
    modes = [module.training for module in classifier.modules()]
    weights = {name: value.clone() for name, value in classifier.state_dict().items()}
    tutorials = FashionMNISTClassifier()
    state = torch.get_rng_state()
    for format in ("onnx", "torch_export", "safetensors"):
        export(classifier, images[:5], tmp_path / format, format=format)
    export(tutorials, images[:5], tmp_path / "tutorial", format="tutorial")
    assert capfd.readouterr() == ("", "")
    assert [module.training for module in classifier.modules()] == modes
    assert all(value.requires_grad for value in classifier.parameters())
    for name, value in classifier.state_dict().items():
        assert value.dtype == weights[name].dtype
        assert torch.equal(value, weights[name])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "format", [pytest.param("onnx", marks=pytest.mark.long), "torch_export", "tutorial"]
)
def test_exporting_twice_gives_the_same_bytes(format: FormatName, tmp_path: Path) -> None:
    classifier = FashionMNISTClassifier()
    for name in ("one", "another"):
        export(classifier, OWN, tmp_path / name, format=format)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "another").read_bytes()


@pytest.mark.parametrize(
    "format", [pytest.param("onnx", marks=pytest.mark.long), "torch_export", "safetensors"]
)
def test_a_custom_network_can_be_exported(format: FormatName, tmp_path: Path) -> None:
    classifier = FashionMNISTClassifier(Own())
    parity = export(classifier, OWN, tmp_path / "model", format=format)
    assert parity.num_same == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("format", FORMATS)
def test_an_existing_file_is_replaced_only_on_request(format: FormatName, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_text("mine")
    classifier = FashionMNISTClassifier()
    with pytest.raises(FileExistsError, match=r"model exists; `overwrite` replaces files\.$"):
        export(classifier, OWN, path, format=format)
    assert path.read_text() == "mine"
    with pytest.raises(FileExistsError, match="exists"):
        export(classifier, OWN, tmp_path, format=format, overwrite=True)
    if format != "onnx":  # It takes a second, and this code is the same for all.
        export(classifier, OWN, path, format=format, overwrite=True)
        assert path.read_bytes() != b"mine"


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_before_anything_is_written(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"{package} .* pip install 'fashion-lightning\[export\]'"
    with pytest.raises(ImportError, match=message):
        export(FashionMNISTClassifier(), OWN, tmp_path / "new" / "model", format="onnx")
    assert list(tmp_path.iterdir()) == []
    export(FashionMNISTClassifier(), OWN, tmp_path / "model", format="torch_export")


@pytest.mark.parametrize(
    ("network", "format", "message"),
    [
        (Undecided(), "torch_export", "answer like the classifier.* at most 1e-05, but got model:"),
        (Undecided(), "safetensors", "answer like the classifier.* at most 1e-05, but got model:"),
        (Untraceable(), "onnx", r"into the format onnx, but got Untraceable\(\): .*numpy"),
        (Branching(), "torch_export", r"but got Branching\(\): .*data-dependent"),
        (FiveClasses(), "safetensors", r"logits \(N, 10\), .* but got \(5, 5\)"),
        (Own(), "tutorial", r"784, hidden_features=512, num_classes=10\), but got Own\(\)\.$"),
        (MLP(hidden_features=64), "tutorial", "but got MLP.in_features=784, hidden_features=64"),
    ],
)
def test_a_failed_export_changes_no_files(
    network: nn.Module, format: FormatName, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    path.write_text("mine")
    with pytest.raises(ValueError, match=message) as refusal:
        export(FashionMNISTClassifier(network), OWN, path, format=format, overwrite=True)
    assert "\n" not in str(refusal.value)
    assert path.read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_the_tutorials_layers_with_another_activation_are_refused(tmp_path: Path) -> None:
    network = NeuralNetwork()
    network.linear_relu_stack[1] = nn.Tanh()
    with pytest.raises(ValueError, match="answer like the classifier"):
        export(FashionMNISTClassifier(network), OWN, tmp_path / "model.pth", format="tutorial")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "pickle"}, "`format` to be one of onnx, .*tutorial, but got 'pickle'"),
        ({"images": OWN.squeeze(1)}, r"`images` to be float32 \(N, 1, 28, 28\).* \(5, 28, 28\)"),
        ({"images": OWN.mul(255).byte()}, "`images` to be float32 .* got 'torch.uint8"),
        ({"images": OWN[:0]}, r"with N >= 1, but got .*\(0, 1, 28, 28\)"),
    ],
)
def test_invalid_arguments_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"images": OWN, "format": "safetensors"} | changes
    with pytest.raises(ValueError, match=message):
        export(FashionMNISTClassifier(), path=tmp_path / "model", **arguments)
    assert list(tmp_path.iterdir()) == []
