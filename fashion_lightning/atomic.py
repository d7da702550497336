"""Files that are, at any moment, either as before or complete: never half-written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread


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
        _replace(path, new)
    except BaseException as error:
        new.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)  # A full disk is not said to be of any file.
        raise


def _replace(path: Path, new: Path) -> None:
    """Give `new` the name of `path`, without waiting until the old file's space is free."""
    old = None
    if os.name == "posix" and path.is_file():  # Elsewhere, an open file cannot be replaced.
        with suppress(PermissionError):
            old = os.open(path, os.O_RDONLY)
    try:
        new.replace(path)
    finally:
        if old is not None:
            # Nobody can find it any more, but its space is only freed when it is closed. That takes
            # as long as to write a file: the next steps of training need not wait for it.
            Thread(target=os.close, args=(old,)).start()
