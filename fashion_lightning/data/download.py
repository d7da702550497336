"""Downloads with limits on a server's silence, on the number of bytes and on the total time."""

import time
from http.client import HTTPException
from queue import Empty, SimpleQueue
from threading import Thread
from urllib.error import HTTPError
from urllib.request import urlopen

_SILENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.5  # before the second attempt


def download(url: str, limit: int, deadline: float) -> bytes:
    """Return a file of at most `limit` bytes, before `deadline` in seconds of `time.monotonic`.

    Raises:
        OSError: If two attempts fail, or the first is refused with a 4xx status.
        HTTPException, ValueError: If the server does not speak HTTP, or `url` is not a URL.
    """
    try:
        return _in_time(url, limit, deadline)
    except (OSError, HTTPException) as error:
        is_final = isinstance(error, HTTPError) and error.code < 500
        if is_final or time.monotonic() + _PAUSE_SECONDS > deadline:
            raise
    time.sleep(_PAUSE_SECONDS)
    return _in_time(url, limit, deadline)


def _in_time(url: str, limit: int, deadline: float) -> bytes:
    """Receive in a thread that is abandoned after the deadline.

    A socket's timeout covers neither a slow name server nor a header sent byte by byte.
    """
    outcome: SimpleQueue[bytes | Exception] = SimpleQueue()

    def work() -> None:
        try:
            outcome.put(_receive(url, limit, deadline))
        except Exception as error:  # Raised again below.
            if isinstance(error, HTTPError):
                error.close()
            outcome.put(error)

    Thread(target=work, daemon=True).start()
    try:
        # Half a second longer than `_receive`, whose errors are more precise.
        received = outcome.get(timeout=max(0.0, deadline - time.monotonic()) + 0.5)
    except Empty:
        raise TimeoutError("no answer in time") from None
    if isinstance(received, Exception):
        raise received
    return received


def _receive(url: str, limit: int, deadline: float) -> bytes:
    received = bytearray()
    with urlopen(url, timeout=_SILENCE_SECONDS) as response:
        while chunk := response.read1(1 << 20):
            received += chunk
            if len(received) > limit:
                raise ConnectionError(f"sent more than {limit} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError("too slow")
        size = int(response.headers.get("Content-Length", len(received)))
    if len(received) != size:
        raise ConnectionError(f"sent {len(received)} of {size} bytes")
    return bytes(received)
