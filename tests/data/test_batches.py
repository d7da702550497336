"""Data sets, samplers and loaders over images in memory."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    Subset,
    TensorDataset,
)
from torchvision.transforms import ToTensor

from fashion_lightning.data.batches import (
    Augmentation,
    ImageDataset,
    collate,
)
from fashion_lightning.data.foreign import AugmentedDataset, in_memory
from fashion_lightning.data.loaders import ResumableLoader
from fashion_lightning.data.sampling import ShuffledSampler, TurnsSampler
from fashion_lightning.data.split import split_indices

IMAGES = torch.randint(1, 256, (103, 28, 28), dtype=torch.uint8)
FLOAT_IMAGES = torch.stack([ToTensor()(image.numpy()) for image in IMAGES])
LABELS = torch.arange(103)  # each image's number, so that a test recognises it


def evaluation(batch_size: int, **arguments: Any) -> DataLoader[Any]:
    dataset = ImageDataset([IMAGES, LABELS])
    sampler = TurnsSampler(dataset, batch_size, **arguments)
    return DataLoader(dataset, batch_size, sampler=sampler, collate_fn=collate)


def training(
    batch_size: int, seed: int = 0, num_images: int = 103, num_workers: int = 0, **arguments: Any
) -> ResumableLoader:
    flip, shift = arguments.get("horizontal_flip", 0), arguments.get("shift", 0)
    augmentation = Augmentation(bool(flip), shift)
    dataset = ImageDataset([IMAGES[:num_images], LABELS[:num_images]], augmentation)
    sampler = ShuffledSampler(dataset, batch_size, seed=seed, **arguments)
    return ResumableLoader(
        dataset,
        batch_size,
        sampler=sampler,
        drop_last=True,
        collate_fn=collate,
        num_workers=num_workers,
    )


def numbers(loader: DataLoader[Any]) -> list[int]:
    """Run through one epoch and tell which images came, in which order."""
    return [number for _, labels in loader for number in labels.tolist()]


def set_epoch(loader: DataLoader[Any], epoch: int) -> None:
    assert isinstance(loader.sampler, ShuffledSampler)
    loader.sampler.set_epoch(epoch)


def test_evaluation_serves_every_image_once_in_order() -> None:
    loader = evaluation(25)
    served = list(loader)
    assert len(loader) == len(served) == 5
    images, labels = (torch.cat(parts) for parts in zip(*served, strict=True))
    assert torch.equal(labels, LABELS)
    assert torch.equal(images, FLOAT_IMAGES)
    assert numbers(loader) == numbers(loader)


def test_training_serves_full_batches_of_different_images() -> None:
    loader = training(25)
    served = list(loader)
    assert len(loader) == len(served) == 4
    for images, labels in served:
        assert images.shape == (25, 1, 28, 28)
        assert torch.equal(images, FLOAT_IMAGES[labels])
    assert len(set(numbers(loader))) == 100


def test_each_epoch_has_its_own_order() -> None:
    loader = training(103)
    orders = [numbers(loader) for _ in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert sorted(orders[2]) == LABELS.tolist()


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    orders = {}
    for seed in (0, 1):
        loader = training(10, seed)
        for epoch in (0, 1):
            torch.manual_seed(epoch)  # must not matter
            orders[seed, epoch] = numbers(loader)
            again = training(10, seed)
            set_epoch(again, epoch)
            assert numbers(again) == orders[seed, epoch]
    assert len({tuple(order) for order in orders.values()}) == 4


def test_the_default_device_does_not_matter() -> None:
    """Scripts set it to a GPU; the images and their order are drawn on the CPU all the same."""
    labels = torch.arange(103) % 10
    arguments: dict[str, Any] = {"horizontal_flip": 0.5, "shift": 1}
    loader, again = training(10, **arguments), training(10, **arguments)
    with torch.device("meta"):
        split = split_indices(labels, 20, seed=0)
        order = [*again.sampler]
    assert all(map(torch.equal, split, split_indices(labels, 20, seed=0)))
    assert order == [*loader.sampler]


def test_augmentation_is_flips_and_shifts_of_each_image_by_itself() -> None:
    ((images, labels),) = list(training(103, horizontal_flip=0.5, shift=2))
    found = set()
    for image, label in zip(images, labels, strict=True):
        original = FLOAT_IMAGES[label]
        candidates: dict[tuple[bool, int, int], Tensor] = {
            (flip, down, right): tv.affine(
                tv.horizontal_flip(original) if flip else original,
                angle=0,
                translate=[right, down],
                scale=1,
                shear=[0, 0],
            )
            for flip in (False, True)
            for down in range(-2, 3)
            for right in range(-2, 3)
        }
        (match,) = [key for key, value in candidates.items() if torch.equal(value, image)]
        found.add(match)
    assert {flip for flip, _, _ in found} == {False, True}
    assert {down for _, down, _ in found} == {right for _, _, right in found} == {-2, -1, 0, 1, 2}


def test_a_flip_probability_of_one_mirrors_all() -> None:
    ((images, labels),) = list(training(103, horizontal_flip=1))
    assert torch.equal(images, FLOAT_IMAGES[labels].flip(-1))


def test_augmentation_does_not_depend_on_the_batch_size() -> None:
    def epoch(batch_size: int) -> Tensor:
        loader = training(batch_size, 3, num_images=100, horizontal_flip=0.5, shift=2)
        return torch.cat([images for images, _ in loader])

    assert torch.equal(epoch(10), epoch(50))


class ToTensors(Dataset[Any]):
    """A user's data set, sample by sample."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return FLOAT_IMAGES[index], int(LABELS[index])


def test_a_foreign_data_set_is_augmented_alike() -> None:
    """Sample by sample it comes to the same images as all at once."""
    augmentation = Augmentation(horizontal_flip=True, shift=2)
    theirs = AugmentedDataset(ToTensors(), augmentation)
    sampler = ShuffledSampler(theirs, 20, seed=4, horizontal_flip=0.5, shift=2)
    loader = ResumableLoader(theirs, 20, sampler=sampler, drop_last=True, collate_fn=collate)
    for ours, other in zip(training(20, 4, horizontal_flip=0.5, shift=2), loader, strict=True):
        assert torch.equal(ours[0], other[0])
        assert torch.equal(ours[1], other[1])
    assert len(theirs) == len([*theirs]) == 103  # type: ignore[misc]
    assert torch.equal(theirs[7][0], FLOAT_IMAGES[7])


@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("trains", [False, True])
def test_processes_share_the_batches_of_one(world_size: int, trains: bool) -> None:
    def all_batches(loader: DataLoader[Any]) -> list[list[int]]:
        batches = [labels.tolist() for _, labels in loader]
        assert len(batches) == len(loader)
        return batches

    new = training if trains else evaluation
    shares = [all_batches(new(5, rank=r, num_replicas=world_size)) for r in range(world_size)]
    alone = all_batches(new(5))
    dealt = [alone[rank::world_size] for rank in range(world_size)]
    if trains:  # every process takes part in every step
        steps = len(LABELS) // (5 * world_size)
        assert shares == [share[:steps] for share in dealt]
    else:
        assert shares == dealt


def test_a_process_without_a_batch_gets_an_empty_one() -> None:
    loader = evaluation(60, rank=2, num_replicas=3)
    ((images, labels),) = list(loader)
    assert len(loader) == 1
    assert images.shape == (0, 1, 28, 28)
    assert len(labels) == 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_iterators_are_independent(num_workers: int) -> None:
    loader, whole = (training(10, 5, num_workers=n, shift=1) for n in (num_workers, 0))
    expected = list(whole)
    for number, (images, labels) in enumerate(loader):
        assert torch.equal(images, expected[number][0])
        assert torch.equal(labels, expected[number][1])
        if number in (1, 4):
            next(iter(loader))
        if number == 2:
            list(loader)
    assert number == len(loader) - 1


def test_a_set_epoch_stays_whoever_looks_into_it() -> None:
    """As Lightning drives it: a look before, or inside, the epoch moves nothing."""
    loader, other = training(10, 5), training(10, 5)
    expected = [numbers(other), numbers(other)]
    for epoch in (0, 1):
        set_epoch(loader, epoch)
        next(iter(loader))
        assert numbers(loader) == expected[epoch]
        next(iter(loader))


def test_batches_are_memory_of_their_own() -> None:
    dataset = ImageDataset([IMAGES.clone(), LABELS.clone()])
    loader = DataLoader(dataset, 50, collate_fn=collate)
    for batch in loader:
        batch[0].zero_()
        batch[1] += 1000  # a list, into which a hook can also put other labels
    assert torch.equal(torch.cat([labels for _, labels in loader]), LABELS)
    assert torch.equal(torch.cat([images for images, _ in loader]), FLOAT_IMAGES)


def test_iterating_draws_no_global_random_numbers() -> None:
    loader = training(10)
    loader.generator = torch.Generator()  # as the datamodule does
    state = torch.get_rng_state()
    list(loader)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_data_set_is_one_of_images_to_everybody_else() -> None:
    """Other samplers, subsets and collate functions find samples as torchvision's ToTensor."""
    dataset = training(10, horizontal_flip=0.5, shift=1).dataset
    assert isinstance(dataset, ImageDataset)
    assert len(dataset) == len([*dataset]) == 103  # type: ignore[misc]
    for index in (0, 5, -1):
        image, label = dataset[index]
        assert torch.equal(image, FLOAT_IMAGES[index])
        assert label == LABELS[index]
    for outside in (103, -104):
        with pytest.raises(IndexError):
            dataset[outside]
    for several in ([3, -1], torch.tensor([3, -1]), slice(3, 103, 99)):
        images, labels = dataset[several]
        assert torch.equal(images, FLOAT_IMAGES[[3, -1]])
        assert labels.tolist() == [3, 102]
    ((images, _),) = DataLoader(Subset(dataset, [-1]), 4)
    assert torch.equal(images, FLOAT_IMAGES[-1:])
    others: list[Any] = [
        dataset,
        Subset(dataset, range(100)),
        ConcatDataset([dataset, dataset]),
    ]
    for other in others:
        images, labels = next(iter(DataLoader(other, 4)))
        assert torch.equal(images, FLOAT_IMAGES[:4])
        assert torch.equal(labels, LABELS[:4])


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (3, 20, 30)])
def test_images_of_any_shape_become_floats_once(shape: tuple[int, ...], kind: torch.dtype) -> None:
    images = (255 * torch.rand(12, *shape)).to(torch.uint8)
    expected = images.float() / 255
    given = images if kind == torch.uint8 else expected
    dataset = ImageDataset([given, torch.arange(12)], Augmentation(True, 1))
    image, _ = dataset[3]
    assert torch.equal(image, expected[3].reshape(-1, *shape[-2:]))


def test_tensors_in_memory_are_found_behind_subsets_only() -> None:
    tensors = TensorDataset(IMAGES, LABELS)
    index = [5, 3, 99]
    nested = Subset(Subset(tensors, [*range(102, -1, -1)]), [102 - i for i in index])
    found = in_memory(nested)
    assert found is not None
    assert torch.equal(found[1], torch.tensor(index))

    class Transformed(TensorDataset):
        """A user's data set that does more than to index tensors."""

    assert in_memory(Transformed(IMAGES, LABELS)) is None
    assert in_memory(ToTensors()) is None


def test_an_epoch_continues_where_its_state_was_taken() -> None:
    def new(seed: int) -> ResumableLoader:
        return training(10, seed, horizontal_flip=0.5, shift=1)

    uninterrupted = new(5)
    whole = [images for _ in range(2) for images, _ in uninterrupted]
    interrupted = new(5)
    iterator = iter(interrupted)
    for _ in range(4):
        next(iterator)
    resumed = new(9)  # another seed: the state brings its own
    resumed.load_state_dict(interrupted.state_dict())
    assert resumed.state_dict() == interrupted.state_dict()
    rest = [images for _ in range(2) for images, _ in resumed]
    assert torch.equal(torch.cat(rest), torch.cat(whole[4:]))


def test_after_a_finished_epoch_comes_the_next() -> None:
    finished = training(10, 5)
    list(finished)
    resumed = training(10, 5)
    resumed.load_state_dict(finished.state_dict())
    assert numbers(resumed) == numbers(finished)


def test_an_epoch_that_a_trainer_cut_short_is_over_when_it_says_so() -> None:
    loader, whole = (training(10, 5) for _ in range(2))
    next(iter(loader))
    resumed = training(10, 5)
    resumed.load_state_dict(loader.state_dict())
    for epoch, start in ((0, 10), (1, 0)):  # epoch 0 is the running one: it continues
        set_epoch(resumed, epoch)
        assert numbers(resumed) == numbers(whole)[start:]


def test_an_epoch_continues_with_other_batches_only_if_they_begin_there() -> None:
    one = training(20, 5)
    iterator = iter(one)
    next(iterator), next(iterator)
    state = one.state_dict()
    first, second = (training(10, 5, rank=rank, num_replicas=2) for rank in (0, 1))
    for share in (first, second):
        share.load_state_dict(state)
    assert [*numbers(first)[:10], *numbers(second)[:10]] == next(iterator)[1].tolist()
    with pytest.raises(ValueError, match=r"begin after 40 images, .*, but got 30"):
        training(30, 5).load_state_dict(state)


def test_a_loader_is_everything_that_tools_look_for() -> None:
    loader = training(10, shift=1)
    assert isinstance(loader, DataLoader)
    assert isinstance(loader.sampler, DistributedSampler)  # Nobody puts another in its place.
    assert len(loader.dataset) == 103  # type: ignore[arg-type]
    assert loader.batch_size == 10
    for twin in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert numbers(twin) == numbers(copy.deepcopy(loader))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "Expected `batch_size` to be an int >= 1, but got 0"),
        ({"batch_size": 104}, r"at most 103 \(103 training images, 1 process\)"),
        ({"batch_size": 60, "num_replicas": 2}, r"at most 51 .*2 processes.* got 60"),
        ({"batch_size": 1, "horizontal_flip": 1.5}, "`horizontal_flip` to be in .* got 1.5"),
        ({"batch_size": 1, "shift": 28}, "Expected `shift` to be an int in .* got 28"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShuffledSampler(IMAGES, seed=0, **arguments)


def test_samples_that_are_no_tensors_are_refused_in_one_sentence() -> None:
    from PIL import Image

    class Pictures(Dataset[Any]):
        def __getitem__(self, index: int) -> Any:
            return Image.new("L", (28, 28)), 0

        def __len__(self) -> int:
            return 4

    with pytest.raises(ValueError, match=r"Expected the samples .* `transform=.*ToTensor\(\)`"):
        next(iter(DataLoader(Pictures(), 2, collate_fn=collate)))
    with pytest.raises(ValueError, match=r"begin with an image tensor .* but got Image"):
        AugmentedDataset(Pictures(), Augmentation(True, 0)).__getitems__([5])
