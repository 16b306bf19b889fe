r"""Claims about the estimates of :mod:`bcpd.measure.votes`, exact by listing every outcome of a vote."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations_with_replacement

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor

from bcpd import simplex
from bcpd.measure.votes import (
    bayes_error_interval,
    majority_of_the_others,
    squared_distance_from_votes,
    squared_norm_from_votes,
)
from bcpd.mixtures import FiniteMixture, GaussianMixture
from bcpd.seeds import derive, generator
from bcpd.tensors import ArrayLike, probability_rows
from bcpd.theory.claim import STANDARD_ERRORS, Claim, Outcome, Picture, Settings, Trial, sampled_mean
from bcpd.theory.finite_tables import default_tables, random_rows, world_name
from bcpd.theory.worlds import World, sample_world

__all__ = ["CLAIMS", "draw_votes", "every_vote", "vote_probabilities"]

EXACT = 1e-12
SIZES = ((6, 2), (6, 3), (4, 5))
MISS = 1e-3  # 1 - confidence of the intervals whose coverage is computed
MOST_OUTCOMES = 2_000_000

Estimator = Callable[[Tensor, Tensor, Tensor], Tensor]
"""p* ``(n, 1, K)``, q ``(n, 1, K)`` and votes ``(outcomes, K)`` to ``(n, outcomes)``."""


def every_vote(voters: int, num_classes: int) -> Tensor:
    """All counts of ``voters`` votes for K classes, ``(outcomes, K)`` float64."""
    ballots = combinations_with_replacement(range(num_classes), voters)
    return torch.tensor([[ballot.count(k) for k in range(num_classes)] for ballot in ballots], dtype=torch.float64)


def vote_probabilities(p: ArrayLike, votes: Tensor) -> Tensor:
    r"""Multinomial probabilities :math:`\frac{m!}{\prod n_k!} \prod_k p_k^{n_k}` of counts ``(outcomes, K)``.

    Args:
        p: probabilities ``(..., K)``; votes: counts of at most 20 votes, whose factorials are exact in float64.
    Returns:
        ``(..., outcomes)``, summing to 1 over all counts of a number of votes.
    """
    rows = probability_rows(p, "p")
    orders = [math.factorial(int(count.sum())) // math.prod(math.factorial(int(n)) for n in count) for count in votes]
    return torch.tensor(orders, dtype=torch.float64) * (rows.unsqueeze(-2) ** votes).prod(-1)


def draw_votes(p: ArrayLike, voters: int, seed: int) -> Tensor:
    """Counts of ``voters`` independent votes at every row of p ``(n, K)``: ``(n, K)`` float64."""
    rows = probability_rows(p, "p")
    chosen = torch.multinomial(rows, voters, replacement=True, generator=generator(seed, "votes", voters))
    return torch.nn.functional.one_hot(chosen, rows.shape[-1]).sum(-2).double()


# ------------------------------------------------------------------------------------------- squared norm and distance


def _norm(p: Tensor, q: Tensor, votes: Tensor, control: str | None) -> tuple[Tensor, Tensor]:
    """An estimate of the squared norm, and what it is of."""
    share = votes / votes.sum(-1, keepdim=True)
    voters = votes.sum(-1)
    estimate = squared_norm_from_votes(votes)
    if control == "plug_in":
        estimate = share.square().sum(-1)
    elif control == "over_m":
        estimate = (voters * share.square().sum(-1) - 1) / voters
    return estimate, p.square().sum(-1)


def _distance(p: Tensor, q: Tensor, votes: Tensor, control: str | None) -> tuple[Tensor, Tensor]:
    """An estimate of the squared distance, and what it is of."""
    share = votes / votes.sum(-1, keepdim=True)
    if control == "own_votes":
        q = share.expand(*torch.Size(np.broadcast_shapes(tuple(p.shape), tuple(share.shape))))
    estimate = squared_distance_from_votes(q, votes)
    if control == "plug_in":
        estimate = simplex.squared_distance(q, share)
    elif control == "over_m":
        estimate = simplex.squared_distance(q, share) - (1 - share.square().sum(-1)) / votes.sum(-1)
    return estimate, simplex.squared_distance(q, p)


Pair = Callable[[Tensor, Tensor, Tensor, str | None], tuple[Tensor, Tensor]]


def _unbiased(table: FiniteMixture, pair: Pair, voters: int, seed: int, control: str | None) -> Outcome:
    """The largest bias at any x, over all outcomes of the vote."""
    p = table.posterior(table.support()[0])
    q = random_rows(seed, len(p), p.shape[1])
    votes = every_vote(voters, p.shape[1])
    estimate, truth = pair(p[:, None], q[:, None], votes, control)
    bias = (vote_probabilities(p, votes) * (estimate - truth)).sum(-1)
    return Outcome(float(bias.abs().max()), EXACT)


def _sampled(make: Callable[[], World], voters: int, seed: int, control: str | None) -> Outcome:
    """The mean error over sampled x with their votes, in standard errors."""
    p = make().bayes
    q = (0.7 * p + 0.3 * p.roll(1, -1)).roll(1, 0)
    estimate, truth = _distance(p, q, draw_votes(p, voters, seed), control)
    return sampled_mean(estimate - truth)


def _enumerable(settings: Settings, seed: int, voters: int) -> list[FiniteMixture]:
    """The tables for which all outcomes at all x can be listed."""
    tables = default_tables(settings, seed, SIZES)
    return [
        table
        for table in tables
        if math.comb(voters + table.num_classes - 1, voters) * len(table.weights) <= MOST_OUTCOMES
    ]


def _sample_of(settings: Settings, seed: int) -> World:
    """20,000 points of the user's mixture, or of three classes in the plane."""
    default = GaussianMixture([[-0.8, 0.1], [0.7, 0.5], [0.2, -0.9]], 1.2, priors=[0.3, 0.3, 0.4])
    mixture = default if settings.mixture is None else settings.mixture[1]
    return sample_world(mixture, 60_000 if settings.full else 20_000, seed, "Monte Carlo")


def _moment_trials(settings: Settings, claim: str, pair: Pair, controls: Sequence[str]) -> list[Trial]:
    name, seed = world_name(settings), derive(settings.seed, claim)
    versions: tuple[str | None, ...] = (None, *controls) if settings.mixture is None else (None,)
    return [
        Trial(name, partial(_unbiased, table, pair, voters, seed, control), control, detail=f"K={k}, m={voters}")
        for voters in ((2, 3, 5) if settings.full else (2, 5))
        for table in _enumerable(settings, seed, voters)
        for k in (table.num_classes,)
        for control in versions
    ]


def _norm_trials(settings: Settings) -> Sequence[Trial]:
    return _moment_trials(settings, "vote-norm", _norm, ("plug_in", "over_m"))


def _distance_trials(settings: Settings) -> Sequence[Trial]:
    trials = _moment_trials(settings, "vote-distance", _distance, ("plug_in", "over_m", "own_votes"))
    seed = derive(settings.seed, "vote-distance", "sample")
    name = "Monte Carlo 2-D" if settings.mixture is None else settings.mixture[0]
    for control in (None, "plug_in") if settings.mixture is None else (None,):
        run = partial(_sampled, partial(_sample_of, settings, seed), 5, seed, control)
        trials.append(Trial(name, run, control, detail="sampled votes, m=5"))
    return trials


# --------------------------------------------------------------------------------------------------------- Bayes error


def _misses(points: int, num_classes: int, control: str | None) -> Outcome:
    r"""The exact probability that the interval misses :math:`L^*`, in the worst case for its width.

    At half of the x all classes are equally likely, at the other half one is certain: the number of the former among n
    is binomial, so that n + 1 intervals tell it all.
    """
    certain = torch.eye(num_classes, dtype=torch.float64)[:1]
    even = torch.full((1, num_classes), 1 / num_classes, dtype=torch.float64)
    bayes_error = (1 - 1 / num_classes) / 2
    missed = []
    for undecided in range(points + 1):
        rows = torch.cat([even.expand(undecided, -1), certain.expand(points - undecided, -1)])
        found = bayes_error_interval(rows, 1 - MISS)
        low, high = found.low, found.high
        if control is not None:
            narrow = 0.25 if control == "quarter" else 0.5 / (1 - 1 / num_classes)
            half = narrow * (1 - 1 / num_classes) * math.sqrt(math.log(2 / MISS) / (2 * points))
            low, high = found.estimate.value - half, found.estimate.value + half
        missed.append(not low <= bayes_error <= high)
    return Outcome(float(binom.pmf(np.arange(points + 1), points, 0.5)[missed].sum()), MISS)


def _coverage(settings: Settings, seed: int) -> Outcome:
    """How often the 99 % interval misses, above 1 %, in standard errors of that frequency."""
    if settings.mixture is None:
        raise ValueError("the coverage is sampled in a user's mixture only, received none")
    mixture = settings.mixture[1]
    repetitions, points = 1000, 50
    x, _ = mixture.sample(repetitions * points, seed)
    best = mixture.posterior(x).reshape(repetitions, points, -1)
    exact = mixture.bayes_error()
    missed = 0
    for rows in best:
        interval = bayes_error_interval(rows, 0.99)
        missed += not interval.low - 3 * exact.stderr <= exact.value <= interval.high + 3 * exact.stderr
    stderr = math.sqrt(0.01 * 0.99 / repetitions)
    excess = missed / repetitions - 0.01
    return Outcome(excess / stderr, STANDARD_ERRORS, comparisons=1, stderr=stderr, difference=excess)


def _interval_trials(settings: Settings) -> Sequence[Trial]:
    if settings.mixture is not None:
        run = partial(_coverage, settings, derive(settings.seed, "bayes-error-interval"))
        return [Trial(settings.mixture[0], run, detail="coverage")]
    trials = []
    for num_classes in (2, 50):
        run = partial(_misses, 200, num_classes)
        trials.append(Trial("finite X", partial(run, None), detail=f"K={num_classes}"))
        trials.append(Trial("finite X", partial(run, "quarter"), "quarter", detail=f"K={num_classes}"))
    trials.append(Trial("finite X", partial(_misses, 200, 50, "binary"), "binary", detail="K=50"))
    return trials


def _bracket(table: FiniteMixture, voters: int, control: str | None) -> Outcome:
    """How far the expected bracket fails to hold the Bayes error, and its upper end to be the majority's error."""
    points, weights = table.support()
    p = table.posterior(points)
    votes, fewer = every_vote(voters, p.shape[1]), every_vote(voters - 1, p.shape[1])
    chances = weights @ vote_probabilities(p, votes)
    lower = float(chances @ (1 - votes.amax(-1) / voters))
    upper = float(chances @ majority_of_the_others(votes))
    bayes_error = float(weights @ (1 - p.amax(-1)))
    if control == "unbiased":
        return Outcome(abs(lower - bayes_error), EXACT)
    if control == "same_votes":  # the majority of all votes, judged by the same votes
        return Outcome(bayes_error - lower, EXACT)
    winners = (fewer == fewer.amax(-1, keepdim=True)).double()
    right = p @ (winners / winners.sum(-1, keepdim=True)).T
    majority = float(weights @ (vote_probabilities(p, fewer) * (1 - right)).sum(-1))
    return Outcome(max(lower - bayes_error, bayes_error - upper, abs(upper - majority)), EXACT)


def _bracket_trials(settings: Settings) -> Sequence[Trial]:
    name, seed = world_name(settings), derive(settings.seed, "bayes-error-votes")
    versions = (None, "unbiased", "same_votes") if settings.mixture is None else (None,)
    return [
        Trial(name, partial(_bracket, table, 5, control), control, detail=f"K={table.num_classes}, m=5")
        for table in _enumerable(settings, seed, 5)
        for control in versions
    ]


def _picture(settings: Settings) -> Picture:
    """Expected plug-in and majority errors against the number of votes, by enumeration."""
    table = FiniteMixture([0.5, 0.3, 0.2], [[0.6, 0.3, 0.1], [0.45, 0.4, 0.15], [0.9, 0.05, 0.05]])
    p, weights = table.rows, table.weights
    numbers = [2, 3, 4, 5, 7, 9, 12, 15, 20]
    lower, upper = [], []
    for voters in numbers:
        votes = every_vote(voters, 3)
        chances = weights @ vote_probabilities(p, votes)
        lower.append(float(f"{float(chances @ (1 - votes.amax(-1) / voters)):.5g}"))
        upper.append(float(f"{float(chances @ majority_of_the_others(votes)):.5g}"))
    return {
        "kind": "curves",
        "title": "The Bayes error from votes",
        "caption": "Expected estimates from m votes at every x. The share of the winner is too large, so the plug-in "
        "lies below the Bayes error; a vote predicted by the majority of the others errs above it.",
        "x_label": "votes at every x",
        "y_label": "expected estimate",
        "x_log": True,
        "y_log": False,
        "series": [
            {"name": "majority of the others", "x": numbers, "y": upper, "style": "line+points", "colour": "a"},
            {"name": "plug-in", "x": numbers, "y": lower, "style": "line+points", "colour": "control"},
        ],
        "lines": [{"y": float(f"{float(weights @ (1 - p.amax(-1))):.5g}"), "name": "Bayes error"}],
    }


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="vote-norm",
        number="C20",
        title="The squared norm of p* from votes",
        statement="How often two different voters agree is an unbiased estimate of the squared norm of p*",
        formula=r"\mathbb{E}\,\frac{m\|\hat{p}\|^2 - 1}{m - 1} = \|p^*\|^2",
        conditions="m independent votes, m at least 2",
        source="derived here",
        controls={"plug_in": "the squared norm of the shares is taken", "over_m": "it is divided by m, not m - 1"},
        trials=_norm_trials,
    ),
    Claim(
        id="vote-distance",
        number="C20",
        title="The distance to p* from votes",
        statement="Squared distance to the vote shares, less their estimated variance, is unbiased for that to p*",
        formula=r"\mathbb{E}\left[\|q - \hat{p}\|^2 - \frac{1 - \|\hat{p}\|^2}{m - 1}\right] = \|q - p^*\|^2",
        conditions="m independent votes, m at least 2, independent of q",
        source="derived here",
        controls={
            "plug_in": "the distance to the shares is taken for that to p*",
            "over_m": "the variance is divided by m, not m - 1",
            "own_votes": "q is the vote shares themselves",
        },
        trials=_distance_trials,
    ),
    Claim(
        id="bayes-error-interval",
        number="C20",
        title="An interval for the Bayes error",
        statement="Hoeffding's interval about the mean of 1 - max p* misses the Bayes error no more often than stated",
        formula=r"|\hat{L}^* - L^*| \leq (1 - \frac{1}{K})\sqrt{\frac{\log(2/\delta)}{2n}}",
        conditions="exact p* at n independent x; probability at least 1 - delta",
        source="Hoeffding 1963; K = 2: Ishida et al. 2023",
        controls={
            "quarter": "the interval is a quarter as wide",
            "binary": "the width of two classes is used for fifty",
        },
        trials=_interval_trials,
    ),
    Claim(
        id="bayes-error-votes",
        number="C20",
        title="The Bayes error from votes",
        statement=(
            "The plug-in from vote shares is biased down, the disagreement with the majority of the other votes up; "
            "that is exactly the error of the majority of m - 1"
        ),
        formula=r"\mathbb{E}[1 - \max_k \hat{p}_k] \leq L^* \leq \mathbb{E}[1 - p^*_{\hat{k}(m - 1)}]",
        conditions="m independent votes, m at least 2; ties of the majority shared",
        source="derived here",
        controls={
            "unbiased": "the plug-in from five votes is claimed to be unbiased",
            "same_votes": "the majority of all votes, judged by the same votes, is claimed to err at least as often",
        },
        trials=_bracket_trials,
        picture=_picture,
    ),
)
