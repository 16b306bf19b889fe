"""Verdicts in words, made from the numbers of a summary row and from nothing else; words as sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bcpd.report.numbers import as_float, interval, p_value
from bcpd.report.quantities import arm_name, checkpoint_name, metric_of, where_of

__all__ = ["Verdict", "sentence", "verdict_of"]


@dataclass(frozen=True)
class Verdict:
    """One paired comparison in words.

    Attributes:
        outcome: ``lower`` (the MSE arm's value is), ``higher``, ``neither`` (the interval contains zero) or
            ``undefined``.
        better: ``mse``, ``ce``, or ``None`` where neither is, or where the quantity has no better side.
        claim: the sentence without its numbers; evidence: the numbers.
        context: where, and which network at which checkpoint; where: the place alone.
    """

    outcome: str
    better: str | None
    claim: str
    evidence: str
    context: str
    where: str

    @property
    def text(self) -> str:
        return f"{self.claim} ({self.context}): {self.evidence}."


def verdict_of(row: Mapping[str, Any], unit: str) -> Verdict | None:
    """What a summary row's paired difference (MSE arm minus CE arm) says; ``None`` where it has none.

    Args:
        row: an entry of ``summary``.
        unit: of replication, ``draw`` or ``seed``.
    """
    difference = row.get("difference")
    if difference is None:
        return None
    metric = metric_of(row["quantity"])
    mean, low, high = (as_float(difference[key]) for key in ("mean", "low", "high"))
    outcome = _outcome(low, high)
    subject = f" {metric.subject}" if metric.subject else ""
    who = "teacher" if row["role"] == "teacher" else "teacher's student"
    good = metric.lower if metric.direction < 0 else metric.higher
    claim = {
        "lower": f"The {arm_name('mse')} {who} was {metric.lower}{subject}",
        "higher": f"The {arm_name('mse')} {who} was {metric.higher}{subject}",
        "neither": f"Neither {who} was shown to be {good}{subject}",
        "undefined": f"Which {who} was {good}{subject} cannot be said",
    }[outcome]
    n = difference.get("n")
    size = f" over {n} {unit}s" if n is not None else ""
    measured = f" {metric.difference_unit}" if metric.difference_unit else ""
    evidence = f"difference {interval(mean, low, high, metric.scale)}{measured}{size}, {p_value(difference.get('p'))}"
    if outcome == "neither":
        evidence += "; the interval contains zero"
    better = None
    if outcome in ("lower", "higher") and metric.direction:
        better = "mse" if (outcome == "higher") == (metric.direction > 0) else "ce"
    return Verdict(outcome, better, claim, evidence, context_of(row), where_of(row["quantity"]))


def context_of(row: Mapping[str, Any]) -> str:
    """``fresh points; teacher: best own validation score; student: last epoch``."""
    parts = [where_of(row["quantity"])]
    if row["role"] == "student":
        parts.append(f"teacher: {checkpoint_name(row['teacher_checkpoint'])}" if row["teacher_checkpoint"] else "")
        parts.append(f"student: {checkpoint_name(row['checkpoint'])}")
    else:
        parts.append(checkpoint_name(row["checkpoint"]))
    return "; ".join(part for part in parts if part)


def _outcome(low: float, high: float) -> str:
    if math.isnan(low) or math.isnan(high) or (math.isinf(low) and math.isinf(high)):
        return "undefined"
    if low > 0:
        return "higher"
    return "lower" if high < 0 else "neither"


def sentence(text: str) -> str:
    """With a capital, where it starts with a word and not with a symbol, and a full stop."""
    first = text.split(" ")[0].rstrip(",;:")
    text = text[:1].upper() + text[1:] if first.isalpha() and first.islower() and len(first) > 1 else text
    return text if not text or text[-1] in ".!?" else f"{text}."
