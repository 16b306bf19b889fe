"""From rows to tables: values of every arm, paired differences with intervals and p-values, and what they say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bcpd.stats import holm, mean_interval, paired_difference
from experiments.tables.spec import ARMS, Tables
from experiments.tables.stages import CHECKPOINTS, short

__all__ = ["ALL", "COMPARED", "differences", "reading", "values"]

Row = Mapping[str, Any]

COMPARED: tuple[tuple[str, str], ...] = (
    ("mse", "ce"),
    ("ce+T", "ce"),
    ("mse+T", "ce"),
    ("ls", "ce"),
    ("mse+T", "ce+T"),
)
"""(arm, the arm that it is compared with)."""

ALL, TEACHER = "all", "teacher"
"""The mean over methods, seed by seed; and the teachers themselves. Both stand where methods stand."""

Key = tuple[tuple[str, str], str, str, float, str]
"""Pair, method, arm, share, checkpoint."""


def _accuracies(rows: Sequence[Row]) -> dict[Key, dict[int, float]]:
    """Test accuracy of students by seed."""
    found: dict[Key, dict[int, float]] = {}
    for row in rows:
        if "refused" not in row:
            key = (tuple(row["pair"]), row["method"], row["arm"], float(row["share"]), row["checkpoint"])
            found.setdefault(key, {})[row["seed"]] = float(row["test_accuracy"])
    return found


def _numbers(interval: Any) -> dict[str, Any]:
    return {name: short(getattr(interval, name)) for name in ("mean", "low", "high")} | {"n": interval.n}


def values(spec: Tables, teachers: Sequence[Row], students: Sequence[Row]) -> list[dict[str, Any]]:
    """Mean test accuracy and its 95 % t-interval over seeds, of teachers and of every method's students."""
    found: list[dict[str, Any]] = []
    by_teacher: dict[tuple[str, str, float, str], list[float]] = {}
    for row in teachers:
        if "refused" not in row:
            key = (row["net"], row["arm"], float(row["share"]), row["checkpoint"])
            by_teacher.setdefault(key, []).append(float(row["test_accuracy"]))
    for (net, arm, share, checkpoint), sample in by_teacher.items():
        about = {"role": "teacher", "net": net, "arm": arm, "share": share, "checkpoint": checkpoint}
        found.append(about | _numbers(mean_interval(sample)))
    for (pair, method, arm, share, checkpoint), by_seed in _accuracies(students).items():
        about = {"role": "student", "pair": list(pair), "method": method, "arm": arm, "share": share}
        found.append(about | {"checkpoint": checkpoint} | _numbers(mean_interval(list(by_seed.values()))))
    return found


def differences(spec: Tables, teachers: Sequence[Row], students: Sequence[Row]) -> list[dict[str, Any]]:
    """Paired differences of test accuracy over the seeds that both arms have, with p-values.

    Of every method's students, of their mean over the methods, over the seeds in which all of these are there, and of
    the teachers themselves. Holm's correction is over all methods, pairs and shares of a comparison and checkpoint; the
    other two stand outside it.
    """
    accuracies = _accuracies(students)
    accuracies |= _accuracies(
        [
            {**row, "pair": list(pair), "method": TEACHER, "share": share}
            for row in teachers
            for pair in spec.pairs
            for share in (spec.shares if spec.protocol.teacher_sees == "all" else (row["share"],))
            if pair[0] == row["net"] and not ARMS[row["arm"]][1]  # a temperature moves no accuracy
        ]
    )
    found: list[dict[str, Any]] = []
    for arm, against in COMPARED:
        for checkpoint in CHECKPOINTS:
            family: list[dict[str, Any]] = []
            for pair in spec.pairs:
                for share in spec.shares:
                    gaps = _gaps(accuracies, pair, share, checkpoint, arm, against, spec.methods)
                    about: dict[str, Any] = {"pair": list(pair), "share": share, "checkpoint": checkpoint}
                    about |= {"arm": arm, "against": against}
                    own = [about | {"method": method} | _difference(by_seed) for method, by_seed in gaps.items()]
                    family.extend(own)
                    itself = _gaps(accuracies, pair, share, checkpoint, arm, against, (TEACHER,))
                    if itself:
                        found.append(about | {"method": TEACHER, "p_holm": None} | _difference(itself[TEACHER]))
                    if len(gaps) > 1:
                        whole = set.intersection(*(set(by_seed) for by_seed in gaps.values()))
                        mean = {seed: statistics.fmean(each[seed] for each in gaps.values()) for seed in sorted(whole)}
                        if mean:
                            found.append(about | {"method": ALL, "p_holm": None} | _difference(mean))
            tested = [entry for entry in family if math.isfinite(entry["p"])]
            adjusted = holm([entry["p"] for entry in tested]) if tested else []
            for entry in family:
                entry["p_holm"] = None
            for entry, p in zip(tested, adjusted, strict=True):
                entry["p_holm"] = short(p)
            found.extend(family)
    return found


def _gaps(
    accuracies: Mapping[Key, Mapping[int, float]],
    pair: tuple[str, str],
    share: float,
    checkpoint: str,
    arm: str,
    against: str,
    methods: Sequence[str],
) -> dict[str, dict[int, float]]:
    """By method and seed."""
    found = {}
    for method in methods:
        first, second = (accuracies.get((pair, method, one, share, checkpoint), {}) for one in (arm, against))
        both = sorted(first.keys() & second.keys())
        if both:
            found[method] = {seed: first[seed] - second[seed] for seed in both}
    return found


def _difference(by_seed: Mapping[int, float]) -> dict[str, Any]:
    gaps = list(by_seed.values())
    found = paired_difference(gaps, [0.0] * len(gaps))
    return _numbers(found) | {"p": short(found.p_value)}


# --------------------------------------------------------------------------------------------------------------- words


def reading(spec: Tables, found: Sequence[Row], measured: Sequence[Row]) -> list[dict[str, str]]:
    """What the table says, each sentence with its numbers, and what it cannot say."""
    sentences = []
    for pair in spec.pairs:
        name = f"{pair[0]} to {pair[1]}"
        for share in spec.shares:
            where = name if len(spec.shares) == 1 else f"{name}, {share:.0%} of the {_what(spec)}"
            own_teachers = spec.protocol.teacher_sees == "share"
            teachers = _teachers(spec, measured, pair[0], share if own_teachers else 1.0)
            if teachers and (own_teachers or share == spec.shares[0]):
                sentences.append({"topic": "teachers", "text": f"{where}: {teachers}."})
            own = [row for row in found if _is(row, pair, share, "mse", "ce")]
            if own:
                sentences.append({"topic": "students", "text": f"{where}: {_tally(own)}"})
    return sentences


def _what(spec: Tables) -> str:
    return "labels" if spec.protocol.partial == "labels" else "images"


def _teachers(spec: Tables, measured: Sequence[Row], net: str, share: float) -> str:
    parts = []
    for arm in (arm for arm in spec.teachers if not ARMS[arm][1]):
        for row in measured:
            place = (row["role"], row.get("net"), row["arm"], row["share"], row["checkpoint"])
            if place == ("teacher", net, arm, share, "last"):
                parts.append(f"{arm.upper()} {_points(row)}")
    return "teachers' test accuracy in %: " + ", ".join(parts) if parts else ""


def _is(row: Row, pair: tuple[str, str], share: float, arm: str, against: str) -> bool:
    place = (tuple(row["pair"]), row["share"], row["arm"], row["against"], row["checkpoint"])
    return place == (pair, share, arm, against, "last")


def _tally(rows: Sequence[Row]) -> str:
    each = [row for row in rows if row["method"] not in (ALL, TEACHER)]
    more = [row for row in each if float(row["low"]) > 0]
    less = [row for row in each if float(row["high"]) < 0]
    sure = sum(row["p_holm"] is not None and row["p_holm"] < 0.05 for row in each)
    text = (
        f"of {len(each)} methods the student of the MSE teacher is more accurate in {len(more)}{_names(more)} and less "
        f"accurate in {len(less)}{_names(less)}; {len(each) - len(more) - len(less)} cannot be decided (95 % intervals "
        f"over seeds, one by one; {sure} with Holm's correction)."
    )
    whole = [row for row in rows if row["method"] == ALL]
    if whole:
        text += f" Mean over the methods: {_points(whole[0])} points."
    widths = [50 * (float(row["high"]) - float(row["low"])) for row in each]
    if widths and math.isfinite(max(widths)):
        text += f" Half the width of an interval is {statistics.median(widths):.2g} points at the median."
    return text


def _names(rows: Sequence[Row]) -> str:
    return f" ({', '.join(row['method'] for row in rows)})" if rows else ""


def _points(row: Row) -> str:
    mean, low, high = (100 * float(row[name]) for name in ("mean", "low", "high"))
    sign = "+" if "against" in row else ""
    if not math.isfinite(low):
        return f"{mean:{sign}.2f} (one seed: no interval)"
    return f"{mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"
