"""Log a run's figures and pictures: to Weights & Biases, TensorBoard, a CSV file, or nowhere."""

from ids3d.tracking.protocol import Curve, Row, Subject, Tracker
from ids3d.tracking.tracking import Tracking

__all__ = ["Curve", "Row", "Subject", "Tracker", "Tracking"]
