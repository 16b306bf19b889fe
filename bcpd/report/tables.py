"""Tables of results as plain text cells: the terminal and the page show the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bcpd.report.numbers import as_float, interval, number, p_value
from bcpd.report.quantities import (
    ARMS,
    Group,
    arm_name,
    checkpoint_name,
    group_of,
    headline_groups,
    metric_of,
    network_name,
)

__all__ = ["Table", "markdown", "summary_rows", "summary_tables", "tuning_notes", "tuning_table"]


@dataclass(frozen=True)
class Table:
    """Cells of text.

    Attributes:
        title: what the rows have in common; network: the same in few words.
        columns: headings, one a column.
        rows: one text a column each.
        default: whether it is of the checkpoints that headlines are about.
        marked: rows to set off (a chosen setting), by number.
        notes: below the rows, what their marks ([a], [b], ...) stand for.
    """

    title: str
    network: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    default: bool = True
    marked: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


def summary_tables(summary: Sequence[Mapping[str, Any]]) -> list[Table]:
    """One table for every network and checkpoint: arms with 95 % intervals, and their paired difference.

    Args:
        summary: the ``summary`` of stored results.
    Raises:
        ValueError: a row without one of the keys that every row has.
    """
    groups: dict[Group, list[Mapping[str, Any]]] = {}
    for row in summary:
        check_keys(row, ("quantity", "label", "role", "checkpoint", "teacher_checkpoint", "arms"), "a summary row")
        groups.setdefault(group_of(row), []).append(row)
    headlines = headline_groups(summary)
    return [_summary_table(group, rows, group in headlines) for group, rows in groups.items()]


def _summary_table(group: Group, rows: Sequence[Mapping[str, Any]], default: bool) -> Table:
    role, teacher_checkpoint, checkpoint = group
    arms = arms_of(rows)
    lines = []
    for row in rows:
        metric = metric_of(row["quantity"])
        cells = [row["label"] + metric_note(row["quantity"])]
        for arm in arms:
            value = row["arms"].get(arm)
            cells.append("–" if value is None else _cell(value, metric.scale))
        difference = row.get("difference")
        if difference is None:
            cells += ["–", "–"]
        else:
            cells += [_cell(difference, metric.scale), p_cell(difference.get("p"))]
        lines.append(tuple(cells))
    columns = ("quantity", *(arm_name(arm) for arm in arms), f"{arm_name('mse')} minus {arm_name('ce')}", "p")
    if role == "student":
        of = f" of teachers at {checkpoint_name(teacher_checkpoint)}" if teacher_checkpoint else ""
        title = f"Students{of}, themselves at {checkpoint_name(checkpoint)}"
    else:
        title = f"{role.capitalize()}s at {checkpoint_name(checkpoint)}"
    return Table(title, network_name(group), columns, tuple(lines), default)


def summary_rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The summary as one table for a terminal: the headings, then a row for every quantity, a network named once.

    Args:
        results: with a ``summary``.
    Raises:
        ValueError: no summary, or a row without one of the keys that every row has.
    """
    check_keys(results, ("summary",), "results")
    arms = arms_of(results["summary"])
    difference = f"{arm_name('mse')} minus {arm_name('ce')}"
    lines: list[tuple[str, ...]] = [("network", "quantity", *(arm_name(arm) for arm in arms), difference, "p")]
    for table in summary_tables(results["summary"]):
        for index, row in enumerate(table.rows):
            cells = dict(zip(table.columns, row, strict=True))
            network = "" if index else table.network
            lines.append((network, *(cells.get(column, "–") for column in lines[0][1:])))
    return lines


def markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of :func:`summary_rows`, headings first, as a Markdown table."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body]) + "\n"


def arms_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The arms that summary rows hold, in the order CE, MSE, exact p*, others."""
    present = dict.fromkeys(arm for row in rows for arm in row["arms"])
    return [arm for arm in ARMS if arm in present] + [arm for arm in present if arm not in ARMS]


def metric_note(quantity: str) -> str:
    """The unit that the shown numbers have beyond what a label says."""
    return ", %" if metric_of(quantity).scale == 100 else ""


def p_cell(value: Any) -> str:
    """A p-value in a column that is headed p."""
    return p_value(value).replace("\N{NO-BREAK SPACE}", " ").removeprefix("p ").removeprefix("= ")


def _cell(value: Mapping[str, Any], scale: float) -> str:
    check_keys(value, ("mean", "low", "high"), "an interval")
    return interval(value["mean"], value["low"], value["high"], scale)


def tuning_table(tuning: Sequence[Mapping[str, Any]]) -> Table:
    """Every setting tried, its mean validation score, and which was chosen."""
    columns = ("network", "arm", "learning rate", "weight decay", "score", "mean", "")
    rows, marked = [], set()
    for index, trial in enumerate(tuning):
        check_keys(trial, ("arm", "learning_rate", "chosen", "edge"), "a tuning trial")
        mark = ""
        if trial["chosen"]:
            marked.add(index)
            mark = "chosen, on the edge of the grid" if trial["edge"] else "chosen"
        decay = trial.get("weight_decay")
        rows.append(
            (
                str(trial.get("role", "teacher")),
                arm_name(trial["arm"]),
                rate(trial["learning_rate"]),
                "–" if decay is None else rate(decay),
                str(trial.get("score", "–")).upper() if trial.get("score") == "nll" else str(trial.get("score", "–")),
                "diverged" if as_float(_score(trial)) == float("inf") else number(_score(trial), 4),
                mark,
            )
        )
    return Table("All settings tried", "tuning", columns, tuple(rows), marked=frozenset(marked))


def tuning_notes(tuning: Sequence[Mapping[str, Any]]) -> list[tuple[str, bool]]:
    """One sentence for every chosen setting, and whether it is a warning (on the edge of the grid)."""
    notes = []
    for trial in tuning:
        if not trial["chosen"]:
            continue
        decay = trial.get("weight_decay")
        with_decay = f" and weight decay {rate(decay)}" if decay else ""
        where = "it lies on the edge of the grid, a better one may lie outside" if trial["edge"] else "inside the grid"
        arm = arm_name(trial["arm"])
        who = f"Student of the {arm}" if trial.get("role") == "student" else f"{arm} teacher"
        text = f"{who}: learning rate {rate(trial['learning_rate'])}{with_decay}; {where}."
        notes.append((text, bool(trial["edge"])))
    return notes


def _score(trial: Mapping[str, Any]) -> Any:
    return trial["mean"] if "mean" in trial else trial.get("value")


def rate(value: Any) -> str:
    """A learning rate or decay as it was set: ``0.0003``, ``0``."""
    return f"{as_float(value):g}"


def check_keys(entry: Mapping[str, Any], keys: Sequence[str], what: str) -> None:
    """Refuse an entry that lacks one of the keys.

    Raises:
        ValueError: naming what is missing and what is there.
    """
    missing = [key for key in keys if key not in entry]
    if missing:
        raise ValueError(f"{what} must have {', '.join(keys)}; missing {', '.join(missing)} in {sorted(entry)}")
