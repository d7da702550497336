"""Accuracy, calibration and doubt on a folder of photographs of one's own.

The folder holds a `labels.csv` with the columns `file`, `label` (for the confusion table) and
`accept` (the classes that count as right, separated by `|`). Run it as

    python tests/benchmarks/photos.py FOLDER [--sheet failures.png] [--without views]

`--without` leaves a part out, to see what it is worth; it can be repeated.
"""

import argparse
import csv
import statistics
import time
from collections import Counter
from math import sqrt
from pathlib import Path
from typing import Any, get_args

import torch
from measuring import heading, row
from PIL import Image, ImageDraw

from fashion_lightning import CLASSES
from fashion_lightning.photos import PhotoClassifier, PhotoResult, read_picture
from fashion_lightning.photos.classification import Part

TILE = 140  # pixels


def wilson(right: int, total: int) -> str:
    """Return a rate with its 95 % interval (Wilson 1927)."""
    if not total:
        return "none"
    z, p = 1.96, right / total
    centre, spread = p + z * z / (2 * total), z * sqrt(p * (1 - p) / total + (z / total) ** 2 / 4)
    low, high = ((centre + sign * spread) / (1 + z * z / total) for sign in (-1, 1))
    return f"{p:.3f} ({low:.3f} ... {high:.3f}), {right} of {total}"


def calibration_error(confidences: list[float], right: list[bool], bins: int = 15) -> float:
    """Return the expected calibration error in bins of equal width."""
    total = 0.0
    for number in range(bins):
        inside = [i for i, c in enumerate(confidences) if min(int(c * bins), bins - 1) == number]
        total += abs(sum(confidences[i] - right[i] for i in inside))
    return total / len(right)


def tile(path: Path, label: str, result: PhotoResult) -> Image.Image:
    """Return a photograph beside its mask and what the network saw."""
    picture = read_picture(path).convert("RGB")
    picture = picture.crop(result.region) if result.region else picture
    canvas = Image.new("RGB", (3 * TILE, TILE + 12))
    canvas.paste(picture.resize((TILE, TILE)), (0, 0))
    for place, image in enumerate((result.mask, result.seen), 1):
        if image is not None:
            small = Image.fromarray(image.numpy()).resize((TILE, TILE))
            canvas.paste(small, (place * TILE, 0))
    text = f"{label} > {result.class_name} {result.confidence:.2f} {path.name}"
    ImageDraw.Draw(canvas).text((2, TILE), text, fill="yellow")
    return canvas


def sheet(tiles: list[Image.Image], columns: int = 4) -> Image.Image:
    """Return tiles in rows."""
    width, height = tiles[0].size
    canvas = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height))
    for number, each in enumerate(tiles):
        canvas.paste(each, (number % columns * width, number // columns * height))
    return canvas


def main() -> None:
    """Classify the folder's photographs and print what was right."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--without", action="append", choices=get_args(Part), default=[])
    parser.add_argument("--checkpoint", help="for both paths; default: the package's networks")
    parser.add_argument("--sheet", type=Path, help="a PNG of the photographs that were wrong")
    options = parser.parse_args()
    with (options.folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    classifier = PhotoClassifier(options.checkpoint, without=options.without)
    results, seconds = [], []
    for each in rows:
        start = time.perf_counter()
        results.append(classifier(read_picture(options.folder / each["file"])))
        seconds.append(time.perf_counter() - start)
    right = [
        result.class_name in each["accept"].split("|")
        for each, result in zip(rows, results, strict=True)
    ]
    found = [number for number, result in enumerate(results) if result.prediction >= 0]
    sure = [number for number, result in enumerate(results) if result.sure]
    confidences = [results[number].confidence for number in found]
    print(f"accuracy                {wilson(sum(right), len(right))}")
    print(f"not found               {len(rows) - len(found)}")
    print(f"background              {dict(Counter(result.background for result in results))}")
    print(f"mean confidence         {statistics.mean(confidences):.3f}")
    print(
        f"ECE                     {calibration_error(confidences, [right[n] for n in found]):.3f}"
    )
    print(f"sure                    {wilson(len(sure), len(rows))}")
    print(f"accuracy where sure     {wilson(sum(right[n] for n in sure), len(sure))}")
    print(f"seconds per photograph  {statistics.median(seconds):.3f} (median)\n")
    _print_confusion(rows, results, right)
    wrong = [number for number, is_right in enumerate(right) if not is_right]
    if options.sheet and wrong:
        paths = [(options.folder / rows[n]["file"], rows[n]["label"], results[n]) for n in wrong]
        sheet([tile(*each) for each in paths]).save(options.sheet)


def _print_confusion(rows: list[dict[str, str]], results: list[Any], right: list[bool]) -> None:
    names = [*CLASSES, None]
    heading("label", "right", *(str(name)[:7] for name in names))
    for label in sorted({each["label"] for each in rows}):
        mine = [n for n, each in enumerate(rows) if each["label"] == label]
        counts = Counter(results[n].class_name for n in mine)
        cells = (str(counts[name] or "") for name in names)
        row(label, f"{sum(right[n] for n in mine)} of {len(mine)}", *cells)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
