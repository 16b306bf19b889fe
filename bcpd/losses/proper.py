r"""Strictly proper scores of softmax probabilities: their population minimiser is p*, whatever p* is.

Each is the score of a strictly convex G on the simplex (Gneiting & Raftery 2007, section 2; Savage 1971):
:math:`\ell(k, q) = -G(q) - \langle \nabla G(q), e_k - q \rangle`, possibly plus a constant that depends on the outcome
k alone. Then :math:`E\,\ell(y, q) = E\,H_\ell(p^*) + E\,d_\ell(p^*, q)` with the Bregman divergence of G as
:math:`d_\ell`, truth first. :mod:`bcpd.theory.scores.bregman` makes the losses from G alone, and compares.

Regularity: all but the logarithmic score are bounded, with finite entropies and divergences up to the boundary of the
simplex. The logarithmic score is finite wherever :math:`q_k > 0` or the outcome k has probability 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from bcpd import simplex
from bcpd.losses.loss import Loss, expected, identity, softmax, target_rows, wide
from bcpd.tensors import ArrayLike, log_softmax, probability_rows

__all__ = ["CE", "MSE", "MSE_MEAN", "RANKED_PROBABILITY", "SPHERICAL", "power"]


def _rows(p: ArrayLike, q: ArrayLike) -> tuple[Tensor, Tensor]:
    """Truth and guess as float64 probabilities of the same classes."""
    truth = probability_rows(p, "p")
    return truth, probability_rows(q, "q", num_classes=truth.shape[-1])


def _ce(logits: Tensor, target: Tensor) -> Tensor:
    return expected(-log_softmax(wide(logits)), target)


def _mse(logits: Tensor, target: Tensor) -> Tensor:
    q = softmax(wide(logits))
    return (q - target_rows(target, q)).square().sum(-1)


def _mse_mean(logits: Tensor, target: Tensor) -> Tensor:
    return _mse(logits, target) / logits.shape[-1]


def _gini(p: ArrayLike) -> Tensor:
    rows = probability_rows(p, "p")
    return 1 - rows.square().sum(-1)


def _gini_mean(p: ArrayLike) -> Tensor:
    rows = probability_rows(p, "p")
    return _gini(rows) / rows.shape[-1]


def _squared_distance_mean(p: ArrayLike, q: ArrayLike) -> Tensor:
    rows = probability_rows(p, "p")
    return simplex.squared_distance(rows, q) / rows.shape[-1]


def _spherical(logits: Tensor, target: Tensor) -> Tensor:
    log_q = log_softmax(wide(logits))
    log_norm = torch.logsumexp(2 * log_q, dim=-1, keepdim=True) / 2
    return expected(-(log_q - log_norm).exp(), target)


def _spherical_entropy(p: ArrayLike) -> Tensor:
    entropy: Tensor = -torch.linalg.vector_norm(probability_rows(p, "p"), dim=-1)
    return entropy


def _spherical_divergence(p: ArrayLike, q: ArrayLike) -> Tensor:
    truth, guess = _rows(p, q)
    norm = torch.linalg.vector_norm
    divergence: Tensor = norm(truth, dim=-1) - (truth * guess).sum(-1) / norm(guess, dim=-1)
    return divergence


def power(exponent: float = 1.5) -> Loss:
    r"""Power score :math:`(b - 1)\sum_j q_j^b - b\, q_y^{b - 1}`, b > 1, of :math:`G(q) = \sum_j q_j^b`; **proper**.

    Also known as the Tsallis or density-power score (Gneiting & Raftery 2007, section 4; Basu et al. 1998). b = 2 is
    the Brier score minus 1. Divided by b - 1 it tends to the logarithmic score (minus 1) as b falls to 1. Entropy
    :math:`-\sum_j p_j^b`, divergence :math:`\sum_j p_j^b + (b - 1) q_j^b - b\, p_j q_j^{b - 1}`. Bounded for every
    b > 1: by -b and b - 1.

    Args:
        exponent: b, > 1.
    Raises:
        ValueError: an exponent that is not above 1, or not finite.
    """
    if not (exponent > 1 and math.isfinite(exponent)):
        raise ValueError(f"exponent must be > 1 and finite, received {exponent}")

    def function(logits: Tensor, target: Tensor) -> Tensor:
        log_q = log_softmax(wide(logits))
        total = (exponent * log_q).exp().sum(-1, keepdim=True)
        return expected((exponent - 1) * total - exponent * ((exponent - 1) * log_q).exp(), target)

    def entropy(p: ArrayLike) -> Tensor:
        return -(probability_rows(p, "p") ** exponent).sum(-1)

    def divergence(p: ArrayLike, q: ArrayLike) -> Tensor:
        truth, guess = _rows(p, q)
        tangent = (exponent - 1) * guess**exponent - exponent * truth * guess ** (exponent - 1)
        return (truth**exponent + tangent).sum(-1)

    return Loss("power", function, identity, entropy, divergence, parameters={"exponent": exponent})


def _ranked_probability(logits: Tensor, target: Tensor) -> Tensor:
    q = softmax(wide(logits))
    # sums from either end instead of 1 - Q: nothing cancels where one class is nearly certain
    at_most = q.cumsum(-1)[..., :-1].square()
    above = q.flip(-1).cumsum(-1).flip(-1)[..., 1:].square()
    lower = functional.pad(at_most.cumsum(-1), (1, 0))
    upper = functional.pad(above.flip(-1).cumsum(-1).flip(-1), (0, 1))
    return expected(lower + upper, target)


def _ranked_entropy(p: ArrayLike) -> Tensor:
    rows = probability_rows(p, "p")
    cumulative = rows.cumsum(-1)[..., :-1]
    above = rows.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    return (cumulative * above).sum(-1)


def _ranked_divergence(p: ArrayLike, q: ArrayLike) -> Tensor:
    truth, guess = _rows(p, q)
    return (truth - guess).cumsum(-1)[..., :-1].square().sum(-1)


CE = Loss("ce", _ce, identity, simplex.entropy, simplex.kl)
"""Cross-entropy, the logarithmic score: :math:`-\\log q_y`."""

MSE = Loss("mse", _mse, identity, _gini, simplex.squared_distance, score="brier")
"""Brier score :math:`\\|e_y - q\\|^2`, summed over classes."""

MSE_MEAN = Loss("mse_mean", _mse_mean, identity, _gini_mean, _squared_distance_mean, score="brier")
"""The Brier score divided by K."""

SPHERICAL = Loss("spherical", _spherical, identity, _spherical_entropy, _spherical_divergence)
"""Spherical score :math:`-q_y / \\|q\\|_2`."""

RANKED_PROBABILITY = Loss(
    "ranked_probability", _ranked_probability, identity, _ranked_entropy, _ranked_divergence, score="brier"
)
r"""Ranked probability score (Epstein 1969), :math:`\sum_{j < K} (1\{y \le j\} - Q_j)^2` with
:math:`Q_j = \sum_{i \le j} q_i`: the classes count in the order of their columns. Entropy
:math:`\sum_j P_j (1 - P_j)`, divergence :math:`\sum_j (P_j - Q_j)^2`. Strictly proper, as the cumulative sums determine
q."""
