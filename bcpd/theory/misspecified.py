r"""Where the class misses p*: each loss finds the member closest in its own divergence, and no other (C15).

Everything is on the population: p* is known and labels are summed out, so that on finite X, and on quadrature nodes
taken as one, the inequalities are exact. :mod:`bcpd.theory.projections` has the minimisers and how far they are global.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from bcpd.losses import LOSSES, Loss
from bcpd.mixtures import FiniteMixture, GaussianMixture
from bcpd.nets.mlp import MLP
from bcpd.seeds import derive
from bcpd.theory.asymptotics import model_of
from bcpd.theory.claim import Claim, Outcome, Settings, Trial
from bcpd.theory.estimators import Law, law_of
from bcpd.theory.linear import linear_design, logits
from bcpd.theory.models import LinearModel, Model, NetModel
from bcpd.theory.projections import (
    Projection,
    bent_table,
    contaminated,
    contaminated_plane,
    grid,
    projection,
    random_line,
)
from bcpd.theory.regular import containing_design, two_gaussians

__all__ = ["CLAIMS"]

TOLERANCE = 1e-8
STRICT = 1e-4
OUTLIERS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2)
STEPS = 12  # of the path from one loss to the other


# --------------------------------------------------------------------------------------------------- projection-order


@dataclass(frozen=True, eq=False)
class _Case:
    """A law and a class; ``fine``: the law on more nodes; ``rank``: its identifiable directions, all by default."""

    law: Law
    model: Model
    fine: Law | None = None
    rank: int | None = None


def _linear_case(law: Law, fine: Law | None = None) -> _Case:
    return _Case(law, model_of(linear_design, law), fine)


@lru_cache(maxsize=2)
def _designed_cases(seed: int) -> tuple[_Case, ...]:
    line, plane = contaminated(), contaminated_plane()
    return (
        _linear_case(law_of(bent_table(seed), "finite X")),
        _linear_case(law_of(line, "quadrature 1-D", nodes=160), law_of(line, nodes=240)),
        _linear_case(law_of(plane, "quadrature 2-D", nodes=88), law_of(plane, nodes=120)),
    )


def _net_case() -> _Case:
    """Two tanh units on the contaminated line: a shift of both logits along each unit, or constant, changes nothing."""
    net = MLP(num_classes=2, input_shape=(1,), hidden=(2,), activation="tanh")
    model = NetModel(net)
    return _Case(law_of(contaminated(), "tanh net", nodes=32), model, rank=model.size - 3)


@lru_cache(maxsize=16)
def _both(case: _Case, seed: int) -> dict[str, Projection]:
    """The cross-entropy's projection, and the Brier score's, which also starts from there."""
    starts = 16 if case.rank is None else 6
    find = partial(projection, case.law, case.model, seed=seed, starts=starts, rank=case.rank)
    ce = find("ce")
    mse = find("mse", also=ce.theta[None])
    if case.rank is not None:  # of a network neither risk is convex
        ce = find("ce", also=mse.theta[None])
    return {"ce": ce, "mse": mse}


def _order_trials(settings: Settings) -> list[Trial]:
    seed = derive(settings.seed, "misspecified")
    if settings.mixture is not None:
        name, mixture = settings.mixture
        case = _linear_case(law_of(mixture, name, seed))
        return [Trial(name, partial(_order, case, seed, None))]
    cases = _designed_cases(seed)
    trials = []
    for case in cases:
        for control in (None, "ce_always", "mse_always"):
            trials.append(Trial(case.law.name, partial(_order, case, seed, control), control))
        trials.append(Trial(case.law.name, partial(_strict, case, seed), detail="strict"))
    inside = _linear_case(law_of(two_gaussians(2.0), "quadrature 1-D"))
    trials.append(Trial("quadrature 1-D", partial(_strict, inside, seed), "well_specified", detail="strict"))
    if settings.full:
        trials.append(Trial("tanh net", partial(_order, _net_case(), seed, None)))
    count = 8 if settings.full else 4
    for classes in (2, 3):
        run = partial(_order_of_many, seed, count, classes)
        trials.append(Trial(f"{count} random 1-D mixtures", run, detail=f"K={classes}"))
    return trials


def _order(case: _Case, seed: int, control: str | None) -> Outcome:
    """The larger of the two violations, and what half as many nodes again change in the distances."""
    found = _both(case, seed)
    violations = {
        "ce_always": found["ce"].mse - found["mse"].mse,
        "mse_always": found["mse"].kl - found["ce"].kl,
    }
    if control is not None:
        return Outcome(violations[control], TOLERANCE)
    value = max(-violation for violation in violations.values())
    if case.fine is not None:
        for of in found.values():
            mse, kl = case.fine.distances(case.model, of.theta[None])
            value = max(value, abs(float(mse) - of.mse), abs(float(kl) - of.kl))
    shares = [
        smaller / larger
        for smaller, larger in ((found["mse"].mse, found["ce"].mse), (found["ce"].kl, found["mse"].kl))
        if larger > 0
    ]
    return Outcome(value, TOLERANCE, tightness=min(1.0, max(shares, default=1.0)))


def _strict(case: _Case, seed: int) -> Outcome:
    """Minus the smaller of the two gaps."""
    found = _both(case, seed)
    return Outcome(max(found["mse"].mse - found["ce"].mse, found["ce"].kl - found["mse"].kl), -STRICT)


def _order_of_many(seed: int, count: int, classes: int) -> Outcome:
    outcomes = []
    for number in range(count):
        law = law_of(random_line(derive(seed, "mixture", number), classes), nodes=64)
        outcomes.append(_order(_linear_case(law), seed, None))
    return max(outcomes, key=lambda outcome: outcome.value)


# ------------------------------------------------------------------------------------------------- well-specified-tie


def _tie_trials(settings: Settings) -> list[Trial]:
    seed = derive(settings.seed, "misspecified")
    if settings.mixture is not None:
        name, mixture = settings.mixture
        law = law_of(mixture, name, seed)
        design = containing_design(law)
        return [] if design is None else [Trial(name, partial(_tie, _Case(law, model_of(design, law)), seed))]
    plane = GaussianMixture([[-0.8, 0.1], [0.7, 0.5], [0.2, -0.9]], [[1.0, 0.3], [0.3, 1.5]], priors=[0.3, 0.3, 0.4])
    cases = [
        _linear_case(law_of(_straight(bent_table(seed)), "finite X")),
        _linear_case(law_of(two_gaussians(2.0), "quadrature 1-D")),
        _linear_case(law_of(plane, "quadrature 2-D", nodes=64)),
    ]
    trials = [Trial(case.law.name, partial(_tie, case, seed)) for case in cases]
    return trials + [Trial(case.law.name, partial(_tie, case, seed), "outside") for case in _designed_cases(seed)]


def _straight(mixture: FiniteMixture) -> FiniteMixture:
    """The same points and weights with the p* of a linear softmax."""
    x, weights = mixture.support()
    theta = torch.tensor([[1.1, -0.4], [-0.3, 0.9], [0.2, 0.5]], dtype=torch.float64)
    return FiniteMixture(weights, logits(linear_design(x), theta).softmax(1), x)


def _tie(case: _Case, seed: int) -> Outcome:
    found = _both(case, seed)
    return Outcome(max(abs(d) for of in found.values() for d in (of.mse, of.kl)), 1e-10)


# ------------------------------------------------------------------------------------------------------ global-optimum


def _optimum_trials(settings: Settings) -> list[Trial]:
    seed, starts = derive(settings.seed, "misspecified"), 48 if settings.full else 24
    if settings.mixture is not None:
        name, mixture = settings.mixture
        case = _linear_case(law_of(mixture, name, seed))
        trials = [Trial(name, partial(_one_minimum, case, "ce", seed, starts), loss="ce", detail="one minimum")]
        if case.model.size == 2:
            trials.append(Trial(name, partial(_below_grid, case, seed, starts, None), loss="mse", detail="grid"))
        return trials
    law = law_of(contaminated(0.3), "quadrature 1-D", nodes=64)
    case = _linear_case(law)
    return [
        Trial(law.name, partial(_one_minimum, case, "ce", seed, starts), loss="ce", detail="one minimum"),
        Trial(law.name, partial(_one_minimum, case, "mse", seed, starts), "brier_convex", "mse", "one minimum"),
        Trial(law.name, partial(_below_grid, case, seed, starts, None), loss="mse", detail="grid"),
        Trial(law.name, partial(_below_grid, case, seed, starts, "local"), "local", "mse", "grid"),
    ]


def _one_minimum(case: _Case, loss: str, seed: int, starts: int) -> Outcome:
    """The spread of the risk over the minima that the starts reach."""
    found = projection(case.law, case.model, loss, seed, starts=starts)
    return Outcome(max(found.others, default=found.value) - found.value, TOLERANCE)


def _below_grid(case: _Case, seed: int, starts: int, control: str | None) -> Outcome:
    """By how much the lowest point of a grid lies below the optimum; ``local``: below the next minimum."""
    found = projection(case.law, case.model, "mse", seed, starts=starts)
    if not isinstance(case.model, LinearModel):
        raise ValueError(f"a grid needs a linear class, received {type(case.model).__name__}")
    slopes = torch.linspace(-6, 6, 73, dtype=torch.float64)
    lowest = float(grid(case.law, case.model, "mse", slopes, 2 * slopes).min())
    claimed = found.others[0] if control == "local" else found.value
    return Outcome(claimed - lowest, TOLERANCE)


# -------------------------------------------------------------------------------------------------- outlier-robustness


@lru_cache(maxsize=2)
def _by_weight(weights: tuple[float, ...]) -> list[dict[str, Projection]]:
    return [_both(_linear_case(law_of(contaminated(weight))), 0) for weight in weights]


def _robust_trials(settings: Settings) -> list[Trial]:
    if settings.mixture is not None:
        return []
    return [
        Trial("quadrature 1-D", partial(_clean_distance, control), control, detail="main components")
        for control in (None, "ce_robust")
    ] + [Trial("quadrature 1-D", partial(_price, control), control, detail="price") for control in (None, "free")]


def _clean_distance(control: str | None) -> Outcome:
    r"""How much of the cross-entropy's distance to the p* **without** outliers the Brier score has, at worst."""
    clean = law_of(contaminated(0.0))
    model = model_of(linear_design, clean)
    shares = []
    for found in _by_weight(OUTLIERS)[1:]:
        mse, ce = (float(clean.distances(model, found[loss].theta[None])[0]) for loss in ("mse", "ce"))
        shares.append(ce / mse if control == "ce_robust" else mse / ce)
    return Outcome(max(shares), 0.05)


def _price(control: str | None) -> Outcome:
    """Minus the least step of the Brier score's excess KL as the weight of the outliers grows."""
    excess = torch.tensor([found["mse"].kl - found["ce"].kl for found in _by_weight(OUTLIERS)])
    steps = excess.diff() * (-1 if control == "free" else 1)
    return Outcome(-float(steps.min()), -STRICT)


# ------------------------------------------------------------------------------------------------------ minimiser-path


def blend(share: float) -> Loss:
    """``(1 - share) ce + share mse``: strictly proper for every share in [0, 1]."""

    def function(z: Tensor, target: Tensor) -> Tensor:
        return (1 - share) * LOSSES["ce"].function(z, target) + share * LOSSES["mse"].function(z, target)

    return Loss(f"blend {share:g}", function, lambda p: p, divergence=LOSSES["ce"].divergence)


@lru_cache(maxsize=4)
def _path(case: _Case, seed: int) -> list[Projection]:
    """Optima of the blends from the cross-entropy to the Brier score; each also starts from the one before."""
    found = [projection(case.law, case.model, "ce", seed)]
    for step in range(1, STEPS + 1):
        loss = LOSSES["mse"] if step == STEPS else blend(step / STEPS)
        found.append(projection(case.law, case.model, loss, seed, also=found[-1].theta[None]))
    return found


def _path_trials(settings: Settings) -> list[Trial]:
    seed = derive(settings.seed, "misspecified")
    if settings.mixture is not None:
        name, mixture = settings.mixture
        return [Trial(name, partial(_monotone, _linear_case(law_of(mixture, name, seed)), seed, None))]
    return [
        Trial(case.law.name, partial(_monotone, case, seed, control), control)
        for case in _designed_cases(seed)[: 3 if settings.full else 2]
        for control in (None, "reversed")
    ]


def _monotone(case: _Case, seed: int, control: str | None) -> Outcome:
    """The largest rise of MSE, or fall of KL, from one blend to the next."""
    path = _path(case, seed)
    mse = torch.tensor([of.mse for of in path], dtype=torch.float64).diff()
    kl = torch.tensor([of.kl for of in path], dtype=torch.float64).diff()
    sign = -1 if control == "reversed" else 1
    return Outcome(float(torch.maximum(sign * mse, -sign * kl).max()), TOLERANCE)


# ------------------------------------------------------------------------------------------------------------ pictures


def _surface_picture(settings: Settings) -> Mapping[str, Any]:
    """Both risks over slope and intercept, with both optima and the path between them."""
    law = law_of(contaminated(), "quadrature 1-D")
    case = _linear_case(law)
    if not isinstance(case.model, LinearModel):
        raise ValueError("the picture is of a linear class")
    path = _path(case, derive(settings.seed, "misspecified"))
    slopes, intercepts = (torch.linspace(*ends, 49, dtype=torch.float64) for ends in ((-3.2, 0.8), (-1.5, 1.5)))
    panels = []
    for loss, name in (("ce", "cross-entropy"), ("mse", "Brier score (MSE)")):
        risk = grid(law, case.model, loss, slopes, intercepts)
        panels.append(
            {
                "kind": "surface",
                "title": name[0].upper() + name[1:],
                "caption": "",
                "x_label": "slope",
                "y_label": "intercept",
                "x": _rounded(slopes.tolist()),
                "y": _rounded(intercepts.tolist()),
                "z": [_rounded(row) for row in (risk - risk.min()).tolist()],
                "z_label": "risk above its least",
                "points": [
                    {
                        "name": label,
                        "x": _rounded(of.theta[:1].tolist())[0],
                        "y": _rounded(of.theta[1:].tolist())[0],
                        "colour": colour,
                    }
                    for label, of, colour in (("CE", path[0], "ce"), ("MSE", path[-1], "mse"))
                ],
                "paths": [
                    {
                        "name": "from CE to MSE",
                        "x": _rounded([float(of.theta[0]) for of in path]),
                        "y": _rounded([float(of.theta[1]) for of in path]),
                        "colour": "a",
                    }
                ],
            }
        )
    return {
        "kind": "panels",
        "title": "Two losses, two optima",
        "caption": "A logistic model on the line, where a tenth of one class lies far out on the other's side. Each "
        "loss has its own optimum; the path joins them through the optima of the losses (1 - t) CE + t MSE. The "
        "outliers flatten the cross-entropy's slope; the Brier score nearly ignores them.",
        "panels": panels,
    }


def _robust_picture(settings: Settings) -> Mapping[str, Any]:
    found = _by_weight(OUTLIERS)
    panels = []
    for metric, label in (("mse", "E |q - p*|^2"), ("kl", "E KL(p*, q), nats")):
        series = [
            {
                "name": f"{loss.upper()} optimum",
                "x": list(OUTLIERS),
                "y": _rounded([max(getattr(of[loss], metric), 0.0) for of in found]),
                "style": "line+points",
                "colour": loss,
            }
            for loss in ("ce", "mse")
        ]
        panels.append(
            {
                "kind": "curves",
                "title": metric.upper(),
                "caption": "",
                "x_label": "share of the first class that lies far out",
                "y_label": label,
                "x_log": False,
                "y_log": False,
                "series": series,
                "lines": [],
            }
        )
    return {
        "kind": "panels",
        "title": "What MSE buys, and what it costs",
        "caption": "Distance to p* of both optima against the weight of an outlying component. The Brier score stays "
        "closer in squared distance; it pays in KL, since it is sure of the wrong class where the outliers are.",
        "panels": panels,
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{float(value):.5g}") for value in values]


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="projection-order",
        number="C15",
        title="Each loss is closest in its own divergence",
        statement="With infinitely many samples the Brier score's optimum in a class is at least as close to p* in "
        "squared distance as the cross-entropy's, which is at least as close in KL; strictly where it misses p*.",
        formula=r"\mathbb{E}\,\|q_B - p^*\|^2 \leq \mathbb{E}\,\|q_L - p^*\|^2, \qquad "
        r"\mathbb{E}\,\mathrm{KL}(p^* \| q_L) \leq \mathbb{E}\,\mathrm{KL}(p^* \| q_B)",
        conditions="global optima over the class; strict in the worlds marked so, which the class misses by design",
        source="Theorem 1; theory B10a",
        controls={
            "ce_always": "the cross-entropy's optimum is claimed to be as close in squared distance",
            "mse_always": "the Brier score's optimum is claimed to be as close in KL",
            "well_specified": "p* lies in the class, and a gap is claimed all the same",
        },
        trials=_order_trials,
    ),
    Claim(
        id="well-specified-tie",
        number="C15",
        title="Where the class contains p*, both losses find it",
        statement="If p* lies in the class, both optima are p*: no gap is left between the losses.",
        formula=r"p^* \in F \;\Rightarrow\; q_B = q_L = p^*",
        conditions="p* in the class, strictly proper losses",
        source="theory B10a",
        controls={"outside": "the class misses p*, and the tie is claimed all the same"},
        trials=_tie_trials,
    ),
    Claim(
        id="global-optimum",
        number="C15",
        title="The optima compared are global",
        statement="The risk of the cross-entropy has one minimum in a linear softmax. That of the Brier score may have "
        "several: the lowest found from many starts lies below every point of a grid.",
        formula=r"R_B(\theta_B) \leq \min_{\theta \in \mathrm{grid}} R_B(\theta)",
        conditions="linear softmax; the grid for two parameters, slopes up to 6 and intercepts up to 12",
        source="derived here",
        controls={
            "brier_convex": "the Brier risk is claimed to have one minimum",
            "local": "the second lowest minimum is claimed to be the lowest",
        },
        trials=_optimum_trials,
    ),
    Claim(
        id="outlier-robustness",
        number="C15",
        title="MSE buys robustness to outlying components, and pays in KL",
        statement="A small component of one class far out on the other's side bends the cross-entropy's optimum away "
        "from the rule of the main components; the Brier score's stays within a twentieth of that distance, and its "
        "excess KL grows with the weight of the component.",
        formula=r"\mathbb{E}_0\,\|q_B - p_0^*\|^2 \leq 0.05\;\mathbb{E}_0\,\|q_L - p_0^*\|^2",
        conditions="two unit Gaussians at -1 and 1, the component at 5 with up to a fifth of its class; 0: without it",
        source="theory B10a; numbers found here",
        controls={
            "ce_robust": "the cross-entropy's optimum is claimed to be the robust one",
            "free": "the Brier score's excess KL is claimed to shrink",
        },
        trials=_robust_trials,
        picture=_robust_picture,
        repeat=False,
    ),
    Claim(
        id="minimiser-path",
        number="C15",
        title="From CE to MSE, one distance falls and the other rises",
        statement="Along the optima of (1 - t) CE + t MSE the squared distance to p* falls with t and KL rises.",
        formula=r"q_t = \arg\min_F\,(1 - t)\,\mathrm{CE} + t\,\mathrm{MSE}: \quad "
        r"\mathbb{E}\,\|q_t - p^*\|^2 \downarrow,\; \mathbb{E}\,\mathrm{KL}(p^* \| q_t) \uparrow",
        conditions="global optima over the class",
        source="derived here: the optimality of q_s and q_t for their own blends, added up",
        controls={"reversed": "the squared distance is claimed to rise and KL to fall"},
        trials=_path_trials,
        picture=_surface_picture,
    ),
)
