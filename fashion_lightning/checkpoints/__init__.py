"""Checkpoints: written atomically, read without running their code, continued to the bit."""

from fashion_lightning.checkpoints.atomic_io import AtomicCheckpointIO
from fashion_lightning.checkpoints.pretrained import weights_file
from fashion_lightning.checkpoints.reading import read_checkpoint

__all__ = ["AtomicCheckpointIO", "read_checkpoint", "weights_file"]
