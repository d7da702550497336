import zipfile
from pathlib import Path

import pytest
import torch

from fashion_lightning.checkpoints.atomic_io import AtomicCheckpointIO


def test_a_checkpoint_is_written_into_a_new_folder_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "best.ckpt"
    for value in (1, 2):
        AtomicCheckpointIO().save_checkpoint({"value": torch.tensor(value)}, path)
        assert torch.load(path, weights_only=True)["value"] == value
    assert [entry.name for entry in path.parent.iterdir()] == ["best.ckpt"]


def test_a_failed_write_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best.ckpt"
    AtomicCheckpointIO().save_checkpoint({"value": 1}, path)

    def full_disk(self: Path, content: bytes) -> None:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint({"value": 2}, path)
    assert torch.load(path, weights_only=True) == {"value": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["best.ckpt"]


def test_a_checkpoint_from_a_gpu_is_read_without_one(tmp_path: Path) -> None:
    """The file says of its tensor that it was on a GPU which is not here."""
    here, gpu = tmp_path / "here.ckpt", tmp_path / "gpu.ckpt"
    AtomicCheckpointIO().save_checkpoint({"value": torch.arange(3)}, here)
    with zipfile.ZipFile(here) as old, zipfile.ZipFile(gpu, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                content = content.replace(b"X\3\0\0\0cpu", b"X\6\0\0\0cuda:9")
            new.writestr(name, content)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(gpu, weights_only=True)
    assert AtomicCheckpointIO().load_checkpoint(gpu)["value"].tolist() == [0, 1, 2]
