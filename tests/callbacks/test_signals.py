"""The first signal is noted; what was there before gets the second."""

import signal

import pytest

from fashion_lightning.callbacks.signals import SignalNote


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_acts_as_before(number: signal.Signals) -> None:
    heard: list[int] = []
    before = signal.signal(number, lambda number, _: heard.append(number))
    try:
        note = SignalNote()
        note.install()
        signal.raise_signal(number)
        assert (note.number, heard) == (number, [])
        signal.raise_signal(number)
        assert heard == [number]
    finally:
        signal.signal(number, before)
