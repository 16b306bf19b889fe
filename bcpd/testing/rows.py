"""Strategies for rows of probabilities, and for teachers beside the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

__all__ = [
    "MAX_CLASSES",
    "Distortion",
    "distortions",
    "pairs",
    "row_tables",
    "simplex_rows",
    "simplex_rows_with_zeros",
    "stochastic_matrices",
]

MAX_CLASSES = 6
_LOGITS = st.floats(-12, 12, allow_nan=False)


def simplex_rows(num_classes: int | None = None, floor: float = 1e-9) -> st.SearchStrategy[Tensor]:
    """Rows of positive probabilities ``(K,)``: interior points, near-vertices, the centre, ties of the top two.

    A row is a softmax of logits within 12 of 0 (near a vertex: one logit 24 above the others), mixed with the uniform
    row, ``(1 - K floor) softmax + floor``, so that every entry is at least ``floor`` up to rounding. In tied rows the
    two largest entries are equal bit for bit.

    Args:
        num_classes: K; drawn from 2 .. 6 where it is None.
        floor: between 0 and 1 / K; logarithms and their derivatives stay moderate.
    Raises:
        ValueError: a floor out of range, or K < 1; at once.

    >>> from hypothesis import given
    >>> @given(simplex_rows(3))
    ... def test_rows_sum_to_one(p):
    ...     assert p.shape == (3,) and p.min() > 0 and abs(p.sum() - 1) < 1e-12
    >>> test_rows_sum_to_one()
    """
    largest = MAX_CLASSES if num_classes is None else _positive(num_classes)
    if not 0 <= floor * largest <= 1:
        raise ValueError(f"floor must lie in [0, 1 / K] with K = {largest}, received {floor}")
    if num_classes is None:
        return st.integers(2, MAX_CLASSES).flatmap(lambda k: simplex_rows(k, floor))
    k = num_classes
    interior = st.lists(_LOGITS, min_size=k, max_size=k)
    shapes: list[st.SearchStrategy[Sequence[float]]] = [st.just([0.0] * k), interior]
    if k > 1:
        ends = st.permutations(range(k))
        shapes.append(st.builds(_near_vertex, st.integers(0, k - 1), st.just(k)))
        shapes.append(st.builds(_tied, interior, ends))
    return st.one_of(shapes).map(lambda logits: _floored(logits, floor))


def _near_vertex(index: int, k: int) -> list[float]:
    return [24.0 if j == index else 0.0 for j in range(k)]


def _tied(logits: Sequence[float], order: Sequence[int]) -> list[float]:
    tied = list(logits)
    tied[order[0]] = tied[order[1]] = max(logits)
    return tied


def _floored(logits: Sequence[float], floor: float) -> Tensor:
    p = torch.tensor(logits, dtype=torch.float64).softmax(-1)
    return (1 - len(logits) * floor) * p + floor


def simplex_rows_with_zeros(num_classes: int | None = None) -> st.SearchStrategy[Tensor]:
    """Rows with exact zeros or subnormal entries ``(K,)``: vertices, faces, and rows a hair's breadth from them.

    For guards like ``0 log 0 = 0`` and for losses that allow zeros; an identity with logarithms is tried on
    :func:`simplex_rows`.

    Args:
        num_classes: K; drawn from 2 .. 6 where it is None.

    >>> from hypothesis import given
    >>> from bcpd import simplex
    >>> @given(simplex_rows_with_zeros())
    ... def test_entropy_is_finite(p):
    ...     assert simplex.entropy(p) >= 0
    >>> test_entropy_is_finite()
    """
    if num_classes is None:
        return st.integers(2, MAX_CLASSES).flatmap(simplex_rows_with_zeros)
    k = _positive(num_classes)
    vertex = st.integers(0, k - 1).map(lambda i: [float(j == i) for j in range(k)])
    faces = st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=k, max_size=k).filter(any)
    tiny = st.sampled_from([0.0, 5e-324, 1e-310, 1e-200, 1e-160, 1e-17])
    beside = st.builds(
        lambda rest, i: [*rest[:i], 1.0, *rest[i:]],
        st.lists(tiny, min_size=k - 1, max_size=k - 1),
        st.integers(0, k - 1),
    )
    return st.one_of(vertex, faces, beside).map(_normalised)


def _normalised(parts: Sequence[float]) -> Tensor:
    row = torch.tensor(parts, dtype=torch.float64)
    return row / row.sum()


def row_tables(rows: int, num_classes: int, *, floor: float = 1e-9, zeros: bool = False) -> st.SearchStrategy[Tensor]:
    """Tables of rows ``(rows, K)``, each drawn on its own; with ``zeros``, exact zeros among them."""
    row = simplex_rows(num_classes, floor)
    each = st.one_of(row, simplex_rows_with_zeros(num_classes)) if zeros else row
    return st.lists(each, min_size=_positive(rows), max_size=rows).map(torch.stack)


def stochastic_matrices(num_classes: int, num_labels: int | None = None) -> st.SearchStrategy[Tensor]:
    """Row-stochastic ``(K, K')`` without zeros, K' = K by default: noise channels for labels."""
    return row_tables(num_classes, num_classes if num_labels is None else num_labels, floor=1e-6)


# ---------------------------------------------------------------------------------------------- teachers beside truth


@dataclass(frozen=True)
class Distortion:
    """A map from rows of p* to the rows of a teacher.

    Attributes:
        name: ``smoothing``, ``temperature``, ``hardening``, ``leak`` or ``swap``.
        amount: its parameter.
        apply: ``(..., K) -> (..., K)``.
        keeps_argmax: whether every row keeps its largest entry, and with it the Bayes decision.
    """

    name: str
    amount: float
    apply: Callable[[Tensor], Tensor]
    keeps_argmax: bool

    def __call__(self, p: Tensor) -> Tensor:
        return self.apply(p)

    def __repr__(self) -> str:
        return f"Distortion({self.name}, {self.amount:g})"


def distortions() -> st.SearchStrategy[Distortion]:
    r"""Ways in which a teacher misses p*.

    :math:`(1 - \epsilon) p + \epsilon / K` with :math:`\epsilon < 1` (``smoothing``), :math:`\propto p^a`
    (``temperature``), a share of the mass moved onto the mode (``hardening``) or from every class to the next
    (``leak``), and the two largest entries exchanged (``swap``).

    >>> from hypothesis import given
    >>> @given(simplex_rows(), distortions())
    ... def test_the_decision(p, distort):
    ...     q = distort(p)
    ...     assert not distort.keeps_argmax or q[p.argmax()] == q.max()
    >>> test_the_decision()
    """
    share = st.floats(0, 0.9)
    return st.one_of(
        share.map(lambda e: Distortion("smoothing", e, lambda p: (1 - e) * p + e / p.shape[-1], True)),
        st.floats(0.25, 4).map(lambda a: Distortion("temperature", a, lambda p: (a * p.log()).softmax(-1), True)),
        share.map(lambda e: Distortion("hardening", e, lambda p: (1 - e) * p + e * _mode(p), True)),
        share.map(lambda e: Distortion("leak", e, lambda p: (1 - e) * p + e * p.roll(1, -1), False)),
        st.just(Distortion("swap", 1.0, _swapped, False)),
    )


def _mode(p: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(p.argmax(-1), p.shape[-1]).to(p.dtype)


def _swapped(p: Tensor) -> Tensor:
    if p.shape[-1] < 2:
        return p
    values, places = p.topk(2, -1)
    return p.scatter(-1, places, values.flip(-1))


def pairs(num_classes: int | None = None, floor: float = 1e-9) -> st.SearchStrategy[tuple[Tensor, Tensor]]:
    """Truth and teacher, two rows ``(K,)``: unrelated, one a distortion of the other, or equal.

    Args:
        num_classes: K; drawn from 2 .. 6 where it is None.
        floor: of the truth, and of the teacher where it is unrelated; see :func:`simplex_rows`.
    """
    if num_classes is None:
        return st.integers(2, MAX_CLASSES).flatmap(lambda k: pairs(k, floor))
    row = simplex_rows(num_classes, floor)
    return st.one_of(
        st.tuples(row, row),
        st.tuples(row, distortions()).map(lambda pair: (pair[0], pair[1](pair[0]))),
        row.map(lambda p: (p, p)),
    )


def _positive(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"a number of classes or rows must be an int >= 1, received {value!r}")
    return value
