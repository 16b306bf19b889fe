"""Theorem 1 from a convex function alone: the risk identity of any proper score, one claim with G as its parameter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bcpd.losses import LOSSES, Loss
from bcpd.losses.loss import expected, softmax
from bcpd.seeds import derive
from bcpd.theory.claim import Claim, Outcome, Picture, Settings, Trial, sampled_mean
from bcpd.theory.finite_tables import random_rows
from bcpd.theory.scores.bregman import SCORES, Score
from bcpd.theory.scores.identities import TOLERANCE, logits_of_networks, under_weights
from bcpd.theory.scores.risk_search import RiskSearch
from bcpd.theory.scores.theorem1 import worlds_for_identities
from bcpd.theory.scores.versions import claimed_proper
from bcpd.theory.worlds import World

__all__ = ["CLAIMS", "identity_of_score"]

SYMMETRIC = ("brier", "ranked_probability")
PLACES: tuple[str, ...] = ("finite X", "quadrature 1-D", "Monte Carlo 30-D")

_INSIDE = frozenset({"swapped_arguments", "slope_at_truth"})
"""Controls that need the score's gradient at p*."""

Divergence = Callable[[Tensor, Tensor], Tensor]


def identity_of_score(
    score: Score, divergence: Divergence, world: World, seed: int, loss: Loss | None = None
) -> Outcome:
    r""":math:`E\,\ell_G(y, q) = E[-G(p^*)] + E\,D(p^*, q)` for random networks q, with everything made from G.

    By Monte Carlo the difference estimator :math:`\ell(y, q) - \ell(y, p^*) - D(p^*, q)` is used on the same draws: its
    mean given x is zero, and the part of the noise that q and p* share cancels.

    Args:
        score: G; divergence: what is claimed for :math:`D_G`.
        loss: a loss to take the place of :math:`\ell_G`, which it should equal.
    """

    def outcomes(q: Tensor, y: Tensor) -> Tensor:
        return expected(score.outcome_losses(q), y) if loss is None else loss.function(q.log(), y)

    @torch.no_grad()
    def sides(at: World) -> tuple[Tensor, Tensor]:
        rows = [softmax(z) for z in logits_of_networks(at, seed)]
        risks = [outcomes(q, at.y) for q in rows]
        apart = [divergence(at.bayes, q) for q in rows]
        return torch.stack(risks, 1), torch.stack(apart, 1)

    risk, apart = sides(world)
    if world.kind == "monte_carlo":
        difference = risk - outcomes(world.bayes, world.y)[:, None] - apart
        return sampled_mean(under_weights(difference, world, seed))
    left = world.mean(risk)
    error = (left - world.mean(score.entropy(world.bayes)) - world.mean(apart)).abs()
    if world.finer is not None:
        fine, fine_apart = sides(world.finer)
        right = world.finer.mean(score.entropy(world.finer.bayes)) + world.finer.mean(fine_apart)
        error = torch.maximum(error, (world.finer.mean(fine) - left).abs())
        error = torch.maximum(error, (world.finer.mean(fine) - right).abs())
    return Outcome(float((error / (1 + left.abs())).max()), TOLERANCE[world.kind])


def _wrong(score: Score, control: str | None) -> Divergence:
    if control is None:
        return score.divergence
    if control == "swapped_arguments":
        return lambda p, q: score.divergence(q, p)
    if control == "slope_at_truth":
        # G(p) - G(q) - <grad G(p), p - q>
        return lambda p, q: -score.divergence(q, p)
    names = list(SCORES)
    return SCORES[names[(names.index(score.name) + 1) % len(names)]].divergence


def _score_of(loss: Loss) -> Score:
    """The score of G = -H, as a user's loss has it."""
    entropy = loss.entropy
    if entropy is None:
        raise ValueError(f"{loss.name} has no entropy")
    return Score(loss.name, lambda p: -entropy(p))


def _trials(settings: Settings) -> list[Trial]:
    root = derive(settings.seed, "savage representation")
    places, left_out = PLACES, frozenset[str]()
    if settings.mixture is not None:
        (own,) = worlds_for_identities(settings)
        places = (own.name,)
        # the logarithmic score has no tangent at the boundary
        left_out = _INSIDE if bool((own.bayes == 0).any()) else left_out
    trials = []
    if settings.loss is not None:
        loss = claimed_proper(settings.loss)
        score = _score_of(loss)
        for number, place in enumerate(places):
            run = partial(_evaluate, score, None, settings, number, root, loss)
            trials.append(Trial(place, run, loss=loss.name))
        return trials
    for score in SCORES.values():
        for number, place in enumerate(places):
            for control in (None, *CONTROLS):
                if score.name == "log" and control in left_out:
                    continue
                run = partial(_evaluate, score, control, settings, number, root)
                harmless = control == "swapped_arguments" and score.name in SYMMETRIC
                trials.append(Trial(place, run, control, score.name, harmless=harmless))
    return trials


def _evaluate(
    score: Score, control: str | None, settings: Settings, number: int, seed: int, loss: Loss | None = None
) -> Outcome:
    world = worlds_for_identities(settings)[number]
    return identity_of_score(score, _wrong(score, control), world, seed, loss)


_IMPROPER = ("label_smoothing", "focal", "mae", "generalised_ce", "tempered_ce", "confidence_penalty")
_PROPER = ("ce", "mse", "spherical", "power", "ranked_probability")
GAIN = 1e-4


def _witness_trials(settings: Settings) -> list[Trial]:
    """Every improper loss of probabilities, and the strictly proper ones in their place; the p are ours to choose."""
    if settings.mixture is not None or settings.loss is not None:
        return []
    seed = derive(settings.seed, "witness")
    trials = []
    for name, control in (*((name, None) for name in _IMPROPER), *((name, "proper") for name in _PROPER)):
        trials.append(Trial("finite X", partial(_witness, LOSSES[name], seed), control, name))
    return trials


def _witness(loss: Loss, seed: int) -> Outcome:
    r"""The largest :math:`R_p(p) - \min_q R_p(q)` over twelve p of three classes, with its sign turned."""
    rows = random_rows(derive(seed, "rows"), 12, 3)
    search = RiskSearch(loss.function, loss.name, 3, seed)
    _, least = search.minimise(rows)
    return Outcome(-float((search.risks(rows.log(), rows) - least).max()), -GAIN)


CONTROLS = {
    "swapped_arguments": "the divergence is taken the wrong way round, D(q, p*)",
    "slope_at_truth": "the tangent is taken at p* instead of at q",
    "other_function": "the divergence belongs to another convex function",
}


def _picture(settings: Settings) -> Picture:
    """The entropy of the log score for two classes, and the risks of three answers: its tangents."""
    score = SCORES["log"] if settings.loss is None else _score_of(claimed_proper(settings.loss))
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    rows = torch.stack([1 - p, p], -1)
    entropy = score.entropy(rows)
    series: list[dict[str, Any]] = [
        {"name": "-G(p): the least risk", "x": _rounded(p), "y": _rounded(entropy), "style": "line", "colour": "bayes"}
    ]
    low, high = float(entropy.min()), float(entropy.max())
    for guess, colour in ((0.15, "a"), (0.4, "b"), (0.75, "c")):
        losses = score.outcome_losses([1 - guess, guess])
        risk = rows @ losses
        shown = risk <= high + 0.35 * (high - low)
        series.append(
            {
                "name": f"risk of answering q = {guess:g}",
                "x": _rounded(p[shown]),
                "y": _rounded(risk[shown]),
                "style": "dashed",
                "colour": colour,
            }
        )
    return {
        "kind": "curves",
        "title": "A proper score is made of tangents",
        "caption": "Two classes. The risk of an answer q is linear in the true p, and touches the entropy at p = q: "
        "nobody gains by answering anything but p. The height of a line above the curve is the divergence of q from p.",
        "x_label": "true probability p of class 1",
        "y_label": "risk (nats)" if settings.loss is None else f"risk of {score.name}",
        "x_log": False,
        "y_log": False,
        "series": series,
        "lines": [],
    }


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "savage-identity",
        "C1",
        "Any proper score: entropy plus divergence, from a convex function alone",
        "For the score made from a convex function G, the risk on labels is the expected -G(p*) plus the Bregman "
        "divergence of q from p*; loss, entropy and divergence are made from G and its gradient alone.",
        r"\mathbb{E}\,\ell_G(y, q) = \mathbb{E}[-G(p^*)] + \mathbb{E}\,D_G(p^*, q), \quad "
        r"\ell_G(k, q) = -G(q) - \langle \nabla G(q), e_k - q \rangle",
        "G convex, and differentiable where q lies; truth first. Brier, logarithmic, spherical, power and ranked "
        "probability scores.",
        "Savage 1971; Gneiting & Raftery 2007, Theorem 2",
        CONTROLS,
        _trials,
        _picture,
    ),
    Claim(
        "improper-witness",
        "C1",
        "Only if: an improper loss pays for another answer than p",
        "For an improper loss there is a p whose risk another row lowers.",
        r"\ell \text{ improper} \;\Rightarrow\; \exists\, p, q:\ "
        r"\sum_k p_k\,\ell(k, q) < \sum_k p_k\,\ell(k, p)",
        "Losses of probabilities; p of three classes, each for itself; the least risk is found numerically.",
        "the definition of propriety; Savage 1971",
        {"proper": "the loss is strictly proper"},
        _witness_trials,
    ),
)
