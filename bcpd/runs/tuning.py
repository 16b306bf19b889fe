"""Choose a learning rate (and decay) for each loss by its own validation score, and say when it lies on the edge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bcpd.files import finite

__all__ = ["Trial", "choose"]


@dataclass(frozen=True)
class Trial:
    """One setting of one arm, tried on some tuning draws.

    Attributes:
        arm: whose setting it is.
        learning_rate, weight_decay: the setting.
        scores: one validation score a tuning draw, smaller is better (``nan`` where it diverged).
        score: the name of the score, ``nll`` or ``brier``.
        chosen: whether it was the best of its arm.
        edge: whether a chosen setting lies on the edge of the arm's grid of rates (or decays, if there are several):
            a better one may lie outside.
    """

    arm: str
    learning_rate: float
    weight_decay: float
    scores: tuple[float, ...]
    score: str
    role: str = "teacher"
    chosen: bool = False
    edge: bool = False

    @property
    def mean(self) -> float:
        """Mean score; a setting that diverged on any draw counts as infinitely bad."""
        if any(not math.isfinite(value) for value in self.scores):
            return math.inf
        return sum(self.scores) / len(self.scores)

    def record(self) -> dict[str, Any]:
        """For a results file."""
        content: dict[str, Any] = finite({**asdict(self), "scores": list(self.scores), "mean": self.mean})
        return content


def choose(trials: Sequence[Trial]) -> tuple[Trial, list[Trial]]:
    """The best trial of one arm, and all of them with ``chosen`` and ``edge`` filled in.

    Raises:
        ValueError: no trials, trials of several arms, or none that has a finite score.
    """
    arms = {trial.arm for trial in trials}
    if len(arms) != 1:
        raise ValueError(f"choose needs trials of one arm, received {sorted(arms)}")
    best = min(trials, key=lambda trial: trial.mean)
    if not math.isfinite(best.mean):
        rates = sorted({trial.learning_rate for trial in trials})
        raise ValueError(f"every learning rate of arm {best.arm} diverged: {rates}; try smaller ones")

    def on_edge(value: float, values: set[float]) -> bool:
        return len(values) > 1 and value in (min(values), max(values))

    edge = on_edge(best.learning_rate, {t.learning_rate for t in trials}) or on_edge(
        best.weight_decay, {t.weight_decay for t in trials}
    )
    marked = [
        Trial(t.arm, t.learning_rate, t.weight_decay, t.scores, t.score, t.role, t is best, t is best and edge)
        for t in trials
    ]
    return next(trial for trial in marked if trial.chosen), marked
