"""The formats of exported files, one object each.

A new format is a pair of functions, an entry of `FORMATS`, and a name in `FormatName` and in the
signature of `ExportingTrainer.export` (cli/trainer.py), which must not import this at every start.
"""

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from typing_extensions import override

from fashion_lightning.checkpoints.reading import decode_metadata, encode_metadata
from fashion_lightning.module import FashionMNISTClassifier
from fashion_lightning.network import MLP, NETWORKS

Predict = Callable[[Tensor], Tensor]  # images to probabilities
FormatName = Literal["onnx", "torch_export", "safetensors", "tutorial"]


@dataclass(frozen=True)
class Format:
    """How a kind of file is written, and read again by the program it is meant for."""

    ending: str
    packages: tuple[str, ...]  # the optional ones that it needs
    write: Callable[[FashionMNISTClassifier, dict[str, str]], bytes]
    read: Callable[[Path, FashionMNISTClassifier], tuple[Predict, str]]  # and the program's name


def describe(network: nn.Module) -> str:
    """Return a network's class, with its arguments if known."""
    init_args = getattr(network, "init_args", {})
    arguments = ", ".join(f"{name}={value}" for name, value in init_args.items())
    return f"{type(network).__name__}({arguments})"


def metadata(classifier: FashionMNISTClassifier, split: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what a file records beside the weights, as strings, which all formats can hold."""
    return {
        "class_names": json.dumps(classifier.class_names),
        "images": "float32 in [0, 1], (N, 1, 28, 28)",
        "probs": f"float32, (N, {classifier.num_classes}), each row sums to 1",
        **encode_metadata(classifier.network, classifier.hparams, split),
        "fashion_lightning_version": version("fashion-lightning"),
    }


class _Predict(nn.Module):
    """`predict_step` as a forward."""

    def __init__(self, classifier: FashionMNISTClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    @override
    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.predict_step(images, 0)


def _trace(classifier: FashionMNISTClassifier) -> ExportedProgram:
    """Trace `predict_step` for any number of images."""
    example = (torch.zeros(2, 1, 28, 28),)
    program = torch.export.export(
        _Predict(classifier).eval(), example, dynamic_shapes={"images": {0: Dim("N")}}
    )
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # It names files of this machine.
    return program


def _write_torch_export(classifier: FashionMNISTClassifier, metadata: dict[str, str]) -> bytes:
    content = BytesIO()
    torch.export.save(_trace(classifier), content, extra_files=metadata)
    return content.getvalue()


def _read_torch_export(path: Path, classifier: FashionMNISTClassifier) -> tuple[Predict, str]:
    with path.open("rb") as file:  # Given a path, PyTorch insists on its usual ending.
        program = torch.export.load(file)
    return program.module(), f"torch.export.load of torch {torch.__version__}"


def _write_onnx(classifier: FashionMNISTClassifier, metadata: dict[str, str]) -> bytes:
    program = torch.onnx.export(
        _trace(classifier),
        dynamo=True,
        input_names=["images"],
        output_names=["probs"],
        dynamic_shapes={"images": {0: "N"}},
        opset_version=20,  # PyTorch 2.11 to 2.14 write it without a conversion.
        verbose=False,
    )
    assert program is not None
    for node in program.model.graph.all_nodes():
        # It counts earlier traces of this process: the bytes would differ each time.
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    program.model.metadata_props.update(metadata)
    content: bytes = program.model_proto.SerializeToString(deterministic=True)
    return content


def _read_onnx(path: Path, classifier: FashionMNISTClassifier) -> tuple[Predict, str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def predict(images: Tensor) -> Tensor:
        (probs,) = session.run(["probs"], {"images": images.numpy()})
        return torch.from_numpy(probs)

    return predict, f"onnxruntime {onnxruntime.__version__}"


def _write_safetensors(classifier: FashionMNISTClassifier, metadata: dict[str, str]) -> bytes:
    from safetensors.torch import save

    # The format supports neither channels_last nor one tensor under two names.
    weights = {
        name: value.clone(memory_format=torch.contiguous_format)
        for name, value in classifier.state_dict().items()
    }
    return save(weights, metadata=metadata)


def _read_safetensors(path: Path, classifier: FashionMNISTClassifier) -> tuple[Predict, str]:
    import safetensors

    with safetensors.safe_open(path, framework="pt") as file:
        recorded = decode_metadata(file.metadata())
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    rebuilt, network = deepcopy(classifier), type(classifier.network)
    if network in NETWORKS:  # Other networks cannot be rebuilt from what is recorded.
        rebuilt.network = network(**recorded["network"]["init_args"]).eval()
    rebuilt.load_state_dict(weights)
    rebuilt.requires_grad_(False)
    return lambda images: rebuilt.predict_step(images, 0), f"safetensors {safetensors.__version__}"


def _write_tutorial(classifier: FashionMNISTClassifier, metadata: dict[str, str]) -> bytes:
    weights, tutorial = classifier.network.state_dict(), MLP()
    shapes = {name: value.shape for name, value in weights.items()}
    if shapes != {name: value.shape for name, value in tutorial.state_dict().items()}:
        raise ValueError(
            f"Expected `network` to be the tutorial's, {describe(tutorial)}, "
            f"but got {describe(classifier.network)}."
        )
    mean, std, temperature = (
        constant.double() for constant in (classifier.mean, classifier.std, classifier.temperature)
    )
    weights = {name: value.double() for name, value in weights.items()}
    weights["linear_relu_stack.0.weight"] /= std
    weights["linear_relu_stack.0.bias"] -= mean * weights["linear_relu_stack.0.weight"].sum(dim=1)
    weights["linear_relu_stack.4.weight"] /= temperature
    weights["linear_relu_stack.4.bias"] /= temperature
    content = BytesIO()
    torch.save({name: value.float() for name, value in weights.items()}, content)
    return content.getvalue()


def _read_tutorial(path: Path, classifier: FashionMNISTClassifier) -> tuple[Predict, str]:
    network = MLP()  # the tutorial's layers under the tutorial's names, and nothing else
    network.load_state_dict(torch.load(path, weights_only=True))
    network.requires_grad_(False)
    runtime = f"the tutorial's network in torch {torch.__version__}"
    return lambda images: network(images).softmax(dim=1), runtime


FORMATS: dict[FormatName, Format] = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _read_onnx),
    "torch_export": Format(".pt2", (), _write_torch_export, _read_torch_export),
    "safetensors": Format(".safetensors", (), _write_safetensors, _read_safetensors),
    "tutorial": Format(".pth", (), _write_tutorial, _read_tutorial),
}
