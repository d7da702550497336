"""What a person waits for, from Enter to the end, and how much memory it takes.

Every round runs all commands in turn, each in a process of its own. Prints tables in Markdown. Run
it in the repository's folder as

    python tests/benchmarks/start.py data

after any `fashion-lightning` command, which leaves the dataset's files in `data`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).parent
OURS = [sys.executable, "-m", "fashion_lightning"]


def run(command: list[str]) -> tuple[float, float]:
    """Return a command's seconds and its peak memory in MiB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    unit = 1024 if sys.platform == "darwin" else 1  # bytes there, KiB elsewhere
    return time.perf_counter() - started, usage.ru_maxrss / unit / 1024


def main() -> None:
    """Measure what a person waits for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    data = ["--data.data_dir", options.data_dir, "--data.mirrors", "[]"]
    with tempfile.TemporaryDirectory() as folder:
        config = ["--config", "configs/default.yaml", "--trainer.default_root_dir", folder]
        commands = {
            "import lightning.pytorch.cli": [sys.executable, "-c", "import lightning.pytorch.cli"],
            "and torchvision": [sys.executable, "-c", "import lightning.pytorch.cli, torchvision"],
            "import fashion_lightning": [sys.executable, "-c", "import fashion_lightning"],
            "fashion-lightning --help": [*OURS, "--help"],
            "fit, default.yaml": [*OURS, "fit", *config, *data],
            "PyTorch's quickstart": [
                *(sys.executable, str(FOLDER / "quickstart.py"), options.data_dir)
            ],
        }
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                results[name].append(run(command))
    print("| command | s | of the first | of the last | peak memory, MiB |")
    print("| --- | --- | --- | --- | --- |")
    names = list(commands)
    for name, values in results.items():
        seconds, memory = (statistics.median(column) for column in zip(*values, strict=True))
        ratios = [
            statistics.median(ours[0] / base[0] for ours, base in zip(values, bases, strict=True))
            for bases in (results[names[0]], results[names[-1]])
        ]
        print(f"| {name} | {seconds:.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
