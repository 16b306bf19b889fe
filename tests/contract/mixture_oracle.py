"""What the contract suite knows about each kind of mixture, from its spec alone: p* in 50 digits, and transformations.

A new kind needs an entry in each of the three tables; until then the suite fails on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import mpmath
import torch
from torch import Tensor

Spec = dict[str, Any]
Row = list[Any]
mpmath.mp.dps = 50


# ---------------------------------------------------------------------------------------------- posterior in 50 digits


def log_posterior(spec: Spec, x: Sequence[float]) -> list[float]:
    """log p* of one x; mpmath's exponents have no bounds, so plain probabilities do not underflow."""
    return [float(mpmath.log(p)) if p > 0 else -float("inf") for p in _posterior(spec, [mpmath.mpf(v) for v in x])]


def _posterior(spec: Spec, x: Row) -> Row:
    return POSTERIOR[spec["kind"]](spec, x)


def _normalised(row: Row) -> Row:
    total = mpmath.fsum(row)
    return [entry / total for entry in row]


def _gaussian(spec: Spec, x: Row) -> Row:
    joint = []
    single = spec["weights"] is None
    for k, prior in enumerate(spec["priors"]):
        means = [spec["means"][k]] if single else spec["means"][k]
        weights = [1.0] if single else spec["weights"][k]
        densities = [_density(spec, k, c, mean, x) for c, mean in enumerate(means)]
        inside = mpmath.fsum(mpmath.mpf(w) * f for w, f in zip(weights, densities, strict=True))
        joint.append(mpmath.mpf(prior) * inside)
    return _normalised(joint)


def _density(spec: Spec, k: int, c: int, mean: list[float], x: Row) -> Any:
    """Density up to (2 pi)^(-d/2)."""
    gap = mpmath.matrix([a - mpmath.mpf(b) for a, b in zip(x, mean, strict=True)])
    covariance = spec["covariance"]
    depth = torch.tensor(covariance).ndim
    if depth <= 1:
        variances = [covariance] * len(x) if depth == 0 else covariance
        square = mpmath.fsum(g**2 / mpmath.mpf(v) for g, v in zip(gap, variances, strict=True))
        determinant = mpmath.fprod(map(mpmath.mpf, variances))
    else:
        own = {2: lambda: covariance, 3: lambda: covariance[k], 4: lambda: covariance[k][c]}[depth]()
        inverse, determinant = _inverse(tuple(map(tuple, own)))
        square = (gap.T * inverse * gap)[0]
    return mpmath.exp(-square / 2) / mpmath.sqrt(determinant)


@lru_cache(maxsize=64)
def _inverse(rows: tuple[tuple[float, ...], ...]) -> tuple[Any, Any]:
    matrix = mpmath.matrix([list(row) for row in rows])
    return matrix**-1, mpmath.det(matrix)


def _finite(spec: Spec, x: Row) -> Row:
    (row,) = [p for point, p in zip(spec["points"], spec["posterior"], strict=True) if point == [float(v) for v in x]]
    return _normalised([mpmath.mpf(v) for v in row])


def _label_noise(spec: Spec, x: Row) -> Row:
    base = _posterior(spec["mixture"], x)
    columns = zip(*spec["transition"], strict=True)
    return [mpmath.fsum(p * mpmath.mpf(t) for p, t in zip(base, column, strict=True)) for column in columns]


def _superclasses(spec: Spec, x: Row) -> Row:
    base = _posterior(spec["mixture"], x)
    return [mpmath.fsum(base[k] for k in group) for group in spec["groups"]]


def _prior_shift(spec: Spec, x: Row) -> Row:
    base = _posterior(spec["mixture"], x)
    return _normalised(
        [p * mpmath.mpf(new) / old for p, new, old in zip(base, spec["priors"], priors(spec["mixture"]), strict=True)]
    )


def priors(spec: Spec) -> Row:
    """Class marginals from the definition."""
    kind = spec["kind"]
    if kind in ("gaussian", "prior_shift"):
        return [mpmath.mpf(p) for p in spec["priors"]]
    if kind == "finite":
        columns = zip(*spec["posterior"], strict=True)
        weights = [mpmath.mpf(w) for w in spec["weights"]]
        return [mpmath.fsum(w * mpmath.mpf(p) for w, p in zip(weights, column, strict=True)) for column in columns]
    base = priors(spec["mixture"])
    if kind == "label_noise":
        columns = zip(*spec["transition"], strict=True)
        return [mpmath.fsum(p * mpmath.mpf(t) for p, t in zip(base, column, strict=True)) for column in columns]
    if kind == "superclasses":
        return [mpmath.fsum(base[k] for k in group) for group in spec["groups"]]
    raise KeyError(kind)


POSTERIOR: dict[str, Callable[[Spec, Row], Row]] = {
    "gaussian": _gaussian,
    "finite": _finite,
    "label_noise": _label_noise,
    "superclasses": _superclasses,
    "prior_shift": _prior_shift,
}


# ------------------------------------------------------------------------------------------------------ transformations


def permuted(spec: Spec, order: list[int]) -> Spec:
    """The same mixture, its class ``order[j]`` now called j."""

    def pick(rows: Any) -> Any:
        return None if rows is None else [rows[k] for k in order]

    def columns(rows: list[list[float]]) -> list[list[float]]:
        return [pick(row) for row in rows]

    kind = spec["kind"]
    if kind == "gaussian":
        own = torch.tensor(spec["covariance"]).ndim >= 3
        covariance = pick(spec["covariance"]) if own else spec["covariance"]
        changed = {key: pick(spec[key]) for key in ("means", "weights", "priors")}
        return {**spec, **changed, "covariance": covariance}
    if kind == "finite":
        return {**spec, "posterior": columns(spec["posterior"])}
    if kind == "label_noise":
        return {**spec, "transition": columns(spec["transition"])}
    if kind == "superclasses":
        return {**spec, "groups": pick(spec["groups"])}
    if kind == "prior_shift":
        return {**spec, "mixture": permuted(spec["mixture"], order), "priors": pick(spec["priors"])}
    raise KeyError(kind)


def moved(spec: Spec, matrix: Tensor, offset: Tensor) -> Spec:
    """The law of ``matrix @ x + offset``."""
    if "mixture" in spec:
        return {**spec, "mixture": moved(spec["mixture"], matrix, offset)}
    place = {"gaussian": "means", "finite": "points"}[spec["kind"]]
    changed = {**spec, place: (torch.tensor(spec[place], dtype=torch.float64) @ matrix.T + offset).tolist()}
    if spec["kind"] == "gaussian":
        covariance = torch.tensor(spec["covariance"], dtype=torch.float64)
        dimension = len(offset)
        if covariance.ndim <= 1:
            covariance = torch.diag(covariance.expand(dimension))
        changed["covariance"] = (matrix @ covariance @ matrix.T).tolist()
    return changed
