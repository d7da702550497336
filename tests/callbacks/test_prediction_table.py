"""Tables, read back by Python's csv and by pyarrow, and merged from several parts."""

import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from fashion_lightning.callbacks.prediction_table import Columns, merge_tables, open_table

ENDINGS = (".csv", ".parquet")


def rows(path: Path) -> list[dict[str, object]]:
    """The rows of a table, with numbers as numbers."""
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    with path.open(newline="") as file:
        return [
            {
                name: float(text)
                if name == "probability"
                else int(text)
                if name == "index"
                else text
                for name, text in row.items()
            }
            for row in csv.DictReader(file)
        ]


def columns(*indices: int) -> Columns:
    generator = torch.Generator().manual_seed(0)
    return {
        "index": torch.tensor(indices, dtype=torch.int64),
        "path": [f'a "b", {index}\n.png' for index in indices],
        "probability": torch.rand(1000, generator=generator)[list(indices)],
    }


def write(path: Path, ending: str, *batches: Columns) -> Path:
    table = open_table(path, ending)
    for batch in batches:
        table.write(batch)
    table.close()
    return path


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_value_comes_back(tmp_path: Path, ending: str) -> None:
    part = write(tmp_path / "part", ending, columns(0, 1), columns(), columns(2))
    merge_tables([part], tmp_path / f"table{ending}", keys=["index"])
    expected = columns(0, 1, 2)
    assert isinstance(expected["probability"], torch.Tensor)
    found = rows(tmp_path / f"table{ending}")
    assert [row["index"] for row in found] == [0, 1, 2]
    assert [row["path"] for row in found] == expected["path"]
    probability = torch.tensor([row["probability"] for row in found])
    assert torch.equal(probability, expected["probability"])
    assert [path.name for path in tmp_path.iterdir()] == [f"table{ending}"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_parts_of_several_processes_are_merged_in_order(tmp_path: Path, ending: str) -> None:
    parts = [
        write(tmp_path / "0", ending, columns(0, 1), columns(6, 7)),
        write(tmp_path / "1", ending, columns(2, 3), columns(8)),
        write(tmp_path / "2", ending, columns(4, 5)),
        write(tmp_path / "3", ending, columns()),
        write(tmp_path / "4", ending),
    ]
    merge_tables(parts, tmp_path / f"table{ending}", keys=["index"])
    whole = write(tmp_path / "whole", ending, columns(*range(9)))
    merge_tables([whole], tmp_path / f"whole{ending}", keys=["index"])
    assert rows(tmp_path / f"table{ending}") == rows(tmp_path / f"whole{ending}")
    assert len(rows(tmp_path / f"table{ending}")) == 9
    assert {path.suffix for path in tmp_path.iterdir()} == {ending}


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_out_of_order_are_sorted_and_repeated_ones_are_dropped(
    tmp_path: Path, ending: str
) -> None:
    parts = [
        write(tmp_path / "0", ending, columns(4, 0), columns(2)),
        write(tmp_path / "1", ending, columns(1, 3), columns(0)),
        write(tmp_path / "2", ending),
    ]
    merge_tables(parts, tmp_path / f"table{ending}", keys=["index"], in_order=False)
    whole = write(tmp_path / "whole", ending, columns(*range(5)))
    merge_tables([whole], tmp_path / f"whole{ending}", keys=["index"])
    assert rows(tmp_path / f"table{ending}") == rows(tmp_path / f"whole{ending}")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_table_without_rows_has_its_columns(tmp_path: Path, ending: str) -> None:
    merge_tables(
        [write(tmp_path / "0", ending, columns())], tmp_path / f"t{ending}", keys=["index"]
    )
    if ending == ".csv":
        assert (tmp_path / "t.csv").read_text().strip() == "index,path,probability"
    else:
        assert pq.read_schema(tmp_path / "t.parquet").names == ["index", "path", "probability"]


def test_many_small_batches_become_few_row_groups(tmp_path: Path) -> None:
    batch: Columns = {"index": torch.arange(1000)}
    write(tmp_path / "table", ".parquet", *[batch] * 25)
    assert pq.ParquetFile(tmp_path / "table").num_row_groups == 3


def test_a_path_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    for ending in ENDINGS:
        with pytest.raises(OSError, match="folder"):
            open_table(tmp_path / "no folder" / "table", ending)
