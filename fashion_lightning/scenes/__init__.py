"""Training data for photographs, drawn around FashionMNIST, and what is trained with it."""

from fashion_lightning.scenes.training import DamagedDataModule, MaskModule, SceneDataModule

__all__ = ["DamagedDataModule", "MaskModule", "SceneDataModule"]
