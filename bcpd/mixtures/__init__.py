"""Data with a known Bayes conditional probability p*(x) = P(y | x)."""

from bcpd.mixtures.base import Mixture
from bcpd.mixtures.calibration import calibration_z
from bcpd.mixtures.factor_analyzers import FactorAnalyzerMixture
from bcpd.mixtures.families import FAMILIES, from_spec
from bcpd.mixtures.finite import FiniteMixture
from bcpd.mixtures.frozen import FrozenNature
from bcpd.mixtures.gaussian import GaussianMixture, paper_toy
from bcpd.mixtures.image_worlds import IMAGE_WORLDS, image_world, sampling_rate
from bcpd.mixtures.laplace import LaplaceMixture
from bcpd.mixtures.products import BernoulliMixture, CategoricalMixture
from bcpd.mixtures.student import StudentMixture
from bcpd.mixtures.templates import ShiftedTemplates
from bcpd.mixtures.textures import GaussianTextures
from bcpd.mixtures.warps import Affine, Bend, SinhArcsinh, Warp, Warped
from bcpd.mixtures.wrappers import LabelNoise, PriorShift, Superclasses

__all__ = [
    "FAMILIES",
    "IMAGE_WORLDS",
    "Affine",
    "Bend",
    "BernoulliMixture",
    "CategoricalMixture",
    "FactorAnalyzerMixture",
    "FiniteMixture",
    "FrozenNature",
    "GaussianMixture",
    "GaussianTextures",
    "LabelNoise",
    "LaplaceMixture",
    "Mixture",
    "PriorShift",
    "ShiftedTemplates",
    "SinhArcsinh",
    "StudentMixture",
    "Superclasses",
    "Warp",
    "Warped",
    "calibration_z",
    "from_spec",
    "image_world",
    "paper_toy",
    "sampling_rate",
]
