"""A LightningModule that loads checkpoints without running their code, and exports itself."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import fsspec  # type: ignore[import-untyped]
import torch
from lightning.pytorch import LightningModule
from typing_extensions import Self, override

from fashion_lightning.checkpoints.pretrained import weights_file
from fashion_lightning.checkpoints.reading import is_safetensors, read_checkpoint
from fashion_lightning.checkpoints.trust import check_network, check_weights

_CONSTANTS = ("mean", "std", "temperature")


class SafeLoading(LightningModule):
    """Loads checkpoints and exports, refuses weights of other networks, and stores its constants.

    ``mean``, ``std`` and ``temperature`` are stored among the weights but are not buffers:
    callbacks that average weights average buffers, too, while a temperature belongs to the weights
    that were validated.
    """

    @classmethod
    @override
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Build the module that a checkpoint, or a ``.safetensors`` export of one, describes.

        By default the file cannot run code, and only this package's networks are rebuilt: for
        another one, give `network`.

        Args:
            checkpoint_path: The file, or its path.
            map_location: Where to put the weights. None: the CPU.
            hparams_file: A YAML file with hyperparameters to use instead.
            strict: Whether names of all weights must match. None: yes.
            weights_only: False unpickles any object, which may run code, and builds networks of any
                class. None: True.
            **kwargs: Hyperparameters to use instead.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no checkpoint of this class, holds another network's weights, or
                names a network that is not this package's.
        """
        is_trusted = weights_only is False
        place = "cpu" if map_location is None else map_location
        if isinstance(checkpoint_path, str) and "://" in checkpoint_path:
            with fsspec.open(checkpoint_path, "rb") as file:
                checkpoint_path = io.BytesIO(file.read())
        is_exported = isinstance(checkpoint_path, str | Path) and is_safetensors(checkpoint_path)
        if is_exported or not is_trusted:
            content = read_checkpoint(checkpoint_path)
            if "network" not in kwargs and not is_trusted:
                check_network(content)
            if is_exported:
                checkpoint_path = io.BytesIO()  # Lightning reads only what `torch.save` writes.
                torch.save(content, checkpoint_path)
                checkpoint_path.seek(0)
        module: Self = super().load_from_checkpoint(
            checkpoint_path, place, hparams_file, strict, not is_trusted, **kwargs
        )
        for name in {"mean", "std"} & {*kwargs}:  # Loading has overwritten them.
            getattr(module, name).fill_(kwargs[name])
        return module

    @classmethod
    def from_pretrained(cls, name: str, **kwargs: Any) -> Self:
        """Build a trained classifier that comes with this package.

        Args:
            name: ``mlp``, ``convnet`` or ``wide``.
            **kwargs: Hyperparameters to use instead.

        Returns:
            The classifier, in eval mode.

        Raises:
            ValueError: If there is none of this name, or the installed file is damaged.

        Example:
            >>> from fashion_lightning import FashionMNISTClassifier
            >>> classifier = FashionMNISTClassifier.from_pretrained("mlp")
            >>> probs = classifier(torch.zeros(1, 28, 28)).softmax(dim=1)
        """
        return cls.load_from_checkpoint(weights_file(name), **kwargs).eval()

    @override
    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights; refuse another network's in one sentence.

        Raises:
            ValueError: If `strict` and they are another network's.
        """
        if strict:
            check_weights(self, state_dict)
        return super().load_state_dict(state_dict, strict, assign)

    @override
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in _CONSTANTS:
            destination[prefix + name] = getattr(self, name).clone()

    @override
    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        *args: Any,
    ) -> None:
        for name in _CONSTANTS:
            if prefix + name in state_dict:
                getattr(self, name).copy_(state_dict.pop(prefix + name))
            elif strict:
                missing_keys.append(prefix + name)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, *args
        )

    @override
    def to_onnx(self, file_path: Any = None, input_sample: Any = None, **kwargs: Any) -> Any:
        """Export `forward` as ONNX by Lightning's method, for any number of images."""
        if input_sample is None and self.example_input_array is None:
            input_sample = (torch.zeros(2, 1, 28, 28),)
            if not {"dynamic_shapes", "dynamic_axes"} & {*kwargs}:
                kwargs["dynamic_shapes"] = ({0: "N"},)
        return super().to_onnx(file_path, input_sample, **kwargs)
