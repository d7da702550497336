"""Ctrl-C and SIGTERM: noted, so that a program can stop where nothing is lost."""

import signal
from threading import current_thread, main_thread
from types import FrameType
from typing import Any


class StopSignals:
    """Notes the first SIGINT or SIGTERM; a second one does what it did before."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def listen(self) -> None:
        """Begin to note signals. Only a main thread can: elsewhere this does nothing."""
        self.received = None
        if current_thread() is main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)

    def ignore(self) -> None:
        """Leave the signals to those who handled them before `listen`."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        others: Any = self._previous.get(number)
        self.ignore()
        if isinstance(getattr(others, "__self__", None), StopSignals):
            others(number, frame)  # Who listened before also wants to know.
