r"""Templates that appear anywhere on the torus, in noise: p* does not change when x is shifted cyclically."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from bcpd.mixtures.components import ComponentMixture, finite_values
from bcpd.tensors import ArrayLike

__all__ = ["ShiftedTemplates"]

_BLOCK = 2**20  # pixels that are looked up at once


class ShiftedTemplates(ComponentMixture):
    r"""Class k shows one of its templates t, shifted cyclically by a uniform s (all channels alike), in white noise:

    .. math:: x = S_s t_{kc} + \sigma \epsilon, \qquad \log f_{kc}(x) = \log\Big(\frac1{hw} \sum_s
              e^{\langle x, S_s t_{kc} \rangle / \sigma^2}\Big) - \frac{|t_{kc}|^2}{2 \sigma^2} + \mathrm{const}(x) .

    The h w inner products are the cross-correlation of x and t, by FFT in float64. So p* is a convolution followed by a
    softmax pooling over places: convolutional networks are well-specified. Both x and the templates are taken around
    the templates' mean of each channel, which a shift leaves alone, so a common offset costs no digits.

    The separation s scales the templates about these means. Less is a garbling of x, as for Gaussians of one
    covariance: :math:`s S_s t + \sigma\epsilon` is distributed as :math:`s x + \sqrt{1 - s^2}\, \sigma \epsilon'`.

    ``symmetries``: ``"cyclic-shift"``; and ``"flip"`` (left to right) where every class's templates are, up to shifts,
    those of a mirror. Padding and cropping is no symmetry: it brings in pixels that are not x's.

    Args:
        templates: ``(K, channels, h, w)``, or ``(K, C, channels, h, w)`` for C templates a class.
        variance: :math:`\sigma^2`, one positive number.
        weights: ``(K, C)``; equal by default. priors: ``(K,)``, positive; equal by default.
    Raises:
        ValueError: shapes that do not fit, entries that are not finite, a variance that is not positive, weights or
            priors that are not probabilities.
    """

    kind = "shifted_templates"

    def __init__(
        self,
        templates: ArrayLike,
        variance: float,
        weights: ArrayLike | None = None,
        priors: ArrayLike | None = None,
    ) -> None:
        given = finite_values(templates, "templates")
        if given.ndim not in (4, 5) or 0 in given.shape:
            raise ValueError(
                f"templates must have shape (K, channels, h, w) or (K, C, channels, h, w), "
                f"received {tuple(given.shape)}"
            )
        self.templates = given[:, None] if given.ndim == 4 else given
        spread = finite_values(variance, "variance")
        if spread.ndim != 0 or float(spread) <= 0:
            raise ValueError(f"variance must be one positive number, received {variance}")
        self.variance = float(spread)
        classes, components, *shape = self.templates.shape
        self._set_classes(classes, components, tuple(shape), weights, priors)
        self._centre = self._centre_of(self.templates).mean((-2, -1), keepdim=True)
        around = (self.templates - self._centre).flatten(0, 1)
        self._spectra = torch.fft.rfft2(around).conj().resolve_conj()
        self._halves = around.square().sum((1, 2, 3)) / 2
        flip = {"flip"} if self._closed_under_mirror() else set()
        self.symmetries = frozenset({"cyclic-shift"} | flip)

    def _log_components(self, x: Tensor) -> Tensor:
        spectra = torch.fft.rfft2(x - self._centre.to(x.device))
        products = torch.einsum("nchw,kchw->nkhw", spectra, self._spectra.to(x.device))
        matches = torch.fft.irfft2(products, s=self.shape[1:]).flatten(2)
        offsets = self._halves.to(x.device) / self.variance + math.log(matches.shape[2])
        logs: Tensor = (matches / self.variance).logsumexp(-1) - offsets
        return logs.reshape(len(x), *self.weights.shape)

    def _log_common(self, x: Tensor) -> Tensor:
        squares = (x - self._centre.to(x.device)).flatten(1).square().sum(1, keepdim=True)
        return -squares / (2 * self.variance) - math.prod(self.shape) / 2 * math.log(2 * math.pi * self.variance)

    def _sample_components(self, component: Tensor, generator: torch.Generator) -> Tensor:
        channels, height, width = self.shape
        places = torch.randint(height * width, (len(component),), generator=generator)
        x = torch.randn(len(component), channels, height * width, dtype=torch.float64, generator=generator)
        x *= math.sqrt(self.variance)
        pixels = self.templates.flatten(0, 1).flatten(2)
        row, column = torch.arange(height)[:, None], torch.arange(width)
        block = max(1, _BLOCK // (channels * height * width))
        for start in range(0, len(component), block):
            rows = slice(start, start + block)
            down, right = (places[rows] // width)[:, None, None], (places[rows] % width)[:, None, None]
            origin = ((row - down) % height * width + (column - right) % width).flatten(1)
            shown = pixels[component[rows]]
            x[rows] += shown.gather(2, origin[:, None].expand(shown.shape))
        return x.reshape(len(component), *self.shape)

    def _floats_per_row(self) -> int:
        """The products in complex numbers, the matches and their exponentials."""
        return 3 * self.weights.numel() * math.prod(self.shape[1:]) + 2 * math.prod(self.shape)

    # ------------------------------------------------------------------------------------------------------- variations

    @property
    def _shrinking_garbles(self) -> bool:
        return True

    def _separated(self, separation: float) -> Self:
        return self._with(self._centre + separation * (self.templates - self._centre), self.variance)

    def misspecified(self, amount: float = 0.02) -> Self:
        """The same templates in noise of a variance ``1 + amount`` times as large."""
        return self._with(self.templates, (1 + amount) * self.variance)

    def _with(self, templates: Tensor, variance: float) -> Self:
        return type(self)(templates, variance, self.weights, self.priors)

    def _closed_under_mirror(self) -> bool:
        """Whether in every class each template and its mirror image have the same weight, up to shifts."""
        for templates, weights in zip(self.templates, self.weights, strict=True):
            for template in templates:
                mirrored = template.flip(-1)
                own, other = (
                    sum(float(w) for t, w in zip(templates, weights, strict=True) if _shifts_of_one(pattern, t))
                    for pattern in (template, mirrored)
                )
                if abs(own - other) > 1e-12:
                    return False
        return True

    def _arguments(self) -> dict[str, Any]:
        single = self.templates.shape[1] == 1
        return {
            "templates": (self.templates[:, 0] if single else self.templates).tolist(),
            "variance": self.variance,
            "weights": None if single else self.weights.tolist(),
            "priors": self.priors.tolist(),
        }


def _shifts_of_one(left: Tensor, right: Tensor) -> bool:
    """Whether the best cyclic shift of one picture is the other, up to rounding."""
    correlation = torch.fft.irfft2((torch.fft.rfft2(left) * torch.fft.rfft2(right).conj()).sum(0), s=left.shape[1:])
    down, across = divmod(int(correlation.argmax()), left.shape[2])
    gap = (right.roll((down, across), (-2, -1)) - left).abs().max()
    return bool(gap <= 1e-12 * left.abs().max())
