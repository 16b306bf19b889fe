"""What was predicted, and what became of it.

Registered before the first run at laptop scale, after pilots (``paper.md`` A8) and runs at smoke scale; results carry a
digest of the predictions, which a test holds.

A part of a prediction *holds* where a 95 % interval over data draws lies wholly on its side of the bound; a prediction
holds if all its parts do (an intersection-union test, which needs no correction). It *fails* if any of its m parts has
the interval at confidence 1 - 0.05 / m wholly on the other side (Bonferroni), and is *undecided* otherwise. A part
that says "within" is an equivalence: two one-sided tests at 5 %, and the interval shown is that at 90 %. A draw in
which an arm diverged leaves its part undecided.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bcpd.stats import equivalence, mean_interval
from experiments.when_mse_wins.quantities import BY_ID, SMALL_ACCURACY, values
from experiments.when_mse_wins.spec import Map

__all__ = ["PREDICTIONS", "Prediction", "digest", "verdicts"]

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
EQUAL = 1e-9
LEVEL = 0.05
SMALL_MSE = 0.005
"""Of a distance to p*: a tenth or less of the teachers' own, which were 0.05 to 0.09 in pilots."""


@dataclass(frozen=True)
class Prediction:
    """A claim made before the run; ``rule`` is what is compared, MSE minus CE unless it says otherwise."""

    id: str
    statement: str
    rule: str
    source: str


PREDICTIONS = (
    Prediction(
        "misspecified",
        "Where a linear softmax cannot follow p* (outliers) and points are many, each loss wins its own metric",
        "linear softmax, the largest number of points of every share of outliers: fresh MSE below 0 at the path "
        "minimum of the MSE, fresh KL above 0 at the path minimum of the KL",
        "theory.md B10a",
    ),
    Prediction(
        "well-specified",
        "Where the linear softmax holds p*, CE is the closer one with many points",
        "linear softmax without outliers, the largest number of points, best score: fresh MSE above 0",
        "theory.md B10b",
    ),
    Prediction(
        "path minimum",
        "At the minimum of each path CE comes closer in the base cell",
        "base cell, path minimum: fresh MSE above 0",
        "paper.md A8.2",
    ),
    Prediction(
        "length",
        "At the last epoch the order is that of the effective length of training: MSE gains on CE after the best epoch",
        "base cell and the longest training, rates tuned for the last epoch: fresh MSE at the last epoch minus that at "
        "the best score of the same trainings, below 0",
        "paper.md A8.1",
    ),
    Prediction(
        "temperature",
        "At the last epoch a temperature fitted on held-out data makes CE tie with MSE: a calibration effect",
        "cells with controls, rates tuned for the last epoch: CE + T (by NLL) minus MSE, fresh MSE of the teacher "
        f"within {SMALL_MSE:g} and accuracy of its student within {100 * SMALL_ACCURACY:g} points",
        "theory.md B10d, paper.md A8.5",
    ),
    Prediction(
        "read-out",
        "The square loss on logits is far from p* if read out by softmax",
        "cells with controls: fresh MSE of the softmax read-out minus that of the projection above 0",
        "paper.md A6",
    ),
    Prediction(
        "equality",
        "MSE / K at K times the rate and a K-th of the decay is MSE",
        f"largest difference of a probability at most {EQUAL:g} in float64",
        "the update rule",
    ),
)


def digest() -> str:
    """Of what was registered: statements, rules and the margins in them."""
    registered = json.dumps([asdict(prediction) for prediction in PREDICTIONS], sort_keys=True)
    return hashlib.blake2b(registered.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Part:
    """One comparison of a prediction: a number a draw, and where its mean is to lie.

    Attributes:
        bound: 0 for ``above`` and ``below``; the margin for ``within``.
        exact: the sample is one number without sampling error.
    """

    what: str
    sample: Sequence[float]
    side: Literal["above", "below", "within"]
    bound: float = 0.0
    exact: bool = False


def verdicts(spec: Map, rows: Rows, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every prediction with its parts and its verdict."""
    found = []
    for prediction in PREDICTIONS:
        claimed = list(_PARTS[prediction.id](spec, rows, results))
        parts = [_judged(part, len(claimed)) for part in claimed]
        said = [part["verdict"] for part in parts]
        verdict = "fails" if "fails" in said else "holds" if said and set(said) == {"holds"} else "undecided"
        entry = {"id": prediction.id, "statement": prediction.statement, "rule": prediction.rule}
        found.append(entry | {"source": prediction.source, "verdict": verdict, "parts": parts})
    return found


def _judged(part: Part, parts: int) -> dict[str, Any]:
    """With its interval and its verdict as one of ``parts``."""
    entry: dict[str, Any] = {"what": part.what, "side": part.side, "bound": part.bound, "n": len(part.sample)}
    if part.exact:
        value = part.sample[0]
        return entry | {"mean": value, "low": value, "high": value, "verdict": _where(part, value, value)}
    if len(part.sample) < 2 or not all(map(math.isfinite, part.sample)):
        return entry | {"mean": None, "low": None, "high": None, "verdict": "undecided"}
    shown = mean_interval(part.sample, 1 - (2 * LEVEL if part.side == "within" else LEVEL))
    wide = mean_interval(part.sample, 1 - LEVEL / parts)
    holds = _where(part, shown.low, shown.high) == "holds"
    if part.side == "within":
        holds = equivalence(part.sample, [0.0] * len(part.sample), part.bound, LEVEL).equivalent
    fails = _where(part, wide.low, wide.high) == "fails"
    verdict = "holds" if holds else "fails" if fails else "undecided"
    return entry | {"mean": shown.mean, "low": shown.low, "high": shown.high, "verdict": verdict}


def _where(part: Part, low: float, high: float) -> str:
    """On which side of the bound an interval lies."""
    if part.side == "within":
        inside, outside = max(-low, high) <= part.bound, max(low, -high) > part.bound
    else:
        above, below = low > part.bound, high < part.bound
        inside, outside = (above, below) if part.side == "above" else (below, above)
    return "holds" if inside else "fails" if outside else "undecided"


def _differences(
    rows: Sequence[Mapping[str, Any]], quantity: str, arms: tuple[str, str] = ("mse", "ce")
) -> list[float]:
    first, second = (values(rows, BY_ID[quantity], arm) for arm in arms)
    return [first[draw] - second[draw] for draw in sorted(first.keys() & second.keys())]


def _largest_linear(spec: Map, outliers: bool) -> Iterator[str]:
    """The linear cells with the most points, one for every share of outliers (or the one without any)."""
    linear = [cell for cell in spec.cells if cell.depth == 0 and not cell.degrees and bool(cell.outliers) == outliers]
    linear = [cell for cell in linear if cell.bayes_error == spec.base.bayes_error and not cell.unlabelled]
    for share in sorted({cell.outliers for cell in linear}):
        own = [cell for cell in linear if cell.outliers == share]
        yield max(own, key=lambda cell: cell.train).name


def _misspecified(spec: Map, rows: Rows, results: object) -> Iterator[Part]:
    for name in _largest_linear(spec, True):
        closer = _differences(rows[name], "teacher fresh_mse score/path_minimum_mse")
        yield Part(f"{name}: fresh MSE", closer, "below")
        yield Part(f"{name}: fresh KL", _differences(rows[name], "teacher fresh_kl score/path_minimum_kl"), "above")


def _well_specified(spec: Map, rows: Rows, results: object) -> Iterator[Part]:
    for name in _largest_linear(spec, False):
        yield Part(f"{name}: fresh MSE", _differences(rows[name], "teacher fresh_mse score/best_score"), "above")


def _path_minimum(spec: Map, rows: Rows, results: object) -> Iterator[Part]:
    name = spec.base.name
    yield Part(f"{name}: fresh MSE", _differences(rows[name], "teacher fresh_mse score/path_minimum_mse"), "above")


def _length(spec: Map, rows: Rows, results: object) -> Iterator[Part]:
    same = [cell for cell in spec.cells if _but_epochs(cell) == _but_epochs(spec.base)]
    for cell in dict.fromkeys((spec.base, max(same, key=lambda cell: cell.epochs))):
        last, best = (
            _differences(rows[cell.name], f"teacher fresh_mse last/{state}") for state in ("last", "best_score")
        )
        yield Part(f"{cell.name}: last minus best", [a - b for a, b in zip(last, best, strict=True)], "below")


def _but_epochs(cell: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(cell).items() if name != "epochs"}


def _temperature(spec: Map, rows: Rows, results: object) -> Iterator[Part]:
    for cell in spec.controls:
        for quantity, what, margin in (
            ("teacher fresh_mse last/last", "teacher's fresh MSE", SMALL_MSE),
            ("student fresh_accuracy last/last", "student's accuracy", SMALL_ACCURACY),
        ):
            sample = _differences(rows[cell.name], quantity, ("ce_t_nll", "mse"))
            yield Part(f"{cell.name}: {what}, CE + T minus MSE", sample, "within", margin)


def _read_out(spec: Map, rows: Rows, results: object) -> Iterator[Part]:
    for cell in spec.controls:
        sample = _differences(
            rows[cell.name], "teacher fresh_mse score/best_score", ("logit_softmax", "logit_projection")
        )
        yield Part(f"{cell.name}: softmax minus projection", sample, "above")


def _equality(spec: Map, rows: Rows, results: Mapping[str, Any]) -> Iterator[Part]:
    yield Part("largest difference", [results["equality"]["largest_difference"]], "within", EQUAL, exact=True)


_PARTS: Mapping[str, Callable[[Map, Rows, Mapping[str, Any]], Iterator[Part]]] = {
    "misspecified": _misspecified,
    "well-specified": _well_specified,
    "path minimum": _path_minimum,
    "length": _length,
    "temperature": _temperature,
    "read-out": _read_out,
    "equality": _equality,
}
