"""The command `fashion-lightning`."""

from fashion_lightning.cli.main import main

__all__ = ["main"]
