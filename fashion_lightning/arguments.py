"""How a bad argument is refused: one sentence with its name, the expectation and its value."""

import math
from collections.abc import Sequence


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


def at_least(minimum: int, **arguments: float) -> None:
    """Refuse numbers below a minimum; the keyword is the argument's name, here and below."""
    for name, value in arguments.items():
        expect(value >= minimum, name, f"an int >= {minimum}", value)


def positive(**arguments: float) -> None:
    """Refuse what is not finite and above 0."""
    for name, value in arguments.items():
        expect(0 < value < math.inf, name, "a finite number > 0", value)


def non_negative(**arguments: float) -> None:
    """Refuse what is not finite and at least 0."""
    for name, value in arguments.items():
        expect(0 <= value < math.inf, name, "a finite number >= 0", value)


def finite(**arguments: float) -> None:
    """Refuse infinities and NaN."""
    for name, value in arguments.items():
        expect(math.isfinite(value), name, "a finite number", value)


def fraction(**arguments: float) -> None:
    """Refuse what is not in [0, 1]."""
    for name, value in arguments.items():
        expect(0 <= value <= 1, name, "in [0, 1]", value)


def below_one(**arguments: float) -> None:
    """Refuse what is not in [0, 1)."""
    for name, value in arguments.items():
        expect(0 <= value < 1, name, "in [0, 1)", value)


def one_of(choices: Sequence[str], **arguments: str) -> None:
    """Refuse what is not among the choices."""
    for name, value in arguments.items():
        expect(value in choices, name, " or ".join(map(repr, choices)), value)


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
