"""Measurement: the distance of any predictor to the known posterior p*, with error bars or exactly.

A predictor is a callable, a torch module, a scikit-learn classifier or a file of probabilities; a mixture is anything
with the few methods of :class:`KnownPosterior`. Beside the distances: what excess risk they allow
(:mod:`bcpd.measure.bounds`), what votes say where p* is not known exactly (:mod:`bcpd.measure.votes`), and what fresh
labels say of two predictors where it is not known at all (:mod:`bcpd.measure.difference`).
"""

from bcpd.measure.bounds import excess_risk_bounds, excess_risk_bounds_of_probabilities
from bcpd.measure.difference import (
    LabelDifference,
    crossed_difference_to_bcpd,
    difference_to_bcpd,
    label_differences,
)
from bcpd.measure.labels import label_scores
from bcpd.measure.metrics import compare, compare_probabilities, distance, distance_of_probabilities
from bcpd.measure.points import KnownPosterior
from bcpd.measure.predictors import LogPredictor, Predict, as_predictor
from bcpd.measure.temperature import fit_temperature
from bcpd.measure.votes import (
    Bracket,
    bayes_error_from_votes,
    bayes_error_interval,
    compare_to_votes,
    distance_to_votes,
    entropy_from_votes,
    kl_from_votes,
)

__all__ = [
    "Bracket",
    "KnownPosterior",
    "LabelDifference",
    "LogPredictor",
    "Predict",
    "as_predictor",
    "bayes_error_from_votes",
    "bayes_error_interval",
    "compare",
    "compare_probabilities",
    "compare_to_votes",
    "crossed_difference_to_bcpd",
    "difference_to_bcpd",
    "distance",
    "distance_of_probabilities",
    "distance_to_votes",
    "entropy_from_votes",
    "excess_risk_bounds",
    "excess_risk_bounds_of_probabilities",
    "fit_temperature",
    "kl_from_votes",
    "label_differences",
    "label_scores",
]
