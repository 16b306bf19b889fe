r"""The distance to p* bounds the excess 0-1 risk, with constants that cannot be lowered.

The formulas that a user calls are in :mod:`bcpd.measure.bounds`; here are the statements, where they are tried, the
cases that attain them, and their wrong versions. Related: :mod:`bcpd.theory.bounds.excess_risk` (the identity below the
bounds), :mod:`bcpd.theory.bounds.label_error` (cross-entropy), :mod:`bcpd.theory.bounds.low_noise` (rates).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from bcpd import simplex
from bcpd.measure import excess_risk_bounds_of_probabilities
from bcpd.measure.bounds import ExcessRiskBounds, excess_risk_of_kl, tipped, worst_excess
from bcpd.mixtures import FiniteMixture, GaussianMixture
from bcpd.seeds import derive, generator
from bcpd.theory.bounds.excess_risk import EXACT, SIZES, points_of, teachers
from bcpd.theory.claim import Claim, Outcome, Picture, Settings, Trial
from bcpd.theory.finite_tables import default_tables, random_rows, world_name
from bcpd.theory.worlds import sample_world

__all__ = ["CLAIMS"]

TIGHT = 1e-3
DISTANCES = ("l1", "sup", "l2", "mse")
DIVERGENCES = ("pinsker", "kl")

Points = Callable[[], tuple[Tensor, Tensor]]
"""Weights ``(n,)`` and log p* ``(n, K)``, made when asked for."""


def _measured(weights: Tensor, log_bayes: Tensor, log_q: Tensor) -> ExcessRiskBounds:
    return excess_risk_bounds_of_probabilities(log_q.exp(), log_bayes, weights=weights, log_q=log_q)


def _of_table(table: FiniteMixture) -> tuple[Tensor, Tensor]:
    points, weights = table.support()
    return weights, table.log_posterior(points)


def _of_sample(settings: Settings, seed: int) -> tuple[Tensor, Tensor]:
    """Of the user's continuous mixture, or of three classes in 30 dimensions: the bounds hold on every sample."""
    means = 1.5 * torch.randn(3, 30, generator=generator(seed, "means"), dtype=torch.float64) / 30**0.5
    mixture = GaussianMixture(means, 1.0, priors=[0.5, 0.3, 0.2])
    (world,) = settings.worlds([sample_world(mixture, 10_000, seed, "Monte Carlo 30-D")])
    return points_of(world)


def _places(settings: Settings, seed: int) -> list[tuple[str, str, Points]]:
    """World, detail and points."""
    name = world_name(settings)
    sizes = [(points * (5 if settings.full else 1), classes) for points, classes in SIZES]
    tables = default_tables(settings, seed, sizes)
    places: list[tuple[str, str, Points]] = [(name, f"K={t.num_classes}", partial(_of_table, t)) for t in tables]
    if settings.mixture is None or not tables:
        world = "Monte Carlo 30-D" if settings.mixture is None else name
        places.append((world, "", partial(_of_sample, settings, seed)))
    return places


def _violation(measured: ExcessRiskBounds, names: Sequence[str]) -> float:
    return max(measured.excess_risk.value - measured.bounds[name].bound.value for name in names)


def _hold(make: Points, names: Sequence[str], seed: int) -> Outcome:
    """The largest violation over teachers and bounds, in probability, and the largest share of a bound in use."""
    weights, log_bayes = make()
    every = [_measured(weights, log_bayes, log_q) for _, log_q in teachers(log_bayes, seed)]
    shares = [each.bounds[name].share.value for each in every for name in names]
    used = max((share for share in shares if not math.isnan(share)), default=0.0)
    return Outcome(max(_violation(each, names) for each in every), EXACT, tightness=min(used, 1.0))


def _hold_swapped(make: Points, seed: int) -> Outcome:
    r"""The same with :math:`KL(q\|p^*)`: Pinsker's inequality does not know which argument is the truth.

    Nor is :math:`\psi^{-1}` exceeded (derived here): at the gap :math:`\Delta` the least :math:`KL(q\|p)` is
    :math:`-\tfrac12\log(1 - \Delta^2) = \sum_n \Delta^{2n}/(2n)`, term by term above
    :math:`\psi(\Delta) = \sum_n \Delta^{2n}/(2n(2n - 1))`.
    """
    weights, log_bayes = make()
    violations = []
    for _, log_q in teachers(log_bayes, seed):
        divergence = (weights @ simplex.kl_from_log(log_q, log_bayes)).clamp(min=0)
        excess = _measured(weights, log_bayes, log_q).excess_risk.value
        violations += [excess - float((2 * divergence).sqrt()), excess - float(excess_risk_of_kl(divergence))]
    return Outcome(max(violations), EXACT)


def _two_points() -> tuple[Tensor, Tensor]:
    """Equal weights, gaps .2 and .4: a tipped teacher there uses nearly all of every bound."""
    return torch.tensor([0.5, 0.5]).double(), torch.tensor([[0.6, 0.4], [0.3, 0.7]], dtype=torch.float64).log()


_LOWERED: Mapping[str, tuple[str, float]] = {
    "constant_one": ("l2", 2**-0.5),
    "constant_one_binary": ("l1", 0.5),
    "over_K": ("mse", 2**-0.5),
    "half_the_kl": ("pinsker", 2**-0.5),
}
"""At two classes: the bound whose constant a control lowers, and by which factor."""


def _lowered(control: str) -> Outcome:
    weights, log_bayes = _two_points()
    measured = _measured(weights, log_bayes, tipped(log_bayes.exp()).log())
    name, factor = _LOWERED[control]
    return Outcome(measured.excess_risk.value - factor * measured.bounds[name].bound.value, EXACT)


def _larger_mse() -> Outcome:
    """A teacher that is certain of the right class, far from p* and without excess risk, against a tipped one."""
    weights, log_bayes = _two_points()
    certain, err = (20 * log_bayes).log_softmax(-1), tipped(log_bayes.exp()).log()
    far, near = _measured(weights, log_bayes, certain), _measured(weights, log_bayes, err)
    larger = far.bounds["mse"].bound.value > near.bounds["mse"].bound.value
    return Outcome(near.excess_risk.value - far.excess_risk.value if larger else math.nan, EXACT)


def _marginals() -> Outcome:
    """The two rows exchanged: as often right about every class as p*, and wrong about every x."""
    weights, log_bayes = _two_points()
    log_q = log_bayes.flip(0)
    divergence = simplex.kl(weights @ log_bayes.exp(), weights @ log_q.exp()).clamp(min=0)
    excess = _measured(weights, log_bayes, log_q).excess_risk.value
    return Outcome(excess - float(excess_risk_of_kl(divergence)), EXACT)


def _training_inputs(seed: int) -> Outcome:
    """A teacher that knows p* at its training inputs and takes the nearest one's elsewhere: no distance, but a risk."""
    means = torch.zeros(2, 10, dtype=torch.float64)
    means[:, 0] = torch.tensor([-1.0, 1.0])
    mixture = GaussianMixture(means, 1.0)
    train, _ = mixture.sample(100, derive(seed, "train"))
    test, _ = mixture.sample(2000, derive(seed, "test"))
    known, weights = mixture.log_posterior(train), torch.full((100,), 0.01, dtype=torch.float64)
    on_train = _measured(weights, known, known).bounds["mse"].bound.value
    nearest = torch.cdist(test, train).argmin(-1)
    return Outcome(float(worst_excess(mixture.posterior(test), known[nearest]).mean()) - on_train, EXACT)


def _distance_trials(settings: Settings) -> Sequence[Trial]:
    seed = derive(settings.seed, "excess-risk-bounds")
    trials = [
        Trial(name, partial(_hold, make, DISTANCES, seed), detail=detail)
        for name, detail, make in _places(settings, seed)
    ]
    if settings.mixture is None:
        for control in ("constant_one", "constant_one_binary", "over_K"):
            trials.append(Trial("finite X", partial(_lowered, control), control, detail="two points"))
        trials.append(Trial("finite X", _larger_mse, "larger_mse", detail="two points"))
        trials.append(Trial("Monte Carlo 10-D", partial(_training_inputs, seed), "training_inputs"))
    return trials


def _divergence_trials(settings: Settings) -> Sequence[Trial]:
    seed = derive(settings.seed, "excess-risk-kl")
    trials = []
    for name, detail, make in _places(settings, seed):
        trials.append(Trial(name, partial(_hold, make, DIVERGENCES, seed), detail=detail))
        swapped = partial(_hold_swapped, make, seed)
        trials.append(Trial(name, swapped, "swapped_arguments", detail=detail, harmless=True))
    if settings.mixture is None:
        trials.append(Trial("finite X", partial(_lowered, "half_the_kl"), "half_the_kl", detail="two points"))
        trials.append(Trial("finite X", _marginals, "marginals", detail="two points"))
    return trials


# ------------------------------------------------------------------------------------------------------ attained bounds


def _attained(table: FiniteMixture, tip: float) -> Outcome:
    """What the tipped teacher leaves unused of the bounds by distances, at every x by itself."""
    bayes = table.posterior(table.support()[0])
    top = bayes.topk(2, -1).values
    bayes = bayes[top[:, 0] - top[:, 1] > 1e-3]
    share = 1.0
    for row in bayes:
        one = torch.ones(1, dtype=torch.float64)
        measured = _measured(one, row[None].log(), tipped(row, tip)[None].log())
        share = min(share, *(measured.bounds[name].share.value for name in DISTANCES))
    return Outcome(1 - share, TIGHT, tightness=share)


def _attained_over_x(gaps: Sequence[float]) -> Outcome:
    """What the tipped teacher leaves unused over several x of three classes, each with its gap."""
    lower = torch.linspace(0.05, 0.25, len(gaps), dtype=torch.float64)
    gap = torch.tensor(gaps, dtype=torch.float64)
    rows = torch.stack([(1 - lower + gap) / 2, (1 - lower - gap) / 2, lower], 1)
    weights = torch.arange(1, len(gaps) + 1).double()
    measured = _measured(weights / weights.sum(), rows.log(), tipped(rows).log())
    share = min(measured.bounds[name].share.value for name in DISTANCES)
    return Outcome(1 - share, TIGHT, tightness=min(share, 1.0))


def _kl_attained(names_and_gaps: Sequence[tuple[str, float]]) -> Outcome:
    """Two classes at a gap, q uniform but for the tip."""
    shares = []
    for name, gap in names_and_gaps:
        row = torch.tensor([[1 + gap, 1 - gap]], dtype=torch.float64) / 2
        measured = _measured(torch.ones(1, dtype=torch.float64), row.log(), tipped(row).log())
        shares.append(measured.bounds[name].share.value)
    return Outcome(1 - min(shares), TIGHT, tightness=min(*shares, 1.0))


def _tight_trials(settings: Settings) -> Sequence[Trial]:
    name, trials = world_name(settings), []
    for table in default_tables(settings, derive(settings.seed, "excess-risk-tight"), SIZES):
        detail = f"K={table.num_classes}"
        trials.append(Trial(name, partial(_attained, table, 1e-6), detail=detail))
        trials.append(Trial(name, partial(_attained, table, 0.5), "exchanged", detail=detail))
    if settings.mixture is None:
        gaps = (1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
        right = [("pinsker", 1e-3), ("pinsker", 0.01), *(("kl", gap) for gap in gaps)]
        trials.append(Trial("finite X", partial(_kl_attained, right), detail="KL"))
        wide = partial(_kl_attained, [("pinsker", 0.99)])
        trials.append(Trial("finite X", wide, "pinsker_at_wide_gaps", detail="KL"))
        trials.append(Trial("finite X", partial(_attained_over_x, (0.2,) * 4), detail="constant gap"))
        varying = partial(_attained_over_x, (0.05, 0.1, 0.2, 0.4))
        trials.append(Trial("finite X", varying, "varying_gaps", detail="four points"))
    return trials


def _picture(settings: Settings) -> Picture:
    """Shares used at single points by random teachers, and Pinsker's bound beside the sharp one."""
    seed = derive(settings.seed, "excess-risk-bounds", "picture")
    bayes = random_rows(derive(seed, "p"), 400, 3)
    q = random_rows(derive(seed, "q"), 400, 3)
    gap = worst_excess(bayes, q)
    err = gap > 0
    bayes, q, gap = bayes[err][:150], q[err][:150], gap[err][:150]
    l2, divergence = (2 * simplex.squared_distance(bayes, q)).sqrt(), simplex.kl(bayes, q)
    top = bayes.topk(2, -1).values
    cheapest = tipped(bayes)
    order = (top[:, 0] - top[:, 1]).argsort()
    tight = (worst_excess(bayes, cheapest) / (2 * simplex.squared_distance(bayes, cheapest)).sqrt())[order]
    line = torch.linspace(0, 1.2, 61, dtype=torch.float64)
    return {
        "kind": "panels",
        "title": "Bounds on the excess risk, and how much of them is used",
        "caption": "Left: random teachers that err use part of the bound, the cheapest mistake all of it. "
        "Right: the excess risk against KL; Pinsker's bound and the sharp one, which a two-class mistake attains.",
        "panels": [
            {
                "kind": "curves",
                "title": "Share of sqrt(2) |q - p*|",
                "caption": "Three classes, one point each.",
                "x_label": "excess risk at the point",
                "y_label": "share of the bound",
                "x_log": False,
                "y_log": False,
                "series": [
                    _series("random teachers", gap, gap / l2, "points", "a"),
                    _series("tipped teachers", (top[:, 0] - top[:, 1])[order], tight, "line", "mse"),
                ],
                "lines": [{"y": 1.0, "name": "the bound"}],
            },
            {
                "kind": "curves",
                "title": "Excess risk against KL",
                "caption": "Sharp: the inverse of psi.",
                "x_label": "KL(p*, q) in nats",
                "y_label": "excess risk",
                "x_log": False,
                "y_log": False,
                "series": [
                    _series("Pinsker", line, (2 * line).sqrt(), "dashed", "control"),
                    _series("sharp", line, excess_risk_of_kl(line), "line", "ce"),
                    _series("random teachers", divergence[divergence < 1.2], gap[divergence < 1.2], "points", "a"),
                ],
                "lines": [],
            },
        ],
    }


def _series(name: str, x: Tensor, y: Tensor, style: str, colour: str) -> dict[str, object]:
    digits = [[float(f"{value:.5g}") for value in values.tolist()] for values in (x, y)]
    return {"name": name, "x": digits[0], "y": digits[1], "style": style, "colour": colour}


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="excess-risk-bounds",
        number="C8",
        title="Excess risk within the distance to p*",
        statement=(
            "The excess 0-1 risk is at most the expected L1 distance to p*, twice the sup distance, sqrt(2) times the "
            "Euclidean distance, and the root of twice the MSE"
        ),
        formula=(
            r"L(q) - L^* \leq \mathbb{E}\|q - p^*\|_1,\ 2\,\mathbb{E}\|q - p^*\|_\infty,\ "
            r"\sqrt{2}\,\mathbb{E}\|q - p^*\|_2 \leq \sqrt{2\,\mathrm{MSE}}"
        ),
        conditions="any q, any K, ties broken in any way; MSE summed over classes, on the points the risk is about",
        source="K = 2: Devroye, Gyorfi & Lugosi 1996, chapter 2; any K: derived here",
        controls={
            "constant_one": "the constant is 1 in place of sqrt(2)",
            "constant_one_binary": "for two classes the constant of E|eta^ - eta| is 1 in place of 2",
            "over_K": "the MSE is averaged over the K classes",
            "larger_mse": "the teacher of larger MSE is claimed to have the larger excess risk",
            "training_inputs": "the MSE is that on the training inputs of a teacher that memorised them",
        },
        trials=_distance_trials,
        picture=_picture,
    ),
    Claim(
        id="excess-risk-kl",
        number="C8",
        title="Excess risk within the KL divergence",
        statement=(
            "The excess 0-1 risk is at most the root of twice the expected KL divergence, and, sharper, the inverse of "
            "psi at it"
        ),
        formula=(
            r"L(q) - L^* \leq \psi^{-1}(\mathbb{E}\,\mathrm{KL}(p^*\|q)) "
            r"\leq \sqrt{2\,\mathbb{E}\,\mathrm{KL}(p^*\|q)}, "
            r"\quad \psi(\Delta) = \frac{1+\Delta}{2}\log(1+\Delta) + \frac{1-\Delta}{2}\log(1-\Delta)"
        ),
        conditions="any q, any K; nats",
        source="Pinsker's inequality; the sharp form is derived here (for margins: Bartlett, Jordan & McAuliffe 2006)",
        controls={
            "half_the_kl": "the root is of the KL, not of twice the KL",
            "marginals": "the KL is that between the class frequencies of p* and q",
            "swapped_arguments": "the KL is KL(q, p*)",
        },
        trials=_divergence_trials,
    ),
    Claim(
        id="excess-risk-tight",
        number="C8",
        title="The constants cannot be lowered",
        statement=(
            "The teacher that averages the two largest entries of p* and tips them has excess risk equal to its bounds"
        ),
        formula=(
            r"\Delta = \|q - p^*\|_1 = 2\,\|q - p^*\|_\infty = \sqrt{2}\,\|q - p^*\|_2, \quad "
            r"\Delta = \psi^{-1}(\mathrm{KL}) \ \mathrm{at}\ p^* = (1 \pm \Delta)/2"
        ),
        conditions="at one x, as the tip tends to 0; over x where the gap is constant (Jensen)",
        source="derived here",
        controls={
            "exchanged": "the two entries are exchanged, not averaged",
            "pinsker_at_wide_gaps": "Pinsker's bound is claimed to be attained at a gap of .99",
            "varying_gaps": "the gap varies over x, and the root of twice the MSE is claimed to be attained",
        },
        trials=_tight_trials,
    ),
)
