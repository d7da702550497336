"""The four files, from every possible source, and never a wrong one."""

import gzip
import shutil
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from support import FORKS
from support.faulty_mirror import PACKAGED, mirror
from torchvision.datasets import FashionMNIST

from fashion_lightning import CLASSES
from fashion_lightning.data import files

RAW = Path("FashionMNIST") / "raw"
UNPACKED = {path.stem: gzip.decompress(path.read_bytes()) for path in PACKAGED.glob("*.gz")}


def assert_official(data_dir: Path) -> None:
    """Compare the files with the package's copy, unpacked by Python's gzip."""
    for name, content in UNPACKED.items():
        assert (data_dir / RAW / name).read_bytes() == content


def test_files_come_from_the_packages_copy(tmp_path: Path) -> None:
    assert "the package's copy" in files.prepare(tmp_path, mirrors=[])
    assert_official(tmp_path)
    assert {path.name for path in (tmp_path / RAW).iterdir()} == {*UNPACKED}


def test_existing_files_are_not_rewritten(tmp_path: Path) -> None:
    files.prepare(tmp_path, mirrors=[])
    times = [path.stat().st_mtime_ns for path in (tmp_path / RAW).iterdir()]
    assert "verified files in" in files.prepare(tmp_path)
    assert times == [path.stat().st_mtime_ns for path in (tmp_path / RAW).iterdir()]


def test_existing_packed_files_are_unpacked(tmp_path: Path) -> None:
    shutil.copytree(PACKAGED, tmp_path / RAW)
    assert "unpacked from .gz files" in files.prepare(tmp_path, mirrors=["http://127.0.0.1:9/"])
    assert_official(tmp_path)


@pytest.mark.parametrize("train", [True, False])
def test_torchvision_reads_the_same(data_dir: Path, train: bool) -> None:
    theirs = FashionMNIST(data_dir, train=train, download=True)  # It downloads nothing.
    images, labels = files.load(data_dir, train=train)
    assert torch.equal(images, theirs.data)
    assert torch.equal(labels, theirs.targets)
    assert list(CLASSES) == theirs.classes


def damage(path: Path, kind: str, random: Random) -> None:
    """Damage a file as crashes, bad disks, captive portals and attackers do."""
    content = bytearray(path.read_bytes())
    if kind == "cut":
        content = content[: random.randrange(len(content))]
    elif kind == "flipped bit":
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    elif kind == "zeros":  # as a file system leaves a file that it did not finish
        content[random.randrange(len(content)) :] = b""
        content += bytes(path.stat().st_size - len(content))
    elif kind == "longer":
        content += bytes(random.randrange(1, 1000))
    elif kind == "another":
        others = sorted({*path.parent.iterdir()} - {path})
        content = bytearray(random.choice(others).read_bytes())
    elif kind == "web page":
        content = bytearray(b"<html>Log in</html>")
    elif kind == "gzip bomb":  # a gigabyte if fully unpacked
        content = bytearray(gzip.compress(gzip.compress(bytes(1 << 20)) * 1000))
    elif kind == "empty":
        content = bytearray()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "gone":
        path.write_bytes(content)


DAMAGES = (
    *("cut", "flipped bit", "zeros", "longer", "another", "web page", "gzip bomb", "empty"),
    *("folder", "gone"),
)


def damage_and_repair(data_dir: Path, kind: str, random: Random) -> str:
    """Damage one of the eight files, unpacked or packed; wrong data must never be read."""
    shutil.copytree(PACKAGED, data_dir / RAW)
    (data_dir / RAW / "LICENSE").unlink()
    if unpacked := random.random() < 0.7:
        files.prepare(data_dir, mirrors=[])
    name = random.choice(sorted(UNPACKED)) + (".gz" if not unpacked else "")
    damage(data_dir / RAW / name, kind, random)
    if "images" in name:
        for train in (True, False):
            images, labels = files.load(data_dir, train=train)
            content = UNPACKED[f"{'train' if train else 't10k'}-images-idx3-ubyte"]
            assert images.numpy().tobytes() == content[16:]
            assert labels.bincount().tolist() == [6000 if train else 1000] * 10
    line = files.prepare(data_dir, mirrors=[])
    if kind == "folder" and unpacked:  # A folder may hold anything, so it is not deleted.
        assert "the package's copy, since" in line
    else:
        assert_official(data_dir)
        is_replaced = unpacked and kind not in ("gone", "folder")
        assert (f"replaced damaged {name}" in line) == is_replaced
    shutil.rmtree(data_dir)
    return f"{kind} {name}: {line}"


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_files_are_replaced(tmp_path: Path, kind: str) -> None:
    damage_and_repair(tmp_path / "data", kind, Random(f"{kind} 1"))


@pytest.mark.long
def test_many_damaged_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = Random(0)
    kinds = [kind for kind in DAMAGES for _ in range(25)]
    lines = [damage_and_repair(tmp_path / "data", kind, random) for kind in kinds]
    repaired = sum("replaced damaged" in line for line in lines)
    with capsys.disabled():
        print(f"\n{len(lines)} damaged files: {repaired} replaced, ", end="")
        print(f"{sum('since' in line for line in lines)} refused, the others written anew", end="")


def prepare_and_read(data_dir: Path, url: str, done: Any) -> None:
    """Do the work of one process of `prepare_together`."""
    line = files.prepare(data_dir, [url])
    assert_official(data_dir)
    done.put(line)


def prepare_together(data_dir: Path, num_processes: int, kill_after: float) -> list[str]:
    """Prepare the same empty folder in several processes, and kill the one that holds the lock."""
    done: Any = FORKS.Queue()
    with mirror(seconds=1.0) as url:
        processes = [
            FORKS.Process(target=prepare_and_read, args=(data_dir, url, done))
            for _ in range(num_processes)
        ]
        for process in processes:
            process.start()
        time.sleep(kill_after)
        # Usually the first one holds the lock; sometimes one that waits is killed.
        processes[0].kill()
        for process in processes:
            process.join(60)
    codes = [process.exitcode for process in processes]
    assert codes[1:] == [0] * (num_processes - 1)
    assert_official(data_dir)
    leftovers = {path.name for path in (data_dir / RAW).iterdir()} - {*UNPACKED}
    assert not leftovers
    return [done.get(timeout=10) for code in codes if code == 0]


def test_several_processes_prepare_one_folder(tmp_path: Path) -> None:
    lines = prepare_together(tmp_path, num_processes=3, kill_after=0.7)
    assert sum("downloaded from" in line for line in lines) == 1


@pytest.mark.long
def test_eight_processes_prepare_one_folder_ten_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = Random(0)
    with capsys.disabled():
        for number in range(10):
            after = random.uniform(0.0, 2.5)
            lines = prepare_together(tmp_path / str(number), num_processes=8, kill_after=after)
            print(f"\nround {number}, killed after {after:.1f} s: {len(lines)} fine", end="")


def test_without_write_permission_the_packages_copy_is_read(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file in place of the folder")
    line = files.prepare(tmp_path / "data", mirrors=[])
    assert "the package's copy" in line
    assert "cannot be written" in line
    images, labels = files.load(tmp_path / "data", train=False)
    assert images.shape == (10_000, 28, 28)
    assert labels.bincount().tolist() == [1000] * 10


def test_the_datas_licence_is_beside_it() -> None:
    assert "Zalando SE" in (PACKAGED / "LICENSE").read_text()
