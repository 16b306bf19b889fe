"""What a summarised quantity means: its unit, which way is better, and the words for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ARMS",
    "CHECKPOINTS",
    "DEFAULT_CHECKPOINT",
    "Group",
    "Metric",
    "arm_name",
    "checkpoint_name",
    "group_of",
    "headline_groups",
    "metric_of",
    "network_name",
    "where_of",
]

DEFAULT_CHECKPOINT = "best_score"
"""The state of teachers and students that figures and headlines show, where it is stored."""

Group = tuple[str, str | None, str]
"""Role, checkpoint of the teacher (of a student), own checkpoint."""

ARMS: Mapping[str, str] = {"ce": "CE", "mse": "MSE", "bayes": "exact p*"}

CHECKPOINTS: Mapping[str, str] = {
    "best_score": "best own validation score",
    "best_accuracy": "best validation accuracy",
    "last": "last epoch",
    "path_minimum_mse": "path minimum of the MSE to p*",
    "path_minimum_kl": "path minimum of the KL to p*",
}

_SHORT_CHECKPOINTS: Mapping[str, str] = {
    "best_score": "best score",
    "best_accuracy": "best accuracy",
    "last": "last epoch",
    "path_minimum_mse": "path min. MSE",
    "path_minimum_kl": "path min. KL",
}

_PLACES = {"transfer": "transfer inputs", "fresh": "fresh points", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class Metric:
    """How a quantity reads.

    Attributes:
        name: of the family it belongs to.
        lower, higher: what an arm with the lower, or the higher, value was: "closer to p*", "more accurate".
        subject: in what, if the words alone do not say it.
        scale, unit, difference_unit: values are shown as ``scale * value unit``.
        direction: -1 where less is better, 1 where more is, 0 where neither is.
    """

    name: str
    lower: str
    higher: str
    subject: str = ""
    scale: float = 1.0
    unit: str = ""
    difference_unit: str = ""
    direction: int = -1

    @property
    def axis(self) -> str:
        """``accuracy (%)``, for an axis or a title."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def difference_axis(self) -> str:
        """``accuracy, MSE minus CE (points)``."""
        unit = f" ({self.difference_unit})" if self.difference_unit else ""
        return f"{self.name}, {ARMS['mse']} minus {ARMS['ce']}{unit}"


def _percent(name: str, lower: str, higher: str, direction: int, subject: str = "") -> Metric:
    return Metric(name, lower, higher, subject, 100.0, "%", "points", direction)


def _nats(name: str, lower: str, higher: str, subject: str) -> Metric:
    return Metric(name, lower, higher, subject, unit="nats", difference_unit="nats")


_METRICS: Mapping[str, Metric] = {
    "mse": Metric("MSE to p*", "closer to p*", "farther from p*", "in MSE"),
    "kl": _nats("KL to p*", "closer to p*", "farther from p*", "in KL"),
    "accuracy": _percent("accuracy", "less accurate", "more accurate", 1),
    "excess_risk": _percent("excess risk", "nearer the Bayes risk", "farther from the Bayes risk", -1),
    "nll": _nats("NLL", "better", "worse", "in log-likelihood"),
    "brier": Metric("Brier score", "better", "worse", "in Brier score"),
    "ece": _percent("ECE", "better calibrated", "worse calibrated", -1),
    "agreement": _percent(
        "agreement with the teacher", "in less agreement", "in more agreement", 0, "with its teacher"
    ),
}


def metric_of(quantity: str) -> Metric:
    """The metric that a column such as ``fresh_mse`` or ``test_accuracy`` holds; an unknown one is plain numbers."""
    for suffix, metric in _METRICS.items():
        if quantity == suffix or quantity.endswith(f"_{suffix}"):
            return metric
    return Metric(quantity.replace("_", " "), "lower", "higher", f"in {quantity}", direction=0)


def where_of(quantity: str) -> str:
    """Where a column was measured: ``fresh points`` for ``fresh_mse``; empty where the name does not say."""
    return _PLACES.get(quantity.split("_")[0], "")


def group_of(row: Mapping[str, Any]) -> Group:
    """Which network at which checkpoint a summary row is about."""
    return row["role"], row["teacher_checkpoint"], row["checkpoint"]


def network_name(group: Group) -> str:
    """``teacher (last epoch)``; ``student (best score) of teacher (last epoch)``."""
    role, teacher_checkpoint, checkpoint = group
    name = f"{role} ({_SHORT_CHECKPOINTS.get(checkpoint, checkpoint)})"
    if teacher_checkpoint is None:
        return name
    return f"{name} of teacher ({_SHORT_CHECKPOINTS.get(teacher_checkpoint, teacher_checkpoint)})"


def headline_groups(summary: Sequence[Mapping[str, Any]]) -> list[Group]:
    """For every role the group that headlines are about: the default checkpoints, or else the first that is stored."""
    groups = list(dict.fromkeys(map(group_of, summary)))
    chosen = []
    for role in dict.fromkeys(group[0] for group in groups):
        own = [group for group in groups if group[0] == role]
        default = [g for g in own if g[1] in (None, DEFAULT_CHECKPOINT) and g[2] == DEFAULT_CHECKPOINT]
        chosen.append((default or own)[0])
    return chosen


def arm_name(arm: str) -> str:
    """An arm's name in words; an unknown one as it is."""
    return ARMS.get(arm, arm.replace("_", " "))


def checkpoint_name(checkpoint: str | None) -> str:
    """A checkpoint in words; an unknown one as it is."""
    return "" if checkpoint is None else CHECKPOINTS.get(checkpoint, checkpoint.replace("_", " "))
