"""A page in the browser that classifies photographs, on this machine alone."""

from fashion_lightning.demo.page import serve
from fashion_lightning.demo.prediction import answer

__all__ = ["answer", "serve"]
