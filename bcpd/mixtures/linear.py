r"""p*(x) where log-odds are linear in x: a product and a softmax a chunk, in double or single precision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Layout", "LinearPosterior", "refuse_not_finite"]

Layout = Literal["rows", "columns"]

_CHUNK = 2**18  # numbers of a chunk's points or logits, whichever are more: 2 MiB in float64
_ROWS_FROM = {torch.float32: 16, torch.float64: 51}  # classes from which rows (n, K) are faster than columns (K, n)
_TILE = 192  # points: whole tiles of matrix kernels, so that the bits of a row do not depend on the rows beside it
_SINGLE_LIMIT = 64.0  # roundings of 2^-24 that keep p* within 1.4e-6 (3 million points of 3,000 random mixtures)


class LinearPosterior:
    r"""The posterior of K classes of C components whose log-odds are linear:

    .. math:: p^*_k(x) \propto \sum_c \exp(\langle w_{kc},\, x - m\rangle + a_{kc}) .

    Few classes are computed as columns, ``(K, n)``: products and softmaxes along a short inner axis run at a fraction
    of the machine's rate.

    Args:
        slopes: w, ``(K, C, d)`` float64.
        offsets: a, ``(K, C)`` float64; ``-inf`` for a component that does not exist.
        centre: m, ``(d,)`` float64 of values that float32 has too; None for the origin.
        layout: of the logits; None takes the faster. Several components are always ``columns``.
    """

    def __init__(self, slopes: Tensor, offsets: Tensor, centre: Tensor | None, layout: Layout | None = None) -> None:
        self.classes, self.components, self.dimension = slopes.shape
        self.slopes, self.offsets, self.centre = slopes.flatten(0, 1), offsets.flatten(), centre
        self._given_layout = layout
        self._steepest = self.slopes.square().amax(0)

    def layout(self, dtype: torch.dtype) -> Layout:
        """Whether logits are kept as ``(n, K)`` or as ``(K, n)``."""
        if self.components > 1:
            return "columns"
        return self._given_layout or ("rows" if self.classes >= _ROWS_FROM[dtype] else "columns")

    def fill(self, x: Tensor, output: Tensor, log: bool, first: int = 0) -> None:
        """Write p*, or log p*, of real ``x`` ``(n, d)`` into ``output`` ``(n, K)``, float64 or float32.

        float32 is computed in single precision, but for chunks where that would cost more than 2e-6 of p*.

        Raises:
            ValueError: entries of x that are not finite; rows are counted from ``first``.
        """
        dtype, device, count = output.dtype, x.device, len(self.slopes)
        single = dtype == torch.float32
        by_rows = self.layout(dtype) == "rows"
        # products in float64 are fastest for a multiple of 4 columns
        width = count if single or by_rows else -(-count // 4) * 4
        slopes, offsets = (torch.zeros(width, n, dtype=dtype, device=device) for n in (self.dimension, 1))
        slopes[:count], offsets[:count, 0] = self.slopes, self.offsets
        chunk = max(1, _CHUNK // max(width, self.dimension))
        tile = min(chunk, _TILE)
        chunk = min(chunk - chunk % tile, -(-max(len(x), 1) // tile) * tile)
        logits = torch.empty(width * chunk, dtype=dtype, device=device)
        columns = logits.new_empty(0 if by_rows else count * chunk)
        squares = logits.new_empty(chunk if single else 0, self.dimension)
        for start, part in self._centred(x, dtype, chunk, tile):
            n, source = len(part), x[start : start + chunk]
            rows = output[start : start + chunk]
            if by_rows:
                terms = torch.addmm(offsets.T, part, slopes.T, out=logits[: n * width].view(n, width))[: len(rows)]
                values = rows
            else:
                terms = torch.addmm(offsets, slopes, part.T, out=logits[: width * n].view(width, n))[:count]
                values = columns[: count * n].view(count, n)
            if single and not self._keeps_digits(part, terms, squares):
                exact = torch.empty(rows.shape, dtype=torch.float64, device=device)
                self.fill(source, exact, log, first + start)
                rows.copy_(exact)
                continue
            if single and not log:
                torch.softmax(terms, int(by_rows), out=values)
                if self.components > 1:
                    values = values.view(self.classes, self.components, n).sum(1)
            else:
                if self.components > 1:
                    terms = terms.view(self.classes, self.components, n).logsumexp(1)
                    values = values[: self.classes]
                torch.log_softmax(terms, int(by_rows), out=values)
                # a logit that is not finite makes its row nan
                if not single and bool(values.sum().isnan()):
                    refuse_not_finite(source, first + start)
                if not log:
                    values.exp_()
            if not by_rows:
                _transpose(values[:, : len(rows)], rows)

    def _centred(self, x: Tensor, dtype: torch.dtype, chunk: int, tile: int) -> Iterator[tuple[int, Tensor]]:
        """``(start, x - m)`` of each chunk, the last with zeros up to a whole number of tiles.

        Each is overwritten by the next; it is x itself where nothing has to be done to it.
        """
        points = torch.empty(chunk, self.dimension, dtype=dtype, device=x.device)
        given, centre, wide = x.dtype == dtype, None, points
        if self.centre is not None:
            # float32 - float32 rounds once; other points are centred before they are rounded
            centre = self.centre.to(x.device, dtype if given else torch.float64)
            wide = points if centre.dtype == dtype else points.to(torch.float64)
        for start in range(0, len(x), chunk):
            part = x[start : start + chunk]
            n = len(part)
            if centre is not None:
                part = torch.sub(part, centre, out=wide[:n])
            if part.dtype != dtype or n % tile:
                points[:n] = part
                part = points[: -(-n // tile) * tile]
                part[n:] = 0
            yield start, part

    def _keeps_digits(self, part: Tensor, terms: Tensor, squares: Tensor) -> bool:
        r"""Whether float32 keeps enough of the logits; False too where they or the points are not finite.

        A logit is rounded once at its own size and d times at that of what is summed to it, which together cost about
        :math:`\sqrt d\, |w \odot (x - m)|_2` roundings.
        """
        squares = torch.mul(part, part, out=squares[: len(part)])
        reach = torch.mv(squares, self._steepest.to(part)).amax()
        return math.sqrt(self.dimension * float(reach)) + float(terms.amax()) <= _SINGLE_LIMIT


def refuse_not_finite(x: Tensor, first: int) -> None:
    """Raise ValueError for the first row of ``x`` ``(n, ...)``, counted from ``first``, that is not finite."""
    wrong = (~x.isfinite()).reshape(len(x), -1).any(1)
    if bool(wrong.any()):
        raise ValueError(f"x must be finite, received nan or inf in row {first + int(wrong.nonzero()[0])}")


def _transpose(columns: Tensor, rows: Tensor) -> None:
    """Write ``(K, n)`` as ``(n, K)``; NumPy does it in half the time of torch's copy."""
    if columns.device.type == "cpu":
        np.copyto(rows.numpy(), columns.numpy().T)
    else:
        rows.copy_(columns.T)
