"""What a checkpoint holds: read without running any of it, refused with a reason.

A checkpoint may come from anywhere. PyTorch reads plain values and tensors only; but what these say
is used, too: Lightning would import and build whatever class a checkpoint names as its network.
"""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import fsspec  # type: ignore[import-untyped]
import torch
from safetensors import safe_open
from torch import nn
from torch.nn.parameter import is_lazy

from fashion_lightning.network import MLP, ConvNet

_RECORDED = ("network", "hyperparameters")  # by `export`, as JSON in a file's metadata
SPLIT = ("split_seed", "val_size", "split_digest")
"""What a checkpoint, and an exported file, records of the validation split."""


def read_checkpoint(file: str | Path | IO[bytes], *, continues: bool = False) -> dict[str, Any]:
    """Read a checkpoint of FashionMNISTClassifier, or a ``.safetensors`` file exported from one.

    Args:
        file: Its path, or the file itself (of a checkpoint), which is left where it was.
        continues: Whether training shall go on with it, which needs more than the weights.

    Returns:
        What it holds: plain values and tensors, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint of FashionMNISTClassifier, or holds something else than
            plain values and tensors.
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
    except Exception as error:  # What a broken pickle raises is not limited to anything.
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


def load_classifier(
    load: Callable[..., Any],
    checkpoint_path: str | Path | IO[bytes],
    map_location: Any,
    hparams_file: str | Path | None,
    strict: bool | None,
    weights_only: bool | None,
    arguments: dict[str, Any],
) -> Any:
    """Do what `FashionMNISTClassifier.load_from_checkpoint` does.

    Args:
        load: Lightning's `load_from_checkpoint`.
        checkpoint_path: The file, or its path.
        map_location: For `load`.
        hparams_file: For `load`.
        strict: For `load`.
        weights_only: False: the file is trusted, and not looked into before.
        arguments: Those of the module that are given explicitly.
    """
    is_trusted = weights_only is False
    if isinstance(checkpoint_path, str) and "://" in checkpoint_path:
        with fsspec.open(checkpoint_path, "rb") as file:
            checkpoint_path = io.BytesIO(file.read())
    is_exported = isinstance(checkpoint_path, str | Path) and is_safetensors(checkpoint_path)
    if is_exported or not is_trusted:
        content = read_checkpoint(checkpoint_path)
        if "network" not in arguments and not is_trusted:
            check_network(content)
        if is_exported:
            checkpoint_path = io.BytesIO()  # Lightning only reads what `torch.save` has written.
            torch.save(content, checkpoint_path)
            checkpoint_path.seek(0)
    return load(
        checkpoint_path,
        map_location,
        hparams_file,
        strict,
        weights_only=not is_trusted,
        **arguments,
    )


def is_safetensors(path: str | Path) -> bool:
    """Tell by its name whether a file is a safetensors export."""
    return Path(path).suffix == ".safetensors"


def _read_safetensors(path: str | Path) -> dict[str, Any]:
    """Bring what `export` has written into a checkpoint's form."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        recorded = {name: json.loads(metadata[name]) for name in _RECORDED}
        split = json.loads(metadata.get("split", "null"))  # Version 0.1.0 did not record it.
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    return {
        "state_dict": weights,
        "hyper_parameters": {
            **recorded["hyperparameters"],
            "network": recorded["network"],
            "_instantiator": "lightning.pytorch.cli.instantiate_module",
        },
        "pytorch-lightning_version": version("lightning"),
        **({"FashionMNISTDataModule": split} if split else {}),
    }


def _refusal(path: str | Path | None, reason: str) -> ValueError:
    return ValueError(
        f"Expected a checkpoint of FashionMNISTClassifier, but {path or 'the file'} {reason}."
    )


def check_network(content: dict[str, Any]) -> None:
    """Refuse to build a network, because a checkpoint names it, that is not this package's.

    Raises:
        ValueError: If the hyperparameters name another one, or build one from more than numbers.
    """
    named = content["hyper_parameters"].get("network")
    if named is None:
        return
    known = [
        f"{module}.{network.__name__}"
        for network in (MLP, ConvNet)
        for module in (network.__module__, "fashion_lightning")
    ]
    recorded = named if isinstance(named, dict) else {"class_path": named}
    class_path, init_args = recorded.get("class_path"), recorded.get("init_args") or {}
    if class_path not in known:
        raise ValueError(
            f"Expected `network` to be given, since the checkpoint was trained with {class_path}: "
            "only this package's networks are built because a checkpoint names them."
        )
    if not (isinstance(init_args, dict) and all(type(v) is int for v in init_args.values())):
        raise ValueError(
            f"Expected the arguments of the checkpoint's network to be ints, but got {init_args}."
        )


def recorded_arguments(content: dict[str, Any], *, network: bool) -> dict[str, Any]:
    """Return with which arguments the model and the data of a checkpoint were made.

    Args:
        content: What `read_checkpoint` has returned.
        network: Whether the network is among them.

    Returns:
        Values by their names on the command line, such as ``model.lr`` and ``data.val_size``.

    Raises:
        ValueError: If the network is not to be built.
    """
    if network:
        check_network(content)
    groups = {
        "model": content["hyper_parameters"],
        "data": content.get("datamodule_hyper_parameters", {}),
    }
    return {
        f"{group}.{name}": value
        for group, values in groups.items()
        for name, value in values.items()
        if not name.startswith("_")  # Lightning's own notes
        and (network or name != "network")
        # Where data comes from, and what is written, is not for it to say.
        and name not in ("data_dir", "mirrors", "images", "preview", "num_workers", "pin_memory")
    }


def check_weights(module: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Refuse weights of another network.

    Args:
        module: Where they are to be loaded.
        state_dict: Names and tensors.

    Raises:
        ValueError: If a name or a shape differs; says the first.
    """
    own = {
        name: tuple(tensor.shape)
        for name, tensor in module.state_dict().items()
        if not is_lazy(tensor)  # Lazy layers take any shape.
    }
    lazy = {*module.state_dict()} - {*own}
    state_dict = {name: value for name, value in state_dict.items() if name not in lazy}
    given = {name: tuple(getattr(value, "shape", ())) for name, value in state_dict.items()}
    for name in [*own, *given]:
        if own.get(name) != given.get(name):
            expected, got = (
                f"of shape {shapes[name]}" if name in shapes else "absent"
                for shapes in (own, given)
            )
            raise ValueError(
                f"Expected the checkpoint to be of this network, where `{name}` is {expected}, but "
                f"got one where it is {got}; a network that is not this package's is given again "
                "(`network`)."
            )
