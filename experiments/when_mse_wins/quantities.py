"""The quantities of the map: which column of which rows, at which state of teacher and student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["BY_ID", "HEADLINES", "METRICS", "QUANTITIES", "Quantity", "values"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Quantity:
    """One number a draw and arm.

    Attributes:
        checkpoint: of the network itself; teacher_checkpoint: for students, which state taught them.
        better: which sign of a difference is the better one.
    """

    role: Literal["teacher", "student"]
    metric: str
    tuned_by: str
    checkpoint: str
    teacher_checkpoint: str | None
    label: str
    unit: str
    better: Literal["lower", "higher"]

    @property
    def id(self) -> str:
        state = self.checkpoint if self.role == "teacher" else self.teacher_checkpoint
        return f"{self.role} {self.metric} {self.tuned_by}/{state}"

    def record(self) -> dict[str, Any]:
        """For the results."""
        return {"id": self.id, **asdict(self), "headline": self.id in HEADLINES}


HEADLINES = ("teacher fresh_mse score/best_score", "student fresh_accuracy score/best_score")
"""The two that were chosen before the run."""

METRICS = {
    "transfer_mse": ("MSE to p*, transfer inputs", "", "lower"),
    "fresh_mse": ("MSE to p*, fresh points", "", "lower"),
    "transfer_kl": ("KL to p*, transfer inputs", "nats", "lower"),
    "fresh_kl": ("KL to p*, fresh points", "nats", "lower"),
    "fresh_accuracy": ("accuracy (mean p* at the prediction)", "share", "higher"),
}


def _quantities() -> list[Quantity]:
    found = []
    for tuned_by, checkpoint in (
        ("score", "best_score"),
        ("score", "last"),
        ("score", "path_minimum_mse"),
        ("accuracy", "best_accuracy"),
        ("accuracy", "last"),
    ):
        for metric, (label, unit, better) in METRICS.items():
            found.append(Quantity("teacher", metric, tuned_by, checkpoint, None, label, unit, better))  # type: ignore[arg-type]
    for tuned_by, state in (("score", "best_score"), ("score", "last"), ("accuracy", "best_accuracy")):
        for metric in ("fresh_accuracy", "fresh_mse", "fresh_kl"):
            label, unit, better = METRICS[metric]
            found.append(Quantity("student", metric, tuned_by, "best_score", state, label, unit, better))  # type: ignore[arg-type]
    return found


QUANTITIES = _quantities()
BY_ID = {quantity.id: quantity for quantity in QUANTITIES}


def values(rows: Sequence[Row], quantity: Quantity, arm: str) -> dict[int, float]:
    """The quantity of one arm by draw."""
    state = (quantity.role, arm, quantity.tuned_by, quantity.checkpoint, quantity.teacher_checkpoint)
    return {
        row["draw"]: float(row[quantity.metric])
        for row in rows
        if (row["role"], row["arm"], row["tuned_by"], row["checkpoint"], row["teacher_checkpoint"]) == state
    }
