"""The quantities of the map: which column of which rows, at which state of teacher and student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["BY_ID", "HEADLINES", "METRICS", "QUANTITIES", "SMALL_ACCURACY", "Quantity", "values"]

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
        own = "" if self.role == "teacher" or self.checkpoint == "best_score" else f", own {self.checkpoint}"
        return f"{self.role} {self.metric} {self.tuned_by}/{state}{own}"

    def record(self) -> dict[str, Any]:
        """For the results."""
        return {"id": self.id, **asdict(self), "headline": self.id in HEADLINES}


HEADLINES = ("teacher fresh_mse score/best_score", "student fresh_accuracy score/best_score")
"""The two that were chosen before the run."""

SMALL_ACCURACY = 0.005
"""Half a point: the standard error of an accuracy near one half on 10,000 test examples. A smaller difference between
students, by its whole interval, counts as of no importance."""

METRICS = {
    "transfer_mse": ("MSE to p*, transfer inputs", "", "lower"),
    "fresh_mse": ("MSE to p*, fresh points", "", "lower"),
    "transfer_kl": ("KL to p*, transfer inputs", "nats", "lower"),
    "fresh_kl": ("KL to p*, fresh points", "nats", "lower"),
    "fresh_accuracy": ("accuracy (mean p* at the prediction)", "share", "higher"),
    "clean_mse": ("MSE to p* before the label noise, fresh points", "", "lower"),
    "clean_accuracy": ("accuracy for the labels before the noise", "share", "higher"),
}
"""The clean ones are there in cells with label noise only."""


def _quantities() -> list[Quantity]:
    found = []
    for tuned_by, checkpoint in (
        ("score", "best_score"),
        ("last", "last"),
        ("score", "path_minimum_mse"),
        ("score", "path_minimum_kl"),
        ("accuracy", "best_accuracy"),
        ("score", "last"),
        ("last", "best_score"),
    ):
        found += [_quantity("teacher", metric, tuned_by, checkpoint, None) for metric in METRICS]
    for tuned_by, state in (
        ("score", "best_score"),
        ("last", "last"),
        ("accuracy", "best_accuracy"),
        ("score", "path_minimum_mse"),
    ):
        for own in ("best_score", "last", "best_accuracy"):
            metrics = [metric for metric in METRICS if not metric.startswith("transfer")]
            if own != "best_score":
                metrics = ["fresh_accuracy", "fresh_mse"]
            found += [_quantity("student", metric, tuned_by, own, state) for metric in metrics]
    return found


def _quantity(
    role: Literal["teacher", "student"], metric: str, tuned_by: str, checkpoint: str, state: str | None
) -> Quantity:
    label, unit, better = METRICS[metric]
    return Quantity(role, metric, tuned_by, checkpoint, state, label, unit, better)  # type: ignore[arg-type]


QUANTITIES = _quantities()
BY_ID = {quantity.id: quantity for quantity in QUANTITIES}


def values(rows: Sequence[Row], quantity: Quantity, arm: str) -> dict[int, float]:
    """The quantity of one arm by draw."""
    state = (quantity.role, arm, quantity.tuned_by, quantity.checkpoint, quantity.teacher_checkpoint)
    return {
        row["draw"]: float(row[quantity.metric])
        for row in rows
        if (row["role"], row["arm"], row["tuned_by"], row["checkpoint"], row["teacher_checkpoint"]) == state
        and row[quantity.metric] is not None
    }
