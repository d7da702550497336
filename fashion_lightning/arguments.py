"""How a bad argument is refused: one sentence with its name, the expectation and its value."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any


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
