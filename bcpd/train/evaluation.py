"""What is measured along the path of a training, every epoch: distance to p*, validation scores, agreement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bcpd import simplex
from bcpd.data import InMemory
from bcpd.distill import Method
from bcpd.losses import LOSSES
from bcpd.nets import Net

__all__ = ["EvaluationSet", "MeasuredSets", "Metrics", "PathMetrics", "log_probabilities"]

Metrics = Callable[[nn.Module], dict[str, list[float]]]
"""What measures a network after every epoch: by name, one number a replica."""

CHUNK_ELEMENTS = 2**18
CHUNK_ROWS = 2**11
"""Most numbers, and most rows over all replicas, of one forward pass: its hidden layers stay in a core's cache."""

LEAST_ROWS = 32
"""Of large images, however many numbers they have: those that read a folder decode several at once."""


class EvaluationSet:
    """Examples of a source, by index ``(n,)`` or ``(R, n)``, with what of p* does not depend on the network."""

    def __init__(self, source: InMemory, index: Tensor) -> None:
        self.source = source
        self.index = index
        self.y = _gather(source.y, index)
        self.bayes: Tensor | None = None
        if source.log_bayes is not None:
            self.bayes = _by_class(_gather(source.log_bayes, index, trailing=1).exp())
            self.entropy = simplex.entropy(self.bayes).mean(-1)
            self.top = self.bayes.amax(-1)

    def logits(self, net: nn.Module) -> Tensor:
        """Logits ``(..., n, K)`` of a network on the clean (unaugmented) inputs, in eval mode, without gradient."""
        return torch.cat([logits.mT for _, logits in self.pieces(net)], dim=-1).mT

    @torch.no_grad()
    def pieces(self, net: nn.Module) -> Iterator[tuple[slice, Tensor]]:
        """The same a few points at a time: ``(which, logits)``, so that memory does not grow with n."""
        replicas: int = getattr(net, "replicas", None) or (self.index.shape[0] if self.index.ndim == 2 else 1)
        fitting = max(LEAST_ROWS, CHUNK_ELEMENTS // math.prod(self.source.shape))
        step = max(1, min(CHUNK_ROWS, fitting) // replicas)
        training = net.training
        net.eval()
        try:
            for start in range(0, self.index.shape[-1], step):
                part = slice(start, start + step)
                x = self.source.inputs(self.index[..., part])
                yield part, net.logits(x) if isinstance(net, Net) else net(x).logits
        finally:
            net.train(training)


def _by_class(rows: Tensor) -> Tensor:
    """The same ``(..., n, K)`` over a memory of ``(..., K, n)``, that of the logits: sums over classes run along it."""
    return rows.mT.contiguous().mT


def _gather(values: Tensor, index: Tensor, trailing: int = 0) -> Tensor:
    """``values[index]`` along the example axis, for shared ``(N, ...)`` or replicated ``(R, N, ...)`` values."""
    if values.ndim - trailing == 1:
        return values[index]
    rows = torch.arange(values.shape[0], device=values.device).unsqueeze(-1)
    return values[rows, index]


def _top(rows: Tensor) -> Tensor:
    """The largest entry's class, ``(...)``, found along the axis that the rows run over in memory."""
    top: Tensor = rows.mT.max(-2).indices
    return top


def _where_defined(rows: Tensor, values: Tensor) -> Tensor:
    """``values`` in float64, ``nan`` where the network's row is: an argmax of ``nan`` may look a good prediction."""
    return torch.where(rows.isnan().any(-1), torch.nan, values.double())


class MeasuredSets(NamedTuple):
    """What a training can be measured on.

    Attributes:
        method: with the read-out, ``method.log_probabilities(logits)``.
        teacher: of a student.
        transfer: the training inputs, unaugmented.
        validation: carved from the training data; None where the recipe asks for none.
        select, fresh: the halves of the held-out points; None without any.
    """

    method: Method
    teacher: nn.Module | None
    transfer: EvaluationSet
    validation: EvaluationSet | None
    select: EvaluationSet | None
    fresh: EvaluationSet | None


class PathMetrics:
    r"""Evaluate a network on up to four sets; every metric is a list with one number a replica.

    ``transfer_*``: the training inputs without augmentation. ``select_*`` and ``fresh_*``: the two halves of the
    held-out points; a path minimum is chosen on the first and reported on the second. ``*_mse`` is
    :math:`E\,\|q - p^*\|^2` (summed over classes), ``*_kl`` is :math:`E\,KL(p^* \| q)`, ``*_accuracy`` is the mean
    of p* at the prediction and ``*_excess_risk`` is :math:`E[\max p^* - p^*_{\hat k}]`. The validation columns
    ``validation_accuracy``, ``_nll`` and ``_brier`` use labels. ``agreement``: share of validation (without one:
    fresh) inputs where student and teacher predict the same class. A network that returns ``nan`` predicts nothing:
    its metrics are ``nan``, the accuracies too.

    Args:
        only: names of the sets that are looked at (``functools.partial(PathMetrics, only=("validation",))``): to
            measure a convolutional network at all of its training inputs takes a third of the time of training it.
    Raises:
        ValueError: another name.
    """

    SETS = ("transfer", "validation", "select", "fresh")

    def __init__(self, sets: MeasuredSets, only: Sequence[str] = SETS) -> None:
        unknown = [name for name in only if name not in self.SETS]
        if unknown:
            raise ValueError(f"only must name some of {', '.join(self.SETS)}; received {', '.join(unknown)}")
        self.method = sets.method
        self.known = {
            name: points
            for name, points in (("transfer", sets.transfer), ("select", sets.select), ("fresh", sets.fresh))
            if name in only and points is not None and points.bayes is not None
        }
        self.validation = sets.validation if "validation" in only else None
        self.meeting = self.validation if self.validation is not None else self.known.get("fresh")
        self.teacher_choice: Tensor | None = None
        if sets.teacher is not None and self.meeting is not None:
            self.teacher_choice = torch.cat([_top(logits) for _, logits in self.meeting.pieces(sets.teacher)], dim=-1)

    def __call__(self, net: nn.Module) -> dict[str, list[float]]:
        """All metrics of ``net``, which is left in the mode it came in."""
        metrics: dict[str, Tensor] = {}
        for name, points in self.known.items():
            found = self._means(net, points, points is self.meeting)
            metrics |= {key if key == "agreement" else f"{name}_{key}": value for key, value in found.items()}
        if self.validation is not None:
            found = self._means(net, self.validation, True)
            metrics |= {key if key == "agreement" else f"validation_{key}": value for key, value in found.items()}
        return {name: value.reshape(-1).tolist() for name, value in metrics.items()}

    @torch.no_grad()
    def _means(self, net: nn.Module, points: EvaluationSet, meets_teacher: bool) -> dict[str, Tensor]:
        """Means over the points of what is measured at each of them, a few points at a time."""
        total: dict[str, Tensor] = {}
        for part, logits in points.pieces(net):
            log_q = self.method.log_probabilities(logits.double())
            if points is self.validation:
                values = self._against_labels(log_q, points.y[..., part])
            else:
                values = self._against_bayes(log_q, points, part)
            if meets_teacher and self.teacher_choice is not None:
                values["agreement"] = _where_defined(logits, _top(logits) == self.teacher_choice[..., part])
            for name, value in values.items():
                total[name] = total.get(name, 0.0) + value.sum(-1)
        means = {name: value / points.index.shape[-1] for name, value in total.items()}
        if "cross_entropy" in means:
            means["kl"] = means.pop("cross_entropy") - points.entropy
        return means

    def _against_labels(self, log_q: Tensor, y: Tensor) -> dict[str, Tensor]:
        y = y.expand(log_q.shape[:-1])
        # on log-probabilities the two losses are the scores of the rows themselves
        return {
            "accuracy": _where_defined(log_q, _top(log_q) == y),
            "nll": LOSSES["ce"].function(log_q, y),
            "brier": LOSSES["mse"].function(log_q, y),
        }

    def _against_bayes(self, log_q: Tensor, points: EvaluationSet, part: slice) -> dict[str, Tensor]:
        assert points.bayes is not None
        bayes = points.bayes[..., part, :].expand_as(log_q)  # replicas may share the points
        chosen = _where_defined(log_q, bayes.gather(-1, _top(log_q).unsqueeze(-1)).squeeze(-1))
        return {
            "mse": simplex.squared_distance(log_q.exp(), bayes),
            "cross_entropy": simplex.cross_entropy_from_log(bayes, log_q),
            "accuracy": chosen,
            "excess_risk": points.top[..., part] - chosen,
        }


@torch.no_grad()
def log_probabilities(net: nn.Module, source: InMemory) -> Tensor:
    """Log-softmax of a network's logits at every example of a source, unaugmented: float64 ``(N, K)``.

    For a network with a read-out of its own, give :meth:`bcpd.train.Fitted.teacher`: its logits are log-probabilities
    already, and log-softmax leaves those as they are.
    """
    index = torch.arange(len(source), device=source.device)
    return EvaluationSet(source, index).logits(net).double().log_softmax(-1)
