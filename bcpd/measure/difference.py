r"""Which of two teachers is closer to p*, where p* is unknown: by labels that neither has seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bcpd import simplex
from bcpd.estimate import Estimate
from bcpd.measure.moments import Moments
from bcpd.measure.points import log_rows
from bcpd.stats import CrossedInterval, crossed_mean_interval
from bcpd.tensors import ArrayLike, labels, probability_rows

__all__ = [
    "CrossedDifference",
    "LabelDifference",
    "crossed_difference_to_bcpd",
    "difference_to_bcpd",
    "label_differences",
]


@dataclass(frozen=True)
class LabelDifference(Estimate):
    """An :class:`Estimate` of a difference between two teachers.

    Attributes:
        n: images it was averaged over.
        note: why the value is infinite or undefined, in a sentence; empty where it is finite.
    """

    n: int
    note: str = ""

    def __str__(self) -> str:
        return super().__str__() + (f": {self.note}" if self.note else "")


@dataclass(frozen=True)
class CrossedDifference(CrossedInterval):
    """A :class:`bcpd.stats.CrossedInterval` of a difference between two ways to train.

    Attributes:
        note: why the mean is infinite or undefined, in a sentence; empty where it is finite.
    """

    note: str = ""


def difference_to_bcpd(
    q_a: ArrayLike,
    q_b: ArrayLike,
    y: ArrayLike,
    *,
    log_q_a: ArrayLike | None = None,
    log_q_b: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
) -> dict[str, LabelDifference]:
    r"""How much farther teacher a is from the unknown p* than teacher b, in MSE and in KL: negative, and a is closer.

    For a label :math:`Y \sim p^*(x)` that neither teacher depends on (Theorem 1),

    .. math:: \mathbb E\|e_Y - q\|^2 = \mathbb E[1 - \|p^*\|^2] + \mathbb E\|q - p^*\|^2, \qquad
              \mathbb E[-\log q_Y] = \mathbb E\,H(p^*) + \mathbb E\,KL(p^*\|q),

    and what depends on p* alone is the same for both teachers: the mean difference of their Brier scores is an unbiased
    estimate of the difference of their MSE to p*, that of their log scores of the difference of their KL. The scores
    are paired by image, and the standard error is that of the mean of the differences. It is about these two teachers;
    for what two ways to train do, see :func:`crossed_difference_to_bcpd`.

    What it needs:

    - Labels that had no part in either teacher: not in its training set, nor in the choice of its temperature,
      learning rate or checkpoint. On its own training labels the teacher that fits them more closely wins.
    - p* is that of the process that made **these** labels, on the law that **these** images come from: annotators,
      prior and difficulty of the test set, not of the training set.
    - No test image that repeats a training image, whose label was seen then:
      :func:`bcpd.data.near_duplicates` finds candidates; report the difference with and without them (``exclude``).

    Args:
        q_a, q_b: probabilities ``(n, K)`` of the teachers on the same n >= 2 images.
        y: labels ``(n,)``; or rows ``(n, K)``, the shares of several labels an image (votes of people): both scores
            are linear in the label, so shares are unbiased too, and less noisy.
        log_q_a, log_q_b: their logarithms where they are known better, for networks whose probabilities underflow.
        exclude: ``(n,)`` bool, images to leave out.
    Returns:
        ``mse`` (summed over classes) and ``kl`` (nats), a minus b. ``kl`` is ``inf`` where a alone gives the label of
        some image probability 0, ``-inf`` where b alone does, ``nan`` where both do (at the same image or not): the
        ``note`` says so. A finite ``kl`` may still hide an infinite truth: a probability 0 shows only
        where a label falls on it.
    Raises:
        ValueError: shapes that differ, rows that are not probabilities, labels out of range, fewer than 2 images left.
    """
    if np.ndim(q_a) != 2:
        raise ValueError(
            f"q_a must have shape (n, K), received {np.ndim(q_a)} axes; for seeds x images see "
            f"crossed_difference_to_bcpd"
        )
    columns = label_differences(q_a, q_b, y, log_q_a=log_q_a, log_q_b=log_q_b, exclude=exclude)
    moments = Moments(len(columns))
    moments.add(torch.stack(list(columns.values()), -1))
    return {
        name: LabelDifference(found.value, found.stderr, found.method, moments.count, _note(columns[name]))
        for name, found in zip(columns, moments.estimates("monte_carlo"), strict=True)
    }


def crossed_difference_to_bcpd(
    q_a: ArrayLike,
    q_b: ArrayLike,
    y: ArrayLike,
    *,
    log_q_a: ArrayLike | None = None,
    log_q_b: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
    confidence: float = 0.95,
) -> dict[str, CrossedDifference]:
    r"""The same for two **ways to train**: S trainings of each, all seen by the same n labelled images.

    The mean of the S n differences, with an interval crossed over seeds and images
    (:func:`bcpd.stats.crossed_mean_interval`): for other seeds and other images, not for these teachers alone. What it
    needs is what :func:`difference_to_bcpd` needs. Pair the trainings: seed s of a and seed s of b on the same data,
    initialisation and order.

    Args:
        q_a, q_b: probabilities ``(S, n, K)``, S >= 2; the rest as in :func:`difference_to_bcpd`.
        confidence: two-sided, in (0, 1).
    Returns:
        ``mse`` (summed over classes) and ``kl`` (nats), a minus b: negative, and a is closer. Where a label has
        probability 0 under a alone the mean of ``kl`` is ``inf``, under b alone ``-inf``, under both ``nan``; its
        interval is then undefined (``nan``), and the ``note`` says why.
    Raises:
        ValueError: as in :func:`difference_to_bcpd`; rows without an axis of seeds.
    """
    if np.ndim(q_a) != 3:
        raise ValueError(f"q_a must have shape (S, n, K), received {np.ndim(q_a)} axes; see difference_to_bcpd")
    tables = label_differences(q_a, q_b, y, log_q_a=log_q_a, log_q_b=log_q_b, exclude=exclude)
    return {name: _crossed(table, confidence) for name, table in tables.items()}


def _crossed(table: Tensor, confidence: float) -> CrossedDifference:
    if bool(table.isfinite().all()):
        return CrossedDifference(**vars(crossed_mean_interval(table, confidence)))
    rows, columns = table.shape
    nan = math.nan
    return CrossedDifference(float(table.mean()), nan, nan, nan, rows, columns, nan, nan, _note(table.flatten()))


def label_differences(
    q_a: ArrayLike,
    q_b: ArrayLike,
    y: ArrayLike,
    *,
    log_q_a: ArrayLike | None = None,
    log_q_b: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
) -> dict[str, Tensor]:
    r"""The differences whose mean is :func:`difference_to_bcpd`, one an image, or one a seed and image.

    Teachers differ by the luck of their training, so what two ways to train do is a mean over seeds as well. With
    S trainings of each, all seen by the same n labelled images, the S n differences are no sample of S n: those of
    a seed share its teachers, those of an image its label. Their interval is crossed over both
    (:func:`crossed_difference_to_bcpd`):

    >>> from bcpd.stats import crossed_mean_interval
    >>> q = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.8, 0.2], [0.5, 0.5]]])
    >>> differences = label_differences(q, q.flip(0), [0, 1])
    >>> {name: tuple(values.shape) for name, values in differences.items()}
    {'mse': (2, 2), 'kl': (2, 2)}
    >>> crossed_mean_interval(differences["mse"]).n
    2

    Pair the trainings: seed s of a and seed s of b on the same data, initialisation and order.

    Args:
        q_a, q_b: ``(n, K)`` or ``(S, n, K)``; the rest as in :func:`difference_to_bcpd`, which says what it needs.
    Returns:
        ``mse`` and ``kl``, float64 ``(n,)`` or ``(S, n)`` with the excluded images gone. An entry of ``kl`` is ``inf``
        where a alone gives the label probability 0, ``-inf`` where b alone does, ``nan`` where both do; no interval
        takes such a table.
    Raises:
        ValueError: as in :func:`difference_to_bcpd`.
    """
    first, second = log_rows(q_a, log_q_a, "q_a"), log_rows(q_b, log_q_b, "q_b")
    if first.shape != second.shape or first.ndim not in (2, 3):
        raise ValueError(
            f"q_a and q_b must have the same shape (n, K) or (S, n, K), received {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    first, second = first.detach(), second.detach().to(first.device)
    n, num_classes = first.shape[-2:]
    truth = _label_rows(y, n, num_classes).to(first.device)
    kept = ~_mask(exclude, n).to(first.device)
    if int(kept.sum()) < 2:
        raise ValueError(f"at least 2 images are needed, received {n} of which {n - int(kept.sum())} are excluded")
    first, second, truth = first[..., kept, :], second[..., kept, :], truth[kept]
    return {
        "mse": simplex.squared_distance(truth, first.exp()) - simplex.squared_distance(truth, second.exp()),
        "kl": simplex.cross_entropy_from_log(truth, first) - simplex.cross_entropy_from_log(truth, second),
    }


def _label_rows(y: ArrayLike, n: int, num_classes: int) -> Tensor:
    """Labels ``(n,)`` as one-hot rows, or rows ``(n, K)`` as they are."""
    axes = np.ndim(y)
    rows = probability_rows(y, "y") if axes == 2 else labels(y, num_classes, "y")
    if tuple(rows.shape) != ((n, num_classes) if axes == 2 else (n,)):
        raise ValueError(f"y must have shape ({n},) or ({n}, {num_classes}), received {tuple(rows.shape)}")
    return rows if axes == 2 else torch.nn.functional.one_hot(rows, num_classes).double()


def _mask(exclude: ArrayLike | None, n: int) -> Tensor:
    if exclude is None:
        return torch.zeros(n, dtype=torch.bool)
    mask = torch.as_tensor(exclude)
    if mask.dtype != torch.bool or tuple(mask.shape) != (n,):
        raise ValueError(f"exclude must be a bool mask of shape ({n},), received {mask.dtype} {tuple(mask.shape)}")
    return mask


def _note(differences: Tensor) -> str:
    """Why the mean of the differences is not finite."""
    both, a, b = (
        int(found.sum()) for found in (differences.isnan(), differences == math.inf, differences == -math.inf)
    )
    if both + a + b == 0:
        return ""
    said = " and ".join(
        f"{who} the label of {count} of {len(differences)} images probability 0"
        for who, count in (("both teachers give", both), ("a alone gives", a), ("b alone gives", b))
        if count
    )
    if both or (a and b):
        return f"{said}: both log scores are infinite, and their difference is undefined"
    return f"{said}: its log score is infinite"
