r"""The contract of a data distribution whose p*(x) = P(y | x) is known: sampling, exact log-posteriors, Bayes error."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from bcpd.estimate import Estimate, EstimateMethod
from bcpd.mixtures.bayes_error import joint_bayes_error
from bcpd.mixtures.linear import LinearPosterior, refuse_not_finite
from bcpd.mixtures.tuning import solve_separation
from bcpd.seeds import derive, generator
from bcpd.tensors import ArrayLike, float64, probability_rows

if TYPE_CHECKING:
    from bcpd.mixtures.bayes_error import ComponentJoint

__all__ = ["Mixture", "categorical", "differentiated", "distributions"]

_DRAW = 4096  # points per random stream: sample(n) is a prefix of sample(m), whatever the block
_BLOCK = 2**24  # float64 numbers that a block of a stream holds
_CHUNK = 2**18  # float64 numbers a chunk of posterior rows may hold: 2 MiB, a core's cache
_TUNING_POINTS = 2**16


class Mixture(ABC):
    r"""A joint law of (x, y) with K classes whose Bayes conditional probability is computable:

    .. math:: p^*_k(x) = P(y = k \mid x) = \frac{\pi_k f_k(x)}{\sum_j \pi_j f_j(x)} .

    A family supplies ``sample_given`` (x given y), ``_log_posterior_rows``, ``_separated``, ``misspecified`` and
    ``_arguments``; everything public below follows from these.

    Attributes:
        num_classes: K.
        shape: shape of one x, for example ``(30,)``.
        priors: class marginals :math:`\pi`, ``(K,)`` float64, exact.
        symmetries: names of augmentations that leave p* unchanged.
    """

    kind: ClassVar[str]
    num_classes: int
    shape: tuple[int, ...]
    priors: Tensor
    symmetries: frozenset[str] = frozenset()

    # ------------------------------------------------------------------------------------------------- what a family is

    @abstractmethod
    def sample_given(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """One x ~ P(x | y) for each label: ``y`` int64 ``(n,)`` -> float64 ``(n, *shape)``."""

    @abstractmethod
    def _log_posterior_rows(self, x: Tensor) -> Tensor:
        """log p* of checked float64 rows: ``(n, *shape)`` -> ``(n, K)``."""

    @abstractmethod
    def _separated(self, separation: float) -> Self:
        """The same family with classes ``separation >= 0`` times as far apart; 1 is this mixture, 0 the hardest."""

    @abstractmethod
    def misspecified(self, amount: float = 0.02) -> Mixture:
        """A slightly wrong copy, the negative control of the calibration check (:mod:`bcpd.mixtures.calibration`).

        Points drawn from it must fail the check against this mixture's posterior: a Gaussian mixture's covariance is
        ``1 + amount`` times too large, a Laplace mixture's scales are; other families move a share ``amount`` of the
        probability they are made of.
        """

    @abstractmethod
    def _arguments(self) -> dict[str, Any]:
        """Constructor arguments as JSON-able values, without loss."""

    def _floats_per_row(self) -> int:
        """How many float64 numbers the posterior of one row needs at once."""
        return max(self.num_classes, math.prod(self.shape))

    def _linear_posterior(self) -> LinearPosterior | None:
        """The faster way to the same p*, where log-odds are linear in x; else None."""
        return None

    def _component_joint(self) -> ComponentJoint | None:
        """The law reduced to components on a line or a plane, where that loses nothing about p*; else None."""
        return None

    @property
    def _shrinking_garbles(self) -> bool:
        """Whether a smaller separation is a garbling of x, which proves that the Bayes error decreases in it."""
        return False

    # -------------------------------------------------------------------------------------------------------- sampling

    def sample(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """``n`` independent pairs: x float64 ``(n, *shape)``, y int64 ``(n,)``.

        The first n of a larger sample of the same seed are the same points; :meth:`stream` yields the same in blocks.

        Raises:
            ValueError: ``n`` is not a positive int, ``seed`` not an int.
        """
        n = _positive(n, "n")
        blocks = self.stream(n, seed)
        x, y = torch.empty((n, *self.shape), dtype=torch.float64), torch.empty(n, dtype=torch.int64)
        start = 0
        for points, labels in blocks:
            x[start : start + len(labels)], y[start : start + len(labels)] = points, labels
            start += len(labels)
        return x, y

    def stream(self, n: int, seed: int, block: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The points of ``sample(n, seed)`` in blocks of ``block`` (the last may be shorter), in bounded memory.

        By default a block has 65,536 points, or, where x is large, as many as hold 128 MiB, but not less than 4,096.

        Raises:
            ValueError: ``n`` or ``block`` is not a positive int, ``seed`` not an int; at once, not at the first block.
        """
        usual = max(_DRAW, min(65_536, _BLOCK // math.prod(self.shape)))
        n, block = _positive(n, "n"), _positive(usual if block is None else block, "block")
        derive(seed, "mixture")
        return self._blocks(n, seed, block)

    def _blocks(self, n: int, seed: int, block: int) -> Iterator[tuple[Tensor, Tensor]]:
        held: tuple[int, tuple[Tensor, Tensor]] | None = None
        for start in range(0, n, block):
            stop = min(start + block, n)
            pieces = []
            for index in range(start // _DRAW, (stop - 1) // _DRAW + 1):
                if held is None or held[0] != index:
                    held = (index, self._draw(seed, index))
                window = slice(max(start - index * _DRAW, 0), min(stop - index * _DRAW, _DRAW))
                pieces.append((held[1][0][window], held[1][1][window]))
            yield torch.cat([x for x, _ in pieces]), torch.cat([y for _, y in pieces])

    def _draw(self, seed: int, index: int) -> tuple[Tensor, Tensor]:
        stream = generator(seed, "mixture", index)
        y = categorical(self.priors, _DRAW, stream)
        return self.sample_given(y, stream), y

    # ------------------------------------------------------------------------------------------------------- posterior

    def log_posterior(self, x: ArrayLike, *, dtype: torch.dtype = torch.float64, out: Tensor | None = None) -> Tensor:
        r""":math:`\log p^*(x)`, ``(..., K)``, for x of shape ``(..., *shape)`` (torch or NumPy).

        Computed in the log domain throughout: right in far tails, ``-inf`` only where the probability is exactly 0.
        Works through x in chunks: memory beyond the output does not grow with the number of points.

        Args:
            x: the points.
            dtype: ``torch.float64``, or ``torch.float32`` for speed. Gaussian mixtures with one covariance are then
                computed in single precision, wherever the data lie: x is centred in its own precision before it is
                rounded, and chunks with points too far out are computed in double. p* stays within 2e-6, log p*
                within 1e-5 or 1e-6 of itself. Other families are computed in float64 and rounded.
            out: where to write, contiguous, of the output's shape, dtype and device.
        Raises:
            ValueError: x has another trailing shape, or entries that are not finite; another dtype; an ``out`` that
                does not fit.
        """
        return self._posterior(x, dtype, out, log=True)

    def posterior(self, x: ArrayLike, *, dtype: torch.dtype = torch.float64, out: Tensor | None = None) -> Tensor:
        """p*(x), ``(..., K)``, rows summing to 1 within 1e-12 (2e-6 in float32); see :meth:`log_posterior`."""
        return self._posterior(x, dtype, out, log=False)

    def _posterior(self, x: ArrayLike, dtype: torch.dtype, out: Tensor | None, log: bool) -> Tensor:
        points = x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))
        axes = len(self.shape)
        if points.ndim < axes or tuple(points.shape[points.ndim - axes :]) != self.shape:
            accepted = ", ".join(["...", *map(str, self.shape)])
            raise ValueError(f"x must have shape ({accepted}), received {tuple(points.shape)}")
        if dtype not in (torch.float64, torch.float32):
            raise ValueError(f"dtype must be torch.float64 or torch.float32, received {dtype}")
        leading = points.shape[: points.ndim - axes]
        rows = points.reshape(math.prod(leading), *self.shape)
        float64(rows[:0], "x")
        if out is None:
            output = _empty((*leading, self.num_classes), dtype, rows.device)
        else:
            output = _fitting(out, (*leading, self.num_classes), dtype, rows.device)
        flat = output.view(len(rows), self.num_classes)
        linear = None if differentiated(rows) else self._linear_posterior()
        if linear is None:
            self._fill(rows, flat, log)
        else:
            linear.fill(rows.detach(), flat, log)
        return output

    def _fill(self, rows: Tensor, output: Tensor, log: bool) -> None:
        chunk = max(1, _CHUNK // self._floats_per_row())
        for start in range(0, len(rows), chunk):
            part = float64(rows[start : start + chunk], "x")
            # one sum finds what is not finite at a tenth of the time of a test of every entry
            if not math.isfinite(float(part.detach().sum())):
                refuse_not_finite(part, start)
            logs = self._log_posterior_rows(part)
            output[start : start + chunk] = logs if log else logs.exp()

    # ----------------------------------------------------------------------------------------------------- Bayes error

    def bayes_error(self, method: EstimateMethod | None = None, n: int = 200_000, seed: int = 0) -> Estimate:
        r"""Bayes error :math:`L^* = E[1 - \max_k p^*_k(x)]`, in ``[0, 1 - 1/K]``.

        Args:
            method: ``exact``, ``quadrature`` or ``monte_carlo``; None takes the best there is. Monte Carlo is
                Rao-Blackwellised (the mean of 1 - max p*, no labels) and always available.
            n, seed: points and seed of Monte Carlo.
        Raises:
            ValueError: a method that this mixture does not have; the message lists those it has.
        """
        if method != "monte_carlo":
            analytic = self._analytic_bayes_error()
            if analytic is not None and method in (None, analytic.method):
                return analytic
            if method is not None:
                available = [analytic.method] if analytic is not None else []
                raise ValueError(
                    f"method {method!r} is not available for this mixture; available: {[*available, 'monte_carlo']}"
                )
        return self._monte_carlo_bayes_error(n, seed)

    def _analytic_bayes_error(self) -> Estimate | None:
        support = self.support()
        if support is not None:
            points, weights = support
            return Estimate(float(weights @ (1 - self.posterior(points).amax(-1))), 0.0, "exact")
        joint = self._component_joint()
        return None if joint is None else joint_bayes_error(joint)

    def _monte_carlo_bayes_error(self, n: int, seed: int) -> Estimate:
        if _positive(n, "n") < 2:
            raise ValueError("a standard error needs n >= 2 points, received 1")
        mean = squares = 0.0
        count = 0
        for x, _ in self.stream(n, seed):
            errors = 1 - self.posterior(x).amax(-1)
            count += len(errors)
            gap = float(errors.mean()) - mean
            mean += gap * len(errors) / count
            # squared deviations about the means of the blocks, then of the block's mean from the running one
            squares += float((errors - errors.mean()).square().sum()) + gap**2 * len(errors) * (1 - len(errors) / count)
        return Estimate(mean, math.sqrt(squares / (n - 1) / n), "monte_carlo")

    def tuned(self, target_bayes_error: float) -> Self:
        r"""The same family, classes moved together or apart until :math:`L^*` is ``target_bayes_error``.

        Bisection on one scalar, the separation s (Gaussian families scale the means about their centre, finite ones
        raise p* to the power s; wrappers tune what they wrap). Where :math:`L^*` is exact or by quadrature the target
        is met within 1e-6 (and the quadrature's error); else within 1e-3 plus the standard error of a fixed sample
        of 65,536 points (about 1e-3), whose common random numbers make the search deterministic.

        :math:`L^*(s)` is proved decreasing for a covariance shared by all components, also below any wrapper: with
        s < 1, :math:`s\mu + \epsilon` is distributed as :math:`s(\mu + \epsilon) + \sqrt{1 - s^2}\,\epsilon'`, a
        garbling of x. It is decreasing for a finite mixture too (each max p* grows with s). In other cases (class-wise
        covariances, wrapped finite mixtures) it need not be; the search takes the solution it meets first going
        outwards from s = 1.

        Raises:
            ValueError: the target cannot be reached; the message has the range that can.
        """

        def error_at(separation: float) -> float:
            mixture = self._separated(separation)
            analytic = mixture._analytic_bayes_error()
            return (analytic or mixture._monte_carlo_bayes_error(_TUNING_POINTS, 0)).value

        return self._separated(solve_separation(error_at, target_bayes_error, monotone=self._shrinking_garbles))

    # -------------------------------------------------------------------------------------------------------- finite X

    def support(self) -> tuple[Tensor, Tensor] | None:
        """``(points (n, *shape), weights (n,))`` where X is finite, so that expectations are exact sums; else None."""
        return None

    def expectation(self, values: ArrayLike) -> Tensor:
        """Exact :math:`E[v(x)] = \\sum_i w_i v_i` over a finite X: ``values`` ``(n, ...)`` in the order of ``support``.

        Raises:
            ValueError: X is not finite, or ``values`` has not one entry a point.
        """
        support = self.support()
        if support is None:
            raise ValueError(f"an exact expectation needs a finite X; {type(self).__name__} has a continuous one here")
        entries, weights = float64(values, "values"), support[1]
        if entries.ndim == 0 or len(entries) != len(weights):
            raise ValueError(f"values must have shape ({len(weights)}, ...), received {tuple(entries.shape)}")
        return (weights.to(entries.device) @ entries.reshape(len(weights), -1)).reshape(entries.shape[1:])

    # ----------------------------------------------------------------------------------------------------- description

    def spec(self) -> dict[str, Any]:
        """The mixture as JSON-able values; ``bcpd.mixtures.from_spec`` rebuilds it bit for bit."""
        return {"kind": self.kind, **self._arguments()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_classes={self.num_classes}, shape={self.shape})"


def categorical(probabilities: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """``n`` draws of ``0 .. K-1`` with probabilities proportional to ``(K,)``, by inversion; mass 0 never comes."""
    edges = probabilities.cumsum(0)
    uniform = torch.rand(n, dtype=torch.float64, generator=generator) * edges[-1]
    # a product may round up to the last edge itself; the last class with mass takes it
    last = int(probabilities.nonzero()[-1])
    return torch.searchsorted(edges, uniform, right=True).clamp_(max=last)


def differentiated(x: Tensor) -> bool:
    """Whether autograd records what is done to ``x``."""
    return torch.is_grad_enabled() and x.requires_grad


def distributions(value: ArrayLike, name: str) -> Tensor:
    """Rows of probabilities ``(..., K)`` that sum to 1 up to rounding, as an own float64 copy.

    Sums within 1e-6 of 1 (float32 input) are rescaled, so that nothing downstream inherits the error; rows that
    already sum to 1 are kept bit for bit.

    Raises:
        ValueError: negative or non-finite entries, or a row whose sum is off by more than 1e-6.
    """
    rows = probability_rows(value, name, tolerance=1e-6).detach().cpu()
    total = rows.sum(-1, keepdim=True)
    exact = (total - 1).abs() <= 1e-15 * rows.shape[-1]
    return torch.where(exact, rows, rows / total)


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A new output; NumPy asks for large pages, which takes a quarter of the time of torch's to write to first."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(shape, np.float32 if dtype == torch.float32 else np.float64))


def _fitting(out: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    received = f"{out.dtype} of shape {tuple(out.shape)} on {out.device}"
    if tuple(out.shape) != shape or out.dtype != dtype or out.device != device:
        raise ValueError(f"out must be {dtype} of shape {shape} on {device}, received {received}")
    if not out.is_contiguous() or out.requires_grad:
        raise ValueError(f"out must be contiguous and without gradient, received {received}, strides {out.stride()}")
    return out


def _positive(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a positive int, received {value!r}")
    return int(value)
