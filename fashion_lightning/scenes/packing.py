"""Weights in half precision, as they come with the package."""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from fashion_lightning.checkpoints.reading import encode_metadata, read_checkpoint
from fashion_lightning.module import FashionMNISTClassifier
from fashion_lightning.scenes.training import MaskModule


def pack(checkpoint: str | Path, path: str | Path) -> None:
    """Write a checkpoint of `FashionMNISTClassifier` or `MaskModule` as half precision safetensors.

    Args:
        checkpoint: A file that ``fit`` has written.
        path: The ``.safetensors`` file, as `weights_file` and `load_unet` read it.
    """
    content = read_checkpoint(checkpoint)
    if "channels" in content["hyper_parameters"]:
        module = MaskModule(content["hyper_parameters"]["channels"]).network
        weights = {
            name.removeprefix("network."): value for name, value in content["state_dict"].items()
        }
        metadata = encode_metadata(module, content["hyper_parameters"], None)
    else:
        classifier, weights = (
            FashionMNISTClassifier.load_from_checkpoint(checkpoint),
            content["state_dict"],
        )
        split = next(
            (value for name, value in content.items() if name.endswith("DataModule")), None
        )
        metadata = encode_metadata(classifier.network, classifier.hparams, split)
        metadata["class_names"] = json.dumps(classifier.class_names)
    metadata["fashion_lightning_version"] = version("fashion-lightning")
    save_file({name: _half(value) for name, value in weights.items()}, path, metadata)


def _half(value: Tensor) -> Tensor:
    is_large = value.is_floating_point() and value.dim() > 0
    return (value.half() if is_large else value).clone(memory_format=torch.contiguous_format)
