"""Wall-clock time and peak memory of the command and of its imports.

Every round runs all commands in turn, each in a process of its own. Prints a table in Markdown. Run
it in the repository's folder as

    python tests/benchmarks/start.py data

after any `fashion-lightning` command, which leaves the dataset's files in `data`.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from measuring import Measured, heading, row, run

QUICKSTART = str(Path(__file__).parent / "quickstart.py")
OURS = [sys.executable, "-m", "fashion_lightning"]


def main() -> None:
    """Measure all commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = ["--config", "configs/default.yaml", "--trainer.default_root_dir", folder]
        commands = {
            "`import lightning.pytorch.cli`": [
                sys.executable,
                "-c",
                "import lightning.pytorch.cli",
            ],
            "`import fashion_lightning`": [sys.executable, "-c", "import fashion_lightning"],
            "`fashion-lightning --help`": [*OURS, "--help"],
            "`fit`, `default.yaml`": [*OURS, "fit", *config, "--data.data_dir", options.data_dir],
            "PyTorch's quickstart (5 epochs)": [sys.executable, QUICKSTART, options.data_dir],
        }
        results: dict[str, list[Measured]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                results[name].append(run(command))
    heading(
        *("command", "s, wall clock", "relative to the import", "relative to the quickstart"),
        "peak memory, MiB",
    )
    first, *_, last = results.values()
    for name, values in results.items():
        ratios = [
            statistics.median(a.seconds / b.seconds for a, b in zip(values, base, strict=True))
            for base in (first, last)
        ]
        seconds = statistics.median(each.seconds for each in values)
        memory = statistics.median(each.memory for each in values)
        row(name, f"{seconds:.2f}", *(f"{ratio:.2f}" for ratio in ratios), f"{memory:.0f}")


if __name__ == "__main__":
    main()
