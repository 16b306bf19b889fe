"""What Gaussian and Student components share: places, scale matrices, Mahalanobis distances by Cholesky factors."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor

from bcpd.mixtures.bayes_error import ComponentJoint
from bcpd.mixtures.components import ComponentMixture, finite_values
from bcpd.mixtures.laws import Law
from bcpd.tensors import ArrayLike

__all__ = ["EllipticalMixture"]

_CONDITION = 1e6  # of a scale matrix in units of its own deviations; from here on log-odds lose more than 1e-9


class EllipticalMixture(ComponentMixture):
    r"""Components whose density depends on x through :math:`(x - \mu)^\top \Sigma^{-1} (x - \mu)`."""

    means: Tensor
    _matrix: Tensor

    def _set_places(
        self, means: ArrayLike, matrix: ArrayLike, name: str, weights: ArrayLike | None, priors: ArrayLike | None
    ) -> None:
        given = finite_values(means, "means")
        if given.ndim not in (2, 3) or 0 in given.shape:
            raise ValueError(f"means must have shape (K, d) or (K, C, d), received {tuple(given.shape)}")
        self.means = given[:, None] if given.ndim == 2 else given
        classes, components, dimension = self.means.shape
        self._set_classes(classes, components, (dimension,), weights, priors)
        self._matrix = finite_values(matrix, name)
        self._factor = _factor(self._matrix, name, classes, components, dimension)
        self._centre = self.means.mean((0, 1))

    @abstractmethod
    def _with(self, means: Tensor, matrix: Tensor) -> Self:
        """The same family with other places and scales."""

    @property
    def shared(self) -> bool:
        """Whether all components have the same scale matrix."""
        return self._factor.ndim <= 2

    def _coloured(self, component: Tensor, noise: Tensor) -> Tensor:
        """``L z`` of each row ``(n, d)`` by the factor of its component; overwrites the noise."""
        if self.shared:
            return _colour(noise, self._factor)
        factors = self._factor.flatten(0, 1)
        for index in torch.unique(component).tolist():
            rows = component == index
            noise[rows] = _colour(noise[rows], factors[index])
        return noise

    def _squared_distances(self, x: Tensor) -> Tensor:
        """Mahalanobis' :math:`|L_{kc}^{-1}(x - \\mu_{kc})|^2`, ``(n, K, C)``."""
        factor, means = self._factor.to(x.device), self.means.to(x.device)
        if self.shared:
            x, means = self._whitened(x), self._whitened_means().to(x.device)
        output = torch.empty((len(x), *means.shape[:2]), dtype=torch.float64, device=x.device)
        for k, row in enumerate(means):
            for c, mean in enumerate(row):
                gap = x - mean if self.shared else _whiten(x - mean, factor[k, c])
                output[:, k, c] = gap.square().sum(-1)
        return output

    def _whitened(self, x: Tensor) -> Tensor:
        """Rows around the centre of the means, in units of the shared scale."""
        return _whiten(x - self._centre.to(x.device), self._factor.to(x.device))

    def _whitened_means(self) -> Tensor:
        return _whiten((self.means - self._centre).flatten(0, 1), self._factor).reshape(self.means.shape)

    def _slopes(self) -> Tensor:
        """:math:`\\Sigma^{-1}(\\mu_{kc} - m)` of a shared scale matrix, m the mean of the means: ``(K, C, d)``."""
        gaps = (self.means - self._centre).flatten(0, 1)
        if self._factor.ndim < 2:
            return (gaps / self._factor / self._factor).reshape(self.means.shape)
        solved: Tensor = torch.cholesky_solve(gaps.mT, self._factor)
        return solved.mT.reshape(self.means.shape)

    def _deviations(self) -> Tensor:
        """Square roots of the diagonal of a shared scale matrix: ``()`` or ``(d,)``."""
        return self._factor if self._factor.ndim < 2 else self._factor.norm(dim=1)

    def _log_scales(self) -> Tensor:
        """Half the log-determinants of the scale matrices: ``()`` where shared, else ``(K, C)``."""
        if self._factor.ndim == 0:
            return self.shape[0] * self._factor.log()
        diagonal = self._factor if self._factor.ndim == 1 else self._factor.diagonal(dim1=-2, dim2=-1)
        return diagonal.log().sum(-1)

    def _joint_of(self, law: Law) -> ComponentJoint:
        """The components as they are, for one or two dimensions."""
        places = self.means.flatten(0, 1)
        root = self._factor
        if self.shared:
            root = torch.diag(root.expand(self.shape[0])) if root.ndim < 2 else root
            root = root.expand(len(places), *root.shape)
        else:
            root = root.flatten(0, 1)
        return ComponentJoint(self._joint_table().numpy(), places.numpy(), (root @ root.mT).numpy(), law)

    @property
    def _shrinking_garbles(self) -> bool:
        return self.shared

    def _separated(self, separation: float) -> Self:
        centre = self._centre_of(self.means)
        return self._with(centre + separation * (self.means - centre), self._matrix)

    def _places(self, name: str) -> dict[str, Any]:
        single = self.means.shape[1] == 1
        return {
            "means": (self.means[:, 0] if single else self.means).tolist(),
            name: self._matrix.tolist(),
            "weights": None if single else self.weights.tolist(),
            "priors": self.priors.tolist(),
        }


def _factor(matrix: Tensor, name: str, classes: int, components: int, dimension: int) -> Tensor:
    """Square roots: deviations ``()`` or ``(d,)``, or Cholesky factors ``(d, d)`` or ``(K, C, d, d)``."""
    d = dimension
    accepted = [(), (d,), (d, d), (classes, d, d), (classes, components, d, d)]
    if tuple(matrix.shape) not in accepted:
        raise ValueError(
            f"{name} must have shape () (a variance), (d,), (d, d), (K, d, d) or (K, C, d, d) with K={classes}, "
            f"C={components}, d={d}, that is one of {accepted}, received {tuple(matrix.shape)}"
        )
    if matrix.ndim <= 1:
        if bool((matrix <= 0).any()):
            raise ValueError(f"variances must be positive, received a minimum of {float(matrix.min()):.6g}")
        return matrix.sqrt()
    if bool(((matrix - matrix.mT).abs() > 1e-8 * matrix.abs().amax((-2, -1), keepdim=True)).any()):
        raise ValueError(f"{name} must be symmetric, received a matrix that differs from its transpose")
    symmetric = (matrix + matrix.mT) / 2
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(symmetric)
    if bool((info != 0).any()):
        smallest = float(torch.linalg.eigvalsh(symmetric).min())
        raise ValueError(f"{name} must be positive definite, received a smallest eigenvalue of {smallest:.6g}")
    deviations = symmetric.diagonal(dim1=-2, dim2=-1).sqrt()
    spectrum = torch.linalg.eigvalsh(symmetric / (deviations[..., None] * deviations[..., None, :]))
    condition = float((spectrum[..., -1] / spectrum[..., 0].clamp(min=1e-300)).max())
    if condition > _CONDITION:
        raise ValueError(
            f"{name} must have a condition number of at most {_CONDITION:g} once its diagonal is scaled to 1, "
            f"received {condition:.3g}: p* would lose more than nine digits"
        )
    if matrix.ndim == 3:
        return factor[:, None].expand(classes, components, d, d)
    return factor


def _whiten(rows: Tensor, factor: Tensor) -> Tensor:
    """``L^-1 x`` of each row, for any form of :func:`_factor` of one component."""
    if factor.ndim < 2:
        return rows / factor
    solved: Tensor = torch.linalg.solve_triangular(factor, rows.mT, upper=False)
    return solved.mT


def _colour(noise: Tensor, factor: Tensor) -> Tensor:
    """``L z`` of each row: the inverse of :func:`_whiten`."""
    return noise * factor if factor.ndim < 2 else noise @ factor.mT
