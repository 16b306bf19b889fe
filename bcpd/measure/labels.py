"""Scores of probabilities on labels, where p* is unknown."""

from __future__ import annotations

import torch

from bcpd.estimate import Estimate
from bcpd.measure.metrics import distance_of_probabilities
from bcpd.tensors import ArrayLike, labels, probability_rows

__all__ = ["label_scores"]


def label_scores(q: ArrayLike, y: ArrayLike, *, log_q: ArrayLike | None = None, seed: int = 0) -> dict[str, Estimate]:
    r"""Accuracy, log score, Brier score and ECE of rows of probabilities on labels.

    These are the distances of :func:`bcpd.measure.distance_of_probabilities` to the one-hot rows :math:`e_y`:
    ``brier`` :math:`= E\|q - e_y\|^2` (summed over classes, range [0, 2]), ``nll`` :math:`= E[-\log q_y]` in nats,
    ``accuracy`` and the binned ``ece`` against 0/1 labels.

    Args:
        q: probabilities ``(n, K)``.
        y: labels ``(n,)``.
        log_q: their logarithms where they are known better, for networks whose probabilities underflow.
        seed: of the ECE's bootstrap.
    Raises:
        ValueError: rows that are not probabilities, labels out of range, numbers that differ.
    """
    rows = probability_rows(q, "q")
    y = labels(y, rows.shape[-1], "y")
    if rows.ndim != 2 or tuple(y.shape) != tuple(rows.shape[:1]):
        raise ValueError(f"q must have shape (n, K) and y (n,), received {tuple(rows.shape)} and {tuple(y.shape)}")
    truth = torch.full(tuple(rows.shape), -torch.inf, dtype=torch.float64)
    truth[torch.arange(len(y)), y] = 0.0
    measured = distance_of_probabilities(rows, truth, log_q=log_q, seed=seed, decompose=False)
    return {"accuracy": measured["accuracy"], "nll": measured["ce"], "brier": measured["mse"], "ece": measured["ece"]}
