"""Reader of CIFAR-10H: how about 51 people each labelled the 10,000 CIFAR-10 test images (Peterson et al. 2019)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from bcpd.mixtures import FiniteMixture
from bcpd.tensors import ArrayLike, float64, probability_rows
from bcpd.tensors import labels as checked_labels

__all__ = ["FEWEST_VOTES", "LEAST_AGREEMENT", "MOST_VOTES", "HumanLabels", "human_mixture", "read_cifar10h"]

FEWEST_VOTES, MOST_VOTES = 47, 63
"""Votes that an image of CIFAR-10H has, as published: 511,400 in all."""

LEAST_AGREEMENT = 0.95
"""Share of the images at which the label must be what most people say; 0.99 in the published order."""

_COUNTS, _SHARES = "cifar10h-counts.npy", "cifar10h-probs.npy"
_IMAGES, _CLASSES = 10_000, 10
_ROUNDING = 1e-5  # of m times a share, at least; a wrong m up to 1,000 is off by at least 1 / m
_FLOAT32 = 2.0**-23  # of a share held in float32
_SOURCE = "the official repository's folder data (https://github.com/jcpeterson/cifar-10h, CC BY-NC-SA 4.0)"

Which = Literal["least", "typical", "most"]


@dataclass(frozen=True)
class HumanLabels:
    r"""What people said about n images: shares of the votes, and their numbers where those are known.

    Shares :math:`\hat p = c / m` in lowest terms belong to any multiple of m votes. Where exactly one number within
    the published range fits, it is the number of votes; elsewhere the range of those that fit is kept. In CIFAR-10H
    that is so at 4,435 images, 4,393 of them one-hot, where it does not matter: the noise term
    :math:`(1 - \|\hat p\|^2) / (m - 1)` that debiased estimates subtract is 0 for every m. Estimates from
    ``counts_at("least")`` and ``counts_at("most")`` bracket the one from the true counts wherever it is monotone in m,
    as the squared distance, the noise and the brackets' ends are.

    Attributes:
        probabilities: :math:`\hat p`, ``(n, K)`` float64.
        votes: m, ``(n,)`` int64; 0 where it is not known.
        counts: votes a class, ``(n, K)`` int64; 0 where m is not known.
        fewest, most: ``(n,)`` int64, the least and the largest m that fit; equal where it is known, 0 where none does.
    """

    probabilities: Tensor
    votes: Tensor
    counts: Tensor
    fewest: Tensor
    most: Tensor

    @classmethod
    def from_counts(cls, counts: ArrayLike) -> Self:
        """Known votes, ``(n, K)`` whole numbers, at least one a row.

        Raises:
            ValueError: other entries, or another shape.
        """
        rows = float64(counts, "counts")
        total = rows.sum(-1)
        if rows.ndim != 2 or rows.shape[1] < 2 or not len(rows):
            raise ValueError(f"counts must have shape (n, K) with n >= 1, K >= 2, received {tuple(rows.shape)}")
        if not bool((rows.isfinite() & (rows >= 0) & (rows == rows.round())).all()) or bool((total < 1).any()):
            raise ValueError("counts must be whole numbers >= 0, at least one vote a row, received other entries")
        votes = total.long()
        return cls(rows / total[:, None], votes, rows.long(), votes, votes)

    @classmethod
    def from_shares(cls, shares: ArrayLike, fewest: int = FEWEST_VOTES, most: int = MOST_VOTES) -> Self:
        r"""Votes recovered from their shares: m makes all :math:`m \hat p_k` whole.

        Args:
            shares: ``(n, K)``, rows summing to 1 within 1e-6.
            fewest, most: m lies among these.
        Raises:
            ValueError: rows that are not probabilities, or a range that is none in 1 .. 1,000.
        """
        rows = probability_rows(shares, "shares", tolerance=1e-6)
        if rows.ndim != 2 or rows.shape[1] < 2 or not len(rows):
            raise ValueError(f"shares must have shape (n, K) with n >= 1, K >= 2, received {tuple(rows.shape)}")
        if not 1 <= fewest <= most <= 1000:
            raise ValueError(f"1 <= fewest <= most <= 1000 must hold, received {fewest} and {most}")
        fits = _fitting(rows, fewest, most)
        numbers = torch.arange(fewest, most + 1)
        least = torch.where(fits, numbers, most + 1).amin(-1)
        largest = torch.where(fits, numbers, 0).amax(-1)
        least = torch.where(largest > 0, least, 0)
        votes = torch.where(least == largest, least, 0)
        return cls(rows, votes, (rows * votes[:, None]).round().long(), least, largest)

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def known(self) -> Tensor:
        """Where the number of votes is known, ``(n,)`` bool."""
        return self.votes > 0

    def counts_at(self, which: Which = "typical") -> Tensor:
        """Votes a class for **every** row, ``(n, K)`` int64: the known ones, the others at a number that fits.

        Args:
            which: the ``least`` number that fits, the ``most``, or the ``typical``: nearest to the mean of the known
                rows (the smaller of two as near; the middle of the range where none is known).
        Raises:
            ValueError: another choice; or a row that no number fits, whose shares are no votes.
        """
        if which not in get_args(Which):
            raise ValueError(f"which must be one of {get_args(Which)}, received {which!r}")
        strangers = int((self.most == 0).sum())
        if strangers:
            raise ValueError(
                f"the votes of {strangers} of {len(self)} rows are not known: no number of votes fits their shares"
            )
        if which == "typical":
            first, last = int(self.fewest.min()), int(self.most.max())
            known = self.votes[self.known].double()
            aim = float(known.mean()) if len(known) else (first + last) / 2
            numbers = torch.arange(first, last + 1)
            gaps = torch.where(_fitting(self.probabilities, first, last), (numbers - aim).abs(), torch.inf)
            chosen = numbers[gaps.argmin(-1)]
        else:
            chosen = self.fewest if which == "least" else self.most
        chosen = torch.where(self.known, self.votes, chosen)
        return (self.probabilities * chosen[:, None]).round().long()

    def agreement(self, y: ArrayLike) -> float:
        """The share of the images whose label ``(n,)`` is what most people say, alone or with others."""
        rows = self.probabilities
        labels = checked_labels(y, rows.shape[1], "labels")
        if tuple(labels.shape) != (len(rows),):
            raise ValueError(f"labels must have shape ({len(rows)},), received {tuple(labels.shape)}")
        chosen = rows.gather(1, labels[:, None])[:, 0]
        return float((chosen == rows.amax(-1)).double().mean())

    def subset(self, index: Tensor) -> Self:
        """The rows at ``index`` ``(m,)`` int64."""
        return type(self)(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def read_cifar10h(folder: str | os.PathLike[str], labels: ArrayLike | None = None) -> HumanLabels:
    """The human labels, in the order of CIFAR-10's test batch.

    ``cifar10h-counts.npy`` is read where it is present (it must agree with the shares, if those are there too), else
    the votes are recovered from ``cifar10h-probs.npy``: see :class:`HumanLabels`. Nothing is unpickled.

    Args:
        folder: that of the files, the folder above, or a clone of the official repository.
        labels: the CIFAR-10 labels of the images, ``(n,)``. Where they are given, the label must be what most people
            say at 95 % of the images: rows or classes in another order are refused. (Images exchanged within a class
            cannot be noticed by labels.)
    Raises:
        FileNotFoundError: neither file; says where they are published.
        ValueError: a file that holds something else than ``(n, 10)`` numbers (n = 10,000 without labels), no rows of
            probabilities, counts and shares that contradict each other, or labels that people do not agree with.
    """
    root = _folder(Path(folder))
    expected = _IMAGES if labels is None else len(float64(labels, "labels"))
    counts, shares = (_table(root / name, expected) for name in (_COUNTS, _SHARES))
    if counts is not None:
        human = HumanLabels.from_counts(counts)
        if shares is not None and not np.allclose(human.probabilities.numpy(), shares, rtol=0, atol=1e-5):
            raise ValueError(f"{root}: {_COUNTS} and {_SHARES} must hold the same shares, received two that differ")
    else:
        assert shares is not None
        human = HumanLabels.from_shares(shares)
    if labels is not None:
        agreement = human.agreement(labels)
        if agreement < LEAST_AGREEMENT:
            raise ValueError(
                f"{root}: the label must be what most people say at {LEAST_AGREEMENT:.0%} of the images, received "
                f"{agreement:.1%}: other images, or images or classes in another order than CIFAR-10's test batch"
            )
    return human


def human_mixture(human: HumanLabels, points: ArrayLike | None = None) -> FiniteMixture:
    r"""A world whose p* is the shares of the votes: n images, each as likely, known by their number or as given.

    Its p* is :math:`\hat p` exactly: a realistic table for everything that needs one. As an estimate of what people
    think it carries the noise of the votes; distances to people go through :func:`bcpd.measure.distance_to_votes`.

    Args:
        human: shares of n images.
        points: ``(n, *shape)``, all different, held in float64 (25 kB a CIFAR image); by default the image's number
            as a column, ``(n, 1)``.
    """
    return FiniteMixture(torch.full((len(human),), 1 / len(human), dtype=torch.float64), human.probabilities, points)


def _fitting(rows: Tensor, fewest: int, most: int) -> Tensor:
    """Which numbers of votes make all shares whole, ``(n, most - fewest + 1)`` bool."""
    numbers = torch.arange(fewest, most + 1)[:, None]
    votes = rows[:, None] * numbers
    return ((votes - votes.round()).abs() <= (_FLOAT32 * numbers).clamp(min=_ROUNDING)).all(-1)


def _folder(given: Path) -> Path:
    """The first of the usual places that has one of the files."""
    places = [given / part for part in ("", "cifar-10h", "cifar-10h/data", "data")]
    for place in places:
        if any((place / name).is_file() for name in (_COUNTS, _SHARES)):
            return place
    raise FileNotFoundError(
        f"no file {_COUNTS} or {_SHARES} in {given} or its folders cifar-10h and data: take them from {_SOURCE} and "
        f"give their folder or the folder above"
    )


def _table(path: Path, rows: int) -> np.ndarray[Any, Any] | None:
    """The array ``(rows, 10)`` of a file; None where there is no such file."""
    if not path.is_file():
        return None
    try:
        table = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} must be a NumPy file of plain numbers, received something else: {error}") from None
    if not isinstance(table, np.ndarray) or table.dtype.kind not in "fiu" or table.shape != (rows, _CLASSES):
        received = f"{table.dtype} of shape {table.shape}" if isinstance(table, np.ndarray) else type(table).__name__
        raise ValueError(f"{path} must hold numbers of shape {(rows, _CLASSES)}, received {received}")
    return table
