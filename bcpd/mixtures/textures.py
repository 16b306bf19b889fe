r"""Stationary Gaussian textures on the torus: classes differ in their power spectrum, and in nothing else."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from bcpd.mixtures.components import ComponentMixture, finite_values
from bcpd.tensors import ArrayLike

__all__ = ["GaussianTextures"]

_RANGE = 1e12  # between the largest and the smallest power of a class
_EVEN = 1e-9
_KEPT = 1e-4  # share of the common power that the largest separation leaves
_BLOCK = 2**20  # pixels that are transformed at once


class GaussianTextures(ComponentMixture):
    r"""Class k draws a Gaussian field on the torus with power spectrum :math:`S_k(\omega)`, channels independent.

    With :math:`\hat x` the discrete Fourier transform of x - m, scaled to keep norms, the coordinates are independent:

    .. math:: \log f_k(x) = -\frac12 \sum_\omega \Big( \frac{|\hat x_\omega|^2}{S_k(\omega)} + \log S_k(\omega) \Big)
              - \frac{d}{2} \log 2\pi .

    Half of the frequencies are computed; all but those of the first column, and of the middle one where the width is
    even, count twice. A pixel of class k has the variance :math:`\mathrm{mean}_\omega S_k(\omega)`. x is a sample of
    white noise, filtered by :math:`\sqrt{S_k}`.

    With s <= 1, the separation replaces :math:`S_k` by :math:`s^2 S_k + (1 - s^2) \bar S`, where
    :math:`\bar S = \sum_k \pi_k S_k`: that is :math:`s x + \sqrt{1 - s^2}\, e` with e of spectrum :math:`\bar S`, so
    the power of all classes together stays. With s > 1 a share :math:`1 - 1/s^2` (at most 0.9999) of the power that
    all classes have, :math:`\min_k S_k(\omega)`, is taken away. Less s is more common noise in either case: a garbling
    of x, so the Bayes error decreases in s. It cannot be brought below what remains without the common power;
    :meth:`tuned` says what is reachable.

    ``symmetries``: ``"cyclic-shift"``; and ``"flip"`` (left to right) where every spectrum is its own mirror image,
    :math:`S_k(\omega_y, \omega_x) = S_k(\omega_y, -\omega_x)`.

    Args:
        spectra: ``(K, channels, h, w)``, positive, in the order of ``torch.fft.fft2``, even:
            :math:`S(-\omega) = S(\omega)` within 1e-9 (it is made so exactly); a class's powers within a factor 1e12.
        mean: m, ``(channels,)``, the same for all classes; 0 by default.
        priors: ``(K,)``, positive; equal by default.
    Raises:
        ValueError: shapes that do not fit, entries that are not finite, spectra that are not positive or not even,
            priors that are not probabilities.
    """

    kind = "gaussian_textures"

    def __init__(self, spectra: ArrayLike, mean: ArrayLike | None = None, priors: ArrayLike | None = None) -> None:
        given = finite_values(spectra, "spectra")
        if given.ndim != 4 or 0 in given.shape:
            raise ValueError(f"spectra must have shape (K, channels, h, w), received {tuple(given.shape)}")
        smallest, largest = given.amin((1, 2, 3)), given.amax((1, 2, 3))
        if bool((smallest <= 0).any()) or bool((largest > _RANGE * smallest).any()):
            raise ValueError(
                f"spectra must be positive, a class's powers within a factor {_RANGE:g}, "
                f"received {float(given.min()):.6g} .. {float(given.max()):.6g}"
            )
        turned = given.flip((-2, -1)).roll((1, 1), (-2, -1))
        if bool(((given - turned).abs() > _EVEN * given).any()):
            raise ValueError("spectra must be even, S(-w) = S(w), received one that is not")
        self.spectra = (given + turned) / 2
        classes, channels, height, width = given.shape
        self._set_classes(classes, 1, (channels, height, width), None, priors)
        self.mean = finite_values(torch.zeros(channels) if mean is None else mean, "mean")
        if tuple(self.mean.shape) != (channels,):
            raise ValueError(f"mean must have shape ({channels},), received {tuple(self.mean.shape)}")
        half = width // 2 + 1
        self._half = self.spectra[..., :half].contiguous()
        counted = torch.full((half,), 2.0, dtype=torch.float64)
        counted[0] = 1
        if width % 2 == 0:
            counted[-1] = 1
        self._precisions = (counted / self._half).flatten(1)
        self._log_scales = (counted * self._half.log()).flatten(1).sum(1) / 2
        mirrored = self.spectra.flip(-1).roll(1, -1)
        closed = bool(((self.spectra - mirrored).abs() <= 1e-12 * self.spectra).all())
        self.symmetries = frozenset({"cyclic-shift", "flip"} if closed else {"cyclic-shift"})

    def _log_components(self, x: Tensor) -> Tensor:
        transformed = torch.fft.rfft2(x - self.mean.to(x.device)[:, None, None], norm="ortho")
        power = (transformed.real.square() + transformed.imag.square()).flatten(1)
        logs: Tensor = -power @ self._precisions.to(x.device).mT / 2 - self._log_scales.to(x.device)
        return logs[..., None]

    def _log_common(self, x: Tensor) -> Tensor:
        constant = -math.prod(self.shape) / 2 * math.log(2 * math.pi)
        return torch.full((len(x), 1), constant, dtype=torch.float64, device=x.device)

    def _sample_components(self, component: Tensor, generator: torch.Generator) -> Tensor:
        x = torch.randn(len(component), *self.shape, dtype=torch.float64, generator=generator)
        filters, mean = self._half.sqrt(), self.mean[:, None, None]
        block = max(1, _BLOCK // math.prod(self.shape))
        for start in range(0, len(component), block):
            rows = slice(start, start + block)
            filtered = torch.fft.rfft2(x[rows]) * filters[component[rows]]
            x[rows] = torch.fft.irfft2(filtered, s=self.shape[1:]) + mean
        return x

    def _floats_per_row(self) -> int:
        return 3 * math.prod(self.shape)

    # ------------------------------------------------------------------------------------------------------- variations

    @property
    def _shrinking_garbles(self) -> bool:
        return True

    def _separated(self, separation: float) -> Self:
        if separation > 1:
            return self._with(self.spectra - (1 - max(separation**-2, _KEPT)) * self.spectra.amin(0))
        together = (self.priors[:, None, None, None] * self.spectra).sum(0)
        return self._with(separation**2 * self.spectra + (1 - separation**2) * together)

    def misspecified(self, amount: float = 0.02) -> Self:
        """Spectra, and so covariances, ``1 + amount`` times as large."""
        return self._with((1 + amount) * self.spectra)

    def _with(self, spectra: Tensor) -> Self:
        return type(self)(spectra, self.mean, self.priors)

    def _arguments(self) -> dict[str, Any]:
        return {"spectra": self.spectra.tolist(), "mean": self.mean.tolist(), "priors": self.priors.tolist()}
