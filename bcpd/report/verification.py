"""What the page says about a verification: the verdict, the claims in chapters, the matrix and the mutants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bcpd.report.chapters import chapters, described
from bcpd.report.claim_sections import claim_section
from bcpd.report.margins import checks_of, is_harmless, missed
from bcpd.report.numbers import as_float, round_number, scientific
from bcpd.report.quantities import arm_name
from bcpd.report.tables import check_keys
from bcpd.theory import Check

__all__ = ["verification"]


def verification(results: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a verification's section, without its figures.

    Raises:
        ValueError: a check, a claim or a mutant without one of the parts that each has.
    """
    checks = checks_of(results["checks"])
    mutants = _mutants(results.get("mutants") or [])
    survivors = sum(not mutant["killed"] for mutant in mutants)
    unexpected = [check for check in checks if not check.as_expected]
    ok = bool(checks) and not unexpected and not survivors
    claims = {claim.id: claim_section(claim, checks) for claim in described(results, checks)}
    return {
        "title": "Verification: the claims and their controls",
        "ok": ok and bool(results["ok"]),
        "stored": None if bool(results["ok"]) == ok else bool(results["ok"]),
        "tally": _tally(checks, list(claims.values()), mutants),
        "chance": _chance(results.get("false_alarm")),
        "facts": _facts(results),
        "unexpected": [_check_row(check) for check in unexpected],
        "chapters": [
            {"heading": heading, "about": about, "claims": [claims[claim.id] for claim in inside]}
            for heading, about, inside in chapters(described(results, checks))
        ],
        "matrix": _matrix(results, checks),
        "mutants": sorted(mutants, key=lambda mutant: mutant["killed"]),
        "survivors": survivors,
        "checks": [_check_row(check) for check in checks],
    }


def _tally(
    checks: Sequence[Check], claims: Sequence[Mapping[str, Any]], mutants: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """How many claims came out as stated, in a sentence, and how many checks of each sort, line by line."""
    tried = [claim for claim in claims if claim["tried"]]
    good = sum(claim["state"] == "good" for claim in tried)
    sorts = {
        "Checks of claims": ("hold", [check for check in checks if check.role == "claim" and check.control is None]),
        "Negative controls": ("fail, as wrong versions must", [check for check in checks if check.role == "control"]),
        "Wrong versions without bearing": ("leave the claim standing", [c for c in checks if is_harmless(c)]),
    }
    lines = [
        (
            name,
            f"{(right := sum(check.as_expected for check in members))} of {len(members)} {verb}",
            right < len(members),
        )
        for name, (verb, members) in sorts.items()
        if members
    ]
    if mutants:
        killed = sum(mutant["killed"] for mutant in mutants)
        lines.append(("Seeded mistakes", f"{killed} of {len(mutants)} turn a check red", killed < len(mutants)))
    if good == len(tried):
        sentence = f"All {len(tried)} claims hold wherever they were tried, and all their wrong versions fail."
        sentence = sentence if len(tried) > 1 else "The claim holds wherever it was tried, and its wrong versions fail."
    else:
        sentence = f"{len(tried) - good} of {len(tried)} claims did not come out as stated."
    return {"sentence": sentence if tried else "", "lines": lines}


def _chance(stored: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The probability that a right claim comes out false by chance, and whether it is within its budget."""
    if not stored:
        return None
    check_keys(stored, ("bound", "budget"), "the false-alarm bound")
    bound, budget = as_float(stored["bound"]), as_float(stored["budget"])
    numbers = stored.get("comparisons")
    over = "" if numbers is None else f" over {numbers} Monte Carlo numbers"
    if not bound:
        return {"text": "none: nothing here is left to chance", "within": True}
    verdict = "within" if bound <= budget else "beyond"
    text = f"at most {scientific(bound)}{over}, {verdict} the budget of {round_number(budget)}"
    return {"text": text, "within": bound <= budget}


def _facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("Level", str(results.get("level", "unknown"))), ("Seed", str(results.get("seed", "unknown")))]
    if results.get("only"):
        facts.append(("Claims asked for", ", ".join(results["only"])))
    if results.get("mixture"):
        facts.append(("Mixture", f"{results['mixture']}, instead of the default worlds"))
    if results.get("loss"):
        facts.append(("Loss", f"{arm_name(str(results['loss']))}, instead of the default losses"))
    return facts


def _matrix(results: Mapping[str, Any], checks: Sequence[Check]) -> dict[str, Any]:
    """Published effect of every control on every claim and loss, and whether the checks showed it.

    Claims and losses that were not tried at all (others were asked for) are left out.
    """
    tried = {(check.claim, check.loss) for check in checks}
    published = {
        claim: rows
        for claim, rows in (results.get("matrix") or {}).items()
        if any(claim == other for other, _ in tried)
    }
    losses = {
        claim: list(dict.fromkeys(loss for row in rows.values() for loss in row if (claim, loss) in tried))
        for claim, rows in published.items()
    }
    seen: dict[tuple[str, str, str], bool] = {}
    for check in checks:
        if check.control is not None:
            key = (check.claim, check.control, check.loss)
            seen[key] = seen.get(key, True) and check.as_expected
    rows = []
    for control in dict.fromkeys(control for row in published.values() for control in row):
        cells = []
        for claim, rows_of in published.items():
            for number, loss in enumerate(losses[claim]):
                effect = rows_of.get(control, {}).get(loss, "-")
                shown = seen.get((claim, control, loss))
                state = "none" if effect == "-" else {True: effect, False: "unexpected", None: "untried"}[shown]
                cells.append({"effect": effect, "state": state, "mark": MARKS[state], "first": not number})
        rows.append({"control": control, "words": (results.get("controls") or {}).get(control, ""), "cells": cells})
    states = {cell["state"] for row in rows for cell in row["cells"]}
    return {
        "claims": [(claim, [arm_name(loss) for loss in losses[claim]]) for claim in published if losses[claim]],
        "rows": rows,
        "stored": bool(results.get("matrix")),
        "legend": [(MARKS[state], state, words) for state, words in LEGEND.items() if state in states],
    }


MARKS = {"fails": "✕", "passes": "○", "unexpected": "‼", "untried": "?", "none": ""}
LEGEND = {
    "fails": "must break the claim, and does",
    "passes": "has no bearing on the claim, which holds all the same",
    "unexpected": "did otherwise",
    "untried": "stated, but tried by no check",
    "none": "blank: has no meaning here",
}


def _mutants(stored: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for entry in stored:
        check_keys(entry, ("name", "target", "change", "check", "killed", "value", "bound"), "a mutant")
        check = Check.of(
            entry["check"],
            "",
            "",
            "-",
            "control",
            as_float(entry["value"]),
            as_float(entry["bound"]),
            claim=entry.get("claim", ""),
        )
        rows.append(
            {
                **{name: str(entry[name]) for name in ("name", "target", "change", "check")},
                "killed": bool(entry["killed"]),
                "value": scientific(check.value),
                "bound": round_number(check.bound),
                "missed": "not a number" if check.value != check.value else missed(check),
            }
        )
    return rows


def _check_row(check: Check) -> dict[str, Any]:
    return {
        "id": check.id,
        "statement": check.statement,
        "role": check.role,
        "value": scientific(check.value),
        "bound": round_number(check.bound),
        "outcome": "holds" if check.holds else "fails",
        "as_expected": check.as_expected,
    }
