"""What a loss is: per-example values on logits, and what the theory says about its minimiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from bcpd import tensors
from bcpd.tensors import ArrayLike, probability_rows

__all__ = [
    "SOFTMAX_READOUT",
    "Loss",
    "ReadOut",
    "check_target",
    "expected",
    "identity",
    "softmax",
    "target_rows",
    "wide",
]

ReadOut = Callable[[Tensor], Tensor]


def softmax(logits: Tensor) -> Tensor:
    """The usual read-out."""
    return tensors.softmax(logits)


def identity(p: Tensor) -> Tensor:
    """Minimiser and correction of a strictly proper loss."""
    return p


SOFTMAX_READOUT: Mapping[str, ReadOut] = {"softmax": softmax}


@dataclass(frozen=True)
class Loss:
    """A per-example loss on logits, with what the theory says about it.

    Attributes:
        name: the key in :data:`bcpd.losses.LOSSES`, or a name of your own.
        function: ``(logits (..., K), target) -> (...)`` without input checks; the trainer calls this one.
        population_minimiser: ``p -> argmin over the simplex of sum_k p_k l(k, q)``, float64 rows to float64 rows, by
            the first read-out.
        entropy: the generalised entropy ``H_l(p) = min_q sum_k p_k l(k, q)``; ``None`` for improper losses.
        divergence: ``d_l(p, q)``, truth first; ``None`` for improper losses.
        readouts: how logits become probabilities, the default first.
        score: the validation score that a model trained with this loss is selected by, ``nll`` or ``brier``.
        parameters: the loss's own constants; with the name, they identify it in stored runs.
        correction: the map from the read-out minimiser (by the first read-out) back to p, float64 rows to float64
            rows; ``None`` where there is none. Strictly proper losses need none: theirs is the identity.
        population_logits: ``p -> z``, for losses that are no function of the softmax: the minimiser before a read-out.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    population_minimiser: Callable[[Tensor], Tensor]
    entropy: Callable[[ArrayLike], Tensor] | None = None
    divergence: Callable[[ArrayLike, ArrayLike], Tensor] | None = None
    readouts: Mapping[str, ReadOut] = field(default_factory=lambda: SOFTMAX_READOUT)
    score: Literal["nll", "brier"] = "nll"
    parameters: Mapping[str, float] = field(default_factory=dict)
    correction: Callable[[Tensor], Tensor] | None = None
    population_logits: Callable[[Tensor], Tensor] | None = None

    @property
    def proper(self) -> bool:
        """Whether the population minimiser is p* for every p* (strict propriety)."""
        return self.divergence is not None

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Per-example loss.

        Args:
            logits: real tensor ``(..., K)``; half precision is computed in float32.
            target: integer labels ``(...)``, or probability rows ``(..., K)`` in a floating dtype.
        Returns:
            tensor ``(...)`` in the dtype of the logits (float32 for half precision).
        Raises:
            ValueError: shapes that do not match, labels out of range, rows that are not probabilities.
        """
        check_target(logits, target)
        return self.function(logits, target if target.is_floating_point() else target.long())

    def minimiser(self, p: ArrayLike, readout: str | None = None) -> Tensor:
        r"""Population minimiser :math:`\arg\min_q \sum_k p_k\, \ell(k, q)`, read out as probabilities.

        Args:
            p: rows of true class probabilities ``(..., K)``.
            readout: one of ``readouts`` (default: the first). For ``logit_mse`` the minimiser is ``z = p`` in logit
                space: the read-out ``projection`` returns ``p``, the read-out ``softmax`` a nearly uniform row.
        Raises:
            ValueError: rows that are not probabilities, or an unknown read-out.
        """
        rows = probability_rows(p, "p")
        read = self.readout(readout)
        if self.population_logits is None or read is self.readout():
            return self.population_minimiser(rows)
        return read(self.population_logits(rows))

    def minimiser_logits(self, p: ArrayLike) -> Tensor:
        """Logits ``(..., K)`` that every read-out of the minimiser comes from; ``-inf`` where its softmax is 0.

        Raises:
            ValueError: rows that are not probabilities.
        """
        rows = probability_rows(p, "p")
        return self.population_minimiser(rows).log() if self.population_logits is None else self.population_logits(rows)

    def corrected(self, q: ArrayLike) -> Tensor:
        r"""The p whose minimiser is q: what training with this loss says about p*, its bias undone.

        ``corrected(minimiser(p))`` is p. A row that is the minimiser of no p (a network's rows may be) is mapped to
        the closest p where the formula leaves the simplex.

        Args:
            q: rows ``(..., K)``, read out by the first read-out.
        Raises:
            ValueError: rows that are not probabilities; a loss without such a map.
        """
        rows = probability_rows(q, "q")
        if self.proper:
            return rows
        if self.correction is None:
            raise ValueError(
                f"{self.name} has no correction: none exists where different p share one minimiser "
                "(as for mae and crammer_singer, whose minimisers depend on the mode of p alone), and none is known"
            )
        return self.correction(rows)

    def readout(self, name: str | None = None) -> ReadOut:
        """The map from logits to probabilities; the default one, or the one named."""
        if name is None:
            return next(iter(self.readouts.values()))
        if name not in self.readouts:
            raise ValueError(f"read-out of {self.name} must be one of {sorted(self.readouts)}, received {name!r}")
        return self.readouts[name]


def check_target(logits: Tensor, target: Tensor) -> None:
    """Refuse a target that does not belong to the logits; see :meth:`Loss.__call__`."""
    if logits.ndim < 1 or not logits.is_floating_point():
        raise ValueError(f"logits must be floating with shape (..., K), received {logits.dtype} {tuple(logits.shape)}")
    num_classes = logits.shape[-1]
    if target.is_floating_point():
        if target.shape != logits.shape:
            raise ValueError(
                f"probability targets must have the shape of the logits {tuple(logits.shape)}, "
                f"received {tuple(target.shape)}"
            )
        probability_rows(target, "target", tolerance=1e-3)
    elif target.dtype == torch.bool or target.is_complex() or target.shape != logits.shape[:-1]:
        raise ValueError(
            f"targets must be integer labels of shape {tuple(logits.shape[:-1])} or probability rows of shape "
            f"{tuple(logits.shape)}, received {target.dtype} {tuple(target.shape)}"
        )
    elif target.numel() and not (int(target.min()) >= 0 and int(target.max()) < num_classes):
        raise ValueError(f"labels must lie in 0..{num_classes - 1}, received {int(target.min())}..{int(target.max())}")


def wide(logits: Tensor) -> Tensor:
    """Half precision is not enough for a logarithm: compute in float32 at least."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def target_rows(target: Tensor, like: Tensor) -> Tensor:
    """The target as probability rows in the dtype of ``like``."""
    if target.is_floating_point():
        return target.to(like.dtype)
    # not one_hot, which reads the labels' range back from the device
    return torch.zeros_like(like).scatter(-1, target.unsqueeze(-1), 1.0)


def expected(outcome_losses: Tensor, target: Tensor) -> Tensor:
    r""":math:`\sum_k t_k \ell(k, q)` from the losses of all outcomes; ``t_k = 0`` contributes 0 even to ``inf``."""
    if not target.is_floating_point():
        return outcome_losses.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    weights = target.to(outcome_losses.dtype)
    return torch.where(weights == 0, 0.0, weights * outcome_losses).sum(-1)
