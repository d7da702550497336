"""What the benchmarks share: a command's time and memory, and tables in Markdown."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple


class Measured(NamedTuple):
    """One run of a command: its wall-clock time in s, its peak memory in MiB, its output."""

    seconds: float
    memory: float
    output: str


def run(command: Sequence[str]) -> Measured:
    """Run a command to its end.

    Raises:
        SystemExit: It failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    output = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    unit = 1024 if sys.platform == "darwin" else 1  # bytes there, KiB elsewhere
    return Measured(time.perf_counter() - started, usage.ru_maxrss / unit / 1024, output)


def row(*cells: object) -> None:
    """Print a row of a table."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def heading(*cells: str) -> None:
    """Print the first rows of a table."""
    print()
    row(*cells)
    row(*("---" for _ in cells))
