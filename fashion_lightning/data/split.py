"""The validation split: stratified, and the same on every machine."""

import hashlib
from random import Random

import torch
from torch import Tensor


def split_indices(labels: Tensor, val_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw a stratified validation split.

    Args:
        labels: Class numbers, ``(N,)``.
        val_size: Images in the validation split. Each class gets its share, to within one image.
        seed: The only source of randomness. Python documents that `random.Random(seed).random()`
            returns the same numbers in every version; PyTorch and NumPy promise no such thing.

    Returns:
        Indices of the training and of the validation images, each in ascending order.
    """
    random = Random(seed)
    keys = labels.new_tensor([random.random() for _ in range(len(labels))], dtype=torch.float64)
    place = torch.empty_like(keys)  # of an image within its class, as a fraction
    for label in set(labels.tolist()):
        members = (labels == label).nonzero().squeeze(1)
        shuffled = members[keys[members].argsort()]
        place[shuffled] = torch.arange(len(members), device=labels.device).double() / len(members)
    is_val = torch.zeros_like(labels, dtype=torch.bool)
    is_val[place.argsort(stable=True)[:val_size]] = True
    return (~is_val).nonzero().squeeze(1), is_val.nonzero().squeeze(1)


def split_digest(val: Tensor) -> str:
    """Return a checksum of the indices of a validation split, which checkpoints record."""
    return hashlib.sha256(val.cpu().numpy().tobytes()).hexdigest()


SPLIT = ("split_seed", "val_size", "split_digest")
"""What a checkpoint, and an exported file, records of the validation split."""
