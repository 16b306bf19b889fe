"""All claims, and how they are run: the plan of a level, its false-alarm budget, and the checks one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from bcpd.losses import Loss
from bcpd.mixtures import Mixture
from bcpd.seeds import derive
from bcpd.theory.asymptotic import efficiency, misspecified, robustness
from bcpd.theory.bounds import excess_risk, label_error, low_noise, risk_bounds
from bcpd.theory.check import Check
from bcpd.theory.claim import Claim, Level, Settings, Trainer, Trial
from bcpd.theory.distilled import (
    cross_fitting,
    distilled_bias,
    distilled_risk,
    distilled_variance,
    exact_teacher,
    finite_class,
    gradient_noise,
    interpolation,
    mixing_weight,
    noisy_targets,
    semiparametric,
    student,
)
from bcpd.theory.instruments import bayes_errors, data_checks, invariances, released_claims, standard_errors, votes
from bcpd.theory.parts import decompositions, divergences, teacher_information
from bcpd.theory.scores import improper, savage, theorem1

__all__ = ["BUDGET", "CLAIMS", "LEVELS", "Step", "false_alarm_bound", "find_claims", "plan", "run_checks"]

LEVELS: tuple[Level, ...] = get_args(Level)
REPETITIONS = {"quick": 1, "full": 3}
FALSE_ALARM = 5.733e-7
"""Two-sided probability that one right Monte Carlo number lies 5 standard errors from its mean."""
BUDGET = 1e-3
"""The largest probability that a whole suite of right claims shows a false one."""

CLAIMS: tuple[Claim, ...] = (
    *theorem1.CLAIMS,
    *improper.CLAIMS,
    *distilled_variance.CLAIMS,
    *distilled_bias.CLAIMS,
    *distilled_risk.CLAIMS,
    *noisy_targets.CLAIMS,
    *finite_class.CLAIMS,
    *semiparametric.CLAIMS,
    *mixing_weight.CLAIMS,
    *cross_fitting.CLAIMS,
    *student.CLAIMS,
    *gradient_noise.CLAIMS,
    *interpolation.CLAIMS,
    *risk_bounds.CLAIMS,
    *excess_risk.CLAIMS,
    *label_error.CLAIMS,
    *low_noise.CLAIMS,
    *divergences.CLAIMS,
    *decompositions.CLAIMS,
    *teacher_information.CLAIMS,
    *misspecified.CLAIMS,
    *robustness.CLAIMS,
    *efficiency.CLAIMS,
    *data_checks.CLAIMS,
    *invariances.CLAIMS,
    *bayes_errors.CLAIMS,
    *votes.CLAIMS,
    *standard_errors.CLAIMS,
    *savage.CLAIMS,
    *exact_teacher.CLAIMS,
    *released_claims.CLAIMS,
)
"""Every claim, in the order of the page."""


@dataclass(frozen=True)
class Step:
    """A trial of a claim, and the repetition it belongs to."""

    claim: Claim
    trial: Trial
    repetition: int = 0

    @property
    def name(self) -> str:
        return f"{self.claim.id} · {self.trial.world}" + (f" · {self.trial.control}" if self.trial.control else "")

    def run(self) -> Check:
        return self.claim.check(self.trial, self.repetition)


def find_claims(only: Sequence[str]) -> tuple[Claim, ...]:
    """The claims asked for by their id, a prefix of it that ends before a hyphen, or their number (``C8``).

    Raises:
        ValueError: a name that no claim has; the message lists those there are.
    """
    if not only:
        return CLAIMS
    chosen: list[Claim] = []
    for name in only:
        found = [c for c in CLAIMS if name in (c.id, c.number) or c.id.startswith(f"{name}-")]
        if not found:
            known = ", ".join(f"{claim.id} ({claim.number})" for claim in CLAIMS)
            raise ValueError(f"no claim is called {name!r}; there are: {known}")
        chosen.extend(claim for claim in found if claim not in chosen)
    return tuple(chosen)


def plan(
    level: str,
    seed: int,
    trainer: Trainer,
    *,
    only: Sequence[str] = (),
    mixture: tuple[str, Mixture] | None = None,
    loss: Loss | None = None,
) -> list[Step]:
    """What will be tried, in order; nothing is computed yet.

    Args:
        level: ``quick``, or ``full`` (several seeds, more worlds, nodes and points).
        seed: of every random network, world and sample.
        trainer: the production trainer.
        only: ids or numbers of claims; all by default.
        mixture: a name and a mixture, tried instead of the default worlds by the claims that take any.
        loss: a loss, tried instead of the default ones by the claims about losses.
    Raises:
        ValueError: an unknown level or claim, or nothing left to try.
    """
    if level not in REPETITIONS:
        raise ValueError(f"level must be one of {LEVELS}, received {level!r}")
    claims = find_claims(only)
    steps: list[Step] = []
    for repetition in range(REPETITIONS[level]):
        root = derive(seed, "verify", repetition)
        settings = Settings("full" if level == "full" else "quick", root, trainer, mixture, loss)
        steps.extend(
            Step(claim, trial, repetition)
            for claim in claims
            if claim.repeat or not repetition
            for trial in claim.trials(settings)
        )
    if not steps:
        what = " and ".join([*(["this mixture"] if mixture else []), *(["this loss"] if loss else [])])
        raise ValueError(f"none of the claims asked for can be tried with {what or 'these settings'}")
    return steps


def run_checks(steps: Sequence[Step]) -> Iterator[Check]:
    """Run a plan, yielding every check as it is done."""
    for step in steps:
        yield step.run()


def false_alarm_bound(checks: Sequence[Check]) -> float:
    r"""Bonferroni's bound on the probability that any right claim among these comes out false by chance.

    Every Monte Carlo number is judged at 5 standard errors: :math:`2(1 - \Phi(5)) = 5.7 \cdot 10^{-7}` each. Controls
    do not count: they are made to lie 10 or more standard errors away.
    """
    return FALSE_ALARM * sum(check.comparisons for check in checks if check.role == "claim")
