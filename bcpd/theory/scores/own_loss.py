"""A loss that is known by its values only: checked, and completed by Savage's representation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bcpd.losses import Loss
from bcpd.losses.loss import expected, identity
from bcpd.tensors import ArrayLike, probability_rows
from bcpd.theory.scores.bregman import Score

__all__ = ["LossFunction", "loss_from_callable", "outcome_losses", "values_of"]

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""``(logits (n, K), labels (n,)) -> (n,)``"""


def loss_from_callable(function: LossFunction, name: str) -> Loss:
    r"""A :class:`Loss` from per-example values, with entropy and divergence by Savage's representation.

    :math:`H(p) = \sum_k p_k\,\ell(k, p)` and :math:`d(p, q) = D_G(p, q)` for :math:`G = -H`, its gradient by autograd
    through the function. For a regular proper loss these are Theorem 1's two halves. For an improper one they are not,
    and the claims made with them come out false: that is what they are for. Accordingly ``proper`` is a claim here, and
    ``minimiser(p)`` is p, what it would be. Ask :func:`propriety` whether it is.

    Args:
        function: ``(logits (n, K), labels (n,)) -> (n,)``, differentiable (twice, for claims about minimisers).
        name: of the loss.
    Raises:
        ValueError: when called, if the function does not return one value an example.
    """
    if isinstance(function, Loss):
        return function

    def outcomes(z: Tensor) -> Tensor:
        return outcome_losses(function, name, z)

    def evaluate(logits: Tensor, target: Tensor) -> Tensor:
        if target.is_floating_point():
            return expected(outcomes(logits), target)
        flat = values_of(function, name, logits.reshape(-1, logits.shape[-1]), target.reshape(-1))
        return flat.reshape(target.shape)

    def negative_entropy(p: Tensor) -> Tensor:
        losses = outcomes(p.clamp(min=1e-300).log())
        return -torch.where(p == 0, 0.0, p * losses).sum(-1)

    score = Score(name, negative_entropy)

    def entropy(p: ArrayLike) -> Tensor:
        return -negative_entropy(probability_rows(p, "p"))

    return Loss(name, evaluate, identity, entropy, score.divergence)


def outcome_losses(function: LossFunction, name: str, z: Tensor) -> Tensor:
    """``(..., K)``: the loss of every outcome at logits ``(..., K)``."""
    num_classes = z.shape[-1]
    flat = z.reshape(-1, num_classes)
    labels = torch.arange(num_classes, device=z.device).repeat(len(flat))
    return values_of(function, name, flat.repeat_interleave(num_classes, 0), labels).reshape(z.shape)


def values_of(function: LossFunction, name: str, logits: Tensor, labels: Tensor) -> Tensor:
    values: object = function(logits, labels)
    if not isinstance(values, Tensor) or values.shape != labels.shape:
        received = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"{name} must return one value an example, shape {tuple(labels.shape)} for logits {tuple(logits.shape)}, "
            f"received {received} (a mean over the batch is not a loss an example)"
        )
    return values
