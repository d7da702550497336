"""Callbacks for any Trainer, one a file."""

from fashion_lightning.callbacks.prediction_writer import PredictionWriter
from fashion_lightning.callbacks.report_writer import ReportWriter

__all__ = ["PredictionWriter", "ReportWriter"]
