"""Photographs as images of FashionMNIST."""

from fashion_lightning.photos.conversion import to_fashion_mnist
from fashion_lightning.photos.loader import PhotoBatch, Photos, collate_photos, read_image
from fashion_lightning.photos.reading import find_images, read_picture

__all__ = [
    "PhotoBatch",
    "Photos",
    "collate_photos",
    "find_images",
    "read_image",
    "read_picture",
    "to_fashion_mnist",
]
