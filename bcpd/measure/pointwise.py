"""The distances of a predictor to p* at each point, before any averaging."""

from __future__ import annotations

import torch
from torch import Tensor

from bcpd import simplex

__all__ = ["POINTWISE", "pointwise"]

POINTWISE = ("mse", "ce", "kl", "reverse_ce", "total_variation", "accuracy", "excess_risk")


def pointwise(log_bayes: Tensor, log_q: Tensor) -> Tensor:
    r"""The columns :data:`POINTWISE` at every point, from :math:`\log p^*` and :math:`\log q`.

    =============== ============================================= =======================================
    mse             :math:`\sum_k (q_k - p^*_k)^2`                summed over classes, range [0, 2]
    ce              :math:`-\sum_k p^*_k \log q_k`                nats, truth first
    kl              :math:`\sum_k p^*_k \log (p^*_k / q_k)`       nats
    reverse_ce      :math:`-\sum_k q_k \log p^*_k`                nats
    total_variation :math:`\tfrac12 \sum_k |q_k - p^*_k|`        range [0, 1]
    accuracy        :math:`p^*_{\hat k}`, :math:`\hat k = \arg\max q`  the label integrated out (Rao-Blackwell)
    excess_risk     :math:`\max_k p^*_k - p^*_{\hat k}`           its mean is the risk above the Bayes risk
    =============== ============================================= =======================================

    The first of tied classes is predicted. Infinite values are returned as such.

    Args:
        log_bayes, log_q: float64 ``(n, K)``.
    Returns:
        float64 ``(n, 7)``.
    """
    bayes, q = log_bayes.exp(), log_q.exp()
    predicted = bayes.gather(-1, log_q.argmax(-1, keepdim=True)).squeeze(-1)
    return torch.stack(
        [
            simplex.squared_distance(bayes, q),
            simplex.cross_entropy_from_log(bayes, log_q),
            simplex.kl_from_log(log_bayes, log_q),
            simplex.cross_entropy_from_log(q, log_bayes),
            simplex.total_variation(bayes, q),
            predicted,
            bayes.amax(-1) - predicted,
        ],
        dim=-1,
    )
