"""Rows of results to means, intervals and paired differences; the unit of replication is the draw (or seed)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bcpd.stats import mean_interval, paired_difference

__all__ = ["Quantity", "summarise"]


@dataclass(frozen=True)
class Quantity:
    """A number to summarise: which column of which rows.

    Attributes:
        quantity: the column.
        label: in words, with its unit or range.
        role: ``teacher`` or ``student``.
        checkpoint: of the network itself.
        teacher_checkpoint: for students, which state of the teacher they learned from.
    """

    quantity: str
    label: str
    role: str
    checkpoint: str
    teacher_checkpoint: str | None = None


def summarise(
    rows: Sequence[Mapping[str, Any]], quantities: Sequence[Quantity], unit: str, pair: tuple[str, str] = ("ce", "mse")
) -> list[dict[str, Any]]:
    """Mean and 95 % t-interval of every arm, and the paired difference second minus first arm of ``pair``.

    Args:
        rows: flat records with ``role``, ``arm``, ``checkpoint``, ``teacher_checkpoint`` and the unit's column.
        quantities: what to summarise; one without rows is left out.
        unit: the column that identifies the unit of replication: ``draw`` or ``seed``.
    Raises:
        ValueError: the two arms of the pair were not run on the same units.
    """
    summary = []
    for quantity in quantities:
        values: dict[str, dict[int, float]] = {}
        for row in rows:
            same = row["role"] == quantity.role and row["checkpoint"] == quantity.checkpoint
            # a student of p* itself has no teacher checkpoint; it stands beside every one
            from_same = row["teacher_checkpoint"] in (quantity.teacher_checkpoint, None)
            if same and from_same and quantity.quantity in row:
                values.setdefault(row["arm"], {})[row[unit]] = float(row[quantity.quantity])
        if not values:
            continue
        entry: dict[str, Any] = {
            "quantity": quantity.quantity,
            "label": quantity.label,
            "role": quantity.role,
            "checkpoint": quantity.checkpoint,
            "teacher_checkpoint": quantity.teacher_checkpoint,
            "arms": {arm: _interval(list(by_unit.values())) for arm, by_unit in values.items()},
        }
        first, second = (values.get(arm) for arm in pair)
        if first is not None and second is not None:
            if first.keys() != second.keys():
                raise ValueError(
                    f"the arms {pair[0]} and {pair[1]} must be run on the same {unit}s to be paired, "
                    f"received {sorted(first)} and {sorted(second)}"
                )
            units = sorted(first)
            difference = paired_difference([second[u] for u in units], [first[u] for u in units])
            entry["difference"] = {
                "mean": difference.mean,
                "low": difference.low,
                "high": difference.high,
                "p": difference.p_value,
                "n": difference.n,
            }
        summary.append(entry)
    return summary


def _interval(values: Sequence[float]) -> dict[str, float]:
    interval = mean_interval(values)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n}
