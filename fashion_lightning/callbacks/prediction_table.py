"""Tables on the disk, written a batch at a time: Parquet if the name says so, else CSV.

This file knows of columns: not what they mean, and of no trainer.
"""

import csv
import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from fashion_lightning.atomic import replacing

Columns = dict[str, Tensor | list[str]]
"""Values by name, of the same length. Tensors have one dimension and lie on the CPU."""

_ROW_GROUP = 10_000  # Rows that Parquet packs at once: as few as a batch has are slow to read.


class Table(Protocol):
    """A file that grows by rows. All calls of `write` bring the same columns."""

    def write(self, columns: Columns) -> None:
        """Append rows."""

    def close(self) -> None:
        """Complete the file; nothing follows."""


def open_table(path: Path, ending: str) -> Table:
    """Begin a table.

    Args:
        path: The file.
        ending: ``.parquet``, or another for CSV.

    Raises:
        OSError: If the file cannot be written.
        ImportError: If Parquet is asked for, and pyarrow is not installed.
    """
    return _Parquet(path) if ending == ".parquet" else _CSV(path)


def merge_tables(
    parts: Sequence[Path], path: Path, keys: Sequence[str], in_order: bool = True
) -> None:
    """Make one table of several, which are gone afterwards; its rows ascend by `keys`.

    Args:
        parts: Files of `open_table`.
        path: The table, which gets its name when it is complete. Its ending says what it is.
        keys: Names of columns of ints, which identify a row.
        in_order: Whether the rows of each part ascend by `keys`. If not, all are read into memory,
            sorted, and rows that occur twice are left out.

    Raises:
        OSError: If the file cannot be written.
    """
    merge = _merge_parquet if path.suffix == ".parquet" else _merge_csv
    with replacing(path) as new:
        if len(parts) == 1 and in_order:
            parts[0].replace(new)
        else:
            merge(parts, new, keys, in_order)
    for part in parts:
        part.unlink(missing_ok=True)


class _CSV:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file)

    def write(self, columns: Columns) -> None:
        if self._file.tell() == 0:
            self._rows.writerow(columns)
        self._rows.writerows(zip(*map(_texts, columns.values()), strict=True))

    def close(self) -> None:
        self._file.close()


def _texts(column: Tensor | list[str]) -> Iterable[Any]:
    if isinstance(column, list):
        return column
    values = column.tolist()
    # Nine digits give back every float32 exactly.
    return [f"{value:.9g}" for value in values] if column.is_floating_point() else values


def _merged(tables: Sequence[Iterable[Any]], key: Any, in_order: bool) -> Iterable[Any]:
    if in_order:
        return heapq.merge(*tables, key=key)
    rows = {key(row): row for table in tables for row in table}
    return (rows[place] for place in sorted(rows))


def _merge_csv(parts: Sequence[Path], path: Path, keys: Sequence[str], in_order: bool) -> None:
    def rows(part: Path) -> Iterator[list[str]]:
        with part.open(newline="", encoding="utf-8") as file:
            yield from csv.reader(file)

    def value(row: Any) -> tuple[int, ...]:
        return tuple(int(row[place]) for place in places)

    tables = [rows(part) for part in parts]
    # The part of a process that had no batch is empty.
    names = [header for table in tables for header in [next(table, None)] if header]
    places = [names[0].index(key) for key in keys] if names else []
    with path.open("w", newline="", encoding="utf-8") as file:
        merged = csv.writer(file)
        merged.writerows(names[:1])
        merged.writerows(_merged(tables, value, in_order))


class _Parquet:
    def __init__(self, path: Path) -> None:
        require_parquet()
        path.touch()  # A name that cannot be written is refused now, and not after the first rows.
        self._path = path
        self._waiting: list[Any] = []
        self._num_waiting = 0
        self._writer: Any = None

    def write(self, columns: Columns) -> None:
        import pyarrow as pa

        arrays = {
            name: pa.array(column, pa.string())  # The type is also that of no texts at all.
            if isinstance(column, list)
            else pa.array(column.contiguous().numpy())
            for name, column in columns.items()
        }
        table = pa.table(arrays)
        self._waiting.append(table)
        self._num_waiting += len(table)
        if self._num_waiting >= _ROW_GROUP:
            self._flush()

    def close(self) -> None:
        if self._waiting:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.concat_tables(self._waiting)
        if self._writer is None:
            # Only texts repeat. A dictionary of numbers that all differ would be built in vain.
            texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
            self._writer = pq.ParquetWriter(self._path, table.schema, use_dictionary=texts)
        self._writer.write_table(table)
        self._waiting, self._num_waiting = [], 0


def _merge_parquet(parts: Sequence[Path], path: Path, keys: Sequence[str], in_order: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def rows(file: Any) -> Iterator[dict[str, Any]]:
        for batch in file.iter_batches():
            yield from batch.to_pylist()

    files = [pq.ParquetFile(part) for part in parts if part.stat().st_size]
    schema = files[0].schema_arrow if files else pa.schema([])
    tables = [rows(file) for file in files]
    merged = iter(_merged(tables, lambda row: tuple(int(row[key]) for key in keys), in_order))
    with pq.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(merged, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(chunk, schema))


def require_parquet() -> None:
    """Refuse to begin what pyarrow will be needed for.

    Raises:
        ImportError: If it is not installed; says how to install it.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Expected pyarrow to be installed for a Parquet table, but it is not: "
            "pip install 'fashion-lightning[parquet]'."
        ) from error
