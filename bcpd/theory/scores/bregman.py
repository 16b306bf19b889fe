r"""Proper scores made from a convex function alone, by Savage's representation.

A regular loss is proper if and only if there is a convex G on the simplex with

.. math:: \ell(k, q) = -G(q) - \langle \nabla G(q),\, e_k - q \rangle

(up to constants that depend on k alone, which move no minimiser), and strictly proper if and only if G is strictly
convex (McCarthy 1956; Savage 1971; Gneiting & Raftery 2007, Theorem 2). Then
:math:`\sum_k p_k \ell(k, q) = -G(p) + D_G(p, q)` with the Bregman divergence
:math:`D_G(p, q) = G(p) - G(q) - \langle \nabla G(q), p - q \rangle`, truth first: Theorem 1 for any proper score.

Here G is given by its values only, and its gradient is autograd's: no formula of :mod:`bcpd.losses` is used, so that
the two can be compared. Only directions within the simplex enter, hence it does not matter how G is continued outside.

Regularity: "regular" means that the losses are finite, except possibly :math:`\ell(k, q) = +\infty` where
:math:`q_k = 0`. Autograd needs G to be differentiable where it is used; at a kink it returns one subgradient, which
makes a proper loss still, but not the only one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bcpd.losses import Loss
from bcpd.losses.loss import expected, identity, softmax, wide
from bcpd.tensors import ArrayLike, probability_rows

__all__ = ["SCORES", "Score", "power_score"]


@dataclass(frozen=True)
class Score:
    r"""The proper score of a convex function.

    Attributes:
        name: of the score.
        convex: G, rows ``(..., K)`` to ``(...)``, differentiable by autograd inside the simplex.
        formula: of G, in TeX.
        loss: the entry of :data:`bcpd.losses.LOSSES` that is the same score, or ``""``.
        offset: what that entry adds for outcome k of K classes: ``l(k, q) = l_G(k, q) + offset(K)[k]``; ``None`` for
            nothing. It depends on the outcome alone: the entropy changes, divergence and minimiser do not.
    """

    name: str
    convex: Callable[[Tensor], Tensor]
    formula: str = ""
    loss: str = ""
    offset: Callable[[int], Tensor] | None = None

    def slope(self, q: ArrayLike) -> Tensor:
        r""":math:`\nabla G(q)` by autograd, ``(..., K)``; its part along :math:`(1, \dots, 1)` has no meaning.

        Differentiable in q where q asks for it.
        """
        return self._value_and_slope(probability_rows(q, "q"))[1]

    def outcome_losses(self, q: ArrayLike) -> Tensor:
        r""":math:`\ell(k, q)` for every outcome k: ``(..., K)``."""
        rows = probability_rows(q, "q")
        value, slope = self._value_and_slope(rows)
        # an infinite slope at q_k = 0 has weight 0
        inner = torch.where(rows == 0, 0.0, slope * rows).sum(-1)
        return (inner - value).unsqueeze(-1) - slope

    def entropy(self, p: ArrayLike) -> Tensor:
        r""":math:`-G(p)`, the least expected loss."""
        return -self.convex(probability_rows(p, "p"))

    def divergence(self, p: ArrayLike, q: ArrayLike) -> Tensor:
        r""":math:`D_G(p, q) = G(p) - G(q) - \langle \nabla G(q), p - q \rangle`, truth first.

        Raises:
            ValueError: rows that are not probabilities, or not of the same classes.
        """
        truth = probability_rows(p, "p")
        guess = probability_rows(q, "q", num_classes=truth.shape[-1])
        value, slope = self._value_and_slope(guess)
        step = truth - guess
        return self.convex(truth) - value - torch.where(step == 0, 0.0, slope * step).sum(-1)

    def as_loss(self) -> Loss:
        """The score on logits, read out by softmax, with its entropy and divergence."""

        def function(logits: Tensor, target: Tensor) -> Tensor:
            z = wide(logits)
            return expected(self.outcome_losses(softmax(z)).to(z.dtype), target)

        return Loss(self.name, function, identity, self.entropy, self.divergence)

    def _value_and_slope(self, q: Tensor) -> tuple[Tensor, Tensor]:
        follow = q.requires_grad and torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = q if follow else q.detach().requires_grad_()
            value = self.convex(leaf)
            if value.shape != q.shape[:-1]:
                raise ValueError(
                    f"the convex function of {self.name} must return one value a row, shape {tuple(q.shape[:-1])}, "
                    f"received {tuple(value.shape)}"
                )
            (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=follow)
        return (value, slope) if follow else (value.detach(), slope)


def power_score(exponent: float) -> Score:
    r"""The score of :math:`G(q) = \sum_k q_k^b`, b > 1; see :func:`bcpd.losses.power`.

    Raises:
        ValueError: an exponent that is not above 1 (at 1, G is constant).
    """
    if not exponent > 1:
        raise ValueError(f"exponent must be > 1, received {exponent}")
    return Score(f"power {exponent:g}", lambda q: (q**exponent).sum(-1), r"\sum_k q_k^b")


def _beyond(num_classes: int) -> Tensor:
    """How many of the cumulative sums count outcome k."""
    return torch.arange(num_classes, 0, -1, dtype=torch.float64)


SCORES: Mapping[str, Score] = {
    score.name: score
    for score in (
        Score("brier", lambda q: q.square().sum(-1) - 1, r"\sum_k q_k^2 - 1", "mse"),
        Score("log", lambda q: -torch.special.entr(q).sum(-1), r"\sum_k q_k \log q_k", "ce"),
        Score("spherical", lambda q: torch.linalg.vector_norm(q, dim=-1), r"\|q\|_2", "spherical"),
        Score("power", lambda q: (q**1.5).sum(-1), r"\sum_k q_k^{1.5}", "power"),
        Score(
            "ranked_probability",
            lambda q: q.cumsum(-1).square().sum(-1),
            r"\sum_j (q_1 + \dots + q_j)^2",
            "ranked_probability",
            _beyond,
        ),
    )
}
"""The classical five. ``brier``, ``log``, ``spherical`` and ``power`` (b = 1.5) are the entries of ``LOSSES`` exactly.
For the ranked probability score, :math:`\\ell(k, q) = \\ell_G(k, q) + K - k` with outcomes k = 0, ..., K - 1: the
squared indicators in :math:`\\sum_j (1\\{k \\le j\\} - Q_j)^2`, which G does not see."""
