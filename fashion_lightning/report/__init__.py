"""The report of a test: one HTML page."""

from fashion_lightning.report.page import read_curves, render, wilson_interval

__all__ = ["read_curves", "render", "wilson_interval"]
