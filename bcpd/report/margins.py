"""The checks of a verification, gathered: how far inside its bound every claim lies, and what its controls did."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from bcpd.report.numbers import as_float, scientific
from bcpd.report.tables import check_keys
from bcpd.theory import Check

__all__ = ["Margin", "Rejection", "attained", "checks_of", "is_harmless", "margins", "missed", "rejections", "used"]

_SINCE = ("claim", "control", "detail", "comparisons", "stderr", "tightness", "difference")
"""Fields that older files lack: there the id says which claim and which wrong version it was."""


@dataclass(frozen=True)
class Margin:
    """A claim in one place, over all repetitions.

    Attributes:
        claim, loss, world, detail: which; the loss is ``-`` where it is about none.
        worst: the repetition that came closest to its bound, or broke it.
        used: the share of the bound that it used: at most 1 where it holds.
        holds: how many repetitions held, of how many.
        tightness: for an inequality, the largest attained share of its bound.
    """

    claim: str
    loss: str
    world: str
    detail: str
    worst: Check
    used: float
    holds: int
    tries: int
    tightness: float | None

    @property
    def as_expected(self) -> bool:
        return self.holds == self.tries


@dataclass(frozen=True)
class Rejection:
    """What a wrong version of a claim did wherever it had to fail, and where it has no bearing.

    Attributes:
        claim, control: which.
        failed, tries: how often it failed, as it must, of how many times.
        missed: the smallest number of bounds by which it missed; infinite where it never was on the bound's side.
        closest: the check where that was, ``None`` where it was tried nowhere.
        kept, harmless: how often the claim held all the same where it has no bearing, of how many times.
        losses: those for which it has none.
    """

    claim: str
    control: str
    failed: int
    tries: int
    missed: float
    closest: Check | None
    kept: int
    harmless: int
    losses: tuple[str, ...]

    @property
    def as_expected(self) -> bool:
        return self.failed == self.tries and self.kept == self.harmless


def checks_of(records: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Stored checks as :class:`Check`.

    Raises:
        ValueError: a record without one of a check's fields.
    """
    names = tuple(field.name for field in fields(Check))
    checks = []
    for record in records:
        check_keys(record, [name for name in names if name not in _SINCE], "a check")
        values = {name: record[name] for name in names if name in record}
        values |= {name: as_float(record[name]) for name in ("value", "bound")}
        numbers = ("stderr", "tightness", "difference")
        values |= {name: as_float(value) for name in numbers if (value := record.get(name)) is not None}
        checks.append(Check(**{**_read_off(record), **values}))
    return checks


def _read_off(record: Mapping[str, Any]) -> dict[str, Any]:
    """Claim, detail and wrong version of an older record: ``claim/loss/place/control``, the loss where it has one."""
    claim, *places = re.sub(r"#\d+", "", str(record["id"])).split("/")
    if record["loss"] != "-":
        places = places[1:]
    place, control = [*places, None, None][:2]
    return {"claim": claim, "control": control, "detail": "" if place == record["world"] else place or ""}


def used(check: Check) -> float:
    """The share of its bound that a check's value takes: at most 1 exactly where the claim holds.

    ``value / bound``, 0 for a value below zero; where the bound is negative (a signed gap must lie below it),
    ``bound / value``, and infinite for a gap of the wrong sign.
    """
    if math.isnan(check.value) or math.isnan(check.bound):
        return math.nan
    if check.bound > 0:
        return max(0.0, check.value / check.bound)
    if check.bound < 0:
        return check.bound / check.value if check.value < 0 else math.inf
    return 0.0 if check.value <= 0 else math.inf


def missed(check: Check) -> str:
    """How many bounds a value is, in words for a wrong version: ``2.8×10³ bounds``, ``wrong sign``."""
    share = used(check)
    if math.isinf(share):
        return "infinite" if math.isinf(check.value) else "wrong sign"
    return f"{scientific(share)} bounds"


def attained(tightness: float) -> str:
    """``99.97 %``: rounded down to the first digit that is no 9, so that only all of it is called 100 %."""
    share = 100 * tightness
    if not math.isfinite(share):
        return scientific(share)
    if share >= 100 - 1e-7:
        return "100\N{NO-BREAK SPACE}%"
    decimals = 0 if share < 90 else max(1, -math.floor(math.log10(100 - share) + 1e-6))
    return f"{math.floor(share * 10**decimals + 1e-6) / 10**decimals:.{decimals}f}\N{NO-BREAK SPACE}%"


def is_harmless(check: Check) -> bool:
    """Whether it tries a wrong version that must leave the claim alone."""
    return check.role == "claim" and check.control is not None


def margins(checks: Iterable[Check]) -> list[Margin]:
    """One :class:`Margin` for every claim and place, in the order of the checks."""
    groups: dict[tuple[str, str, str, str], list[Check]] = {}
    for check in checks:
        if check.role == "claim" and check.control is None:
            groups.setdefault((check.claim, check.loss, check.world, check.detail), []).append(check)
    found = []
    for place, members in groups.items():
        worst = max(members, key=_badness)
        tight = [check.tightness for check in members if check.tightness is not None]
        holds = sum(check.holds for check in members)
        found.append(Margin(*place, worst, used(worst), holds, len(members), max(tight, default=None)))
    return found


def rejections(checks: Iterable[Check]) -> list[Rejection]:
    """One :class:`Rejection` for every wrong version of every claim, in the order of the checks."""
    groups: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        if check.control is not None:
            groups.setdefault((check.claim, check.control), []).append(check)
    found = []
    for (claim, control), members in groups.items():
        wrong = [check for check in members if check.role == "control"]
        harmless = [check for check in members if is_harmless(check)]
        closest = min(wrong, key=lambda check: (check.as_expected, used(check)), default=None)
        found.append(
            Rejection(
                claim,
                control,
                sum(check.as_expected for check in wrong),
                len(wrong),
                math.inf if closest is None else used(closest),
                closest,
                sum(check.holds for check in harmless),
                len(harmless),
                tuple(dict.fromkeys(check.loss for check in harmless if check.loss != "-")),
            )
        )
    return found


def _badness(check: Check) -> tuple[bool, float]:
    """Broken ones first (a value that is no number among them), then by the share of the bound."""
    share = used(check)
    return not check.holds, math.inf if math.isnan(share) else share
