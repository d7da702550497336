"""The LightningDataModule: owns FashionMNIST's download, split and batching for all four stages."""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import TensorDataset
from typing_extensions import override

from fashion_lightning import files
from fashion_lightning.batches import Batches, views
from fashion_lightning.checks import expect
from fashion_lightning.pretrained import resolve

if TYPE_CHECKING:
    from fashion_lightning.photos import Photos


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


class FashionMNISTDataModule(LightningDataModule):
    """FashionMNIST, split 55,000 / 5,000 / 10,000, as batches cut from tensors in memory.

    Batches are ``(images float32 (B, 1, 28, 28) in [0, 1], labels int64 (B,))``, already on the
    trainer's device. Training batches are shuffled and augmented anew each epoch, from the global
    seed (`seed_everything`, `torch.manual_seed`); validation, test and predict batches hold every
    image once, in the dataset's order. The predict stage serves the test images, or photographs
    (`images`) as batches of `fashion_lightning.photos.PhotoBatch`.

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
            comes with this package. Training batches get a third part: its calibrated logits,
            ``(B, num_classes)``, for the images as they are augmented. It answers when training
            begins, for all views that augmentation can make: twice ``(2 * shift + 1) ** 2`` for
            each image, each kept in 40 bytes.
        mirrors: Base URLs from which missing files are downloaded, in this order, before the copy
            in the package is taken. ``[]`` leaves the network alone.
        images: What the predict stage serves instead of the test images: a photograph (PNG, JPEG or
            WebP), or a folder of them and of folders.
        preview: Where `fashion-lightning predict` draws the first photographs, what the network
            sees of them, and its answers: a PNG file.

    Raises:
        FileNotFoundError: If there is nothing at `images`.
        ValueError: If an argument is out of its range, or `images` is a folder without images.

    Example:
        >>> from fashion_lightning import FashionMNISTDataModule
        >>> datamodule = FashionMNISTDataModule(eval_batch_size=64, mirrors=[])
        >>> datamodule.prepare_data()
        >>> datamodule.setup("test")
        >>> images, labels = next(iter(datamodule.test_dataloader()))
        >>> images.shape, labels.shape
        (torch.Size([64, 1, 28, 28]), torch.Size([64]))
    """

    def __init__(
        self,
        data_dir: str | Path = "data",
        *,
        batch_size: int = 500,
        eval_batch_size: int = 500,
        val_size: int = 5000,
        split_seed: int = 0,
        horizontal_flip: float = 0.15,
        shift: int = 0,
        teacher: str | Path | None = None,
        mirrors: Sequence[str] = files.MIRRORS,
        images: str | Path | None = None,
        preview: str | Path | None = None,
    ) -> None:
        super().__init__()
        expect(batch_size >= 1, "batch_size", "an int >= 1", batch_size)
        expect(eval_batch_size >= 1, "eval_batch_size", "an int >= 1", eval_batch_size)
        expect(0 <= val_size < 60_000, "val_size", "an int in 0 ... 59999", val_size)
        expect(0 <= horizontal_flip <= 1, "horizontal_flip", "in [0, 1]", horizontal_flip)
        expect(0 <= shift <= 27, "shift", "an int in 0 ... 27", shift)
        for mirror in mirrors:
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
        self.mirrors = mirrors
        self.preview = preview
        self._photos = _find_images(images)
        self._split_digest: str | None = None  # known once `setup` has read the training images
        self._targets: Tensor | None = None  # the teacher's, of the training images' views
        self._train_batches: Batches | None = None
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
            self._split_digest = hashlib.sha256(val.numpy().tobytes()).hexdigest()
            self.train_set = TensorDataset(images[train], labels[train])
            self.val_set = TensorDataset(images[val], labels[val])
        elif stage == "test" or not self._photos:
            self.test_set = TensorDataset(*files.load(self.data_dir, train=False))

    @override
    def train_dataloader(self) -> Batches:
        """Serve the training images, shuffled and augmented; not so for `overfit_batches`."""
        trainer = self.trainer
        if trainer and trainer.overfit_batches:  # type: ignore[attr-defined]
            return self._batches(self.train_set, self.batch_size)  # The same few in every epoch.
        if self.teacher and self._targets is None:
            self._targets = self._ask(self.teacher)
        # Processes that were seeded differently must still agree on the order.
        seed = torch.initial_seed()
        self._train_batches = self._batches(
            self.train_set,
            self.batch_size,
            seed=trainer.strategy.broadcast(seed) if trainer else seed,
            horizontal_flip=self.horizontal_flip,
            shift=self.shift,
            targets=self._targets,
        )
        # Lightning keeps the state of batches, too, but misses to restore it if a module has asked
        # for `estimated_stepping_batches`, as those with a schedule do.
        if self._interrupted:
            self._train_batches.load_state_dict(self._interrupted)
            self._interrupted = None
        return self._train_batches

    @override
    def val_dataloader(self) -> Batches | list[Batches]:
        """Serve the validation images; an empty list if `val_size` is 0."""
        return self._batches(self.val_set, self.eval_batch_size) if self.val_size else []

    @override
    def test_dataloader(self) -> Batches:
        """Serve the official test images."""
        return self._batches(self.test_set, self.eval_batch_size)

    @override
    def predict_dataloader(self) -> "Batches | Photos":
        """Serve the official test images, or the photographs that were named."""
        if not self._photos:
            return self._batches(self.test_set, self.eval_batch_size)
        from fashion_lightning.photos import Photos  # Most runs need no PIL.

        return Photos(self._photos, batch_size=self.eval_batch_size, **self._share())

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint records: the split, and where training stands in its epoch."""
        return {
            "split_seed": self.split_seed,
            "val_size": self.val_size,
            "split_digest": self._split_digest,
            "train": self._train_batches.state_dict() if self._train_batches else None,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint records; warn if it was trained with another split."""
        if not self.trainer or self.trainer.state.fn == TrainerFn.FITTING:
            self._interrupted = state_dict["train"]
        own = (self.split_seed, self.val_size, self._split_digest)
        other = tuple(state_dict[name] for name in ("split_seed", "val_size", "split_digest"))
        if other[:2] != own[:2] or (own[2] and other[2] != own[2]):
            rank_zero_warn(
                f"The checkpoint was trained with another split (split_seed={other[0]}, "
                f"val_size={other[1]}) than this one (split_seed={own[0]}, val_size={own[1]}): "
                "images leak, validation may hold what it was trained on."
            )

    def _ask(self, teacher: str) -> Tensor:
        """Return a teacher's logits of all views of the training images, computed once."""
        from fashion_lightning.module import FashionMNISTClassifier  # Few runs have a teacher.

        device, images = self._device(), self.train_set.tensors[0]
        classifier = FashionMNISTClassifier.load_from_checkpoint(resolve(teacher)).eval().to(device)
        all_views = views(images.to(device), self.horizontal_flip, self.shift)
        logits = torch.empty(*all_views.shape[:3], classifier.num_classes, device=device)
        num_asked = len(images) if classifier.flip_averaging else len(logits)
        num_views = logits[:num_asked, ..., 0].numel()
        rank_zero_info(f"The teacher answers for {num_views:,} views of the training images.")
        plugin = self.trainer.precision_plugin if self.trainer else None
        with torch.no_grad(), plugin.forward_context() if plugin else nullcontext():
            for first in range(0, num_asked, self.eval_batch_size):
                rows = slice(first, min(first + self.eval_batch_size, num_asked))
                for y, x in product(range(logits.shape[1]), range(logits.shape[2])):
                    logits[rows, y, x] = classifier(all_views[rows, y, x].float() / 255)
        # To a teacher that averages, an image moved to the left is its mirror moved to the right.
        logits[num_asked:] = logits[: len(logits) - num_asked].flip(2)
        return logits

    def _batches(self, dataset: TensorDataset, batch_size: int, **training: Any) -> Batches:
        images, labels = (tensor.to(self._device()) for tensor in dataset.tensors)
        return Batches(images, labels, batch_size=batch_size, **self._share(), **training)

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _share(self) -> dict[str, Any]:
        """Return which of the batches are this process's."""
        trainer = self.trainer
        return {
            "rank": trainer.global_rank if trainer else 0,
            "world_size": trainer.world_size if trainer else 1,
        }


def _find_images(path: str | Path | None) -> list[Path]:
    if path is None:
        return []
    from fashion_lightning.photos import find_images  # Most runs need no PIL.

    return find_images(path)
