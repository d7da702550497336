"""Files that are, at any moment, either as before or complete: never half-written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` for its new content; it becomes `path` when the block ends well.

    Two processes must not do this for the same `path` at the same time.

    Args:
        path: The file; its folder is made.

    Raises:
        OSError: If the folder or the file cannot be written. What was at `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Always the same name: what a killed process left is taken away by the next one.
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        yield new
        new.replace(path)
    except BaseException as error:
        new.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)  # A full disk is not said to be of any file.
        raise
