"""DataLoaders over data sets of any kind: one that can continue inside an epoch, and a factory."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset
from typing_extensions import override

from fashion_lightning.arguments import expect
from fashion_lightning.data.batches import Augmentation, ImageDataset, collate
from fashion_lightning.data.foreign import AugmentedDataset, in_memory
from fashion_lightning.data.sampling import ShuffledSampler, TurnsSampler


class ResumableLoader(DataLoader[Any]):
    """A DataLoader with a `ShuffledSampler` that can continue inside an epoch.

    Its state is the position of its newest iterator, or `place()` if that is set. With another
    sampler, such as Lightning's, it is a plain DataLoader.

    Attributes:
        place: Returns the running epoch and how many of its batches this process has processed.
    """

    place: Callable[[], tuple[int, int]] | None = None
    _newest = (0, 0)

    @override
    def __iter__(self) -> Any:
        """Begin an epoch when its first batch is asked for."""
        sampler = self._shuffled
        if sampler is None:
            yield from super().__iter__()
            return
        epoch, skipped = sampler.epoch, sampler.batches_to_skip  # The sampler increments its epoch.
        for number, batch in enumerate(self._batches(sampler), skipped + 1):
            self._newest = epoch, number
            yield batch

    def _batches(self, sampler: ShuffledSampler) -> Iterator[Any]:
        is_plain = not self.num_workers and not self.pin_memory and self.collate_fn is collate
        if is_plain and isinstance(self.dataset, ImageDataset):
            # Without PyTorch's iterator, which takes 50 us per batch.
            return (self.dataset.take(index).batch() for index in sampler.batches())
        return super().__iter__()

    @property
    def _shuffled(self) -> ShuffledSampler | None:
        return self.sampler if isinstance(self.sampler, ShuffledSampler) else None

    def state_dict(self) -> dict[str, Any]:
        """Return seed, epoch and the number of its images that all processes have had."""
        sampler = self._shuffled
        if sampler is None:
            return {}
        epoch, batches = self.place() if self.place else self._newest
        images = batches * sampler.batch_size * sampler.num_replicas
        return {"seed": sampler.seed, "epoch": epoch, "images": images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken, also inside an epoch.

        Raises:
            ValueError: If no batch of this loader begins there.
        """
        sampler = self._shuffled
        if sampler is None or not state:
            return
        sampler.seed = state["seed"]
        sampler.start_at(state["epoch"], state["images"])
        self._newest = sampler.epoch, sampler.batches_to_skip


class LoaderFactory:
    """Makes the loaders of all stages, over data sets of any kind.

    Args:
        num_workers: As in `DataLoader`.
        pin_memory: As in `DataLoader`.
        trainer: Lightning's Trainer, which determines device and processes, or None.

    Attributes:
        device: Device of images in memory, unless workers or pinned memory keep them on the CPU.
        share: `rank` and `num_replicas`, as samplers take them.
    """

    def __init__(self, num_workers: int, pin_memory: bool, trainer: Any = None) -> None:
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.trainer = trainer
        self.device = trainer.strategy.root_device if trainer else torch.device("cpu")
        # None: whatever `torch.distributed` says when an epoch begins.
        self.share: dict[str, Any] = {"rank": None, "num_replicas": None}
        if trainer:
            self.share = {"rank": trainer.global_rank, "num_replicas": trainer.world_size}
        elif dist.is_available() and dist.is_initialized():
            self.share = {"rank": dist.get_rank(), "num_replicas": dist.get_world_size()}

    def training(
        self,
        dataset: Any,
        batch_size: int,
        *,
        horizontal_flip: float,
        shift: int,
        teach: Callable[..., Tensor] | None = None,
    ) -> DataLoader[Any]:
        """Return a loader of shuffled and augmented batches, drawn from the global seed.

        Args:
            dataset: Training images and labels.
            batch_size: Images in a batch of one process.
            horizontal_flip: Probability that an image is mirrored.
            shift: Largest shift of an image in each direction, in pixels.
            teach: Returns a teacher's logits of all views of images in memory, ``(N, views, C)``.

        Raises:
            ValueError: If `dataset` is of a kind that cannot be augmented.
        """
        _check_loaded(dataset)
        if self._overfits:
            return self.evaluation(dataset, batch_size)  # the same few batches in every epoch
        augmentation = Augmentation(bool(horizontal_flip), shift)
        if isinstance(dataset, IterableDataset):
            right = "0 with an IterableDataset, whose images have no index to augment by"
            expect(not horizontal_flip, "horizontal_flip", right, horizontal_flip)
            expect(not shift, "shift", right, shift)
            return self.evaluation(dataset, batch_size)
        tensors = in_memory(dataset)
        if tensors:
            precision = self.trainer.precision_plugin if self.trainer else None
            logits = None
            if teach:
                logits = teach(tensors, augmentation, device=self.device, precision=precision)
                logits = logits.to(self._memory)
            tensors = tuple(tensor.to(self._memory) for tensor in tensors)
            dataset = ImageDataset(tensors, augmentation, logits)
        elif len(augmentation) > 1:
            dataset = AugmentedDataset(dataset, augmentation)
        # Processes that were seeded differently must still agree on the order.
        seed = torch.initial_seed()
        seed = self.trainer.strategy.broadcast(seed) if self.trainer else seed
        draws: dict[str, Any] = {"seed": seed, "horizontal_flip": horizontal_flip, "shift": shift}
        sampler = ShuffledSampler(dataset, batch_size, **draws, **self.share)
        options = self._options(seed) | {"sampler": sampler, "drop_last": True}
        loader = ResumableLoader(dataset, batch_size=batch_size, **options)
        if self.trainer:
            loader.place = partial(_place, self.trainer)
        return loader

    def evaluation(
        self, dataset: Any, batch_size: int, *, pads: bool = False, **options: Any
    ) -> DataLoader[Any]:
        """Return a loader of a data set in its order.

        Args:
            dataset: Images and labels.
            batch_size: Images in a batch.
            pads: Whether several processes get equally many images, of which the last repeat the
                first. Otherwise each image comes once, see `TurnsSampler`.
            **options: Further options of the DataLoader.
        """
        _check_loaded(dataset)
        options = self._options(0) | options
        if isinstance(dataset, IterableDataset):
            return DataLoader(dataset, batch_size=batch_size, **options)
        tensors = in_memory(dataset)
        if tensors:
            dataset = ImageDataset([tensor.to(self._memory) for tensor in tensors])
        sampler: DistributedSampler[Any] | None = None
        processes = self.share["num_replicas"] or 1
        if processes > 1 and not self._overfits:
            rank_zero_info(
                f"{processes} processes share {len(dataset):,} images: "
                + (f"equally many, up to {processes - 1} twice." if pads else "each once.")
            )
            if pads:
                sampler = DistributedSampler(dataset, shuffle=False, **self.share)
            else:
                sampler = TurnsSampler(dataset, batch_size, **self.share)
        return DataLoader(dataset, batch_size=batch_size, sampler=sampler, **options)

    @property
    def _overfits(self) -> bool:
        return bool(self.trainer and self.trainer.overfit_batches)

    @property
    def _memory(self) -> torch.device:
        return torch.device("cpu") if self.num_workers or self.pin_memory else self.device

    def _options(self, seed: int) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "pin_memory": self.pin_memory,
            "collate_fn": collate,
            # Without a generator of its own, each iteration draws from the global one.
            "generator": _seeded(seed % 2**63),
        }


class _Generator(torch.Generator):
    """A generator that can be sent to spawned processes; PyTorch's own cannot (2.14)."""

    def __reduce__(self) -> Any:
        return _seeded, (self.initial_seed(),)


def _seeded(seed: int) -> torch.Generator:
    # PyTorch's iterators draw on the default device.
    return _Generator(torch.get_default_device()).manual_seed(seed)


def _check_loaded(dataset: Any) -> None:
    expect(dataset is not None, "dataset", "loaded by `setup` before its loader is made", dataset)


def running(trainer: Any) -> Any:
    """Return a trainer while it runs, else None."""
    return trainer if trainer and trainer.state.status == TrainerStatus.RUNNING else None


def _place(trainer: Any) -> tuple[int, int]:
    """Return the epoch in which a trainer is, and how many of its batches it has had."""
    loop = trainer.fit_loop
    progress = loop.epoch_progress.current
    is_inside = progress.started > progress.completed
    # Processed batches, not started ones: Lightning repeats a batch that raised.
    batches = loop.epoch_loop.batch_progress.current.processed
    return trainer.current_epoch, batches if is_inside else 0


def pads_evaluation(trainer: Any, choice: bool | None, ours: type) -> bool:
    """Return whether several processes get equally many images of validation and test.

    Args:
        trainer: Lightning's Trainer, or None.
        choice: The data module's `pad_evaluation`.
        ours: A class whose steps need no padding.
    """
    if trainer and trainer.predicting:
        return False  # Lightning's own sampler for predictions does not pad either.
    if trainer is None or choice is not None:
        return choice is not False
    stage, module = "test" if trainer.testing else "validation", type(trainer.lightning_module)
    hooks = (f"{stage}_step", f"on_{stage}_batch_start", f"on_{stage}_batch_end")
    return any(getattr(module, name) is not getattr(ours, name) for name in hooks)
