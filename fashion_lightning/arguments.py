"""How a bad argument is refused: one sentence with its name, the expectation and its value."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor


def expect(condition: bool, name: str, expected: str, value: object) -> None:
    """Raise a ValueError unless `condition` holds.

    Args:
        condition: Whether the argument is valid.
        name: The argument's name.
        expected: A valid value, worded to follow "to be".
        value: The value that was given.

    Raises:
        ValueError: "Expected `name` to be ..., but got ...".
    """
    if not condition:
        raise ValueError(f"Expected `{name}` to be {expected}, but got {value!r}.")


def _each(expected: str, is_valid: Callable[[Any], bool], **arguments: Any) -> None:
    for name, value in arguments.items():
        expect(is_valid(value), name, expected, value)


# The keyword is the argument's name: `positive(lr=lr)`.
positive = partial(_each, "a finite number > 0", lambda value: 0 < value < math.inf)
non_negative = partial(_each, "a finite number >= 0", lambda value: 0 <= value < math.inf)
finite = partial(_each, "a finite number", math.isfinite)
fraction = partial(_each, "in [0, 1]", lambda value: 0 <= value <= 1)
below_one = partial(_each, "in [0, 1)", lambda value: 0 <= value < 1)


def at_least(minimum: int, **arguments: float) -> None:
    """Refuse numbers below a minimum."""
    _each(f"an int >= {minimum}", lambda value: value >= minimum, **arguments)


def one_of(choices: Sequence[str], **arguments: str) -> None:
    """Refuse what is not among the choices."""
    _each(" or ".join(map(repr, choices)), lambda value: value in choices, **arguments)


def names(number: int, **arguments: Sequence[str] | None) -> None:
    """Refuse other than `number` different names."""
    for name, value in arguments.items():
        given = None if value is None else [str(each) for each in value]
        expected = f"{number} different names, as many as `num_classes`"
        expect(given is None or len(given) == number == len({*given}), name, expected, given)


def not_compiled(**arguments: object) -> None:
    """Refuse networks that `torch.compile` has wrapped."""
    for name, value in arguments.items():
        expected = (
            "one that `torch.compile` has not wrapped, which renames its weights (set "
            "`compile_network`, or call `network.compile()`, which keeps the names)"
        )
        expect(not hasattr(value, "_orig_mod"), name, expected, type(value).__name__)


def floating_point(**arguments: Tensor) -> None:
    """Refuse images in 0 ... 255, which a network would treat as very bright."""
    for name, images in arguments.items():
        right = "floating point in [0, 1], as torchvision's ToTensor gives them"
        if not images.is_floating_point():
            raise ValueError(f"Expected `{name}` to be {right}, but got {images.dtype}.")


def square_images(side: int, **arguments: Tensor) -> None:
    """Refuse other than floats ``(N, 1, side, side)`` or ``(N, side, side)``."""
    floating_point(**arguments)
    for name, images in arguments.items():
        shape = tuple(images.shape)
        if shape[1:] not in ((1, side, side), (side, side)):
            raise ValueError(
                f"Expected `{name}` to have the shape (N, 1, {side}, {side}) or "
                f"(N, {side}, {side}), but got {shape}."
            )


def returns_logits(num_classes: int, **networks: Any) -> None:
    """Raise a TypeError or ValueError for a network's output other than ``(N, num_classes)``."""
    for name, logits in networks.items():
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"Expected `{name}` to return logits, a tensor (N, num_classes), but got "
                f"{type(logits).__name__}; wrap it in a module that returns the logits alone."
            )
        shape = tuple(logits.shape)
        right = f"one that returns logits (N, {num_classes}), as `num_classes` states"
        expect(len(shape) == 2 and shape[1] == num_classes, name, right, shape)


def returns_no_probabilities(**functions: Tensor) -> None:
    """Refuse outputs whose rows are probabilities: softmax would be applied twice."""
    for name, logits in functions.items():
        sums = logits.detach().sum(dim=1)
        are_probabilities = bool((logits >= 0).all() & ((sums - 1).abs() < 1e-4).all())
        right = "one that returns logits, of which `predict_step` makes probabilities"
        expect(not are_probabilities or not len(logits), name, right, "probabilities")


def new_file(path: Path, overwrite: bool) -> None:
    """Raise a FileExistsError for a folder, and for a file that must not be overwritten."""
    if path.is_dir() or (path.exists() and not overwrite):
        raise FileExistsError(
            f"Expected `path` to be a new file, but {path} exists; `overwrite` replaces files."
        )


def installed(package: str, extra: str, purpose: str) -> None:
    """Raise an ImportError that names the extra to install, if a package is missing."""
    if find_spec(package) is None:
        raise ImportError(
            f"Expected {package} to be installed for {purpose}, but it is not: "
            f"pip install 'fashion-lightning[{extra}]'."
        )
