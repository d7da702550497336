"""The LightningDataModule: owns FashionMNIST's download, split and batching for all four stages."""

from collections.abc import Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from fashion_lightning.arguments import at_least, expect, fraction
from fashion_lightning.data import files
from fashion_lightning.data.foreign import in_memory
from fashion_lightning.data.loaders import LoaderFactory, pads_evaluation, running
from fashion_lightning.data.resuming import ResumableDataModule
from fashion_lightning.data.split import split_digest, split_indices
from fashion_lightning.module import FashionMNISTClassifier
from fashion_lightning.teacher import teacher_logits


class FashionMNISTDataModule(ResumableDataModule):
    """FashionMNIST in memory: 55,000 training, 5,000 validation and 10,000 test images.

    Loaders are `torch.utils.data.DataLoader`s of ``[images float32 (B, 1, 28, 28) in [0, 1], labels
    int64 (B,)]`` with independent iterators. Training batches are shuffled and augmented anew each
    epoch, from the global seed; the others hold every image in the dataset's order.

    A subclass may replace `train_set`, `val_set` and `test_set` by any data set. Those in memory
    (`TensorDataset`, or a `Subset` of one) are moved to the trainer's device as a whole.

    Args:
        data_dir: Folder of the data, in torchvision's layout (``data_dir/FashionMNIST/raw``).
        batch_size: Images in a training batch of one process. An incomplete batch is left out.
        eval_batch_size: Images in a batch of validation, test and predict.
        val_size: Images held out of the 60,000 for validation, with equal shares of the classes.
        split_seed: The only source of the validation split.
        horizontal_flip: Probability that a training image is mirrored, in [0, 1].
        shift: Largest shift of a training image in each direction, in pixels, 0 ... 27.
        teacher: Checkpoint of a trained `FashionMNISTClassifier`, or ``pretrained:NAME``. Training
            batches are then dicts of ``images``, ``labels`` and ``teacher_logits (B, C)``, its
            calibrated logits, computed once for all ``2 * (2 * shift + 1) ** 2`` views per image.
        num_workers: Processes that load batches, >= 0. For images in memory, 0 is fastest.
        pin_memory: Whether batches are in page-locked memory. With it, or with workers, images stay
            in main memory.
        pad_evaluation: How processes share validation and test images. False: each image once; a
            process may get one batch fewer. True: equal numbers, the first images repeated, for
            modules that synchronize in each step. None: as the module's steps need it.
        mirrors: Base URLs from which missing files are downloaded, in this order. None: they are
            taken from the copy in the package. ``[]``: always the package's copy.
        images: A photograph, or a folder of them, that predict serves instead of the test images,
            in batches of `fashion_lightning.photos.PhotoBatch`.
        preview: Only None, as config files of version 0.1 hold it; now ``predict --preview``.

    Raises:
        FileNotFoundError, ValueError: If `images` has no images, or an argument is out of range.

    Example:
        >>> datamodule = FashionMNISTDataModule(eval_batch_size=64)
        >>> datamodule.prepare_data()
        >>> datamodule.setup("test")
        >>> next(iter(datamodule.test_dataloader()))[0].shape
        torch.Size([64, 1, 28, 28])
    """

    LOCAL_ARGUMENTS = ("data_dir", "mirrors", "images", "preview", "num_workers", "pin_memory")
    """Arguments that checkpoints never set: paths, and what depends on the machine.

    They do set a teacher's path, which is read without running code.
    """

    # Data sets. `setup` makes them a `TensorDataset` of uint8 images ``(N, 28, 28)`` and labels.
    train_set: Any = None
    val_set: Any = None
    test_set: Any = None
    # A `fashion_lightning.photos.PhotoClassifier`, whose results photographs are then served with.
    photo_classifier: Any = None

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
        preview: None = None,
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        at_least(0, num_workers=num_workers)
        expect(0 <= val_size < files.NUM_TRAIN, "val_size", "an int in 0 ... 59999", val_size)
        fraction(horizontal_flip=horizontal_flip)
        expect(0 <= shift <= 27, "shift", "an int in 0 ... 27", shift)
        for mirror in mirrors or ():
            expect(mirror.startswith(("http://", "https://")), "mirrors", "base URLs", mirror)
        expect(preview is None, "preview", "an option of `predict`, as `--preview`", preview)
        num_train = files.NUM_TRAIN - val_size
        right = f"at most the {num_train} training images"
        expect(batch_size <= num_train, "batch_size", right, batch_size)
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
        self._source = ""  # the last line about the files
        self._photos = _find_images(images) if images is not None else []

    @override
    def prepare_data(self) -> None:
        """Bring verified files into `data_dir`, and log in one line where they came from."""
        if self._photos and self.trainer and self.trainer.state.fn == TrainerFn.PREDICTING:
            return  # Predicting photographs needs no data files.
        line = files.prepare(self.data_dir, self.mirrors)
        if line != self._source:  # A fit and its test use the same files.
            rank_zero_info(line)
        self._source = line

    @override
    def setup(self, stage: str) -> None:
        """Load what ``fit``, ``validate``, ``test`` or ``predict`` needs."""
        if stage in ("fit", "validate"):
            images, labels = files.load(self.data_dir, train=True)
            train, val = split_indices(labels, self.val_size, self.split_seed)
            self.split_digest = split_digest(val)
            self.train_set, self.val_set = (
                TensorDataset(images.index_select(0, each), labels.index_select(0, each))
                for each in (train, val)
            )
        elif stage == "test" or not self._photos:
            self.test_set = TensorDataset(*files.load(self.data_dir, train=False))

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the training images, shuffled unless `overfit_batches`."""
        if self.teacher:
            right = "None unless `train_set` lies in memory"
            expect(in_memory(self.train_set) is not None, "teacher", right, self.teacher)
        loader = self._factory().training(
            self.train_set,
            self.batch_size,
            horizontal_flip=self.horizontal_flip,
            shift=self.shift,
            teach=partial(teacher_logits, self.teacher) if self.teacher else None,
        )
        return self.continued(loader)

    @override
    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Return the loader of the validation images; an empty list if there are none."""
        if isinstance(self.val_set, Sized) and not len(self.val_set):
            return []
        return self._evaluation(self.val_set)

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the official test images."""
        return self._evaluation(self.test_set)

    @override
    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the official test images, or of the photographs."""
        if not self._photos:
            return self._evaluation(self.test_set)
        from fashion_lightning.photos import Photos, collate_photos  # imports PIL

        dataset = Photos(self._photos, self.photo_classifier)
        return self._evaluation(dataset, collate_fn=collate_photos)

    def _factory(self) -> LoaderFactory:
        return LoaderFactory(self.num_workers, self.pin_memory, running(self.trainer))

    def _evaluation(self, dataset: Any, **options: Any) -> DataLoader[Any]:
        pads = pads_evaluation(running(self.trainer), self.pad_evaluation, FashionMNISTClassifier)
        return self._factory().evaluation(dataset, self.eval_batch_size, pads=pads, **options)


def _find_images(path: str | Path) -> list[Path]:
    from fashion_lightning.photos import find_images  # imports PIL

    return find_images(path)
