"""What was predicted before the first run, and what became of it.

A part of a prediction *holds* or *fails* where a 95 % interval over data draws lies wholly on one side of its bound,
and is *undecided* otherwise. A prediction fails if any part fails, and holds if all parts hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bcpd.stats import mean_interval
from experiments.when_mse_wins.quantities import BY_ID, values
from experiments.when_mse_wins.spec import Map

__all__ = ["PREDICTIONS", "Prediction", "verdicts"]

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
EQUAL = 1e-9
TEMPERATURE_SHARE = 0.5


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
        "linear softmax, the largest number of points of every share of outliers, path minimum: fresh MSE below 0, "
        "fresh KL above 0",
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
        "base cell and the longest training: fresh MSE at the last epoch minus at the best score below 0",
        "paper.md A8.1",
    ),
    Prediction(
        "temperature",
        "A fitted temperature takes most of the last epoch's difference away",
        f"cells with controls, last epoch: |MSE + T - (CE + T)| - {TEMPERATURE_SHARE:g} |MSE - CE| of fresh MSE "
        "below 0, T by NLL",
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


def verdicts(spec: Map, rows: Rows, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every prediction with its parts and its verdict."""
    found = []
    for prediction in PREDICTIONS:
        parts = list(_PARTS[prediction.id](spec, rows, results))
        said = [part["verdict"] for part in parts]
        verdict = "fails" if "fails" in said else "holds" if said and set(said) == {"holds"} else "undecided"
        entry = {"id": prediction.id, "statement": prediction.statement, "rule": prediction.rule}
        found.append(entry | {"source": prediction.source, "verdict": verdict, "parts": parts})
    return found


def _differences(
    rows: Sequence[Mapping[str, Any]], quantity: str, arms: tuple[str, str] = ("mse", "ce")
) -> list[float]:
    first, second = (values(rows, BY_ID[quantity], arm) for arm in arms)
    return [first[draw] - second[draw] for draw in sorted(first.keys() & second.keys())]


def _part(what: str, sample: Sequence[float], above: bool) -> dict[str, Any]:
    part: dict[str, Any] = {"what": what, "side": "above" if above else "below", "bound": 0.0, "n": len(sample)}
    if len(sample) < 2 or not all(map(math.isfinite, sample)):
        return part | {"mean": None, "low": None, "high": None, "verdict": "undecided"}
    interval = mean_interval(sample)
    verdict = "undecided"
    if interval.low > 0 or interval.high < 0:
        verdict = "holds" if (interval.low > 0) == above else "fails"
    return part | {"mean": interval.mean, "low": interval.low, "high": interval.high, "verdict": verdict}


def _largest_linear(spec: Map, outliers: bool) -> Iterator[str]:
    """The linear cells with the most points, one for every share of outliers (or the one without any)."""
    linear = [cell for cell in spec.cells if cell.depth == 0 and not cell.degrees and bool(cell.outliers) == outliers]
    linear = [cell for cell in linear if cell.bayes_error == spec.base.bayes_error and not cell.unlabelled]
    for share in sorted({cell.outliers for cell in linear}):
        own = [cell for cell in linear if cell.outliers == share]
        yield max(own, key=lambda cell: cell.train).name


def _misspecified(spec: Map, rows: Rows, results: object) -> Iterator[dict[str, Any]]:
    for name in _largest_linear(spec, True):
        for metric, above in (("mse", False), ("kl", True)):
            sample = _differences(rows[name], f"teacher fresh_{metric} score/path_minimum_mse")
            yield _part(f"{name}: fresh {metric.upper()}", sample, above)


def _well_specified(spec: Map, rows: Rows, results: object) -> Iterator[dict[str, Any]]:
    for name in _largest_linear(spec, False):
        yield _part(f"{name}: fresh MSE", _differences(rows[name], "teacher fresh_mse score/best_score"), True)


def _path_minimum(spec: Map, rows: Rows, results: object) -> Iterator[dict[str, Any]]:
    name = spec.base.name
    yield _part(f"{name}: fresh MSE", _differences(rows[name], "teacher fresh_mse score/path_minimum_mse"), True)


def _length(spec: Map, rows: Rows, results: object) -> Iterator[dict[str, Any]]:
    same = [cell for cell in spec.cells if _but_epochs(cell) == _but_epochs(spec.base)]
    for cell in dict.fromkeys((spec.base, max(same, key=lambda cell: cell.epochs))):
        last, best = (
            _differences(rows[cell.name], f"teacher fresh_mse score/{state}") for state in ("last", "best_score")
        )
        yield _part(f"{cell.name}: last minus best", [a - b for a, b in zip(last, best, strict=True)], False)


def _but_epochs(cell: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(cell).items() if name != "epochs"}


def _temperature(spec: Map, rows: Rows, results: object) -> Iterator[dict[str, Any]]:
    quantity = "teacher fresh_mse score/last"
    for cell in spec.controls:
        plain = _differences(rows[cell.name], quantity)
        tempered = _differences(rows[cell.name], quantity, ("mse_t_nll", "ce_t_nll"))
        left = [abs(t) - TEMPERATURE_SHARE * abs(p) for t, p in zip(tempered, plain, strict=True)]
        yield _part(f"{cell.name}: what is left", left, False)


def _read_out(spec: Map, rows: Rows, results: object) -> Iterator[dict[str, Any]]:
    for cell in spec.controls:
        sample = _differences(
            rows[cell.name], "teacher fresh_mse score/best_score", ("logit_softmax", "logit_projection")
        )
        yield _part(f"{cell.name}: softmax minus projection", sample, True)


def _equality(spec: Map, rows: Rows, results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    gap = results["equality"]["largest_difference"]
    part = {"what": "largest difference", "side": "below", "bound": EQUAL, "n": results["equality"]["draws"]}
    yield part | {"mean": gap, "low": gap, "high": gap, "verdict": "holds" if gap <= EQUAL else "fails"}


_PARTS: Mapping[str, Callable[[Map, Rows, Mapping[str, Any]], Iterator[dict[str, Any]]]] = {
    "misspecified": _misspecified,
    "well-specified": _well_specified,
    "path minimum": _path_minimum,
    "length": _length,
    "temperature": _temperature,
    "read-out": _read_out,
    "equality": _equality,
}
