"""A claim: a statement with its formula, the places where it is tried, and the wrong versions it must reject."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from bcpd.losses import Loss
from bcpd.mixtures import FiniteMixture, Mixture
from bcpd.nets import Net
from bcpd.theory.check import Check
from bcpd.theory.worlds import World, world_of

__all__ = ["Claim", "GradientOf", "Level", "Outcome", "Picture", "Settings", "Trainer", "Trial"]

Level = Literal["quick", "full"]
Picture = Mapping[str, Any]
GradientOf = Callable[[Net, Tensor, Tensor, Loss], Sequence[Tensor]]
"""``(net, x, y, loss) -> gradient for each parameter`` of the mean label loss, as the trainer follows it."""


@dataclass(frozen=True)
class Outcome:
    """What one evaluation of a claim found: the claim holds there where ``value <= bound``.

    Attributes:
        value: an absolute or relative error, a number of standard errors, or a signed gap.
        bound: its tolerance.
        comparisons: how many Monte Carlo numbers the value is the largest of; 0 where chance has no part.
        stderr: the standard error of ``difference``, or of the value where there is no difference.
        tightness: for an inequality, the largest attained share of its bound, in [0, 1].
        difference: where the value is a number of standard errors: what was found less what is claimed.
    """

    value: float
    bound: float
    comparisons: int = 0
    stderr: float | None = None
    tightness: float | None = None
    difference: float | None = None


STANDARD_ERRORS = 5.0
"""A Monte Carlo number may lie this many of its standard errors from what is claimed."""


def monte_carlo(found: Tensor | float, stderr: Tensor | float, claimed: Tensor | float = 0.0) -> Outcome:
    """Numbers with their standard errors ``(m,)`` against what they should be; the one that is farthest off counts."""
    spread = torch.as_tensor(stderr, dtype=torch.float64).reshape(-1)
    difference = torch.as_tensor(found, dtype=torch.float64).reshape(-1) - claimed
    # a number without spread is right or wrong, not nearly right
    scores = torch.where(difference == 0, 0.0, difference.abs() / spread)
    worst = int(scores.argmax())
    return Outcome(
        float(scores[worst]),
        STANDARD_ERRORS,
        comparisons=len(scores),
        stderr=float(spread[worst]),
        difference=float(difference[worst]),
    )


def sampled_mean(values: Tensor, claimed: Tensor | float = 0.0) -> Outcome:
    """Means over ``(n,)`` or ``(n, m)`` independent values against what they should be."""
    spread, mean = torch.std_mean(values.double(), 0)
    return monte_carlo(mean, spread / len(values) ** 0.5, claimed)


class Trainer(NamedTuple):
    """The production trainer, handed to the theory: the gradient it follows, its ``fit`` and its ``Recipe``."""

    gradient: GradientOf
    fit: Callable[..., Any]
    recipe: Callable[..., Any]


@dataclass(frozen=True)
class Settings:
    """How and where to try a claim.

    Attributes:
        level: ``quick`` or ``full``: the number of worlds, nodes and points.
        seed: of every random input of the trial.
        trainer: the trainer that claims about training go through.
        mixture: name and mixture of a user, tried instead of the default worlds.
        loss: a user's loss, tried instead of the default ones by claims about losses.
    """

    level: Level
    seed: int
    trainer: Trainer
    mixture: tuple[str, Mixture] | None = None
    loss: Loss | None = None

    @property
    def full(self) -> bool:
        return self.level == "full"

    def worlds(self, defaults: Sequence[World]) -> Sequence[World]:
        """The user's mixture as a world, or the defaults."""
        if self.mixture is None:
            return defaults
        return [_world_of(*self.mixture, self.seed, self.full)]

    def finite(self, defaults: Sequence[FiniteMixture]) -> Sequence[FiniteMixture]:
        """The user's mixture as a finite one, or the defaults; empty where the user's X is not finite."""
        if self.mixture is None:
            return defaults
        support = self.mixture[1].support()
        if support is None:
            return []
        points, weights = support
        return [FiniteMixture(weights, self.mixture[1].posterior(points), points)]

    def at(self, seed: int) -> Settings:
        """The same with another seed."""
        return replace(self, seed=seed)


@lru_cache(maxsize=2)
def _world_of(name: str, mixture: Mixture, seed: int, full: bool) -> World:
    nodes, n = (160, 100_000) if full else (128, 60_000)
    return world_of(mixture, name, seed, nodes=nodes, n=n)


@dataclass(frozen=True)
class Trial:
    """One place where a claim, or a wrong version of it, is tried.

    Attributes:
        world: where, for the report.
        run: the evaluation; nothing heavy happens before it is called.
        control: the wrong version, a key of the claim's ``controls``; ``None`` is the claim itself.
        loss: which loss it is about, or ``-``.
        detail: what else tells it apart.
        harmless: a control without bearing here: the claim must hold all the same.
    """

    world: str
    run: Callable[[], Outcome]
    control: str | None = None
    loss: str = "-"
    detail: str = ""
    harmless: bool = False


@dataclass(frozen=True)
class Claim:
    """A statement that can be tried.

    Attributes:
        id: the name to ask for it by.
        number: in the list of checks (C1 to C22).
        title: for headings; statement: in words; formula: in TeX, without dollars.
        conditions: where it holds; source: who showed it.
        controls: the wrong versions and what is wrong about each.
        trials: the places, given the settings; none where a user's mixture or loss does not fit the claim.
        picture: data of a figure (``curves``, ``surface`` or ``panels``), or ``None``.
        repeat: whether the level ``full`` tries it with several seeds.
    """

    id: str
    number: str
    title: str
    statement: str
    formula: str
    conditions: str
    source: str
    controls: Mapping[str, str]
    trials: Callable[[Settings], Sequence[Trial]]
    picture: Callable[[Settings], Picture] | None = None
    repeat: bool = True

    def check(self, trial: Trial, repetition: int = 0) -> Check:
        """Run a trial.

        Raises:
            ValueError: a control that the claim does not list.
        """
        if trial.control is not None and trial.control not in self.controls:
            raise ValueError(f"{self.id} has the controls {sorted(self.controls)}, received {trial.control!r}")
        outcome = trial.run()
        statement = self.statement
        if trial.control is not None:
            statement += f" {'Also where' if trial.harmless else 'But'}: {self.controls[trial.control]}."
        return Check.of(
            self.name_of(trial) + (f"#{repetition + 1}" if repetition else ""),
            statement,
            trial.world,
            trial.loss,
            "claim" if trial.control is None or trial.harmless else "control",
            outcome.value,
            outcome.bound,
            claim=self.id,
            control=trial.control,
            detail=trial.detail,
            comparisons=outcome.comparisons,
            stderr=outcome.stderr,
            tightness=outcome.tightness,
            difference=outcome.difference,
        )

    def name_of(self, trial: Trial) -> str:
        """``claim/loss/world/detail/control``, without the parts that a trial does not have."""
        loss = "" if trial.loss == "-" else trial.loss
        parts = (self.id, loss, trial.world, trial.detail, trial.control or "")
        return "/".join(part for part in parts if part)
