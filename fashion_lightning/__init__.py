"""FashionMNIST with PyTorch Lightning: the tutorial's network, the data, and the command."""

from importlib.metadata import version

from fashion_lightning.data.files import CLASSES
from fashion_lightning.datamodule import FashionMNISTDataModule
from fashion_lightning.module import FashionMNISTClassifier
from fashion_lightning.network import MLP, ConvNet

__all__ = [
    "CLASSES",
    "MLP",
    "ConvNet",
    "FashionMNISTClassifier",
    "FashionMNISTDataModule",
]
__version__ = version("fashion-lightning")
