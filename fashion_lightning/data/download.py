"""Downloads with bounds: on a server's silence, on the number of bytes, on the time in all."""

import time
from http.client import HTTPException
from queue import Empty, SimpleQueue
from threading import Thread
from urllib.error import HTTPError
from urllib.request import urlopen

_SILENCE_SECONDS = 5.0
_ATTEMPTS = 2
_PAUSE_SECONDS = 0.5  # before the next attempt


def download(url: str, size: int, deadline: float) -> bytes:
    """Download a file of known size, with a progress bar on a terminal.

    What may pass (no connection, silence, an end too early, an error of the server) is tried once
    more; an answer that will not change (not found, forbidden) is not.

    Args:
        url: Where it is.
        size: Its bytes.
        deadline: When to give up, whatever happens, in seconds of `time.monotonic`.

    Returns:
        The bytes, exactly `size`. They are not verified any further.

    Raises:
        OSError: If the server cannot be reached, refuses, is silent or too slow, or sends another
            number of bytes.
        HTTPException, ValueError: If it does not speak HTTP, or `url` is none.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _within(url, size, deadline)
        except (OSError, HTTPException) as error:
            final = isinstance(error, HTTPError) and error.code < 500
            if final or attempt == _ATTEMPTS or time.monotonic() + _PAUSE_SECONDS > deadline:
                raise
        time.sleep(_PAUSE_SECONDS)
    raise AssertionError("The last attempt returns or raises.")


def _within(url: str, size: int, deadline: float) -> bytes:
    """Receive in a thread, which is left alone when the time is over.

    Neither the search for a host's address nor a server that sends its header byte by byte heeds
    the timeout of a socket.
    """
    outcome: SimpleQueue[bytes | Exception] = SimpleQueue()

    def work() -> None:
        try:
            outcome.put(_receive(url, size, deadline))
        except Exception as error:  # It is raised again below, whatever it is.
            if isinstance(error, HTTPError):
                error.close()
            outcome.put(error)

    Thread(target=work, daemon=True).start()
    try:
        # A little longer: most of what is too slow is noticed, and better described, in there.
        received = outcome.get(timeout=max(0.0, deadline - time.monotonic()) + 0.5)
    except Empty:
        raise TimeoutError("no answer in time") from None
    if isinstance(received, Exception):
        raise received
    return received


def _receive(url: str, size: int, deadline: float) -> bytes:
    from rich.console import Console  # Most runs download nothing and need not import these.
    from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    received = bytearray()
    with (
        urlopen(url, timeout=_SILENCE_SECONDS) as response,
        Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        ) as progress,
    ):
        task = progress.add_task(url, total=size)
        while len(received) <= size and (chunk := response.read1(1 << 20)):
            received += chunk
            progress.update(task, completed=len(received))
            if time.monotonic() > deadline:
                raise TimeoutError("too slow")
    if len(received) != size:
        more = "more than " if len(received) > size else f"{len(received)} of "
        raise ConnectionError(f"sent {more}{size} bytes")
    return bytes(received)
