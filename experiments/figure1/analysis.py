"""What is read off the students of Figure 1: registered predictions with verdicts, rank correlations, matched levels.

The predictions are those of ``theory.md`` B14; what each compares, and the bound, was written before the first run.
A part of a prediction *holds* or *fails* where a 95 % interval over data draws lies wholly on one side of its bound
(equivalence: the 90 % interval of two one-sided tests at 5 %), and is *undecided* otherwise. A prediction fails if any
part fails, and holds if all parts hold. Nested seeds are averaged within their draw first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from bcpd.stats import equivalence, mean_interval, partial_spearman
from bcpd.targets import TARGETS

__all__ = ["DEGENERATE", "PREDICTIONS", "Prediction", "correlations", "matched", "verdicts"]

DEGENERATE = 1e-3
"""A world with a smaller E[1 - |p*|^2] is refused: its p* is one-hot."""

SAME_ACCURACY = 0.01
KL_RATIO = 3.0
FLAT = 0.02
NOT_FLAT = 0.1
MATCHED_SHARE = 0.5
NO_BETTER_THAN_CHANCE = 0.05
PRIMARY, SECONDARY = "best_score", "last"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Prediction:
    """A claim made before the run.

    Attributes:
        id: ``a`` to ``g``.
        statement: what is claimed; rule: what is compared, and with which bound.
    """

    id: str
    statement: str
    rule: str


PREDICTIONS: tuple[Prediction, ...] = (
    Prediction(
        "a",
        "Unbiased families at equal MSE agree in accuracy although their KL differs threefold or more",
        f"every pair of unbiased families at an MSE goal whose mean KL differs by a factor of {KL_RATIO:g} or more: "
        f"accuracies equivalent within {100 * SAME_ACCURACY:g} points",
    ),
    Prediction(
        "b",
        "Label mixtures alone cannot tell MSE from KL: both rank correlations with accuracy are the same number",
        "as released, and within every draw over the levels of label_mixture: the two Spearman correlations differ by "
        "at most 1e-12",
    ),
    Prediction(
        "c",
        "Reverse cross-entropy is flat for unbiased families",
        f"CE(t, p*) minus the entropy of p* equivalent to 0 within {FLAT:g} nats for every unbiased family and level; "
        f"as a contrast, sharpen and flatten at the largest MSE goal are {NOT_FLAT:g} nats away from it",
    ),
    Prediction(
        "d1",
        "Biases that keep the argmax break the order of MSE and accuracy",
        "smoothing, flatten and sharpen at the largest MSE goal give more accurate students than label_mixture at the "
        "next smaller one",
    ),
    Prediction(
        "d2",
        "Sharpening may beat p*",
        "at some MSE goal the student of sharpen is more accurate than the student of p* (interval corrected for the "
        "number of goals); fails only if it is less accurate at all of them",
    ),
    Prediction(
        "e",
        "Class leak is the worst family at equal MSE",
        "at every MSE goal the student of leak is less accurate than that of every other family",
    ),
    Prediction(
        "f1",
        "Real teachers of one rate: their order at the last epoch follows the effective training length",
        "the MSE (and MSE / K) teacher's distance to p* at the last epoch differs from the CE teacher's of the same "
        f"draw by less than {MATCHED_SHARE:g} of the difference at the last epoch, once the CE teacher is taken at the "
        "epoch where both give the training label the same mean probability",
    ),
    Prediction(
        "f2",
        "At the path minimum CE is closer to p* in the well-specified toy",
        "MSE teacher minus CE teacher, each at its own tuned rate, MSE to p* on fresh points at the path minimum: "
        "above 0",
    ),
    Prediction(
        "f3",
        "At the path minimum MSE is closer to p* where the model is misspecified",
        "the same difference for a linear softmax in the contaminated world: below 0",
    ),
    Prediction(
        "g",
        "Controls: shuffled targets destroy accuracy, and one-hot worlds are refused",
        f"the student of p* dealt out to other x is at most {100 * NO_BETTER_THAN_CHANCE:g} points above chance; a "
        f"world with E[1 - |p*|^2] < {DEGENERATE:g} is refused",
    ),
)


# ------------------------------------------------------------------------------------------------------------- verdicts


def verdicts(students: Sequence[Row], teachers: Sequence[Row], worlds: Sequence[Row]) -> list[dict[str, Any]]:
    """Every prediction with its parts, numbers, intervals and verdict; accuracies at the best own score.

    Predictions about accuracy carry ``verdict_last``: the verdict with accuracies at the last epoch.
    """
    found = []
    for prediction in PREDICTIONS:
        entry: dict[str, Any] = {"id": prediction.id, "statement": prediction.statement, "rule": prediction.rule}
        parts = list(_PARTS[prediction.id](students, teachers, worlds, PRIMARY))
        entry |= {"verdict": _verdict(prediction.id, parts), "parts": parts}
        if prediction.id in ("a", "d1", "d2", "e", "g"):
            last = list(_PARTS[prediction.id](students, teachers, worlds, SECONDARY))
            entry |= {"verdict_last": _verdict(prediction.id, last), "parts_last": last}
        found.append(entry)
    return found


def _verdict(id: str, parts: Sequence[Row]) -> str:
    said = [part["verdict"] for part in parts]
    if not said:
        return "undecided"
    if id == "d2":
        return "holds" if "holds" in said else "fails" if set(said) == {"fails"} else "undecided"
    return "fails" if "fails" in said else "holds" if set(said) == {"holds"} else "undecided"


def _unbiased_agree(
    students: Sequence[Row], teachers: object, worlds: object, outcome: str
) -> Iterator[dict[str, Any]]:
    for goal in _goals(students, "mse"):
        there = [
            family for family in TARGETS if TARGETS[family].unbiased and _cell(students, "kl", family, "mse", goal)
        ]
        for one, other in combinations(there, 2):
            kls = [float(np.mean(list(_cell(students, "kl", f, "mse", goal).values()))) for f in (one, other)]
            ratio = max(kls) / min(kls)
            if ratio < KL_RATIO:
                continue
            a, b = (_cell(students, f"student_accuracy_{outcome}", f, "mse", goal) for f in (one, other))
            what = f"{one} minus {other} at MSE {goal:g}, KL {ratio:.3g} times apart"
            yield _within(what, _paired(a, b), SAME_ACCURACY)


def _one_order(students: Sequence[Row], teachers: object, worlds: object, outcome: str) -> Iterator[dict[str, Any]]:
    for world in dict.fromkeys(row["world"] for row in students if row["stage"] == "released"):
        grey = [row for row in students if row["world"] == world and row["family"] == "label_mixture"]
        grey = [row for row in grey if row["stage"] == "released"]
        yield _equal_order(f"as released, {world}", [_orders(grey, "student_accuracy_best_accuracy")])
    draws = []
    for draw in dict.fromkeys(row["draw"] for row in students if row["stage"] == "separating"):
        own = [row for row in students if row["stage"] == "separating" and row["draw"] == draw]
        rows = [row for row in own if row["family"] in ("label_mixture", "bayes", "one_hot")]
        draws.append(_orders(rows, f"student_accuracy_{outcome}"))
    if draws:
        yield _equal_order(f"levels of label_mixture, {len(draws)} draws", draws)


def _orders(rows: Sequence[Row], outcome: str) -> tuple[float, float]:
    """Spearman's correlation of an outcome with MSE and with KL; an infinite KL is the largest."""
    accuracy, none = [row[outcome] for row in rows], np.empty((len(rows), 0))
    found = []
    for distance in ("mse", "kl"):
        values = [min(row[distance], 1e300) for row in rows]
        found.append(partial_spearman(values, accuracy, none, units=[0] * len(rows)).mean)
    return found[0], found[1]


def _equal_order(what: str, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    gap = max(abs(mse - kl) for mse, kl in pairs)
    return {
        "what": f"{what}: Spearman with MSE {np.mean([mse for mse, _ in pairs]):.3f}, largest gap to that with KL",
        "mean": gap,
        "low": gap,
        "high": gap,
        "n": len(pairs),
        "bound": 1e-12,
        "verdict": "holds" if gap <= 1e-12 else "fails",
    }


def _flat(students: Sequence[Row], teachers: object, worlds: object, outcome: str) -> Iterator[dict[str, Any]]:
    largest = max(_goals(students, "mse"), default=math.nan)
    for family in TARGETS:
        for distance in ("mse", "kl"):
            for goal in _goals(students, distance):
                reverse = _cell(students, "reverse_ce", family, distance, goal)
                if not reverse:
                    continue
                values = _paired(reverse, _cell(students, "entropy", family, distance, goal))
                what = f"{family} at {distance.upper()} {goal:g}"
                if TARGETS[family].unbiased:
                    yield _within(what, values, FLAT)
                elif family in ("sharpen", "flatten") and (distance, goal) == ("mse", largest):
                    yield _above(f"contrast: {what}", [abs(value) for value in values], NOT_FLAT)


def _order_broken(students: Sequence[Row], teachers: object, worlds: object, outcome: str) -> Iterator[dict[str, Any]]:
    goals = _goals(students, "mse")
    if len(goals) < 2:
        return
    column = f"student_accuracy_{outcome}"
    smaller = _cell(students, column, "label_mixture", "mse", goals[-2])
    for family in ("smoothing", "flatten", "sharpen"):
        values = _paired(_cell(students, column, family, "mse", goals[-1]), smaller)
        yield _above(f"{family} at MSE {goals[-1]:g} minus label_mixture at {goals[-2]:g}", values, 0.0)


def _sharpening(students: Sequence[Row], teachers: object, worlds: object, outcome: str) -> Iterator[dict[str, Any]]:
    goals = _goals(students, "mse")
    column = f"student_accuracy_{outcome}"
    exact = _cell(students, column, "bayes")
    for goal in goals:
        values = _paired(_cell(students, column, "sharpen", "mse", goal), exact)
        yield _above(f"sharpen at MSE {goal:g} minus exact p*", values, 0.0, 1 - 0.05 / len(goals))


def _leak_worst(students: Sequence[Row], teachers: object, worlds: object, outcome: str) -> Iterator[dict[str, Any]]:
    column = f"student_accuracy_{outcome}"
    for goal in _goals(students, "mse"):
        leak = _cell(students, column, "leak", "mse", goal)
        for family in TARGETS:
            other = _cell(students, column, family, "mse", goal)
            if family != "leak" and other:
                yield _below(f"leak minus {family} at MSE {goal:g}", _paired(leak, other), 0.0)


def _length(students: object, teachers: Sequence[Row], worlds: object, outcome: str) -> Iterator[dict[str, Any]]:
    for arm in ("mse, rate of ce", "mse_mean"):
        values = []
        for ce, other in _pairs(teachers, "toy", "mlp", "ce", arm):
            reached = np.maximum.accumulate(ce["label_probability"])
            same = float(np.interp(other["label_probability"][-1], reached, ce["fresh_mse"]))
            at_last = abs(other["fresh_mse"][-1] - ce["fresh_mse"][-1])
            values.append(abs(other["fresh_mse"][-1] - same) - MATCHED_SHARE * at_last)
        yield _below(
            f"{arm} against ce: |difference at equal length| - {MATCHED_SHARE:g} |at the last epoch|", values, 0.0
        )


def _minimum(world: str, net: str, sign: int) -> Any:
    def parts(students: object, teachers: Sequence[Row], worlds: object, outcome: str) -> Iterator[dict[str, Any]]:
        pairs = _pairs(teachers, world, net, "ce", "mse")
        values = [mse["path_minimum_mse"]["fresh_mse"] - ce["path_minimum_mse"]["fresh_mse"] for ce, mse in pairs]
        what = f"mse minus ce, {net} in the {world} world"
        yield _above(what, values, 0.0) if sign > 0 else _below(what, values, 0.0)

    return parts


def _controls(
    students: Sequence[Row], teachers: object, worlds: Sequence[Row], outcome: str
) -> Iterator[dict[str, Any]]:
    permuted = _cell(students, f"student_accuracy_{outcome}", "permuted")
    classes = max(world["num_classes"] for world in worlds)
    values = [value - 1 / classes for value in permuted.values()]
    yield _below("permuted p*: accuracy above chance", values, NO_BETTER_THAN_CHANCE)
    for world in worlds:
        degenerate = world["irreducible"] < DEGENERATE
        trained = any(row["world"] == world["world"] for row in students)
        yield {
            "what": f"{world['world']}: E[1 - |p*|^2]" + (", refused" if world["refused"] else ", run"),
            "mean": world["irreducible"],
            "low": world["irreducible"],
            "high": world["irreducible"],
            "n": 1,
            "bound": DEGENERATE,
            "verdict": "holds" if degenerate == bool(world["refused"]) and trained != degenerate else "fails",
        }


_PARTS: Mapping[str, Any] = {
    "a": _unbiased_agree,
    "b": _one_order,
    "c": _flat,
    "d1": _order_broken,
    "d2": _sharpening,
    "e": _leak_worst,
    "f1": _length,
    "f2": _minimum("toy", "mlp", 1),
    "f3": _minimum("contaminated", "linear", -1),
    "g": _controls,
}


# ---------------------------------------------------------------------------------------------------- rank correlations

SETS: Mapping[str, Any] = {
    "all targets": lambda family: True,
    "all families": lambda family: family in TARGETS,
    "unbiased families": lambda family: family in TARGETS and TARGETS[family].unbiased,
    "biased families": lambda family: family in TARGETS and not TARGETS[family].unbiased,
    "biased, argmax moved": lambda family: (
        family in TARGETS and not TARGETS[family].unbiased and not TARGETS[family].keeps_argmax
    ),
    "argmax kept": lambda family: family in TARGETS and TARGETS[family].keeps_argmax,
    "label_mixture alone": lambda family: family == "label_mixture",
    "real teachers": lambda family: family not in TARGETS,
}
"""Sets of targets; the student of p* itself belongs to every one."""

PAIRS = (("mse", None), ("kl", None), ("mse", "kl"), ("kl", "mse"))


def correlations(students: Sequence[Row]) -> list[dict[str, Any]]:
    """Rank correlation of the student's accuracy with MSE and KL, plain and given the other: within draws, then mean.

    One-hot labels (infinite KL) and permuted rows are left out.
    """
    found = []
    for outcome in (PRIMARY, SECONDARY):
        column = f"student_accuracy_{outcome}"
        for name, belongs in SETS.items():
            rows = [
                row
                for row in _averaged(students, (column, "mse", "kl"))
                if row["family"] == "bayes" or (row["family"] not in ("one_hot", "permuted") and belongs(row["family"]))
            ]
            for distance, given in PAIRS:
                entry: dict[str, Any] = {"set": name, "outcome": outcome, "distance": distance, "given": given}
                try:
                    found.append(entry | _correlation(rows, column, distance, given))
                except ValueError as error:
                    found.append(entry | {"reason": str(error)})
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


def matched(students: Sequence[Row]) -> list[dict[str, Any]]:
    """For every matched level and family: what its students lose against those of p*, and how far its targets are."""
    found = []
    cells = dict.fromkeys(
        (row["family"], row["matched"], row["goal"])
        for row in students
        if row["stage"] == "separating" and row["matched"]
    )
    for family, distance, goal in cells:
        entry: dict[str, Any] = {"family": family, "matched": distance, "goal": goal}
        entry["ids"] = [
            row["id"]
            for row in students
            if (row["stage"], row["family"], row["matched"], row["goal"]) == ("separating", family, distance, goal)
        ]
        for outcome in (PRIMARY, SECONDARY):
            for quantity in ("accuracy", "mse"):
                column = f"student_{quantity}_{outcome}"
                values = _paired(_cell(students, column, family, distance, goal), _cell(students, column, "bayes"))
                entry[column] = _numbers(values)
        for column in ("mse", "kl", "flip", "squared_bias", "variance"):
            entry[column] = _numbers(list(_cell(students, column, family, distance, goal).values()))
        found.append(entry)
    return found


# -------------------------------------------------------------------------------------------------------------- helpers


def _goals(students: Sequence[Row], distance: str) -> list[float]:
    return sorted({row["goal"] for row in students if row["matched"] == distance})


def _cell(
    students: Sequence[Row], column: str, family: str, distance: str | None = None, goal: float | None = None
) -> dict[int, float]:
    """A column of one target by draw, averaged over nested seeds."""
    by_draw: dict[int, list[float]] = {}
    for row in students:
        if (row["stage"], row["family"], row["matched"], row["goal"]) == ("separating", family, distance, goal):
            by_draw.setdefault(row["draw"], []).append(float(row[column]))
    return {draw: math.fsum(values) / len(values) for draw, values in sorted(by_draw.items())}


def _averaged(students: Sequence[Row], columns: Sequence[str]) -> list[dict[str, Any]]:
    """One row a draw and target."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in students:
        if row["stage"] == "separating":
            key = (row["draw"], row["family"], row["matched"], row["goal"], row["checkpoint"])
            groups.setdefault(key, []).append(row)
    return [
        {"draw": key[0], "family": key[1]}
        | {column: math.fsum(float(row[column]) for row in own) / len(own) for column in columns}
        for key, own in groups.items()
    ]


def _pairs(teachers: Sequence[Row], world: str, net: str, first: str, second: str) -> list[tuple[Row, Row]]:
    """Teachers of two arms, draw by draw."""
    own = {(row["arm"], row["draw"]): row for row in teachers if row["world"] == world and row["net"] == net}
    draws = sorted({draw for arm, draw in own if arm == first} & {draw for arm, draw in own if arm == second})
    return [(own[first, draw], own[second, draw]) for draw in draws]


def _paired(a: Mapping[int, float], b: Mapping[int, float]) -> list[float]:
    return [a[draw] - b[draw] for draw in sorted(a.keys() & b.keys())]


def _numbers(values: Sequence[float]) -> dict[str, Any]:
    if not values or not all(map(math.isfinite, values)):
        return {"mean": math.nan, "low": math.nan, "high": math.nan, "n": len(values)}
    interval = mean_interval(values)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n}


def _part(what: str, values: Sequence[float], bound: float, confidence: float, above: bool) -> dict[str, Any]:
    part: dict[str, Any] = {"what": what, "bound": bound, "side": "above" if above else "below", **_numbers(values)}
    if len(values) < 2 or not math.isfinite(part["mean"]):
        return part | {"verdict": "undecided"}
    interval = mean_interval(values, confidence)
    part |= {"low": interval.low, "high": interval.high}
    if interval.low > bound:
        return part | {"verdict": "holds" if above else "fails"}
    if interval.high < bound:
        return part | {"verdict": "fails" if above else "holds"}
    return part | {"verdict": "undecided"}


def _above(what: str, values: Sequence[float], bound: float, confidence: float = 0.95) -> dict[str, Any]:
    return _part(what, values, bound, confidence, True)


def _below(what: str, values: Sequence[float], bound: float, confidence: float = 0.95) -> dict[str, Any]:
    return _part(what, values, bound, confidence, False)


def _within(what: str, values: Sequence[float], margin: float) -> dict[str, Any]:
    part: dict[str, Any] = {"what": what, "bound": margin, "side": "within", **_numbers(values)}
    if len(values) < 2 or not math.isfinite(part["mean"]):
        return part | {"verdict": "undecided"}
    if equivalence(values, [0.0] * len(values), margin).equivalent:
        return part | {"verdict": "holds"}
    return part | {"verdict": "fails" if part["low"] > margin or part["high"] < -margin else "undecided"}
