"""A page in the browser that classifies photographs, on this machine alone."""

from fashion_lightning.demo.answer import answer
from fashion_lightning.demo.page import serve

__all__ = ["answer", "serve"]
