r"""Invertible maps of x: the data look different, p* does not change.

For :math:`x = g(z)` with g invertible, the densities of all classes get the same Jacobian factor, which cancels:
:math:`p^*_x(x) = p^*_z(g^{-1}(x))`, and the Bayes error is that of z (Theisen et al. 2021, Proposition 1). A warp so
makes a problem of exactly known difficulty as non-linear as wanted. Every warp here has an inverse in closed form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bcpd.estimate import Estimate
from bcpd.mixtures.base import Mixture
from bcpd.mixtures.bayes_error import ComponentJoint
from bcpd.mixtures.components import finite_values
from bcpd.mixtures.points import PointTable
from bcpd.mixtures.wrappers import Wrapper
from bcpd.tensors import ArrayLike

__all__ = ["WARPS", "Affine", "Bend", "SinhArcsinh", "Warp", "Warped"]

_CONDITION = 1e6


class Warp(ABC):
    """An invertible map of the d coordinates of x, flattened where x has several axes."""

    kind: ClassVar[str]

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """g(z): float64 ``(n, d)`` -> ``(n, d)``."""

    @abstractmethod
    def inverse(self, x: Tensor) -> Tensor:
        """The z with g(z) = x: float64 ``(n, d)`` -> ``(n, d)``."""

    @abstractmethod
    def check(self, dimension: int) -> None:
        """Raise ``ValueError`` where the warp cannot take ``dimension`` coordinates."""

    @abstractmethod
    def _arguments(self) -> dict[str, Any]:
        """Constructor arguments as JSON-able values, without loss."""

    def spec(self) -> dict[str, Any]:
        """The warp as JSON-able values."""
        return {"kind": self.kind, **self._arguments()}


class Affine(Warp):
    r""":math:`x = A z + b`.

    Args:
        matrix: A, ``(d, d)``, with a condition number of at most 1e6, so that the inverse keeps nine digits.
        offset: b, ``(d,)``.
    Raises:
        ValueError: shapes that do not fit, entries that are not finite, a matrix that is (nearly) singular.
    """

    kind = "affine"

    def __init__(self, matrix: ArrayLike, offset: ArrayLike) -> None:
        self.matrix, self.offset = finite_values(matrix, "matrix"), finite_values(offset, "offset")
        d = len(self.matrix) if self.matrix.ndim else 0
        if d == 0 or tuple(self.matrix.shape) != (d, d) or tuple(self.offset.shape) != (d,):
            raise ValueError(
                f"matrix and offset must have shapes (d, d) and (d,), "
                f"received {tuple(self.matrix.shape)} and {tuple(self.offset.shape)}"
            )
        condition = float(torch.linalg.cond(self.matrix))
        if not condition <= _CONDITION:
            raise ValueError(f"matrix must have a condition number of at most {_CONDITION:g}, received {condition:.3g}")

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.matrix.T.to(z.device) + self.offset.to(z.device)

    def inverse(self, x: Tensor) -> Tensor:
        solved: Tensor = torch.linalg.solve(self.matrix.to(x.device), (x - self.offset.to(x.device)).T)
        return solved.T

    def check(self, dimension: int) -> None:
        _fits(self.offset, dimension, "offset")

    def _arguments(self) -> dict[str, Any]:
        return {"matrix": self.matrix.tolist(), "offset": self.offset.tolist()}


class SinhArcsinh(Warp):
    r"""Skewness and tails of each coordinate: :math:`x = \sinh\big((\mathrm{asinh}\, z + \epsilon) / \delta\big)`.

    (Jones & Pewsey 2009.) The inverse is :math:`z = \sinh(\delta\, \mathrm{asinh}\, x - \epsilon)`.

    Args:
        skewness: :math:`\epsilon`, a scalar or ``(d,)``; positive skews to the right.
        tails: :math:`\delta > 0`, a scalar or ``(d,)``; below 1 tails become heavier, above 1 lighter.
    Raises:
        ValueError: shapes that do not fit, entries that are not finite, tails that are not positive.
    """

    kind = "sinh_arcsinh"

    def __init__(self, skewness: ArrayLike, tails: ArrayLike) -> None:
        self.skewness, self.tails = finite_values(skewness, "skewness"), finite_values(tails, "tails")
        if max(self.skewness.ndim, self.tails.ndim) > 1:
            raise ValueError(
                f"skewness and tails must have shape () or (d,), "
                f"received {tuple(self.skewness.shape)} and {tuple(self.tails.shape)}"
            )
        if bool((self.tails <= 0).any()):
            raise ValueError(f"tails must be positive, received a minimum of {float(self.tails.min()):.6g}")

    def forward(self, z: Tensor) -> Tensor:
        return ((z.asinh() + self.skewness.to(z.device)) / self.tails.to(z.device)).sinh()

    def inverse(self, x: Tensor) -> Tensor:
        return (self.tails.to(x.device) * x.asinh() - self.skewness.to(x.device)).sinh()

    def check(self, dimension: int) -> None:
        _fits(self.skewness, dimension, "skewness")
        _fits(self.tails, dimension, "tails")

    def _arguments(self) -> dict[str, Any]:
        return {"skewness": self.skewness.tolist(), "tails": self.tails.tolist()}


class Bend(Warp):
    r"""An additive coupling that bends planes into bananas: :math:`x_{2j+1} = z_{2j+1} + a (z_{2j}^2 - 1)`.

    Coordinates 0, 2, ... stay as they are (Haario, Saksman & Tamminen 1999; additive couplings: Dinh, Krueger & Bengio
    2015). The inverse subtracts what was added. With an odd number of coordinates the last one stays too.

    Args:
        curvature: a.
    Raises:
        ValueError: a curvature that is not finite, or x with fewer than two coordinates.
    """

    kind = "bend"

    def __init__(self, curvature: float) -> None:
        self.curvature = float(finite_values(curvature, "curvature"))

    def forward(self, z: Tensor) -> Tensor:
        return self._shifted(z, self.curvature)

    def inverse(self, x: Tensor) -> Tensor:
        return self._shifted(x, -self.curvature)

    def _shifted(self, rows: Tensor, curvature: float) -> Tensor:
        output = rows.clone()
        pairs = rows.shape[1] // 2
        output[:, 1::2] += curvature * (rows[:, : 2 * pairs : 2].square() - 1)
        return output

    def check(self, dimension: int) -> None:
        if dimension < 2:
            raise ValueError(f"a bend needs x with at least 2 coordinates, received {dimension}")

    def _arguments(self) -> dict[str, Any]:
        return {"curvature": self.curvature}


WARPS: dict[str, Callable[..., Warp]] = {
    Affine.kind: Affine,
    SinhArcsinh.kind: SinhArcsinh,
    Bend.kind: Bend,
}


class Warped(Wrapper):
    r"""A mixture seen through an invertible map: x = g(z), :math:`p^*(x) = p^*_z(g^{-1}(x))`.

    The Bayes error, its methods and tuning are those of the mixture. Warps nest. Where X is finite, so is its image:
    :meth:`support` lists it, and points are found among it by their bits.

    Args:
        mixture: any.
        warp: one of :class:`Affine`, :class:`SinhArcsinh`, :class:`Bend`, a :class:`Warp` of your own, or the ``spec``
            of a registered one.
    Raises:
        ValueError: a warp that is none, or does not fit the number of coordinates.
    """

    kind = "warped"

    def __init__(self, mixture: Mixture, warp: Warp | Mapping[str, Any]) -> None:
        super().__init__(mixture)
        self.num_classes, self.priors = mixture.num_classes, mixture.priors
        self.symmetries = frozenset()
        self.warp = _warp(warp)
        self.warp.check(torch.Size(self.shape).numel())

    @cached_property
    def _tables(self) -> tuple[PointTable, PointTable, Tensor] | None:
        """A finite X before and after the warp, and its weights."""
        support = self.mixture.support()
        if support is None:
            return None
        return PointTable(support[0]), PointTable(self._image(support[0])), support[1]

    def _image(self, z: Tensor) -> Tensor:
        return self.warp.forward(z.flatten(1)).reshape(z.shape)

    def sample_given(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """g(z) for z ~ P(z | y) of the wrapped mixture."""
        z = self.mixture.sample_given(y, generator)
        return self._image(z) if self._tables is None else self._tables[1].points[self._tables[0].find(z)]

    def _log_posterior_rows(self, x: Tensor) -> Tensor:
        if self._tables is not None:
            z = self._tables[0].points.to(x.device)[self._tables[1].find(x)]
        else:
            z = self.warp.inverse(x.flatten(1)).reshape(x.shape)
            if not bool(z.isfinite().all()):
                raise ValueError("x must lie where the inverse of the warp is finite, received a point beyond")
        return self.mixture._log_posterior_rows(z)

    def support(self) -> tuple[Tensor, Tensor] | None:
        """The image of a finite X, with the same weights."""
        return None if self._tables is None else (self._tables[1].points, self._tables[2])

    def _analytic_bayes_error(self) -> Estimate | None:
        return self.mixture._analytic_bayes_error()

    def _component_joint(self) -> ComponentJoint | None:
        return self.mixture._component_joint()

    def _around(self, mixture: Mixture) -> Self:
        return type(self)(mixture, self.warp)

    def misspecified(self, amount: float = 0.02) -> Warped:
        """The wrapped mixture misspecified, through the same warp."""
        return Warped(self.mixture.misspecified(amount), self.warp)

    def _arguments(self) -> dict[str, Any]:
        return {"mixture": self.mixture.spec(), "warp": self.warp.spec()}


def _warp(value: object) -> Warp:
    if isinstance(value, Warp):
        return value
    arguments = dict(value) if isinstance(value, Mapping) else {}
    kind = arguments.pop("kind", None)
    if kind not in WARPS:
        raise ValueError(f"warp must be a Warp, or a spec with a kind among {sorted(WARPS)}, received {value!r}")
    try:
        return WARPS[kind](**arguments)
    except TypeError as error:
        raise ValueError(f"a warp of kind {kind!r} does not take {sorted(arguments)}: {error}") from None


def _fits(parameter: Tensor, dimension: int, name: str) -> None:
    if parameter.ndim and len(parameter) != dimension:
        raise ValueError(
            f"{name} must have one entry for each of the {dimension} coordinates, received {len(parameter)}"
        )
