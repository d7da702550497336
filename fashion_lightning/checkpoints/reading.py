"""Reads checkpoints and ``.safetensors`` exports without running any of their code."""

import json
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from safetensors import safe_open
from torch import nn

from fashion_lightning.checkpoints.trust import rebuilt_from
from fashion_lightning.data.split import SPLIT


def read_checkpoint(file: str | Path | IO[bytes], *, continues: bool = False) -> dict[str, Any]:
    """Read a checkpoint of FashionMNISTClassifier, or a ``.safetensors`` file exported from one.

    Args:
        file: Its path, or the file itself (of a checkpoint), which is left where it was.
        continues: Whether training continues with it, which takes more than the weights.

    Returns:
        What it holds: plain values and tensors, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint of FashionMNISTClassifier, or holds more than plain
            values and tensors.
    """
    path = file if isinstance(file, str | Path) else None
    try:
        if path and is_safetensors(path):
            content = _read_safetensors(path)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(file, str | Path):
            file.seek(0)
    except FileNotFoundError:
        raise
    except Exception as error:  # A broken pickle may raise anything.
        is_whole = isinstance(error, UnpicklingError) and zipfile.is_zipfile(file)
        reason = (
            "holds more than plain values and tensors, and might run code (`weights_only=False` of "
            "`load_from_checkpoint` and of the trainer's methods trusts it)"
            if is_whole
            else "is damaged, or no file of PyTorch, or of `export --format safetensors`"
        )
        raise _refusal(path, reason) from error
    groups = ("hyper_parameters", "state_dict", *(("optimizer_states",) if continues else ()))
    for group in groups:
        if not isinstance(content, dict) or group not in content:
            raise _refusal(path, f"has no {group}")
    for group in ("hyper_parameters", "datamodule_hyper_parameters", "state_dict"):
        values = content.get(group, {})
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            raise _refusal(path, f"holds {group} without names")
    return dict(content)


def is_safetensors(path: str | Path) -> bool:
    """Return whether a file is named like a safetensors export."""
    return Path(path).suffix == ".safetensors"


def encode_metadata(
    network: nn.Module, hyperparameters: Mapping[str, Any], split: Mapping[str, Any] | None
) -> dict[str, str]:
    """Return what an exported file records to rebuild a classifier, as JSON by name."""
    recorded = {
        "network": {
            "class_path": f"{type(network).__module__}.{type(network).__qualname__}",
            "init_args": getattr(network, "init_args", None),
        },
        "hyperparameters": {
            name: value
            for name, value in hyperparameters.items()
            if name != "network" and not name.startswith("_")  # Lightning's own notes
        },
        "split": {name: split[name] for name in SPLIT} if split else None,
    }
    return {name: json.dumps(value) for name, value in recorded.items()}


def decode_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what `encode_metadata` has recorded."""
    metadata = {"split": "null", **metadata}  # Version 0.1.0 did not record it.
    return {name: json.loads(metadata[name]) for name in ("network", "hyperparameters", "split")}


def _read_safetensors(path: str | Path) -> dict[str, Any]:
    """Return what `export` has written in the form of a checkpoint."""
    with safe_open(path, framework="pt") as file:
        recorded = decode_metadata(file.metadata())
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    split = recorded["split"]
    return {
        "state_dict": weights,
        "hyper_parameters": {
            **recorded["hyperparameters"],
            **rebuilt_from(recorded["network"]),
        },
        "pytorch-lightning_version": version("lightning"),
        **({"FashionMNISTDataModule": split} if split else {}),
    }


def _refusal(path: str | Path | None, reason: str) -> ValueError:
    return ValueError(
        f"Expected a checkpoint of FashionMNISTClassifier, but {path or 'the file'} {reason}."
    )
