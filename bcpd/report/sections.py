"""What the page says about each kind of result, as plain data for the template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bcpd.report.embedding import data_uri
from bcpd.report.figures import Illustration, illustrations
from bcpd.report.numbers import as_float, interval, number
from bcpd.report.quantities import arm_name, group_of, headline_groups, metric_of, network_name
from bcpd.report.sentences import verdict_of
from bcpd.report.studies import STUDIES
from bcpd.report.tables import Table, check_keys, summary_tables, tuning_notes, tuning_table
from bcpd.report.verification import verification

__all__ = ["REQUIRED", "section"]

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "verify": ("ok", "checks"),
    "quickstart": ("title", "question", "rows", "summary"),
    "real": ("title", "question", "rows", "summary"),
    "figure1": ("title", "question", "worlds", "predictions", "table"),
    "when-mse-wins": ("title", "question", "cells", "summary", "reading"),
    "ladder": ("title", "question", "rungs", "differences", "verdicts", "reading"),
    "tables": ("title", "question", "values", "differences", "reading", "reference"),
    "teachers": ("title", "question", "search", "values", "differences", "reading"),
}
"""What results of each kind must have; everything else is said to be missing where it is."""

HEADINGS = {
    "quickstart": {"teacher": "Is the MSE teacher closer to p*?", "student": "Is its student better?"},
    "real": {"teacher": "Is the MSE teacher better?", "student": "Is its student better?"},
}
UNITS = {"quickstart": "draw", "real": "seed"}
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
    if kind in STUDIES:
        content = STUDIES[kind](results)
    else:
        content = verification(results) if kind == "verify" else _run(results, kind)
    return {
        **content,
        "kind": kind,
        "figures": [_embedded(item) for item in illustrations(results)],
        "provenance": _provenance(results),
        "spec": [(key, _plain(value)) for key, value in (results.get("spec") or {}).items()],
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
    """The figure with its words, ready for the page."""
    return {
        "name": item.name,
        "title": item.title,
        "caption": item.caption.replace(" %", "\N{NO-BREAK SPACE}%"),
        "source": "" if item.figure is None else data_uri(item.figure),
        "missing": item.missing,
        "claim": item.claim,
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
