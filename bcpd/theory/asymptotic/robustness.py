r"""Between the two losses: what MSE buys where a class is contaminated, and the path from optimum to optimum (C15)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from bcpd.losses import LOSSES, Loss
from bcpd.seeds import derive
from bcpd.theory.asymptotic.asymptotics import model_of
from bcpd.theory.asymptotic.estimators import law_of
from bcpd.theory.asymptotic.models import LinearModel
from bcpd.theory.asymptotic.projections import (
    Case,
    Projection,
    both,
    contaminated,
    designed_cases,
    grid,
    linear_case,
    projection,
)
from bcpd.theory.claim import Claim, Outcome, Settings, Trial
from bcpd.theory.linear import linear_design

__all__ = ["CLAIMS", "blend"]

TOLERANCE = 1e-8
STRICT = 1e-4
OUTLIERS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2)
STEPS = 12

# -------------------------------------------------------------------------------------------------- outlier-robustness


@lru_cache(maxsize=2)
def _by_weight(weights: tuple[float, ...]) -> list[dict[str, Projection]]:
    return [both(linear_case(law_of(contaminated(weight))), 0) for weight in weights]


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
def _path(case: Case, seed: int) -> list[Projection]:
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
        return [Trial(name, partial(_monotone, linear_case(law_of(mixture, name, seed)), seed, None))]
    return [
        Trial(case.law.name, partial(_monotone, case, seed, control), control)
        for case in designed_cases(seed)[: 3 if settings.full else 2]
        for control in (None, "reversed")
    ]


def _monotone(case: Case, seed: int, control: str | None) -> Outcome:
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
    case = linear_case(law)
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
        repeat=False,
    ),
)
