"""Wall-clock time of the command that reaches 90 % or 91 % on the test set.

Each way is a `fit` of a config with fewer epochs, run with seeds 0 ... 4, each in a process of its
own and in turns. Prints a table in Markdown. Run it in the repository's folder as

    python tests/benchmarks/accuracy.py data

after any `fashion-lightning` command, which leaves the dataset's files in `data`.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from measuring import heading, row, run

WAYS = {
    "90 %, the tutorial's network": (
        "default.yaml --model.optimizer adamw --model.lr 0.0025 --trainer.max_epochs 12"
    ),
    "91 %, the tutorial's network": (
        "mlp-best.yaml --model.optimizer adamw --model.lr 0.0025 --model.weight_decay 0.1 "
        "--trainer.max_epochs 50 --data.shift 0"
    ),
    "91 %, the convolutional one": "convnet.yaml --trainer.max_epochs 2",
}


def fit(way: str, seed: int, data_dir: str) -> tuple[float, float]:
    """Return the seconds of a fit and its test accuracy."""
    config, *options = way.split()
    with tempfile.TemporaryDirectory() as folder:
        measured = run(
            [
                *(sys.executable, "-m", "fashion_lightning", "fit"),
                *("--config", f"configs/{config}", *options, "--seed_everything", str(seed)),
                *("--data.data_dir", data_dir, "--trainer.default_root_dir", folder),
            ]
        )
        numbers = Path(folder) / "lightning_logs" / "version_0" / "report" / "metrics.json"
        return measured.seconds, json.loads(numbers.read_text())["test_acc"]


def main() -> None:
    """Measure all ways."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data_dir")
    options = parser.parse_args()
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for seed in range(5):
        for name, way in WAYS.items():
            results[name].append(fit(way, seed, options.data_dir))
    heading("test accuracy", "`fit --config configs/...`", "median, s", "accuracies")
    for name, values in results.items():
        seconds, accuracies = zip(*values, strict=True)
        reached = ", ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies)
        row(name, f"`{WAYS[name]}`", f"{statistics.median(seconds):.1f}", f"{reached} %")


if __name__ == "__main__":
    main()
