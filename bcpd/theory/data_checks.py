"""The instruments that everything is measured with: is p* calibrated, is the Bayes error right, is a distance right?"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bcpd.measure import distance
from bcpd.mixtures import FAMILIES, Mixture, PriorShift
from bcpd.mixtures.calibration import calibration_z
from bcpd.seeds import derive
from bcpd.theory.claim import Claim, Outcome, Settings, Trial

__all__ = ["CLAIMS"]

QUICK_FAMILIES = ("gaussian-isotropic-30d", "gaussian-2d-shared", "gaussian-classwise", "finite", "label-noise")


def _families(settings: Settings) -> dict[str, Callable[[], Mixture]]:
    if settings.mixture is not None:
        name, mixture = settings.mixture
        return {name: lambda: mixture}
    return {name: FAMILIES[name] for name in (FAMILIES if settings.full else QUICK_FAMILIES)}


def _calibration_trials(settings: Settings) -> list[Trial]:
    trials = []
    for name, make in _families(settings).items():
        run = partial(_calibration, make, derive(settings.seed, "calibration", name))
        trials += [Trial(name, partial(run, False)), Trial(name, partial(run, True), "sampler_off_by_2_percent")]
    return trials


def _bayes_error_trials(settings: Settings) -> list[Trial]:
    trials = []
    for name, make in _families(settings).items():
        if make().bayes_error(n=2).method != "monte_carlo":
            run = partial(_bayes_error, make, derive(settings.seed, "bayes error", name))
            trials += [Trial(name, partial(run, False)), Trial(name, partial(run, True), "wrong_priors")]
    return trials


def _calibration(make: Callable[[], Mixture], seed: int, wrong: bool, n: int = 200_000) -> Outcome:
    """E<h(x), e_y - p*(x)> = 0 for bounded h; a sampler 2 % off must show."""
    mixture = make()
    sampler = mixture
    if wrong:
        # more points, so that the wrong sampler is well beyond the bound
        sampler, n = mixture.misspecified(0.02), 4 * n
    x, y = sampler.sample(n, seed)
    scores = calibration_z(x, y, mixture.log_posterior(x))
    return Outcome(float(scores.abs().max()), 5.0, comparisons=len(scores))


def _bayes_error(make: Callable[[], Mixture], seed: int, wrong: bool) -> Outcome:
    """Closed form or quadrature against Monte Carlo; wrong priors must show."""
    mixture = make()
    best = mixture.bayes_error()
    if wrong:
        priors = (mixture.priors.roll(1) + mixture.priors) / 2
        if bool(torch.isclose(priors, mixture.priors).all()):
            priors = torch.linspace(1, 2, mixture.num_classes, dtype=torch.float64)
        mixture = PriorShift(mixture, priors / priors.sum())
    sampled = mixture.bayes_error(method="monte_carlo", n=400_000, seed=seed)
    value = abs(sampled.value - best.value) / (sampled.stderr + best.stderr)
    return Outcome(value, 5.0, comparisons=1)


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
        "Every mixture; every bounded h.",
        "derived here, from the definition of p*",
        {"sampler_off_by_2_percent": "the sampler's covariance (or the family's counterpart) is 2 % off"},
        _calibration_trials,
    ),
    Claim(
        "bayes-error",
        "C18",
        "Bayes errors by two integrators",
        "The Bayes error in closed form, by enumeration or by quadrature agrees with Monte Carlo.",
        r"L^* = \mathbb{E}\,[1 - \max_k p^*_k(x)]",
        "Mixtures with an exact or a quadrature Bayes error.",
        "definition",
        {"wrong_priors": "Monte Carlo has other priors"},
        _bayes_error_trials,
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
