"""Measurement: the distance of any predictor to the known posterior p*, with error bars or exactly.

A predictor is a callable, a torch module, a scikit-learn classifier or a file of probabilities; a mixture is anything
with the few methods of :class:`KnownPosterior`.
"""

from bcpd.measure.labels import label_scores
from bcpd.measure.metrics import compare, compare_probabilities, distance, distance_of_probabilities
from bcpd.measure.points import KnownPosterior
from bcpd.measure.predictors import LogPredictor, Predict, as_predictor

__all__ = [
    "KnownPosterior",
    "LogPredictor",
    "Predict",
    "as_predictor",
    "compare",
    "compare_probabilities",
    "distance",
    "distance_of_probabilities",
    "label_scores",
]
