"""Nature is a frozen network: real x, labels drawn from its softmax. Exact p*, a finite X of any size."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bcpd.estimate import Estimate
from bcpd.mixtures.base import Mixture, categorical
from bcpd.seeds import generator
from bcpd.tensors import ArrayLike, float64

__all__ = ["FrozenNature"]

_ROWS = 1024  # images that are handled at once where all are
_LEVELS = 255
_SAME = 1e-3  # logits of equal images may differ by the rounding of a batch


class FrozenNature(Mixture):
    r"""n images, each as likely, labelled by a frozen classifier g at temperature T:

    .. math:: P(x_i) = \tfrac1n, \qquad p^*(x_i) = \mathrm{softmax}(g(x_i) / T) .

    The images are real, p* is exact by definition, and every expectation is a finite sum. uint8 images stay uint8,
    and x is the image scaled to [0, 1]; floating-point x is taken as it is. p* is looked up by the bits of x, so that
    no network runs twice; equal images share the logits of the first. The largest entry of p* grows at every x as T
    falls, so the Bayes error decreases in the separation 1/T and :meth:`tuned` finds its T.

    A mixture hands out x in float64, eight times the size of the stored images. :meth:`support` makes all of them; for
    large sets take ``images``, ``log_rows`` and ``weights`` by index instead (:func:`bcpd.data.relabelled`,
    :func:`bcpd.measure.distance_of_probabilities`), and :meth:`expectation`, none of which does.

    Args:
        images: ``(n, *shape)`` uint8, or finite float32 or float64 x of any kind. Shared, not copied.
        logits: of g, ``(n, K)``, finite; or g itself, called once with batches of stored images.
        temperature: T in (0, inf]; at infinity all classes are as likely.
        description: of g, as JSON-able values: architecture, training, accuracy. It travels in ``spec``, which
            otherwise holds all images and logits.
    Attributes:
        images, logits, temperature, description: as above.
        log_rows: log p* of every image, ``(n, K)`` float64; weights: ``(n,)``, 1/n each.
    Raises:
        ValueError: shapes that do not fit, entries that are not finite, equal images with different logits, a
            temperature that is not positive, a description that JSON cannot hold.
    """

    kind = "frozen_nature"

    def __init__(
        self,
        images: ArrayLike,
        logits: ArrayLike | Callable[[Tensor], Any],
        temperature: float = 1.0,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        self.images = _stored(images)
        count, self.shape = len(self.images), tuple(self.images.shape[1:])
        self.weights = torch.full((count,), 1 / count, dtype=torch.float64)
        self.description = _json(description)
        self._keys, self._order = torch.sort(_in_pieces(self.images, _row_keys), stable=True)
        self.logits = self._checked_logits(_evaluated(logits, self.images) if callable(logits) else logits)
        self.num_classes = self.logits.shape[1]
        self._heat(temperature)

    def _heat(self, temperature: float) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must lie in (0, inf], received {temperature!r}")
        self.temperature = float(temperature)
        self.log_rows = (self.logits / self.temperature).log_softmax(-1)
        self.priors = self.log_rows.exp().mean(0)

    def labels(self, seed: int) -> Tensor:
        """One label y ~ p*(x_i) for every image, ``(n,)`` int64.

        The label of an image depends on the seed and on its number only, by inversion of one uniform: a subset keeps
        its labels, and another temperature changes few.
        """
        rows = self.log_rows.exp()
        edges = rows.cumsum(-1)
        uniform = torch.rand(len(rows), 1, dtype=torch.float64, generator=generator(seed, "nature labels"))
        y = torch.searchsorted(edges, uniform * edges[:, -1:], right=True)[:, 0]
        # a product may round up to the last edge itself; the last class with mass takes it
        return torch.minimum(y, torch.where(rows > 0, torch.arange(self.num_classes), 0).amax(-1))

    def support(self) -> tuple[Tensor, Tensor]:
        """``(points (n, *shape), weights (n,))`` in the order of ``images``, all in float64."""
        return _points(self.images), self.weights

    def expectation(self, values: ArrayLike) -> Tensor:
        """As :meth:`Mixture.expectation`, without making the points."""
        entries = float64(values, "values")
        if entries.ndim == 0 or len(entries) != len(self.weights):
            raise ValueError(f"values must have shape ({len(self.weights)}, ...), received {tuple(entries.shape)}")
        return entries.mean(0)

    def _analytic_bayes_error(self) -> Estimate:
        return Estimate(float((1 - self.log_rows.amax(-1).exp()).mean()), 0.0, "exact")

    def sample_given(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """Images drawn with P(i | y) proportional to p*_y(x_i)."""
        index = torch.empty_like(y)
        for k in torch.unique(y).tolist():
            chosen = y == k
            index[chosen] = categorical(self.log_rows[:, k].exp(), int(chosen.sum()), generator)
        return _points(self.images[index])

    def _log_posterior_rows(self, x: Tensor) -> Tensor:
        points = x.detach().cpu()
        stored = _as_stored(points, self.images.dtype)
        return self.log_rows[self._find(stored, points)].to(x.device)

    def _separated(self, separation: float) -> Self:
        other = copy.copy(self)
        other._heat(self.temperature / separation if separation > 0 else math.inf)
        return other

    def misspecified(self, amount: float = 0.02) -> FrozenNature:
        """Each row gives a share ``amount`` of its probabilities to the next class."""
        kept, given = self.log_rows + math.log1p(-amount), self.log_rows.roll(1, 1) + math.log(amount)
        return FrozenNature(self.images, torch.logaddexp(kept, given), description=self.description)

    def _arguments(self) -> dict[str, Any]:
        return {
            "images": self.images.tolist(),
            "logits": self.logits.tolist(),
            "temperature": self.temperature,
            "description": self.description,
        }

    def _checked_logits(self, logits: ArrayLike) -> Tensor:
        rows = float64(logits, "logits").detach().cpu()
        if rows.ndim != 2 or len(rows) != len(self.images) or rows.shape[1] < 2:
            raise ValueError(f"logits must have shape ({len(self.images)}, K), K >= 2, received {tuple(rows.shape)}")
        if not bool(rows.isfinite().all()):
            raise ValueError("logits must be finite, received nan or inf")
        first = _in_pieces(self.images, lambda part: self._find(part, part))
        gap = (rows - rows[first]).abs().amax(-1)
        if float(gap.max()) > _SAME:
            place = int(gap.argmax())
            raise ValueError(
                f"equal images must have equal logits (to {_SAME:g}), for p* is a function of x; received a gap of "
                f"{float(gap[place]):g} between the equal images {int(first[place])} and {place}"
            )
        return rows[first]

    def _find(self, stored: Tensor, x: Tensor) -> Tensor:
        """The first image equal to each of ``stored``, found by a hash of its bits and compared bit for bit.

        Raises:
            ValueError: one that is not among them; the message shows it as x has it.
        """
        keys = _row_keys(stored)
        place = torch.searchsorted(self._keys, keys).clamp_(max=len(self._keys) - 1)
        index = self._order[place]
        unknown = (self.images[index] != stored).flatten(1).any(1)
        if bool(unknown.any()):
            first = x[unknown][0].flatten().tolist()
            shown = f"{first[:6]}{' ...' if len(first) > 6 else ''}"
            raise ValueError(f"x must be among the {len(self.images)} images of this mixture, received {shown}")
        return index


def _stored(images: ArrayLike) -> Tensor:
    """Images as they are kept: uint8 or floating point, on the CPU."""
    values = images if isinstance(images, Tensor) else torch.as_tensor(np.asarray(images))
    values = values.detach().cpu()
    if values.ndim < 2 or not values.numel():
        raise ValueError(f"images must have shape (n, ...) with n >= 1, received {tuple(values.shape)}")
    if values.dtype in (torch.float32, torch.float64):
        if not bool(values.sum(dtype=torch.float64).isfinite()):
            raise ValueError("images must be finite, received nan or inf")
        return values.contiguous() + 0.0  # turns -0.0 into 0.0, whose bits differ
    if values.dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        lowest, highest = (int(v) for v in values.aminmax())
        if lowest >= 0 and highest <= _LEVELS:
            return values.to(torch.uint8).contiguous()
        raise ValueError(f"images of whole numbers must lie in 0..{_LEVELS}, received values in {lowest}..{highest}")
    raise ValueError(f"images must be uint8, float32 or float64, received dtype {values.dtype}")


def _points(stored: Tensor) -> Tensor:
    """x of stored images, float64: uint8 scaled to [0, 1]."""
    return stored.double().div_(_LEVELS) if stored.dtype == torch.uint8 else stored.double()


def _as_stored(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The image that each x would be stored as: that of its nearest grey levels, or of its nearest float32 numbers.

    Raises:
        ValueError: x between two grey levels, by more than what float32 does to them.
    """
    if dtype != torch.uint8:
        return x.to(dtype) + 0.0
    scaled = x * _LEVELS
    levels = scaled.round()
    gaps = scaled.sub_(levels).abs_()
    if x.numel() and (float(gaps.max()) > 1e-3 or float(levels.min()) < 0 or float(levels.max()) > _LEVELS):
        wrong = (gaps > 1e-3) | (levels < 0) | (levels > _LEVELS)
        raise ValueError(f"x must be images of grey levels j/{_LEVELS} in [0, 1], received {float(x[wrong][0]):g}")
    return levels.to(torch.uint8)


def _evaluated(network: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    with torch.no_grad():
        outputs = [network(images[start : start + _ROWS]) for start in range(0, len(images), _ROWS)]
    return torch.cat([float64(getattr(output, "logits", output), "logits").cpu() for output in outputs])


def _in_pieces(images: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([function(images[start : start + _ROWS]) for start in range(0, len(images), _ROWS)])


def _row_keys(stored: Tensor) -> Tensor:
    """A 64-bit hash a row: the mixed words of its bits times fixed odd multipliers, modulo 2**64."""
    bits = stored.flatten(1).contiguous().view(torch.uint8)
    words = functional.pad(bits, (0, -bits.shape[1] % 8)).view(torch.int64)
    mixed = (words ^ (words >> 32)) * 0x5851F42D4C957F2D
    mixed = mixed ^ (mixed >> 29)
    multipliers = torch.randint(-(2**63), 2**63 - 1, (words.shape[1],), generator=generator(0, "row keys")) | 1
    return (mixed * multipliers).sum(1)


def _json(description: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(description or {})))
    except (TypeError, ValueError) as error:
        raise ValueError(f"description must be a mapping of JSON-able values: {error}") from None
    return plain
