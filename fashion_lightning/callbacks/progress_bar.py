"""A progress bar that costs nothing."""

from time import monotonic

from lightning.pytorch.callbacks import TQDMProgressBar
from typing_extensions import override


class SteadyProgressBar(TQDMProgressBar):
    """Lightning's progress bar, drawn a few times a second however short a step is.

    Lightning draws it every `refresh_rate` steps; drawing takes as long as training on 64 images.

    Args:
        interval: Seconds between two drawings, >= 0.
    """

    def __init__(self, interval: float = 0.2) -> None:
        super().__init__()
        self.interval = interval
        self._drawn = 0.0

    @override
    def _should_update(self, current: int, total: int) -> bool:
        now = monotonic()
        if not self.is_enabled or (now < self._drawn + self.interval and current != total):
            return False
        self._drawn = now
        return True
