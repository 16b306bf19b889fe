r"""Mixtures of factor analysers: Gaussian components with a few directions of their own, fitted to images or given."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bcpd.mixtures.components import ComponentMixture, finite_values
from bcpd.tensors import ArrayLike, float64, labels

__all__ = ["FactorAnalyzerMixture"]

_LEAST = 1e-12  # a noise variance, as a share of the component's largest variance
_KEPT = 1e-4  # share of the common noise that the largest separation leaves
_ITERATIONS = 100  # of the EM that fits one component


class FactorAnalyzerMixture(ComponentMixture):
    r"""Class k draws x from :math:`f_k = \sum_c w_{kc}\, N(\mu_{kc},\, W_{kc} W_{kc}^\top + \mathrm{diag}\,\psi_{kc})`.

    (Ghahramani & Hinton 1996; of images: Richardson & Weiss 2018.) In units of the noise,
    :math:`A = \psi^{-1/2} W` and :math:`g = \psi^{-1/2}(x - \mu)`, with :math:`M = I + A^\top A = R^\top R`
    (:math:`r \times r`), Woodbury's identity and the determinant lemma give

    .. math:: (x - \mu)^\top \Sigma^{-1} (x - \mu) = |g|^2 - |R^{-\top} A^\top g|^2 = |g - A z|^2 + |z|^2, \quad
              z = M^{-1} A^\top g, \qquad \log|\Sigma| = \sum_j \log\psi_j + 2 \sum_i \log|R_{ii}| .

    The last form of the distance is used: a sum of squares, it cancels no digits, and an error of z enters it squared
    (z minimises it). R comes from a QR decomposition of A stacked on I, which does not square A's condition.

    The separation s changes how much noise lies over the picture. For s <= 1, x becomes
    :math:`m + s(x - m) + \sqrt{1 - s^2}\, v^{1/2} \epsilon`, with m the mean of x, v its variance averaged over the
    pixels (so v stays as it is) and standard normal :math:`\epsilon`. For s > 1 a share :math:`1 - 1/s^2` (at most
    0.9999) of the noise that all components have, the least :math:`\psi` of each pixel, is taken away. Less s is more
    noise in either case: a garbling of x, so the Bayes error decreases in s. It cannot be brought below what remains
    without the common noise; :meth:`tuned` says what is reachable.

    Args:
        means: ``(K, C, *shape)`` for C components a class, for example ``(10, 3, 1, 8, 8)``.
        loadings: W, ``(K, C, *shape, r)``.
        noise_variances: :math:`\psi`, ``(K, C, *shape)``, at least 1e-12 of the component's largest variance.
        weights: ``(K, C)``; equal by default. priors: ``(K,)``, positive; equal by default.
    Raises:
        ValueError: shapes that do not fit, entries that are not finite, noise variances that are too small, weights or
            priors that are not probabilities.
    """

    kind = "factor_analyzers"

    def __init__(
        self,
        means: ArrayLike,
        loadings: ArrayLike,
        noise_variances: ArrayLike,
        weights: ArrayLike | None = None,
        priors: ArrayLike | None = None,
    ) -> None:
        self.means = finite_values(means, "means")
        self.loadings = finite_values(loadings, "loadings")
        self.noise_variances = finite_values(noise_variances, "noise_variances")
        places = tuple(self.means.shape)
        if len(places) < 3 or 0 in places:
            raise ValueError(f"means must have shape (K, C, *shape), received {places}")
        if tuple(self.noise_variances.shape) != places:
            raise ValueError(f"noise_variances must have shape {places}, received {tuple(self.noise_variances.shape)}")
        if tuple(self.loadings.shape[:-1]) != places or self.loadings.shape[-1] == 0:
            accepted = ", ".join([*map(str, places), "r"])
            raise ValueError(f"loadings must have shape ({accepted}), r >= 1, received {tuple(self.loadings.shape)}")
        self._set_classes(places[0], places[1], places[2:], weights, priors)
        self._flat_means = self.means.flatten(2).flatten(0, 1)
        self._flat_loadings = self.loadings.flatten(2, -2).flatten(0, 1)
        variances = self.noise_variances.flatten(2).flatten(0, 1)
        largest = (variances + self._flat_loadings.square().sum(-1)).amax(1)
        if bool((variances.amin(1) < _LEAST * largest).any()) or bool((variances <= 0).any()):
            raise ValueError(
                f"noise_variances must be positive and at least {_LEAST:g} of the largest variance of their component, "
                f"received a minimum of {float(variances.min()):.6g} (largest variance {float(largest.max()):.6g})"
            )
        self._deviations = variances.sqrt()
        self._scaled = self._flat_loadings / self._deviations[..., None]
        rank = self._scaled.shape[-1]
        identity = torch.eye(rank, dtype=torch.float64).expand(len(variances), rank, rank)
        orthogonal, triangular = torch.linalg.qr(torch.cat([self._scaled, identity], 1))
        # M^-1 A^T = R^-1 Q_1^T, transposed
        backwards: Tensor = torch.linalg.solve_triangular(triangular, orthogonal[:, :-rank].mT, upper=True)
        self._regression = backwards.mT.contiguous()
        diagonal = triangular.diagonal(dim1=-2, dim2=-1).abs()
        self._log_scales = self._deviations.log().sum(1) + diagonal.log().sum(1)

    @classmethod
    def fit(
        cls,
        x: ArrayLike,
        y: ArrayLike,
        num_classes: int,
        components: int = 1,
        rank: int = 6,
        floor: float = 0.01,
        seed: int = 0,
    ) -> Self:
        r"""The mixture fitted to labelled images: k-means clusters within each class, one factor analyser a cluster.

        Scikit-learn's ``KMeans`` and ``FactorAnalysis`` (at most 100 steps of EM). Weights and priors are frequencies.
        p* is that of the *fitted mixture*, exactly, however well or badly the fit describes the images. A class with
        fewer than ``components`` different images has fewer clusters; the others have weight 0.

        Args:
            x: ``(n, *shape)``. y: labels ``(n,)``, each class at least once.
            num_classes: K.
            components: C, clusters a class.
            rank: r; clusters of r images or fewer have fewer directions, the others' loadings are 0.
            floor: the least noise variance, in units of x squared. Pixels that never change have none of their own,
                and would give the class away.
            seed: of k-means and of the randomised decomposition.
        Raises:
            ValueError: shapes that do not match, a class without images, numbers that are not positive.
        """
        pixels, classes = finite_values(x, "x"), labels(y, num_classes, "y").cpu()
        if pixels.ndim < 2 or tuple(classes.shape) != (len(pixels),):
            raise ValueError(
                f"x must have shape (n, *shape) and y (n,), received {tuple(pixels.shape)} and {tuple(classes.shape)}"
            )
        if components < 1 or rank < 1 or not floor > 0:
            raise ValueError(
                f"components and rank must be >= 1 and floor > 0, received {components}, {rank} and {floor}"
            )
        counts = classes.bincount(minlength=num_classes)
        if bool((counts == 0).any()):
            raise ValueError(f"every class needs an image, received none of {counts.eq(0).nonzero()[:, 0].tolist()}")
        rows = pixels.flatten(1).numpy()
        dimension = rows.shape[1]
        means = torch.zeros(num_classes, components, dimension, dtype=torch.float64)
        loadings = torch.zeros(num_classes, components, dimension, rank, dtype=torch.float64)
        noise = torch.full((num_classes, components, dimension), floor, dtype=torch.float64)
        weights = torch.zeros(num_classes, components, dtype=torch.float64)
        for k in range(num_classes):
            members = rows[classes.numpy() == k]
            means[k] = torch.from_numpy(members.mean(0))
            for c, cluster in enumerate(_clusters(members, components, seed)):
                weights[k, c] = len(cluster) / len(members)
                means[k, c], loadings[k, c], noise[k, c] = _factors(cluster, rank, floor, seed)
        places = (num_classes, components, *pixels.shape[1:])
        return cls(
            means.reshape(places),
            loadings.reshape(*places, rank),
            noise.reshape(places),
            weights,
            counts.to(torch.float64) / len(classes),
        )

    # ------------------------------------------------------------------------------------------------------- densities

    def _log_components(self, x: Tensor) -> Tensor:
        rows = x.flatten(1)
        output = torch.empty(len(rows), len(self._flat_means), dtype=torch.float64, device=x.device)
        parts = (self._flat_means, 1 / self._deviations, self._scaled, self._regression)
        for index, (mean, inverse, scaled, regression) in enumerate(zip(*(p.to(x.device) for p in parts), strict=True)):
            gap = (rows - mean) * inverse
            factors = gap @ regression
            residual = gap.addmm_(factors, scaled.mT, alpha=-1)
            output[:, index] = residual.square().sum(1) + factors.square().sum(1)
        logs: Tensor = -output / 2 - self._log_scales.to(x.device)
        return logs.reshape(len(rows), *self.weights.shape)

    def _log_common(self, x: Tensor) -> Tensor:
        constant = -self._flat_means.shape[1] / 2 * float(np.log(2 * np.pi))
        return torch.full((len(x), 1), constant, dtype=torch.float64, device=x.device)

    def _sample_components(self, component: Tensor, generator: torch.Generator) -> Tensor:
        rank = self._flat_loadings.shape[-1]
        factors = torch.randn(len(component), rank, dtype=torch.float64, generator=generator)
        x = torch.randn(len(component), self._flat_means.shape[1], dtype=torch.float64, generator=generator)
        for index in torch.unique(component).tolist():
            rows = (component == index).nonzero()[:, 0]
            own = torch.addmm(self._flat_means[index], factors[rows], self._flat_loadings[index].mT)
            x[rows] = own.addcmul_(x[rows], self._deviations[index])
        return x.reshape(len(component), *self.shape)

    # ------------------------------------------------------------------------------------------------------- variations

    @property
    def mean_variance(self) -> float:
        """The variance of a pixel of x, averaged over pixels."""
        mass = self.priors[:, None] * self.weights
        inside = self.noise_variances + self.loadings.square().sum(-1)
        between = (self.means - self._centre_of(self.means)).square()
        return float((mass * (inside + between).flatten(2).mean(-1)).sum())

    @property
    def _shrinking_garbles(self) -> bool:
        return True

    def _separated(self, separation: float) -> Self:
        if separation > 1:
            removed = (1 - max(separation**-2, _KEPT)) * self.noise_variances.amin((0, 1))
            return self._with(self.means, self.loadings, self.noise_variances - removed)
        centre = self._centre_of(self.means)
        variances = separation**2 * self.noise_variances + (1 - separation**2) * self.mean_variance
        return self._with(centre + separation * (self.means - centre), separation * self.loadings, variances)

    def misspecified(self, amount: float = 0.02) -> Self:
        """The same means under covariances ``1 + amount`` times as large."""
        return self._with(self.means, (1 + amount) ** 0.5 * self.loadings, (1 + amount) * self.noise_variances)

    def _with(self, means: Tensor, loadings: Tensor, noise_variances: Tensor) -> Self:
        return type(self)(means, loadings, noise_variances, self.weights, self.priors)

    def _arguments(self) -> dict[str, Any]:
        return {
            "means": self.means.tolist(),
            "loadings": self.loadings.tolist(),
            "noise_variances": self.noise_variances.tolist(),
            "weights": self.weights.tolist(),
            "priors": self.priors.tolist(),
        }


_Rows = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def _clusters(members: _Rows, components: int, seed: int) -> list[_Rows]:
    from sklearn.cluster import KMeans  # here, since it takes seconds to import

    count = min(components, len(np.unique(members, axis=0)))
    if count == 1:
        return [members]
    assigned = KMeans(count, n_init=1, random_state=seed % 2**32).fit_predict(members)
    return [members[assigned == c] for c in range(count)]


def _factors(cluster: _Rows, rank: int, floor: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``(d,)``, loadings ``(d, rank)`` and noise variances ``(d,)`` of one component."""
    from sklearn.decomposition import FactorAnalysis
    from sklearn.exceptions import ConvergenceWarning

    count, dimension = cluster.shape
    mean = torch.from_numpy(cluster.mean(0))
    loadings = torch.zeros(dimension, rank, dtype=torch.float64)
    kept = min(rank, count - 1, dimension)
    if kept == 0:
        return mean, loadings, torch.full((dimension,), floor, dtype=torch.float64)
    analysis = FactorAnalysis(kept, max_iter=_ITERATIONS, random_state=seed % 2**32)
    # any fit will do: p* is that of the fit; images that span fewer directions have singular values of 0
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        analysis.fit(cluster)
    loadings[:, :kept] = torch.from_numpy(analysis.components_.T)
    return mean, loadings, float64(analysis.noise_variance_, "noise_variances").clamp(min=floor)
