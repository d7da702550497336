"""Tables that are written batch by batch and merged: Parquet for names in .parquet, else CSV.

This file knows columns, not what they mean.
"""

import csv
import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fashion_lightning.arguments import installed
from fashion_lightning.atomic import replacing

Columns = dict[str, Tensor | list[str]]
"""Values by name, of the same length. Tensors have one dimension and lie on the CPU."""

# Small groups are slow to read. Dictionaries make a file of such numbers 40 % larger.
_PARQUET: dict[str, Any] = {"row_group_size": 10_000, "use_dictionary": False}


class CSVTable:
    """A CSV file that grows by batches of rows with the same columns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file)

    def write(self, columns: Columns) -> None:
        """Append rows."""
        if self._file.tell() == 0:
            self._rows.writerow(columns)
        self._rows.writerows(zip(*map(_texts, columns.values()), strict=True))

    def close(self) -> None:
        """Complete the file."""
        self._file.close()


def _texts(column: Tensor | list[str]) -> Iterable[Any]:
    if isinstance(column, list):
        return column
    values = column.tolist()
    # Nine digits identify every float32.
    return [f"{value:.9g}" for value in values] if column.is_floating_point() else values


class ParquetTable:
    """A Parquet file, kept in memory until it is closed: 56 MB per million rows of ten classes."""

    def __init__(self, path: Path) -> None:
        installed("pyarrow", "parquet", "a Parquet table")
        path.touch()  # Fails now, not after the last batch, if `path` cannot be written.
        self._path = path
        self._batches: list[Any] = []

    def write(self, columns: Columns) -> None:
        """Append rows."""
        import pyarrow as pa

        arrays = {
            name: pa.array(column, pa.string())  # Without rows, the type cannot be inferred.
            if isinstance(column, list)
            else pa.array(column.contiguous().numpy())
            for name, column in columns.items()
        }
        self._batches.append(pa.table(arrays))

    def close(self) -> None:
        """Write the file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._batches:
            pq.write_table(pa.concat_tables(self._batches), self._path, **_PARQUET)
        self._batches = []


Table = CSVTable | ParquetTable


def open_table(path: Path, ending: str) -> Table:
    """Begin a table in a new file: Parquet if `ending` is ``.parquet``, else CSV."""
    return ParquetTable(path) if ending == ".parquet" else CSVTable(path)


def merge_tables(
    parts: Sequence[Path], path: Path, keys: Sequence[str], in_order: bool = True
) -> None:
    """Merge tables into one, sorted by `keys`, and remove them.

    Args:
        parts: Files of `open_table`.
        path: The table, replaced atomically. Its ending is that of the parts.
        keys: Names of integer columns that identify a row. Of rows with the same, one is kept.
        in_order: Whether the rows of each part ascend by `keys`. If not, or for Parquet, all rows
            are read into memory.
    """
    with replacing(path) as new:
        if len(parts) == 1 and in_order:
            parts[0].replace(new)
        elif path.suffix == ".parquet":
            _merge_parquet(parts, new, keys)
        else:
            _merge_csv(parts, new, keys, in_order)
    for part in parts:
        part.unlink(missing_ok=True)


def _merge_parquet(parts: Sequence[Path], path: Path, keys: Sequence[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # The part of a process without a batch is an empty file.
    tables = [pq.read_table(part) for part in parts if part.stat().st_size]
    tables = tables or [pa.table({key: pa.array([], pa.int64()) for key in keys})]
    table = pa.concat_tables(tables).sort_by([(key, "ascending") for key in keys])
    columns = [table[key].to_numpy() for key in keys]
    is_new = np.ones(len(table), dtype=bool)
    is_new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    pq.write_table(table.filter(is_new), path, **_PARQUET)


def _merge_csv(parts: Sequence[Path], path: Path, keys: Sequence[str], in_order: bool) -> None:
    def rows(part: Path) -> Iterator[list[str]]:
        with part.open(newline="", encoding="utf-8") as file:
            yield from csv.reader(file)

    def key(row: list[str]) -> list[int]:
        return [int(row[place]) for place in places]

    tables: list[Iterable[list[str]]] = [rows(part) for part in parts]
    # The part of a process without a batch is an empty file.
    headers = [header for table in tables for header in [next(iter(table), None)] if header]
    places = [headers[0].index(name) for name in keys] if headers else []
    if not in_order:
        tables = [sorted(table, key=key) for table in tables]
    merged = heapq.merge(*tables, key=key)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows(headers[:1])
        writer.writerows(next(group) for _, group in groupby(merged, key))
