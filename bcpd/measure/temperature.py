"""One number fitted after training: the temperature of a predictor, on held-out labels."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from bcpd.tensors import ArrayLike, float64, labels

__all__ = ["TEMPERATURES", "fit_temperature"]

TEMPERATURES = (0.01, 100.0)
"""The range that is searched."""

_GRID = np.linspace(math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1]), 61)


def fit_temperature(log_q: ArrayLike, y: ArrayLike, score: Literal["nll", "brier"] = "nll") -> float:
    r"""The temperature T at which :math:`q_T \propto q^{1/T}` has the best mean score on labelled examples.

    :math:`\min_T \frac1n \sum_i -\log q_T(y_i \mid x_i)` (Guo et al. 2017) or
    :math:`\min_T \frac1n \sum_i \|e_{y_i} - q_T(x_i)\|^2`. The first is convex in 1/T, the second need not be: both are
    searched on a grid of 61 temperatures, a sixth apart, and refined between the neighbours of the best one.

    Args:
        log_q: logits or log-probabilities ``(n, K)`` (a constant in a row does not matter); ``-inf`` is a probability
            of 0 at every temperature.
        y: labels ``(n,)``.
        score: ``nll`` or ``brier``.
    Returns:
        T in ``TEMPERATURES``; an end of the range where the score still falls there. Of temperatures that score alike
        (every prediction right and certain, every row uniform) the one nearest to 1.
    Raises:
        ValueError: shapes that do not fit, ``nan`` or ``inf`` in ``log_q``, a row without a finite entry, an unknown
            score; with ``nll``, a label of probability 0, whose score is infinite at every temperature.
    """
    if score not in ("nll", "brier"):
        raise ValueError(f"score must be 'nll' or 'brier', received {score!r}")
    rows = float64(log_q, "log_q").detach()
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"log_q must have shape (n, K) with n, K >= 1, received {tuple(rows.shape)}")
    top = rows.amax(-1, keepdim=True)
    if bool((rows.isnan() | (rows == torch.inf)).any()) or not bool(top.isfinite().all()):
        raise ValueError("log_q must be finite or -inf, with a finite entry in every row")
    chosen = labels(y, rows.shape[1], "y").to(rows.device)
    if chosen.shape != rows.shape[:1]:
        raise ValueError(f"y must have shape ({len(rows)},), one label a row, received {tuple(chosen.shape)}")
    rows = rows - top
    own = rows.gather(-1, chosen[:, None])[:, 0]
    if score == "nll" and not bool(own.isfinite().all()):
        row = int((~own.isfinite()).nonzero()[0])
        raise ValueError(
            f"log_q gives the label of row {row} the probability 0: its nll is infinite at any temperature"
        )

    def value(log_temperature: float) -> float:
        scaled = rows * math.exp(-log_temperature)
        return float((_nll if score == "nll" else _brier)(scaled, chosen).mean())

    values = np.array([value(place) for place in _GRID])
    ties = np.flatnonzero(values <= values.min() + 1e-15)
    best = int(ties[np.abs(_GRID[ties]).argmin()])
    low, high = _GRID[max(best - 1, 0)], _GRID[min(best + 1, len(_GRID) - 1)]
    found = minimize_scalar(value, bounds=(low, high), method="bounded", options={"xatol": 1e-9})
    return math.exp(found.x if found.fun < values[best] - 1e-15 else _GRID[best])


def _nll(scaled: Tensor, y: Tensor) -> Tensor:
    return scaled.logsumexp(-1) - scaled.gather(-1, y[:, None])[:, 0]


def _brier(scaled: Tensor, y: Tensor) -> Tensor:
    q = scaled.softmax(-1)
    own = q.gather(-1, y[:, None])[:, 0]
    return q.square().sum(-1) + 1 - 2 * own
