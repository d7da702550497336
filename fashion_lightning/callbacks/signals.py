"""SIGINT and SIGTERM during a fit: the first one is noted, a second one acts as it did before."""

import signal
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

from lightning.pytorch import Trainer


class Interrupted(SystemExit):
    """Ends a run that a signal stopped, after `checkpoint` was written.

    Its `code` is what shells expect, 128 plus the signal's number.
    """

    def __init__(self, code: int, checkpoint: Path) -> None:
        super().__init__(code)
        self.checkpoint = checkpoint


class SignalNote:
    """Notes the first SIGINT or SIGTERM between `install` and `restore`.

    Attributes:
        number: The signal's number; None before there was one, and where only another process got
            it.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}  # handlers, by their signals

    def install(self) -> None:
        """Begin to note signals, where Python allows it: in the main thread."""
        if current_thread() is main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """Restore the previous handlers. After an exception, Lightning does so."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number, previous = number, self._previous.get(number)
        self.restore()  # A second signal is theirs.
        if isinstance(getattr(previous, "__self__", None), SignalNote):  # of another callback
            previous(number, frame)  # type: ignore[misc]

    def is_anywhere(self, trainer: Trainer) -> bool:
        """Return whether any process has got a signal, the same in all of them."""
        is_here = self.number is not None
        if trainer.world_size == 1:
            return is_here
        return trainer.strategy.reduce_boolean_decision(is_here, all=False)
