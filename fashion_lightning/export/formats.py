"""A classifier as a file for other programs: ONNX, torch.export, safetensors, or the tutorial's.

This file knows the classifier and the runtimes that read its files; no trainer, no checkpoint, and
no command. What a runtime needs beyond PyTorch is optional, and imported where it is used.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from importlib.metadata import version
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from typing_extensions import override

from fashion_lightning.arguments import expect
from fashion_lightning.atomic import replacing
from fashion_lightning.data.split import SPLIT
from fashion_lightning.module import FashionMNISTClassifier
from fashion_lightning.network import MLP, ConvNet

Format = Literal["onnx", "torch_export", "safetensors", "tutorial"]

ENDINGS: dict[Format, str] = {
    "onnx": ".onnx",
    "torch_export": ".pt2",
    "safetensors": ".safetensors",
    "tutorial": ".pth",
}
"""How files of each format usually end."""

_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
_TOLERANCE = 1e-5  # of probabilities in float32; what was measured is below 1e-6.

_Answer = Callable[[Tensor], Tensor]  # images in, probabilities out


class Parity(NamedTuple):
    """How an exported file's answers compare with those of the classifier; prints as one line.

    Args:
        name: The file's name.
        num_images: How many images were compared.
        num_same: To how many of them both give the largest probability to the same class.
        max_difference: Largest absolute difference of two probabilities, >= 0.
        runtime: What read the file and answered, with its version.
    """

    name: str
    num_images: int
    num_same: int
    max_difference: float
    runtime: str

    @override
    def __str__(self) -> str:
        return (
            f"{self.name}: {self.num_same:,} of {self.num_images:,} classes the same as the "
            f"checkpoint's, probabilities differ by at most {self.max_difference:.2g} "
            f"({self.runtime})"
        )


def export(
    classifier: FashionMNISTClassifier,
    images: Tensor,
    path: str | Path,
    *,
    format: Format,
    overwrite: bool = False,
    split: Mapping[str, Any] | None = None,
) -> Parity:
    """Write a classifier to one file that needs nothing beside it, and compare its answers.

    ``onnx`` and ``torch_export`` are `predict_step`: images, float32 in [0, 1],
    ``(N, 1, 28, 28)`` for any N, in; probabilities, float32 ``(N, 10)``, out. ``safetensors`` are
    the weights under the checkpoint's names, with constants and temperature. All three carry the
    class names, and how to build network and classifier, as JSON in their metadata. ``tutorial`` is
    a state_dict for the class of PyTorch's "Build the Neural Network" tutorial: its first layer
    normalises the images, and the softmax of its logits is `predict_step`.

    The file is read by the program it is meant for, and gets its name if that answers like the
    classifier, which stays as it is: a copy is exported, in float32 on the CPU.

    Args:
        classifier: What is to be exported.
        images: To compare on: float32 in [0, 1], ``(N, 1, 28, 28)``, N >= 1.
        path: The file; its folder is made.
        format: What the file is to be.
        overwrite: Whether a file of that name may be replaced.
        split: The validation split that training held out, with ``split_seed``, ``val_size`` and
            ``split_digest``, as `FashionMNISTDataModule.state_dict` has them. The file records it,
            so that validating a ``safetensors`` file with another one warns.

    Returns:
        The comparison: all probabilities differ by at most 1e-5.

    Raises:
        FileExistsError: If there is a folder of that name, or a file and `overwrite` is False.
        ImportError: If a package is missing that the format needs.
        OSError: If the file cannot be written.
        ValueError: If an argument makes no sense, the network cannot be brought into that format,
            or the file answers otherwise than the classifier.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = f"{folder}/model.pt2"
        ...     images = torch.rand(5, 1, 28, 28)
        ...     parity = export(FashionMNISTClassifier(), images, path, format="torch_export")
        ...     program = torch.export.load(path)
        >>> program.module()(images).shape
        torch.Size([5, 10])
        >>> parity.num_same
        5
    """
    expect(format in ENDINGS, "format", f"one of {', '.join(ENDINGS)}", format)
    right = images.dtype == torch.float32 and images.shape[1:] == (1, 28, 28) and len(images) > 0
    given = f"{images.dtype} {tuple(images.shape)}"
    expect(right, "images", "float32 (N, 1, 28, 28) with N >= 1", given)
    for package in _PACKAGES.get(format, ()):
        if find_spec(package) is None:
            raise ImportError(
                f"Expected `{package}` to be installed, which the format {format} needs: "
                "`pip install 'fashion-lightning[export]'`."
            )
    path = Path(path)
    if path.is_dir() or (path.exists() and not overwrite):
        raise FileExistsError(
            f"Expected `path` to be a new file, but {path} exists; `overwrite` replaces files."
        )
    classifier = deepcopy(classifier).cpu().float().eval().requires_grad_(False)
    serialise, load = _FUNCTIONS[format]
    # Networks are built below, which must not change what random numbers the caller gets.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Of PyTorch's exporters, about themselves. Whether the file is right, its answers tell.
        warnings.simplefilter("ignore")
        try:
            content = serialise(classifier, _metadata(classifier, split))
        except ValueError:
            raise
        except Exception as error:  # What cannot be traced may raise anything, in many lines.
            raise ValueError(
                f"Expected `network` to be one that PyTorch can bring into the format {format}, "
                f"but got {_named(classifier.network)}: {_reason(error)}"
            ) from error
        expected = _in_batches(lambda batch: classifier.predict_step(batch, 0), images)
        shape = (len(images), classifier.num_classes)
        answers = f"one that answers with logits {shape}"
        expect(expected.shape == shape, "network", answers, tuple(expected.shape))
        with replacing(path) as new:
            new.write_bytes(content)
            answer, runtime = load(new, classifier)
            probs = _in_batches(answer, images)
            parity = Parity(
                path.name,
                len(images),
                num_same=int((probs.argmax(dim=1) == expected.argmax(dim=1)).sum()),
                max_difference=(probs - expected).abs().max().item(),
                runtime=runtime,
            )
            if not parity.max_difference <= _TOLERANCE:  # It may be NaN.
                raise ValueError(
                    "Expected the file to answer like the classifier, with probabilities that "
                    f"differ by at most {_TOLERANCE:g}, but got {parity}."
                )
    return parity


def _reason(error: BaseException) -> str:
    """Return the first line of what it began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).partition("\n")[0]


def _named(network: nn.Module) -> str:
    """Say which network it is: its class, and how it was made if it tells."""
    init_args = getattr(network, "init_args", {})
    arguments = ", ".join(f"{name}={value}" for name, value in init_args.items())
    return f"{type(network).__name__}({arguments})"


def _in_batches(answer: _Answer, images: Tensor) -> Tensor:
    """Answer without the memory that all images at once would take."""
    images = images.cpu()
    return torch.cat([answer(images[i : i + 1000]) for i in range(0, len(images), 1000)])


def _metadata(
    classifier: FashionMNISTClassifier, split: Mapping[str, Any] | None
) -> dict[str, str]:
    """Say what a file does not show by itself, in the strings that all formats can carry."""
    network = classifier.network
    recorded = {
        "class_path": f"{type(network).__module__}.{type(network).__qualname__}",
        "init_args": getattr(network, "init_args", None),
    }
    hyperparameters = {
        name: value
        for name, value in classifier.hparams.items()
        if name != "network" and not name.startswith("_")  # Lightning's own notes
    }
    recorded_split = {name: split[name] for name in SPLIT} if split else None
    return {
        "class_names": json.dumps(classifier.class_names),
        "images": "float32 in [0, 1], (N, 1, 28, 28)",
        "probs": f"float32, (N, {classifier.num_classes}), each row sums to 1",
        "network": json.dumps(recorded),
        "hyperparameters": json.dumps(hyperparameters),
        "split": json.dumps(recorded_split),
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
    """Record what `predict_step` computes, for any number of images."""
    example = (torch.zeros(2, 1, 28, 28),)
    program = torch.export.export(
        _Predict(classifier).eval(), example, dynamic_shapes={"images": {0: Dim("N")}}
    )
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                # The paths of this machine's files are nobody's business.
                node.meta.pop("stack_trace", None)
    return program


def _torch_export(classifier: FashionMNISTClassifier, metadata: dict[str, str]) -> bytes:
    content = BytesIO()
    torch.export.save(_trace(classifier), content, extra_files=metadata)
    return content.getvalue()


def _load_torch_export(path: Path, classifier: FashionMNISTClassifier) -> tuple[_Answer, str]:
    with path.open("rb") as file:  # Of a path, PyTorch wants the usual ending.
        program = torch.export.load(file)
    return program.module(), f"torch.export.load of torch {torch.__version__}"


def _onnx(classifier: FashionMNISTClassifier, metadata: dict[str, str]) -> bytes:
    program = torch.onnx.export(
        _trace(classifier),
        dynamo=True,
        input_names=["images"],
        output_names=["probs"],
        dynamic_shapes={"images": {0: "N"}},
        opset_version=20,  # which PyTorch writes without converting, from 2.11 to 2.14
        verbose=False,
    )
    assert program is not None
    for node in program.model.graph.all_nodes():
        # It counts what this process has traced: not the same bytes each time.
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    program.model.metadata_props.update(metadata)
    content: bytes = program.model_proto.SerializeToString(deterministic=True)
    return content


def _load_onnx(path: Path, classifier: FashionMNISTClassifier) -> tuple[_Answer, str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def answer(images: Tensor) -> Tensor:
        (probs,) = session.run(["probs"], {"images": images.numpy()})
        return torch.from_numpy(probs)

    return answer, f"onnxruntime {onnxruntime.__version__}"


def _safetensors(classifier: FashionMNISTClassifier, metadata: dict[str, str]) -> bytes:
    from safetensors.torch import save

    # The format knows neither channels_last nor one tensor under two names.
    weights = {
        name: value.clone(memory_format=torch.contiguous_format)
        for name, value in classifier.state_dict().items()
    }
    return save(weights, metadata=metadata)


def _load_safetensors(path: Path, classifier: FashionMNISTClassifier) -> tuple[_Answer, str]:
    import safetensors

    with safetensors.safe_open(path, framework="pt") as file:
        recorded = json.loads(file.metadata()["network"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    rebuilt, network = deepcopy(classifier), type(classifier.network)
    if network in (MLP, ConvNet):  # How another one is built, only its author knows.
        rebuilt.network = network(**recorded["init_args"]).eval()
    rebuilt.load_state_dict(weights)
    rebuilt.requires_grad_(False)
    return lambda images: rebuilt.predict_step(images, 0), f"safetensors {safetensors.__version__}"


def _tutorial(classifier: FashionMNISTClassifier, metadata: dict[str, str]) -> bytes:
    weights, tutorial = classifier.network.state_dict(), MLP()
    shapes = {name: value.shape for name, value in weights.items()}
    if shapes != {name: value.shape for name, value in tutorial.state_dict().items()}:
        raise ValueError(
            f"Expected `network` to be the tutorial's, {_named(tutorial)}, "
            f"but got {_named(classifier.network)}."
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


def _load_tutorial(path: Path, classifier: FashionMNISTClassifier) -> tuple[_Answer, str]:
    network = MLP()  # It has the tutorial's layers under the tutorial's names, and nothing else.
    network.load_state_dict(torch.load(path, weights_only=True))
    network.requires_grad_(False)
    return (
        lambda images: network(images).softmax(dim=1),
        f"the tutorial's network in torch {torch.__version__}",
    )


_FUNCTIONS: dict[
    Format,
    tuple[
        Callable[[FashionMNISTClassifier, dict[str, str]], bytes],
        Callable[[Path, FashionMNISTClassifier], tuple[_Answer, str]],
    ],
] = {
    "onnx": (_onnx, _load_onnx),
    "torch_export": (_torch_export, _load_torch_export),
    "safetensors": (_safetensors, _load_safetensors),
    "tutorial": (_tutorial, _load_tutorial),
}
