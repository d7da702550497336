"""Photographs as images of FashionMNIST."""

from fashion_lightning.photos.conversion import (
    PhotoBatch,
    Photos,
    collate_photos,
    find_images,
    read_image,
    read_picture,
    to_fashion_mnist,
)

__all__ = [
    "PhotoBatch",
    "Photos",
    "collate_photos",
    "find_images",
    "read_image",
    "read_picture",
    "to_fashion_mnist",
]
