"""The LightningDataModule: owns FashionMNIST's download, split and batching for all four stages."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset
from typing_extensions import override

from fashion_lightning.arguments import expect
from fashion_lightning.checkpoints.reading import SPLIT
from fashion_lightning.data import files
from fashion_lightning.data.batches import (
    Augmentation,
    AugmentedDataset,
    ImageDataset,
    ResumableLoader,
    ShuffledSampler,
    TurnsSampler,
    collate,
    in_memory,
)
from fashion_lightning.module import FashionMNISTClassifier
from fashion_lightning.teacher import teacher_logits


def split_indices(labels: Tensor, val_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw a stratified validation split, the same on every machine.

    Args:
        labels: Class numbers, ``(N,)``.
        val_size: Images in the validation split. Each class gets its share, to within one image.
        seed: The only source of randomness. Python documents that `random.Random(seed).random()`
            gives the same numbers in every version; PyTorch and NumPy promise no such thing.

    Returns:
        Indices of the training and of the validation images, each in ascending order.
    """
    random = Random(seed)
    keys = torch.tensor([random.random() for _ in range(len(labels))], dtype=torch.float64)
    place = torch.empty_like(keys)  # of an image within its class, as a fraction
    for label in set(labels.tolist()):
        members = (labels == label).nonzero().squeeze(1)
        shuffled = members[keys[members].argsort()]
        place[shuffled] = torch.arange(len(members), dtype=torch.float64) / len(members)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[place.argsort(stable=True)[:val_size]] = True
    return (~chosen).nonzero().squeeze(1), chosen.nonzero().squeeze(1)


def split_digest(val: Tensor) -> str:
    """Return a checksum of the indices of a validation split, which checkpoints record."""
    return hashlib.sha256(val.numpy().tobytes()).hexdigest()


class FashionMNISTDataModule(LightningDataModule):
    """FashionMNIST, split 55,000 / 5,000 / 10,000, from memory.

    All loaders are `torch.utils.data.DataLoader`s of ``[images float32 (B, 1, 28, 28) in [0, 1],
    labels int64 (B,)]``; each iteration is independent of the others. Training batches are shuffled
    and augmented anew each epoch, from the global seed (`seed_everything`, `torch.manual_seed`);
    validation, test and predict batches hold every image in the dataset's order. The predict stage
    serves the test images, or photographs (`images`) as `fashion_lightning.photos.PhotoBatch`.

    A subclass may put other data sets in the place of `train_set`, `val_set` and `test_set`. Those
    in memory (`TensorDataset`, or a `Subset` of one) are moved to the trainer's device as a whole
    and cut into batches there; others are loaded like everybody's, sample by sample.

    Args:
        data_dir: Folder of the data, in torchvision's layout (``data_dir/FashionMNIST/raw``).
        batch_size: Images in a training batch, for each process (each device). A last incomplete
            batch is left out.
        eval_batch_size: Images in a batch of validation, test and predict. Nothing is left out.
        val_size: Images held out of the 60,000 for validation, with equal shares of the classes.
            0: train on all 60,000, with no validation.
        split_seed: What the validation split is drawn from; the global seed has no part in it.
        horizontal_flip: Probability that a training image is mirrored, in [0, 1].
        shift: Training images are moved by up to so many pixels in each direction, in 0 ... 27.
        teacher: Checkpoint of a trained `FashionMNISTClassifier`, or ``pretrained:convnet``, which
            comes with this package. Training batches are dicts then, of ``images``, ``labels`` and
            ``teacher_logits``: its calibrated logits, ``(B, num_classes)``, for the images as they
            are augmented. It predicts when training begins, all views that augmentation can make:
            twice ``(2 * shift + 1) ** 2`` for each image, each kept in 40 bytes.
        num_workers: Processes that load batches, >= 0. Images in memory need none: 0 is fastest.
        pin_memory: Whether batches lie in page-locked memory. With it, or with workers, images stay
            in main memory, and Lightning moves each batch to the device.
        pad_evaluation: How several processes share validation and test. False: each image once;
            some processes may have one batch fewer, which `FashionMNISTClassifier` expects, while
            a module that synchronizes in each step waits for ever. True: PyTorch's own
            `DistributedSampler`, with equally many images for each, of which the last repeat the
            first. None: False under the steps of `FashionMNISTClassifier`, True under others.
        mirrors: Base URLs from which missing files are downloaded, in this order. None: they are
            taken from the copy in the package, and downloaded only if it was built without.
            ``[]``: the network is left alone.
        images: What the predict stage serves instead of the test images: a photograph (PNG, JPEG,
            WebP, BMP, TIFF or GIF), or a folder of them and of folders.
        preview: Where `fashion-lightning predict` draws the first photographs, what the network
            sees of them, and its answers: a PNG file.

    Raises:
        FileNotFoundError: If there is nothing at `images`.
        ValueError: If an argument is out of its range, or `images` is a folder without images.

    Example:
        >>> from fashion_lightning import FashionMNISTDataModule
        >>> datamodule = FashionMNISTDataModule(eval_batch_size=64)
        >>> datamodule.prepare_data()
        >>> datamodule.setup("test")
        >>> images, labels = next(iter(datamodule.test_dataloader()))
        >>> images.shape, labels.shape
        (torch.Size([64, 1, 28, 28]), torch.Size([64]))
    """

    # Data sets. `setup` makes them a `TensorDataset` of uint8 images ``(N, 28, 28)`` and labels.
    train_set: Any
    val_set: Any
    test_set: Any

    def __init__(
        self,
        data_dir: str | Path = "data",
        *,
        batch_size: int = 500,
        eval_batch_size: int = 250,
        val_size: int = 5000,
        split_seed: int = 0,
        horizontal_flip: float = 0.15,
        shift: int = 0,
        teacher: str | Path | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        pad_evaluation: bool | None = None,
        mirrors: Sequence[str] | None = None,
        images: str | Path | None = None,
        preview: str | Path | None = None,
    ) -> None:
        super().__init__()
        expect(batch_size >= 1, "batch_size", "an int >= 1", batch_size)
        expect(eval_batch_size >= 1, "eval_batch_size", "an int >= 1", eval_batch_size)
        expect(num_workers >= 0, "num_workers", "an int >= 0", num_workers)
        expect(0 <= val_size < 60_000, "val_size", "an int in 0 ... 59999", val_size)
        expect(0 <= horizontal_flip <= 1, "horizontal_flip", "in [0, 1]", horizontal_flip)
        expect(0 <= shift <= 27, "shift", "an int in 0 ... 27", shift)
        for mirror in mirrors or ():
            expect(mirror.startswith(("http://", "https://")), "mirrors", "base URLs", mirror)
        expect(
            batch_size <= 60_000 - val_size,
            "batch_size",
            f"at most the {60_000 - val_size} training images",
            batch_size,
        )
        expect(
            preview is None or images is not None,
            "preview",
            "given together with `images`",
            preview,
        )
        # Where the files are says nothing about a model: a checkpoint does not keep it.
        self.save_hyperparameters(ignore=["data_dir", "teacher", "mirrors", "images", "preview"])
        self.save_hyperparameters({"teacher": teacher and str(teacher)})  # Plain values only.
        self.data_dir = data_dir
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.split_seed = split_seed
        self.horizontal_flip = horizontal_flip
        self.shift = shift
        self.teacher = teacher and str(teacher)
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.pad_evaluation = pad_evaluation
        self.mirrors = mirrors
        self.preview = preview
        self._photos = _find_images(images)
        self._split_digest: str | None = None  # known once `setup` has read the training images
        self._interrupted: dict[str, Any] | None = None  # state of an epoch that is to go on

    @override
    def prepare_data(self) -> None:
        """Bring verified files into `data_dir`, and say in one line where they came from."""
        if self._photos and self.trainer and self.trainer.state.fn == TrainerFn.PREDICTING:
            return  # Photographs need none of them.
        rank_zero_info(files.prepare(self.data_dir, self.mirrors))

    @override
    def setup(self, stage: str) -> None:
        """Load what a stage needs.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.
        """
        if stage in ("fit", "validate"):
            images, labels = files.load(self.data_dir, train=True)
            train, val = split_indices(labels, self.val_size, self.split_seed)
            self._split_digest = split_digest(val)
            self.train_set = TensorDataset(images[train], labels[train])
            self.val_set = TensorDataset(images[val], labels[val])
        elif stage == "test" or not self._photos:
            self.test_set = TensorDataset(*files.load(self.data_dir, train=False))

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Serve the training images, shuffled and augmented; not so for `overfit_batches`.

        Raises:
            ValueError: If `train_set` is of a kind that cannot be augmented, or shown to a teacher.
        """
        trainer = self.trainer
        if trainer and trainer.overfit_batches:  # type: ignore[attr-defined]
            return self._loader(self.train_set, self.batch_size)  # The same few in every epoch.
        augmentation = Augmentation(bool(self.horizontal_flip), self.shift)
        if isinstance(self.train_set, IterableDataset):
            right = "0 with an IterableDataset, which has no order of its own to augment"
            expect(not self.horizontal_flip, "horizontal_flip", right, self.horizontal_flip)
            expect(not self.shift, "shift", right, self.shift)
            expect(self.teacher is None, "teacher", right.replace("0", "None"), self.teacher)
            return self._loader(self.train_set, self.batch_size)
        tensors = in_memory(self.train_set)
        dataset: Any = self.train_set
        if tensors:
            logits = None
            if self.teacher:
                logits = teacher_logits(
                    self.teacher,
                    tensors,
                    augmentation,
                    device=self._device(),
                    precision=trainer.precision_plugin if trainer else None,
                ).to(self._memory())
            tensors = tuple(tensor.to(self._memory()) for tensor in tensors)
            dataset = ImageDataset(tensors, augmentation, logits)
        else:
            expect(
                self.teacher is None,
                "teacher",
                "None unless `train_set` lies in memory",
                self.teacher,
            )
            if len(augmentation) > 1:
                dataset = AugmentedDataset(dataset, augmentation)
        # Processes that were seeded differently must still agree on the order.
        seed = torch.initial_seed()
        seed = trainer.strategy.broadcast(seed) if trainer else seed
        sampler = ShuffledSampler(
            dataset,
            self.batch_size,
            seed=seed,
            horizontal_flip=self.horizontal_flip,
            shift=self.shift,
            **self._share(),
        )
        loader = ResumableLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=True,
            **self._loading(seed),
        )
        if trainer:
            loader.place = self._place
        # Lightning keeps the state of loaders, too, but fails to restore it if a module has asked
        # for `estimated_stepping_batches`, as those with a schedule do.
        if self._interrupted:
            loader.load_state_dict(self._interrupted)
            self._interrupted = None
        return loader

    @override
    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Serve the validation images; an empty list if there are none."""
        if not isinstance(self.val_set, IterableDataset) and not len(self.val_set):
            return []
        return self._loader(self.val_set, self.eval_batch_size)

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        """Serve the official test images."""
        return self._loader(self.test_set, self.eval_batch_size)

    @override
    def predict_dataloader(self) -> DataLoader[Any]:
        """Serve the official test images, or the photographs that were named."""
        if not self._photos:
            return self._loader(self.test_set, self.eval_batch_size)
        from fashion_lightning.photos.conversion import (  # Most runs need no PIL.
            Photos,
            collate_photos,
        )

        photos = Photos(self._photos)
        options = {**self._loading(0), "collate_fn": collate_photos}
        sampler = self._turns(photos, self.eval_batch_size)
        return DataLoader(photos, batch_size=self.eval_batch_size, sampler=sampler, **options)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint records: the split, and where training stands in its epoch."""
        return {
            "split_seed": self.split_seed,
            "val_size": self.val_size,
            "split_digest": self._split_digest,
            "train": self._training_state(),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint records; warn if it was trained with another split."""
        if self.trainer and self.trainer.state.fn == TrainerFn.FITTING:
            self._interrupted = state_dict.get("train")
        own = (self.split_seed, self.val_size, self._split_digest)
        other = tuple(state_dict[name] for name in SPLIT)
        if other[:2] != own[:2] or (own[2] and other[2] != own[2]):
            rank_zero_warn(
                f"The checkpoint was trained with another split (split_seed={other[0]}, "
                f"val_size={other[1]}) than this one (split_seed={own[0]}, val_size={own[1]}): "
                "images leak, validation may hold what it was trained on."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: not the trainer."""
        return {**self.__dict__, "trainer": None}

    def _training_state(self) -> dict[str, Any] | None:
        """Return the state of the trainer's loader, if it is one of ours."""
        loader = self.trainer.train_dataloader if self.trainer else None
        return loader.state_dict() if isinstance(loader, ResumableLoader) else None

    def _place(self) -> tuple[int, int]:
        """Return the epoch in which the trainer is, and how many of its batches it has had."""
        assert self.trainer is not None
        loop: Any = self.trainer.fit_loop
        progress: Any = loop.epoch_progress.current
        is_inside = progress.started > progress.completed
        # Not those that have begun: Lightning does a batch again in which something went wrong.
        batches = loop.epoch_loop.batch_progress.current.processed
        return self.trainer.current_epoch, batches if is_inside else 0

    def _loader(self, dataset: Any, batch_size: int) -> DataLoader[Any]:
        """Serve a data set in order."""
        if isinstance(dataset, IterableDataset):
            return DataLoader(dataset, batch_size=batch_size, **self._loading(0))
        tensors = in_memory(dataset)
        if tensors:
            dataset = ImageDataset([tensor.to(self._memory()) for tensor in tensors])
        sampler = self._turns(dataset, batch_size)
        return DataLoader(dataset, batch_size=batch_size, sampler=sampler, **self._loading(0))

    def _turns(self, dataset: Any, batch_size: int) -> "DistributedSampler[Any] | None":
        """Return how several processes share a data set; None for one."""
        share = self._share()
        if share["num_replicas"] == 1 or (self.trainer and self.trainer.overfit_batches):  # type: ignore[attr-defined]
            return None
        pads, processes = self._pads(), share["num_replicas"]
        rank_zero_info(
            f"{processes} processes share {len(dataset):,} images: "
            + (f"equally many, up to {processes - 1} twice." if pads else "each once.")
        )
        if pads:
            return DistributedSampler(dataset, shuffle=False, **share)
        return TurnsSampler(dataset, batch_size, **share)

    def _pads(self) -> bool:
        trainer = self.trainer
        if trainer and trainer.predicting:
            return False  # As with Lightning's own sampler.
        if self.pad_evaluation is not None:
            return self.pad_evaluation
        if trainer is None:
            return True
        stage, module = "test" if trainer.testing else "validation", type(trainer.lightning_module)
        hooks = (f"{stage}_step", f"on_{stage}_batch_start", f"on_{stage}_batch_end")
        ours = FashionMNISTClassifier
        return any(getattr(module, name) is not getattr(ours, name) for name in hooks)

    def _loading(self, seed: int) -> dict[str, Any]:
        """Return how each loader loads."""
        return {
            "num_workers": self.num_workers,
            "pin_memory": self.pin_memory,
            "collate_fn": collate,
            # Otherwise each iteration draws from the global generator.
            "generator": torch.Generator().manual_seed(seed % 2**63),
        }

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _memory(self) -> torch.device:
        """Return where images in memory lie: on the device, unless workers or pages forbid it."""
        is_loaded = self.num_workers or self.pin_memory
        return torch.device("cpu") if is_loaded else self._device()

    def _share(self) -> dict[str, Any]:
        """Return which of the batches are this process's."""
        trainer = self.trainer
        if trainer:
            return {"rank": trainer.global_rank, "num_replicas": trainer.world_size}
        if dist.is_available() and dist.is_initialized():
            return {"rank": dist.get_rank(), "num_replicas": dist.get_world_size()}
        return {"rank": None, "num_replicas": 1}


def _find_images(path: str | Path | None) -> list[Path]:
    if path is None:
        return []
    from fashion_lightning.photos.conversion import find_images  # Most runs need no PIL.

    return find_images(path)
