"""How long a model takes on a device that it never ran on, from operators that were measured there."""

from edgevit.prediction.predicting import Prediction, predict

__all__ = ["Prediction", "predict"]
