r"""Mixtures of Student's t: tails so heavy that p* does not saturate far out."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from bcpd.estimate import Estimate
from bcpd.mixtures.bayes_error import ComponentJoint, joint_bayes_error, on_span
from bcpd.mixtures.elliptical import EllipticalMixture
from bcpd.mixtures.laws import student
from bcpd.mixtures.wrappers import LabelNoise
from bcpd.tensors import ArrayLike

__all__ = ["StudentMixture"]

_LEAST_DEGREES = 0.1  # below, samples leave the range of float64


class StudentMixture(EllipticalMixture):
    r"""Class k draws x from :math:`f_k = \sum_c w_{kc}\, t_\nu(\mu_{kc}, \Sigma_{kc})`, with

    .. math:: \log t_\nu(x; \mu, \Sigma) = -\tfrac{\nu + d}{2} \log\!\big(1 + \delta / \nu\big)
              - \tfrac12 \log\det\Sigma + \mathrm{const}, \qquad \delta = (x - \mu)^\top \Sigma^{-1} (x - \mu)

    (Lange, Little & Taylor 1989). For a shared scale matrix the log-odds vanish far out, where :math:`p^* \to \pi`; for
    own ones they tend to constants in every direction. A Gaussian's log-odds grow without bound.

    Bayes errors without sampling: on a line (exact for one component a class), and, for one shared scale matrix and
    equally likely classes whose means lie on a line, in any dimension: the nearest mean wins, so two classes at
    Mahalanobis distance :math:`\Delta` have :math:`T_\nu(-\Delta/2)`.

    Args:
        means: ``(K, d)``, or ``(K, C, d)`` for C components a class; the location, for :math:`\nu > 1` the mean.
        scale: as the covariance of :class:`~bcpd.mixtures.GaussianMixture`: a squared scale, ``(d,)`` of them, or
            matrices ``(d, d)``, ``(K, d, d)``, ``(K, C, d, d)``. The covariance is :math:`\nu / (\nu - 2)` times as
            large, for :math:`\nu > 2`.
        degrees: of freedom, :math:`\nu \ge 0.1`, the same for all.
        weights: ``(K, C)``; equal by default. priors: ``(K,)``, positive; equal by default.
    Raises:
        ValueError: as for a Gaussian mixture, or degrees below 0.1.
    """

    kind = "student"

    def __init__(
        self,
        means: ArrayLike,
        scale: ArrayLike,
        degrees: float,
        weights: ArrayLike | None = None,
        priors: ArrayLike | None = None,
    ) -> None:
        if not (math.isfinite(degrees) and degrees >= _LEAST_DEGREES):
            raise ValueError(f"degrees must be a finite number >= {_LEAST_DEGREES}, received {degrees!r}")
        self.degrees = float(degrees)
        self._set_places(means, scale, "scale", weights, priors)

    @property
    def scale(self) -> Tensor:
        """As given: a squared scale, ``(d,)`` of them, or one or several matrices."""
        return self._matrix

    def _sample_components(self, component: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(component), *self.shape, dtype=torch.float64, generator=generator)
        half = torch.full((len(component), 1), self.degrees / 2, dtype=torch.float64)
        precision = torch._standard_gamma(half, generator=generator) * (2 / self.degrees)
        return self.means.flatten(0, 1)[component] + self._coloured(component, noise) / precision.sqrt()

    def _log_components(self, x: Tensor) -> Tensor:
        squares = self._squared_distances(x)
        logs = (squares / self.degrees).log1p()
        if not bool(squares.isfinite().all()):
            # beyond 1e154 the square overflows, its logarithm does not
            huge = 2.0**500
            logs = torch.where(squares.isfinite(), logs, (self._scaled_squares(x, huge) / self.degrees).log())
            logs = torch.where(squares.isfinite(), logs, logs + 2 * math.log(huge))
        terms = -(self.degrees + self.shape[0]) / 2 * logs
        return terms if self.shared else terms - self._log_scales().to(x.device)

    def _scaled_squares(self, x: Tensor, unit: float) -> Tensor:
        """Squared distances in units of ``unit``."""
        shrunk = self._with(self.means / unit, self.scale)
        return shrunk._squared_distances(x / unit)

    def _log_common(self, x: Tensor) -> Tensor:
        nu, d = self.degrees, self.shape[0]
        constant = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - d / 2 * math.log(nu * math.pi)
        if self.shared:
            constant -= float(self._log_scales())
        return torch.full((len(x), 1), constant, dtype=torch.float64, device=x.device)

    def _component_joint(self) -> ComponentJoint | None:
        return self._joint_of(student(self.degrees)) if self.shape[0] == 1 else None

    def _analytic_bayes_error(self) -> Estimate | None:
        found = super()._analytic_bayes_error()
        if found is None and self.shared and self.means.shape[1] == 1 and bool((self.priors == self.priors[0]).all()):
            line = on_span(self._joint_table().numpy(), self._whitened_means().flatten(0, 1).numpy())
            if line is not None and line.means.shape[1] == 1:
                # the nearest mean wins, whatever lies across the line, and along it the law is Student's again
                return joint_bayes_error(
                    ComponentJoint(line.joint, line.means, line.covariances, student(self.degrees))
                )
        return found

    def misspecified(self, amount: float = 0.02) -> LabelNoise:
        """A share ``amount`` of the points of each class carries the next class's label.

        A wrong scale would not do: heavy tails leave so little of it in p* that a million points do not show 2 %.
        """
        return LabelNoise.rotating(self, amount)

    def _with(self, means: Tensor, matrix: Tensor) -> Self:
        return type(self)(means, matrix, self.degrees, self.weights, self.priors)

    def _arguments(self) -> dict[str, Any]:
        return {**self._places("scale"), "degrees": self.degrees}
