"""Differences, verdicts, control arms, best epochs and the planner, all from the stored rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bcpd.power import draws_needed
from bcpd.stats import holm, mean_interval, paired_difference
from experiments.when_mse_wins.quantities import BY_ID, HEADLINES, QUANTITIES, Quantity, values
from experiments.when_mse_wins.stages import CONTROL_STATES, PAIR, short
from experiments.when_mse_wins.words import reading

__all__ = [
    "CONTROLS",
    "best_epochs",
    "control_differences",
    "planner",
    "reading",
    "students_by_rate",
    "summarise",
    "temperatures",
]

Row = Mapping[str, Any]

LEVEL = 0.05
EFFECTS = {"mse": (0.001, 0.003, 0.01, 0.03), "kl": (0.003, 0.01, 0.03, 0.1), "accuracy": (0.001, 0.003, 0.01, 0.03)}
PLANNED = (("score", "best_score"), ("last", "last"))
"""(tuned by, state of the teacher) of the quantities that draws are planned for."""

CONTROLS = {
    "ce_t_nll": "CE, temperature by NLL",
    "ce_t_brier": "CE, temperature by Brier score",
    "mse": "MSE",
    "mse_t_nll": "MSE, temperature by NLL",
    "mse_t_brier": "MSE, temperature by Brier score",
    "label_smoothing": "CE, label smoothing",
    "ce_early": "CE, stopped early",
    "crossfit": "CE, cross-fitted",
    "ensemble": "CE, mean of an ensemble",
    "logit_projection": "square loss on logits, projected",
    "logit_softmax": "square loss on logits, softmax",
    "bayes": "exact p*",
}


# ------------------------------------------------------------------------------------------------------------- summary


def summarise(rows: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """MSE minus CE for every cell and quantity.

    Holm's correction is over all cells of the two headlines together, and over the cells of every other quantity by
    itself (exploratory).
    """
    found = {quantity.id: [_difference(name, own, quantity) for name, own in rows.items()] for quantity in QUANTITIES}
    families = [[entry for name in HEADLINES for entry in found[name]]]
    families += [entries for name, entries in found.items() if name not in HEADLINES]
    for family in families:
        tested = [entry for entry in family if entry["p"] is not None]
        adjusted = holm([entry["p"] for entry in tested]) if tested else []
        for entry, p in zip(tested, adjusted, strict=True):
            entry["p_holm"] = short(p)
            entry["verdict"] = _verdict(BY_ID[entry["quantity"]], entry["mean"], p)
    return [entry for entries in found.values() for entry in entries]


def _difference(cell: str, rows: Sequence[Row], quantity: Quantity) -> dict[str, Any]:
    """Over the draws in which both arms are finite; without a verdict where an arm was lost in any draw."""
    ce, mse = (values(rows, quantity, arm) for arm in PAIR)
    both = sorted(ce.keys() & mse.keys())
    draws = [draw for draw in both if math.isfinite(ce[draw]) and math.isfinite(mse[draw])]
    lost = len(both) - len(draws)
    entry: dict[str, Any] = {"cell": cell, "quantity": quantity.id, "n": len(draws), "lost": lost}
    entry |= dict.fromkeys(("mean", "low", "high", "sd", "p", "p_holm", "ce", "mse")) | {"verdict": "none"}
    if len(draws) < 2:
        return entry
    found = paired_difference([mse[d] for d in draws], [ce[d] for d in draws])
    return entry | {
        "mean": short(found.mean),
        "low": short(found.low),
        "high": short(found.high),
        "sd": short(found.stderr * math.sqrt(found.n)),
        "p": None if lost else short(found.p_value),
        "ce": short(statistics.fmean(ce[d] for d in draws)),
        "mse": short(statistics.fmean(mse[d] for d in draws)),
    }


def _verdict(quantity: Quantity, mean: float, p: float) -> str:
    if p >= LEVEL:
        return "no difference seen"
    better = "mse" if (mean < 0) == (quantity.better == "lower") else "ce"
    return f"{better} {'closer' if quantity.better == 'lower' else 'better'}"


# ------------------------------------------------------------------------------------------------------------ controls


def control_differences(rows: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """Every control arm minus CE and minus MSE, at the best score and the last epoch; Holm's correction over arms."""
    found = []
    for cell, own in rows.items():
        for by, checkpoint in CONTROL_STATES.items():
            for role, metrics in (
                ("teacher", ("transfer_mse", "fresh_mse", "fresh_kl", "fresh_accuracy")),
                ("student", ("fresh_accuracy", "fresh_mse")),
            ):
                for metric in metrics:
                    quantity = BY_ID[f"{role} {metric} {by}/{checkpoint}"]
                    for against in PAIR:
                        place = {"cell": cell, "teacher_checkpoint": checkpoint, "role": role, "metric": metric}
                        family = [
                            {**place, "arm": arm, "label": label, "against": against, **entry}
                            for arm, label in CONTROLS.items()
                            if arm != against
                            and not _is_no_teacher(arm, quantity)
                            and (entry := _against(own, quantity, arm, against)) is not None
                        ]
                        tested = [entry for entry in family if entry["p"] is not None]
                        adjusted = holm([entry["p"] for entry in tested]) if tested else []
                        for entry, p in zip(tested, adjusted, strict=True):
                            entry["p_holm"] = short(p)
                        found.extend(family)
    return found


def _is_no_teacher(arm: str, quantity: Quantity) -> bool:
    """On fresh points cross-fitted teachers are the mean of the folds, which is not what their students saw."""
    return arm == "crossfit" and quantity.role == "teacher" and quantity.metric.startswith("fresh")


def _against(rows: Sequence[Row], quantity: Quantity, arm: str, against: str) -> dict[str, Any] | None:
    first, second = values(rows, quantity, arm), values(rows, quantity, against)
    if arm == "bayes" and quantity.role == "student":
        state = ("student", "bayes", quantity.checkpoint)
        own = [row for row in rows if (row["role"], row["arm"], row["checkpoint"]) == state]
        first = {row["draw"]: row[quantity.metric] for row in own}
    if not first:
        return None
    draws = sorted(first.keys() & second.keys())
    lost = sum(not (math.isfinite(first[d]) and math.isfinite(second[d])) for d in draws)
    nothing = dict.fromkeys(("mean", "low", "high", "p", "p_holm"))
    if lost or len(draws) < 2:
        return {**nothing, "n": len(draws) - lost, "lost": lost}
    found = paired_difference([first[d] for d in draws], [second[d] for d in draws])
    numbers = {"mean": found.mean, "low": found.low, "high": found.high, "p": found.p_value}
    return {**nothing, **{name: short(value) for name, value in numbers.items()}, "n": found.n, "lost": 0}


def students_by_rate(cell: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The students' accuracy at the tuned rate and at its neighbours, MSE minus CE, at the best score."""
    by_rate: dict[float, dict[str, dict[int, float]]] = {}
    tuned = set()
    for row in rows:
        place = (row["tuned_by"], row["teacher_checkpoint"], row["checkpoint"])
        if (
            row["role"] in ("student", "neighbour")
            and place == ("score", "best_score", "best_score")
            and row["arm"] in PAIR
        ):
            by_rate.setdefault(row["rate"], {}).setdefault(row["arm"], {})[row["draw"]] = row["fresh_accuracy"]
            if row["role"] == "student":
                tuned.add(row["rate"])
    found = []
    for rate, arms in sorted(by_rate.items()):
        gaps = [arms["mse"][draw] - arms["ce"][draw] for draw in sorted(arms["mse"])]
        entry: dict[str, Any] = {"cell": cell, "rate": rate, "tuned": rate in tuned, "n": len(gaps)}
        entry |= dict.fromkeys(("mean", "low", "high"))
        if len(gaps) > 1 and all(map(math.isfinite, gaps)):
            interval = mean_interval(gaps)
            entry |= {"mean": short(interval.mean), "low": short(interval.low), "high": short(interval.high)}
        found.append(entry)
    return found


def best_epochs(rows: Mapping[str, Sequence[Row]], epochs: Mapping[str, int]) -> list[dict[str, Any]]:
    """The best epochs of CE and MSE teachers, and in how many draws that was the last one: more might have helped."""
    found = []
    for cell, own in rows.items():
        for arm in PAIR:
            state = ("teacher", arm, "score", "best_score")
            best = [r["epoch"] for r in own if (r["role"], r["arm"], r["tuned_by"], r["checkpoint"]) == state]
            numbers = {"median": statistics.median(best), "low": min(best), "high": max(best), "n": len(best)}
            at_end = sum(epoch == epochs[cell] for epoch in best)
            entry = {"cell": cell, "arm": arm, "epochs": epochs[cell], **numbers, "at_end": at_end}
            found.append(entry | {"budget_limited": 2 * at_end >= len(best)})
    return found


def temperatures(rows: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """Fitted temperatures of CE and MSE teachers, mean over draws."""
    found = []
    for cell, own in rows.items():
        for arm in ("ce", "mse"):
            for by, checkpoint in CONTROL_STATES.items():
                for score in ("nll", "brier"):
                    state = ("teacher", f"{arm}_t_{score}", by, checkpoint)
                    fitted = [
                        row["temperature"]
                        for row in own
                        if (row["role"], row["arm"], row["tuned_by"], row["checkpoint"]) == state
                        and math.isfinite(row["temperature"])
                    ]
                    if fitted:
                        interval = mean_interval(fitted)
                        numbers = {"mean": interval.mean, "low": interval.low, "high": interval.high}
                        found.append(
                            {"cell": cell, "arm": arm, "checkpoint": checkpoint, "score": score, "n": interval.n}
                            | {name: short(value) for name, value in numbers.items()}
                        )
    return found


# ------------------------------------------------------------------------------------------------------------- planner


def planner(summary: Sequence[Row]) -> dict[str, Any]:
    """How many draws show a difference of a given size: at the median and at the largest spread over the cells.

    ``draws_median_adjusted``: at level 0.05 / number of cells, as for a difference that is to be shown in a map.
    """
    cells = len({entry["cell"] for entry in summary})
    found = []
    usual = [quantity for quantity in QUANTITIES if (quantity.tuned_by, _state(quantity)) in PLANNED]
    for quantity in usual:
        spreads = [e["sd"] for e in summary if e["quantity"] == quantity.id and e["sd"]]
        if not spreads:
            continue
        median, largest = short(statistics.median(spreads)), max(spreads)
        effects = [
            {
                "effect": effect,
                "draws_median": draws_needed(median, effect),
                "draws_largest": draws_needed(largest, effect),
                "draws_median_adjusted": draws_needed(median, effect, level=LEVEL / cells),
            }
            for effect in EFFECTS[quantity.metric.split("_")[-1]]
        ]
        labels = {"quantity": quantity.id, "label": quantity.label, "unit": quantity.unit}
        found.append(labels | {"sd_median": median, "sd_largest": largest, "effects": effects})
    return {"power": 0.8, "level": LEVEL, "cells": cells, "level_adjusted": short(LEVEL / cells), "quantities": found}


def _state(quantity: Quantity) -> str:
    """Of the teacher; that of a student whose own state is not the usual one is named after both."""
    if quantity.role == "teacher":
        return quantity.checkpoint
    return f"{quantity.teacher_checkpoint}" if quantity.checkpoint == "best_score" else quantity.id
