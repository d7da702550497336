"""How fast fit, test and predict are, compared with other ways to do the same.

Each way (`contenders.py`) has a process of its own, so that no setting of one of them affects
another. They take turns on the same data; a ratio is the median of the rounds' ratios, so that a
slow minute of the machine hardly moves it. Prints tables in Markdown. Run it as

    python tests/benchmarks/speed.py data

after any `fashion-lightning` command, which leaves the dataset's files in `data`; `--help` lists
the options. To see what one of the tricks in `fashion_lightning/speed.py` saves:

    python tests/benchmarks/speed.py data --without NAME
"""

import argparse
import platform
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import lightning
import torch
from contenders import DEVICE, EPOCHS, FULL, NATIVE, Contender
from measuring import heading, row
from torch.utils.data import DataLoader

from fashion_lightning import speed
from fashion_lightning.data.loaders import ResumableLoader
from fashion_lightning.speed import LeanModule, NoProfiler, SteadyProgressBar

TRICKS: dict[str, Callable[[], None]] = {
    "hook_names": lambda: delattr(LeanModule, "__setattr__"),
    "zero_grad": lambda: delattr(LeanModule, "optimizer_zero_grad"),
    "no_profiler": lambda: delattr(NoProfiler, "profile"),
    "steady_bar": lambda: delattr(SteadyProgressBar, "_should_update"),
    "search_no_driver": lambda: setattr(speed, "search_no_driver", lambda: None),
    "keep_freed_memory": lambda: setattr(speed, "keep_freed_memory", lambda: None),
    "flush_tiny_states": lambda: setattr(speed, "flush_tiny_states", lambda _: None),
    "whole_batches": lambda: setattr(
        ResumableLoader, "_batches", lambda self, _: DataLoader.__iter__(self)
    ),
}
"""How each trick of `fashion_lightning.speed` is switched off in this process."""

Way = partial[Any]  # of a method of `Contender`, with all its arguments


@cache
def contender(data_dir: str, folder: str) -> Contender:
    """Return the contender of this process."""
    return Contender(data_dir, folder)


def go(way: Way, data_dir: str, folder: str) -> Any:
    """Take a turn, in the process of a contender."""
    return way(contender(data_dir, folder))


def switch_off(trick: str | None) -> None:
    """Switch one trick off in this process."""
    if trick:
        TRICKS[trick]()


class Contest:
    """Processes that take turns, one for each method of `Contender`."""

    def __init__(self, data_dir: str, folder: str, rounds: int) -> None:
        self.where = data_dir, folder
        self.rounds = rounds
        self.processes: dict[str, ProcessPoolExecutor] = {}

    def interleave(self, ways: dict[str, Way], rounds: int) -> dict[str, list[Any]]:
        """Run all ways in turn, `rounds` times, after one turn of each that is not counted."""
        seconds: dict[str, list[Any]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, way in ways.items():
                process = self.processes.setdefault(
                    way.func.__name__, ProcessPoolExecutor(1, get_context("spawn"))
                )
                taken = process.submit(go, way, *self.where).result()
                if number:
                    seconds[name].append(taken)
        return seconds

    def fit(self, batch_sizes: list[int]) -> None:
        """Compare training, epoch by epoch."""
        heading(
            "fit, batch size", "precision", "ours, s per epoch", "ours / by hand",
            "ours / by hand, tuned", "ours / Lightning alone", "ours / usual (32-true)",
            "ours / matrix products",
        )  # fmt: skip
        precisions = list(dict.fromkeys((FULL, NATIVE)))
        methods = {
            "by hand": Contender.by_hand,
            "tuned": Contender.by_hand_tuned,
            "alone": Contender.alone,
            "ours": Contender.ours,
            "products": Contender.matrix_products,
        }
        for size in batch_sizes:
            ways = {"usual": partial(Contender.usual, batch_size=size)}
            for kind in precisions:
                for name, method in methods.items():
                    ways[f"{name} {kind}"] = partial(method, batch_size=size, precision=kind)
            seconds = self.interleave(ways, self.rounds)
            for kind in precisions:
                ours = seconds[f"ours {kind}"]
                names = ("by hand", "tuned", "alone", "usual", "products")
                others = [name if name == "usual" else f"{name} {kind}" for name in names]
                ratios = (ratio(ours, seconds[other]) for other in others)
                row(size, kind, f"{statistics.median(ours):.2f}", *ratios)

    def evaluate(self, batch_sizes: list[int]) -> None:
        """Compare test, predict, and predict with its table."""
        heading(
            "10,000 images, batch size", "stage", "ours, ms", "ours / bare loop",
            "ours / bare loop of floats", "whole call, ms",
        )  # fmt: skip
        stages = {"test": "test, with its report", "predict": "predict", "table": "predict to CSV"}
        for size in batch_sizes:
            ways: dict[str, Way] = {
                stage: partial(Contender.evaluate, stage=stage, batch_size=size) for stage in stages
            }
            ways["bare"] = partial(Contender.bare_loop, batch_size=size)
            ways["floats"] = partial(Contender.bare_loop_of_floats, batch_size=size)
            seconds = self.interleave(ways, 3 * self.rounds)  # Each takes 0.1 s.
            for stage, title in stages.items():
                loops, calls = zip(*seconds[stage], strict=True)
                ours, whole = (f"{statistics.median(taken) * 1000:.0f}" for taken in (loops, calls))
                ratios = (ratio(loops, seconds[other]) for other in ("bare", "floats"))
                row(size, title, ours, *ratios, whole)

    def without(self, tricks: list[str], batch_sizes: list[int], hidden_features: int) -> None:
        """Compare our fit with itself without single tricks, each in a process of its own."""
        heading(
            "without", "batch size", "precision", "s per epoch", "with it, s per epoch",
            "throughput, with / without", "of all rounds",
        )  # fmt: skip
        sides = [None, *tricks]
        context = get_context("spawn")
        processes = {side: ProcessPoolExecutor(1, context, switch_off, (side,)) for side in sides}
        for size in batch_sizes:
            for kind in dict.fromkeys((FULL, NATIVE)):
                width = f"--model.network.init_args.hidden_features={hidden_features}"
                more = ["--model.network=fashion_lightning.MLP", width]
                way = partial(Contender.ours, batch_size=size, precision=kind, more=more)
                seconds: dict[str | None, list[float]] = {side: [] for side in sides}
                for number in range(self.rounds + 1):
                    for side in sides if number % 2 == 0 else sides[::-1]:
                        taken = processes[side].submit(go, way, *self.where).result()
                        if number:
                            seconds[side].append(taken)
                ours = seconds[None]
                for trick in tricks:
                    ratios = sorted(b / a for a, b in zip(ours, seconds[trick], strict=True))
                    medians = (statistics.median(taken) for taken in (seconds[trick], ours))
                    row(
                        trick, size, kind, *(f"{median:.3f}" for median in medians),
                        f"{statistics.median(ratios):.3f}", f"{ratios[0]:.3f} ... {ratios[-1]:.3f}",
                    )  # fmt: skip
        for process in processes.values():
            process.shutdown()

    def growth(self) -> None:
        """Show how the cost of training grows with images, epochs and width."""
        heading("grows with", "value", "s per epoch", "s in all", "µs per image")
        steps = "--trainer.limit_train_batches={}"
        width = "--model.network.init_args.hidden_features={}"
        mlp = "--model.network=fashion_lightning.MLP"
        sizes = (7_500, 15_000, 30_000, 60_000)
        grid = [
            *(("images", n, [steps.format(n // 500)], EPOCHS) for n in sizes),
            *(("epochs", n, [], n) for n in (1, 2, 4, 8)),
            *(("hidden features", n, [mlp, width.format(n)], EPOCHS) for n in (128, 512, 2048)),
        ]
        ways = {
            f"{what} {n}": partial(
                Contender.ours, batch_size=500, precision=NATIVE, more=more, epochs=epochs
            )
            for what, n, more, epochs in grid
        }
        seconds = self.interleave(ways, self.rounds)
        for what, n, _, epochs in grid:
            epoch = statistics.median(seconds[f"{what} {n}"])
            images = n if what == "images" else 60_000
            row(what, n, f"{epoch:.3f}", f"{epoch * epochs:.2f}", f"{epoch / images * 1e6:.1f}")


def ratio(ours: Sequence[float], other: Sequence[float]) -> str:
    """Return our throughput divided by the other's, as text."""
    return f"{statistics.median(b / a for a, b in zip(ours, other, strict=True)):.2f}"


def machine() -> str:
    """Return the hardware and the versions behind the numbers."""
    if DEVICE.type == "cuda":
        name = torch.cuda.get_device_name()
    else:
        models = [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ] if Path("/proc/cpuinfo").exists() else []  # fmt: skip
        name = f"{torch.get_num_threads()} threads on {(models or [platform.processor()])[0]}"
    return (
        f"{name} ({DEVICE.type}), Python {platform.python_version()}, torch {torch.__version__}, "
        f"lightning {lightning.__version__}"
    )


def main() -> None:
    """Measure what the command line selects."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[64, 256, 512, 2048])
    parser.add_argument("--eval_batch_sizes", type=int, nargs="+", default=[64, 256, 512, 2048])
    parser.add_argument("--parts", nargs="+", default=["fit", "evaluate", "growth"])
    parser.add_argument(
        "--without",
        nargs="+",
        choices=TRICKS,
        metavar="NAME",
        help=f"Only compare fit with and without: {', '.join(TRICKS)}.",
    )
    parser.add_argument(
        "--hidden_features",
        type=int,
        default=512,
        help="Width of the network with --without: 1 leaves little but the overhead of a step.",
    )
    options = parser.parse_args()
    print(f"{machine()}; {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(options.data_dir, folder, options.rounds)
        if options.without:
            contest.without(options.without, options.batch_sizes, options.hidden_features)
            return
        if "fit" in options.parts:
            contest.fit(options.batch_sizes)
        if "evaluate" in options.parts:
            contest.evaluate(options.eval_batch_sizes)
        if "growth" in options.parts:
            contest.growth()
        for process in contest.processes.values():
            process.shutdown()


if __name__ == "__main__":
    main()
