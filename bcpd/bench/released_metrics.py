"""What the released loop measures, for R networks at once: no loop over points, bins or networks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bcpd.bench.released import BINS
from bcpd.distill import Method
from bcpd.nets import Net
from bcpd.train import EvaluationSet, MeasuredSets

__all__ = ["ReleasedMetrics", "measured_sums", "metrics_of_sums", "released_metrics", "released_sums"]

CHUNK_ROWS = 2**11
"""Most points, over all replicas, of one forward pass: its hidden layers stay in a core's cache."""


def released_metrics(log_q: Tensor, y: Tensor, bayes: Tensor, target: Tensor) -> dict[str, Tensor]:
    r"""The loop's metrics of R networks from their log-probabilities.

    ``accuracy`` is the share of points where the label is predicted, ``distance_to_bayes`` and ``distance_to_target``
    are ``torch.dist``, the root of the squared distance **summed over the points** (it grows with n), ``ece`` is
    :func:`bcpd.bench.released.ece_by_loop`. A network that returns ``nan`` gets ``nan``.

    Args:
        log_q: ``(R, n, K)``, or ``(n, K)`` of one network.
        y: labels ``(n,)`` or ``(R, n)``.
        bayes, target: rows ``(n, K)`` for all networks, or ``(R, n, K)``.
    Returns:
        float64, each ``(R,)``.
    """
    return metrics_of_sums(released_sums(log_q, y, bayes, target))


def released_sums(log_q: Tensor, y: Tensor, bayes: Tensor, target: Tensor) -> dict[str, Tensor]:
    """What :func:`metrics_of_sums` needs of some points; the sums of two sets of points add up to those of both.

    Returns:
        float64 ``points`` ``()``; ``hits``, ``squares_to_bayes`` and ``squares_to_target`` ``(R,)``; ``gaps``
        ``(R, 15)``: in each bin of the confidence, the sum of hit minus confidence.
    """
    q = log_q.exp()
    confidence, choice = q.max(-1)
    hit = torch.where(confidence.isnan(), torch.nan, (choice == y).to(q.dtype))
    number = (confidence * BINS).ceil().long().sub_(1).clamp_(0, BINS - 1)
    gaps = torch.zeros(*hit.shape[:-1], BINS, dtype=q.dtype, device=q.device)
    sums = {
        "points": torch.tensor(hit.shape[-1], device=q.device),
        "hits": hit.sum(-1),
        "squares_to_bayes": (q - bayes).square_().sum((-2, -1)),
        "squares_to_target": (q - target).square_().sum((-2, -1)),
        "gaps": gaps.scatter_add_(-1, number, hit - confidence),
    }
    return {name: value.double() for name, value in sums.items()}


def metrics_of_sums(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """:func:`released_metrics` from the sums of :func:`released_sums`."""
    return {
        "accuracy": sums["hits"] / sums["points"],
        "distance_to_bayes": sums["squares_to_bayes"].sqrt(),
        "distance_to_target": sums["squares_to_target"].sqrt(),
        "ece": sums["gaps"].abs().sum(-1) / sums["points"],
    }


@torch.no_grad()
def measured_sums(
    net: nn.Module, method: Method, x: Tensor, y: Tensor, bayes: Tensor, target: Tensor
) -> dict[str, Tensor]:
    """:func:`released_sums` of a network, a few points at a time.

    Args:
        net: of R replicas, in eval mode; method: with its read-out.
        x: ``(n, d)`` shared by the replicas, or ``(R, n, d)``; the others with the same leading axes.
    """
    step = max(1, CHUNK_ROWS // (getattr(net, "replicas", None) or 1))
    total: dict[str, Tensor] = {}
    for start in range(0, y.shape[-1], step):
        part = slice(start, start + step)
        logits = net.logits(x[..., part, :]) if isinstance(net, Net) else net(x[..., part, :]).logits
        log_q = method.log_probabilities(logits)
        sums = released_sums(log_q, y[..., part], bayes[..., part, :], target[..., part, :])
        total = {name: total[name] + value for name, value in sums.items()} if total else sums
    return total


class ReleasedMetrics:
    """For :func:`bcpd.fit`'s ``metrics``: those of the released loop, as ``train_*`` and ``validation_*``.

    Measured at the training and the validation points, against p* and against the source's targets.

    Raises:
        ValueError: a training without validation points, p* or targets.
    """

    def __init__(self, sets: MeasuredSets) -> None:
        self.method = sets.method
        if sets.validation is None:
            raise ValueError("the released metrics need validation points, but the recipe carves out none")
        self.parts = {"train": _gathered(sets.transfer), "validation": _gathered(sets.validation)}

    def __call__(self, net: nn.Module) -> dict[str, list[float]]:
        """All metrics of ``net``, which is left in the mode it came in."""
        training = net.training
        net.eval()
        found: dict[str, list[float]] = {}
        for part, points in self.parts.items():
            metrics = metrics_of_sums(measured_sums(net, self.method, *points))
            found |= {f"{part}_{name}": value.reshape(-1).tolist() for name, value in metrics.items()}
        net.train(training)
        return found


def _gathered(points: EvaluationSet) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, y, and the rows of p* and of the targets over a memory of ``(..., K, n)``, that of the logits."""
    batch = points.source.batch(points.index)
    if batch.log_bayes is None or batch.targets is None:
        raise ValueError("the released metrics compare with p* and with targets, but the source lacks one of them")
    bayes, target = (rows.to(batch.x.dtype).mT.contiguous().mT for rows in (batch.log_bayes.exp(), batch.targets))
    return batch.x, batch.y, bayes, target
