"""Drawn training data: repeatable, in range, and trained on by the command."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Command
from torch import Generator, Tensor

from fashion_lightning import FashionMNISTClassifier
from fashion_lightning.data import files
from fashion_lightning.photos.segmentation import UNet, load_unet
from fashion_lightning.scenes import DamagedDataModule, MaskModule, SceneDataModule
from fashion_lightning.scenes.composition import compose
from fashion_lightning.scenes.damage import damage
from fashion_lightning.scenes.packing import pack

CONFIGS = Path(__file__).parent.parent.parent / "configs"


@pytest.fixture(scope="module")
def batch(data_dir: Path) -> tuple[Tensor, Tensor]:
    images, labels = files.load(data_dir, train=True)
    return images[:48, None] / 255, labels[:48]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_scenes_show_the_garment_where_the_mask_is(batch: tuple[Tensor, Tensor]) -> None:
    pictures, masks = compose(*batch, 64, seeded())
    assert pictures.shape == (48, 3, 64, 64)
    assert masks.shape == (48, 1, 64, 64)
    for values in (pictures, masks):
        assert values.min() >= 0
        assert values.max() <= 1
    share = masks.mean((1, 2, 3))
    assert (share > 0.003).sum() > 40  # Some show no garment.
    assert 0.1 < share.mean() < 0.5
    again = compose(*batch, 64, seeded())
    assert torch.equal(pictures, again[0])
    assert torch.equal(masks, again[1])
    assert not torch.equal(pictures, compose(*batch, 64, seeded(1))[0])


def test_damaged_images_fill_the_box_like_the_dataset(batch: tuple[Tensor, Tensor]) -> None:
    damaged = damage(*batch, seeded())
    assert damaged.shape == (48, 1, 28, 28)
    assert damaged.min() >= 0
    assert damaged.max() <= 1
    seen = damaged > 0.1
    longest = torch.maximum(seen.any(2).sum(2), seen.any(3).sum(2))
    assert longest.float().mean() > 25
    assert torch.equal(damaged, damage(*batch, seeded()))


def test_test_images_are_never_damaged(data_dir: Path) -> None:
    datamodule = DamagedDataModule(data_dir)
    batch = [torch.rand(4, 1, 28, 28), torch.tensor([0, 2, 3, 7])]
    assert datamodule.on_after_batch_transfer(batch, 0) is batch


def test_each_scene_comes_twice(data_dir: Path, batch: tuple[Tensor, Tensor]) -> None:
    datamodule = SceneDataModule(data_dir)
    pictures, masks = datamodule.on_after_batch_transfer([*batch], 0)
    assert len(pictures) == len(masks) == 96
    assert torch.equal(masks[48:], masks[:48].flip(3))
    assert torch.equal(datamodule.on_after_batch_transfer([*batch], 0)[0], pictures)


@pytest.mark.parametrize(
    "arguments", [{"lr": 0}, {"warmup": 2}, {"beta2": 1}, {"weight_decay": -1}]
)
def test_the_mask_module_refuses_what_it_cannot_use(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"Expected `{next(iter(arguments))}` to be"):
        MaskModule(**arguments)


def fit(command: Command, config: str, root: Path, *options: str) -> Path:
    sys.argv = ["fashion-lightning"]
    short = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2")
    place = ("--trainer.limit_val_batches", "1", "--trainer.default_root_dir", str(root))
    command("fit", "--config", str(CONFIGS / config), *short, *place, *options)
    return root / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt"


def test_the_command_trains_the_mask_network(command: Command, tmp_path: Path) -> None:
    best = fit(command, "photos-mask.yaml", tmp_path, "--model.init_args.channels", "[8,16]")
    pack(best, tmp_path / "mask.safetensors")
    network = load_unet(tmp_path / "mask.safetensors")
    assert isinstance(network, UNet)
    assert network.init_args == {"channels": [8, 16]}
    trained = torch.load(best, weights_only=True)["state_dict"]["network.head.bias"]
    torch.testing.assert_close(network.head.bias, trained, atol=1e-3, rtol=1e-3)


def test_the_command_trains_the_network_for_damaged_images(
    command: Command, tmp_path: Path
) -> None:
    best = fit(command, "photos.yaml", tmp_path, "--test_after_fit", "false")
    pack(best, tmp_path / "photos.safetensors")
    whole = FashionMNISTClassifier.load_from_checkpoint(best).eval()
    packed = FashionMNISTClassifier.load_from_checkpoint(tmp_path / "photos.safetensors").eval()
    images = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(packed(images), whole(images), atol=0.05, rtol=0.05)
    assert (tmp_path / "photos.safetensors").stat().st_size < 260_000
    command("test", "--ckpt_path", str(best), "--trainer.limit_test_batches", "1")
