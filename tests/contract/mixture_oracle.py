"""What the contract suite knows about each kind of mixture, from its spec alone: p* in 50 digits, and transformations.

A new kind needs an entry in the tables; until then the suite fails on it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import mpmath
import torch
from torch import Tensor

Spec = dict[str, Any]
Row = list[Any]
mpmath.mp.dps = 50


# ---------------------------------------------------------------------------------------------- posterior in 50 digits


def log_posterior(spec: Spec, x: Tensor) -> list[float]:
    """log p* of one x, flattened where it has several axes; mpmath's exponents have no bounds: nothing underflows."""
    row = [mpmath.mpf(v) for v in x.flatten().tolist()]
    return [float(mpmath.log(p)) if p > 0 else -float("inf") for p in _posterior(spec, row)]


def _posterior(spec: Spec, x: Row) -> Row:
    return POSTERIOR[spec["kind"]](spec, x)


def _normalised(row: Row) -> Row:
    total = mpmath.fsum(row)
    return [entry / total for entry in row]


def _components(spec: Spec, name: str, density: Callable[[int, int, Any, Row], Any], x: Row) -> Row:
    """A mixture over components within classes, from the densities of components up to a common factor."""
    joint = []
    single = spec["weights"] is None
    for k, prior in enumerate(spec["priors"]):
        places = [spec[name][k]] if single else spec[name][k]
        weights = [1.0] if single else spec["weights"][k]
        densities = [density(k, c, place, x) for c, place in enumerate(places)]
        inside = mpmath.fsum(mpmath.mpf(w) * f for w, f in zip(weights, densities, strict=True))
        joint.append(mpmath.mpf(prior) * inside)
    return _normalised(joint)


def _gaussian(spec: Spec, x: Row) -> Row:
    def density(k: int, c: int, mean: list[float], x: Row) -> Any:
        square, determinant = _mahalanobis(spec["covariance"], k, c, mean, x)
        return mpmath.exp(-square / 2) / mpmath.sqrt(determinant)

    return _components(spec, "means", density, x)


def _student(spec: Spec, x: Row) -> Row:
    degrees = mpmath.mpf(spec["degrees"])

    def density(k: int, c: int, mean: list[float], x: Row) -> Any:
        square, determinant = _mahalanobis(spec["scale"], k, c, mean, x)
        return (1 + square / degrees) ** (-(degrees + len(x)) / 2) / mpmath.sqrt(determinant)

    return _components(spec, "means", density, x)


def _laplace(spec: Spec, x: Row) -> Row:
    scales = spec["scales"]
    depth = torch.tensor(scales).ndim

    def density(k: int, c: int, mean: list[float], x: Row) -> Any:
        row = {0: lambda: [scales] * len(x), 1: lambda: scales, 2: lambda: scales[k], 3: lambda: scales[k][c]}[depth]()
        spreads = [mpmath.mpf(b) for b in row]
        gaps = mpmath.fsum(abs(a - mpmath.mpf(m)) / b for a, m, b in zip(x, mean, spreads, strict=True))
        return mpmath.exp(-gaps) / mpmath.fprod(spreads)

    return _components(spec, "means", density, x)


def _bernoulli(spec: Spec, x: Row) -> Row:
    def density(k: int, c: int, theta: Any, x: Row) -> Any:
        ones = [mpmath.mpf(t) for t in torch.tensor(theta, dtype=torch.float64).flatten().tolist()]
        return mpmath.fprod(t if round(v) == 1 else 1 - t for t, v in zip(ones, x, strict=True))

    return _components(spec, "theta", density, x)


def _categorical(spec: Spec, x: Row) -> Row:
    def density(k: int, c: int, table: Any, x: Row) -> Any:
        rows = torch.tensor(table, dtype=torch.float64).flatten(0, -2).tolist()
        return mpmath.fprod(mpmath.mpf(row[round(v)]) for row, v in zip(rows, x, strict=True))

    return _components(spec, "probabilities", density, x)


def _factor_analyzers(spec: Spec, x: Row) -> Row:
    """With every covariance written out, W W^T + diag(psi)."""

    def density(k: int, c: int, mean: Any, x: Row) -> Any:
        loadings = torch.tensor(spec["loadings"][k][c], dtype=torch.float64).flatten(0, -2).tolist()
        inverse, determinant = _factor_covariance(
            tuple(map(tuple, loadings)), tuple(_flat(spec["noise_variances"][k][c]))
        )
        gap = mpmath.matrix([a - mpmath.mpf(b) for a, b in zip(x, _flat(mean), strict=True)])
        return mpmath.exp(-(gap.T * inverse * gap)[0] / 2) / mpmath.sqrt(determinant)

    return _components(spec, "means", density, x)


@lru_cache(maxsize=64)
def _factor_covariance(loadings: tuple[tuple[float, ...], ...], noise: tuple[float, ...]) -> tuple[Any, Any]:
    """Inverse and determinant."""
    factors = mpmath.matrix([list(row) for row in loadings])
    matrix = factors * factors.T + mpmath.diag([mpmath.mpf(v) for v in noise])
    return matrix**-1, mpmath.det(matrix)


def _shifted_templates(spec: Spec, x: Row) -> Row:
    """The mean over every shift of the density around the shifted picture."""

    def density(k: int, c: int, template: Any, x: Row) -> Any:
        picture = torch.tensor(template, dtype=torch.float64)
        height, width = picture.shape[1:]
        shifts = [picture.roll((i, j), (1, 2)).flatten().tolist() for i in range(height) for j in range(width)]
        squares = [mpmath.fsum((a - mpmath.mpf(b)) ** 2 for a, b in zip(x, row, strict=True)) for row in shifts]
        return mpmath.fsum(mpmath.exp(-square / (2 * mpmath.mpf(spec["variance"]))) for square in squares)

    return _components(spec, "templates", density, x)


def _gaussian_textures(spec: Spec, x: Row) -> Row:
    """With the covariance of every channel written out from its spectrum."""
    channels = len(spec["mean"])
    size = len(x) // channels
    joint = []
    for spectra, prior in zip(spec["spectra"], spec["priors"], strict=True):
        density = mpmath.mpf(prior)
        for channel, (spectrum, mean) in enumerate(zip(spectra, spec["mean"], strict=True)):
            inverse, determinant = _field_covariance(tuple(map(tuple, spectrum)))
            gap = mpmath.matrix([v - mpmath.mpf(mean) for v in x[channel * size : (channel + 1) * size]])
            density *= mpmath.exp(-(gap.T * inverse * gap)[0] / 2) / mpmath.sqrt(determinant)
        joint.append(density)
    return _normalised(joint)


@lru_cache(maxsize=64)
def _field_covariance(spectrum: tuple[tuple[float, ...], ...]) -> tuple[Any, Any]:
    """Inverse and determinant of cov(x_u, x_v) = mean over w of S(w) cos 2 pi (w, u - v)."""
    height, width = len(spectrum), len(spectrum[0])
    cells = [(i, j) for i in range(height) for j in range(width)]

    def covariance(down: int, right: int) -> Any:
        turns = [mpmath.mpf(i * down) / height + mpmath.mpf(j * right) / width for i, j in cells]
        powers = [mpmath.mpf(spectrum[i][j]) for i, j in cells]
        return mpmath.fsum(s * mpmath.cospi(2 * t) for s, t in zip(powers, turns, strict=True)) / len(cells)

    table = {(down, right): covariance(down, right) for down, right in cells}
    matrix = mpmath.matrix([[table[(a - c) % height, (b - d) % width] for c, d in cells] for a, b in cells])
    return matrix**-1, mpmath.det(matrix)


def _flat(values: Any) -> list[float]:
    flat: list[float] = torch.tensor(values, dtype=torch.float64).flatten().tolist()
    return flat


def _mahalanobis(scale: Any, k: int, c: int, mean: list[float], x: Row) -> tuple[Any, Any]:
    """The squared distance in a scale matrix (given in any form), and the determinant."""
    gap = mpmath.matrix([a - mpmath.mpf(b) for a, b in zip(x, mean, strict=True)])
    depth = torch.tensor(scale).ndim
    if depth <= 1:
        variances = [scale] * len(x) if depth == 0 else scale
        square = mpmath.fsum(g**2 / mpmath.mpf(v) for g, v in zip(gap, variances, strict=True))
        return square, mpmath.fprod(map(mpmath.mpf, variances))
    own = {2: lambda: scale, 3: lambda: scale[k], 4: lambda: scale[k][c]}[depth]()
    inverse, determinant = _inverse(tuple(map(tuple, own)))
    return (gap.T * inverse * gap)[0], determinant


@lru_cache(maxsize=64)
def _inverse(rows: tuple[tuple[float, ...], ...]) -> tuple[Any, Any]:
    matrix = mpmath.matrix([list(row) for row in rows])
    return matrix**-1, mpmath.det(matrix)


def _finite(spec: Spec, x: Row) -> Row:
    """The row of the point, which a warp and its inverse may have moved by rounding."""

    def gap(point: Any) -> float:
        entries = torch.tensor(point, dtype=torch.float64).flatten().tolist()
        return float(max(abs(a - b) for a, b in zip(x, entries, strict=True)))

    gaps = [gap(point) for point in spec["points"]]
    assert min(gaps) < 1e-6
    return _normalised([mpmath.mpf(v) for v in spec["posterior"][gaps.index(min(gaps))]])


def _frozen_nature(spec: Spec, x: Row) -> Row:
    """The softmax of the image that x is, but for rounding."""
    images = torch.tensor(spec["images"]).flatten(1) / 255
    gaps = (images.double() - torch.tensor([float(v) for v in x]).double()).abs().amax(1)
    assert float(gaps.min()) < 1e-6
    return _softmax_row(spec, int(gaps.argmin()))


def _softmax_row(spec: Spec, row: int) -> Row:
    return _normalised([mpmath.exp(mpmath.mpf(z) / mpmath.mpf(spec["temperature"])) for z in spec["logits"][row]])


def _warped(spec: Spec, x: Row) -> Row:
    warp = spec["warp"]
    return _posterior(spec["mixture"], INVERSE[warp["kind"]](warp, x))


def _affine_inverse(warp: Spec, x: Row) -> Row:
    gap = mpmath.matrix([a - mpmath.mpf(b) for a, b in zip(x, warp["offset"], strict=True)])
    return list(_inverse(tuple(map(tuple, warp["matrix"])))[0] * gap)


def _sinh_arcsinh_inverse(warp: Spec, x: Row) -> Row:
    def each(value: Any) -> list[Any]:
        return [mpmath.mpf(v) for v in (value if isinstance(value, list) else [value] * len(x))]

    rows = zip(x, each(warp["skewness"]), each(warp["tails"]), strict=True)
    return [mpmath.sinh(t * mpmath.asinh(v) - s) for v, s, t in rows]


def _bend_inverse(warp: Spec, x: Row) -> Row:
    curvature = mpmath.mpf(warp["curvature"])
    return [v - curvature * (x[j - 1] ** 2 - 1) if j % 2 else v for j, v in enumerate(x)]


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
    if kind in COMPONENTS or kind in IMAGES or kind == "prior_shift":
        return [mpmath.mpf(p) for p in spec["priors"]]
    if kind == "finite":
        columns = zip(*spec["posterior"], strict=True)
        weights = [mpmath.mpf(w) for w in spec["weights"]]
        return [mpmath.fsum(w * mpmath.mpf(p) for w, p in zip(weights, column, strict=True)) for column in columns]
    if kind == "frozen_nature":
        rows = [_softmax_row(spec, i) for i in range(len(spec["logits"]))]
        return [mpmath.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
    base = priors(spec["mixture"])
    if kind == "warped":
        return base
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
    "student": _student,
    "laplace": _laplace,
    "bernoulli": _bernoulli,
    "categorical": _categorical,
    "factor_analyzers": _factor_analyzers,
    "shifted_templates": _shifted_templates,
    "gaussian_textures": _gaussian_textures,
    "warped": _warped,
    "frozen_nature": _frozen_nature,
}

INVERSE: dict[str, Callable[[Spec, Row], Row]] = {
    "affine": _affine_inverse,
    "sinh_arcsinh": _sinh_arcsinh_inverse,
    "bend": _bend_inverse,
}

COMPONENTS = {
    "gaussian": ("means", "covariance"),
    "student": ("means", "scale"),
    "laplace": ("means", "scales"),
    "bernoulli": ("theta", None),
    "categorical": ("probabilities", None),
}
"""Kinds with a density for each component: the parameter with a row a class, and the one that may have."""

IMAGES = {
    "factor_analyzers": ("means", "means", "loadings", "noise_variances", "weights"),
    "shifted_templates": ("templates", "templates", "weights"),
    "gaussian_textures": ("mean", "spectra"),
}
"""Kinds of image: the parameter that moves with x, then those with a row a class beside the priors."""


def discrete(spec: Spec) -> bool:
    """Whether x takes separate values only."""
    if "mixture" in spec:
        return discrete(spec["mixture"])
    return spec["kind"] in ("finite", "bernoulli", "categorical", "frozen_nature")


# ------------------------------------------------------------------------------------------------------ transformations


def permuted(spec: Spec, order: list[int]) -> Spec:
    """The same mixture, its class ``order[j]`` now called j."""

    def pick(rows: Any) -> Any:
        return None if rows is None else [rows[k] for k in order]

    def columns(rows: list[list[float]]) -> list[list[float]]:
        return [pick(row) for row in rows]

    kind = spec["kind"]
    if kind in COMPONENTS:
        place, scale = COMPONENTS[kind]
        changed = {key: pick(spec[key]) for key in (place, "weights", "priors")}
        if scale is not None:
            own = torch.tensor(spec[scale]).ndim >= (2 if kind == "laplace" else 3)
            changed[scale] = pick(spec[scale]) if own else spec[scale]
        return {**spec, **changed}
    if kind in IMAGES:
        return {**spec, **{key: pick(spec[key]) for key in (*IMAGES[kind][1:], "priors")}}
    if kind == "finite":
        return {**spec, "posterior": columns(spec["posterior"])}
    if kind == "frozen_nature":
        return {**spec, "logits": columns(spec["logits"])}
    if kind == "label_noise":
        return {**spec, "transition": columns(spec["transition"])}
    if kind == "superclasses":
        return {**spec, "groups": pick(spec["groups"])}
    if kind == "prior_shift":
        return {**spec, "mixture": permuted(spec["mixture"], order), "priors": pick(spec["priors"])}
    if kind == "warped":
        return {**spec, "mixture": permuted(spec["mixture"], order)}
    raise KeyError(kind)


def moved(spec: Spec, matrix: Tensor, offset: Tensor) -> Spec:
    """The law of ``matrix @ x + offset``: by other parameters where the family has them, else by a warp."""
    kind = spec["kind"]
    shift_only = torch.equal(matrix, torch.eye(len(offset), dtype=torch.float64))
    if "mixture" in spec and kind != "warped":
        return {**spec, "mixture": moved(spec["mixture"], matrix, offset)}
    if kind in IMAGES and shift_only and bool((offset == offset[0]).all()):
        place = IMAGES[kind][0]
        return {**spec, place: (torch.tensor(spec[place], dtype=torch.float64) + offset[0]).tolist()}
    through_a_warp = ("bernoulli", "categorical", "frozen_nature", "warped", *IMAGES)
    if kind in through_a_warp or (kind == "laplace" and not shift_only):
        return {
            "kind": "warped",
            "mixture": spec,
            "warp": {"kind": "affine", "matrix": matrix.tolist(), "offset": offset.tolist()},
        }
    place = "points" if kind == "finite" else "means"
    changed = {**spec, place: (torch.tensor(spec[place], dtype=torch.float64) @ matrix.T + offset).tolist()}
    if kind in ("gaussian", "student"):
        name = COMPONENTS[kind][1]
        scale = torch.tensor(spec[name], dtype=torch.float64)
        if scale.ndim <= 1:
            scale = torch.diag(scale.expand(len(offset)))
        changed[name] = (matrix @ scale @ matrix.T).tolist()
    return changed
