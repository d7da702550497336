"""A classifier as one file for other programs, checked before it gets its name."""

import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from fashion_lightning.arguments import expect, installed, new_file
from fashion_lightning.atomic import replacing
from fashion_lightning.export.formats import FORMATS, FormatName, Predict, describe, metadata
from fashion_lightning.module import FashionMNISTClassifier

__all__ = ["FORMATS", "FormatName", "Parity", "export"]

_TOLERANCE = 1e-5  # Probabilities in float32 differ by less than 1e-6.


class Parity(NamedTuple):
    """Comparison of an exported file with its classifier; prints as one line.

    Attributes:
        name: The file's name.
        num_images: Number of images that were compared.
        num_same: Number of images with the same predicted class.
        max_difference: Largest difference of two probabilities, in [0, 1].
        runtime: The program that ran the file, with its version.
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
    format: FormatName,
    overwrite: bool = False,
    split: Mapping[str, Any] | None = None,
) -> Parity:
    """Export a classifier to one self-contained file and verify it.

    ``onnx`` and ``torch_export`` compute `predict_step`: images, float32 in [0, 1],
    ``(N, 1, 28, 28)`` for any N, to probabilities, float32 ``(N, 10)``. ``safetensors`` holds the
    weights under the checkpoint's names. All three carry the class names and what it takes to
    rebuild the classifier as JSON in their metadata. ``tutorial`` is a state_dict for the class of
    PyTorch's tutorial, with normalisation and temperature folded into the weights.

    The file is loaded by the program it is meant for, and moved to `path` only if its probabilities
    match those of the classifier in float32 on the CPU.

    Args:
        classifier: The classifier; it is not modified.
        images: Images to compare on: float32 in [0, 1], ``(N, 1, 28, 28)``, N >= 1.
        path: The file; its folder is created.
        format: Format of the file.
        overwrite: Whether to replace an existing file.
        split: What to record of the validation split: ``split_seed``, ``val_size`` and
            ``split_digest`` of `FashionMNISTDataModule.state_dict`.

    Returns:
        The comparison: all probabilities agree within 1e-5.

    Raises:
        FileExistsError: If `path` is a folder, or a file and `overwrite` is False.
        ImportError: If a package that the format needs is missing.
        OSError: If the file cannot be written.
        ValueError: If an argument is invalid, the network cannot be exported, or the file's
            probabilities differ.

    Example:
        >>> images = torch.rand(5, 1, 28, 28)
        >>> parity = export(FashionMNISTClassifier(), images, "model.pt2", format="torch_export")
        >>> torch.export.load("model.pt2").module()(images).shape
        torch.Size([5, 10])
    """
    expect(format in FORMATS, "format", f"one of {', '.join(FORMATS)}", format)
    is_valid = images.dtype == torch.float32 and images.shape[1:] == (1, 28, 28) and len(images) > 0
    given = f"{images.dtype} {tuple(images.shape)}"
    expect(is_valid, "images", "float32 (N, 1, 28, 28) with N >= 1", given)
    for package in FORMATS[format].packages:
        installed(package, "export", f"the format {format}")
    path = Path(path)
    new_file(path, overwrite)
    classifier = deepcopy(classifier).cpu().float().eval().requires_grad_(False)
    # Building networks draws random numbers, but the caller's generator must not advance.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporters warn of their own deprecations.
        content = _write(format, classifier, split)
        expected = _in_batches(lambda batch: classifier.predict_step(batch, 0), images)
        shape = (len(images), classifier.num_classes)
        answers = f"one that answers with logits {shape}"
        expect(expected.shape == shape, "network", answers, tuple(expected.shape))
        with replacing(path) as new:
            new.write_bytes(content)
            predict, runtime = FORMATS[format].read(new, classifier)
            probs = _in_batches(predict, images)
            parity = Parity(
                path.name,
                len(images),
                num_same=int((probs.argmax(dim=1) == expected.argmax(dim=1)).sum()),
                max_difference=(probs - expected).abs().max().item(),
                runtime=runtime,
            )
            if not parity.max_difference <= _TOLERANCE:  # also if NaN
                raise ValueError(
                    "Expected the file to answer like the classifier, with probabilities that "
                    f"differ by at most {_TOLERANCE:g}, but got {parity}."
                )
    return parity


def _write(
    format: FormatName, classifier: FashionMNISTClassifier, split: Mapping[str, Any] | None
) -> bytes:
    """Return the file's content."""
    try:
        return FORMATS[format].write(classifier, metadata(classifier, split))
    except ValueError:
        raise
    except Exception as error:  # Tracing a network can raise any exception, over many lines.
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        raise ValueError(
            f"Expected `network` to be one that PyTorch can bring into the format {format}, but "
            f"got {describe(classifier.network)}: {str(root).partition(chr(10))[0]}"
        ) from error


def _in_batches(predict: Predict, images: Tensor) -> Tensor:
    """Predict 1,000 images at a time, to limit memory."""
    images = images.cpu()
    return torch.cat([predict(images[i : i + 1000]) for i in range(0, len(images), 1000)])
