"""A local mirror that serves the files, or fails in a chosen way."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

PACKAGED = Path(str(resources.files("fashion_lightning.data") / "raw"))

FAULTS = {  # with what the line must say about each
    "refuse": "Connection refused",
    "403": "Forbidden",
    "404": "Not Found",
    "500": "Internal Server Error",
    "503": "Service Unavailable",
    "silence": "timed out",
    "slow drip": "too slow",
    "slow header": "no answer in time",
    "cut short": "of 26421880 bytes",
    "longer than stated": "wrong checksum",
    "endless": "more than 47040016 bytes",
    "wrong content": "wrong checksum",
    "web page": "wrong checksum",
    "redirect loop": "infinite loop",
    "wrong host name": "no-such-host.invalid",
}


@contextmanager
def mirror(fault: str = "none", seconds: float = 0.0) -> Iterator[str]:
    """Run a mirror and yield its URL.

    Args:
        fault: One of `FAULTS`, "cut once" (only the first response), or "none".
        seconds: Duration of a large download.
    """
    if fault == "wrong host name":
        yield f"http://{FAULTS[fault]}/"
        return
    stop = threading.Event()  # ends slow responses
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Keep the output clean."""

        def do_GET(self) -> None:
            try:
                self.respond((PACKAGED / Path(self.path).name).read_bytes())
            except OSError:  # The client has gone, as some faults intend.
                self.close_connection = True

        def respond(self, content: bytes) -> None:
            size = len(content)
            if fault.isdigit():
                return self.send_error(int(fault))
            if fault == "silence":
                stop.wait()
                return None
            if fault == "slow header":
                self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
                while not stop.wait(0.05):
                    self.wfile.write(b"x")
                return None
            if fault == "redirect loop":
                self.send_response(302)
                self.send_header("Location", self.path)
                return self.end_headers()
            requests.append(self.path)
            if fault == "cut short" or (fault == "cut once" and len(requests) == 1):
                content = content[: size // 2]
            elif fault == "wrong content":
                content = content[:-1] + b"\1"
            elif fault == "web page":
                content, size = b"<html>Log in</html>", 19
            elif fault == "longer than stated":
                content = b"\0" + content
            elif fault == "endless":
                content += bytes(21_000_000)
            self.send_response(200)
            if fault != "endless":
                self.send_header("Content-Length", str(size))
            self.end_headers()
            if fault == "slow drip":
                for number in range(size):
                    self.wfile.write(content[number : number + 1])
                    if stop.wait(0.05):
                        return None
            for part in range(10):
                self.wfile.write(
                    content[part * len(content) // 10 : (part + 1) * len(content) // 10]
                )
                time.sleep(seconds / 10 * (size > 1_000_000))
            return None

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        if fault == "refuse":
            server.server_close()
            yield f"http://127.0.0.1:{server.server_port}/"
            return
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            stop.set()
            server.shutdown()
