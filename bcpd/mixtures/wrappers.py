r"""Mixtures made from mixtures, with p* still exact: label noise, superclasses, other priors. They nest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self, TypeGuard

import numpy as np
import torch
from torch import Tensor

from bcpd.estimate import Estimate
from bcpd.mixtures.base import Mixture, categorical, distributions
from bcpd.mixtures.bayes_error import ComponentJoint
from bcpd.tensors import ArrayLike

__all__ = ["LabelNoise", "PriorShift", "Superclasses", "Wrapper"]


class Wrapper(Mixture):
    """A mixture made from another, of the same shape of x, and tuned by it."""

    def __init__(self, mixture: Mixture) -> None:
        if not isinstance(mixture, Mixture):
            raise ValueError(f"mixture must be a Mixture, received {type(mixture).__name__}")
        self.mixture = mixture
        self.shape = mixture.shape
        self.symmetries = mixture.symmetries

    @abstractmethod
    def _around(self, mixture: Mixture) -> Self:
        """The same wrapper around another mixture."""

    def _separated(self, separation: float) -> Self:
        return self._around(self.mixture._separated(separation))

    @property
    def _shrinking_garbles(self) -> bool:
        return self.mixture._shrinking_garbles

    def _floats_per_row(self) -> int:
        return max(self.num_classes, self.mixture._floats_per_row())


class _Channel(Wrapper):
    r"""Labels sent through a row-stochastic matrix T: :math:`\tilde p^*_j = \sum_k p^*_k T_{kj}`, in the log domain."""

    def __init__(self, mixture: Mixture, transition: Tensor) -> None:
        super().__init__(mixture)
        self.transition = transition
        self.num_classes = transition.shape[1]
        self.priors = mixture.priors @ transition

    def sample_given(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """x given the outgoing label: first the incoming label from P(k | j), then x given k."""
        incoming = torch.empty_like(y)
        for j in torch.unique(y).tolist():
            chosen = y == j
            backward = self.mixture.priors * self.transition[:, j]
            incoming[chosen] = categorical(backward, int(chosen.sum()), generator)
        return self.mixture.sample_given(incoming, generator)

    def _log_posterior_rows(self, x: Tensor) -> Tensor:
        incoming = self.mixture._log_posterior_rows(x)
        output = torch.full((len(x), self.num_classes), -torch.inf, dtype=torch.float64, device=x.device)
        for j, column in enumerate(self.transition.T):
            sources = column.nonzero()[:, 0]
            if len(sources) > 0:
                terms = incoming[:, sources.to(x.device)] + column[sources].log().to(x.device)
                output[:, j] = terms.logsumexp(-1)
        return output

    def support(self) -> tuple[Tensor, Tensor] | None:
        """That of the wrapped mixture: labels change, x does not."""
        return self.mixture.support()

    def _component_joint(self) -> ComponentJoint | None:
        base = self.mixture._component_joint()
        return None if base is None else base.with_joint(base.joint @ self.transition.numpy())


class LabelNoise(_Channel):
    r"""Class-conditional label noise: y is replaced by j with probability ``transition[y, j]``, whatever x.

    .. math:: \tilde p^* = p^* T, \qquad \tilde\pi = \pi T .

    Args:
        mixture: with K classes.
        transition: ``(K, K')``, rows summing to 1. Symmetric noise of rate :math:`\epsilon` is
            :math:`(1 - \epsilon) I + \epsilon / K`, see :meth:`symmetric`; its Bayes error is
            :math:`1 - (1 - \epsilon)(1 - L^*) - \epsilon / K`, since the argmax stays.
    Raises:
        ValueError: not row-stochastic, or not one row a class.
    """

    kind = "label_noise"

    def __init__(self, mixture: Mixture, transition: ArrayLike) -> None:
        rows = distributions(transition, "transition")
        if rows.ndim != 2 or len(rows) != mixture.num_classes:
            raise ValueError(f"transition must have shape ({mixture.num_classes}, K'), received {tuple(rows.shape)}")
        super().__init__(mixture, rows)

    @classmethod
    def symmetric(cls, mixture: Mixture, rate: float) -> Self:
        r"""Uniform noise: with probability ``rate`` in ``[0, 1]`` the label is drawn anew from all K classes."""
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must lie in [0, 1], received {rate}")
        classes = mixture.num_classes
        uniform = torch.full((classes, classes), rate / classes, dtype=torch.float64)
        return cls(mixture, uniform + (1 - rate) * torch.eye(classes, dtype=torch.float64))

    @classmethod
    def rotating(cls, mixture: Mixture, rate: float) -> Self:
        r"""With probability ``rate`` in ``[0, 1]`` the label becomes the next one, the last the first."""
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must lie in [0, 1], received {rate}")
        kept = torch.eye(mixture.num_classes, dtype=torch.float64)
        return cls(mixture, (1 - rate) * kept + rate * kept.roll(1, 1))

    def _analytic_bayes_error(self) -> Estimate | None:
        rate = self._symmetric_rate()
        base = None if rate is None else self.mixture._analytic_bayes_error()
        if rate is None or base is None:
            return super()._analytic_bayes_error()
        error = 1 - (1 - rate) * (1 - base.value) - rate / self.num_classes
        return Estimate(error, (1 - rate) * base.stderr, base.method)

    def _symmetric_rate(self) -> float | None:
        rows, classes = self.transition, len(self.transition)
        if rows.shape[1] != classes or classes < 2:
            return None
        rate = float(rows[0, 1]) * classes
        expected = torch.full_like(rows, rate / classes).fill_diagonal_(1 - rate + rate / classes)
        return rate if rate <= 1 and bool(((rows - expected).abs() < 1e-14).all()) else None

    def _around(self, mixture: Mixture) -> Self:
        return type(self)(mixture, self.transition)

    def misspecified(self, amount: float = 0.02) -> LabelNoise:
        """Each row of the transition gives a share ``amount`` of its probabilities to the next label."""
        return LabelNoise(self.mixture, (1 - amount) * self.transition + amount * self.transition.roll(1, 1))

    def _arguments(self) -> dict[str, Any]:
        return {"mixture": self.mixture.spec(), "transition": self.transition.tolist()}


class Superclasses(_Channel):
    r"""Classes merged into groups: :math:`\tilde p^*_g = \sum_{k \in g} p^*_k`, summed in the log domain.

    Args:
        mixture: with K classes.
        groups: a partition of ``0 .. K-1``, as a sequence of sequences of classes (``[[0, 1], [2]]``), or flat, as the
            group number of every class (``[0, 0, 1]``).
    Raises:
        ValueError: a class in no group or in two, an empty group.
    """

    kind = "superclasses"

    def __init__(self, mixture: Mixture, groups: Sequence[int] | Sequence[Sequence[int]]) -> None:
        self.groups = _partition(groups, mixture.num_classes)
        transition = torch.zeros(mixture.num_classes, len(self.groups), dtype=torch.float64)
        for number, members in enumerate(self.groups):
            transition[list(members), number] = 1
        super().__init__(mixture, transition)

    def _around(self, mixture: Mixture) -> Self:
        return type(self)(mixture, self.groups)

    def misspecified(self, amount: float = 0.02) -> Superclasses:
        """The wrapped mixture misspecified."""
        return Superclasses(self.mixture.misspecified(amount), self.groups)

    def _arguments(self) -> dict[str, Any]:
        return {"mixture": self.mixture.spec(), "groups": [list(members) for members in self.groups]}


class PriorShift(Wrapper):
    r"""The same class-conditional densities under other priors: :math:`p'_k \propto p^*_k\, \pi'_k / \pi_k`.

    The law of x changes with the priors, also the weights of a finite X. At points of a finite X that have weight 0 and
    only classes of prior 0, where any row is a version of the conditional probability, p* stays as it was.

    Args:
        mixture: with K classes.
        priors: ``(K,)``, summing to 1, positive exactly where the mixture's own priors are.
    Raises:
        ValueError: not probabilities, another number of classes, or another set of possible classes.
    """

    kind = "prior_shift"

    def __init__(self, mixture: Mixture, priors: ArrayLike) -> None:
        super().__init__(mixture)
        self.num_classes = mixture.num_classes
        self.priors = distributions(priors, "priors")
        if tuple(self.priors.shape) != (self.num_classes,):
            raise ValueError(f"priors must have shape ({self.num_classes},), received {tuple(self.priors.shape)}")
        possible = mixture.priors > 0
        if bool(((self.priors > 0) != possible).any()):
            raise ValueError(
                f"priors must be positive exactly for the classes that occur, {possible.nonzero()[:, 0].tolist()}, "
                f"received {self.priors.tolist()}"
            )
        self._ratios = torch.where(possible, self.priors / mixture.priors, 0.0)

    def sample_given(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """x ~ P(x | y) of the wrapped mixture, which priors do not touch."""
        return self.mixture.sample_given(y, generator)

    def _log_posterior_rows(self, x: Tensor) -> Tensor:
        base = self.mixture._log_posterior_rows(x)
        shifted = base + self._ratios.log().to(x.device)
        nowhere = shifted.amax(-1, keepdim=True) == -torch.inf
        return torch.where(nowhere, base, shifted.log_softmax(-1))

    def support(self) -> tuple[Tensor, Tensor] | None:
        r"""The same points with weights :math:`w'_i = w_i \sum_k p^*_k(x_i)\, \pi'_k / \pi_k`."""
        support = self.mixture.support()
        if support is None:
            return None
        points, weights = support
        return points, weights * (self.mixture.posterior(points) @ self._ratios)

    def _component_joint(self) -> ComponentJoint | None:
        base = self.mixture._component_joint()
        return None if base is None else base.with_joint(base.joint * self._ratios.numpy())

    def _around(self, mixture: Mixture) -> Self:
        return type(self)(mixture, self.priors)

    def misspecified(self, amount: float = 0.02) -> PriorShift:
        """A mass of up to ``amount`` moved from the most frequent class to the rarest that occurs."""
        shifted = self.priors.clone()
        largest = int(shifted.argmax())
        rarest = int(torch.where(shifted > 0, shifted, 2.0).argmin())
        moved = min(amount, float(shifted[largest]) / 2)
        shifted[largest] -= moved
        shifted[rarest] += moved
        return PriorShift(self.mixture, shifted)

    def _arguments(self) -> dict[str, Any]:
        return {"mixture": self.mixture.spec(), "priors": self.priors.tolist()}


def _partition(groups: Sequence[int] | Sequence[Sequence[int]], num_classes: int) -> tuple[tuple[int, ...], ...]:
    accepted = (
        f"groups must partition the classes 0..{num_classes - 1}: a sequence of sequences of classes, "
        f"or the group number (0, 1, ...) of every class; received {groups!r}"
    )
    entries = list(groups)
    members: list[tuple[int, ...]]
    numbers = [int(entry) for entry in entries if _whole(entry)]
    if len(numbers) == len(entries):
        if len(numbers) != num_classes or set(numbers) != set(range(max(numbers, default=-1) + 1)):
            raise ValueError(accepted)
        members = [tuple(k for k, number in enumerate(numbers) if number == g) for g in range(max(numbers) + 1)]
    else:
        sequences = [entry for entry in entries if isinstance(entry, Sequence)]
        members = [tuple(int(k) for k in entry if _whole(k)) for entry in sequences]
        if len(sequences) < len(entries) or any(len(a) != len(b) for a, b in zip(members, sequences, strict=True)):
            raise ValueError(accepted)
    if sorted(k for group in members for k in group) != list(range(num_classes)) or not all(members):
        raise ValueError(accepted)
    return tuple(members)


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
