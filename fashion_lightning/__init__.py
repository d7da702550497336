"""FashionMNIST with PyTorch Lightning: the tutorial's network, the data, and the command."""

from importlib.metadata import version

from fashion_lightning.data.files import CLASSES
from fashion_lightning.datamodule import FashionMNISTDataModule
from fashion_lightning.module import FashionMNISTClassifier
from fashion_lightning.network import MLP, ConvNet

# With the doors of the package: pages of documentation show what is named here.
__all__ = [
    "CLASSES",
    "MLP",
    "ConvNet",
    "FashionMNISTClassifier",
    "FashionMNISTDataModule",
    "callbacks",
    "checkpoints",
    "demo",
    "export",
    "photos",
    "plotting",
    "scenes",
    "seeds",
]
__version__ = version("fashion-lightning")
