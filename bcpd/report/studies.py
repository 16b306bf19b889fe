"""What the page says about the larger experiments: findings in words, figures, tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bcpd.report.figure1_tables import figure1_tables
from bcpd.report.ladder import ladder_tables
from bcpd.report.method_tables import method_tables
from bcpd.report.numbers import as_float, interval, number, p_value
from bcpd.report.quantities import arm_name
from bcpd.report.tables import Table
from bcpd.report.teacher_search import teacher_tables

__all__ = ["STUDIES", "findings"]

REGISTERED = "Predictions registered before the laptop run (after pilots and smoke runs), and what came"
TOPICS = {
    "advice": "When to train the teacher with MSE",
    "teacher": "Is the MSE teacher closer to p*?",
    "student": "Is its student better?",
    "temperature": "What a temperature does",
    "settings": "The paper's other settings",
    "rates": "What hangs on the learning rate",
    "checks": "Checks of the experiment itself",
}
"""Headings of the reading's topics; another topic is its own heading."""


def _figure1(results: Mapping[str, Any]) -> dict[str, Any]:
    refused = [
        f"{world['world']}: refused. {str(world['refused'])[0].upper()}{str(world['refused'])[1:]}"
        for world in results["worlds"]
        if world.get("refused")
    ]
    verdicts = [f"({entry['id']}) {entry['statement']} – {entry['verdict']}." for entry in results["predictions"]]
    tally = results.get("tally")
    if tally:
        counted = ", ".join(f"{tally[verdict]} {verdict}" for verdict in ("holds", "fails", "undecided"))
        identities = ", ".join(f"({name})" for name in tally["identities"]) or "none"
        verdicts.append(f"In all {tally['predictions']} predictions: {counted}; identities, not counted: {identities}.")
    tables = figure1_tables(results)
    return {
        "title": results["title"],
        "question": results["question"],
        "findings": [(REGISTERED, verdicts)],
        "notes": [*refused, *(str(note) for note in results.get("notes") or [])],
        "tables": [table for table in tables if table.default],
        "further_tables": [table for table in tables if not table.default],
    }


def _map(results: Mapping[str, Any]) -> dict[str, Any]:
    topics: dict[str, list[str]] = {}
    for entry in results["reading"]:
        figure = entry.get("figure")
        where = "" if not figure else " (table)" if figure == "table" else f" (figure {figure})"
        topics.setdefault(entry["topic"], []).append(f"{entry['text']}{where}")
    findings = [(TOPICS.get(topic, topic.capitalize()), sentences) for topic, sentences in topics.items()]
    predictions = [
        f"{entry['statement']} – {entry['verdict']}: {'; '.join(_part(part) for part in entry['parts'])}."
        for entry in results.get("predictions") or []
    ]
    if predictions:
        findings.append((REGISTERED, predictions))
    headline, further = _map_tables(results)
    return {
        "title": results["title"],
        "question": results["question"],
        "findings": findings,
        "notes": [str(note) for note in results.get("notes") or []],
        "tables": headline,
        "further_tables": further,
    }


def _map_tables(results: Mapping[str, Any]) -> tuple[list[Table], list[Table]]:
    """Differences by quantity, chosen rates, control arms and the planner."""
    rows_of: dict[str, list[Mapping[str, Any]]] = {}
    for row in results["summary"]:
        rows_of.setdefault(row["quantity"], []).append(row)
    headline: list[Table] = []
    further: list[Table] = []
    for quantity in results["quantities"]:
        rows = rows_of.get(quantity["id"], [])
        if rows:
            table = Table(
                f"{quantity['label']}: MSE teacher minus CE teacher, paired over draws",
                "",
                ("cell", "CE", "MSE", "difference", "draws", "p (Holm over cells)", "verdict"),
                tuple(_difference(row) for row in rows),
                default=bool(quantity.get("headline")),
            )
            (headline if table.default else further).append(table)
    further.append(
        Table(
            "Learning rates, tuned by each arm's own validation score at its best epoch and at its last, and by "
            "validation accuracy",
            "Scores are means over tuning draws. Next rates: how much worse they did, with the paired standard error.",
            (
                "cell",
                "role",
                "arm",
                "tuned by",
                "rate",
                "on the edge of its grid",
                "score (SE)",
                "next rate below",
                "next rate above",
                "others within one SE",
            ),
            tuple(
                (
                    row["cell"],
                    row["role"],
                    arm_name(row["arm"]),
                    row["tuned_by"],
                    f"{as_float(row['rate']):g}",
                    "yes" if row["edge"] else "",
                    _with_error(row["score"], row.get("stderr")),
                    _neighbour(row.get("below")),
                    _neighbour(row.get("above")),
                    "" if row.get("within_one_stderr") is None else f"{row['within_one_stderr']} of {row['tried'] - 1}",
                )
                for row in results["rates"]
            ),
        )
    )
    if results.get("student_rates"):
        headline.append(
            Table(
                "The student's accuracy at its tuned rate and at the next ones: MSE teacher minus CE teacher",
                "",
                ("cell", "student's rate", "", "difference", "draws"),
                tuple(
                    (
                        row["cell"],
                        f"{as_float(row['rate']):g}",
                        "tuned" if row["tuned"] else "",
                        _interval(row),
                        str(row["n"]),
                    )
                    for row in results["student_rates"]
                ),
            )
        )
    if results.get("best_epochs"):
        further.append(
            Table(
                "Best epochs by each arm's own validation score",
                "A best epoch that is the last one: more epochs might have helped.",
                ("cell", "arm", "epochs", "median", "least", "most", "draws at the last", "limited by the budget"),
                tuple(
                    (
                        row["cell"],
                        arm_name(row["arm"]),
                        str(row["epochs"]),
                        f"{as_float(row['median']):g}",
                        str(row["low"]),
                        str(row["high"]),
                        f"{row['at_end']} of {row['n']}",
                        "yes" if row["budget_limited"] else "",
                    )
                    for row in results["best_epochs"]
                ),
            )
        )
    controls = results.get("controls") or []
    if controls:
        further.append(
            Table(
                "Control arms, paired over draws",
                "",
                (
                    "cell",
                    "arm",
                    "teacher at",
                    "of the",
                    "quantity",
                    "minus",
                    "difference",
                    "draws",
                    "p (Holm over arms)",
                ),
                tuple(
                    (
                        row["cell"],
                        row["label"],
                        str(row["teacher_checkpoint"]).replace("_", " "),
                        row["role"],
                        row["metric"].replace("_", " "),
                        arm_name(row["against"]),
                        _interval(row),
                        _draws(row),
                        p_value(row.get("p_holm")),
                    )
                    for row in controls
                ),
            )
        )
    planner = results.get("planner")
    if planner:
        headline.append(
            Table(
                f"Draws needed to see an effect (power {planner['power']:g}, level {planner['level']:g}, paired t)",
                "",
                (
                    "quantity",
                    "effect",
                    "at the median spread of the cells",
                    "at the largest",
                    f"at the median, level {planner['level']:g} / {planner['cells']} cells",
                ),
                tuple(
                    (
                        entry["label"],
                        number(effect["effect"]),
                        str(effect["draws_median"]),
                        str(effect["draws_largest"]),
                        str(effect["draws_median_adjusted"]),
                    )
                    for entry in planner["quantities"]
                    for effect in entry["effects"]
                ),
            )
        )
    return headline, further


def _part(part: Mapping[str, Any]) -> str:
    """What a prediction compared, and what came: an interval, or one number where it is exact."""
    mean, low, high = (as_float(part[key]) for key in ("mean", "low", "high"))
    return f"{part['what']} {number(mean) if low == high else interval(mean, low, high)}"


def _difference(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["cell"],
        number(row["ce"]),
        number(row["mse"]),
        _interval(row),
        _draws(row),
        p_value(row["p_holm"]),
        row["verdict"],
    )


def _draws(row: Mapping[str, Any]) -> str:
    """Draws compared, and those lost because an arm diverged or was infinite."""
    return f"{row['n']} ({row['lost']} lost)" if row.get("lost") else str(row["n"])


def _with_error(value: Any, stderr: Any) -> str:
    return number(value) if stderr is None else f"{number(value)} ({number(stderr)})"


def _neighbour(gap: Mapping[str, Any] | None) -> str:
    """How much worse a rate did."""
    if gap is None:
        return ""
    difference = "diverged" if gap["difference"] is None else _with_error(gap["difference"], gap["stderr"])
    return f"{as_float(gap['rate']):g}: {difference}"


def _interval(row: Mapping[str, Any]) -> str:
    """Mean and interval; undefined where a value was infinite or not enough draws were left."""
    values = [as_float(row.get(key)) for key in ("mean", "low", "high")]
    return interval(values[0], values[1], values[2], 1.0)


def _by_topic(results: Mapping[str, Any], headings: Mapping[str, str], tables: Sequence[Table]) -> dict[str, Any]:
    """A study whose sentences have topics, each with a heading."""
    topics: dict[str, list[str]] = {}
    for entry in results["reading"]:
        topics.setdefault(headings[entry["topic"]], []).append(entry["text"])
    return {
        "title": results["title"],
        "question": results["question"],
        "findings": list(topics.items()),
        "notes": [str(note) for note in results.get("notes") or []],
        "tables": [table for table in tables if table.default],
        "further_tables": [table for table in tables if not table.default],
    }


def _ladder(results: Mapping[str, Any]) -> dict[str, Any]:
    headings = {"rungs": "Rung by rung", "claim": "The claim", "theorem 1": "Theorem 1, tried on networks"}
    return _by_topic(results, headings, ladder_tables(results))


def _tables(results: Mapping[str, Any]) -> dict[str, Any]:
    headings = {"teachers": "The teachers", "students": "Does the MSE teacher's student do better?"}
    return _by_topic(results, headings, method_tables(results))


def _teachers(results: Mapping[str, Any]) -> dict[str, Any]:
    headings = {
        "settings": "What setting each loss wants",
        "levelled": "Has the training levelled off?",
        "closer": "Is the MSE teacher closer to p*?",
    }
    return _by_topic(results, headings, teacher_tables(results))


STUDIES: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "figure1": _figure1,
    "when-mse-wins": _map,
    "ladder": _ladder,
    "tables": _tables,
    "teachers": _teachers,
}
"""The content of a section, by kind of result."""


def findings(results: Mapping[str, Any]) -> Sequence[tuple[str, Sequence[str]]]:
    """Headings and sentences of a study, for the terminal."""
    found: Sequence[tuple[str, Sequence[str]]] = STUDIES[results["kind"]](results)["findings"]
    return found
