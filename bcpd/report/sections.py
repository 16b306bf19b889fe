"""What the page says about each kind of result, as plain data for the template."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from bcpd.report.figures import Illustration, illustrations
from bcpd.report.margins import Margin, checks_of, margins, used, variant
from bcpd.report.numbers import as_float, interval, number, scientific
from bcpd.report.quantities import arm_name, group_of, headline_groups, metric_of, network_name
from bcpd.report.sentences import verdict_of
from bcpd.report.style import png_bytes, svg_bytes
from bcpd.report.tables import Table, check_keys, summary_tables, tuning_notes, tuning_table
from bcpd.theory import Check

__all__ = ["REQUIRED", "section"]

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "verify": ("ok", "checks"),
    "quickstart": ("title", "question", "rows", "summary"),
    "real": ("title", "question", "rows", "summary"),
}
"""What results of each kind must have; everything else is said to be missing where it is."""

HEADINGS = {
    "quickstart": {"teacher": "Is the MSE teacher closer to p*?", "student": "Is its student better?"},
    "real": {"teacher": "Is the MSE teacher better?", "student": "Is its student better?"},
}
UNITS = {"quickstart": "draw", "real": "seed"}
LARGEST_SVG = 400_000
REM_PER_INCH = 5.8


def section(results: Mapping[str, Any]) -> dict[str, Any]:
    """The content of one result's section.

    Raises:
        ValueError: an unknown kind, or a missing part that every result of the kind has.
    """
    kind = results.get("kind")
    if not isinstance(kind, str) or kind not in REQUIRED:
        raise ValueError(f"results must have a kind among {sorted(REQUIRED)}, received {kind!r}")
    check_keys(results, REQUIRED[kind], f"results of kind {kind}")
    content = _verify(results) if kind == "verify" else _run(results, kind)
    return {
        **content,
        "kind": kind,
        "figures": [_embedded(item) for item in illustrations(results)],
        "provenance": _provenance(results),
        "spec": [(key, _plain(value)) for key, value in (results.get("spec") or {}).items()],
    }


def _verify(results: Mapping[str, Any]) -> dict[str, Any]:
    checks = checks_of(results["checks"])
    found = margins(checks)
    statements = results.get("statements") or {}
    unexpected = [check for check in checks if not check.as_expected]
    counts = {role: [check for check in checks if check.role == role] for role in ("claim", "control")}
    holding, failing = (sum(check.as_expected for check in counts[role]) for role in ("claim", "control"))
    return {
        "title": "Verification: Theorem 1 and the instruments",
        "ok": bool(results["ok"]) and not unexpected and bool(checks),
        "stored_ok": bool(results["ok"]),
        "tally": (
            f"{holding} of {len(counts['claim'])} claims hold, and {failing} of {len(counts['control'])} negative "
            f"controls (wrong versions of a claim) fail as they must."
        ),
        "level": results.get("level", "unknown"),
        "seed": results.get("seed", "unknown"),
        "unexpected": [_check_row(check) for check in unexpected],
        "groups": _margin_groups(found, statements),
        "instruments": [(margin, statements.get(margin.claim, "")) for margin in found if margin.loss not in LOSSES],
        "matrix": _matrix(results, checks),
        "controls": results.get("controls") or {},
        "statements": statements,
        "checks": [_check_row(check) for check in checks],
    }


LOSSES = ("ce", "mse")


def _margin_groups(found: Sequence[Margin], statements: Mapping[str, str]) -> list[dict[str, Any]]:
    """Claim by claim, a row for every world with a cell for CE and MSE."""
    by_place = {(margin.claim, margin.world, margin.loss): margin for margin in found if margin.loss in LOSSES}
    worlds: dict[str, list[str]] = {}
    for claim, world, _ in by_place:
        if world not in worlds.setdefault(claim, []):
            worlds[claim].append(world)
    return [
        {
            "claim": claim,
            "statement": statements.get(claim, ""),
            "rows": [(world, [by_place.get((claim, world, loss)) for loss in LOSSES]) for world in places],
        }
        for claim, places in worlds.items()
    ]


def _matrix(results: Mapping[str, Any], checks: Sequence[Check]) -> dict[str, Any]:
    """Published effect of every control on every claim and loss, and whether the checks showed it."""
    published = results.get("matrix") or {}
    controls = list(dict.fromkeys(control for row in published.values() for control in row))
    seen: dict[tuple[str, str, str], bool] = {}
    for check in checks:
        control = variant(check)
        if control is not None:
            key = (check.id.split("/")[0], control, check.loss)
            seen[key] = seen.get(key, True) and check.as_expected
    rows = []
    for control in controls:
        cells = []
        for claim in published:
            for loss in LOSSES:
                effect = published[claim].get(control, {}).get(loss, "-")
                shown = seen.get((claim, control, loss))
                state = "none" if effect == "-" else {True: effect, False: "unexpected", None: "untried"}[shown]
                cells.append({"effect": "" if effect == "-" else effect, "state": state})
        rows.append({"control": control, "words": (results.get("controls") or {}).get(control, ""), "cells": cells})
    return {"claims": list(published), "rows": rows}


def _check_row(check: Check) -> dict[str, Any]:
    return {
        "id": check.id,
        "statement": check.statement,
        "role": check.role,
        "value": scientific(check.value),
        "bound": scientific(check.bound),
        "used": scientific(used(check)),
        "outcome": "holds" if check.holds else "fails",
        "as_expected": check.as_expected,
    }


def _run(results: Mapping[str, Any], kind: str) -> dict[str, Any]:
    unit = UNITS[kind]
    summary, tuning = results["summary"], results.get("tuning") or []
    tables = summary_tables(summary)
    headlines = headline_groups(summary)
    default = [row for row in summary if group_of(row) in headlines]
    verdicts = [
        (heading, [verdict for row in shown if (verdict := verdict_of(row, unit)) is not None])
        for role, heading in HEADINGS[kind].items()
        for shown in [[row for row in default if row["role"] == role]]
    ]
    units = {row[unit] for row in results["rows"] if unit in row}
    return {
        "title": results["title"],
        "question": results["question"],
        "unit": unit,
        "units": len(units),
        "networks": ". ".join(table.title for table in tables if table.default),
        "verdicts": [(heading, found) for heading, found in verdicts if found],
        "tally": _tally(summary, unit),
        "references": _references(results, default),
        "tables": [table for table in tables if table.default],
        "further_tables": [table for table in tables if not table.default],
        "tuning": _tuning(tuning),
        "notes": list(results.get("notes") or []),
    }


def _tuning(tuning: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, bool]], Table] | None:
    return (tuning_notes(tuning), tuning_table(tuning)) if tuning else None


def _tally(summary: Sequence[Mapping[str, Any]], unit: str) -> dict[str, Any]:
    """How all comparisons that have a better side came out, network by network, and whether the direction depends."""
    counts: dict[str, dict[str, int]] = {}
    for row in summary:
        verdict = verdict_of(row, unit)
        if verdict is None or not metric_of(row["quantity"]).direction or verdict.outcome == "undefined":
            continue
        count = counts.setdefault(network_name(group_of(row)), {"mse": 0, "ce": 0, "neither": 0})
        count[verdict.better or "neither"] += 1
    leaning = {
        arm: [name for name, count in counts.items() if count[arm] and not count[other]]
        for arm, other in (("mse", "ce"), ("ce", "mse"))
    }
    total = {arm: sum(count[arm] for count in counts.values()) for arm in ("mse", "ce", "neither")}
    sentence = (
        f"Of all {sum(total.values())} comparisons of the summary, the {arm_name('mse')} arm was better in "
        f"{total['mse']}, the {arm_name('ce')} arm in {total['ce']}, and {total['neither']} had an interval that "
        "contains zero. They are not independent, and the intervals are not adjusted for their number."
    )
    depends = ""
    if leaning["mse"] and leaning["ce"]:
        depends = (
            f"The direction depends on the network and its checkpoint: only {arm_name('mse')} is favoured for "
            f"{', '.join(leaning['mse'])}; only {arm_name('ce')} for {', '.join(leaning['ce'])}."
        )
    columns = ("network", f"{arm_name('mse')} better", f"{arm_name('ce')} better", "interval contains zero")
    rows = tuple((name, str(c["mse"]), str(c["ce"]), str(c["neither"])) for name, c in counts.items())
    return {
        "sentence": sentence if counts else "",
        "depends": depends,
        "table": Table("Number of comparisons", "", columns, rows) if counts else None,
    }


def _references(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What accuracies are to be compared with: the Bayes rule, and the student of the exact p*."""
    sentences = []
    bayes_error = results.get("bayes_error")
    if bayes_error:
        check_keys(bayes_error, ("value", "stderr", "method"), "the Bayes error")
        method = str(bayes_error["method"])
        spread = number(100 * as_float(bayes_error["stderr"]), 2)
        error = "" if method == "exact" else f", standard error {spread}"
        best = number(100 * (1 - as_float(bayes_error["value"])), 2)
        words = f"1 minus the Bayes error, {method.replace('_', ' ')}{error}"
        sentences.append(f"The best possible accuracy is {best} % ({words}).")
    for row in rows:
        value = row["arms"].get("bayes")
        if value is not None and row["role"] == "student" and row["quantity"].endswith("accuracy"):
            scale = metric_of(row["quantity"]).scale
            text = interval(value["mean"], value["low"], value["high"], scale)
            sentences.append(f"A student taught by p* itself reached an accuracy of {text} %.")
    return sentences


def _embedded(item: Illustration) -> dict[str, str]:
    """The figure as a data URI: SVG, or PNG where that would be large."""
    source = ""
    if item.figure is not None:
        content, media = svg_bytes(item.figure), "image/svg+xml"
        if len(content) > LARGEST_SVG:
            content, media = png_bytes(item.figure), "image/png"
        source = f"data:{media};base64,{b64encode(content).decode()}"
    return {
        "name": item.name,
        "title": item.title,
        "caption": item.caption.replace(" %", "\N{NO-BREAK SPACE}%"),
        "source": source,
        "missing": item.missing,
        "width": "" if item.figure is None else f"{item.figure.get_figwidth() * REM_PER_INCH:.4g}",
    }


def _provenance(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    stored = dict(results.get("provenance") or {})
    packages = stored.pop("packages", None) or {}
    entries = [(key.replace("_", " "), _plain(value)) for key, value in stored.items()]
    if packages:
        entries.append(("packages", ", ".join(f"{name} {version}" for name, version in packages.items())))
    if "seconds" in results:
        entries.append(("seconds", number(results["seconds"], 0)))
    return entries


def _plain(value: Any) -> str:
    """A setting as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
