"""Students by distillation method, of CE and of MSE teachers: the tables, in the paper's shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from string import ascii_lowercase

from bcpd.report.numbers import as_float, interval, number
from bcpd.report.rows import NONE, Row, chosen, find, score_cells, seeds_table
from bcpd.report.tables import Table, p_cell, rate

__all__ = [
    "ARM_NAMES",
    "METHOD_NAMES",
    "OTHERS",
    "Place",
    "difference_of",
    "method_tables",
    "place_name",
    "places",
    "student_value",
]

METHOD_NAMES: Mapping[str, str] = {
    "scratch": "no teacher",
    "kd": "KD",
    "fitnet": "FitNet",
    "at": "AT",
    "sp": "SP",
    "cc": "CC",
    "vid": "VID",
    "rkd": "RKD",
    "pkt": "PKT",
    "crd": "CRD",
    "dkd": "DKD",
    "reviewkd": "ReviewKD",
    "hsakd": "HSAKD",
    "all": "mean over methods",
}
ARM_NAMES: Mapping[str, str] = {
    "ce": "CE",
    "mse": "MSE",
    "ce+T": "CE + T",
    "mse+T": "MSE + T",
    "ls": "label smoothing",
}
OTHERS = ("mse", "ce+T", "mse+T", "ls")

Place = tuple[tuple[str, str], float]
"""Pair and share."""


def places(results: Row) -> list[Place]:
    """Every pair and share, in the order of the specification."""
    spec = results["spec"]
    return [((pair[0], pair[1]), float(share)) for pair in spec["pairs"] for share in spec["shares"]]


def place_name(results: Row, place: Place) -> str:
    """In words."""
    (teacher, student), share = place
    name = f"{teacher} to {student}"
    if len(results["spec"]["shares"]) == 1:
        return name
    what = "labels" if results["spec"]["protocol"]["partial"] == "labels" else "images"
    return f"{name}, {share:.0%} of the {what}"


def student_value(results: Row, place: Place, method: str, arm: str, checkpoint: str) -> Row | None:
    """The students' accuracy of a method and teacher."""
    pair, share = place
    known = {"role": "student", "method": method, "arm": arm, "share": share, "checkpoint": checkpoint}
    return find(results["values"], pair=list(pair), **known)


def difference_of(
    results: Row, place: Place, method: str, checkpoint: str = "last", arm: str = "mse", against: str = "ce"
) -> Row | None:
    """The paired difference of two arms' students."""
    pair, share = place
    known = {"method": method, "share": share, "checkpoint": checkpoint, "arm": arm, "against": against}
    return find(results["differences"], pair=list(pair), **known)


def _percent(row: Row | None) -> str:
    if row is None:
        return NONE
    low, high = as_float(row["low"]), as_float(row["high"])
    if not math.isfinite(low + high):
        return f"{number(100 * as_float(row['mean']), 2)} (n = 1)"
    return interval(row["mean"], row["low"], row["high"], 100.0)


def _p(row: Row | None, name: str) -> str:
    """Nothing where there is one seed, or no correction."""
    return NONE if row is None or math.isnan(as_float(row[name])) else p_cell(row[name])


# -------------------------------------------------------------------------------------------------------------- tables


def method_tables(results: Row) -> list[Table]:
    """A table a pair (and share): methods in rows, the two teachers' students, their difference, and what is published.

    Args:
        results: of kind ``tables``.
    """
    tables = [_table(results, place) for place in places(results)]
    others = _others(results)
    if others.rows:
        tables.append(others)
    tables += [_teachers(results), _tuning(results), _published(results)]
    return [table for table in tables if table.rows]


def _table(results: Row, place: Place) -> Table:
    pair, share = place
    rows: list[tuple[str, ...]] = []
    sources: dict[str, str] = {}
    of = share if results["spec"]["protocol"]["teacher_sees"] == "share" else 1.0
    cells = ["the teacher itself"]
    for checkpoint in ("last", "best_accuracy"):
        seen = [
            find(results["values"], role="teacher", net=pair[0], arm=arm, share=of, checkpoint=checkpoint)
            for arm in ("ce", "mse")
        ]
        gap = difference_of(results, place, "teacher", checkpoint)
        cells += [*map(_percent, seen), _percent(gap)]
        if checkpoint == "last":
            cells += [_p(gap, "p"), NONE, _network(results, pair[0], sources)]
    rows.append(tuple(cells))
    alone = [
        find(
            results["values"], role="student", method="scratch", pair=["", pair[1]], share=share, checkpoint=checkpoint
        )
        for checkpoint in ("last", "best_accuracy")
    ]
    first, second = map(_percent, alone)
    known = _network(results, pair[1], sources)
    rows.append((METHOD_NAMES["scratch"], first, NONE, NONE, NONE, NONE, known, second, NONE, NONE))
    for method in [*results["spec"]["methods"], "all"]:
        cells = [METHOD_NAMES.get(method, method)]
        for checkpoint in ("last", "best_accuracy"):
            values = [student_value(results, place, method, arm, checkpoint) for arm in ("ce", "mse")]
            gap = difference_of(results, place, method, checkpoint)
            cells += [*map(_percent, values), _percent(gap)]
            if checkpoint == "last":
                cells += [_p(gap, "p"), _p(gap, "p_holm"), _reference(results, pair, method, sources)]
        if method != "all" or cells[3] != NONE:
            rows.append(tuple(cells))
    columns = (
        "method",
        "CE teacher",
        "MSE teacher",
        "MSE minus CE, points",
        "p (paired)",
        "p (Holm)",
        "published, CE teacher",
        "CE, best validation",
        "MSE, best validation",
        "MSE minus CE, best validation",
    )
    title = f"Test accuracy of students, %: {place_name(results, place)}"
    notes = tuple(f"{mark} {source}" for source, mark in sources.items())
    about = "Last epoch unless said; 95 % t-intervals over seeds."
    return Table(title, about, columns, tuple(rows), notes=notes)


def _reference(results: Row, pair: tuple[str, str], method: str, sources: dict[str, str]) -> str:
    row = find(results["reference"]["students"], pair=list(pair), method=method)
    if row is None:
        return NONE
    of = "" if row["of"] == list(pair) else f"{row['of'][0]} to {row['of'][1]}, "
    return f"{number(row['accuracy'], 2)} {_mark(of + _short(row['source']), sources)}"


def _network(results: Row, net: str, sources: dict[str, str]) -> str:
    row = find(results["reference"]["networks"], net=net)
    return NONE if row is None else f"{number(row['accuracy'], 2)} {_mark(_short(row['source']), sources)}"


def _short(source: str) -> str:
    return source.split(":")[0]


def _mark(source: str, sources: dict[str, str]) -> str:
    """[a], [b], ...: of a source, in the order in which they are met."""
    return sources.setdefault(source, f"[{ascii_lowercase[len(sources)]}]")


def _others(results: Row) -> Table:
    """Arms beside the two, minus CE, and what a temperature for both leaves of the difference."""
    arms = [arm for arm in OTHERS[1:] if arm in results["spec"]["teachers"]]
    rows = []
    for place in places(results):
        for method in [*results["spec"]["methods"], "all"]:
            cells = [_percent(difference_of(results, place, method, arm=arm)) for arm in arms]
            both = _percent(difference_of(results, place, method, arm="mse+T", against="ce+T"))
            if any(cell != NONE for cell in (*cells, both)):
                rows.append((place_name(results, place), METHOD_NAMES.get(method, method), *cells, both))
    columns = ("pair", "method", *(f"{ARM_NAMES[arm]} minus CE" for arm in arms), "MSE + T minus CE + T")
    return Table("Other teachers, minus CE, points", "Last epoch.", columns, tuple(rows))


def _teachers(results: Row) -> Table:
    rows = [
        (
            row["net"],
            ARM_NAMES[row["arm"]],
            str(row["seed"]),
            *score_cells(row, 0),
            "yes" if row["under_trained"] else "",
        )
        for row in results["rows"]
        if row["role"] == "teacher" and "refused" not in row and row["checkpoint"] == "last"
    ]
    return seeds_table(rows, "teacher", "temperature", "under-trained")


def _tuning(results: Row) -> Table:
    trials = results["tuning"]
    rows = [
        (
            str(trial["net"]),
            ARM_NAMES[trial["arm"]],
            rate(trial["learning_rate"]),
            rate(trial["weight_decay"]),
            f"{trial['score']} {as_float(trial['mean']):.4g}",
            "" if not trial["chosen"] else "chosen, on the edge" if trial["edge"] else "chosen",
        )
        for trial in trials
    ]
    columns = ("net", "teacher", "rate", "decay", "validation score", "")
    return Table("Settings of the teachers that were tried", "", columns, tuple(rows), False, chosen(trials))


def _published(results: Row) -> Table:
    reference = results["reference"]
    rows = [
        (" to ".join(row["of"]), METHOD_NAMES.get(row["method"], row["method"]), _accuracy(row), row["source"])
        for row in reference["students"]
    ]
    rows += [(row["net"], "labels alone", _accuracy(row), row["source"]) for row in reference["networks"]]
    rows += [
        (f"{as_float(row['share']):.0%} of the images", METHOD_NAMES[row["method"]], _accuracy(row), row["source"])
        for row in reference["few_shot"]
    ]
    rows += [
        ("MSE minus CE teacher", row["what"], f"{as_float(row['difference']):+.2f} points", row["source"])
        for row in reference["claims"]
    ]
    return Table("Published figures", "", ("of", "method", "test accuracy, %", "source"), tuple(rows), default=False)


def _accuracy(row: Row) -> str:
    spread = row.get("spread")
    return number(row["accuracy"], 2) if spread is None else f"{number(row['accuracy'], 2)} ± {number(spread, 2)}"
