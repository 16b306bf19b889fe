"""Bayes errors: closed forms, enumeration and quadrature against each other and against Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.special import ndtr, stdtr
from scipy.stats import binom
from torch import Tensor

from bcpd.mixtures import (
    FAMILIES,
    BernoulliMixture,
    FiniteMixture,
    GaussianMixture,
    LabelNoise,
    LaplaceMixture,
    Mixture,
    PriorShift,
    StudentMixture,
    Superclasses,
)
from bcpd.seeds import derive, generator
from bcpd.theory.claim import Claim, Outcome, Picture, Settings, Trial, monte_carlo
from bcpd.theory.finite_tables import rounded

__all__ = ["CLAIMS"]

ANALYTIC = (
    "gaussian-1d",
    "gaussian-2d-shared",
    "gaussian-2d-diagonal",
    "gaussian-xor",
    "student-1d",
    "laplace-1d",
    "bernoulli",
    "categorical",
    "finite",
    "frozen-nature",
    "label-noise",
    "noisy-shifted-superclasses",
    "banana",
    "warped-table",
)
"""The named mixtures whose Bayes error is exact or by quadrature."""
QUICK = ("gaussian-2d-shared", "student-1d", "bernoulli", "finite", "label-noise", "banana")
EXACT = 1e-12
SMOOTH = 1e-8


# ------------------------------------------------------------------------------------------------- against Monte Carlo


def _sampled_trials(settings: Settings) -> list[Trial]:
    families: dict[str, Callable[[], Mixture]] = {
        name: FAMILIES[name] for name in (ANALYTIC if settings.full else QUICK)
    }
    if settings.mixture is not None:
        name, mixture = settings.mixture
        if mixture.bayes_error(n=2).method == "monte_carlo":
            return []
        families = {name: lambda: mixture}
    n = 400_000 if settings.full else 200_000
    trials = []
    for name, make in families.items():
        run = partial(_sampled, make, derive(settings.seed, "bayes error", name), n)
        trials.append(Trial(name, partial(run, False)))
        if settings.mixture is None or _other_priors(make())[1] > 0.01:
            trials.append(Trial(name, partial(run, True), "wrong_priors"))
    return trials


def _sampled(make: Callable[[], Mixture], seed: int, n: int, wrong: bool) -> Outcome:
    """The best method's Bayes error against Monte Carlo's, in standard errors."""
    mixture = make()
    best = mixture.bayes_error()
    sampled = (_other_priors(mixture)[0] if wrong else mixture).bayes_error("monte_carlo", n=n, seed=seed)
    return monte_carlo(sampled.value, sampled.stderr + best.stderr, best.value)


def _other_priors(mixture: Mixture) -> tuple[Mixture, float]:
    """The priors with one class three times as likely that change the Bayes error most, and by how much."""
    error, classes = mixture.bayes_error(), mixture.num_classes

    def tilted(k: int) -> Mixture:
        priors = mixture.priors * (1 + 2 * (torch.arange(classes) == k))
        return PriorShift(mixture, priors / priors.sum())

    candidates = [tilted(k) for k in range(classes)]
    changes = [abs(candidate.bayes_error(n=20_000).value - error.value) for candidate in candidates]
    largest = int(np.argmax(changes))
    return candidates[largest], changes[largest]


# ------------------------------------------------------------------------------------------------- against closed forms


def _closed_trials(settings: Settings) -> list[Trial]:
    if settings.mixture is not None:
        return []
    trials = []
    for repetition in range(5 if settings.full else 1):
        seed = derive(settings.seed, "closed forms", repetition)
        suffix = f" {repetition + 1}" if repetition else ""
        for (world, detail), (run, controls) in _CLOSED.items():
            trials.append(Trial(world, partial(run, seed, None), detail=detail + suffix))
            trials += [Trial(world, partial(run, seed, key), key, detail=detail + suffix) for key in controls]
    return trials


def _uniform(draw: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=draw, dtype=torch.float64))


def _gap(found: float, expected: float, bound: float) -> Outcome:
    return Outcome(abs(found - expected) / (1 + abs(expected)), bound)


def _two_gaussians(seed: int, control: str | None) -> Outcome:
    r""":math:`\sum_k \pi_k \Phi(-\Delta/2 \mp \log(\pi_0/\pi_1)/\Delta)` for any shared covariance."""
    draw = generator(seed, "two gaussians")
    root = torch.randn(6, 6, generator=draw, dtype=torch.float64)
    covariance = root @ root.mT / 6 + 0.3 * torch.eye(6, dtype=torch.float64)
    first, second = torch.randn(2, 6, generator=draw, dtype=torch.float64)
    distance, prior = _uniform(draw, 0.8, 3.0), _uniform(draw, 0.15, 0.35)
    gap = second - first
    gap = gap * distance / float((gap @ torch.linalg.solve(covariance, gap)).sqrt())
    mixture = GaussianMixture(torch.stack([first, first + gap]), covariance, priors=[prior, 1 - prior])
    half = distance if control == "distance_not_halved" else distance / 2
    threshold = 0.0 if control == "threshold_forgotten" else math.log(prior / (1 - prior)) / distance
    expected = prior * ndtr(-half - threshold) + (1 - prior) * ndtr(-half + threshold)
    return _gap(mixture.bayes_error().value, float(expected), SMOOTH)


def _orthogonal(seed: int, control: str | None) -> Outcome:
    r""":math:`1 - \int \varphi(z) \Phi(a + z)^{K - 1} dz`, by 80 and 160 Hermite nodes, against slices of a plane."""
    a = _uniform(generator(seed, "orthogonal"), 0.8, 3.0)
    mixture = GaussianMixture(a * torch.eye(3, dtype=torch.float64), 1.0)
    power = 3 if control == "one_class_too_many" else 2
    coarse, fine = (
        1 - float(w @ ndtr(a + z) ** power / w.sum())
        for z, w in (np.polynomial.hermite_e.hermegauss(nodes) for nodes in (80, 160))
    )
    return Outcome(max(abs(mixture.bayes_error().value - fine), abs(fine - coarse)), SMOOTH)


def _simplex_corners(seed: int, control: str | None) -> Outcome:
    """The same formula for seven classes in thirty dimensions, against Monte Carlo: corners of a turned simplex."""
    draw = generator(seed, "corners")
    turn = torch.linalg.qr(torch.randn(30, 30, generator=draw, dtype=torch.float64))[0]
    mixture = GaussianMixture(_uniform(draw, 1.0, 2.5) * turn[:7], 1.0)
    best = mixture.bayes_error()
    if control == "one_class_too_many":
        mixture = GaussianMixture(mixture.means[:6, 0], 1.0)
    sampled = mixture.bayes_error("monte_carlo", n=100_000, seed=derive(seed, "corners"))
    return monte_carlo(sampled.value, sampled.stderr, best.value)


def _two_laplaces(seed: int, control: str | None) -> Outcome:
    r""":math:`\tfrac12 e^{-\delta / 2b}`."""
    draw = generator(seed, "two laplaces")
    distance, scale = _uniform(draw, 0.5, 4.0), _uniform(draw, 0.5, 2.0)
    place = _uniform(draw, -5.0, 5.0)
    mixture = LaplaceMixture([[place, 1.0], [place + distance, 1.0]], [scale, 3.0])
    half = distance if control == "distance_not_halved" else distance / 2
    return _gap(mixture.bayes_error().value, math.exp(-half / scale) / 2, EXACT)


def _two_students(seed: int, control: str | None) -> Outcome:
    r""":math:`T_\nu(-\Delta / 2)` in four dimensions: the nearest mean wins."""
    draw = generator(seed, "two students")
    degrees, means = _uniform(draw, 1.0, 6.0), torch.randn(2, 4, generator=draw, dtype=torch.float64)
    scale = _uniform(draw, 0.5, 2.0)
    mixture = StudentMixture(means, scale, degrees)
    distance = float((means[0] - means[1]).norm()) / math.sqrt(scale)
    half = distance if control == "distance_not_halved" else distance / 2
    return _gap(mixture.bayes_error().value, float(stdtr(degrees, -half)), SMOOTH)


def _opposite_coins(seed: int, control: str | None) -> Outcome:
    r""":math:`P(\mathrm{Bin}(d, \theta) > d / 2)`, d odd: the majority of d coins of one of two opposite biases."""
    theta, d = _uniform(generator(seed, "coins"), 0.2, 0.4), 9
    rows = torch.full((2, d), theta, dtype=torch.float64)
    rows[1] = 1 - theta
    coins = d - 2 if control == "coins_forgotten" else d
    return _gap(BernoulliMixture(rows).bayes_error().value, float(binom.sf(coins // 2, coins, theta)), EXACT)


def _symmetric_noise(seed: int, control: str | None) -> Outcome:
    r""":math:`1 - (1 - \epsilon)(1 - L^*) - \epsilon / K`, since the largest class stays the largest."""
    draw = generator(seed, "symmetric noise")
    rate = _uniform(draw, 0.1, 0.6)
    clean = _random_table(draw)
    rows = (1 - rate) * clean.rows + rate / clean.num_classes
    expected = float(clean.weights @ (1 - rows.amax(1)))
    found = LabelNoise.symmetric(clean, rate).bayes_error().value
    if control == "noise_always_wrong":
        found = (1 - rate) * clean.bayes_error().value + rate
    return _gap(found, expected, EXACT)


def _merged(seed: int, control: str | None) -> Outcome:
    """Merging classes never raises the Bayes error."""
    fine = _random_table(generator(seed, "merged"))
    coarse = Superclasses(fine, [[0, 1], [2, 3]]).bayes_error().value
    change = coarse - fine.bayes_error().value
    return Outcome(-change if control == "reversed" else change, EXACT)


def _random_table(draw: torch.Generator) -> FiniteMixture:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    return FiniteMixture(normal(8).softmax(-1), normal(8, 4).softmax(-1))


_CLOSED: dict[tuple[str, str], tuple[Callable[[int, str | None], Outcome], tuple[str, ...]]] = {
    ("Gaussian 6-D", "two classes"): (_two_gaussians, ("distance_not_halved", "threshold_forgotten")),
    ("Gaussian 3-D", "orthogonal means"): (_orthogonal, ("one_class_too_many",)),
    ("Gaussian 30-D", "corners of a simplex"): (_simplex_corners, ("one_class_too_many",)),
    ("Laplace 2-D", "two classes"): (_two_laplaces, ("distance_not_halved",)),
    ("Student 4-D", "two classes"): (_two_students, ("distance_not_halved",)),
    ("Bernoulli 9-D", "opposite coins"): (_opposite_coins, ("coins_forgotten",)),
    ("finite X", "symmetric noise"): (_symmetric_noise, ("noise_always_wrong",)),
    ("finite X", "merged classes"): (_merged, ("reversed",)),
}


# ------------------------------------------------------------------------------------------------------------- picture


def _separation_picture(settings: Settings) -> Picture:
    """Two classes of unit variance a coordinate, a growing distance apart; and ten orthogonal Gaussians."""
    distance = torch.linspace(0.25, 8, 32, dtype=torch.float64)
    laws: dict[str, Callable[[float], Mixture]] = {
        "two Gaussians": lambda s: GaussianMixture([[0.0], [s]], 1.0),
        "two Laplaces": lambda s: LaplaceMixture([[0.0], [s]], math.sqrt(0.5)),
        "two Students, 3 degrees": lambda s: StudentMixture([[0.0], [s]], 1 / 3, 3.0),
        "ten Gaussians": lambda s: GaussianMixture(s / math.sqrt(2) * torch.eye(10, dtype=torch.float64), 1.0),
    }
    return {
        "kind": "curves",
        "title": "How fast classes become separable",
        "caption": "Bayes error against the distance between class means, in standard deviations. Gaussian errors fall "
        "like exp(-distance^2 / 8), Laplace errors like an exponential, Student errors like a power: with heavy tails "
        "no distance makes the labels certain.",
        "x_label": "distance",
        "y_label": "Bayes error",
        "x_log": False,
        "y_log": True,
        "series": [
            {
                "name": name,
                "x": rounded(distance),
                "y": rounded([make(s).bayes_error().value for s in distance.tolist()]),
                "style": "line",
                "colour": colour,
            }
            for colour, (name, make) in zip("abcd", laws.items(), strict=True)
        ],
    }


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "bayes-error",
        "C18",
        "Bayes errors by two integrators",
        "The Bayes error in closed form, by enumeration or by quadrature is Monte Carlo's, also after a warp of x.",
        r"L^* = \mathbb{E}\,[1 - \max_k p^*_k(x)]",
        "Mixtures with an exact or a quadrature Bayes error.",
        "definition; invariance under invertible maps: Theisen et al. 2021, Proposition 1",
        {"wrong_priors": "Monte Carlo has one class three times as likely"},
        _sampled_trials,
        picture=_separation_picture,
        repeat=False,
    ),
    Claim(
        "bayes-error-closed-forms",
        "C18",
        "Bayes errors that have a formula",
        "Where a formula for the Bayes error is known, the general methods return it.",
        r"L^* = \Phi(-\Delta/2), \quad 1 - \int \varphi(z)\,\Phi(a + z)^{K-1} dz, \quad "
        r"\frac{1}{2} e^{-\delta/2b}, \quad T_\nu(-\Delta/2)",
        "Two Gaussians of one covariance (with unequal priors: shifted thresholds); equally likely Gaussians at means "
        "that are all equally far apart; two Laplace or Student classes of one scale; opposite Bernoulli products; "
        "symmetric label noise; merged classes.",
        "Fukunaga 1990, section 3.2, for two Gaussians; the others derived here",
        {
            "distance_not_halved": "the whole distance is taken for the half",
            "threshold_forgotten": "the priors do not move the threshold",
            "one_class_too_many": "a class too many or too few is counted",
            "coins_forgotten": "two of the coins are forgotten",
            "noise_always_wrong": "a label drawn anew is taken to be always wrong",
            "reversed": "merging is said to raise the error",
        },
        _closed_trials,
        repeat=False,
    ),
)
