r"""Squared distance, total variation, KL and chi-square: one chain of inequalities, and two orders that disagree.

.. math:: \|p - q\|^2 \le \tfrac12\|p - q\|_1^2 = 2\,TV^2 \le KL(p\|q) \le \log(1 + \chi^2) \le \chi^2
          \le \frac{\|p - q\|^2}{\min_k q_k}

So training by CE controls the MSE to p*; the reverse needs q bounded below. And whichever of two teachers is closer in
MSE may be farther in KL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from bcpd import simplex
from bcpd.estimate import Estimate
from bcpd.mixtures import FiniteMixture
from bcpd.seeds import derive, generator
from bcpd.tensors import ArrayLike, probability_rows
from bcpd.theory.bounds.excess_risk import EXACT, SIZES, teachers
from bcpd.theory.claim import STANDARD_ERRORS, Claim, Outcome, Picture, Settings, Trial
from bcpd.theory.finite_tables import default_tables, world_name

__all__ = ["CLAIMS", "LINKS", "chain", "disagreement_rate", "orders_disagree", "random_triples"]

LINKS = (
    "squared_distance",
    "half_l1_squared",
    "twice_tv_squared",
    "kl",
    "log_chi_square",
    "chi_square",
    "over_least_q",
)
"""The columns of :func:`chain`, each at most the next."""

TIGHT = 1e-3
TRIPLE = ((0.90, 0.08, 0.02), (0.80, 0.15, 0.05), (0.92, 0.0799, 0.0001))
"""p*, and two teachers: the second is 20 times closer in MSE, the first 2.3 times in KL."""

SEARCH = 1_000
CLASSES = (2, 4, 8, 16)


def chain(p: ArrayLike, q: ArrayLike) -> Tensor:
    r"""The seven members of the chain, each at most the next: :data:`LINKS`.

    1. The positive and the negative part of p - q have mass TV each, and a sum of squares is at most the square of
    the sum. 2. is the definition. 3. Pinsker's inequality. 4. Jensen: :math:`\mathbb E_p \log(p/q) \le \log \mathbb
    E_p (p/q) = \log(1 + \chi^2)`. 5. :math:`\log(1 + u) \le u`. 6. :math:`1/q_k \le 1/\min q`. Every link is attained:
    1 by two classes, 3 and 5 as q -> p = (1/2, 1/2), 4 by a certain p, 6 by a uniform q (derived here).

    Args:
        p, q: probabilities ``(..., K)``; the truth first.
    Returns:
        float64 ``(..., 7)``; ``inf`` from the fourth on where q is 0 and p is not.
    Raises:
        ValueError: rows that are not probabilities.
    """
    truth, guess = probability_rows(p, "p"), probability_rows(q, "q")
    squared, chi = simplex.squared_distance(truth, guess), simplex.chi_square(truth, guess)
    gap = truth - guess
    # the root first: a tiny gap's square underflows, and its infinite ratio to a least entry of 0 would be lost
    over_least = torch.where(gap == 0, 0.0, gap / guess.amin(-1, keepdim=True).sqrt()).square().sum(-1)
    return torch.stack(
        [
            squared,
            simplex.l1_distance(truth, guess).square() / 2,
            2 * simplex.total_variation(truth, guess).square(),
            simplex.kl(truth, guess),
            torch.log1p(chi),
            chi,
            over_least,
        ],
        dim=-1,
    )


def orders_disagree(p: ArrayLike, a: ArrayLike, b: ArrayLike) -> Tensor:
    r"""Whether the teacher closer to p in squared distance is the farther one in :math:`KL(p\|\cdot)`.

    Args:
        p, a, b: probabilities ``(..., K)``.
    Returns:
        bool, the broadcast leading shape; equal distances are no disagreement.
    """
    by_mse = simplex.squared_distance(p, a) - simplex.squared_distance(p, b)
    by_kl = simplex.kl(p, a) - simplex.kl(p, b)
    disagree: Tensor = by_mse * by_kl < 0
    return disagree


def random_triples(num_classes: int, n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """p, a, b: three independent rows from the uniform law on the simplex, ``(n, K)`` each."""
    draw = torch.rand(3, n, num_classes, generator=generator(seed, "triples", num_classes), dtype=torch.float64)
    spacings = -torch.log1p(-draw)
    p, a, b = spacings / spacings.sum(-1, keepdim=True)
    return p, a, b


def disagreement_rate(num_classes: int, n: int, seed: int) -> Estimate:
    """How often :func:`orders_disagree` on :func:`random_triples`.

    Args:
        num_classes: K >= 2; n: triples, at least 2.
    """
    disagree = orders_disagree(*random_triples(num_classes, n, seed)).double()
    return Estimate(float(disagree.mean()), float(disagree.std()) / math.sqrt(n), "monte_carlo")


# ------------------------------------------------------------------------------------------------------------ the chain


def _pairs(make: Callable[[], Tensor], seed: int) -> tuple[Tensor, Tensor]:
    """Rows of p* with every teacher, and rows of certainty: p ``(m, K)``, q ``(m, K)``."""
    bayes = make()
    guesses = [log_q.exp() for _, log_q in teachers(bayes.log(), seed)]
    certain = torch.eye(bayes.shape[-1], dtype=torch.float64)[bayes.argmin(-1)]
    left = [*(bayes for _ in guesses), certain]
    return torch.cat(left), torch.cat([*guesses, bayes.clamp(min=1e-3) / bayes.clamp(min=1e-3).sum(-1, keepdim=True)])


def _pairs_with_zeros(make: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Guesses without a class of the truth, and truths and guesses without the same class."""
    bayes = make()
    without = bayes.scatter(-1, bayes.argmin(-1, keepdim=True), 0.0)
    without = without / without.sum(-1, keepdim=True)
    kept = (without > 0).double()
    even = kept / kept.sum(-1, keepdim=True)
    return torch.cat([bayes, without, without]), torch.cat([without, bayes, even])


def _holds(make: Callable[[], Tensor], seed: int, control: str | None) -> Outcome:
    """The largest violation of a link, relative to 1 + its size, and the largest share of KL the distance takes."""
    members = chain(*_pairs(make, seed))
    if control is None:
        members = torch.cat([members, chain(*_pairs_with_zeros(make))])
    if control == "bits":
        members[:, 3] = members[:, 3] / math.log(2)
    left, right = members[:, :-1], members[:, 1:]
    if control == "reversed":  # KL <= 2 |p - q|^2
        left, right = members[:, 3:4], 2 * members[:, :1]
    beyond = torch.where(left.isfinite(), (left - right) / (1 + left), math.inf)
    gap = torch.where(right.isfinite(), beyond, -math.inf)
    share = torch.where(members[:, 3] > 1e-9, members[:, 0] / members[:, 3], 0.0)
    return Outcome(float(gap.max()), EXACT, tightness=None if control else min(float(share.max()), 1.0))


def _rows_of(table: FiniteMixture) -> Tensor:
    return table.posterior(table.support()[0])


def _chain_trials(settings: Settings) -> Sequence[Trial]:
    name, seed = world_name(settings), derive(settings.seed, "norm-chain")
    sizes = [(points * (20 if settings.full else 4), classes) for points, classes in (*SIZES, (12, 20))]
    controls: tuple[str | None, ...] = (None, "reversed", "bits") if settings.mixture is None else (None,)
    return [
        Trial(name, partial(_holds, partial(_rows_of, table), seed, control), control, detail=f"K={table.num_classes}")
        for table in default_tables(settings, seed, sizes)
        for control in controls
    ]


def _attained(centre: float) -> Outcome:
    """What every link leaves unused at its own tight case: q near p = (centre, 1 - centre), certain p, uniform q."""
    near = torch.tensor([centre, 1 - centre], dtype=torch.float64)
    shifted = near + torch.tensor([1e-3, -1e-3], dtype=torch.float64)
    certain, uniform = torch.tensor([1.0, 0.0, 0.0]).double(), torch.full((3,), 1 / 3, dtype=torch.float64)
    skewed = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    close, sure, even = chain(near, shifted), chain(certain, skewed), chain(skewed, uniform)
    shares = [close[0] / close[1], close[2] / close[3], sure[3] / sure[4], close[4] / close[5], even[5] / even[6]]
    whole = close[0] / close[3]
    share = min(float(value) for value in [*shares, whole])
    return Outcome(1 - share, TIGHT, tightness=min(share, 1.0))


def _tight_trials(settings: Settings) -> Sequence[Trial]:
    if settings.mixture is not None:
        return []
    right, wrong = partial(_attained, 0.5), partial(_attained, 0.9)
    return [Trial("simplex", right), Trial("simplex", wrong, "elsewhere")]


# ----------------------------------------------------------------------------------------------------------- two orders


def _fixed_triple(control: str | None) -> Outcome:
    """The smaller of the two leads, in relative terms; negative where MSE prefers the second and KL the first."""
    p, a, b = (torch.tensor(row, dtype=torch.float64) for row in TRIPLE)
    mse = [float(simplex.squared_distance(p, each)) for each in (a, b)]
    nats = [float(simplex.kl(p, each)) for each in (a, b)]
    ratios = (mse[1] / mse[0], nats[0] / nats[1])
    if control == "same_order":  # whatever is closer in MSE is claimed to be at least as close in KL
        return Outcome(nats[1] / nats[0] - 1, 0.0)
    return Outcome(max(ratios) - 1, -0.5)


def _draws_needed(num_classes: int, seed: int, control: str | None) -> Outcome:
    """The number of random triples until the orders disagree, among 20 times as many as allowed."""
    p, a, b = random_triples(num_classes, 20 * SEARCH, seed)
    if control == "one_ray":  # b on the way from p to a: closer by every divergence that is convex in its second place
        b = (p + a) / 2
    found = orders_disagree(p, a, b).nonzero()
    return Outcome(float(found[0] + 1) if len(found) else float(20 * SEARCH + 1), float(SEARCH))


def _grows(n: int, seed: int, sign: float) -> Outcome:
    """Minus the smallest rise of the rate between successive K, in standard errors."""
    rates = [disagreement_rate(num_classes, n, derive(seed, "rate")) for num_classes in CLASSES]
    rises = [(sign * (more.value - less.value), math.hypot(more.stderr, less.stderr)) for less, more in pairwise(rates)]
    rise, stderr = min(rises, key=lambda pair: pair[0] / pair[1])
    return Outcome(-rise / stderr, -STANDARD_ERRORS, comparisons=len(rises), stderr=stderr, difference=-rise)


def _order_trials(settings: Settings) -> Sequence[Trial]:
    if settings.mixture is not None:
        return []
    seed = derive(settings.seed, "order-disagreement")
    trials = [
        Trial("simplex", partial(_fixed_triple, None), detail="one triple"),
        Trial("simplex", partial(_fixed_triple, "same_order"), "same_order", detail="one triple"),
    ]
    for num_classes in (3, 10):
        for control in (None, "one_ray"):
            run = partial(_draws_needed, num_classes, seed, control)
            trials.append(Trial("simplex", run, control, detail=f"search, K={num_classes}"))
    return trials


def _growth_trials(settings: Settings) -> Sequence[Trial]:
    if settings.mixture is not None:
        return []
    n, seed = (200_000 if settings.full else 60_000), derive(settings.seed, "order-disagreement-grows")
    return [
        Trial("simplex", partial(_grows, n, seed, 1.0)),
        Trial("simplex", partial(_grows, n, seed, -1.0), "falls"),
    ]


def _picture(settings: Settings) -> Picture:
    """The rate of disagreement against K, with 95 % intervals."""
    classes = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    seed = derive(settings.seed, "order-disagreement", "picture")
    rates = [disagreement_rate(num_classes, 10_000, seed) for num_classes in classes]
    ends = [rate.interval() for rate in rates]

    def rounded(values: Sequence[float]) -> list[float]:
        return [float(f"{value:.5g}") for value in values]

    return {
        "kind": "curves",
        "title": "How often MSE and CE order two teachers differently",
        "caption": "p* and two teachers drawn uniformly from the simplex. The more classes, the more often the teacher "
        "closer in MSE is the farther one in KL.",
        "x_label": "number of classes",
        "y_label": "rate of disagreement",
        "x_log": True,
        "y_log": False,
        "series": [
            {
                "name": "random triples",
                "x": list(classes),
                "y": rounded([rate.value for rate in rates]),
                "low": rounded([low for low, _ in ends]),
                "high": rounded([high for _, high in ends]),
                "style": "line+points",
                "colour": "a",
            }
        ],
        "lines": [{"y": 0.5, "name": "orders unrelated"}],
    }


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="norm-chain",
        number="C14",
        title="Squared distance, total variation, KL, chi-square",
        statement=(
            "The squared distance is at most half the squared L1 distance, that at most KL, that at most log(1 + "
            "chi-square), that at most chi-square, and that at most the squared distance over the least q"
        ),
        formula=(
            r"\|p-q\|_2^2 \leq \frac{1}{2}\|p-q\|_1^2 = 2\,TV^2 \leq \mathrm{KL}(p\|q) \leq \log(1+\chi^2) \leq \chi^2 "
            r"\leq \frac{\|p-q\|_2^2}{\min q}"
        ),
        conditions="nats; all rows of probabilities, with infinite members where q is 0",
        source="Pinsker, Jensen; collected and derived here",
        controls={
            "reversed": "KL is claimed to be at most twice the squared distance",
            "bits": "KL is measured in bits",
        },
        trials=_chain_trials,
    ),
    Claim(
        id="norm-chain-tight",
        number="C14",
        title="Every link of the chain is attained",
        statement=(
            "KL tends to the squared distance as q tends to p = (1/2, 1/2), equals log(1 + chi-square) where p is "
            "certain, and chi-square is the squared distance over the least q where q is uniform"
        ),
        formula=r"\frac{\|p-q\|_2^2}{\mathrm{KL}(p\|q)} \rightarrow 1 \ \mathrm{as}\ q \rightarrow p = "
        r"(\frac{1}{2}, \frac{1}{2})",
        conditions="two classes for the first, three for the others",
        source="derived here",
        controls={"elsewhere": "q tends to p = (.9, .1)"},
        trials=_tight_trials,
    ),
    Claim(
        id="order-disagreement",
        number="C14",
        title="MSE and CE order teachers differently",
        statement="Of two teachers the one closer to p* in MSE can be the farther one in KL; a random search finds it",
        formula=r"\|p^*-a\|^2 > \|p^*-b\|^2 \ \mathrm{while}\ \mathrm{KL}(p^*\|a) < \mathrm{KL}(p^*\|b)",
        conditions="found within 1,000 random triples",
        source="derived here",
        controls={
            "same_order": "the order by CE is claimed to be the order by MSE",
            "one_ray": "one teacher lies between p* and the other",
        },
        trials=_order_trials,
        picture=_picture,
    ),
    Claim(
        id="order-disagreement-grows",
        number="C14",
        title="The more classes, the more disagreement",
        statement="The rate at which MSE and CE order two random teachers differently grows with the number of classes",
        formula=r"P_2 < P_4 < P_8 < P_{16}",
        conditions="p* and both teachers uniform on the simplex, independent",
        source="derived here",
        controls={"falls": "the rate is claimed to fall"},
        trials=_growth_trials,
    ),
)
