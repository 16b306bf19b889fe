"""Figure 1 in tables of text: registered predictions with their parts, correlations, comparisons and rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bcpd.report.numbers import as_float, interval, number
from bcpd.report.tables import Table

__all__ = ["TEACHER_NAMES", "family_name", "figure1_tables", "prediction_rows", "table_rows"]

Row = Mapping[str, Any]

TEACHER_NAMES: Mapping[str, str] = {
    "ce": "CE teacher",
    "mse": "MSE teacher",
    "mse, rate of ce": "MSE teacher, CE's rate",
    "mse_mean": "MSE / K teacher, CE's rate",
    "ce, rate for last": "CE teacher, rate for the last epoch",
    "mse, rate for last": "MSE teacher, rate for the last epoch",
    "mse, rate for last of ce": "MSE teacher, CE's rate for the last epoch",
    "mse_mean, rate for last of ce": "MSE / K teacher, CE's rate for the last epoch",
}


def table_rows(results: Row) -> list[dict[str, Any]]:
    """The students' rows as dicts."""
    table = results["table"]
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def family_name(family: str) -> str:
    """In words."""
    return TEACHER_NAMES.get(family, family.replace("_", " "))


def prediction_rows(results: Row) -> list[tuple[str, ...]]:
    """The registered predictions as cells of text, headings first; the number is that of the part that decides."""
    lines: list[tuple[str, ...]] = [
        ("", "prediction", "verdict", "deciding part", "95 % interval", "bound", "at the last epoch")
    ]
    for entry in results["predictions"]:
        part = _deciding(entry)
        cells = ("–", "–", "–") if part is None else _part_cells(part)
        verdict = "identity: " * bool(entry.get("identity")) + entry["verdict"]
        lines.append((entry["id"], entry["statement"], verdict, *cells, entry.get("verdict_last", "–")))
    return lines


def _part_cells(part: Row) -> tuple[str, str, str]:
    """What was compared, its mean with interval, and the bound."""
    side = {"above": "> ", "below": "< ", "within": "\N{PLUS-MINUS SIGN}"}.get(part.get("side", ""), "")
    return str(part["what"]), _interval(part), f"{side}{part['bound']:g}"


def _interval(entry: Row) -> str:
    mean, low, high = (as_float(entry[name]) for name in ("mean", "low", "high"))
    return number(mean) if low == high else interval(mean, low, high)


def _remark(part: Row) -> str:
    """What else is to be known of a part: other rates, lost draws, whether it counts."""
    said = [f"at rate {entry['rate']:g}: {_interval(entry)}" for entry in part.get("other_rates", ())]
    if said:
        said.insert(0, f"tuned rate {part['rate']:g}")
    if part.get("identity"):
        said.append("an identity")
    if not part.get("registered", True):
        said.append("not registered")
    if part.get("reason"):
        said.append(str(part["reason"]))
    elif part.get("lost"):
        said.append(f"{part['lost']} lost to divergence")
    return "; ".join(said)


def figure1_tables(results: Row) -> list[Table]:
    """The predictions, every part of them, rates, teachers and the rank correlations, as tables of text.

    Args:
        results: of kind ``figure1``.
    """
    head, *lines = prediction_rows(results)
    parts = [
        (entry["id"], *_part_cells(part), part["verdict"], _remark(part))
        for entry in results["predictions"]
        for part in entry["parts"]
    ]
    correlations = []
    for entry in results["correlations"]:
        given = f"{entry['distance'].upper()}" + (f" given {entry['given'].upper()}" if entry["given"] else "")
        found = _interval(entry) if "mean" in entry else entry["reason"]
        outcome = "best score" if entry["outcome"] == "best_score" else "last epoch"
        correlations.append((entry["set"].replace("_", " "), outcome, given, found, str(entry.get("targets", "–"))))
    return [
        Table(_title(results), "", head, tuple(lines)),
        Table(
            "Every part of the predictions",
            "",
            ("", "part", "mean", "bound", "verdict", "remarks"),
            tuple(parts),
            default=False,
        ),
        Table(
            "MSE teacher minus CE teacher: distance to p* on fresh points, paired over draws",
            "",
            ("world", "network", "at", "rates tuned by", "CE's rate", "MSE's rate", "distance", "difference", "draws"),
            tuple(_comparison(entry) for entry in results.get("comparisons", ())),
            default=False,
        ),
        Table(
            "Learning rates: the score of the neighbours on the grid minus that of the chosen rate, "
            "mean \N{PLUS-MINUS SIGN} standard error, paired over tuning draws",
            "",
            ("arm", "rate", "score", "draws", "neighbours", "on the edge of the grid"),
            tuple(_rate(entry) for entry in results.get("rates", ())),
            default=False,
        ),
        Table(
            "Rank correlation with the student's accuracy within a draw, mean over draws by Fisher's z; plain values "
            "reflect the levels that were chosen",
            "",
            ("targets", "students at", "distance", "Spearman", "targets a draw"),
            tuple(correlations),
            default=False,
        ),
    ]


def _title(results: Row) -> str:
    title = "Predictions registered before the laptop run, after pilots and smoke runs"
    tally = results.get("tally")
    if not tally:
        return title
    counts = ", ".join(f"{tally[kind]} {word}" for kind, word in _COUNTED.items())
    identities = "".join(f"; ({id}) is an identity and not counted" for id in tally["identities"])
    return f"{title}: of {tally['predictions']}, {counts}{identities}"


_COUNTED = {"holds": "held", "fails": "failed", "undecided": "undecided"}


def _comparison(entry: Row) -> tuple[str, ...]:
    lost = f", {entry['lost']} lost" if entry["lost"] else ""
    rates = (f"{entry['rates'][loss]:g}" for loss in ("ce", "mse"))
    return (
        entry["world"],
        entry["net"],
        entry["checkpoint"].replace("_", " "),
        entry["rates_tuned_by"],
        *rates,
        entry["distance"].upper(),
        _interval(entry),
        f"{entry['n']}{lost}",
    )


def _rate(entry: Row) -> tuple[str, ...]:
    close = "; ".join(
        f"{other['rate']:g}: {number(other['mean'])} \N{PLUS-MINUS SIGN} {number(other['stderr'])}"
        for other in entry["neighbours"]
    )
    return (
        entry["arm"],
        f"{entry['rate']:g}",
        f"{entry['score']} {number(entry['mean'])}",
        str(entry["draws"]),
        close,
        "yes" if entry["edge"] else "",
    )


def _deciding(entry: Row) -> Row | None:
    """The first part with the verdict of the whole."""
    parts: Sequence[Row] = entry["parts"]
    same = [part for part in parts if part["verdict"] == entry["verdict"]]
    return next(iter(same or parts), None)


# ---------------------------------------------------------------------------------------------------------- as released
