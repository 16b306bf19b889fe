r"""Teacher losses: strictly proper scores, and the improper ones that serve as controls.

``LOSSES[name](logits, target)`` returns one value per example. A target is either integer labels ``(...)`` or rows of
probabilities ``t`` of shape ``(..., K)``, for which every loss is the expected label loss
:math:`\sum_k t_k\, \ell(k, q)`; the square losses ``mse``, ``mse_mean`` and ``logit_mse`` use :math:`\|t - q\|^2`,
which equals it up to the constant :math:`1 - \|t\|^2` (so ``mae`` with a row is :math:`2(1 - \langle t, q \rangle)`,
never :math:`\|t - q\|_1`: that reading would make L1 look proper).

``LOSSES[name].minimiser(p)`` is what training on infinite data from ``P(y | x) = p`` converges to in an unrestricted
class. For a proper loss it is ``p``; for the controls it is something else, in closed form, and
``LOSSES[name].corrected(q)`` leads back from it to p where that is possible. Proper losses also know their two halves
of Theorem 1, :math:`\mathbb E\,\ell(y, q) = \mathbb E\,H_\ell(p^*) + \mathbb E\,d_\ell(p^*, q)`: ``entropy(p)`` and
``divergence(p, q)``.
"""

from __future__ import annotations

from collections.abc import Mapping

from bcpd.losses.improper import MAE, confidence_penalty, focal, generalised_ce, label_smoothing, tempered_ce
from bcpd.losses.loss import Loss, ReadOut, check_target
from bcpd.losses.on_logits import CRAMMER_SINGER, LOGIT_MSE, hui_belkin
from bcpd.losses.proper import CE, MSE, MSE_MEAN, RANKED_PROBABILITY, SPHERICAL, power

__all__ = [
    "LOSSES",
    "Loss",
    "ReadOut",
    "check_target",
    "confidence_penalty",
    "focal",
    "generalised_ce",
    "hui_belkin",
    "label_smoothing",
    "power",
    "tempered_ce",
]

LOSSES: Mapping[str, Loss] = {
    # strictly proper scores: the population minimiser is p*
    "ce": CE,
    "mse": MSE,
    "mse_mean": MSE_MEAN,
    "spherical": SPHERICAL,
    "power": power(),
    "ranked_probability": RANKED_PROBABILITY,
    # losses of raw logits: the read-out decides what is learnt
    "logit_mse": LOGIT_MSE,
    "hui_belkin": hui_belkin(),
    "crammer_singer": CRAMMER_SINGER,
    # improper losses, the controls: the minimiser is not p*
    "label_smoothing": label_smoothing(),
    "focal": focal(),
    "mae": MAE,
    "generalised_ce": generalised_ce(),
    "tempered_ce": tempered_ce(),
    "confidence_penalty": confidence_penalty(),
}
"""The named losses. Proper: ``ce`` (cross-entropy), ``mse`` (Brier score on softmax probabilities, summed over
classes), ``mse_mean`` (divided by K, the released scale), ``spherical``, ``power`` (exponent 1.5),
``ranked_probability`` (for ordered classes). On raw logits: ``logit_mse`` (the released CIFAR code's intent), read out
by projection onto the simplex or by softmax; ``hui_belkin`` (k = 4, M = 2), by the inverse of its minimiser or by
softmax; ``crammer_singer``. Controls: ``label_smoothing`` (epsilon 0.1), ``focal`` (gamma 2), ``mae``,
``generalised_ce`` (exponent 0.7), ``tempered_ce`` (temperature 2), ``confidence_penalty`` (beta 0.3)."""
