r"""Mixtures of products of Bernoulli or categorical coordinates: binary images and tables, exact while small."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor

from bcpd.mixtures.components import ComponentMixture, finite_values
from bcpd.tensors import ArrayLike, probability_rows

__all__ = ["BernoulliMixture", "CategoricalMixture"]

_LEAST = 1e-6
_CELLS = 2**16  # so many values of x are enumerated
_WHOLE = 1e-6  # x may be this far from a whole number, so that warped values come back


class _ProductMixture(ComponentMixture):
    """Coordinates that take the values 0 .. V-1, independent given the component."""

    _table: Tensor
    """Probabilities ``(K, C, d, V)``; 0 where a coordinate does not have the value."""

    def _set_table(
        self, table: Tensor, shape: tuple[int, ...], weights: ArrayLike | None, priors: ArrayLike | None
    ) -> None:
        classes, components, dimension, values = table.shape
        self._set_classes(classes, components, shape, weights, priors)
        self._exists = (table > 0).any(0).any(0)
        self._table = table
        logs = torch.where(self._exists, self._table.log(), 0.0)
        self._base = logs[..., 0].sum(-1)
        # log f = sum_j log p_j(0) + sum_v sum_j [x_j = v] (log p_j(v) - log p_j(0)): linear in indicators
        self._slopes = (logs[..., 1:] - logs[..., :1]).permute(3, 2, 0, 1).reshape(values - 1, dimension, -1)
        edges = self._table.cumsum(-1)[..., :-1]
        last = values - 1 - self._exists.flip(-1).to(torch.int64).argmax(-1, keepdim=True)
        # rounding must not reach values that do not exist
        self._edges = torch.where(torch.arange(values - 1) >= last, math.inf, edges).flatten(0, 1)

    @abstractmethod
    def _with_table(self, table: Tensor) -> Self:
        """The same family with other probabilities."""

    def support(self) -> tuple[Tensor, Tensor] | None:
        """All values of x, ``(n, *shape)``, and their probabilities, where there are at most 65,536; else None."""
        sizes = self._exists.sum(-1).tolist()
        if math.prod(sizes) > _CELLS:
            return None
        axes = [row.nonzero()[:, 0].to(torch.float64) for row in self._exists]
        cells = torch.cartesian_prod(*axes).reshape(-1, len(axes))
        points = cells.reshape(len(cells), *self.shape)
        return points, (self.log_density(points) + self.priors.log()).logsumexp(-1).exp()

    def _sample_components(self, component: Tensor, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(len(component), len(self._exists), dtype=torch.float64, generator=generator)
        x = torch.zeros_like(uniform)
        for edge in self._edges.unbind(-1):
            x += uniform >= edge[component]
        return x.reshape(len(component), *self.shape)

    def _log_components(self, x: Tensor) -> Tensor:
        rows = x.flatten(1)
        values = rows.round()
        inside = (values >= 0) & (values < self._exists.shape[1]) & ((rows - values).abs() <= _WHOLE)
        index = torch.where(inside, values, 0.0).to(torch.int64)
        exists = self._exists.to(x.device)[torch.arange(rows.shape[1], device=x.device), index]
        wrong = ~(inside & exists)
        if bool(wrong.any()):
            row, coordinate = wrong.nonzero()[0].tolist()
            known = self._exists[coordinate].nonzero()[:, 0].tolist()
            raise ValueError(
                f"coordinate {coordinate} of x must be one of {known}, received {float(rows[row, coordinate]):.6g}"
            )
        logs = self._base.to(x.device).flatten().expand(len(rows), -1)
        for value, slope in enumerate(self._slopes.to(x.device), start=1):
            logs = torch.addmm(logs, (index == value).to(torch.float64), slope)
        return logs.reshape(len(rows), *self._base.shape)

    def _log_common(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 1, dtype=torch.float64, device=x.device)

    def _separated(self, separation: float) -> Self:
        logs = torch.where(self._exists, self._table.log(), 0.0)
        centre = self._centre_of(logs)
        moved = centre + separation * (logs - centre)
        return self._with_table(_lifted(torch.where(self._exists, moved, -math.inf).softmax(-1), self._exists))

    def misspecified(self, amount: float = 0.02) -> Self:
        """Every coordinate is, with probability ``amount``, drawn anew from the values it has, all equally likely."""
        even = self._exists / self._exists.sum(-1, keepdim=True)
        return self._with_table((1 - amount) * self._table + amount * even)


class CategoricalMixture(_ProductMixture):
    r"""Coordinates with values 0 .. V-1, independent given class and component (latent class model, Goodman 1974):

    .. math:: f_k(x) = \sum_c w_{kc} \prod_j \theta_{kcj x_j} .

    Everything is exact while X has at most 65,536 values: :meth:`support` lists them.

    Args:
        probabilities: ``(K, *shape, V)``; with ``weights``, ``(K, C, *shape, V)``. A value that has probability 0 under
            every component does not exist: coordinates may have fewer than V values. Other probabilities below 1e-6 are
            raised to 1e-6, at the expense of the largest of their row.
        weights: ``(K, C)`` for C components a class.
        priors: ``(K,)``, positive; equal by default.
    Raises:
        ValueError: shapes that do not fit, rows that are not probabilities.
    """

    kind = "categorical"

    def __init__(
        self, probabilities: ArrayLike, weights: ArrayLike | None = None, priors: ArrayLike | None = None
    ) -> None:
        rows = probability_rows(probabilities, "probabilities", tolerance=1e-6).detach().cpu().clone()
        least = 3 if weights is None else 4
        if rows.ndim < least or 0 in rows.shape or rows.shape[-1] < 2:
            form = "(K, *shape, V)" if weights is None else "(K, C, *shape, V) with weights (K, C)"
            raise ValueError(f"probabilities must have shape {form} with V >= 2, received {tuple(rows.shape)}")
        table = rows[:, None] if weights is None else rows
        self._single = weights is None
        flat = table.flatten(2, -2)
        self._set_table(_lifted(flat, (flat > 0).any(0).any(0)), tuple(table.shape[2:-1]), weights, priors)

    @property
    def probabilities(self) -> Tensor:
        """As used: ``(K, *shape, V)``, or ``(K, C, *shape, V)``."""
        table = self._table.reshape(*self._table.shape[:2], *self.shape, -1)
        return table[:, 0] if self._single else table

    def _with_table(self, table: Tensor) -> Self:
        rows = table.reshape(*table.shape[:2], *self.shape, -1)
        return (
            type(self)(rows[:, 0], None, self.priors) if self._single else type(self)(rows, self.weights, self.priors)
        )

    def _arguments(self) -> dict[str, Any]:
        return {
            "probabilities": self.probabilities.tolist(),
            "weights": None if self._single else self.weights.tolist(),
            "priors": self.priors.tolist(),
        }


class BernoulliMixture(_ProductMixture):
    r"""Binary coordinates, independent given class and component; with one component a class, a linear softmax model:

    .. math:: \log f_k(x) = \sum_j \log(1 - \theta_{kj}) + \langle \mathrm{logit}\,\theta_k,\, x \rangle .

    Everything is exact while X has at most 65,536 values, 16 coordinates: :meth:`support` lists them.

    Args:
        theta: P(x_j = 1), ``(K, *shape)``, for example ``(K, h, w)`` for images; with ``weights``,
            ``(K, C, *shape)``. Clipped to [1e-6, 1 - 1e-6], so that logits are finite.
        weights: ``(K, C)`` for C components a class.
        priors: ``(K,)``, positive; equal by default.
    Raises:
        ValueError: shapes that do not fit, entries outside [0, 1].
    """

    kind = "bernoulli"

    def __init__(self, theta: ArrayLike, weights: ArrayLike | None = None, priors: ArrayLike | None = None) -> None:
        given = finite_values(theta, "theta")
        least = 2 if weights is None else 3
        if given.ndim < least or 0 in given.shape:
            form = "(K, *shape)" if weights is None else "(K, C, *shape) with weights (K, C)"
            raise ValueError(f"theta must have shape {form}, received {tuple(given.shape)}")
        if bool(((given < 0) | (given > 1)).any()):
            raise ValueError(f"theta must lie in [0, 1], received {float(given.min()):.6g} .. {float(given.max()):.6g}")
        self.theta = given.clamp(_LEAST, 1 - _LEAST)
        rows = self.theta[:, None] if weights is None else self.theta
        ones = rows.flatten(2)
        self._set_table(torch.stack([1 - ones, ones], -1), tuple(rows.shape[2:]), weights, priors)
        self._single = weights is None

    def _with_table(self, table: Tensor) -> Self:
        ones = table[..., 1].reshape(*table.shape[:2], *self.shape)
        return (
            type(self)(ones[:, 0], None, self.priors) if self._single else type(self)(ones, self.weights, self.priors)
        )

    def _arguments(self) -> dict[str, Any]:
        return {
            "theta": self.theta.tolist(),
            "weights": None if self._single else self.weights.tolist(),
            "priors": self.priors.tolist(),
        }


def _lifted(table: Tensor, exists: Tensor) -> Tensor:
    """Rows summing to 1 with no existing entry below the least; what that takes, the largest entry gives."""
    total = table.sum(-1, keepdim=True)
    rows = torch.where((total - 1).abs() <= 1e-15 * table.shape[-1], table, table / total)
    lifted = torch.where(exists, rows.clamp(min=_LEAST), 0.0)
    surplus = (lifted - rows).sum(-1, keepdim=True)
    largest = torch.nn.functional.one_hot(rows.argmax(-1), rows.shape[-1])
    return torch.where(surplus > 0, lifted - surplus * largest, rows)
