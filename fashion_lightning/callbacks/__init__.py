"""Callbacks for any Trainer."""

from fashion_lightning.callbacks.best_and_last import BestAndLast
from fashion_lightning.callbacks.prediction_writer import PredictionWriter
from fashion_lightning.callbacks.preview_writer import PreviewWriter
from fashion_lightning.callbacks.report_writer import ReportWriter
from fashion_lightning.callbacks.signals import Interrupted
from fashion_lightning.speed import SteadyProgressBar

__all__ = [
    "BestAndLast",
    "Interrupted",
    "PredictionWriter",
    "PreviewWriter",
    "ReportWriter",
    "SteadyProgressBar",
]
