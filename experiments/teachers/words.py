"""What a run says in words, each sentence with its numbers; and what a reader must know before leaning on one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.tables.planning import SHAPES
from experiments.tables.spec import DATASETS
from experiments.tables.stages import LATE, LATE_GAIN, LEFT
from experiments.teachers.search import BEYOND
from experiments.teachers.spec import ARMS, STARTED, Teachers
from experiments.teachers.stages import NEAR

__all__ = ["NAMES", "notes", "reading"]

Row = Mapping[str, Any]

NAMES: Mapping[str, str] = {"ce": "CE", "mse": "MSE", STARTED: "MSE-from-CE", "ls": "label smoothing"}
"""Losses in words."""


def reading(spec: Teachers, trials: Sequence[Row], rows: Sequence[Row], found: Sequence[Row]) -> list[dict[str, str]]:
    """By topic: the settings, whether the trainings have levelled off, and which teacher is closer."""
    sentences = []
    for net in spec.nets:
        chosen = {row["loss"]: row for row in trials if row["net"] == net and row["chosen"]}
        if chosen:
            said = "; ".join(_setting(row) for row in chosen.values())
            sentences.append({"topic": "settings", "text": f"{net}: {said}.{_ratio(chosen)}"})
        for loss in spec.losses:
            own = [row for row in rows if (row["net"], row["loss"]) == (net, loss) and "refused" not in row]
            if own:
                sentences.append({"topic": "levelled", "text": f"{net}, {NAMES[loss]}: {_levelled(own)}"})
        for arm, against in (("mse", "ce"), (STARTED, "ce"), ("mse+T", "ce+T"), (f"{STARTED}+T", "ce+T")):
            pair = {
                row["quantity"]: row for row in found if (row["net"], row["arm"], row["against"]) == (net, arm, against)
            }
            if pair:
                sentences.append({"topic": "closer", "text": f"{net}: {_closer(arm, against, pair)}"})
    return sentences


def _setting(row: Row) -> str:
    edge = f" (on the edge in {' and '.join(row['edge'])})" if row["edge"] else ""
    warm = f", warm-up {row['warm_up']:g}" if row["warm_up"] else ", no warm-up"
    return f"{NAMES[row['loss']]} wants rate {row['rate']:g}, decay {row['decay']:g}{warm}{edge}"


def _ratio(chosen: Mapping[str, Row]) -> str:
    if "ce" not in chosen or "mse" not in chosen:
        return ""
    times = chosen["mse"]["rate"] / chosen["ce"]["rate"]
    return f" MSE's rate is {times:.3g} times that of CE."


def _levelled(own: Sequence[Row]) -> str:
    short_of = sum(bool(row["under_trained"]) for row in own)
    left, late = (max(float(row[name]) for row in own) for name in ("left", "late_gain"))
    verdict = "levelled off in every seed" if not short_of else f"under-trained in {short_of} of {len(own)} seeds"
    return (
        f"{verdict}; its training loss ends at {left:.1%} of the uniform prediction's at most, {late:.1%} of the gain "
        "came late at most."
    )


def _closer(arm: str, against: str, pair: Mapping[str, Row]) -> str:
    first, second = (_arm(name) for name in (arm, against))
    text = f"the {first} teacher is {_side(pair['mse'])} than the {second} teacher in MSE ({_number(pair['mse'])})"
    text += f", and {_side(pair['kl'])} in KL ({_number(pair['kl'])})"
    return f"{text}; its accuracy differs by {_number(pair['accuracy'], 100)} points."


def _arm(arm: str) -> str:
    loss, scaled = ARMS[arm]
    return NAMES[loss] + (" + T" if scaled else "")


def _side(row: Row) -> str:
    low, high = float(row["low"]), float(row["high"])
    return "closer to p*" if high < 0 else "farther from p*" if low > 0 else "neither surely closer nor farther"


def _number(row: Row, scale: float = 1.0) -> str:
    mean, low, high = (scale * float(row[name]) for name in ("mean", "low", "high"))
    if not math.isfinite(low + high):
        return f"{mean:+.3g}, {'one seed: no interval' if row['n'] == 1 else 'no interval'}"
    return f"{mean:+.3g} [{low:+.3g}, {high:+.3g}]"


def notes(spec: Teachers, trials: Sequence[Row], rows: Sequence[Row], about: Row) -> list[str]:
    """What bears on the numbers, some of it from them."""
    protocol = spec.protocol
    all_images = SHAPES[DATASETS[protocol.dataset].images][2]
    times = about["classes"] / 2
    done = len({row["seed"] for row in rows})
    found = [
        f"Size: {DATASETS[protocol.dataset].title}, {protocol.train or all_images} training images a seed "
        f"({protocol.validation:.0%} of them for validation), teachers of {protocol.epochs} epochs, a search of "
        f"{spec.length_of_search}; {done} of {spec.seeds} seeds have landed.",
        f"At the uniform output the gradient of the softmax-Brier score by the logits is exactly 2/K = "
        f"1/{times:g} of that of cross-entropy, so the same step wants {times:g} times the rate and 1/{times:g} of the "
        "decay.",
        "Every setting is judged by its loss's own validation score at the last epoch, on one seed that is not "
        f"reported: first the rates at the middle decay, up to {BEYOND} beyond an edge, then the decays at the best "
        "rate, then the warm-ups (in epochs, whatever the length). Differences below the luck of a seed choose too, "
        "and a rate is not tried again at another decay. A scale of the loss is a rate and a decay, not a third "
        "number.",
        f"A teacher is called under-trained where its training loss ends above {LEFT:.0%} of what the uniform "
        f"prediction costs, or where more than {LATE_GAIN:.0%} of all that it gained came in the last {LATE:.0%} of "
        "its epochs; after a start, the epochs of the start do not count.",
        "Closeness to p*: the difference of two teachers' scores on test labels that neither has seen is the "
        "difference of their distances to p* (Theorem 1), negative where the first is closer. Teachers of a seed share "
        "images, split, initialisation and batch order; intervals are crossed over seeds and test images, those of "
        "scores over seeds alone, none is adjusted for their number. Test images choose nothing.",
        "+T: a temperature fitted to the trained teacher on the validation labels of its training, by their NLL.",
    ]
    if STARTED in spec.losses:
        start = f"{spec.start_epochs} epoch{'s' * (spec.start_epochs != 1)}"
        found.append(
            f"{NAMES[STARTED]}: {start} of cross-entropy at the published rate of the net (its loss "
            "is scaled by that rate over MSE's), then MSE, in one training."
        )
    if about["near_duplicates"]:
        found.append(
            f"{len(about['near_duplicates'])} of {about['measured']} test images lie within {NEAR:g} of a training "
            "image, by pixels; differences without them are given beside."
        )
    edges = [f"{row['net']} with {NAMES[row['loss']]} ({', '.join(row['edge'])})" for row in trials if row["edge"]]
    if edges:
        found.append(f"Chosen at the edge of what was tried (a better setting may lie beyond): {'; '.join(edges)}.")
    short_of = [
        f"{row['net']} with {NAMES[row['loss']]}" for row in trials if row["chosen"] and row.get("under_trained")
    ]
    if short_of:
        found.append(f"The search itself was too short to level off: {'; '.join(short_of)}.")
    lost = [
        f"{row['net']} with {NAMES[row['loss']]}, seed {row['seed']}: {row['refused']}"
        for row in rows
        if "refused" in row
    ]
    for net in spec.nets:
        for loss in spec.losses:
            own = [row for row in trials if (row["net"], row["loss"]) == (net, loss)]
            if own and all("diverged" in row for row in own):
                lost.append(f"{net} with {NAMES[loss]}: every rate diverged")
    return found + [f"Left out, {sentence}." for sentence in dict.fromkeys(lost)]
