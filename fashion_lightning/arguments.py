"""How a bad argument is refused: one sentence with its name, what would be right, and its value."""


def expect(condition: bool, name: str, expected: str, value: object) -> None:
    """Raise a ValueError unless `condition` holds.

    Args:
        condition: Whether the argument makes sense.
        name: The argument's name.
        expected: What would be right, after "to be".
        value: What was given.

    Raises:
        ValueError: "Expected `name` to be ..., but got ...".
    """
    if not condition:
        raise ValueError(f"Expected `{name}` to be {expected}, but got {value!r}.")
