"""The instruments that everything is measured with: is p* that of the sampler, is a distance measured right?"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bcpd.measure import distance
from bcpd.mixtures import FAMILIES, GaussianMixture, LaplaceMixture, Mixture, PriorShift, StudentMixture, calibration_z
from bcpd.seeds import derive, generator
from bcpd.theory.claim import STANDARD_ERRORS, Claim, Outcome, Picture, Settings, Trial
from bcpd.theory.finite_tables import rounded

__all__ = ["CLAIMS", "QUICK_FAMILIES"]

QUICK_FAMILIES = (
    "gaussian-isotropic-30d",
    "gaussian-2d-shared",
    "gaussian-classwise",
    "student",
    "laplace-1d",
    "bernoulli",
    "finite",
    "label-noise",
)
GOAL = 12.0
"""How many standard errors a control is made to lie away, in the mean."""
_MOST = 3_000_000


def _calibration_trials(settings: Settings) -> list[Trial]:
    n = 400_000 if settings.full else 200_000
    trials = []
    for name, make in _families(settings).items():
        run = partial(_calibration, make, derive(settings.seed, "calibration", name), n)
        trials.append(Trial(name, partial(run, None)))
        trials += [Trial(name, partial(run, control), control) for control in _applicable(name, settings)]
    return trials


def _families(settings: Settings) -> dict[str, Callable[[], Mixture]]:
    if settings.mixture is not None:
        name, mixture = settings.mixture
        return {name: lambda: mixture}
    return {name: FAMILIES[name] for name in (FAMILIES if settings.full else QUICK_FAMILIES)}


_SIMPLE = {
    "sampler_off_by_2_percent": (
        *(
            "gaussian-isotropic-30d",
            "gaussian-classwise",
            "student",
            "laplace-1d",
            "bernoulli",
            "finite",
            "label-noise",
        ),
    ),
    "shuffled_rows": ("gaussian-2d-shared", "laplace-1d"),
    "forgotten_priors": ("gaussian-2d-shared", "laplace-1d", "student", "bernoulli"),
    "dropped_log_determinant": ("gaussian-classwise",),
    "deviation_for_variance": ("gaussian-isotropic-30d",),
}
"""Where the level quick tries the controls; a covariance 2 % off is left to families that show it with few points."""


def _applicable(name: str, settings: Settings) -> list[str]:
    if settings.mixture is not None:
        mixture = settings.mixture[1]
        sampler = mixture.misspecified(0.02)
        found = ["sampler_off_by_2_percent"] if _points_needed(mixture, sampler, settings.seed) < _MOST else []
        # where p* is nearly the same everywhere, exchanging its rows changes nothing
        return [*found, *(["shuffled_rows"] if _spread(mixture, settings.seed) > 0.01 else [])]
    chosen = [control for control, names in _SIMPLE.items() if name in names]
    everywhere = ["sampler_off_by_2_percent", "shuffled_rows"]
    return [*chosen, *(control for control in everywhere if control not in chosen)] if settings.full else chosen


def _calibration(make: Callable[[], Mixture], seed: int, n: int, control: str | None) -> Outcome:
    """The leading scores: along log p*, where a wrong scale shows, and the frequency of every class.

    Those after them catch finer faults, but each costs some of the false alarms that a suite can afford.
    """
    mixture = make()
    sampler = mixture
    if control == "sampler_off_by_2_percent":
        sampler = mixture.misspecified(0.02)
        n = _points_needed(mixture, sampler, seed)
    elif control is not None:
        n = 100_000
    x, y = sampler.sample(n, seed)
    scores = calibration_z(x, y, _stated(mixture, x, control, seed))[: 1 + mixture.num_classes]
    return Outcome(float(scores.abs().max()), STANDARD_ERRORS, comparisons=len(scores))


def _points_needed(mixture: Mixture, sampler: Mixture, seed: int, pilot: int = 20_000) -> int:
    """Points with which the labels of a wrong sampler will lie ``GOAL`` standard errors off in the mean.

    From its own P(y | x) on a pilot sample: how far off it is, without the noise of labels.
    """
    x, _ = sampler.sample(pilot, derive(seed, "pilot"))
    scores = calibration_z(x, sampler.posterior(x), mixture.log_posterior(x))[: 1 + mixture.num_classes]
    shown = max(float(scores.abs().max()), 1e-3)
    return min(max(int(pilot * (GOAL / shown) ** 2), pilot), _MOST)


def _spread(mixture: Mixture, seed: int) -> float:
    """How much p* varies with x: the largest variance of a class."""
    return float(mixture.posterior(mixture.sample(4096, derive(seed, "pilot"))[0]).var(0).max())


def _stated(mixture: Mixture, x: Tensor, control: str | None, seed: int) -> Tensor:
    """The log-posterior that is put to the test."""
    if control == "shuffled_rows":
        return mixture.log_posterior(x)[torch.randperm(len(x), generator=generator(seed, "shuffle"))]
    if control == "forgotten_priors":
        return PriorShift(mixture, torch.full_like(mixture.priors, 1 / mixture.num_classes)).log_posterior(x)
    if control == "dropped_log_determinant" and isinstance(mixture, GaussianMixture):
        quadratic = mixture.log_density(x) + mixture.covariance.logdet() / 2
        return (quadratic + mixture.priors.log()).log_softmax(-1)
    if control == "deviation_for_variance" and isinstance(mixture, GaussianMixture):
        return GaussianMixture(mixture.means, mixture.covariance.sqrt(), mixture.weights, mixture.priors).log_posterior(
            x
        )
    return mixture.log_posterior(x)


def _tails_picture(settings: Settings) -> Picture:
    """Two classes at -1 and 1 under four laws with quartiles at a distance of 1 from the centre."""
    x = torch.linspace(-30, 30, 241, dtype=torch.float64)
    places = [[-1.0], [1.0]]
    laws: dict[str, Mixture] = {
        "Gaussian": GaussianMixture(places, 2.198),
        "Laplace": LaplaceMixture(places, 1.4427),
        "Student, 3 degrees": StudentMixture(places, 1.7092, 3.0),
        "Cauchy": StudentMixture(places, 1.0, 1.0),
    }
    colours = dict(zip(laws, "abcd", strict=True))
    return {
        "kind": "curves",
        "title": "Far out, heavy tails forget the class",
        "caption": "P(class at +1 | x) for two equally likely classes at -1 and +1, quartiles 1 off. Gaussian log-odds "
        "grow with x, Laplace log-odds stop growing, Student log-odds fall back to 0: there p* does not saturate, and "
        "a network that extrapolates linearly is wrong.",
        "x_label": "x",
        "y_label": "p*",
        "x_log": False,
        "y_log": False,
        "series": [
            {
                "name": name,
                "x": rounded(x),
                "y": rounded(mixture.posterior(x[:, None])[:, 1]),
                "style": "line",
                "colour": colours[name],
            }
            for name, mixture in laws.items()
        ],
        "lines": [{"y": 0.5, "name": "1/2"}],
    }


_WRONG_DISTANCES = {
    "over_K": ("mse", "the mean over classes is taken"),
    "norm": ("mse", "a norm is taken for its square"),
    "swapped_arguments": ("ce", "the cross-entropy is taken the wrong way round"),
    "bits": ("kl", "bits are taken for nats"),
}


def _distance_trials(settings: Settings) -> list[Trial]:
    if settings.mixture is not None:
        return []
    run = partial(_known_distance, derive(settings.seed, "known distance"))
    keys = ("mse", "kl", "ce", "reverse_ce", "excess_risk")
    trials = [Trial("finite", partial(run, key, None), detail=key) for key in keys]
    for control, (key, _) in _WRONG_DISTANCES.items():
        trials.append(Trial("finite", partial(run, key, control), control, detail=key))
    return trials


def _known_distance(seed: int, key: str, control: str | None, epsilon: float = 0.3) -> Outcome:
    r"""``measure.distance`` on a distortion whose distance is known: q = (1 - eps) p* + eps / K.

    Then :math:`\|q - p^*\|^2 = \epsilon^2 \|p^* - 1/K\|^2` pointwise, and the arg max is kept, so the excess risk is 0.
    """
    mixture = FAMILIES["finite"]()
    support = mixture.support()
    if support is None:
        raise ValueError("the family 'finite' must have a support")
    points, weights = support
    p = mixture.posterior(points)
    num_classes = mixture.num_classes

    def smoothed(x: Tensor) -> Tensor:
        return (1 - epsilon) * mixture.posterior(x) + epsilon / num_classes

    q = smoothed(points)
    measured = distance(smoothed, mixture, n=len(points), seed=seed)[key].value
    expected = {
        "mse": float(epsilon**2 * weights @ (p**2).sum(-1) - epsilon**2 / num_classes),  # by hand: not by the package
        "kl": float(weights @ (p * (p / q).log()).sum(-1)),
        "ce": float(-weights @ (p * q.log()).sum(-1)),
        "reverse_ce": float(-weights @ (q * p.log()).sum(-1)),
        "excess_risk": 0.0,
    }
    value = expected[key]
    if control == "over_K":
        value /= num_classes
    elif control == "norm":
        value **= 0.5
    elif control == "swapped_arguments":
        value = expected["reverse_ce"]
    elif control == "bits":
        value /= math.log(2)
    return Outcome(abs(measured - value) / (1 + abs(value)), 1e-12)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "posterior-calibration",
        "C17",
        "The stated p* is that of the sampler",
        "Labels and p* agree: the mean of (e_y - p*) times bounded functions of x is zero.",
        r"\mathbb{E}\,\langle h(x),\, e_y - p^*(x) \rangle = 0",
        "Every mixture; every bounded h. Tried with h = log p* (clipped at -20, less what class constants explain) and "
        "h = every class.",
        "derived here, from the definition of p*",
        {
            "sampler_off_by_2_percent": "the sampler's covariance (or the family's counterpart) is 2 % off",
            "shuffled_rows": "every x has the p* of another",
            "forgotten_priors": "p* is that of equally likely classes",
            "dropped_log_determinant": "the log-determinants of the classes' covariances are dropped",
            "deviation_for_variance": "the standard deviation stands in the place of the variance",
        },
        _calibration_trials,
        picture=_tails_picture,
        repeat=False,
    ),
    Claim(
        "known-distance",
        "C14",
        "The instrument measures what it says",
        "The measured distance of a smoothed p* is its closed form.",
        r"q = (1-\epsilon)\,p^* + \epsilon / K \;\Rightarrow\; "
        r"\mathbb{E}\|q - p^*\|^2 = \epsilon^2\,\mathbb{E}\|p^* - 1/K\|^2",
        "Finite X, where expectations are sums.",
        "derived here",
        {control: note for control, (_, note) in _WRONG_DISTANCES.items()},
        _distance_trials,
        repeat=False,
    ),
)
