"""Data with a known Bayes conditional probability p*(x) = P(y | x)."""

from bcpd.mixtures.base import Mixture
from bcpd.mixtures.calibration import calibration_z
from bcpd.mixtures.families import FAMILIES, from_spec
from bcpd.mixtures.finite import FiniteMixture
from bcpd.mixtures.gaussian import GaussianMixture, paper_toy
from bcpd.mixtures.laplace import LaplaceMixture
from bcpd.mixtures.products import BernoulliMixture, CategoricalMixture
from bcpd.mixtures.student import StudentMixture
from bcpd.mixtures.warps import Affine, Bend, SinhArcsinh, Warp, Warped
from bcpd.mixtures.wrappers import LabelNoise, PriorShift, Superclasses

__all__ = [
    "FAMILIES",
    "Affine",
    "Bend",
    "BernoulliMixture",
    "CategoricalMixture",
    "FiniteMixture",
    "GaussianMixture",
    "LabelNoise",
    "LaplaceMixture",
    "Mixture",
    "PriorShift",
    "SinhArcsinh",
    "StudentMixture",
    "Superclasses",
    "Warp",
    "Warped",
    "calibration_z",
    "from_spec",
    "paper_toy",
]
