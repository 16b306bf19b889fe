r"""Cross-entropy bounds the error on labels: of a label sampled from q, and of the most probable one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from bcpd import simplex
from bcpd.measure.bounds import tipped, worst_excess
from bcpd.mixtures import FiniteMixture
from bcpd.seeds import derive
from bcpd.tensors import ArrayLike, float64, probability_rows
from bcpd.theory.bounds.excess_risk import EXACT, SIZES, points_of, teachers
from bcpd.theory.claim import Claim, Outcome, Settings, Trial
from bcpd.theory.finite_tables import default_tables, world_name

__all__ = ["CLAIMS", "argmax_error_bound", "sampled_error_bound", "sampled_label_error"]

TIGHT = 1e-3

Points = Callable[[], tuple[Tensor, Tensor]]
"""Weights ``(n,)`` and log p* ``(n, K)``, made when asked for."""


def sampled_label_error(p: ArrayLike, q: ArrayLike) -> Tensor:
    r""":math:`1 - \langle p, q \rangle`: how often a label drawn from q differs from an independent one drawn from p.

    Args:
        p, q: probabilities ``(..., K)``.
    Returns:
        float64, the broadcast leading shape, in [0, 1].
    Raises:
        ValueError: rows that are not probabilities.
    """
    return 1 - (probability_rows(p, "p") * probability_rows(q, "q")).sum(-1)


def sampled_error_bound(cross_entropy: ArrayLike) -> Tensor:
    r""":math:`1 - e^{-H}`, the largest error of a label sampled from q at an expected cross-entropy H = E H(p*, q).

    Derived here: :math:`-\log\langle p, q\rangle \le -\sum_k p_k \log q_k` by Jensen's inequality, and
    :math:`1 - e^{-h}` is concave in h. Below the H that is often quoted; attained for every H by a certain p*.

    Args:
        cross_entropy: nats, >= 0, ``inf`` allowed.
    """
    return -torch.expm1(-float64(cross_entropy, "cross_entropy"))


def argmax_error_bound(cross_entropy: ArrayLike) -> Tensor:
    r""":math:`H / \log 2`, the largest error of the most probable label at an expected cross-entropy H = E H(p*, q).

    Derived here: all classes but the predicted one have :math:`q_k \le 1/2`, so :math:`H(p^*, q) \ge \log 2\,
    (1 - p^*_{\hat k})`. The least H at an error e is min(h(e), log 2), h the entropy of a coin, below which the chord
    :math:`e \log 2` is the largest convex function: for expectations the constant cannot be lowered.

    Args:
        cross_entropy: nats, >= 0.
    """
    return float64(cross_entropy, "cross_entropy") / math.log(2)


def _errors(weights: Tensor, log_bayes: Tensor, log_q: Tensor) -> tuple[float, float, float]:
    """Of a sampled label, of the predicted one (ties against the predictor), and the cross-entropy."""
    bayes = log_bayes.exp()
    predicted = 1 - bayes.amax(-1) + worst_excess(bayes, log_q)
    return (
        float(weights @ sampled_label_error(bayes, log_q.exp())),
        float(weights @ predicted),
        float(weights @ simplex.cross_entropy_from_log(bayes, log_q)),
    )


def _bounded(sampled: float, predicted: float, nats: float) -> list[tuple[float, float]]:
    """Errors with their bounds."""
    sharp, argmax = float(sampled_error_bound(nats)), float(argmax_error_bound(nats))
    return [(sampled, sharp), (sampled, nats), (predicted, argmax)]


def _of_table(table: FiniteMixture) -> tuple[Tensor, Tensor]:
    points, weights = table.support()
    return weights, table.log_posterior(points)


def _of_world(settings: Settings) -> tuple[Tensor, Tensor]:
    (world,) = settings.worlds([])
    return points_of(world)


def _hold(make: Points, seed: int) -> Outcome:
    weights, log_bayes = make()
    pairs = [pair for _, q in teachers(log_bayes, seed) for pair in _bounded(*_errors(weights, log_bayes, q))]
    used = max(error / bound for error, bound in pairs if bound > 0)
    return Outcome(max(error - bound for error, bound in pairs), EXACT, tightness=min(used, 1.0))


def _violated(control: str) -> Outcome:
    one = torch.ones(1, dtype=torch.float64)
    certain, half = torch.tensor([[1.0, 0.0]]).double().log(), torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    if control == "excess":
        sampled, _, nats = _errors(one, half, half)
        return Outcome(sampled - (nats - math.log(2)), EXACT)
    if control == "half":
        sampled, _, nats = _errors(one, certain, torch.tensor([[0.9, 0.1]], dtype=torch.float64).log())
        return Outcome(sampled - nats / 2, EXACT)
    _, predicted, nats = _errors(one, certain, half)
    return Outcome(predicted - nats, EXACT)


def _trials(settings: Settings) -> Sequence[Trial]:
    name, seed = world_name(settings), derive(settings.seed, "label-error-bounds")
    tables = default_tables(settings, seed, SIZES)
    trials = [
        Trial(name, partial(_hold, partial(_of_table, table), seed), detail=f"K={table.num_classes}")
        for table in tables
    ]
    if not tables:
        trials.append(Trial(name, partial(_hold, partial(_of_world, settings), seed)))
    if settings.mixture is None:
        for control in ("excess", "half", "natural"):
            trials.append(Trial("finite X", partial(_violated, control), control, detail="one point"))
    return trials


def _attained(certain: float) -> Outcome:
    """The unused share at p* = (certain, 1 - certain): of the sharp bound, of H near 0, and of the argmax's bound."""
    row = torch.tensor([[certain, 1 - certain]], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    shares = []
    for confidence in (0.1, 0.5, 0.9, 0.9999):
        q = torch.tensor([[confidence, 1 - confidence]], dtype=torch.float64)
        (sampled, sharp), (_, nats), _ = _bounded(*_errors(one, row.log(), q.log()))
        shares.append(sampled / sharp)
        if confidence > 0.99:
            shares.append(sampled / nats)
    *_, (predicted, argmax) = _bounded(*_errors(one, row.log(), tipped(row).log()))
    shares.append(predicted / argmax)
    return Outcome(1 - min(shares), TIGHT, tightness=min(*shares, 1.0))


def _tight_trials(settings: Settings) -> Sequence[Trial]:
    if settings.mixture is not None:
        return []
    return [
        Trial("finite X", partial(_attained, 1.0), detail="one point"),
        Trial("finite X", partial(_attained, 0.7), "uncertain", detail="one point"),
    ]


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="label-error-bounds",
        number="C8",
        title="Label error within the cross-entropy",
        statement=(
            "A label sampled from q errs at most 1 - exp(-H) of the time, hence at most H; the most probable label "
            "at most H / log 2, with H the expected cross-entropy in nats"
        ),
        formula=(
            r"1 - \mathbb{E}\langle p^*, q\rangle \leq 1 - e^{-H} \leq H, \quad "
            r"L(q) \leq \frac{H}{\log 2}, \quad H = \mathbb{E}\,H(p^*, q)"
        ),
        conditions="any q that does not depend on the labels, any K; ties broken in any way",
        source="derived here",
        controls={
            "excess": "the entropy of p* is subtracted from the cross-entropy",
            "half": "the sampled label's error is claimed to be at most H / 2",
            "natural": "the constant of the most probable label is 1 in place of 1 / log 2",
        },
        trials=_trials,
    ),
    Claim(
        id="label-error-tight",
        number="C8",
        title="Label errors that attain their bounds",
        statement=(
            "Where the label is certain, the sampled label's error is 1 - exp(-H) for every q, and tends to H as q "
            "tends to p*; a coin on two classes that predicts the wrong one attains H / log 2"
        ),
        formula=r"p^* = e_1:\ 1 - q_1 = 1 - e^{-H}; \quad q = (\frac{1}{2}, \frac{1}{2}):\ L = 1 = \frac{H}{\log 2}",
        conditions="one x",
        source="derived here",
        controls={"uncertain": "p* is (.7, .3), not certain"},
        trials=_tight_trials,
    ),
)
