"""How long it takes, from Enter to the table, to reach 90 % and 91 % of the test images.

Each way is a `fit` of a config with fewer epochs, five times from the start with seeds 0 ... 4, in
turns. Prints a table in Markdown. Run it in the repository's folder as

    python tests/benchmarks/accuracy.py data

after any `fashion-lightning` command, which leaves the dataset's files in `data`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = {
    "90 %, the tutorial's network": "default.yaml --trainer.max_epochs 12",
    "91 %, the tutorial's network": "mlp-best.yaml --trainer.max_epochs 50 --data.shift 0",
    "91 %, the convolutional one": "convnet.yaml --trainer.max_epochs 2",
}


def run(way: str, seed: int, data_dir: str) -> tuple[float, float]:
    """Return the seconds of a fit and its test accuracy."""
    config, *options = way.split()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run(
            [
                *(sys.executable, "-m", "fashion_lightning", "fit"),
                *("--config", f"configs/{config}", *options, "--seed_everything", str(seed)),
                *("--data.data_dir", data_dir, "--data.mirrors", "[]"),
                *("--trainer.default_root_dir", folder),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - started
        numbers = Path(folder) / "lightning_logs" / "version_0" / "report" / "metrics.json"
        return seconds, json.loads(numbers.read_text())["test_acc"]


def main() -> None:
    """Measure all ways."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data_dir")
    options = parser.parse_args()
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for seed in range(5):
        for name, way in WAYS.items():
            results[name].append(run(way, seed, options.data_dir))
    print("| test accuracy | `fit --config configs/...` | median, s | accuracies |")
    print("| --- | --- | --- | --- |")
    for name, values in results.items():
        seconds, accuracies = zip(*values, strict=True)
        reached = ", ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies)
        print(f"| {name} | `{WAYS[name]}` | {statistics.median(seconds):.1f} | {reached} % |")


if __name__ == "__main__":
    main()
