from pathlib import Path
from random import Random
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from sklearn.model_selection import StratifiedShuffleSplit
from torch import Tensor
from torchvision import transforms
from torchvision.datasets import FashionMNIST

from fashion_lightning import FashionMNISTClassifier, FashionMNISTDataModule
from fashion_lightning.data.split import split_indices


def ready(data_dir: Path, stage: str, **arguments: Any) -> FashionMNISTDataModule:
    datamodule = FashionMNISTDataModule(data_dir, mirrors=[], **arguments)
    datamodule.prepare_data()
    datamodule.setup(stage)
    return datamodule


def joined(batches: Any) -> tuple[Tensor, Tensor]:
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return images, labels


@pytest.fixture(scope="module")
def official(data_dir: Path) -> dict[bool, FashionMNIST]:
    """What torchvision makes of the same files."""
    return {
        train: FashionMNIST(data_dir, train=train, transform=transforms.ToTensor())
        for train in (True, False)
    }


def as_floats(dataset: FashionMNIST) -> Tensor:
    """Return all images as its `ToTensor` makes them, which takes longer."""
    images: Tensor = dataset.data / 255
    some = torch.stack([dataset[number][0].squeeze(0) for number in range(100)])
    assert torch.equal(some, images[:100])
    return images


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_the_test_set_is_torchvisions(
    data_dir: Path, stage: str, official: dict[bool, FashionMNIST]
) -> None:
    loader = getattr(ready(data_dir, stage, eval_batch_size=300), f"{stage}_dataloader")()
    images, labels = joined(loader)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert torch.equal(images.squeeze(1), as_floats(official[False]))
    assert torch.equal(labels, official[False].targets)


def test_training_and_validation_are_torchvisions_training_set(
    data_dir: Path, official: dict[bool, FashionMNIST]
) -> None:
    datamodule = ready(data_dir, "fit", horizontal_flip=0)
    train, train_labels = joined(datamodule.train_dataloader())
    val, val_labels = joined(datamodule.val_dataloader())
    assert (len(train), len(val)) == (55_000, 5_000)
    both = torch.cat([train, val]).flatten(1)
    theirs = as_floats(official[True]).flatten(1)

    # The same 60,000 images with the same labels, in another order: compare them by a fingerprint.
    weights = torch.rand(784, dtype=torch.float64)
    ours, order = (both.double() @ weights).sort()
    expected, their_order = (theirs.double() @ weights).sort()
    assert torch.allclose(ours, expected, rtol=0, atol=1e-9)
    labels = torch.cat([train_labels, val_labels])
    assert torch.equal(labels[order], official[True].targets[their_order])


def test_training_and_evaluation_have_batch_sizes_of_their_own(data_dir: Path) -> None:
    datamodule = ready(data_dir, "fit", batch_size=64, eval_batch_size=300, val_size=1000)
    assert len(datamodule.train_dataloader()) == 59_000 // 64
    assert len(next(iter(datamodule.train_dataloader()))[1]) == 64
    sizes = [len(labels) for _, labels in datamodule.val_dataloader()]
    assert sizes == [300, 300, 300, 100]
    loader = ready(data_dir, "test", eval_batch_size=3000).test_dataloader()
    assert [len(labels) for _, labels in loader] == [3000, 3000, 3000, 1000]


def test_validate_alone_serves_the_same_split(data_dir: Path) -> None:
    fit, validate = ready(data_dir, "fit"), ready(data_dir, "validate")
    for ours, theirs in zip(fit.val_set.tensors, validate.val_set.tensors, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("val_size", [0, 10, 4999, 5000, 59_999])
def test_the_split_is_complete_and_stratified(val_size: int, data_dir: Path) -> None:
    labels = FashionMNIST(data_dir).targets
    train, val = split_indices(labels, val_size, seed=0)
    assert len(val) == val_size
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(60_000))
    counts = labels[val].bincount(minlength=10)
    assert counts.max() - counts.min() <= 1
    if 10 <= val_size < 59_990:  # scikit-learn, too, gives each class its share to within one
        splitter = StratifiedShuffleSplit(1, test_size=val_size, random_state=0)
        ((_, theirs),) = splitter.split(labels, labels)
        assert (labels[theirs].bincount(minlength=10) - counts).abs().max() <= 1


def test_the_split_follows_its_seed_alone(data_dir: Path) -> None:
    labels = FashionMNIST(data_dir).targets
    torch.manual_seed(1)
    first = split_indices(labels, 5000, seed=7)[1]
    torch.manual_seed(2)
    assert torch.equal(first, split_indices(labels, 5000, seed=7)[1])
    assert not torch.equal(first, split_indices(labels, 5000, seed=8)[1])


def test_the_split_stays_what_it_is(data_dir: Path) -> None:
    """Another one would put images that earlier checkpoints were trained on among the held out."""
    labels = FashionMNIST(data_dir).targets.tolist()
    random = Random(0)
    keys = [random.random() for _ in labels]
    members: dict[int, list[int]] = {label: [] for label in range(10)}
    for index in sorted(range(60_000), key=keys.__getitem__):
        members[labels[index]].append(index)
    val = sorted(index for indices in members.values() for index in indices[:500])
    assert split_indices(torch.tensor(labels), 5000, seed=0)[1].tolist() == val


def test_another_global_seed_has_the_same_split(data_dir: Path) -> None:
    digests = set()
    for seed in (0, 1):
        pl.seed_everything(seed)
        digests.add(ready(data_dir, "fit").state_dict()["split_digest"])
    assert len(digests) == 1


def test_without_a_validation_split_all_60000_images_train(data_dir: Path) -> None:
    datamodule = ready(data_dir, "fit", val_size=0, batch_size=500)
    assert len(datamodule.train_dataloader()) == 120
    assert datamodule.val_dataloader() == []


def test_the_training_order_follows_the_global_seed(data_dir: Path) -> None:
    def first_labels(seed: int) -> list[int]:
        pl.seed_everything(seed)
        labels: list[int] = next(iter(ready(data_dir, "fit").train_dataloader()))[1].tolist()
        return labels

    assert first_labels(0) == first_labels(0)
    assert first_labels(0) != first_labels(1)


class Few(FashionMNISTDataModule):
    """A thousand training images."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        images, labels = self.train_set.tensors
        self.train_set.tensors = images[:1000], labels[:1000]


@pytest.mark.parametrize(
    ("flip", "shift", "averages"), [(0.5, 1, False), (0, 2, True), (0.3, 0, False), (0.5, 1, True)]
)
def test_a_teachers_answers_are_for_the_images_as_they_are(
    flip: float, shift: int, averages: bool, trained: Path, data_dir: Path, tmp_path: Path
) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    content["hyper_parameters"]["flip_averaging"] = averages
    teacher = tmp_path / "teacher.ckpt"
    torch.save(content, teacher)
    datamodule = Few(
        data_dir, mirrors=[], teacher=teacher, horizontal_flip=flip, shift=shift, batch_size=250
    )
    assert datamodule.hparams["teacher"] == str(teacher)
    datamodule.setup("fit")
    classifier = FashionMNISTClassifier.load_from_checkpoint(teacher).eval()
    loader = datamodule.train_dataloader()
    for batch in [*loader, *loader]:  # two epochs
        assert batch["labels"].shape == (250,)
        with torch.no_grad():
            expected = classifier(batch["images"])
        assert torch.allclose(batch["teacher_logits"], expected, atol=1e-5)
    assert all(len(batch) == 2 for batch in datamodule.val_dataloader())


def test_augmentation_is_for_training_only(data_dir: Path) -> None:
    plain = ready(data_dir, "fit", horizontal_flip=0)
    augmented = ready(data_dir, "fit", horizontal_flip=1, shift=3)
    plain_val, augmented_val = (joined(each.val_dataloader())[0] for each in (plain, augmented))
    assert torch.equal(plain_val, augmented_val)
    pl.seed_everything(0)
    plain_images, plain_labels = next(iter(plain.train_dataloader()))
    images, labels = next(iter(augmented.train_dataloader()))
    assert torch.equal(labels, plain_labels)  # the same images ...
    assert not torch.equal(images, plain_images)  # ... but flipped and moved


def test_prepare_data_says_where_the_data_is_from(
    data_dir: Path, said: pytest.LogCaptureFixture
) -> None:
    FashionMNISTDataModule(data_dir, mirrors=[]).prepare_data()
    assert "verified files in" in said.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "Expected `batch_size` to be an int >= 1, but got 0"),
        ({"eval_batch_size": 0}, "Expected `eval_batch_size` to be an int >= 1, but got 0"),
        ({"batch_size": 55_001}, "`batch_size` to be at most the 55000 .* got 55001"),
        ({"val_size": -1}, "Expected `val_size` to be .* got -1"),
        ({"val_size": 60_000}, "Expected `val_size` to be .* got 60000"),
        ({"horizontal_flip": -0.1}, "Expected `horizontal_flip` to be .* got -0.1"),
        ({"shift": -1}, "Expected `shift` to be .* got -1"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FashionMNISTDataModule(**arguments)


def test_a_checkpoint_of_another_split_warns(data_dir: Path) -> None:
    recorded = FashionMNISTDataModule(data_dir, val_size=4000)
    recorded.setup("fit")
    state = recorded.state_dict()
    assert len(state["split_digest"]) == 64
    for val_size, split_seed in ((5000, 0), (4000, 1)):
        for stage in ("validate", "test"):
            datamodule = FashionMNISTDataModule(data_dir, val_size=val_size, split_seed=split_seed)
            datamodule.setup(stage)
            with pytest.warns(UserWarning, match="another split .* images leak"):
                datamodule.load_state_dict(state)
    same = FashionMNISTDataModule(data_dir, val_size=4000)
    for stage in ("test", "validate"):
        same.setup(stage)
        same.load_state_dict(state)  # Warnings are errors here.
    with pytest.warns(UserWarning, match="images leak"):
        same.load_state_dict(state | {"split_digest": "0" * 64})


def test_a_loader_made_before_its_processes_is_shared_by_them(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a Trainer or Fabric starts them later."""
    loader = ready(data_dir, "fit", horizontal_flip=0).train_dataloader()
    assert len(loader) == 110
    indices: list[int] = []
    for rank in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(torch.distributed, "is_initialized", lambda: True)
            patch.setattr(torch.distributed, "get_world_size", lambda: 2)
            patch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
            loader.sampler.set_epoch(0)  # type: ignore[attr-defined]
            assert len(loader) == 55
            indices += loader.sampler
    assert len(indices) == len({*indices}) == 55_000


def test_a_loader_before_setup_is_refused(data_dir: Path) -> None:
    datamodule = FashionMNISTDataModule(data_dir)
    for name in ("train", "val", "test", "predict"):
        with pytest.raises(ValueError, match="`dataset` to be loaded by `setup`"):
            getattr(datamodule, f"{name}_dataloader")()
