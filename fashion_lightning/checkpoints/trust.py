"""Limits on a checkpoint: which networks it builds, which arguments and weights it sets.

A checkpoint may come from anywhere. PyTorch reads plain values and tensors only, as `reading.py`
and `atomic_io.py` tell it, but Lightning would import and build whatever class a checkpoint names
as its network. `weights_only=False` lifts both limits.
"""

from collections.abc import Collection, Mapping
from inspect import signature
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from fashion_lightning.network import NETWORKS

_INSTANTIATOR = {"_instantiator": "lightning.pytorch.cli.instantiate_module"}
"""Lets Lightning build a network from its class path and arguments."""


def describe_network(kind: type, network: nn.Module | None) -> dict[str, Any]:
    """Return the hyperparameters with which a checkpoint rebuilds a network.

    Args:
        kind: The LightningModule's class.
        network: A network with ``init_args``, as this package's have. Others are not described.
    """
    init_args = getattr(network, "init_args", None)
    if not init_args or "network" not in signature(kind).parameters:
        return {}
    class_path = f"{type(network).__module__}.{type(network).__qualname__}"
    return rebuilt_from({"class_path": class_path, "init_args": init_args})


def rebuilt_from(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters that name a network by class path and arguments."""
    return {"network": network, **_INSTANTIATOR}


def check_network(content: Mapping[str, Any]) -> None:
    """Refuse to build a network that is not this package's because a checkpoint names it.

    Raises:
        ValueError: If the hyperparameters name another one, or build one from other than ints.
    """
    named = content["hyper_parameters"].get("network")
    if named is None:
        return
    known = [
        f"{module}.{network.__name__}"
        for network in NETWORKS
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


def recorded_arguments(
    content: Mapping[str, Any], *, network: bool, leave_out: Collection[str]
) -> dict[str, Any]:
    """Return the arguments with which the model and the data of a checkpoint were made.

    Args:
        content: What `read_checkpoint` has returned.
        network: Whether the network is among them.
        leave_out: Names that a checkpoint must not set: input and output paths, and what depends on
            the machine.

    Returns:
        Values by their names on the command line, such as ``model.lr`` and ``data.val_size``.

    Raises:
        ValueError: If the network must not be built.
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
        and name not in leave_out
    }


def check_weights(module: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Refuse the weights of another network.

    Args:
        module: Where they are to be loaded.
        state_dict: Names and tensors.

    Raises:
        ValueError: If a name or a shape differs; the message names the first.
    """
    own = {
        name: tuple(tensor.shape)
        for name, tensor in module.state_dict().items()
        if not is_lazy(tensor)  # Lazy layers take any shape.
    }
    lazy = {*module.state_dict()} - {*own}
    given = {
        name: tuple(getattr(value, "shape", ()))
        for name, value in state_dict.items()
        if name not in lazy
    }
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
