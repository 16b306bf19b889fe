"""What the page says about one claim: its statement, how close to its bound it came, and what its controls did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bcpd.report.chapters import Described
from bcpd.report.formulas import formula
from bcpd.report.margins import Margin, Rejection, attained, margins, missed, rejections
from bcpd.report.numbers import round_number, scientific
from bcpd.report.quantities import arm_name
from bcpd.report.sentences import sentence
from bcpd.theory import Check

__all__ = ["claim_section"]

TEXT_COLUMNS = ("world", "detail", "loss")


def claim_section(claim: Described, checks: Sequence[Check]) -> dict[str, Any]:
    """All that the page says about one claim."""
    own = [check for check in checks if check.claim == claim.id]
    places, versions = margins(own), rejections(own)
    wrong = [version for version in versions if version.tries]
    state = "untried" if not own else "good" if all(check.as_expected for check in own) else "bad"
    holds = all(place.as_expected for place in places)
    return {
        "id": claim.id,
        "number": claim.number,
        "heading": claim.heading,
        "statement": sentence(claim.statement),
        "formula": formula(claim.formula) if claim.formula else "",
        "conditions": sentence(claim.conditions),
        "source": sentence(claim.source),
        "tried": bool(own),
        "state": state,
        "verdict": _verdict(holds, bool(places), versions, bool(own)),
        "used": _used(max((place.used for place in places), key=_nan_last)) if places else "–",
        "tightness": attained(max(tight)) if (tight := _tightnesses(places)) else "",
        "controls": f"{sum(v.failed == v.tries for v in wrong)} of {len(wrong)}" if wrong else "–",
        "closest": missed(closest.closest) if (closest := _closest(wrong)) and closest.closest else "",
        "reading": _reading(places, wrong),
        "places": _places(places),
        "wrong": [_wrong_row(version, claim) for version in wrong],
        "harmless": [_harmless_row(version, claim) for version in versions if version.harmless],
        "chance": sum(check.comparisons for check in own if check.role == "claim"),
    }


def _used(share: float) -> str:
    return f"{scientific(share)} of its bound" if share else "nothing of its bound"


def _verdict(holds: bool, placed: bool, versions: Sequence[Rejection], tried: bool) -> str:
    if not tried:
        return "not tried here"
    if not holds:
        return "fails"
    if any(version.failed < version.tries for version in versions):
        return "holds, but a control passes" if placed else "a control passes"
    if any(version.kept < version.harmless for version in versions):
        return "breaks where it should not"
    return "holds" if placed else "controls fail"


def _nan_last(value: float) -> tuple[bool, float]:
    return value != value, value


def _tightnesses(places: Sequence[Margin]) -> list[float]:
    return [place.tightness for place in places if place.tightness is not None]


def _closest(versions: Sequence[Rejection]) -> Rejection | None:
    return min(versions, key=lambda version: (version.failed == version.tries, version.missed), default=None)


def _reading(places: Sequence[Margin], wrong: Sequence[Rejection]) -> list[str]:
    """How close it was, in sentences."""
    sentences = []
    if places:
        tries, held = sum(place.tries for place in places), sum(place.holds for place in places)
        worst = max(places, key=lambda place: (not place.as_expected, _nan_last(place.used)))
        where = _where(worst.worst)
        if held < tries:
            sentences.append(
                f"It failed in {tries - held} of {tries} checks; the worst is a value of "
                f"{scientific(worst.worst.value)} against a bound of {round_number(worst.worst.bound)} ({where})."
            )
        elif worst.used:
            sentences.append(f"It held in {_all(tries)}; the closest used {_used(worst.used)} ({where}).")
        else:
            sentences.append(f"It held in {_all(tries)}, with nothing of a bound used.")
    tight = [place for place in places if place.tightness is not None]
    if tight:
        best = max(tight, key=lambda place: place.tightness or 0.0)
        share = attained(best.tightness or 0.0)
        sentences.append(f"The inequality attains {share} of the bound that it states ({_where(best.worst)}).")
    closest = _closest(wrong)
    if closest is not None and closest.closest is not None:
        failed, tries = sum(version.failed for version in wrong), sum(version.tries for version in wrong)
        name = closest.control.replace("_", " ")
        if failed < tries:
            sentences.append(f"Its wrong versions passed in {tries - failed} of {tries} checks, as they must not.")
        else:
            size = missed(closest.closest).replace("bounds", "times its bound")
            many = {1: "Its wrong version fails", 2: "Both wrong versions fail"}.get(
                len(wrong), f"All {len(wrong)} wrong versions fail"
            )
            sentences.append(
                f"{many} in {_all(tries)}; the nearest miss, {name}, is {size} ({_where(closest.closest)})."
            )
    return sentences


def _all(number: int) -> str:
    return {1: "its one check", 2: "both checks"}.get(number, f"all {number} checks")


def _where(check: Check) -> str:
    loss = "" if check.loss == "-" else arm_name(check.loss)
    return ", ".join(part for part in (check.world, check.detail, loss) if part)


def _places(places: Sequence[Margin]) -> dict[str, Any]:
    """A row for every place where the claim was tried, without the columns that say nothing."""
    columns: dict[str, Callable[[Margin], str]] = {
        "world": lambda place: place.world,
        "detail": lambda place: place.detail,
        "loss": lambda place: "" if place.loss == "-" else arm_name(place.loss),
        "value": lambda place: scientific(place.worst.value),
        "bound": lambda place: round_number(place.worst.bound),
        "share used": lambda place: scientific(place.used),
        "found less claimed": lambda place: (
            "" if place.worst.difference is None else scientific(place.worst.difference)
        ),
        "standard error": lambda place: "" if place.worst.stderr is None else scientific(place.worst.stderr),
        "attains": lambda place: "" if place.tightness is None else attained(place.tightness),
        "tries": lambda place: f"{place.holds} of {place.tries} hold",
    }
    always = ("world", "value", "bound", "share used")
    repeated = any(place.tries > 1 or not place.as_expected for place in places)
    kept = [
        name
        for name, cell in columns.items()
        if name in always or (repeated if name == "tries" else any(cell(place) for place in places))
    ]
    rows = [([columns[name](place) for name in kept], place.as_expected) for place in places]
    return {"columns": kept, "text": TEXT_COLUMNS, "rows": rows, "repeated": repeated}


def _wrong_row(version: Rejection, claim: Described) -> dict[str, Any]:
    return {
        "name": version.control,
        "words": claim.controls.get(version.control, ""),
        "checks": f"{version.failed} of {version.tries} fail",
        "missed": missed(version.closest) if version.closest else "–",
        "where": _where(version.closest) if version.closest else "",
        "as_expected": version.failed == version.tries,
    }


def _harmless_row(version: Rejection, claim: Described) -> dict[str, Any]:
    return {
        "name": version.control,
        "words": claim.controls.get(version.control, ""),
        "losses": ", ".join(arm_name(loss) for loss in version.losses),
        "checks": f"{version.kept} of {version.harmless} hold",
        "as_expected": version.kept == version.harmless,
    }
