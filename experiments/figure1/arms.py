"""Which real teachers Figure 1 compares, at which rate, and which of them are one and the same training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.figure1.spec import Figure1

__all__ = ["ARMS", "BEST", "LAST", "Arm", "Training", "trainings"]


@dataclass(frozen=True)
class Arm:
    """Real teachers of the separating experiment.

    Attributes:
        loss: of the teacher.
        tuned: whose rate it has: ``ce`` and ``mse`` by the best validation score on the path, ``ce, last`` and ``mse,
            last`` by the score at the last epoch.
        taught: states with a student: all, some by name, or none.
    """

    loss: str
    tuned: str
    taught: tuple[str, ...] | None = None


BEST, LAST = "best_score", "last"
ARMS: Mapping[str, Arm] = {
    "ce": Arm("ce", "ce"),
    "mse": Arm("mse", "mse"),
    "mse, rate of ce": Arm("mse", "ce", (BEST, LAST)),
    "mse_mean": Arm("mse_mean", "ce", (BEST, LAST)),
    "ce, rate for last": Arm("ce", "ce, last", (LAST,)),
    "mse, rate for last": Arm("mse", "mse, last", (LAST,)),
    "mse, rate for last of ce": Arm("mse", "ce, last", ()),
    "mse_mean, rate for last of ce": Arm("mse_mean", "ce, last", ()),
}
"""Arms by name, ``mse_mean`` at CE's rate; the arms of one loss at one rate are one training."""


@dataclass(frozen=True)
class Training:
    """A (loss, rate) that is trained once: its name, and that of every arm that it stands for."""

    name: str
    loss: str
    rate: float
    arms: tuple[str, ...]
    taught: tuple[str, ...]


def trainings(spec: Figure1, rates: Mapping[str, float]) -> list[Training]:
    """The arms without repetition; their states in order of time.

    Without weight decay ``mse_mean`` at rate r is ``mse`` at r / K.
    """
    states = (*(str(epoch) for epoch in spec.snapshots), BEST)
    found: dict[tuple[str, float], Training] = {}
    for name, arm in ARMS.items():
        rate = rates[arm.tuned]
        mean = arm.loss == "mse_mean"
        key = ("mse" if mean else arm.loss, float(f"{rate / spec.num_classes if mean else rate:.3g}"))
        wanted = states if arm.taught is None else [str(spec.teacher_epochs) if s == LAST else s for s in arm.taught]
        before = found.get(key, Training(name, arm.loss, rate, (), ()))
        taught = tuple(state for state in states if state in before.taught or state in wanted)
        found[key] = Training(before.name, before.loss, before.rate, (*before.arms, name), taught)
    return list(found.values())
