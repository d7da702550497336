"""A classifier as a file for other programs."""

from fashion_lightning.export.formats import Parity, export

__all__ = ["Parity", "export"]
