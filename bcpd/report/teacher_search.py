"""Teachers at the recipe's length: the settings that were tried, the teachers' scores, and which is closer to p*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bcpd.report.method_tables import ARM_NAMES
from bcpd.report.numbers import as_float, interval, number
from bcpd.report.rows import NONE, Row, chosen, find, score_cells, seeds_table
from bcpd.report.tables import Table

__all__ = ["TEACHER_ARMS", "headline_pairs", "pair_name", "teacher_tables"]

TEACHER_ARMS: Mapping[str, str] = {**ARM_NAMES, "mse-from-ce": "MSE-from-CE", "mse-from-ce+T": "MSE-from-CE + T"}

HEADLINES: Sequence[tuple[str, str]] = (
    ("mse", "ce"),
    ("mse-from-ce", "ce"),
    ("ls", "ce"),
    ("ce+T", "ce"),
    ("mse+T", "ce+T"),
    ("mse-from-ce+T", "ce+T"),
)
"""(arm, the arm that it is compared with), as in the figure; all other pairs are in a table of their own."""

SETTING = ("net", "loss", "rate", "decay", "warm-up, epochs", "validation score")


def headline_pairs(results: Row) -> list[tuple[str, str]]:
    """Those of :data:`HEADLINES` that some net has."""
    there = {(row["arm"], row["against"]) for row in results["differences"]}
    return [pair for pair in HEADLINES if pair in there]


def pair_name(arm: str, against: str) -> str:
    """``MSE minus CE``."""
    return f"{TEACHER_ARMS[arm]} minus {TEACHER_ARMS[against]}"


def teacher_tables(results: Row) -> list[Table]:
    """Chosen settings, scores and differences; then every pair of arms, every seed and every trial.

    Args:
        results: of kind ``teachers``.
    """
    headlines = headline_pairs(results)
    others = [
        (row["arm"], row["against"])
        for row in results["differences"]
        if (row["arm"], row["against"]) not in headlines and row["quantity"] == "mse"
    ]
    tables = [
        _settings(results),
        _scores(results),
        _differences(results, headlines, "Which teacher is closer to p*: differences by test labels"),
        _differences(results, list(dict.fromkeys(others)), "The other pairs of teachers", default=False),
        _without_near(results, headlines),
        _by_seed(results, headlines),
        _teachers(results),
        _trials(results),
    ]
    return [table for table in tables if table.rows]


def _score(row: Row) -> str:
    return "diverged" if row.get("diverged") else f"{row['name']} {number(row['score'])}"


def _under_trained(row: Row) -> str:
    return "under-trained" if row.get("under_trained") else ""


def _setting(row: Row) -> tuple[str, ...]:
    tried = (f"{as_float(row[name]):g}" for name in ("rate", "decay", "warm_up"))
    return row["net"], TEACHER_ARMS[row["loss"]], *tried, _score(row)


def _settings(results: Row) -> Table:
    rows = [(*_setting(row), ", ".join(row["edge"]), _under_trained(row)) for row in results["search"] if row["chosen"]]
    columns = (*SETTING, "on the edge in", "in the search")
    return Table("The setting that each loss wants", "", columns, tuple(rows))


def _scores(results: Row) -> Table:
    rows = []
    for net in results["spec"]["nets"]:
        for arm, name in TEACHER_ARMS.items():
            cells = []
            for quantity, scale in (("accuracy", 100.0), ("nll", 1.0), ("brier", 1.0)):
                cells.append(_cell(find(results["values"], net=net, arm=arm, quantity=quantity), scale))
            if any(cell != NONE for cell in cells):
                own = [row for row in results["rows"] if row["net"] == net and row["loss"] == arm.removesuffix("+T")]
                flagged = sum(bool(row.get("under_trained")) for row in own)
                rows.append((net, name, *cells, f"{flagged} of {len(own)}"))
    columns = ("net", "teacher", "test accuracy, %", "test NLL", "test Brier", "under-trained seeds")
    return Table("Teachers on test images", "95 % t-intervals over seeds.", columns, tuple(rows))


def _cell(row: Row | None, scale: float = 1.0) -> str:
    return NONE if row is None else interval(row["mean"], row["low"], row["high"], scale)


def _differences(results: Row, pairs: Sequence[tuple[str, str]], title: str, default: bool = True) -> Table:
    rows = []
    for net in results["spec"]["nets"]:
        for arm, against in pairs:
            own = {
                name: find(results["differences"], net=net, arm=arm, against=against, quantity=name)
                for name in ("mse", "kl", "accuracy")
            }
            if own["mse"] is not None:
                cells = (_cell(own["mse"]), _cell(own["kl"]), _cell(own["accuracy"], 100.0), _verdict(own["mse"]))
                rows.append((net, pair_name(arm, against), *cells))
    columns = ("net", "teachers", "MSE to p*", "KL to p*, nats", "test accuracy, points", "in MSE the first is")
    note = "Negative: the first is closer to p*. 95 % intervals crossed over seeds and test images."
    return Table(title, note, columns, tuple(rows), default)


def _verdict(row: Row) -> str:
    low, high = as_float(row["low"]), as_float(row["high"])
    return "closer" if high < 0 else "farther" if low > 0 else "undecided"


def _without_near(results: Row, pairs: Sequence[tuple[str, str]]) -> Table:
    rows = []
    for row in results["differences"]:
        if (row["arm"], row["against"]) in pairs and "without_near" in row:
            scale = 100.0 if row["quantity"] == "accuracy" else 1.0
            names = pair_name(row["arm"], row["against"])
            rows.append((row["net"], names, row["quantity"], _cell(row, scale), _cell(row["without_near"], scale)))
    columns = ("net", "teachers", "quantity", "all test images", "without near-duplicates of training images")
    return Table("Differences without near-duplicates", "", columns, tuple(rows), default=False)


def _by_seed(results: Row, pairs: Sequence[tuple[str, str]]) -> Table:
    rows = []
    for row in results["differences"]:
        if (row["arm"], row["against"]) in pairs and row["quantity"] in ("mse", "kl"):
            for one in row["by_seed"]:
                value = f"{number(one['value'])} ({number(one['stderr'])})"
                names = pair_name(row["arm"], row["against"])
                rows.append((row["net"], names, row["quantity"], str(one["seed"]), value, one.get("note", "")))
    columns = ("net", "teachers", "quantity", "seed", "difference (standard error over images)", "")
    return Table("Differences, seed by seed", "", columns, tuple(rows), default=False)


def _teachers(results: Row) -> Table:
    rows = []
    for row in results["rows"]:
        cells = (row["refused"], *[NONE] * 6) if "refused" in row else (*score_cells(row, 1), _under_trained(row))
        rows.append((row["net"], TEACHER_ARMS[row["loss"]], str(row["seed"]), *cells))
    return seeds_table(rows, "loss", "fitted temperature", "")


def _trials(results: Row) -> Table:
    trials = results["search"]
    rows = [(*_setting(row), _under_trained(row), "chosen" if row["chosen"] else "") for row in trials]
    return Table("Settings that were tried", "", (*SETTING, "", ""), tuple(rows), False, chosen(trials))
