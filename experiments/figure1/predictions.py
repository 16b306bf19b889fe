"""The registered predictions of Figure 1, their margins, and the verdicts.

The predictions are those of ``theory.md`` B14. What each compares, and the bounds, were written before the laptop run,
after pilots (``paper.md`` A8) and smoke runs; :func:`registration` gives their digest, which results keep.

A part of a prediction is judged by a t-interval over data draws against its bound (equivalence: two one-sided tests at
5 %). A prediction *holds* if every part does at 95 %: an intersection-union test, which needs no correction. It *fails*
if any part lies on the wrong side in its Bonferroni interval, 1 - 0.05 / m with m parts. Everything else is
*undecided*, and so is a part in which a draw was lost to divergence. Nested seeds are averaged within their draw first.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np

from bcpd.stats import equivalence, mean_interval, partial_spearman
from bcpd.targets import TARGETS
from experiments.figure1.cells import Row, cell, goals, paired, pairs_of_teachers, summary
from experiments.figure1.spec import DEGENERATE

__all__ = ["PREDICTIONS", "Claim", "Evidence", "Prediction", "registration", "tally", "verdicts"]

SAME_ACCURACY = 0.005
"""Half a point: a fifth of the paper's largest gain (2.67 points), and coarse enough for 12 draws to decide (0.002 in
accuracy takes 6 to 10 seeds, ``theory.md`` B13)."""

KL_RATIO = 3.0
"""``theory.md`` B14 (a): "although KL differs 3x or more"."""

FLAT = 0.02
"""Nats: the luck of the labels moves the mean over n points by u sd(log p*(y|x)) / sqrt(n), about 0.01 a draw at
n = 2,000; 0.02 is twice that, and a fiftieth of the entropy of p*."""

NOT_FLAT = 0.1
"""Nats: five times ``FLAT``, so that no target is both flat and not."""

MATCHED_SHARE = 0.5
"""Length *explains* a difference at the last epoch where less than half of it is left at equal length."""

LEFT_UNIFORM = 2.0
"""An arm that gives its training labels less than twice 1/K on average has hardly left the uniform output."""

NO_BETTER_THAN_CHANCE = 0.05
"""Rows dealt out to other x leave a student that knows nothing of x, but it need not be at chance exactly: it has seen
2,000 points. Exact p* is worth some 50 points (Bayes accuracy 0.6 with ten classes); 5 are a tenth of that."""

EXACT = 1e-12
"""Rounding of a rank correlation."""

LEVEL = 0.05

THRESHOLDS: Mapping[str, float] = {
    "same accuracy": SAME_ACCURACY,
    "KL ratio": KL_RATIO,
    "flat (nats)": FLAT,
    "not flat (nats)": NOT_FLAT,
    "matched share": MATCHED_SHARE,
    "left uniform": LEFT_UNIFORM,
    "no better than chance": NO_BETTER_THAN_CHANCE,
    "degenerate": DEGENERATE,
    "level": LEVEL,
}


@dataclass(frozen=True)
class Prediction:
    """A claim made before the laptop run.

    Attributes:
        id: ``a`` to ``g``.
        statement: what is claimed; rule: what is compared, and with which bound.
        identity: true by algebra: a check of the code, not counted among the predictions.
        accuracy: whether it is about accuracy, and judged at the last epoch as well.
    """

    id: str
    statement: str
    rule: str
    identity: bool = False
    accuracy: bool = False


PREDICTIONS: tuple[Prediction, ...] = (
    Prediction(
        "a",
        "Unbiased families at equal MSE agree in accuracy although their KL differs threefold or more",
        f"every pair of unbiased families at an MSE goal whose mean KL differs by a factor of {KL_RATIO:g} or more: "
        f"accuracies equivalent within {100 * SAME_ACCURACY:g} points",
        accuracy=True,
    ),
    Prediction(
        "b",
        "Identity, checked and not counted: label mixtures alone cannot tell MSE from KL, both rank correlations with "
        "accuracy are the same number (both distances rise in u)",
        "as released, and within every draw over the levels of label_mixture: the two Spearman correlations differ by "
        f"at most {EXACT:g}",
        identity=True,
    ),
    Prediction(
        "c",
        "Reverse cross-entropy is flat for unbiased families (in expectation an identity, so that half checks the "
        "code) and is not for sharpened and flattened rows",
        f"CE(t, p*) minus the entropy of p* equivalent to 0 within {FLAT:g} nats for every unbiased family and level; "
        f"sharpen and flatten at the largest MSE goal are {NOT_FLAT:g} nats away from it",
    ),
    Prediction(
        "d1",
        "Biases that keep the argmax break the order of MSE and accuracy",
        "smoothing, flatten and sharpen at the largest MSE goal give more accurate students than label_mixture at the "
        "next smaller one; decided only where the sign is the same at a lower and a higher rate of the students",
        accuracy=True,
    ),
    Prediction(
        "d2",
        "Sharpening may beat p*",
        "at some MSE goal the student of sharpen is more accurate than the student of p* (interval corrected for the "
        "number of goals); fails only if it is less accurate at all of them; rates as in (d1)",
        accuracy=True,
    ),
    Prediction(
        "e",
        "Class leak is the worst family at equal MSE",
        "at every MSE goal the student of leak is less accurate than that of every other family",
        accuracy=True,
    ),
    Prediction(
        "f1",
        "Real teachers of one rate: their order at the last epoch follows the effective training length",
        "at CE's rate for the best score and at its rate for the last epoch, the MSE (and MSE / K) teacher's distance "
        f"to p* at the last epoch differs from the CE teacher's of the same draw by less than {MATCHED_SHARE:g} of the "
        "difference at the last epoch, once the CE teacher is taken at the epoch where both give the training label "
        "the same mean probability; undecided where CE's path never has it, or where an arm gives the label less than "
        f"{LEFT_UNIFORM:g} / K",
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
        "the same difference for a linear softmax in the contaminated world: below 0 (the perceptron there is shown, "
        "but was not registered)",
    ),
    Prediction(
        "g",
        "Controls: shuffled targets destroy accuracy, and one-hot worlds are refused",
        f"the student of p* dealt out to other x is at most {100 * NO_BETTER_THAN_CHANCE:g} points above chance; of "
        f"all worlds, those on the specification's list, and no other, are refused (E[1 - |p*|^2] < {DEGENERATE:g})",
        accuracy=True,
    ),
)


def registration() -> dict[str, Any]:
    """When the predictions were written, their thresholds, and a digest of both."""
    thresholds = dict(THRESHOLDS)
    text = json.dumps([[asdict(prediction) for prediction in PREDICTIONS], thresholds], sort_keys=True)
    return {
        "when": "before the laptop run, after pilots (paper.md A8) and smoke runs",
        "digest": hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
        "thresholds": thresholds,
    }


@dataclass(frozen=True)
class Evidence:
    """What verdicts are read off.

    Attributes:
        students, teachers: rows; worlds: as :func:`experiments.figure1.spec.irreducible` gives them.
        num_classes: K of the separating experiment.
        must_refuse: names of the worlds that must be refused.
        student_rates: at steps -1, 0 and 1.
        alias: arm -> the training that stands for it.
        outcome: checkpoint of the students.
    """

    students: Sequence[Row]
    teachers: Sequence[Row]
    worlds: Sequence[Row]
    num_classes: int = 10
    must_refuse: Sequence[str] = ()
    student_rates: Sequence[float] = (math.nan, math.nan, math.nan)
    alias: Mapping[str, str] = field(default_factory=dict)
    outcome: str = "best_score"

    @property
    def accuracy(self) -> str:
        """Column of the student's accuracy."""
        return f"student_accuracy_{self.outcome}"


@dataclass(frozen=True)
class Claim:
    """One comparison: a number a draw, against a bound.

    Attributes:
        side: ``above`` or ``below`` the bound, or ``within`` +- the bound.
        reason: why nothing can be decided, if so.
        registered: whether the verdict depends on it. identity: whether it is one.
        exact: a verdict without statistics.
        other_rates: (rate, values) of the same comparison elsewhere, which must agree in sign.
        rate: that of ``values``, where there are others.
    """

    what: str
    values: Sequence[float]
    bound: float
    side: Literal["above", "below", "within"]
    reason: str = ""
    registered: bool = True
    identity: bool = False
    exact: bool | None = None
    other_rates: Sequence[tuple[float, Sequence[float]]] = ()
    rate: float = math.nan


# ------------------------------------------------------------------------------------------------------------- verdicts


def verdicts(
    students: Sequence[Row], teachers: Sequence[Row], worlds: Sequence[Row], **further: Any
) -> list[dict[str, Any]]:
    """Every prediction with its parts, numbers, intervals and verdict; accuracies at the best own score.

    Predictions about accuracy carry ``verdict_last``: the verdict with accuracies at the last epoch.

    Args:
        further: other fields of :class:`Evidence`.
    """
    found = []
    for prediction in PREDICTIONS:
        entry: dict[str, Any] = {
            "id": prediction.id,
            "statement": prediction.statement,
            "rule": prediction.rule,
            "identity": prediction.identity,
        }
        for outcome, ending in (
            (("best_score", ""), ("last", "_last")) if prediction.accuracy else (("best_score", ""),)
        ):
            evidence = Evidence(students, teachers, worlds, **further, outcome=outcome)
            verdict, parts = _judged(list(_CLAIMS[prediction.id](evidence)), any_part=prediction.id == "d2")
            entry |= {f"verdict{ending}": verdict, f"parts{ending}": parts}
        found.append(entry)
    return found


def tally(entries: Sequence[Row]) -> dict[str, Any]:
    """How many predictions hold, fail and are undecided; identities are named, not counted."""
    counted = [entry["verdict"] for entry in entries if not entry["identity"]]
    kinds = ("holds", "fails", "undecided")
    return {
        "predictions": len(counted),
        **{kind: counted.count(kind) for kind in kinds},
        "identities": [entry["id"] for entry in entries if entry["identity"]],
    }


def _judged(claims: Sequence[Claim], any_part: bool) -> tuple[str, list[dict[str, Any]]]:
    """The verdict of a prediction and its parts; with ``any_part`` one part that holds is enough."""
    m = sum(claim.registered and claim.exact is None for claim in claims)
    parts = [_part(claim, max(1, m), any_part) for claim in claims]
    said = [part["verdict"] for part in parts if part["registered"]]
    strong, weak = ("holds", "fails") if any_part else ("fails", "holds")
    if not said:
        return "undecided", parts
    return (strong if strong in said else weak if set(said) == {weak} else "undecided"), parts


def _part(claim: Claim, m: int, any_part: bool) -> dict[str, Any]:
    """A claim with its numbers and verdict: what one part alone can decide is judged by the Bonferroni interval."""
    part: dict[str, Any] = {
        "what": claim.what,
        "bound": claim.bound,
        "side": claim.side,
        **summary(claim.values),
        "registered": claim.registered,
        "identity": claim.identity,
        "reason": claim.reason,
    }
    if claim.other_rates:
        part["rate"] = claim.rate
        part["other_rates"] = [{"rate": rate, **summary(values)} for rate, values in claim.other_rates]
    if claim.exact is not None:
        return part | {"low": part["mean"], "high": part["mean"], "verdict": "holds" if claim.exact else "fails"}
    lost = part["lost"] + sum(entry["lost"] for entry in part.get("other_rates", ()))
    if lost:
        part["reason"] = f"{lost} lost to divergence"
    elif part["n"] < 2 and not claim.reason:
        part["reason"] = "fewer than two draws"
    if part["reason"]:
        return part | {"verdict": "undecided"}
    strict = mean_interval(claim.values, 1 - LEVEL / m)
    part |= {"low_corrected": strict.low, "high_corrected": strict.high}
    holds, fails = _sides(claim, mean_interval(claim.values)), _sides(claim, strict)
    if any_part:
        holds, fails = fails, holds
    verdict = "holds" if holds[0] else "fails" if fails[1] else "undecided"
    if verdict != "undecided" and not _same_sign(part):
        part |= {"reason": "the sign hangs on the students' rate"}
        verdict = "undecided"
    return part | {"verdict": verdict}


def _sides(claim: Claim, interval: Any) -> tuple[bool, bool]:
    """Whether an interval supports the claim, and whether it contradicts it."""
    if claim.side == "within":
        equal = equivalence(claim.values, [0.0] * len(claim.values), claim.bound, LEVEL).equivalent
        return equal, interval.low > claim.bound or interval.high < -claim.bound
    above, below = interval.low > claim.bound, interval.high < claim.bound
    return (above, below) if claim.side == "above" else (below, above)


def _same_sign(part: Row) -> bool:
    """Whether the mean lies on the same side of the bound at every rate."""
    sign = math.copysign(1.0, part["mean"] - part["bound"])
    return all(sign * (entry["mean"] - part["bound"]) > 0 for entry in part.get("other_rates", ()))


# --------------------------------------------------------------------------------------------------------------- claims


def _unbiased_agree(e: Evidence) -> Iterator[Claim]:
    for goal in goals(e.students, "mse"):
        kls = {name: cell(e.students, "kl", name, "mse", goal) for name in TARGETS if TARGETS[name].unbiased}
        for one, other in combinations([name for name, found in kls.items() if found], 2):
            means = [float(np.mean(list(kls[name].values()))) for name in (one, other)]
            ratio = max(means) / min(means)
            if ratio >= KL_RATIO:
                a, b = (cell(e.students, e.accuracy, name, "mse", goal) for name in (one, other))
                what = f"{one} minus {other} at MSE {goal:g}, KL {ratio:.3g} times apart"
                yield Claim(what, paired(a, b), SAME_ACCURACY, "within")


def _one_order(e: Evidence) -> Iterator[Claim]:
    released = [row for row in e.students if row["stage"] == "released" and row["family"] == "label_mixture"]
    for world in dict.fromkeys(row["world"] for row in released):
        grey = [row for row in released if row["world"] == world]
        yield _equal_order(f"as released, {world}", [_orders(grey, "student_accuracy_best_accuracy")])
    separating = [row for row in e.students if row["stage"] == "separating" and row["checkpoint"] is None]
    draws = []
    for draw in dict.fromkeys(row["draw"] for row in separating):
        own = [row for row in separating if row["draw"] == draw]
        rows = [row for row in own if row["family"] in ("label_mixture", "bayes", "one_hot")]
        draws.append(_orders(rows, e.accuracy))
    if draws:
        yield _equal_order(f"levels of label_mixture, {len(draws)} draws", draws)


def _orders(rows: Sequence[Row], outcome: str) -> tuple[float, float]:
    """Spearman's correlation of an outcome with MSE and with KL, an infinite KL as the largest, without lost runs."""
    kept = [row for row in rows if math.isfinite(row[outcome])]
    accuracy, none = [row[outcome] for row in kept], np.empty((len(kept), 0))
    mse, kl = (
        partial_spearman([min(row[name], 1e300) for row in kept], accuracy, none, units=[0] * len(kept)).mean
        for name in ("mse", "kl")
    )
    return mse, kl


def _equal_order(what: str, pairs: Sequence[tuple[float, float]]) -> Claim:
    gap = max(abs(mse - kl) for mse, kl in pairs)
    what = f"{what}: Spearman with MSE {np.mean([mse for mse, _ in pairs]):.3f}, largest gap to that with KL"
    return Claim(what, [gap] * len(pairs), EXACT, "within", identity=True, exact=gap <= EXACT)


def _flat(e: Evidence) -> Iterator[Claim]:
    largest = max(goals(e.students, "mse"), default=math.nan)
    for family, kind in TARGETS.items():
        for distance in ("mse", "kl"):
            for goal in goals(e.students, distance):
                reverse = cell(e.students, "reverse_ce", family, distance, goal)
                values = paired(reverse, cell(e.students, "entropy", family, distance, goal))
                what = f"{family} at {distance.upper()} {goal:g}"
                if values and kind.unbiased:
                    yield Claim(what, values, FLAT, "within", identity=True)
                elif values and family in ("sharpen", "flatten") and (distance, goal) == ("mse", largest):
                    yield Claim(f"contrast: {what}", [abs(value) for value in values], NOT_FLAT, "above")


Cell = tuple[str, str | None, float | None]


def _at_three_rates(e: Evidence, what: str, one: Cell, other: Cell) -> Claim:
    """``one`` minus ``other`` above 0, at the tuned rate of the students; at a lower and a higher one beside."""
    found = {
        step: paired(*(cell(e.students, e.accuracy, *target, step=step) for target in (one, other)))
        for step in (-1, 0, 1)
    }
    lower, rate, higher = e.student_rates
    missing = "" if found[-1] and found[1] else "not trained at another rate"
    return Claim(what, found[0], 0.0, "above", missing, other_rates=[(lower, found[-1]), (higher, found[1])], rate=rate)


def _order_broken(e: Evidence) -> Iterator[Claim]:
    if len(goals(e.students, "mse")) < 2:
        return
    *_, smaller, largest = goals(e.students, "mse")
    for family in ("smoothing", "flatten", "sharpen"):
        what = f"{family} at MSE {largest:g} minus label_mixture at {smaller:g}"
        yield _at_three_rates(e, what, (family, "mse", largest), ("label_mixture", "mse", smaller))


def _sharpening(e: Evidence) -> Iterator[Claim]:
    for goal in goals(e.students, "mse"):
        what = f"sharpen at MSE {goal:g} minus exact p*"
        yield _at_three_rates(e, what, ("sharpen", "mse", goal), ("bayes", None, None))


def _leak_worst(e: Evidence) -> Iterator[Claim]:
    for goal in goals(e.students, "mse"):
        leak = cell(e.students, e.accuracy, "leak", "mse", goal)
        for family in TARGETS:
            other = cell(e.students, e.accuracy, family, "mse", goal)
            if family != "leak" and other:
                yield Claim(f"leak minus {family} at MSE {goal:g}", paired(leak, other), 0.0, "below")


def _length(e: Evidence) -> Iterator[Claim]:
    seen = set()
    for ending, ce_arm, others in (
        ("CE's rate for the best score", "ce", ("mse, rate of ce", "mse_mean")),
        (
            "CE's rate for the last epoch",
            "ce, rate for last",
            ("mse, rate for last of ce", "mse_mean, rate for last of ce"),
        ),
    ):
        for arm, loss in zip(others, ("mse", "mse_mean"), strict=True):
            names = (e.alias.get(ce_arm, ce_arm), e.alias.get(arm, arm))
            if names in seen:
                continue
            seen.add(names)
            pairs = pairs_of_teachers(e.teachers, "toy", "mlp", ce_arm, arm, e.alias)
            if not pairs:
                continue
            found = [_beyond_length(ce, other, e.num_classes) for ce, other in pairs]
            reasons = [reason for _, reason in found if reason]
            yield Claim(
                f"{loss} against ce at {ending}: |difference at equal length| - {MATCHED_SHARE:g} |at the last epoch|",
                [value for value, reason in found if not reason],
                0.0,
                "below",
                f"{len(reasons)} of {len(found)} draws: {reasons[0]}" if reasons else "",
            )


def _beyond_length(ce: Row, other: Row, num_classes: int) -> tuple[float, str]:
    """What equal length leaves of a difference, less the share allowed; or why this draw cannot say it."""
    wanted = other["label_probability"][-1]
    lengths = [ce["initial"]["label_probability"], *ce["label_probability"]]
    distances = [ce["initial"]["fresh_mse"], *ce["fresh_mse"]]
    if not all(map(math.isfinite, [wanted, *lengths, *distances, *other["fresh_mse"]])):
        return math.nan, "lost to divergence"
    if wanted < LEFT_UNIFORM / num_classes:
        return math.nan, f"the label's probability {wanted:.3g} is below {LEFT_UNIFORM:g} / K, hardly off the uniform"
    if not min(lengths) <= wanted <= max(lengths):
        return math.nan, f"{wanted:.3g} lies outside CE's range {min(lengths):.3g} to {max(lengths):.3g}"
    # the first epoch that reaches it; between it and the one before, linearly
    after = next(place for place, length in enumerate(lengths) if length >= wanted)
    if after == 0:
        return math.nan, f"{wanted:.3g} is that of the initial network or less"
    share = (wanted - lengths[after - 1]) / (lengths[after] - lengths[after - 1])
    same = distances[after - 1] + share * (distances[after] - distances[after - 1])
    last = other["fresh_mse"][-1]
    return abs(last - same) - MATCHED_SHARE * abs(last - distances[-1]), ""


def _minimum(world: str, nets: Sequence[str], side: Literal["above", "below"]) -> Callable[[Evidence], Iterator[Claim]]:
    """Of the first net; the others are shown, unregistered."""

    def claims(e: Evidence) -> Iterator[Claim]:
        for net in nets:
            pairs = pairs_of_teachers(e.teachers, world, net, "ce", "mse", e.alias)
            values = [mse["path_minimum_mse"]["fresh_mse"] - ce["path_minimum_mse"]["fresh_mse"] for ce, mse in pairs]
            registered = net == nets[0]
            what = f"mse minus ce, {net} in the {world} world" + ("" if registered else " (not registered)")
            if pairs:
                yield Claim(what, values, 0.0, side, registered=registered)

    return claims


def _controls(e: Evidence) -> Iterator[Claim]:
    permuted = cell(e.students, e.accuracy, "permuted")
    values = [value - 1 / e.num_classes for value in permuted.values()]
    yield Claim("permuted p*: accuracy above chance", values, NO_BETTER_THAN_CHANCE, "below")
    for world in e.worlds:
        name, refused = world["world"], bool(world["refused"])
        expected = name in e.must_refuse
        trained = any(row["world"] == name for row in (*e.students, *e.teachers))
        what = f"{name}: E[1 - |p*|^2]" + (", refused" if refused else ", run")
        what += "" if refused == expected else (", must be refused" if expected else ", must not be refused")
        side: Literal["above", "below"] = "below" if expected else "above"
        right = refused == expected == (world["irreducible"] < DEGENERATE) and trained != refused
        yield Claim(what, [world["irreducible"]], DEGENERATE, side, exact=right)


_CLAIMS: Mapping[str, Callable[[Evidence], Iterator[Claim]]] = {
    "a": _unbiased_agree,
    "b": _one_order,
    "c": _flat,
    "d1": _order_broken,
    "d2": _sharpening,
    "e": _leak_worst,
    "f1": _length,
    "f2": _minimum("toy", ["mlp"], "above"),
    "f3": _minimum("contaminated", ["linear", "mlp"], "below"),
    "g": _controls,
}
