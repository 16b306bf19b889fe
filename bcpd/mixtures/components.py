r"""What families with component densities share: weights and priors, the choice of a component, sums in logarithms."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from bcpd.mixtures.base import Mixture, differentiated, distributions
from bcpd.tensors import ArrayLike, float64

__all__ = ["ComponentMixture", "finite_values"]


class ComponentMixture(Mixture):
    r"""Class k draws x from :math:`f_k = \sum_c w_{kc} f_{kc}`; a family says what :math:`f_{kc}` is.

    Attributes:
        weights: ``(K, C)``, rows summing to 1; zero where a class has fewer components than others.
    """

    weights: Tensor

    def _set_classes(
        self,
        classes: int,
        components: int,
        shape: tuple[int, ...],
        weights: ArrayLike | None,
        priors: ArrayLike | None,
    ) -> None:
        """Check and keep what all families take alike; equal weights and priors by default."""
        self.num_classes, self.shape = classes, shape
        self.priors = distributions(torch.full((classes,), 1 / classes) if priors is None else priors, "priors")
        if tuple(self.priors.shape) != (classes,) or bool((self.priors <= 0).any()):
            raise ValueError(f"priors must be {classes} positive numbers, received {self.priors.tolist()}")
        even = torch.full((classes, components), 1 / components, dtype=torch.float64)
        self.weights = distributions(even if weights is None else weights, "weights")
        if tuple(self.weights.shape) != (classes, components):
            raise ValueError(f"weights must have shape ({classes}, {components}), received {tuple(self.weights.shape)}")

    # ------------------------------------------------------------------------------------------------- what a family is

    @abstractmethod
    def _log_components(self, x: Tensor) -> Tensor:
        """log f_kc of checked rows, ``(n, *shape)`` -> ``(n, K, C)``, up to a term in x alone (:meth:`_log_common`)."""

    @abstractmethod
    def _log_common(self, x: Tensor) -> Tensor:
        """The term that :meth:`_log_components` leaves out, ``(n, 1)``."""

    @abstractmethod
    def _sample_components(self, component: Tensor, generator: torch.Generator) -> Tensor:
        """One x for each component, numbered ``k * C + c``: ``(n,)`` -> ``(n, *shape)``."""

    # ------------------------------------------------------------------------------------------------- what follows

    def sample_given(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """One x ~ f_y a label: ``(n,)`` -> ``(n, *shape)``; the component first, then x."""
        uniform = torch.rand(len(y), 1, dtype=torch.float64, generator=generator)
        edges = self.weights.cumsum(1)
        # the largest edge below the total: components of weight zero at the end are never chosen
        component = (uniform * edges[y, -1:] >= edges[y, :-1]).sum(1)
        return self._sample_components(y * self.weights.shape[1] + component, generator)

    def _log_classes(self, x: Tensor) -> Tensor:
        terms = self._log_components(x) + self.weights.log().to(x.device)
        return terms[..., 0] if terms.shape[-1] == 1 else terms.logsumexp(-1)

    def _log_posterior_rows(self, x: Tensor) -> Tensor:
        # one point gives the linear form its offsets
        linear = self._linear_posterior() if len(x) > 1 and not differentiated(x) else None
        if linear is not None:
            output = torch.empty(len(x), self.num_classes, dtype=torch.float64, device=x.device)
            linear.fill(x.detach(), output, log=True)
            return output
        return (self._log_classes(x) + self.priors.log().to(x.device)).log_softmax(-1)

    def log_density(self, x: ArrayLike) -> Tensor:
        r""":math:`\log f_k(x)` of every class, normalised over x: ``(..., *shape)`` -> float64 ``(..., K)``.

        Raises:
            ValueError: another trailing shape.
        """
        points = float64(x, "x")
        axes = len(self.shape)
        if points.ndim < axes or tuple(points.shape[points.ndim - axes :]) != self.shape:
            accepted = ", ".join(["...", *map(str, self.shape)])
            raise ValueError(f"x must have shape ({accepted}), received {tuple(points.shape)}")
        leading = points.shape[: points.ndim - axes]
        rows = points.reshape(math.prod(leading), *self.shape)
        return (self._log_classes(rows) + self._log_common(rows)).reshape(*leading, self.num_classes)

    def _floats_per_row(self) -> int:
        return max(self.weights.numel(), math.prod(self.shape))

    def _joint_table(self) -> Tensor:
        """P(component, class): ``(K * C, K)``, summing to 1."""
        mass = (self.priors[:, None] * self.weights).reshape(-1, 1)
        identity = torch.eye(self.num_classes, dtype=torch.float64)
        return mass * identity.repeat_interleave(self.weights.shape[1], 0)

    def _centre_of(self, places: Tensor) -> Tensor:
        """The mean of a parameter ``(K, C, ...)`` under priors and weights: what a change of separation keeps."""
        mass = self.priors[:, None] * self.weights
        return (mass.reshape(*mass.shape, *[1] * (places.ndim - 2)) * places).sum((0, 1))


def finite_values(value: ArrayLike, name: str) -> Tensor:
    """A parameter as an own float64 copy.

    Raises:
        ValueError: entries that are not finite.
    """
    tensor = float64(value, name).detach().cpu().clone()
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be finite, received nan or inf")
    return tensor
