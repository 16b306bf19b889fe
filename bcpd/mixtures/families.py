"""Named mixtures, one or more for every family: what the contract suite tests and ``bcpd sample`` offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bcpd.mixtures.base import Mixture
from bcpd.mixtures.factor_analyzers import FactorAnalyzerMixture
from bcpd.mixtures.finite import FiniteMixture
from bcpd.mixtures.frozen import FrozenNature
from bcpd.mixtures.gaussian import GaussianMixture, paper_toy
from bcpd.mixtures.laplace import LaplaceMixture
from bcpd.mixtures.products import BernoulliMixture, CategoricalMixture
from bcpd.mixtures.student import StudentMixture
from bcpd.mixtures.templates import ShiftedTemplates
from bcpd.mixtures.textures import GaussianTextures
from bcpd.mixtures.warps import Affine, Bend, SinhArcsinh, Warped
from bcpd.mixtures.wrappers import LabelNoise, PriorShift, Superclasses
from bcpd.seeds import generator

__all__ = ["FAMILIES", "KINDS", "from_spec"]

KINDS: dict[str, Callable[..., Mixture]] = {
    GaussianMixture.kind: GaussianMixture,
    StudentMixture.kind: StudentMixture,
    LaplaceMixture.kind: LaplaceMixture,
    BernoulliMixture.kind: BernoulliMixture,
    CategoricalMixture.kind: CategoricalMixture,
    FiniteMixture.kind: FiniteMixture,
    FactorAnalyzerMixture.kind: FactorAnalyzerMixture,
    ShiftedTemplates.kind: ShiftedTemplates,
    GaussianTextures.kind: GaussianTextures,
    FrozenNature.kind: FrozenNature,
    LabelNoise.kind: LabelNoise,
    Superclasses.kind: Superclasses,
    PriorShift.kind: PriorShift,
    Warped.kind: Warped,
}


def from_spec(spec: Mapping[str, Any]) -> Mixture:
    """Rebuild a mixture from ``Mixture.spec()``, also after a round trip through JSON.

    Raises:
        ValueError: an unknown kind, or arguments that the kind does not take.
    """
    arguments = {key: from_spec(value) if key == "mixture" else value for key, value in spec.items()}
    kind = arguments.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"kind of a mixture must be one of {sorted(KINDS)}, received {kind!r}")
    try:
        return KINDS[kind](**arguments)
    except TypeError as error:
        raise ValueError(f"a mixture of kind {kind!r} does not take {sorted(arguments)}: {error}") from None


def _gaussian_1d() -> GaussianMixture:
    return GaussianMixture([[-1.0], [0.5], [2.5]], 1.2, priors=[0.5, 0.2, 0.3])


def _gaussian_2d_shared() -> GaussianMixture:
    means = [[0.0, 0.0], [1.5, 0.5], [-0.5, 1.5]]
    return GaussianMixture(means, [[1.0, 0.4], [0.4, 0.7]], priors=[0.3, 0.45, 0.25])


def _gaussian_2d_diagonal() -> GaussianMixture:
    return GaussianMixture([[0.0, 0.0], [2.0, 0.5], [0.5, 1.0], [-1.5, 1.0]], [1.5, 0.4])


def _gaussian_classwise() -> GaussianMixture:
    draw = generator(1, "gaussian-classwise")
    means = 0.5 * _normal(draw, 4, 5)
    return GaussianMixture(means, _covariances(draw, 4, 5), priors=[0.35, 0.25, 0.22, 0.18])


def _gaussian_components() -> GaussianMixture:
    draw = generator(2, "gaussian-components")
    means = _normal(draw, 3, 2, 4)
    covariances = _covariances(draw, 6, 4).reshape(3, 2, 4, 4)
    return GaussianMixture(means, covariances, weights=[[0.5, 0.5], [0.8, 0.2], [0.35, 0.65]], priors=[0.4, 0.25, 0.35])


def _gaussian_xor() -> GaussianMixture:
    """Opposite corners of a square belong together: a linear rule can only cut one corner off."""
    corners = [[[-0.8, -0.8], [0.8, 0.8]], [[-0.8, 0.8], [0.8, -0.8]]]
    return GaussianMixture(corners, [[0.5, 0.1], [0.1, 0.3]], weights=[[0.5, 0.5], [0.4, 0.6]], priors=[0.55, 0.45])


def _student_1d() -> StudentMixture:
    """Cauchy tails, own scales: beyond the narrow class the wide one wins on both sides."""
    return StudentMixture([[-1.5], [0.5], [2.5]], [[[0.5]], [[0.3]], [[1.2]]], 1.0, priors=[0.4, 0.25, 0.35])


def _student() -> StudentMixture:
    draw = generator(4, "student")
    return StudentMixture(1.2 * _normal(draw, 3, 4), _covariances(draw, 1, 4)[0], 3.0, priors=[0.5, 0.3, 0.2])


def _student_components() -> StudentMixture:
    draw = generator(5, "student-components")
    scales = _covariances(draw, 4, 3).reshape(2, 2, 3, 3)
    return StudentMixture(1.3 * _normal(draw, 2, 2, 3), scales, 2.5, [[0.7, 0.3], [0.4, 0.6]], [0.6, 0.4])


def _laplace_1d() -> LaplaceMixture:
    return LaplaceMixture([[-1.5], [0.0], [2.0]], 1.1, priors=[0.35, 0.25, 0.4])


def _laplace() -> LaplaceMixture:
    draw = generator(6, "laplace")
    scales = (0.3 * _normal(draw, 3, 2, 4)).exp()
    weights = [[0.6, 0.4], [0.5, 0.5], [0.3, 0.7]]
    return LaplaceMixture(_normal(draw, 3, 2, 4), scales, weights, [0.4, 0.35, 0.25])


def _bernoulli() -> BernoulliMixture:
    return BernoulliMixture(torch.sigmoid(1.2 * _normal(generator(7, "bernoulli"), 4, 10)), None, [0.4, 0.3, 0.2, 0.1])


def _bernoulli_image() -> BernoulliMixture:
    """Noisy 5x5 pictures of bars, horizontal or vertical, each in five places: too many values to list."""
    place = torch.arange(5)
    horizontal = (place[:, None, None] == place[:, None]).expand(5, 5, 5)
    bars = torch.stack([horizontal, horizontal.mT]).to(torch.float64)
    return BernoulliMixture(0.2 + 0.45 * bars, torch.full((2, 5), 0.2), [0.6, 0.4])


def _categorical() -> CategoricalMixture:
    """Four coordinates with 4, 4, 3 and 2 values, two components a class."""
    table = (1.5 * _normal(generator(8, "categorical"), 3, 2, 4, 4)).softmax(-1)
    exists = torch.arange(4) < torch.tensor([4, 4, 3, 2])[:, None]
    table = torch.where(exists, table, 0.0)
    weights = [[0.5, 0.5], [0.25, 0.75], [0.8, 0.2]]
    return CategoricalMixture(table / table.sum(-1, keepdim=True), weights, [0.5, 0.2, 0.3])


def _banana() -> Warped:
    """Two crescents and a blob, exactly as hard as the Gaussians they come from."""
    return Warped(_gaussian_2d_shared(), Bend(0.7))


def _skewed() -> Warped:
    return Warped(_gaussian_components(), SinhArcsinh([0.5, -0.3, 0.0, 0.2], [0.7, 1.0, 1.3, 0.9]))


def _warped_table() -> Warped:
    turned = Warped(_finite(), Affine([[1.0, 0.5], [-0.3, 0.8]], [2.0, -1.0]))
    return Warped(turned, Bend(-0.5))


def _finite() -> FiniteMixture:
    draw = generator(3, "finite")
    weights = _normal(draw, 12).exp()
    return FiniteMixture(weights / weights.sum(), (1.5 * _normal(draw, 12, 4)).softmax(-1), _normal(draw, 12, 2))


def _factor_analyzers() -> FactorAnalyzerMixture:
    """Pictures of 4 x 4 pixels: two components a class, each with two directions of its own."""
    draw = generator(9, "factor-analyzers")
    noise = 0.5 + (0.4 * _normal(draw, 3, 2, 1, 4, 4)).exp()
    means, loadings = 0.45 * _normal(draw, 3, 2, 1, 4, 4), 0.5 * _normal(draw, 3, 2, 1, 4, 4, 2)
    return FactorAnalyzerMixture(means, loadings, noise, [[0.6, 0.4], [0.3, 0.7], [0.5, 0.5]], [0.45, 0.3, 0.25])


def _shifted_templates() -> ShiftedTemplates:
    """Two channels of 2 x 3 pixels, two templates a class."""
    draw = generator(10, "shifted-templates")
    return ShiftedTemplates(
        0.7 * _normal(draw, 3, 2, 2, 2, 3), 0.8, [[0.5, 0.5], [0.7, 0.3], [0.4, 0.6]], [0.4, 0.35, 0.25]
    )


def _gaussian_textures() -> GaussianTextures:
    """Two channels of 3 x 4 pixels."""
    logs = 0.8 * _normal(generator(11, "gaussian-textures"), 3, 2, 3, 4)
    even = (logs + logs.flip((-2, -1)).roll((1, 1), (-2, -1))) / 2
    return GaussianTextures(even.exp(), [0.5, -1.0], [0.3, 0.3, 0.4])


def _frozen_nature() -> FrozenNature:
    """Sixty handwritten digits (every second pixel), labelled by a fixed linear map of them."""
    from sklearn.datasets import load_digits  # here, since it takes seconds to import

    images = torch.from_numpy(load_digits().images[:60, ::2, ::2] * 15).to(torch.uint8)[:, None]
    logits = (images.flatten(1) / 255).double() @ _normal(generator(9, "frozen-nature"), 16, 4)
    return FrozenNature(images, logits, 0.7, {"net": "linear", "weights": "standard normal"})


def _label_noise() -> LabelNoise:
    transition = [[0.8, 0.15, 0.05], [0.0, 0.9, 0.1], [0.25, 0.05, 0.7]]
    return LabelNoise(_gaussian_1d(), transition)


def _superclasses() -> Superclasses:
    return Superclasses(paper_toy(dimension=10, variance=2.0), [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])


def _prior_shift() -> PriorShift:
    return PriorShift(_gaussian_classwise(), [0.15, 0.2, 0.25, 0.4])


def _nested() -> LabelNoise:
    shifted = PriorShift(_finite(), [0.1, 0.4, 0.3, 0.2])
    return LabelNoise(Superclasses(shifted, [0, 1, 1, 2]), [[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.0, 0.05, 0.95]])


FAMILIES: dict[str, Callable[[], Mixture]] = {
    "gaussian-isotropic-30d": paper_toy,
    "gaussian-1d": _gaussian_1d,
    "gaussian-2d-shared": _gaussian_2d_shared,
    "gaussian-2d-diagonal": _gaussian_2d_diagonal,
    "gaussian-classwise": _gaussian_classwise,
    "gaussian-components": _gaussian_components,
    "gaussian-xor": _gaussian_xor,
    "student-1d": _student_1d,
    "student": _student,
    "student-components": _student_components,
    "laplace-1d": _laplace_1d,
    "laplace": _laplace,
    "bernoulli": _bernoulli,
    "bernoulli-image": _bernoulli_image,
    "categorical": _categorical,
    "finite": _finite,
    "factor-analyzers": _factor_analyzers,
    "shifted-templates": _shifted_templates,
    "gaussian-textures": _gaussian_textures,
    "frozen-nature": _frozen_nature,
    "label-noise": _label_noise,
    "superclasses": _superclasses,
    "prior-shift": _prior_shift,
    "noisy-shifted-superclasses": _nested,
    "banana": _banana,
    "skewed": _skewed,
    "warped-table": _warped_table,
}


def _normal(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=draw)


def _covariances(draw: torch.Generator, count: int, dimension: int) -> Tensor:
    """Well-conditioned random covariances of different sizes and orientations."""
    roots = 0.45 * _normal(draw, count, dimension, dimension)
    scales = torch.linspace(0.4, 1.2, count, dtype=torch.float64)[:, None, None]
    return scales * torch.eye(dimension, dtype=torch.float64) + roots @ roots.mT
