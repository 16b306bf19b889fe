"""Data with a known Bayes conditional probability p*(x) = P(y | x)."""

from bcpd.mixtures.base import Mixture
from bcpd.mixtures.calibration import calibration_z
from bcpd.mixtures.families import FAMILIES, from_spec
from bcpd.mixtures.finite import FiniteMixture
from bcpd.mixtures.gaussian import GaussianMixture, paper_toy
from bcpd.mixtures.wrappers import LabelNoise, PriorShift, Superclasses

__all__ = [
    "FAMILIES",
    "FiniteMixture",
    "GaussianMixture",
    "LabelNoise",
    "Mixture",
    "PriorShift",
    "Superclasses",
    "calibration_z",
    "from_spec",
    "paper_toy",
]
