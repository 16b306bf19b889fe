r"""The excess risk of a predictor is exactly the mean of :math:`\delta(x) = \max_k p^*_k - p^*_{\hat k}`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from bcpd.measure.bounds import tipped, worst_excess
from bcpd.mixtures import FiniteMixture, GaussianMixture
from bcpd.seeds import derive, generator
from bcpd.theory.claim import Claim, Outcome, Settings, Trial, sampled_mean
from bcpd.theory.finite_tables import default_tables, world_name
from bcpd.theory.worlds import World, finite_world, sample_world

__all__ = ["CLAIMS", "decision_boundaries", "linear_rule_risk", "points_of", "teachers"]

EXACT = 1e-12
SIZES = ((12, 2), (12, 3), (12, 5), (12, 8))


def teachers(log_bayes: Tensor, seed: int) -> Iterator[tuple[str, Tensor]]:
    r"""Log-probabilities of teachers near and far from p*, by name: ``(n, K)`` each.

    Noise on the log-odds (three sizes), smoothing, sharpening, the uniform row (all classes tie), the classes turned
    round at half of the points (and sharpened), the cheapest mistake at every point
    (:func:`bcpd.measure.bounds.tipped`), and two that err by one entry, at the cost or to the gain of the classes that
    do not decide.
    """
    draw = generator(seed, "teachers")
    logits = log_bayes.clamp(min=-30)
    for size in (0.3, 1.0, 3.0):
        noise = size * torch.randn(log_bayes.shape, generator=draw, dtype=torch.float64)
        yield f"noise {size}", (logits + noise).log_softmax(-1)
    bayes, uniform = log_bayes.exp(), torch.full_like(log_bayes, 1 / log_bayes.shape[-1])
    yield "smoothed", (0.1 * bayes + 0.9 * uniform).log()
    yield "sharpened", (2 * logits).log_softmax(-1)
    yield "uniform", uniform.log()
    half = torch.rand(len(bayes), 1, generator=draw, dtype=torch.float64) < 0.5
    yield "turned", (2 * torch.where(half, logits.roll(1, -1), logits)).log_softmax(-1)
    yield "tipped", tipped(bayes).log()
    yield from (("raised", _one_sided(bayes, 1).log()), ("lowered", _one_sided(bayes, 0).log()))


def _one_sided(bayes: Tensor, moved: int) -> Tensor:
    """The second entry raised above the first (``moved`` 1), or the first lowered below it (0); the rest is scaled.

    Rows whose other entries hold less than the gap stay as they are.
    """
    top, place = bayes.topk(2, -1)
    step = (1 + 1e-6) * (top[:, :1] - top[:, 1:])
    rest = 1 - top.sum(-1, keepdim=True)
    scale = (rest - step if moved else rest + step) / rest.clamp(min=1e-300)
    entry = top[:, 1:] + step if moved else top[:, :1] - step
    changed = (bayes * scale).scatter(-1, place, top).scatter(-1, place[:, moved : moved + 1], entry)
    return torch.where(rest > 1.001 * step, changed, bayes)


def points_of(world: World, most: int = 10_000) -> tuple[Tensor, Tensor]:
    """Weights ``(n,)`` and log p* ``(n, K)`` of a world; the first of many sampled points, for what holds pointwise."""
    if world.kind == "monte_carlo":
        rows = world.log_bayes[:most]
        return torch.full((len(rows),), 1 / len(rows), dtype=torch.float64), rows
    return world.weights, world.log_bayes


def decision_boundaries(scores: Callable[[Tensor], Tensor], low: float, high: float, nodes: int = 4001) -> Tensor:
    """Where the largest of K scores changes between ``low`` and ``high``: sorted, to float64 by bisection.

    Args:
        scores: x ``(n,)`` to ``(n, K)``, continuous; a region that lies between two neighbours of the ``nodes`` grid
            points is missed.
    """
    grid = torch.linspace(low, high, nodes, dtype=torch.float64)
    winner = scores(grid).argmax(-1)
    change = (winner[1:] != winner[:-1]).nonzero().squeeze(-1)
    left, right, before = grid[change], grid[change + 1], winner[change]
    for _ in range(60):
        middle = (left + right) / 2
        same = scores(middle).argmax(-1) == before
        left, right = torch.where(same, middle, left), torch.where(same, right, middle)
    return right


def linear_rule_risk(mixture: GaussianMixture, direction: Tensor, offset: float) -> float:
    r"""The error of "class 1 where :math:`a \cdot x + b > 0`" for two Gaussian classes of one scalar variance.

    :math:`\pi_0\, \Phi(t_0) + \pi_1\, \Phi(-t_1)` with :math:`t_k = (a \cdot \mu_k + b) / (\sigma \|a\|)`.

    Args:
        direction: a, ``(d,)``; offset: b.
    """
    places = (mixture.means[:, 0] @ direction + offset) / (mixture.covariance.sqrt() * direction.norm())
    return float(mixture.priors @ torch.tensor(ndtr([float(places[0]), -float(places[1])])))


def _gap(control: str | None, bayes: Tensor, log_q: Tensor) -> Tensor:
    r""":math:`\delta(x)`, or what a wrong version takes for it."""
    if control == "self_judged":
        q = log_q.exp()
        return q.amax(-1) - q.gather(-1, bayes.argmax(-1, keepdim=True)).squeeze(-1)
    if control == "disagreement":
        return (worst_excess(bayes, log_q) > 0).double()
    return worst_excess(bayes, log_q)


def _worst_choice(bayes: Tensor, log_q: Tensor) -> Tensor:
    """The prediction of q, ties broken against it, as :func:`bcpd.measure.bounds.worst_excess` does."""
    return torch.where(log_q == log_q.amax(-1, keepdim=True), bayes, math.inf).argmin(-1)


def _tied_table(seed: int) -> FiniteMixture:
    """Twelve rows of three classes, two of which tie in every row; in half of them for the first place."""
    draw = generator(seed, "tied table")
    rows = torch.tensor([[0.4, 0.4, 0.2], [0.25, 0.5, 0.25]], dtype=torch.float64).repeat(6, 1)
    rows = torch.stack([row.roll(shift) for shift, row in enumerate(rows)])
    return FiniteMixture(torch.full((12,), 1 / 12), rows, torch.randn(12, 2, generator=draw, dtype=torch.float64))


def _on_pairs(make: Callable[[], World], seed: int, control: str | None) -> Outcome:
    """Errors counted on labelled pairs against the mean gap: exact on finite X, in standard errors on a sample."""
    world = make()
    if world.kind == "exact":  # one teacher for every label of an x
        _, place = torch.unique(world.x, dim=0, return_inverse=True)
        first = torch.zeros(int(place.max()) + 1, dtype=torch.int64).index_put((place,), torch.arange(len(place)))
        log_q = dict(teachers(world.log_bayes[first], seed))["turned"][place]
    else:
        log_q = dict(teachers(world.log_bayes, seed))["turned"]
    chosen = (_worst_choice(world.bayes, log_q), world.bayes.argmax(-1))
    errors = [(choice != world.y).double() for choice in chosen]
    difference = errors[0] - errors[1] - _gap(control, world.bayes, log_q)
    if world.kind == "exact":
        return Outcome(float(world.mean(difference).abs()), EXACT)
    return sampled_mean(difference)


def _on_a_line(control: str | None) -> Outcome:
    """Three classes on a line: interval masses from normal cdfs against quadrature of the gap between boundaries."""
    means, priors = (-1.2, 0.3, 1.5), torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    mixture = GaussianMixture([[mean] for mean in means], 1.0, priors=priors)
    slopes, offsets = torch.tensor([-2.0, 0.4, 1.1]).double(), torch.tensor([-0.3, 0.9, 0.0]).double()

    def log_q(x: Tensor) -> Tensor:
        return (x[:, None] * slopes + offsets).log_softmax(-1)

    def log_bayes(x: Tensor) -> Tensor:
        return mixture.log_posterior(x[:, None])

    ends = torch.tensor([min(means) - 12, max(means) + 12], dtype=torch.float64)
    risks, cuts = [], []
    for scores in (log_q, log_bayes):
        inner = decision_boundaries(scores, float(ends[0]), float(ends[1]))
        cuts.append(torch.cat([ends[:1], inner, ends[1:]]))
        winners = scores((cuts[-1][1:] + cuts[-1][:-1]) / 2).argmax(-1)
        below = torch.tensor(ndtr(cuts[-1].numpy()[:, None] - np.array(means)))
        mass = (below[1:] - below[:-1]) * priors
        risks.append(1 - float(mass[torch.arange(len(winners)), winners].sum()))
    # pieces of at most a standard deviation that meet at the boundaries: on each the integrand is analytic
    grid = torch.arange(float(ends[0]), float(ends[1]), dtype=torch.float64)
    pieces = torch.unique(torch.cat([*cuts, grid]))
    integrals = []
    for nodes in (16, 32):
        z, w = (torch.tensor(values) for values in np.polynomial.legendre.leggauss(nodes))
        half, middle = (pieces[1:] - pieces[:-1]) / 2, (pieces[1:] + pieces[:-1]) / 2
        x = (middle[:, None] + half[:, None] * z).flatten()
        normal = (x[:, None] - torch.tensor(means).double()).square().div(-2).exp() / math.sqrt(2 * math.pi)
        gap = _gap(control, log_bayes(x).exp(), log_q(x))
        integrals.append(float(((half[:, None] * w).flatten() * (normal @ priors)) @ gap))
    doubled = abs(integrals[1] - integrals[0]) if control is None else 0.0
    return Outcome(max(abs(risks[0] - risks[1] - integrals[1]), doubled), 1e-8)


def _in_space(settings: Settings, control: str | None) -> Outcome:
    """A tilted, shifted linear rule in 30 dimensions: the paired estimate against normal cdfs."""
    dimension = 30
    means = torch.zeros(2, dimension, dtype=torch.float64)
    means[:, 0] = torch.tensor([-1.0, 1.0])
    mixture = GaussianMixture(means, 1.0, priors=[0.6, 0.4])
    tilted, best = torch.zeros(dimension, dtype=torch.float64), means[1] - means[0]
    tilted[:2] = 1.0
    exact = linear_rule_risk(mixture, tilted, 0.5) - linear_rule_risk(mixture, best, math.log(0.4 / 0.6))
    x, _ = mixture.sample(200_000 if settings.full else 50_000, derive(settings.seed, "excess-risk-identity"))
    z = x @ tilted + 0.5
    log_q = torch.stack([-4 * z, 4 * z], -1).log_softmax(-1)
    return sampled_mean(_gap(control, mixture.posterior(x), log_q), exact)


def _trials(settings: Settings) -> Sequence[Trial]:
    name, seed = world_name(settings), derive(settings.seed, "excess-risk-identity")
    places: list[tuple[str, str, Callable[[str | None], Outcome]]] = []
    for table in default_tables(settings, seed, SIZES):
        places.append((name, f"K={table.num_classes}", partial(_on_pairs, partial(finite_world, table), seed)))
    controls: tuple[str | None, ...] = (None,)
    if settings.mixture is None:
        controls = (None, "self_judged", "disagreement")
        places.append((name, "ties", partial(_on_pairs, partial(finite_world, _tied_table(seed)), seed)))
        places.append(("quadrature 1-D", "K=3", _on_a_line))
        places.append(("Monte Carlo 30-D", "K=2", partial(_in_space, settings)))
    elif not places:
        sample = partial(sample_world, settings.mixture[1], 100_000 if settings.full else 50_000, seed, name)
        places.append((name, "", partial(_on_pairs, sample, seed)))
    return [Trial(world, partial(run, c), c, detail=detail) for world, detail, run in places for c in controls]


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="excess-risk-identity",
        number="C8",
        title="The excess 0-1 risk, exactly",
        statement="The risk of predicting the largest entry of q exceeds Bayes' by the mean of max p* minus p* there",
        formula=r"L(q) - L^* = \mathbb{E}[\max_k p^*_k - p^*_{\hat{k}}], \quad \hat{k} = \mathrm{argmax}_k\, q_k",
        conditions="any q that does not depend on the labels; any way to break ties, used on both sides",
        source="Devroye, Gyorfi & Lugosi 1996, chapter 2",
        controls={
            "self_judged": "the teacher's own probabilities are put in place of p*",
            "disagreement": "every disagreement with the best rule counts as an error",
        },
        trials=_trials,
    ),
)
