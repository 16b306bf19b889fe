r"""Where the class misses p*: each loss finds the member closest in its own divergence, and no other (C15).

Everything is on the population: p* is known and labels are summed out, so that on finite X, and on quadrature nodes
taken as one, the inequalities are exact. :mod:`.projections` has the minimisers and how far they are global.
"""

from __future__ import annotations

from functools import partial

import torch

from bcpd.mixtures import FiniteMixture, GaussianMixture
from bcpd.nets.mlp import MLP
from bcpd.seeds import derive
from bcpd.theory.asymptotic.asymptotics import model_of
from bcpd.theory.asymptotic.estimators import law_of
from bcpd.theory.asymptotic.models import LinearModel, NetModel
from bcpd.theory.asymptotic.projections import (
    Case,
    bent_table,
    both,
    contaminated,
    designed_cases,
    grid,
    linear_case,
    projection,
    random_line,
)
from bcpd.theory.asymptotic.regular import containing_design, two_gaussians
from bcpd.theory.claim import Claim, Outcome, Settings, Trial
from bcpd.theory.linear import linear_design, logits

__all__ = ["CLAIMS"]

TOLERANCE = 1e-8
STRICT = 1e-4

# --------------------------------------------------------------------------------------------------- projection-order


def _order_trials(settings: Settings) -> list[Trial]:
    seed = derive(settings.seed, "misspecified")
    if settings.mixture is not None:
        name, mixture = settings.mixture
        case = linear_case(law_of(mixture, name, seed))
        return [Trial(name, partial(_order, case, seed, None))]
    cases = designed_cases(seed)
    trials = []
    for case in cases:
        for control in (None, "ce_always", "mse_always"):
            trials.append(Trial(case.law.name, partial(_order, case, seed, control), control))
        trials.append(Trial(case.law.name, partial(_strict, case, seed), detail="strict"))
    inside = linear_case(law_of(two_gaussians(2.0), "quadrature 1-D"))
    trials.append(Trial("quadrature 1-D", partial(_strict, inside, seed), "well_specified", detail="strict"))
    if settings.full:
        trials.append(Trial("tanh net", partial(_order, _net_case(), seed, None)))
    count = 8 if settings.full else 4
    for classes in (2, 3):
        run = partial(_order_of_many, seed, count, classes)
        trials.append(Trial(f"{count} random 1-D mixtures", run, detail=f"K={classes}"))
    return trials


def _order(case: Case, seed: int, control: str | None) -> Outcome:
    """The larger of the two violations, and what twice the nodes on every axis change in the distances."""
    found = both(case, seed)
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


def _strict(case: Case, seed: int) -> Outcome:
    """Minus the smaller of the two gaps."""
    found = both(case, seed)
    return Outcome(max(found["mse"].mse - found["ce"].mse, found["ce"].kl - found["mse"].kl), -STRICT)


def _order_of_many(seed: int, count: int, classes: int) -> Outcome:
    outcomes = []
    for number in range(count):
        mixture = random_line(derive(seed, "mixture", number), classes)
        outcomes.append(_order(linear_case(law_of(mixture), law_of(mixture, nodes=256)), seed, None))
    return max(outcomes, key=lambda outcome: outcome.value)


# ------------------------------------------------------------------------------------------------- well-specified-tie


def _tie_trials(settings: Settings) -> list[Trial]:
    seed = derive(settings.seed, "misspecified")
    if settings.mixture is not None:
        name, mixture = settings.mixture
        law = law_of(mixture, name, seed)
        design = containing_design(law)
        return [] if design is None else [Trial(name, partial(_tie, Case(law, model_of(design, law)), seed))]
    plane = GaussianMixture([[-0.8, 0.1], [0.7, 0.5], [0.2, -0.9]], [[1.0, 0.3], [0.3, 1.5]], priors=[0.3, 0.3, 0.4])
    cases = [
        linear_case(law_of(_straight(bent_table(seed)), "finite X")),
        linear_case(law_of(two_gaussians(2.0), "quadrature 1-D")),
        linear_case(law_of(plane, "quadrature 2-D", nodes=64)),
    ]
    trials = [Trial(case.law.name, partial(_tie, case, seed)) for case in cases]
    return trials + [Trial(case.law.name, partial(_tie, case, seed), "outside") for case in designed_cases(seed)]


def _straight(mixture: FiniteMixture) -> FiniteMixture:
    """The same points and weights with the p* of a linear softmax."""
    x, weights = mixture.support()
    theta = torch.tensor([[1.1, -0.4], [-0.3, 0.9], [0.2, 0.5]], dtype=torch.float64)
    return FiniteMixture(weights, logits(linear_design(x), theta).softmax(1), x)


def _tie(case: Case, seed: int) -> Outcome:
    found = both(case, seed)
    return Outcome(max(abs(d) for of in found.values() for d in (of.mse, of.kl)), 1e-10)


# ------------------------------------------------------------------------------------------------------ global-optimum


def _optimum_trials(settings: Settings) -> list[Trial]:
    seed, starts = derive(settings.seed, "misspecified"), 48 if settings.full else 24
    if settings.mixture is not None:
        name, mixture = settings.mixture
        case = linear_case(law_of(mixture, name, seed))
        trials = [Trial(name, partial(_one_minimum, case, "ce", seed, starts), loss="ce", detail="one minimum")]
        if case.model.size == 2:
            trials.append(Trial(name, partial(_below_grid, case, seed, starts, None), loss="mse", detail="grid"))
        return trials
    law = law_of(contaminated(0.3), "quadrature 1-D", nodes=64)
    case = linear_case(law)
    return [
        Trial(law.name, partial(_one_minimum, case, "ce", seed, starts), loss="ce", detail="one minimum"),
        Trial(law.name, partial(_one_minimum, case, "mse", seed, starts), "brier_convex", "mse", "one minimum"),
        Trial(law.name, partial(_below_grid, case, seed, starts, None), loss="mse", detail="grid"),
        Trial(law.name, partial(_below_grid, case, seed, starts, "local"), "local", "mse", "grid"),
    ]


def _one_minimum(case: Case, loss: str, seed: int, starts: int) -> Outcome:
    """The spread of the risk over the minima that the starts reach."""
    found = projection(case.law, case.model, loss, seed, starts=starts)
    return Outcome(max(found.others, default=found.value) - found.value, TOLERANCE)


def _below_grid(case: Case, seed: int, starts: int, control: str | None) -> Outcome:
    """By how much the lowest point of a grid lies below the optimum; ``local``: below the next minimum."""
    found = projection(case.law, case.model, "mse", seed, starts=starts)
    if not isinstance(case.model, LinearModel):
        raise ValueError(f"a grid needs a linear class, received {type(case.model).__name__}")
    slopes = torch.linspace(-6, 6, 73, dtype=torch.float64)
    lowest = float(grid(case.law, case.model, "mse", slopes, 2 * slopes).min())
    claimed = found.others[0] if control == "local" else found.value
    return Outcome(claimed - lowest, TOLERANCE)


def _net_case() -> Case:
    """Two tanh units on the contaminated line: a shift of both logits along each unit, or constant, changes nothing."""
    net = MLP(num_classes=2, input_shape=(1,), hidden=(2,), activation="tanh")
    model = NetModel(net)
    return Case(law_of(contaminated(), "tanh net", nodes=32), model, rank=model.size - 3)


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
        repeat=False,
    ),
)
