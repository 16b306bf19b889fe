"""Strategies for mixtures: worlds with a finite X, every family, wrappers around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from bcpd.mixtures import (
    Affine,
    Bend,
    BernoulliMixture,
    CategoricalMixture,
    FactorAnalyzerMixture,
    FiniteMixture,
    FrozenNature,
    GaussianMixture,
    GaussianTextures,
    LabelNoise,
    LaplaceMixture,
    Mixture,
    PriorShift,
    ShiftedTemplates,
    SinhArcsinh,
    StudentMixture,
    Superclasses,
    Warp,
    Warped,
)
from bcpd.seeds import generator
from bcpd.testing.rows import MAX_CLASSES, row_tables, simplex_rows, stochastic_matrices

__all__ = ["COMPONENT_FAMILIES", "WRAPPERS", "finite_mixtures", "mixtures", "mixtures_with_points", "warps"]

_SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def finite_mixtures(
    draw: st.DrawFn, max_points: int = 8, num_classes: int | None = None, zeros: bool = False
) -> FiniteMixture:
    """Worlds with a finite X, where every expectation is an exact sum: up to ``max_points`` weighted rows of p*.

    Args:
        max_points: of X.
        num_classes: K; drawn from 2 .. 6 where it is None.
        zeros: exact zeros among weights and probabilities.

    >>> from hypothesis import given
    >>> @given(finite_mixtures())
    ... def test_the_bayes_error_is_below_chance(world):
    ...     assert world.bayes_error().value <= 1 - 1 / world.num_classes + 1e-12
    >>> test_the_bayes_error_is_below_chance()
    """
    points = draw(st.integers(1, max_points))
    classes = draw(st.integers(2, MAX_CLASSES)) if num_classes is None else num_classes
    weights = draw(row_tables(1, points, zeros=zeros))[0]
    return FiniteMixture(weights, draw(row_tables(points, classes, zeros=zeros)))


class _Source:
    """Random parameters from one seed."""

    def __init__(self, seed: int) -> None:
        self._stream = generator(seed, "testing")

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self._stream)

    def rows(self, *shape: int) -> Tensor:
        return self.normal(*shape).softmax(-1)

    def scales(self, form: str, classes: int, components: int, dimension: int) -> Tensor:
        """A covariance or scale matrix in one of its five forms."""

        def matrices(*leading: int) -> Tensor:
            root = self.normal(*leading, dimension, dimension)
            return root @ root.mT + 0.3 * torch.eye(dimension, dtype=torch.float64)

        forms: dict[str, Callable[[], Tensor]] = {
            "scalar": lambda: self.normal(1)[0].exp(),
            "diagonal": lambda: self.normal(dimension).exp(),
            "matrix": matrices,
            "class": lambda: matrices(classes),
            "component": lambda: matrices(classes, components),
        }
        return forms[form]()


Sizes = tuple[int, int, int]
"""K, C and d."""


def _gaussian(draw: st.DrawFn, source: _Source, sizes: Sizes) -> Mixture:
    k, c, d = sizes
    scale = source.scales(draw(st.sampled_from(["scalar", "diagonal", "matrix", "class", "component"])), k, c, d)
    return GaussianMixture(2 * source.normal(k, c, d), scale, source.rows(k, c), source.rows(k))


def _student(draw: st.DrawFn, source: _Source, sizes: Sizes) -> Mixture:
    k, c, d = sizes
    scale = source.scales(draw(st.sampled_from(["scalar", "diagonal", "matrix", "class", "component"])), k, c, d)
    degrees = draw(st.floats(0.5, 30))
    return StudentMixture(2 * source.normal(k, c, d), scale, degrees, source.rows(k, c), source.rows(k))


def _laplace(draw: st.DrawFn, source: _Source, sizes: Sizes) -> Mixture:
    k, c, d = sizes
    shape = draw(st.sampled_from([(), (d,), (k, d), (k, c, d)]))
    return LaplaceMixture(
        2 * source.normal(k, c, d), (0.5 * source.normal(*shape, 1)[..., 0]).exp(), source.rows(k, c), source.rows(k)
    )


def _bernoulli(draw: st.DrawFn, source: _Source, sizes: Sizes) -> Mixture:
    k, c, d = sizes
    shape = draw(st.sampled_from([(d,), (1, d), (2, d)]))
    return BernoulliMixture((1.5 * source.normal(k, c, *shape)).sigmoid(), source.rows(k, c), source.rows(k))


def _categorical(draw: st.DrawFn, source: _Source, sizes: Sizes) -> Mixture:
    k, c, d = sizes
    values = draw(st.integers(2, 4))
    return CategoricalMixture((1.5 * source.normal(k, c, d, values)).softmax(-1), source.rows(k, c), source.rows(k))


def _finite(draw: st.DrawFn, source: _Source, sizes: Sizes) -> Mixture:
    k, _, d = sizes
    points = draw(st.integers(1, 8))
    return FiniteMixture(source.rows(points), source.rows(points, k), source.normal(points, d))


def _factor_analyzers(draw: st.DrawFn, source: _Source, sizes: Sizes) -> Mixture:
    k, c, d = sizes
    shape = draw(st.sampled_from([(d,), (1, d), (2, d)]))
    loadings = 0.7 * source.normal(k, c, *shape, draw(st.integers(1, 2)))
    noise = (0.5 * source.normal(k, c, *shape)).exp()
    return FactorAnalyzerMixture(1.5 * source.normal(k, c, *shape), loadings, noise, source.rows(k, c), source.rows(k))


def _shifted_templates(draw: st.DrawFn, source: _Source, sizes: Sizes) -> Mixture:
    k, c, d = sizes
    shape = draw(st.sampled_from([(1, 1, d), (1, d, 2), (2, 2, d)]))
    variance = draw(st.floats(0.3, 3))
    return ShiftedTemplates(source.normal(k, c, *shape), variance, source.rows(k, c), source.rows(k))


def _gaussian_textures(draw: st.DrawFn, source: _Source, sizes: Sizes) -> Mixture:
    k, _, d = sizes
    shape = draw(st.sampled_from([(1, 1, d), (1, d, 2), (2, 2, d)]))
    logs = source.normal(k, *shape)
    even = logs + logs.flip((-2, -1)).roll((1, 1), (-2, -1))
    return GaussianTextures(even.exp(), source.normal(shape[0]), source.rows(k))


def _frozen_nature(draw: st.DrawFn, source: _Source, sizes: Sizes) -> Mixture:
    k, _, d = sizes
    points = draw(st.integers(2, 8))
    return FrozenNature(source.normal(points, d), 2 * source.normal(points, k), draw(st.floats(0.3, 3)))


COMPONENT_FAMILIES: dict[str, Callable[[st.DrawFn, _Source, Sizes], Mixture]] = {
    "gaussian": _gaussian,
    "student": _student,
    "laplace": _laplace,
    "bernoulli": _bernoulli,
    "categorical": _categorical,
    "finite": _finite,
    "frozen_nature": _frozen_nature,
    "factor_analyzers": _factor_analyzers,
    "shifted_templates": _shifted_templates,
    "gaussian_textures": _gaussian_textures,
}
"""Kinds of mixture that wrap no other."""


def warps(dimension: int) -> st.SearchStrategy[Warp]:
    """Invertible maps of ``dimension`` coordinates: affine, sinh-arcsinh, and bends from two coordinates on."""
    kinds = [
        st.builds(_affine, _SEEDS, st.just(dimension)),
        st.builds(SinhArcsinh, st.floats(-1, 1), st.floats(0.5, 2)),
        *([st.builds(Bend, st.floats(-1, 1))] if dimension > 1 else []),
    ]
    return st.one_of(kinds)


def _affine(seed: int, dimension: int) -> Affine:
    source = _Source(seed)
    turn = torch.linalg.qr(source.normal(dimension, dimension))[0]
    return Affine(turn * source.normal(dimension).exp(), 3 * source.normal(dimension))


def _noisy(draw: st.DrawFn, mixture: Mixture) -> Mixture:
    return LabelNoise(mixture, draw(stochastic_matrices(mixture.num_classes, draw(st.integers(2, 4)))))


def _merged(draw: st.DrawFn, mixture: Mixture) -> Mixture:
    cut = draw(st.integers(1, mixture.num_classes - 1)) if mixture.num_classes > 1 else 1
    order = draw(st.permutations(range(mixture.num_classes)))
    return Superclasses(mixture, [group for group in (order[:cut], order[cut:]) if group])


def _shifted(draw: st.DrawFn, mixture: Mixture) -> Mixture:
    priors = torch.where(mixture.priors > 0, draw(simplex_rows(mixture.num_classes, 1e-3)), 0.0)
    return PriorShift(mixture, priors / priors.sum())


def _warped(draw: st.DrawFn, mixture: Mixture) -> Mixture:
    return Warped(mixture, draw(warps(torch.Size(mixture.shape).numel())))


WRAPPERS: dict[str, Callable[[st.DrawFn, Mixture], Mixture]] = {
    "label_noise": _noisy,
    "superclasses": _merged,
    "prior_shift": _shifted,
    "warped": _warped,
}
"""Kinds of mixture made from another."""


@st.composite
def mixtures(
    draw: st.DrawFn, kinds: Sequence[str] | None = None, max_depth: int = 2, max_dimension: int = 3
) -> Mixture:
    """Small random mixtures of every kind, bare or wrapped: 2 to 4 classes, 1 or 2 components, unequal priors.

    Args:
        kinds: of the mixture inside, keys of :data:`COMPONENT_FAMILIES`; all by default.
        max_depth: how many wrappers (:data:`WRAPPERS`) may lie around it.
        max_dimension: of x, for kinds that have one; Bernoulli products and images may have a few times as many.
    Raises:
        ValueError: an unknown kind.

    >>> from hypothesis import given
    >>> @given(mixtures())
    ... def test_priors_sum_to_one(mixture):
    ...     assert abs(mixture.priors.sum() - 1) < 1e-12
    >>> test_priors_sum_to_one()
    """
    names = list(COMPONENT_FAMILIES) if kinds is None else list(kinds)
    unknown = [name for name in names if name not in COMPONENT_FAMILIES]
    if unknown or not names:
        raise ValueError(f"kinds must be among {sorted(COMPONENT_FAMILIES)}, received {list(kinds or [])}")
    kind = draw(st.sampled_from(names))
    sizes = draw(st.tuples(st.integers(2, 4), st.integers(1, 2), st.integers(1, max_dimension)))
    mixture = COMPONENT_FAMILIES[kind](draw, _Source(draw(_SEEDS)), sizes)
    for wrapper in draw(st.lists(st.sampled_from(list(WRAPPERS)), max_size=max_depth)):
        mixture = WRAPPERS[wrapper](draw, mixture)
    return mixture


@st.composite
def mixtures_with_points(
    draw: st.DrawFn, count: int = 12, kinds: Sequence[str] | None = None, max_depth: int = 2, max_dimension: int = 3
) -> tuple[Mixture, Tensor]:
    """A mixture of :func:`mixtures` and ``count`` points from it, ``(count, *shape)``, classes in turn."""
    mixture = draw(mixtures(kinds, max_depth, max_dimension))
    possible = mixture.priors.nonzero()[:, 0]
    y = possible[torch.arange(count) % len(possible)]
    return mixture, mixture.sample_given(y, generator(draw(_SEEDS), "testing", "points"))
