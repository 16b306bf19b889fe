r"""Teacher losses: strictly proper scores, and the improper ones that serve as controls.

``LOSSES[name](logits, target)`` returns one value per example. A target is either integer labels ``(...)`` or rows of
probabilities ``t`` of shape ``(..., K)``, for which every loss is the expected label loss
:math:`\sum_k t_k\, \ell(k, q)`; the square losses use :math:`\|t - q\|^2`, which equals it up to the constant
:math:`1 - \|t\|^2` (so ``mae`` with a row is :math:`2(1 - \langle t, q \rangle)`, never :math:`\|t - q\|_1`: that
reading would make L1 look proper).

``LOSSES[name].minimiser(p)`` is what training on infinite data from ``P(y | x) = p`` converges to in an unrestricted
class. For a proper loss it is ``p``; for the controls it is something else, in closed form. Proper losses also know
their two halves of Theorem 1, :math:`\mathbb E\,\ell(y, q) = \mathbb E\,H_\ell(p^*) + \mathbb E\,d_\ell(p^*, q)`:
``entropy(p)`` and ``divergence(p, q)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from bcpd import simplex
from bcpd.tensors import ArrayLike, probability_rows

__all__ = ["LOSSES", "Loss", "focal", "label_smoothing"]

ReadOut = Callable[[Tensor], Tensor]


def _softmax(logits: Tensor) -> Tensor:
    return functional.softmax(logits, dim=-1)


SOFTMAX_READOUT: Mapping[str, ReadOut] = {"softmax": _softmax}


@dataclass(frozen=True)
class Loss:
    """A per-example loss on logits, with what the theory says about it.

    Attributes:
        name: the key in :data:`LOSSES`, or a name of your own.
        function: ``(logits (..., K), target) -> (...)`` without input checks; the trainer calls this one.
        population_minimiser: ``p -> argmin over the simplex of sum_k p_k l(k, q)``, float64 rows to float64 rows.
        entropy: the generalised entropy ``H_l(p) = min_q sum_k p_k l(k, q)``; ``None`` for improper losses.
        divergence: ``d_l(p, q)``, truth first; ``None`` for improper losses.
        readouts: how logits become probabilities, the default first.
        score: the validation score that a model trained with this loss is selected by, ``nll`` or ``brier``.
        parameters: the loss's own constants; with the name, they identify it in stored runs.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    population_minimiser: Callable[[Tensor], Tensor]
    entropy: Callable[[ArrayLike], Tensor] | None = None
    divergence: Callable[[ArrayLike, ArrayLike], Tensor] | None = None
    readouts: Mapping[str, ReadOut] = field(default_factory=lambda: SOFTMAX_READOUT)
    score: Literal["nll", "brier"] = "nll"
    parameters: Mapping[str, float] = field(default_factory=dict)

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
        minimiser = self.population_minimiser(probability_rows(p, "p"))
        if readout is None or readout == next(iter(self.readouts)):
            return minimiser
        if readout not in self.readouts:
            raise ValueError(f"read-out of {self.name} must be one of {sorted(self.readouts)}, received {readout!r}")
        return self.readouts[readout](minimiser)

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


def _wide(logits: Tensor) -> Tensor:
    """Half precision is not enough for a logarithm: compute in float32 at least."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _rows(target: Tensor, like: Tensor) -> Tensor:
    """The target as probability rows in the dtype of ``like``."""
    if target.is_floating_point():
        return target.to(like.dtype)
    return functional.one_hot(target, like.shape[-1]).to(like.dtype)


def _expected(outcome_losses: Tensor, target: Tensor) -> Tensor:
    """:math:`\\sum_k t_k \\ell(k, q)` from the losses of all outcomes; ``t_k = 0`` contributes 0 even to ``inf``."""
    if not target.is_floating_point():
        return outcome_losses.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    weights = target.to(outcome_losses.dtype)
    return torch.where(weights == 0, 0.0, weights * outcome_losses).sum(-1)


def _ce(logits: Tensor, target: Tensor) -> Tensor:
    return _expected(-functional.log_softmax(_wide(logits), dim=-1), target)


def _mse(logits: Tensor, target: Tensor) -> Tensor:
    q = _softmax(_wide(logits))
    return (q - _rows(target, q)).square().sum(-1)


def _mse_mean(logits: Tensor, target: Tensor) -> Tensor:
    return _mse(logits, target) / logits.shape[-1]


def _logit_mse(logits: Tensor, target: Tensor) -> Tensor:
    z = _wide(logits)
    return (z - _rows(target, z)).square().sum(-1)


def _spherical(logits: Tensor, target: Tensor) -> Tensor:
    log_q = functional.log_softmax(_wide(logits), dim=-1)
    log_norm = torch.logsumexp(2 * log_q, dim=-1, keepdim=True) / 2
    return _expected(-(log_q - log_norm).exp(), target)


def _mae(logits: Tensor, target: Tensor) -> Tensor:
    return _expected(2 * (1 - _softmax(_wide(logits))), target)


def _projection(z: Tensor) -> Tensor:
    """Rows of logits projected onto the simplex; a row that is not finite (a diverged replica's) is read as ``nan``."""
    finite = z.isfinite().all(-1, keepdim=True)
    rows: Tensor = torch.where(finite, simplex.project(torch.where(finite, z, 0.0)), torch.nan)
    return rows


def _identity(p: Tensor) -> Tensor:
    return p


def _mode(p: Tensor) -> Tensor:
    """All mass on the largest entries, shared equally where they tie (any share minimises the risk)."""
    top = (p == p.amax(-1, keepdim=True)).to(p.dtype)
    return top / top.sum(-1, keepdim=True)


def _gini(p: ArrayLike) -> Tensor:
    rows = probability_rows(p, "p")
    return 1 - rows.square().sum(-1)


def _gini_mean(p: ArrayLike) -> Tensor:
    rows = probability_rows(p, "p")
    return _gini(rows) / rows.shape[-1]


def _squared_distance_mean(p: ArrayLike, q: ArrayLike) -> Tensor:
    rows = probability_rows(p, "p")
    return simplex.squared_distance(rows, q) / rows.shape[-1]


def _spherical_entropy(p: ArrayLike) -> Tensor:
    entropy: Tensor = -torch.linalg.vector_norm(probability_rows(p, "p"), dim=-1)
    return entropy


def _spherical_divergence(p: ArrayLike, q: ArrayLike) -> Tensor:
    truth, guess = probability_rows(p, "p"), probability_rows(q, "q")
    norm = torch.linalg.vector_norm
    divergence: Tensor = norm(truth, dim=-1) - (truth * guess).sum(-1) / norm(guess, dim=-1)
    return divergence


def label_smoothing(epsilon: float = 0.1) -> Loss:
    r"""Cross-entropy against :math:`(1 - \epsilon) t + \epsilon / K` (Szegedy et al. 2016); **improper**.

    Population minimiser :math:`(1 - \epsilon) p + \epsilon / K`, so its MSE to p is
    :math:`\epsilon^2 \|p - 1/K\|^2`.

    Args:
        epsilon: share of the uniform row, in [0, 1).
    Raises:
        ValueError: epsilon outside [0, 1).
    """
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon must lie in [0, 1), received {epsilon}")

    def smooth(p: Tensor) -> Tensor:
        return (1 - epsilon) * p + epsilon / p.shape[-1]

    def function(logits: Tensor, target: Tensor) -> Tensor:
        log_q = functional.log_softmax(_wide(logits), dim=-1)
        uniform = epsilon * log_q.mean(-1) if epsilon else 0.0
        return (1 - epsilon) * _expected(-log_q, target) - uniform

    return Loss("label_smoothing", function, smooth, parameters={"epsilon": epsilon})


def focal(gamma: float = 2.0) -> Loss:
    r"""Focal loss :math:`-(1 - q_y)^\gamma \log q_y` (Lin et al. 2017); **improper** for gamma > 0.

    Stationarity of :math:`\sum_k p_k \ell(k, u)` on the simplex gives :math:`p_k \propto h(u_k)` with
    :math:`h(u) = u / \varphi(u)`, :math:`\varphi(u) = (1-u)^\gamma - \gamma (1-u)^{\gamma - 1} u \log u`
    (Charoenphakdee et al. 2021, Theorem 11), solved here for u by bisection to float64 accuracy.

    Args:
        gamma: focusing exponent, >= 0 (0 is the cross-entropy).
    Raises:
        ValueError: a negative gamma.
    """
    if not gamma >= 0:
        raise ValueError(f"gamma must be >= 0, received {gamma}")

    def function(logits: Tensor, target: Tensor) -> Tensor:
        log_q = functional.log_softmax(_wide(logits), dim=-1)
        # q = 1 costs 0 with derivative 0, but a power below 1 would differentiate to inf * 0 there
        certain = log_q == 0
        rest = -torch.where(certain, -1.0, log_q).expm1()
        return _expected(torch.where(certain, 0.0, -(rest**gamma) * log_q), target)

    def minimiser(p: Tensor) -> Tensor:
        return _focal_minimiser(p, gamma)

    return Loss("focal", function, minimiser, parameters={"gamma": gamma})


def _focal_minimiser(p: Tensor, gamma: float) -> Tensor:
    """Solve ``p_k = lam * h(u_k)``, ``sum u = 1``: h and its inverse increase, so two nested sections do it.

    ``1 / lam`` is bracketed by the largest entry: with ``c = h(u_max)``, ``u_max`` runs over [1/K, 1], and every other
    entry follows from ``h(u_k) = c p_k / p_max``. The outer search halves, the inner one takes 64ths: 60 bits each.
    """
    if gamma == 0:
        return p.clone()

    def h(u: Tensor) -> Tensor:
        rest = 1 - u
        slope: Tensor = rest**gamma + gamma * rest ** (gamma - 1) * torch.special.entr(u)
        return u / slope

    ratio = p / p.amax(-1, keepdim=True)
    low, high = torch.full_like(p[..., :1], 1 / p.shape[-1]), torch.ones_like(p[..., :1])
    inner = torch.arange(1, 64, dtype=p.dtype, device=p.device) / 64
    entries = ratio
    for _ in range(60):
        top = (low + high) / 2
        goal = h(top) * ratio
        below, width = torch.zeros_like(p), top.expand_as(p)
        for _ in range(10):
            points = below.unsqueeze(-1) + width.unsqueeze(-1) * inner
            short = (h(points) < goal.unsqueeze(-1)).sum(-1)
            below, width = below + width * (short / 64), width / 64
        entries = torch.where(ratio == 0, 0.0, torch.where(ratio == 1, top, below + width / 2))
        over = entries.sum(-1, keepdim=True) > 1
        low, high = torch.where(over, low, top), torch.where(over, top, high)
    return entries / entries.sum(-1, keepdim=True)


LOSSES: Mapping[str, Loss] = {
    # strictly proper scores: the population minimiser is p*
    "ce": Loss("ce", _ce, _identity, simplex.entropy, simplex.kl),
    "mse": Loss("mse", _mse, _identity, _gini, simplex.squared_distance, score="brier"),
    "mse_mean": Loss("mse_mean", _mse_mean, _identity, _gini_mean, _squared_distance_mean, score="brier"),
    "spherical": Loss("spherical", _spherical, _identity, _spherical_entropy, _spherical_divergence),
    # square loss on raw logits: the minimiser is z = p*, so the read-out decides whether q is
    "logit_mse": Loss(
        "logit_mse",
        _logit_mse,
        _identity,
        readouts={"projection": _projection, "softmax": _softmax},
        score="brier",
    ),
    # improper losses, the controls: the minimiser is not p*
    "label_smoothing": label_smoothing(),
    "focal": focal(),
    "mae": Loss("mae", _mae, _mode),
}
"""The named losses. ``ce``: cross-entropy. ``mse``: Brier score on softmax probabilities, summed over classes.
``mse_mean``: the same divided by K (the released scale). ``logit_mse``: square loss on raw logits (the released CIFAR
code's intent), read out by projection onto the simplex or by softmax. ``spherical``. Controls: ``label_smoothing``
(epsilon 0.1), ``focal`` (gamma 2), ``mae``."""
