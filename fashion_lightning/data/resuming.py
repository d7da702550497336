"""What a checkpoint records of the data: its split, and where training stands in its epoch."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader
from typing_extensions import override

from fashion_lightning.data.loaders import ResumableLoader
from fashion_lightning.data.split import SPLIT


class ResumableDataModule(LightningDataModule):
    """A LightningDataModule whose training loader continues inside an epoch.

    Attributes:
        val_size: Images held out for validation.
        split_seed: Seed of the split.
        split_digest: Checksum of their indices, known after `setup`.
    """

    val_size: int
    split_seed: int
    split_digest: str | None = None
    _interrupted: dict[str, Any] | None = None  # state of an epoch that is to continue

    def continued(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        """Return the loader, positioned where an interrupted epoch stopped.

        Lightning also keeps the state of loaders, but fails to restore it where a module has asked
        for `estimated_stepping_batches`, as those with a schedule do.
        """
        if isinstance(loader, ResumableLoader) and self._interrupted:
            loader.load_state_dict(self._interrupted)
            self._interrupted = None
        return loader

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint records: the split, and where training stands in its epoch."""
        loader = self.trainer.train_dataloader if self.trainer else None
        return {
            "split_seed": self.split_seed,
            "val_size": self.val_size,
            "split_digest": self.split_digest,
            "train": loader.state_dict() if isinstance(loader, ResumableLoader) else None,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; warn if the checkpoint has another split."""
        if self.trainer and self.trainer.state.fn == TrainerFn.FITTING:
            self._interrupted = state_dict.get("train")
        difference = _difference(self.state_dict(), state_dict)
        if difference:
            rank_zero_warn(difference)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without the trainer, for copies and pickles."""
        return {**self.__dict__, "trainer": None}


def _difference(own: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return a warning if a checkpoint's split differs, else None.

    Args:
        own: The values of `SPLIT` of this run; its digest may be unknown (None).
        other: Those of the checkpoint.
    """
    names = SPLIT if own["split_digest"] else SPLIT[:2]
    if all(own[name] == other[name] for name in names):
        return None
    ours, theirs = (
        f"(split_seed={x['split_seed']}, val_size={x['val_size']})" for x in (own, other)
    )
    return (
        f"The checkpoint was trained with another split {theirs} than this one {ours}: "
        "images leak, validation may hold what it was trained on."
    )
