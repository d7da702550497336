"""Headless Chromium, driven over a pipe by the DevTools protocol."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from select import select
from typing import Any


class Browser:
    """One page in headless Chromium.

    Only events of the page are collected: requests that Chromium makes on its own are not among
    them.
    """

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium")
        assert program, "Expected `chromium` to be installed, but it is not."
        # Chromium reads its commands from file 3 and writes its answers to file 4.
        reads, self._commands = os.pipe()
        self._answers, writes = os.pipe()
        start = f'exec "$@" 3</dev/fd/{reads} 4>/dev/fd/{writes}'
        options = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--remote-debugging-pipe", f"--user-data-dir={profile}"),
        )
        self._process = subprocess.Popen(
            ["sh", "-c", start, "sh", program, *options],
            pass_fds=(reads, writes),
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self._number, self._rest = 0, b""
        self.events: list[dict[str, Any]] = []
        self._session: dict[str, str] = {}
        target = self("Target.createTarget", url="about:blank")["targetId"]
        session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Network", "Log", "Runtime"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params, **self._session}
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while (message := self._receive()).get("id") != self._number:
            self.events.append(message)
        assert "result" in message, message
        result: dict[str, Any] = message["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select([self._answers], [], [], 60)[0], "Chromium does not answer."
            received = os.read(self._answers, 1 << 16)
            assert received, "Chromium has ended."
            self._rest += received
        message, _, self._rest = self._rest.partition(b"\0")
        content: dict[str, Any] = json.loads(message)
        return content

    def open(self, page: Path | str, *, width: int, dark: bool = False) -> None:
        """Load a file or a URL into a window of `width` CSS pixels; below 600, as on a phone."""
        self(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self._url = page if isinstance(page, str) else page.as_uri()
        self("Page.navigate", url=self._url)
        while not self._of("Page.loadEventFired"):
            self.events.append(self._receive())
        time.sleep(0.5)  # Late requests count, too.
        self.evaluate("0")

    def drop(self, path: Path, selector: str) -> None:
        """Drop a file on the middle of an element."""
        box = f"document.querySelector('{selector}').getBoundingClientRect().toJSON()"
        edges = self.evaluate(box)
        x, y = (edges["left"] + edges["right"]) / 2, (edges["top"] + edges["bottom"]) / 2
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}

        def send(kind: str) -> None:
            self("Input.dispatchDragEvent", type=kind, data=data, x=x, y=y)

        self.evaluate("isOver = false; addEventListener('dragover', () => isOver = true, true); 0")
        while not self.evaluate("isOver"):  # Before its first frame, a page gets no such events.
            send("dragEnter")
            send("dragOver")
            time.sleep(0.1)
        send("drop")

    def wait(self, expression: str, seconds: float = 60.0) -> None:
        """Wait until an expression in the page is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"{expression} does not become true."
            time.sleep(0.05)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"]["value"]

    @property
    def requests(self) -> list[str]:
        """URLs requested since the page was opened, without its own file and data: URLs."""
        events = [event["params"] for event in self._of("Network.requestWillBeSent")]
        urls = [event["request"]["url"] for event in events]
        return [url for url in urls if url != self._url and not url.startswith("data:")]

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings in the console."""
        entries = [event["params"]["entry"] for event in self._of("Log.entryAdded")]
        texts = [entry["text"] for entry in entries if entry["level"] in ("error", "warning")]
        calls = [event["params"] for event in self._of("Runtime.consoleAPICalled")]
        texts += [str(call["args"]) for call in calls if call["type"] in ("error", "warning")]
        return texts + [str(event["params"]) for event in self._of("Runtime.exceptionThrown")]

    def _of(self, method: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["method"] == method]

    @property
    def width(self) -> int:
        """Width of the content in CSS pixels: more than the window's if it overflows."""
        return int(self.evaluate("document.documentElement.scrollWidth"))

    def close(self) -> None:
        self._session = {}
        self("Browser.close")
        self._process.wait(30)
        os.close(self._commands)
        os.close(self._answers)
