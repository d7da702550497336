"""Photographs: read, converted to images of FashionMNIST, and classified."""

from fashion_lightning.photos.background import is_plain
from fashion_lightning.photos.classification import PhotoClassifier, PhotoResult, classify
from fashion_lightning.photos.conversion import to_fashion_mnist
from fashion_lightning.photos.loader import PhotoBatch, Photos, collate_photos, read_image
from fashion_lightning.photos.preview import cut_out, draw_preview
from fashion_lightning.photos.reading import find_images, read_picture

__all__ = [
    "PhotoBatch",
    "PhotoClassifier",
    "PhotoResult",
    "Photos",
    "classify",
    "collate_photos",
    "cut_out",
    "draw_preview",
    "find_images",
    "is_plain",
    "read_image",
    "read_picture",
    "to_fashion_mnist",
]
