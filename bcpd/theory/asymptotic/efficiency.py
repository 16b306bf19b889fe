r"""What the choice of a proper loss costs when the class contains p*: efficiency (C16), predicted and simulated.

No strictly proper loss comes closer to p* than the cross-entropy, whose sandwich is the inverse of Fisher's
information. The data sets are simulated thousands at a time, and the limit of N times a distance is taken from the
sizes N = 1000 and 4000 together, which removes the term of order 1/N (:func:`.estimators.limit`): what is
left is of order 1/N^2, well under a tenth of a standard error here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev

from bcpd.estimate import Estimate
from bcpd.losses import LOSSES, Loss
from bcpd.seeds import derive
from bcpd.theory.asymptotic.asymptotics import asymptotics, efficiency_ratio
from bcpd.theory.asymptotic.estimators import Law, law_of, limit, simulate
from bcpd.theory.asymptotic.models import Model
from bcpd.theory.asymptotic.projections import bent_table, linear_case
from bcpd.theory.asymptotic.regular import (
    Place,
    linear_place,
    places,
    prediction,
    simulated,
    two_gaussians,
    two_gaussians_on_nodes,
)
from bcpd.theory.claim import STANDARD_ERRORS, Claim, Outcome, Settings, Trial, monte_carlo

__all__ = ["CLAIMS"]

LARGE = 32_000
PROPER = ("mse", "spherical", "power", "ranked_probability")
SEPARATIONS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5, 4.0, 4.5, 5.0)
FLAT = 0.06
"""How much N MSE may change from N = 1000 to 4000, before standard errors count, as a share of itself.

N MSE is c (1 + a/N) up to the next order, and the change 0.75 a / 1000. Over 100,000 data sets on finite X and on two
Gaussians 3 apart |a| was at most 47 (the latter, Brier score), a change of 0.035; 0.06 leaves room for 80 in other
places. A user's mixture starts at the N where a/N is about 0.05 (:func:`.regular.settled_size`), a change of 0.0375.
"""


# ---------------------------------------------------------------------------------------------------- efficiency-order


def _order_trials(settings: Settings) -> list[Trial]:
    trials = []
    losses = {name: LOSSES[name] for name in PROPER}
    if settings.loss is not None:
        losses = {settings.loss.name: settings.loss} if settings.loss.proper else {}
    for place in places(settings):
        # of a user's loss or mixture nobody knows whether anything is lost: the wrong version might be right
        known = place.telling or (settings.loss is None and settings.mixture is None)
        for name, loss in losses.items():
            for control in (None, "reversed") if known else (None,):
                run = partial(_order, place, loss, control)
                trials.append(Trial(place.law.name, run, control, loss=name, detail="predicted"))
        if place.telling and place.sizes and settings.loss is None:
            for control in (None, "reversed"):
                run = partial(_simulated_order, place, _stream(settings), settings.full, control)
                trials.append(Trial(place.law.name, run, control, loss="mse", detail="simulated"))
    return trials


def _order(place: Place, loss: Loss, control: str | None) -> Outcome:
    r"""The least eigenvalue of :math:`I^{1/2} V I^{1/2}` is at least 1; ``reversed``: the largest is at most 1."""
    found = asymptotics(place.law, place.model, loss, theta=place.theta)
    values, axes = torch.linalg.eigh(found.fisher)
    root = axes[:, -found.rank :] * values[-found.rank :].sqrt()
    relative = torch.linalg.eigvalsh(root.T @ found.covariance @ root)
    best = prediction(place, "ce")
    if control == "reversed":
        return Outcome(float(relative.max()) - 1, 1e-8)
    return Outcome(1 - float(relative.min()), 1e-8, tightness=min(1.0, best.n_mse / found.n_mse))


def _simulated_order(place: Place, seed: int, full: bool, control: str | None) -> Outcome:
    """By how many standard errors the Brier score's MSE lies below the cross-entropy's, on the same data sets."""
    difference = simulated(place, seed, full)[0].mean("mse", "mse", minus="ce")
    sign = -1.0 if control is None else 1.0
    score = sign * difference.value / difference.stderr
    return Outcome(score, STANDARD_ERRORS, comparisons=1, stderr=difference.stderr, difference=difference.value)


# ------------------------------------------------------------------------------------------------------- kl-half-rank


def _rank_trials(settings: Settings) -> list[Trial]:
    trials = []
    for place in places(settings):
        controls = (None, "all_parameters", *(["brier"] if place.telling else []))
        for control in controls:
            run = partial(_predicted_rank, place, control)
            trials.append(Trial(place.law.name, run, control, loss="ce", detail="predicted"))
            if place.sizes and (control is None or place.telling or settings.mixture is None):
                run = partial(_simulated_rank, place, _stream(settings), settings.full, control)
                trials.append(Trial(place.law.name, run, control, loss="ce", detail="simulated"))
    return trials


def _claimed_half_rank(place: Place, control: str | None) -> float:
    return (place.parameters if control == "all_parameters" else place.rank) / 2


def _predicted_rank(place: Place, control: str | None) -> Outcome:
    """The sandwich's tr(I V) / 2, on the rank that autograd found, against the dimension by counting."""
    found = prediction(place, "mse" if control == "brier" else "ce")
    return Outcome(abs(found.n_kl - _claimed_half_rank(place, control)), 1e-8)


def _simulated_rank(place: Place, seed: int, full: bool, control: str | None) -> Outcome:
    found = limit(*simulated(place, seed, full), "kl", "mse" if control == "brier" else "ce")
    return monte_carlo(found.value, found.stderr, _claimed_half_rank(place, control))


# ------------------------------------------------------------------------------------------------------- sandwich-mse


def _sandwich_trials(settings: Settings) -> list[Trial]:
    trials = []
    for place in places(settings):
        if not place.sizes:
            continue
        name, seed = place.law.name, _stream(settings)
        for loss in ("ce", "mse"):
            for control in (None, "fisher", "own_curvature"):
                if loss == "mse" and control is not None and not place.telling:
                    continue
                run = partial(_sandwich, place, loss, seed, settings.full, control)
                # for the cross-entropy the three matrices are one and the same
                trials.append(Trial(name, run, control, loss=loss, harmless=loss == "ce"))
            for control in (None, "slow_rate"):
                run = partial(_flat, place, loss, seed, settings.full, control)
                trials.append(Trial(name, run, control, loss=loss, detail="flat in N"))
    return trials


def _sandwich(place: Place, loss: str, seed: int, full: bool, control: str | None) -> Outcome:
    predicted = prediction(place, loss)
    claimed = predicted.n_mse
    if control is not None:
        # both inverses are taken on the identifiable directions
        matrix = predicted.fisher if control == "fisher" else predicted.hessian
        claimed = float((predicted.gram * torch.linalg.pinv(matrix, rtol=1e-9, hermitian=True)).sum())
    found = limit(*simulated(place, seed, full), "mse", loss)
    return monte_carlo(found.value, found.stderr, claimed)


def _flat(place: Place, loss: str, seed: int, full: bool, control: str | None) -> Outcome:
    """N MSE at both sizes agree, up to the 1/N term; ``slow_rate``: sqrt(N) MSE does, as if MSE fell like 1/sqrt(N)."""
    small, large = (run.mean("mse", loss) for run in simulated(place, seed, full))
    power = 0.5 if control == "slow_rate" else 1.0
    growth = (place.sizes[1] / place.sizes[0]) ** power
    change = growth * large.value / small.value - 1
    stderr = growth * large.value / small.value * math.hypot(large.stderr / large.value, small.stderr / small.value)
    score = max(0.0, abs(change) - FLAT) / stderr
    return Outcome(score, STANDARD_ERRORS, comparisons=1, stderr=stderr, difference=change)


# ---------------------------------------------------------------------------------------------- efficiency-separation


def _separation_trials(settings: Settings) -> list[Trial]:
    if settings.mixture is not None or settings.loss is not None:
        return []
    nearby, grows = _ratios_nearby, _ratios_grow
    replicas, name = 6000 if settings.full else 3000, "two Gaussians on nodes"
    trials = [
        Trial("quadrature 1-D", partial(run, control), control, loss="mse", detail=detail)
        for run, control, detail in (
            (nearby, None, "no separation"), (nearby, "penalty_at_zero", "no separation"),
            (grows, None, "grows"), (grows, "shrinks", "grows"),
        )
    ]  # fmt: skip
    for separation in (2.0, 3.0):
        for control in (None, "no_loss"):
            run = partial(_simulated_ratio, separation, _stream(settings), replicas, control)
            trials.append(Trial(name, run, control, loss="mse", detail=f"separation {separation:g}"))
    return trials


def _ratios_nearby(control: str | None) -> Outcome:
    """At separations 0 and 0.02. The excess is of fourth order: p*(1 - p*) is 1/4 less a square, squared again."""
    ratios = [efficiency_ratio(two_gaussians(separation)) for separation in (0.0, 0.02)]
    claimed = 1.05 if control == "penalty_at_zero" else 1.0
    return Outcome(max(abs(ratio - claimed) for ratio in ratios), 1e-7)


def _ratios_grow(control: str | None) -> Outcome:
    ratios = torch.tensor([efficiency_ratio(two_gaussians(separation)) for separation in (0.25, 0.5, 1, 2, 3, 4, 5)])
    steps = ratios.diff() * (-1 if control == "shrinks" else 1)
    return Outcome(-float(steps.min()), -1e-4)


def _simulated_ratio(separation: float, seed: int, replicas: int, control: str | None) -> Outcome:
    found = _ratio_at(separation, seed, replicas)
    claimed = 1.0 if control == "no_loss" else efficiency_ratio(two_gaussians(separation))
    return monte_carlo(found.value, found.stderr, claimed)


@lru_cache(maxsize=16)
def _ratio_at(separation: float, seed: int, replicas: int) -> Estimate:
    """At a size whose 1/N term is a tenth of a standard error: tables of counts cost the same at every size."""
    place = linear_place(law_of(two_gaussians_on_nodes(separation), "two Gaussians on nodes"))
    both = [(LOSSES[name], place.theta) for name in ("ce", "mse")]
    return simulate(place.law, place.model, both, LARGE, replicas, seed).ratio("mse", "mse", "ce")


# ------------------------------------------------------------------------------------------------ information-identity


def _identity_trials(settings: Settings) -> list[Trial]:
    trials = []
    for place in places(settings):
        if place.law.kind != "exact":
            continue
        for loss in ("ce", "mse"):
            trials.append(
                Trial(place.law.name, partial(_identity, place.law, place.model, place.theta, loss), loss=loss)
            )
    if settings.mixture is None:
        missed = linear_case(law_of(bent_table(derive(settings.seed, "misspecified")), "finite X, missed"))
        for loss in ("ce", "mse"):
            run = partial(_identity, missed.law, missed.model, None, loss)
            trials.append(Trial(missed.law.name, run, "misspecified", loss=loss))
    return trials


def _identity(law: Law, model: Model, theta: Tensor | None, loss: str) -> Outcome:
    """The largest difference of the matrices that should be one, as a share of its largest entry.

    ``ce``: Fisher's information in closed form, the Hessian of the expected loss, the covariance of the score, and
    E sum_k q_k L_k L_k^T, L the derivatives of the log-probabilities by torch.func. ``mse``: E J^T J, half the Hessian,
    and E sum_k q_k^2 L_k L_k^T.
    """
    found = asymptotics(law, model, loss, theta=theta)
    features = model.features(law.x)

    def log_probabilities(at: Tensor) -> Tensor:
        return model.logits(at[None], features)[0].log_softmax(-1)

    slopes, q = jacrev(log_probabilities)(found.theta), log_probabilities(found.theta).exp()
    power = 1 if loss == "ce" else 2
    expected = torch.einsum("n,nk,nki,nkj->ij", law.weights, q**power, slopes, slopes)
    claimed = [found.fisher, found.hessian, found.score_covariance] if loss == "ce" else [found.gram, found.hessian / 2]
    return Outcome(max(float((matrix - expected).abs().max() / expected.abs().max()) for matrix in claimed), 1e-10)


# ----------------------------------------------------------------------------------------------------------- pictures


def _separation_picture(settings: Settings) -> Mapping[str, Any]:
    replicas = 1500 if settings.full else 600
    predicted = {
        loss: [efficiency_ratio(two_gaussians(separation), loss=loss) for separation in SEPARATIONS]
        for loss in ("mse", "spherical")
    }
    simulated = [_ratio_at(separation, _stream(settings), replicas) for separation in SEPARATIONS[4::4]]
    low, high = zip(*(found.interval() for found in simulated), strict=True)
    return {
        "kind": "curves",
        "title": "What MSE costs where both losses reach p*",
        "caption": "Two Gaussian classes on a line, a logistic model. How many times as many samples a loss needs as "
        "the cross-entropy for the same expected squared distance to p*: nothing where the classes coincide, more the "
        "further they are apart. Lines: the sandwich. Points: simulated data sets, with 95 % intervals.",
        "x_label": "separation of the means, in standard deviations",
        "y_label": "samples needed, relative to CE",
        "x_log": False,
        "y_log": False,
        "series": [
            _series("MSE, predicted", SEPARATIONS, predicted["mse"], "line", "mse"),
            _series("spherical, predicted", SEPARATIONS, predicted["spherical"], "dashed", "a"),
            {
                **_series("MSE, simulated", SEPARATIONS[4::4], [found.value for found in simulated], "points", "mse"),
                "low": _rounded(low),
                "high": _rounded(high),
            },
        ],
        "lines": [{"y": 1.0, "name": "CE"}],
    }


def _rank_picture(settings: Settings) -> Mapping[str, Any]:
    """N KL against N on finite X, for both losses."""
    place = places(settings)[0] if places(settings) else places(replace(settings, mixture=None))[0]
    both = [(LOSSES[name], place.theta) for name in ("ce", "mse")]
    sizes = (250, 500, 1000, 2000, 4000, 8000)
    runs = [
        simulate(place.law, place.model, both, n, 1500 if settings.full else 600, _stream(settings), rank=place.rank)
        for n in sizes
    ]
    series = []
    for name in ("ce", "mse"):
        found = [run.mean("kl", name) for run in runs]
        entry = _series(name.upper(), sizes, [n * e.value for n, e in zip(sizes, found, strict=True)], "points", name)
        ends = [e.interval() for e in found]
        entry["low"] = _rounded([n * low for n, (low, _) in zip(sizes, ends, strict=True)])
        entry["high"] = _rounded([n * high for n, (_, high) in zip(sizes, ends, strict=True)])
        series.append(entry)
    return {
        "kind": "curves",
        "title": "N times KL counts parameters",
        "caption": f"{place.law.name}: the expected KL from p* times N. Under the cross-entropy it tends to half the "
        f"number of identifiable parameters, {place.rank}/2, whatever p* is; under MSE to more.",
        "x_label": "samples N",
        "y_label": "N E KL(p*, q), nats",
        "x_log": True,
        "y_log": False,
        "series": series,
        "lines": [
            {"y": round(place.rank / 2, 5), "name": "rank / 2"},
            {"y": _rounded([prediction(place, "mse").n_kl])[0], "name": "MSE, predicted"},
        ],
    }


def _series(name: str, x: Sequence[float], y: Sequence[float], style: str, colour: str) -> dict[str, Any]:
    return {"name": name, "x": list(x), "y": _rounded(y), "style": style, "colour": colour}


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _stream(settings: Settings) -> int:
    return derive(settings.seed, "efficiency", "data")


_WITHIN = (
    "; simulated limits within 5 standard errors, 4 of which would be exceeded by chance in one number of 16,000, too "
    "often for so many as all claims together try"
)
_REGULAR = (
    "p* lies in the class; the rank of Fisher's information is constant around it (checked); data sets without a "
    "finite optimum are left out (none at these sizes)"
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="efficiency-order",
        number="C16",
        title="No proper loss is more efficient than the cross-entropy",
        statement="Where the class contains p*, the limiting covariance of the estimates is smallest for the "
        "cross-entropy, and so is the expected distance to p*: no strictly proper loss comes closer.",
        formula=r"V_\ell = A^{-1} B A^{-1} \succeq I^{-1}, \qquad \lim N\,\mathbb{E}\,\|\hat{q}_\ell - p^*\|^2 \geq "
        r"\lim N\,\mathbb{E}\,\|\hat{q}_{\mathrm{CE}} - p^*\|^2",
        conditions=_REGULAR + "; simulated differences of the wrong sign by at most 5 standard errors",
        source="Hajek (1970), van der Vaart (1998), sections 5.3 and 8.5; theory B10b",
        controls={"reversed": "the loss is claimed to be more efficient, an MSE teacher to be closer always"},
        trials=_order_trials,
    ),
    Claim(
        id="kl-half-rank",
        number="C16",
        title="N KL tends to half the number of identifiable parameters",
        statement="The cross-entropy's expected KL from p* is rank / (2N): half the number of identifiable parameters, "
        "(K - 1)(d + 1) for the linear softmax, whatever p* is.",
        formula=r"N\,\mathbb{E}\,\mathrm{KL}(p^* \| \hat{q}_{\mathrm{CE}}) \to \frac{1}{2}\,\mathrm{rank}\,I",
        conditions=_REGULAR + _WITHIN,
        source="Wilks (1938), Akaike (1974); theory B10b",
        controls={
            "all_parameters": "redundant parameters are counted too, K(d + 1) for the linear softmax",
            "brier": "the same is claimed of the Brier score",
        },
        trials=_rank_trials,
        picture=_rank_picture,
    ),
    Claim(
        id="sandwich-mse",
        number="C16",
        title="The sandwich predicts the distance to p*",
        statement="N times the expected squared distance to p* tends to tr(E[J'J] V) for both losses, V their sandwich "
        "covariance, and is flat in N.",
        formula=r"N\,\mathbb{E}\,\|\hat{q}_\ell - p^*\|^2 \to \mathrm{tr}\left(\mathbb{E}[J^\top J]\,A^{-1} B A^{-1}"
        r"\right)",
        conditions=_REGULAR + _WITHIN + "; flat: N MSE differs by at most 6 % and 5 standard errors beyond between two "
        "sizes, 1000 and 4000 or, in a mixture of your own, from where 1/N terms are small: they may make up 6 %",
        source="Huber (1967), White (1982); theory B10b",
        controls={
            "fisher": "the inverse of Fisher's information is used for the sandwich",
            "own_curvature": "the inverse of the loss's own Hessian is used for the sandwich",
            "slow_rate": "the distance is claimed to fall like one over the root of N",
        },
        trials=_sandwich_trials,
    ),
    Claim(
        id="efficiency-separation",
        number="C16",
        title="The price of MSE grows with the separation of the classes",
        statement="For two Gaussian classes and a logistic model, the Brier score needs as many samples as the "
        "cross-entropy where the classes coincide, and more the further they are apart.",
        formula=r"\frac{\lim N\,\mathrm{MSE}(\hat{q}_{\mathrm{MSE}})}{\lim N\,\mathrm{MSE}(\hat{q}_{\mathrm{CE}})} "
        r"\to 1 \quad (\delta \to 0), \qquad \mathrm{increasing\ in\ } \delta",
        conditions="equal priors, unit variances, separations up to 5; " + _REGULAR + _WITHIN,
        source="Efron (1975) for the world; theory B10b, derived here",
        controls={
            "penalty_at_zero": "a price of 5 % is claimed to remain where the classes coincide",
            "shrinks": "the ratio is claimed to fall with the separation",
            "no_loss": "both losses are claimed to be as efficient",
        },
        trials=_separation_trials,
        picture=_separation_picture,
        repeat=True,
    ),
    Claim(
        id="information-identity",
        number="C16",
        title="Curvature, score and closed form give one information",
        statement="At p* the Hessian of the cross-entropy, the covariance of its score and Fisher's information in "
        "closed form are one matrix, and half the Hessian of the Brier score is E[J'J].",
        formula=r"\nabla^2\,\mathbb{E}\,\ell = \mathbb{E}\,\psi\psi^\top = \mathbb{E}\left[J_z^\top "
        r"(\mathrm{diag}\,q - qq^\top) J_z\right] = I, \qquad "
        r"\frac{1}{2} \nabla^2\,\mathbb{E}\,\|q - e_y\|^2 = \mathbb{E}[J^\top J]",
        conditions="p* lies in the class; finite X, exact",
        source="Fisher (1925); van der Vaart (1998), section 5.5",
        controls={"misspecified": "the class misses p*, and the same is claimed at the optimum"},
        trials=_identity_trials,
    ),
)
