"""The checks of a verification, gathered: how far inside its bound every claim lies, and what its controls did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from bcpd.report.numbers import as_float, scientific
from bcpd.report.tables import check_keys
from bcpd.theory import Check

__all__ = ["Margin", "checks_of", "margins", "used"]


@dataclass(frozen=True)
class Margin:
    """A claim about one loss in one world, over all repetitions.

    Attributes:
        claim, world, loss: which; the loss is ``-`` for the instruments.
        detail: what an instrument measured, if the claim does not say it.
        used: the largest share of its bound that the claim used: at most 1 where it holds.
        holds: whether it always held.
        rejected, controls: wrong versions that failed as they should, and how many there are.
        closest: the smallest number of bounds by which a wrong version missed (infinite without any).
        kept, harmless: versions that must leave the claim alone and did, and how many there are.
    """

    claim: str
    world: str
    loss: str
    detail: str
    used: float
    holds: bool
    rejected: int
    controls: int
    closest: float
    kept: int
    harmless: int

    @property
    def as_expected(self) -> bool:
        return self.holds and self.rejected == self.controls and self.kept == self.harmless

    @property
    def margin_text(self) -> str:
        """``6.1×10⁻⁴``: the share of the bound that was used."""
        return scientific(self.used)

    @property
    def controls_text(self) -> str:
        """``7 of 7 fail``, with what must leave the claim alone beside it."""
        parts = [f"{self.rejected} of {self.controls} fail"] if self.controls else []
        if self.harmless:
            parts.append(f"{self.kept} of {self.harmless} pass")
        return ", ".join(parts) or "none"

    @property
    def closest_text(self) -> str:
        """How many times its bound the closest wrong version missed by."""
        if not self.controls:
            return "–"
        return f"{scientific(self.closest)} × bound" if math.isfinite(self.closest) else "wrong sign"


def checks_of(records: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Stored checks as :class:`Check`.

    Raises:
        ValueError: a record without one of a check's fields.
    """
    names = tuple(field.name for field in fields(Check))
    checks = []
    for record in records:
        check_keys(record, names, "a check")
        values = {name: record[name] for name in names}
        checks.append(Check(**{**values, "value": as_float(record["value"]), "bound": as_float(record["bound"])}))
    return checks


def used(check: Check) -> float:
    """The share of its bound that a check's value takes: at most 1 exactly where the claim holds.

    ``value / bound``; where the bound is negative (a signed gap must lie below it), ``bound / value``, and infinite for
    a gap of the wrong sign.
    """
    if check.bound > 0:
        return check.value / check.bound
    if check.bound < 0:
        return check.bound / check.value if check.value < 0 else math.inf
    return 0.0 if check.value <= 0 else math.inf


def margins(checks: Sequence[Check]) -> list[Margin]:
    """One :class:`Margin` for every claim, loss and world, in the order of the checks."""
    groups: dict[tuple[str, str, str, str], list[Check]] = {}
    for check in checks:
        groups.setdefault((check.id.split("/")[0], check.world, check.loss, _detail(check)), []).append(check)
    found = []
    for (claim, world, loss, detail), members in groups.items():
        plain = [check for check in members if check.role == "claim" and not _is_variant(check)]
        harmless = [check for check in members if check.role == "claim" and _is_variant(check)]
        wrong = [check for check in members if check.role == "control"]
        found.append(
            Margin(
                claim,
                world,
                loss,
                detail,
                max((used(check) for check in plain), default=math.nan),
                all(check.holds for check in plain),
                sum(check.as_expected for check in wrong),
                len(wrong),
                min((used(check) for check in wrong), default=math.inf),
                sum(check.holds for check in harmless),
                len(harmless),
            )
        )
    return found


def variant(check: Check) -> str | None:
    """The wrong version that a check tries, ``None`` for the claim itself."""
    parts = check.id.split("/")
    full = 3 if check.loss != "-" else 2
    return parts[full] if len(parts) > full else None


def _is_variant(check: Check) -> bool:
    return variant(check) is not None


def _detail(check: Check) -> str:
    """What a check of an instrument measured, where that is not its world."""
    place = check.id.split("/")[1]
    return "" if check.loss != "-" or place == check.world else place
