"""Where a distance is measured: the points of a mixture's sample or support, or the rows of a file, in blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bcpd import seeds
from bcpd.measure.predictors import LogPredictor
from bcpd.tensors import ArrayLike, float64, probability_rows

__all__ = ["KnownPosterior", "Points", "checked_log_rows", "log_rows", "points_of_mixture", "points_of_rows"]

# Entries of x or of p* in one block: 32 MiB of float64, and a handful of arrays of this size alive at once.
_BLOCK_ENTRIES = 2**22
_LARGEST_BLOCK = 65_536


class KnownPosterior(Protocol):
    """What measuring needs of a mixture."""

    @property
    def num_classes(self) -> int:
        """K."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one x."""
        ...

    def stream(self, n: int, seed: int, block: int = ...) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of a sample: x ``(b, *shape)`` float64 and labels ``(b,)``."""
        ...

    def log_posterior(self, x: Tensor) -> Tensor:
        """log p*(x), float64 ``(b, K)``."""
        ...

    def support(self) -> tuple[Tensor, Tensor] | None:
        """Points ``(m, *shape)`` and weights ``(m,)`` where X is finite, else ``None``."""
        ...


class Points(NamedTuple):
    """A block of points: ``log_bayes`` ``(b, K)``, one ``(b, K)`` for each predictor, weights ``(b,)`` if exact."""

    log_bayes: Tensor
    log_q: tuple[Tensor, ...]
    weights: Tensor | None


def points_of_mixture(
    mixture: KnownPosterior, predictors: Sequence[LogPredictor], n: int, seed: int
) -> tuple[bool, Iterator[Points]]:
    """Whether the points exhaust X (then ``n`` and ``seed`` are ignored), and the points in blocks.

    All predictors see the same points, each its own copy. The size of a block, and with it the sample, depends on the
    mixture only.

    Raises:
        ValueError: ``n`` is not an integer of at least 2, or ``seed`` is not an int.
    """
    entries = max(math.prod(mixture.shape), mixture.num_classes)
    block = max(1, min(_LARGEST_BLOCK, _BLOCK_ENTRIES // entries))

    def evaluate(x: Tensor, weights: Tensor | None) -> Points:
        return Points(mixture.log_posterior(x), tuple(predictor(x.clone()) for predictor in predictors), weights)

    support = mixture.support()
    if support is not None:
        # points of no mass are left out: 0 times an infinite divergence there is 0
        present = support[1] > 0
        x, weights = support[0][present], support[1][present]
        return True, (evaluate(x[rows], weights[rows]) for rows in _slices(len(x), block))
    _check_number_of_points(n)
    seeds.derive(seed, "measure")  # refuses a seed that is not an int before the stream starts
    return False, (evaluate(x, None) for x, _ in mixture.stream(n, seed, block))


def points_of_rows(
    log_bayes: Tensor, log_q: Sequence[Tensor], weights: ArrayLike | None, seed: int
) -> tuple[bool, Iterator[Points]]:
    """Whether the rows exhaust X (``weights`` are given), and the rows in blocks.

    Without weights the rows are taken in a seeded random order: a file may be sorted by class.

    Raises:
        ValueError: other shapes, fewer than 2 rows without weights, or weights that are not probabilities.
    """
    shape = tuple(log_bayes.shape)
    if len(shape) != 2 or any(tuple(rows.shape) != shape for rows in log_q):
        shapes = " and ".join(str(tuple(rows.shape)) for rows in log_q)
        raise ValueError(
            f"q and log_bayes must be rows of the same shape (n, K), received q {shapes} and log_bayes {shape}"
        )
    log_bayes, log_q = log_bayes.detach().to("cpu"), [rows.detach().to("cpu") for rows in log_q]
    block = max(1, min(_LARGEST_BLOCK, _BLOCK_ENTRIES // shape[1]))

    def take(index: Tensor, weights: Tensor | None) -> Points:
        return Points(log_bayes[index], tuple(rows[index] for rows in log_q), weights)

    if weights is None:
        if len(log_bayes) < 2:
            raise ValueError(f"at least 2 rows are needed, received {len(log_bayes)}; a finite X has weights")
        order = torch.randperm(len(log_bayes), generator=seeds.generator(seed, "measure-order"))
        return False, (take(order[rows], None) for rows in _slices(len(order), block))
    share = probability_rows(weights, "weights")
    if tuple(share.shape) != shape[:1]:
        raise ValueError(f"weights must have shape {shape[:1]}, received {tuple(share.shape)}")
    share = share.detach().to("cpu")
    present = (share > 0).nonzero().squeeze(1)
    return True, (take(present[rows], share[present[rows]]) for rows in _slices(len(present), block))


def checked_log_rows(log_rows: ArrayLike, name: str) -> Tensor:
    """``log_rows`` in float64, if their exponentials are rows of probabilities.

    Raises:
        ValueError: they are not; the first offending row is named, as probabilities.
    """
    rows = float64(log_rows, name)
    probability_rows(rows.exp(), f"exp({name})")
    return rows


def log_rows(q: ArrayLike, log_q: ArrayLike | None, name: str) -> Tensor:
    """``log_q`` where it is given, else the logarithm of the probabilities q.

    Raises:
        ValueError: q are not probabilities, or ``log_q`` is not their logarithm to 1e-4.
    """
    rows = probability_rows(q, name)
    if log_q is None:
        return rows.log()
    logs = checked_log_rows(log_q, f"log_{name}")
    if logs.shape != rows.shape or not torch.allclose(logs.exp(), rows, rtol=0, atol=1e-4):
        raise ValueError(
            f"log_{name} must be the logarithm of {name} to 1e-4, received shapes {tuple(logs.shape)} and "
            f"{tuple(rows.shape)} or other probabilities"
        )
    return logs


def _slices(length: int, block: int) -> Iterator[slice]:
    return (slice(start, start + block) for start in range(0, length, block))


def _check_number_of_points(n: object) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 2:
        raise ValueError(f"n must be an int of at least 2 points, received {n!r}")
