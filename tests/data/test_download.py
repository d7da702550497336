"""Faulty mirrors cost little time and never lead to a wrong file."""

import time
from pathlib import Path

import pytest
from support.faulty_mirror import FAULTS, mirror
from test_files import assert_official

from fashion_lightning.data import download, files


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all time limits."""
    monkeypatch.setattr(download, "_SILENCE_SECONDS", 0.25)
    monkeypatch.setattr(download, "_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(files, "_DOWNLOAD_SECONDS", 1.0)


def test_files_come_from_a_mirror_that_works(tmp_path: Path) -> None:
    with mirror() as url:
        assert f"FashionMNIST: downloaded from {url}, verified" in files.prepare(tmp_path, [url])
    assert_official(tmp_path)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("fault", FAULTS)
def test_the_packages_copy_replaces_a_faulty_mirror(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "endless":  # 47 MB can take longer than a second, with pauses.
        monkeypatch.setattr(files, "_DOWNLOAD_SECONDS", 45.0)
        monkeypatch.setattr(download, "_SILENCE_SECONDS", 5.0)
    with mirror(fault) as url:
        line = files.prepare(tmp_path, [url])
    assert line.startswith("FashionMNIST: the package's copy, verified, now in")
    assert f"({url}: " in line
    assert "\n" not in line
    assert FAULTS[fault] in line or fault == "wrong host name"
    assert_official(tmp_path)


@pytest.mark.usefixtures("hurried")
def test_the_next_mirror_replaces_a_faulty_one(tmp_path: Path) -> None:
    with mirror("slow drip") as slow, mirror("503") as busy, mirror() as good:
        line = files.prepare(tmp_path, [slow, "no url", busy, good])
    assert f"downloaded from {good}" in line
    assert all(f"{url}: " in line for url in (slow, "no url", busy))
    assert_official(tmp_path)


def test_a_broken_connection_is_retried(tmp_path: Path) -> None:
    with mirror("cut once") as url:
        assert "downloaded from" in files.prepare(tmp_path, [url])
    assert_official(tmp_path)


@pytest.mark.long
def test_faulty_mirrors_with_the_real_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With any fault, the data is there within 60 s."""
    with capsys.disabled():
        for fault in FAULTS:
            with mirror(fault) as url:
                started = time.monotonic()
                line = files.prepare(tmp_path / fault, [url])
                seconds = time.monotonic() - started
            print(f"\n{fault}: {seconds:.1f} s; {line}", end="")
            assert "the package's copy" in line
            assert_official(tmp_path / fault)
            assert seconds < 60
