"""The images: the four official files, their split, and loaders over images in memory."""

from fashion_lightning.data.files import CLASSES

__all__ = ["CLASSES"]
