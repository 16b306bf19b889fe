r"""The conventions of the paper's released code, as functions of their own.

They differ from this project's in scale, orientation and read-out (audit of the two public copies of the code, folder
``ToyGuassian-MSEKD`` and the CIFAR scripts). Nothing else in the package uses them: a number computed by one of these
functions is a number of the release. All rows are probabilities ``(N, K)``; logarithms are natural. What they amount to
in the project's own terms is claimed, and checked, in :mod:`bcpd.theory.instruments.released_claims`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bcpd.tensors import ArrayLike, probability_rows

__all__ = [
    "LOWEST_LOG",
    "ce_of_grey_dots",
    "ce_of_teachers",
    "criterion",
    "distance_of_set",
    "grey_dots",
    "one_hot_readout",
    "training_loss",
]

LOWEST_LOG = -10.0
"""Logarithms are cut off here before they enter a cross-entropy of the toy's plots."""


def training_loss(logits: Tensor, labels: Tensor) -> Tensor:
    r"""The toy's MSE teacher: ``F.mse_loss(softmax(z), one_hot)``, the mean over the batch **and the K classes**.

    :math:`\frac1{NK} \sum_n \|\mathrm{softmax}(z_n) - e_{y_n}\|^2`, one K-th of this project's ``mse``.
    """
    return functional.mse_loss(logits.softmax(-1), functional.one_hot(labels, logits.shape[-1]).to(logits.dtype))


def distance_of_set(q: ArrayLike, p: ArrayLike) -> float:
    r"""The left axis of the toy's figure: ``torch.dist(q, p, p=2)`` over the whole set, :math:`\sqrt{N \cdot MSE}`.

    It grows with the number N of points (the release takes 4,992 **training** inputs).
    """
    return float(torch.dist(probability_rows(q, "q"), probability_rows(p, "p"), p=2))


def ce_of_grey_dots(q: ArrayLike, p: ArrayLike) -> Tensor:
    r"""The right axis for noisy targets: :math:`-\sum_k p^*_k \max(\log q_k, -10)`, the truth first, per row."""
    return _cut_cross_entropy(p, q)


def ce_of_teachers(q: ArrayLike, p: ArrayLike) -> Tensor:
    r"""The right axis for teachers, the other way round: :math:`-\sum_k q_k \max(\log p^*_k, -10)`, per row."""
    return _cut_cross_entropy(q, p)


def _cut_cross_entropy(left: ArrayLike, right: ArrayLike) -> Tensor:
    logs = probability_rows(right, "rows").log().clamp(min=LOWEST_LOG)
    return -(probability_rows(left, "rows") * logs).sum(-1)


def grey_dots(p: ArrayLike, labels: Tensor, share: float) -> Tensor:
    r"""The noisy targets :math:`u\,e_y + (1 - u)\,p^*` with the realised label, u = ``share`` in [0, 1]."""
    rows = probability_rows(p, "p")
    return share * functional.one_hot(labels, rows.shape[-1]).double() + (1 - share) * rows


def one_hot_readout(num_classes: int, temperature: float) -> Tensor:
    r"""What :math:`\mathrm{softmax}(z / T)` makes of logits z = e_1, the minimiser of the square loss on raw logits.

    The largest entry is :math:`e^{1/T} / (e^{1/T} + K - 1)`: nearly uniform for many classes.

    Args:
        num_classes: K; temperature: T > 0.
    Returns:
        float64 ``(K,)``.
    """
    logits = functional.one_hot(torch.tensor(0), num_classes).double()
    return (logits / temperature).softmax(-1)


class _Options:
    """Command-line options of the release."""

    def __init__(self, loss_func: str) -> None:
        self.loss_func = loss_func


def criterion(loss_func: str, *, repaired: bool = False) -> nn.Module:
    """What the CIFAR script trains a teacher with when asked for ``loss_func``.

    It compares the bound method ``opt.loss_func.upper``, not its result, with ``"MSE"``: never equal, so that the
    criterion is always the cross-entropy.

    Args:
        loss_func: the option, e.g. ``"MSE"``; repaired: call the method.
    """
    options = _Options(loss_func)
    chosen: object = options.loss_func.upper() if repaired else options.loss_func.upper
    return nn.MSELoss() if chosen == "MSE" else nn.CrossEntropyLoss()
