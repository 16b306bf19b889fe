"""Differences, verdicts, control arms, the planner and the plain-words reading, all from the stored rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bcpd.power import detectable_effect, draws_needed
from bcpd.stats import holm, mean_interval, paired_difference
from experiments.when_mse_wins.quantities import BY_ID, QUANTITIES, Quantity, values
from experiments.when_mse_wins.stages import short

__all__ = ["CONTROLS", "control_differences", "planner", "reading", "summarise", "temperatures"]

Row = Mapping[str, Any]

LEVEL = 0.05
EFFECTS = {"mse": (0.001, 0.003, 0.01, 0.03), "kl": (0.003, 0.01, 0.03, 0.1), "accuracy": (0.001, 0.003, 0.01, 0.03)}
SMALL_ACCURACY = 0.005
"""Half a point: a smaller gain or loss of a student's accuracy counts as of no importance, if the interval says so."""

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
    """MSE minus CE for every cell and quantity; Holm's correction over the cells, quantity by quantity."""
    found = []
    for quantity in QUANTITIES:
        entries = [_difference(name, own, quantity) for name, own in rows.items()]
        tested = [entry for entry in entries if entry["p"] is not None]
        adjusted = holm([entry["p"] for entry in tested]) if tested else []
        for entry, p in zip(tested, adjusted, strict=True):
            entry["p_holm"] = short(p)
            entry["verdict"] = _verdict(quantity, entry["mean"], p)
        found.extend(entries)
    return found


def _difference(cell: str, rows: Sequence[Row], quantity: Quantity) -> dict[str, Any]:
    ce, mse = (values(rows, quantity, arm) for arm in ("ce", "mse"))
    draws = [draw for draw in sorted(ce) if draw in mse and math.isfinite(ce[draw]) and math.isfinite(mse[draw])]
    entry: dict[str, Any] = {"cell": cell, "quantity": quantity.id, "n": len(draws)}
    if len(draws) < 2:
        return entry | dict.fromkeys(("mean", "low", "high", "sd", "p", "p_holm", "ce", "mse")) | {"verdict": "none"}
    found = paired_difference([mse[d] for d in draws], [ce[d] for d in draws])
    return entry | {
        "mean": short(found.mean),
        "low": short(found.low),
        "high": short(found.high),
        "sd": short(found.stderr * math.sqrt(found.n)),
        "p": short(found.p_value),
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
    """Every control arm minus CE and minus MSE, at the best score and at the last epoch."""
    found = []
    for cell, own in rows.items():
        for checkpoint in ("best_score", "last"):
            for role, metrics in (
                ("teacher", ("transfer_mse", "fresh_mse", "fresh_kl", "fresh_accuracy")),
                ("student", ("fresh_accuracy", "fresh_mse")),
            ):
                for metric in metrics:
                    quantity = BY_ID[f"{role} {metric} score/{checkpoint}"]
                    for against in ("ce", "mse"):
                        for arm, label in CONTROLS.items():
                            entry = _against(own, quantity, arm, against)
                            if arm != against and entry is not None:
                                place = {"cell": cell, "arm": arm, "label": label, "teacher_checkpoint": checkpoint}
                                found.append({**place, "role": role, "metric": metric, "against": against, **entry})
    return found


def _against(rows: Sequence[Row], quantity: Quantity, arm: str, against: str) -> dict[str, Any] | None:
    first, second = values(rows, quantity, arm), values(rows, quantity, against)
    if arm == "bayes" and quantity.role == "student":
        first = {row["draw"]: row[quantity.metric] for row in rows if (row["role"], row["arm"]) == ("student", "bayes")}
    if not first:
        return None
    draws = sorted(first.keys() & second.keys())
    lost = sum(not (math.isfinite(first[d]) and math.isfinite(second[d])) for d in draws)
    if lost or len(draws) < 2:
        return dict.fromkeys(("mean", "low", "high", "p")) | {"n": len(draws) - lost, "infinite": lost}
    found = paired_difference([first[d] for d in draws], [second[d] for d in draws])
    numbers = {"mean": found.mean, "low": found.low, "high": found.high, "p": found.p_value}
    return {name: short(value) for name, value in numbers.items()} | {"n": found.n, "infinite": 0}


def temperatures(rows: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """Fitted temperatures of CE and MSE teachers, mean over draws."""
    found = []
    for cell, own in rows.items():
        for arm in ("ce", "mse"):
            for checkpoint in ("best_score", "last"):
                for score in ("nll", "brier"):
                    fitted = [
                        row["temperature"]
                        for row in own
                        if (row["role"], row["arm"], row["checkpoint"]) == ("teacher", f"{arm}_t_{score}", checkpoint)
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
    """How many draws show a difference of a given size: at the median and at the largest spread over the cells."""
    found = []
    for quantity in QUANTITIES:
        spreads = [e["sd"] for e in summary if e["quantity"] == quantity.id and e["sd"]]
        if not spreads:
            continue
        median, largest = short(statistics.median(spreads)), max(spreads)
        effects = [
            {
                "effect": effect,
                "draws_median": draws_needed(median, effect),
                "draws_largest": draws_needed(largest, effect),
            }
            for effect in EFFECTS[quantity.metric.split("_")[-1]]
        ]
        labels = {"quantity": quantity.id, "label": quantity.label, "unit": quantity.unit}
        found.append(labels | {"sd_median": median, "sd_largest": largest, "effects": effects})
    return {"power": 0.8, "level": LEVEL, "quantities": found}


# ------------------------------------------------------------------------------------------------------------- reading


def reading(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Plain sentences, each with its number and its figure; whatever the numbers say."""
    read = _Reading(results)
    sentences = [
        *read.counts(),
        *read.base(),
        *read.along_lines(),
        *read.students(),
        *read.advice(),
        *read.controls(),
        *read.settings(),
        *read.checks(),
    ]
    return [{"topic": topic, "text": text, "figure": figure} for topic, text, figure in sentences]


Sentence = tuple[str, str, str]


class _Reading:
    def __init__(self, results: Mapping[str, Any]) -> None:
        self.results = results
        self.base_name = results["base"]
        self.of = {(entry["cell"], entry["quantity"]): entry for entry in results["summary"]}
        self.cells = [cell["name"] for cell in results["cells"]]

    def entries(self, quantity: str) -> list[Row]:
        found = [self.of[cell, quantity] for cell in self.cells]
        return [entry for entry in found if entry["mean"] is not None]

    def counts(self) -> list[Sentence]:
        found = []
        for quantity, what, figure in (
            ("teacher fresh_mse score/best_score", "in MSE to p* on fresh points, at the best own score", "map-lines"),
            ("teacher fresh_kl score/best_score", "in KL to p* on fresh points, at the best own score", "map-lines"),
            ("teacher transfer_mse score/best_score", "in MSE to p* on the transfer inputs", "map-lines"),
            ("teacher fresh_mse score/last", "in MSE to p* on fresh points, at the last epoch", "map-lines"),
            ("teacher fresh_mse score/path_minimum_mse", "in MSE to p*, at the minimum of its path", "map-lines"),
            ("teacher fresh_mse accuracy/best_accuracy", "in MSE to p*, tuned and stopped by accuracy", "map-lines"),
        ):
            entries = self.entries(quantity)
            mse, ce = (sum(e["verdict"] == f"{arm} closer" for e in entries) for arm in ("mse", "ce"))
            rest = len(entries) - mse - ce
            text = (
                f"Of {len(entries)} cells the MSE teacher is closer to p* {what} in {mse}, the CE teacher in {ce}; "
                f"in {rest} no difference was seen (Holm, 5 %)."
            )
            found.append(("teacher", text, figure))
        return found

    def base(self) -> list[Sentence]:
        parts = []
        for state, words in (
            ("best_score", "best score"),
            ("last", "last epoch"),
            ("path_minimum_mse", "path minimum"),
        ):
            entry = self.of[self.base_name, f"teacher fresh_mse score/{state}"]
            parts.append(f"{words} {_interval(entry)}")
        text = f"In the base cell MSE minus CE of the teacher's MSE to p* on fresh points is: {'; '.join(parts)}."
        return [("teacher", text, "map-lines")]

    def along_lines(self) -> list[Sentence]:
        quantity = "teacher fresh_mse score/best_score"
        found = []
        for line in self.results["lines"]:
            entries = [self.of[cell, quantity] for cell in line["cells"]]
            known = [(level, e) for level, e in zip(line["levels"], entries, strict=True) if e["mean"] is not None]
            if not known:
                continue
            closer = [str(level) for level, e in known if e["verdict"] == "mse closer"]
            further = [str(level) for level, e in known if e["verdict"] == "ce closer"]
            (low_level, low), (high_level, high) = (
                min(known, key=lambda pair: pair[1]["mean"]),
                max(known, key=lambda pair: pair[1]["mean"]),
            )
            said = [
                f"MSE is closer at {', '.join(closer)}" if closer else "MSE is closer nowhere",
                f"CE is closer at {', '.join(further)}" if further else "CE is closer nowhere",
            ]
            text = (
                f"Along {line['label']}, at the best score: {'; '.join(said)}. The difference runs from "
                f"{_interval(low)} at {low_level} to {_interval(high)} at {high_level}."
            )
            found.append(("teacher", text, "map-lines"))
        return found

    def students(self) -> list[Sentence]:
        found = []
        for state, words in (("best_score", "best-score"), ("last", "last-epoch")):
            entries = self.entries(f"student fresh_accuracy score/{state}")
            better, worse = (sum(e["verdict"] == f"{arm} better" for e in entries) for arm in ("mse", "ce"))
            inside = sum(_flat(e) for e in entries)
            highest, lowest = max(entries, key=lambda e: e["mean"]), min(entries, key=lambda e: e["mean"])
            text = (
                f"Students of {words} MSE teachers are more accurate than those of CE teachers in {better} of "
                f"{len(entries)} cells and less accurate in {worse}; in {inside} the whole interval lies within "
                f"{100 * SMALL_ACCURACY:g} points. The largest gain is {_points(highest)} ({highest['cell']}), the "
                f"largest loss {_points(lowest)} ({lowest['cell']})."
            )
            found.append(("student", text, "map-students"))
        own = self.entries("student fresh_mse score/best_score")
        mse, ce = (sum(e["verdict"] == f"{arm} closer" for e in own) for arm in ("mse", "ce"))
        text = (
            f"The student itself is closer to p* (MSE, fresh points) after an MSE teacher in {mse} of {len(own)} "
            f"cells, after a CE teacher in {ce}."
        )
        found.append(("student", text, "map-students"))
        return found

    def advice(self) -> list[Sentence]:
        """When to train the teacher with MSE, when it does not matter, when it harms: by the student's accuracy."""
        entries = self.entries("student fresh_accuracy score/best_score")
        groups = {
            "Train the teacher with MSE": [e for e in entries if e["verdict"] == "mse better"],
            "Training the teacher with MSE harms": [e for e in entries if e["verdict"] == "ce better"],
        }
        found = []
        for words, own in groups.items():
            if not own:
                text = f"{words}: in no cell does the student's accuracy say so (Holm, 5 %, {len(entries)} cells)."
            else:
                own = sorted(own, key=lambda e: -abs(e["mean"]))
                listed = "; ".join(f"{e['cell']} ({_points(e)})" for e in own[:6])
                more = f"; and {len(own) - 6} more cells" if len(own) > 6 else ""
                text = f"{words}, by the student's accuracy, in: {listed}{more}."
            found.append(("advice", text, "map-students"))
        flat = [e for e in entries if _flat(e)]
        unknown = [e for e in entries if e not in flat and e["verdict"] == "no difference seen"]
        text = (
            f"It does not matter (the interval of the student's accuracy within {100 * SMALL_ACCURACY:g} points) in "
            f"{len(flat)} of {len(entries)} cells"
        )
        if unknown:
            spread = statistics.median(detectable_effect(e["sd"], e["n"]) for e in unknown if e["sd"])
            text += (
                f"; in {len(unknown)} neither was shown, where a difference of {100 * spread:.2g} points would have "
                f"been seen four times in five (median, before Holm)"
            )
        found.append(("advice", text + ".", "map-students"))
        teachers = self.entries("teacher fresh_mse score/best_score")
        largest = sorted(teachers, key=lambda e: e["mean"] / e["ce"])
        if largest:
            low, high = largest[0], largest[-1]
            text = (
                f"Relative to the CE teacher's own distance the MSE teacher's ranges from "
                f"{100 * low['mean'] / low['ce']:+.2g} % ({low['cell']}) to {100 * high['mean'] / high['ce']:+.2g} % "
                f"({high['cell']})."
            )
            found.append(("advice", text, "map-lines"))
        return found

    def controls(self) -> list[Sentence]:
        found = []
        table = {
            (e["cell"], e["arm"], e["teacher_checkpoint"], e["role"], e["metric"], e["against"]): e
            for e in self.results["controls"]
        }
        for cell in self.results["spec"]["controls"]:
            for checkpoint, words in (("last", "last epoch"), ("best_score", "best score")):
                plain = table.get((cell, "mse", checkpoint, "teacher", "fresh_mse", "ce"))
                tempered = table.get((cell, "ce_t_nll", checkpoint, "teacher", "fresh_mse", "mse"))
                both = table.get((cell, "ce_t_nll", checkpoint, "teacher", "fresh_mse", "ce"))
                if plain and tempered and both and None not in (plain["mean"], tempered["mean"], both["mean"]):
                    text = (
                        f"{cell}, {words}: MSE minus CE of the teacher's MSE to p* is {_interval(plain)}; a "
                        f"temperature fitted on held-out NLL moves CE by {_interval(both)}, and CE + T minus MSE is "
                        f"then {_interval(tempered)}."
                    )
                    found.append(("temperature", text, "map-controls"))
            best = [
                e
                for e in self.results["controls"]
                if (e["cell"], e["teacher_checkpoint"], e["role"], e["metric"], e["against"])
                == (cell, "best_score", "student", "fresh_accuracy", "ce")
                and e["mean"] is not None
                and e["arm"] != "bayes"
            ]
            if best:
                first = max(best, key=lambda e: e["mean"])
                last = min(best, key=lambda e: e["mean"])
                text = (
                    f"{cell}: of all arms at the best score, the most accurate student is that of "
                    f"{first['label']} ({_points(first)} against CE), the least accurate that of {last['label']} "
                    f"({_points(last)})."
                )
                found.append(("controls", text, "map-controls"))
        return found

    def settings(self) -> list[Sentence]:
        found = []
        for setting in self.results["settings"]:
            parts = []
            for level, cell in zip(setting["levels"], setting["cells"], strict=True):
                entry = self.of[cell, "student fresh_accuracy score/best_score"]
                if entry["mean"] is not None:
                    parts.append(f"{level}: {_points(entry)}, {entry['verdict']}")
            text = (
                f"{setting['title']}: the student's accuracy, MSE minus CE, by {setting['label']}: {'; '.join(parts)}."
            )
            found.append(("settings", text[0].upper() + text[1:], "map-settings"))
        return found

    def checks(self) -> list[Sentence]:
        rates = [rate for rate in self.results["rates"] if rate["role"] == "teacher" and rate["arm"] in ("ce", "mse")]
        edges = [rate for rate in rates if rate["edge"]]
        text = f"{len(edges)} of {len(rates)} tuned rates of CE and MSE teachers lie on the edge of the grid"
        if edges:
            text += ": " + "; ".join(f"{r['cell']} {r['arm']} by {r['tuned_by']} {r['rate']:g}" for r in edges[:8])
            text += f"; and {len(edges) - 8} more" if len(edges) > 8 else ""
        found = [("rates", text + ".", "map-rates")]
        equality = self.results["equality"]
        released = equality["released_scale"]
        text = (
            f"MSE divided by K, trained at K times the rate and a K-th of the decay, gives the MSE teacher's "
            f"probabilities within {equality['largest_difference']:.1g} (float64); at the same rate its MSE to p* "
            f"differs by {released['mean']:+.3g}."
        )
        found.append(("checks", text, "map-rates"))
        for entry in self.results["planner"]["quantities"]:
            if BY_ID[entry["quantity"]].record()["headline"]:
                needed = ", ".join(f"{e['effect']:g}: {e['draws_median']}" for e in entry["effects"])
                text = (
                    f"Draws that show a difference in {entry['label']} ({entry['quantity'].split()[0]}) with power "
                    f"0.8, at the median spread {entry['sd_median']:.2g}: {needed}."
                )
                found.append(("planner", text, "map-lines"))
        return found


def _flat(entry: Row) -> bool:
    """No difference of importance, by the whole interval."""
    return bool(max(-entry["low"], entry["high"]) < SMALL_ACCURACY)


def _interval(entry: Row) -> str:
    if entry["mean"] is None:
        return "not measured"
    return f"{entry['mean']:+.3g} [{entry['low']:+.3g}, {entry['high']:+.3g}]"


def _points(entry: Row) -> str:
    mean, low, high = (100 * entry[name] for name in ("mean", "low", "high"))
    return f"{mean:+.2f} points [{low:+.2f}, {high:+.2f}]"
