"""What is read off the students of Figure 1 beside the predictions: rank correlations, matched levels, rates, teachers.

Accuracies are those at the best own score unless a column says otherwise; nested seeds are averaged within their draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bcpd.runs import Trial
from bcpd.stats import mean_interval, partial_spearman
from bcpd.targets import TARGETS
from experiments.figure1.cells import Row, cell, paired, pairs_of_teachers, summary
from experiments.figure1.spec import short

__all__ = ["comparisons", "correlations", "matched", "rate_choices"]

OUTCOMES = ("best_score", "last")

# ---------------------------------------------------------------------------------------------------- rank correlations


def _in_families(row: Row) -> bool:
    return row["family"] in TARGETS


SETS: Mapping[str, Any] = {
    "all targets": lambda row: True,
    "all families": _in_families,
    "at equal MSE": lambda row: row["matched"] == "mse",
    "at equal KL": lambda row: row["matched"] == "kl",
    "unbiased families": lambda row: _in_families(row) and TARGETS[row["family"]].unbiased,
    "biased families": lambda row: _in_families(row) and not TARGETS[row["family"]].unbiased,
    "biased, argmax moved": lambda row: (
        _in_families(row) and not TARGETS[row["family"]].unbiased and not TARGETS[row["family"]].keeps_argmax
    ),
    "argmax kept": lambda row: _in_families(row) and TARGETS[row["family"]].keeps_argmax,
    "label_mixture alone": lambda row: row["family"] == "label_mixture",
    "real teachers": lambda row: not _in_families(row),
}
"""Sets of targets. The student of p* itself belongs to every one but those at equal MSE and at equal KL."""

WITHOUT_EXACT = ("at equal MSE", "at equal KL")
WITH_TEACHERS = ("all targets", "real teachers")
PAIRS = (("mse", None), ("kl", None), ("mse", "kl"), ("kl", "mse"))


def correlations(students: Sequence[Row]) -> list[dict[str, Any]]:
    """Rank correlation of the student's accuracy with MSE and KL, plain and given the other: within draws, then mean.

    A matched distance counts as its goal, so that the targets of a level are tied in it. One-hot labels (infinite KL)
    and permuted rows are left out. Teachers have students of the first nested seed alone, so that sets with teachers
    take only that seed of the others. Plain correlations reflect the levels that were chosen: with other levels they
    would be others.
    """
    separating = [row for row in students if row["stage"] == "separating"]
    found = []
    for outcome in OUTCOMES:
        column = f"student_accuracy_{outcome}"
        for name, belongs in SETS.items():
            seeds = [row for row in separating if name not in WITH_TEACHERS or row["seed"] == 0]
            rows = [
                row
                for row in _averaged(seeds, (column, "mse", "kl"))
                if (row["family"] == "bayes" and name not in WITHOUT_EXACT)
                or (row["family"] not in ("bayes", "one_hot", "permuted") and belongs(row))
            ]
            lost = sum(not math.isfinite(row[column]) for row in rows)
            for distance, given in PAIRS:
                entry: dict[str, Any] = {"set": name, "outcome": outcome, "distance": distance, "given": given}
                try:
                    if lost:
                        raise ValueError(f"{lost} of {len(rows)} targets were lost to divergence")
                    found.append(entry | _correlation(rows, column, distance, given))
                except ValueError as error:
                    found.append(entry | {"reason": str(error), "lost": lost})
    return found


def _correlation(rows: Sequence[Row], column: str, distance: str, given: str | None) -> dict[str, Any]:
    conditions = np.array([[row[given]] if given else [] for row in rows]).reshape(len(rows), -1)
    interval = partial_spearman(
        [row[column] for row in rows],
        [row[distance] for row in rows],
        conditions,
        units=[row["draw"] for row in rows],
    )
    targets = len(rows) // interval.n
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n, "targets": targets}


def _averaged(students: Sequence[Row], columns: Sequence[str]) -> list[dict[str, Any]]:
    """One row a draw and target; of a matched distance its goal."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in students:
        key = (row["draw"], row["family"], row["matched"], row["goal"], row["checkpoint"])
        groups.setdefault(key, []).append(row)
    found = []
    for (draw, family, distance, goal, _), own in groups.items():
        means = {column: math.fsum(float(row[column]) for row in own) / len(own) for column in columns}
        exact = {distance: goal} if distance else {}
        found.append({"draw": draw, "family": family, "matched": distance, **means, **exact})
    return found


# -------------------------------------------------------------------------------------------------------------- targets


def matched(students: Sequence[Row]) -> list[dict[str, Any]]:
    """For every matched level and family: what its students lose against those of p*, and how far its targets are."""
    found = []
    separating = [row for row in students if row["stage"] == "separating"]
    cells = dict.fromkeys((row["family"], row["matched"], row["goal"]) for row in separating if row["matched"])
    for family, distance, goal in cells:
        entry: dict[str, Any] = {"family": family, "matched": distance, "goal": goal}
        entry["ids"] = [
            row["id"] for row in separating if (row["family"], row["matched"], row["goal"]) == (family, distance, goal)
        ]
        for outcome in OUTCOMES:
            for quantity in ("accuracy", "mse"):
                column = f"student_{quantity}_{outcome}"
                entry[column] = summary(
                    paired(cell(students, column, family, distance, goal), cell(students, column, "bayes"))
                )
        for column in ("mse", "kl", "flip", "squared_bias", "variance"):
            entry[column] = summary(list(cell(students, column, family, distance, goal).values()))
        found.append(entry)
    return found


# ------------------------------------------------------------------------------------------------------------- teachers


def comparisons(teachers: Sequence[Row], alias: Mapping[str, str]) -> list[dict[str, Any]]:
    """MSE teacher minus CE teacher, paired over draws: distance to p* on fresh points by checkpoint and rate.

    At the last epoch twice: at the rates of the best score on the path, which are too high there, and at those tuned by
    the score at the last epoch.
    """
    return list(_comparisons(teachers, alias))


def _comparisons(teachers: Sequence[Row], alias: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    toy = [
        ("path minimum", "best score", "ce", "mse"),
        ("best_score", "best score", "ce", "mse"),
        ("last", "best score", "ce", "mse"),
        ("last", "last epoch", "ce, rate for last", "mse, rate for last"),
    ]
    cells = [("toy", "mlp", *entry) for entry in toy]
    cells += [("contaminated", net, *entry) for net in ("linear", "mlp") for entry in toy[:1]]
    for world, net, checkpoint, tuned_by, ce_arm, mse_arm in cells:
        pairs = pairs_of_teachers(teachers, world, net, ce_arm, mse_arm, alias if world == "toy" else {})
        for distance in ("mse", "kl"):
            place = checkpoint if checkpoint != "path minimum" else f"path_minimum_{distance}"
            values = [mse[place][f"fresh_{distance}"] - ce[place][f"fresh_{distance}"] for ce, mse in pairs]
            if values:
                yield {
                    "world": world,
                    "net": net,
                    "checkpoint": checkpoint,
                    "rates_tuned_by": tuned_by,
                    "rates": {"ce": pairs[0][0]["rate"], "mse": pairs[0][1]["rate"]},
                    "distance": distance,
                    "ids": [row["id"] for pair in pairs for row in pair],
                    **summary(values),
                }


def rate_choices(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Every chosen rate, and how close the scores of its neighbours on the grid were, paired over the tuning draws."""
    found = []
    for best in (trial for trial in trials if trial.chosen):
        own = sorted((trial for trial in trials if trial.arm == best.arm), key=lambda trial: trial.learning_rate)
        place = own.index(best)
        entry: dict[str, Any] = {
            "arm": best.arm,
            "rate": best.learning_rate,
            "score": best.score,
            "mean": short(best.mean),
            "edge": best.edge,
            "draws": len(best.scores),
            "neighbours": [],
        }
        for neighbour in own[max(0, place - 1) : place] + own[place + 1 : place + 2]:
            gaps = [a - b for a, b in zip(neighbour.scores, best.scores, strict=True)]
            close: dict[str, Any] = {"rate": neighbour.learning_rate, "mean": math.nan, "stderr": math.nan}
            if all(map(math.isfinite, gaps)):
                interval = mean_interval(gaps)
                close |= {"mean": short(interval.mean), "stderr": short(interval.stderr)}
            entry["neighbours"].append(close)
        found.append(entry)
    return found
