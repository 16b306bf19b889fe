"""The instruments that everything is measured with: is p* calibrated, is the Bayes error right, is a distance right?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bcpd import simplex
from bcpd.measure import distance
from bcpd.mixtures import FAMILIES, PriorShift
from bcpd.mixtures.calibration import calibration_z
from bcpd.seeds import derive
from bcpd.theory.check import Check, Role

__all__ = ["data_checks"]

QUICK_FAMILIES = ("gaussian-isotropic-30d", "gaussian-2d-shared", "gaussian-classwise", "finite", "label-noise")


def data_checks(level: str, seed: int) -> list[Callable[[], Check]]:
    """Checks of mixtures and of the distance to p*, each with its wrong version; call them to run them."""
    names = QUICK_FAMILIES if level == "quick" else tuple(FAMILIES)
    roles: tuple[Role, ...] = ("claim", "control")
    checks: list[Callable[[], Check]] = []
    for name in names:
        for role in roles:
            checks.append(partial(_calibration, name, derive(seed, "calibration", name), role))
    for name in names:
        if FAMILIES[name]().bayes_error(n=2).method != "monte_carlo":
            for role in roles:
                checks.append(partial(_bayes_error, name, derive(seed, "bayes error", name), role))
    distances = _known_distances(derive(seed, "known distance"))
    return [*checks, *(partial(_itself, check) for check in distances)]


def _itself(check: Check) -> Check:
    return check


def _calibration(name: str, seed: int, role: Role, n: int = 200_000) -> Check:
    """E<h(x), e_y - p*(x)> = 0 for bounded h; a sampler 2 % off must show."""
    mixture = FAMILIES[name]()
    statement = "labels and p* agree: the mean of (e_y - p*) times bounded functions of x is zero"
    identifier, sampler = f"posterior-calibration/{name}", mixture
    if role == "control":
        statement += ", but the sampler's covariance (or the family's counterpart) is 2 % off"
        identifier += "/sampler_off_by_2_percent"
        # more points, so that the wrong sampler is well beyond the bound
        sampler, n = mixture.misspecified(0.02), 4 * n
    x, y = sampler.sample(n, seed)
    value = float(calibration_z(x, y, mixture.log_posterior(x)).abs().max())
    return Check.of(identifier, statement, name, "-", role, value, 5.0)


def _bayes_error(name: str, seed: int, role: Role) -> Check:
    """Closed form or quadrature against Monte Carlo; wrong priors must show."""
    mixture = FAMILIES[name]()
    best = mixture.bayes_error()
    statement, identifier = f"the Bayes error by {best.method} agrees with Monte Carlo", f"bayes-error/{name}"
    if role == "control":
        statement += ", but Monte Carlo has other priors"
        identifier += "/wrong_priors"
        priors = (mixture.priors.roll(1) + mixture.priors) / 2
        if bool(torch.isclose(priors, mixture.priors).all()):
            priors = torch.linspace(1, 2, mixture.num_classes, dtype=torch.float64)
        mixture = PriorShift(mixture, priors / priors.sum())
    sampled = mixture.bayes_error(method="monte_carlo", n=400_000, seed=seed)
    value = abs(sampled.value - best.value) / (sampled.stderr + best.stderr)
    return Check.of(identifier, statement, name, "-", role, value, 5.0)


def _known_distances(seed: int, epsilon: float = 0.3) -> list[Check]:
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
    uniform = torch.full_like(p, 1 / num_classes)

    def smoothed(x: Tensor) -> Tensor:
        return (1 - epsilon) * mixture.posterior(x) + epsilon / num_classes

    q = smoothed(points)
    measured = distance(smoothed, mixture, n=len(points), seed=seed)
    mse = float(weights @ (epsilon**2 * simplex.squared_distance(p, uniform)))
    expected = {
        "mse": mse,
        "kl": float(weights @ (p * (p / q).log()).sum(-1)),
        "ce": float(-weights @ (p * q.log()).sum(-1)),
        "reverse_ce": float(-weights @ (q * p.log()).sum(-1)),
        "excess_risk": 0.0,
    }
    checks = []
    for key, value in expected.items():
        error = abs(measured[key].value - value) / (1 + abs(value))
        statement = f"the measured {key} of a smoothed p* is its closed form"
        checks.append(Check.of(f"known-distance/{key}", statement, "finite", "-", "claim", error, 1e-12))
    wrong = {
        "over_K": (mse / num_classes, "mse", "the mean over classes is taken"),
        "norm": (mse**0.5, "mse", "a norm is taken for its square"),
        "swapped_arguments": (expected["reverse_ce"], "ce", "the cross-entropy is taken the wrong way round"),
        "bits": (expected["kl"] / torch.log(torch.tensor(2.0)).item(), "kl", "bits are taken for nats"),
    }
    for control, (value, key, note) in wrong.items():
        error = abs(measured[key].value - value) / (1 + abs(value))
        statement = f"the measured {key} of a smoothed p* is its closed form, but {note}"
        identifier = f"known-distance/{key}/{control}"
        checks.append(Check.of(identifier, statement, "finite", "-", "control", error, 1e-12))
    return checks
