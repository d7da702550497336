from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor
from torchvision.transforms import ToTensor

from fashion_lightning.batches import Batches

IMAGES = torch.randint(1, 256, (103, 28, 28), dtype=torch.uint8)
FLOAT_IMAGES = torch.stack([ToTensor()(image.numpy()) for image in IMAGES])
LABELS = torch.arange(103)  # each image's number, so that a test recognises it


def numbers(batches: Batches) -> list[int]:
    """Run through one epoch and tell which images came, in which order."""
    return [number for _, labels in batches for number in labels.tolist()]


def test_evaluation_serves_every_image_once_in_order() -> None:
    batches = Batches(IMAGES, LABELS, batch_size=25)
    served = list(batches)
    assert len(batches) == len(served) == 5
    images, labels = (torch.cat(parts) for parts in zip(*served, strict=True))
    assert torch.equal(labels, LABELS)
    assert torch.equal(images, FLOAT_IMAGES)
    assert numbers(batches) == numbers(batches)


def test_training_serves_full_batches_of_different_images() -> None:
    batches = Batches(IMAGES, LABELS, batch_size=25, seed=0)
    served = list(batches)
    assert len(batches) == len(served) == 4
    for images, labels in served:
        assert images.shape == (25, 1, 28, 28)
        assert torch.equal(images, FLOAT_IMAGES[labels])
    assert len(set(numbers(batches))) == 100


def test_each_epoch_has_its_own_order() -> None:
    batches = Batches(IMAGES, LABELS, batch_size=103, seed=0)
    orders = [numbers(batches) for _ in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert sorted(orders[2]) == LABELS.tolist()


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    orders = {}
    for seed in (0, 1):
        batches = Batches(IMAGES, LABELS, batch_size=10, seed=seed)
        for epoch in (0, 1):
            torch.manual_seed(epoch)  # must not matter
            orders[seed, epoch] = numbers(batches)
            again = Batches(IMAGES, LABELS, batch_size=10, seed=seed)
            again.set_epoch(epoch)
            assert numbers(again) == orders[seed, epoch]
    assert len({tuple(order) for order in orders.values()}) == 4


def test_augmentation_is_flips_and_shifts_of_each_image_by_itself() -> None:
    batches = Batches(IMAGES, LABELS, batch_size=103, seed=0, horizontal_flip=0.5, shift=2)
    ((images, labels),) = list(batches)
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
    batches = Batches(IMAGES, LABELS, batch_size=103, seed=0, horizontal_flip=1)
    ((images, labels),) = list(batches)
    assert torch.equal(images, FLOAT_IMAGES[labels].flip(-1))


def test_augmentation_does_not_depend_on_the_batch_size() -> None:
    def epoch(batch_size: int) -> Tensor:
        batches = Batches(
            IMAGES[:100], LABELS[:100], batch_size=batch_size, seed=3, horizontal_flip=0.5, shift=2
        )
        return torch.cat([images for images, _ in batches])

    assert torch.equal(epoch(10), epoch(50))


@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("seed", [None, 0])
def test_processes_share_the_batches_of_one(world_size: int, seed: int | None) -> None:
    def all_batches(batches: Batches) -> list[list[int]]:
        return [labels.tolist() for _, labels in batches]

    shares = [
        all_batches(Batches(IMAGES, LABELS, batch_size=5, seed=seed, rank=r, world_size=world_size))
        for r in range(world_size)
    ]
    alone = all_batches(Batches(IMAGES, LABELS, batch_size=5, seed=seed))
    dealt = [alone[rank::world_size] for rank in range(world_size)]
    if seed is None:
        assert shares == dealt
    else:  # every process takes part in every step
        steps = len(LABELS) // (5 * world_size)
        assert shares == [share[:steps] for share in dealt]


def test_an_epoch_continues_where_its_state_was_taken() -> None:
    def new(seed: int) -> Batches:
        return Batches(IMAGES, LABELS, batch_size=10, seed=seed, horizontal_flip=0.5, shift=1)

    uninterrupted = new(5)
    whole = [images for _ in range(2) for images, _ in uninterrupted]
    interrupted = new(5)
    iterator = iter(interrupted)
    for _ in range(4):
        next(iterator)
    resumed = new(9)  # another seed: the state brings its own
    resumed.load_state_dict(interrupted.state_dict())
    rest = [images for _ in range(2) for images, _ in resumed]
    assert torch.equal(torch.cat(rest), torch.cat(whole[4:]))


def test_after_a_finished_epoch_comes_the_next() -> None:
    finished = Batches(IMAGES, LABELS, batch_size=10, seed=5)
    list(finished)
    resumed = Batches(IMAGES, LABELS, batch_size=10, seed=5)
    resumed.load_state_dict(finished.state_dict())
    assert numbers(resumed) == numbers(finished)


def test_an_epoch_that_a_trainer_cut_short_is_over_when_it_says_so() -> None:
    batches, whole = (Batches(IMAGES, LABELS, batch_size=10, seed=5) for _ in range(2))
    next(iter(batches))
    resumed = Batches(IMAGES, LABELS, batch_size=10, seed=5)
    resumed.load_state_dict(batches.state_dict())
    for epoch, start in ((0, 10), (1, 0)):  # epoch 0 is the running one: it continues
        resumed.set_epoch(epoch)
        assert numbers(resumed) == numbers(whole)[start:]


def test_an_epoch_continues_with_other_batches_only_if_they_begin_there() -> None:
    one = Batches(IMAGES, LABELS, batch_size=20, seed=5)
    iterator = iter(one)
    next(iterator), next(iterator)
    state = one.state_dict()
    first, second = (
        Batches(IMAGES, LABELS, batch_size=10, seed=5, rank=rank, world_size=2) for rank in (0, 1)
    )
    for share in (first, second):
        share.load_state_dict(state)
    assert [*numbers(first)[:10], *numbers(second)[:10]] == next(iterator)[1].tolist()
    with pytest.raises(ValueError, match=r"begin after 40 images, .*, but got 30"):
        Batches(IMAGES, LABELS, batch_size=30, seed=5).load_state_dict(state)


def test_loops_of_the_tutorial_find_the_size_of_the_dataset() -> None:
    assert len(Batches(IMAGES, LABELS, batch_size=10).dataset) == 103


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "Expected `batch_size` to be an int >= 1, but got 0"),
        ({"batch_size": 104, "seed": 0}, r"at most 103 \(103 training images, 1 process\)"),
        ({"batch_size": 60, "seed": 0, "world_size": 2}, r"at most 51 .*2 processes.* got 60"),
        ({"batch_size": 1, "horizontal_flip": 1.5}, "`horizontal_flip` to be in .* got 1.5"),
        ({"batch_size": 1, "shift": 28}, "Expected `shift` to be an int in .* got 28"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batches(IMAGES, LABELS, **arguments)
