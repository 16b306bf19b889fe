"""From rows to the ladder: values of every arm, differences with intervals, verdicts, and what they say in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcpd import simplex
from bcpd.measure import difference_to_bcpd
from bcpd.measure.difference import label_differences
from bcpd.measure.votes import squared_distance_from_votes
from bcpd.stats import crossed_mean_interval, mean_interval
from experiments.ladder.spec import ARMS, Ladder, Rung
from experiments.ladder.stages import shares_path, short
from experiments.ladder.worlds import Measured

__all__ = ["COMPARED", "by_labels", "differences", "reading", "values", "verdicts"]

Row = Mapping[str, Any]

COMPARED: tuple[tuple[str, str], ...] = (
    ("mse", "ce"),
    ("ce_t", "ce"),
    ("mse_t", "ce"),
    ("label_smoothing", "ce"),
    ("mse_t", "ce_t"),
)
"""(arm, the arm that it is compared with)."""

EXACT = ("mse", "kl", "accuracy", "transfer_mse", "transfer_kl")
"""What an exact rung knows of a network; a teacher's distances at its training inputs, which its student sees, too."""


def _of(rows: Sequence[Row], rung: Rung, role: str, arm: str, checkpoint: str = "last") -> list[Row]:
    """By draw."""
    wanted = {"ground": rung.ground, "role": role, "arm": arm, "checkpoint": checkpoint}
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return sorted(found, key=lambda row: int(row["draw"]))


NETWORKS = (("teacher", "last"), ("teacher", "best_score"), ("student", "last"))


def values(spec: Ladder, rows: Sequence[Row], folder: Path, measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """Mean and 95 % interval of what every rung knows of every arm's teacher and student.

    On exact rungs over draws, on the others crossed over draws and test images. What is not finite in some draw, as
    that of a network that diverged, has no entry.
    """
    found: list[dict[str, Any]] = []
    for rung in spec.rungs:
        for role, checkpoint in NETWORKS:
            for arm in ARMS:
                own = _of(rows, rung, role, arm, checkpoint)
                if not own or any(row.get("lost") for row in own):
                    continue
                about = {"rung": rung.name, "role": role, "checkpoint": checkpoint, "arm": arm}
                if rung.truth == "exact":
                    there = (name for name in EXACT if name in own[0])
                    samples = {name: [float(row[name]) for row in own] for name in there}
                    intervals = {n: mean_interval(v) for n, v in samples.items() if all(map(math.isfinite, v))}
                else:
                    tables = _scores(rung, measured[rung.ground], _loaded(folder, own))
                    intervals = {n: crossed_mean_interval(t) for n, t in tables.items() if bool(t.isfinite().all())}
                found.extend(about | {"quantity": name, **_interval(of)} for name, of in intervals.items())
    return found


def _scores(rung: Rung, measured: Measured, log_q: Tensor) -> dict[str, Tensor]:
    """Of every draw's network at every image, ``(draws, n)``."""
    q, y = log_q.exp(), measured.source.y
    if rung.truth == "people":
        assert measured.human is not None
        counts, truth = measured.human.counts_at("typical"), measured.human.probabilities
        mse = torch.stack([squared_distance_from_votes(one, counts) for one in q])
        return {"mse": mse, "ce": simplex.cross_entropy_from_log(truth, log_q), "accuracy": _right(log_q, truth)}
    labels = torch.nn.functional.one_hot(y, q.shape[-1]).to(q)
    brier = (q - labels).square().sum(-1)
    return {"brier": brier, "nll": simplex.cross_entropy_from_log(labels, log_q), "accuracy": _right(log_q, y)}


def _interval(interval: Any) -> dict[str, Any]:
    low, high = (short(value) if math.isfinite(value) else value for value in (interval.low, interval.high))
    return {"mean": short(interval.mean), "low": low, "high": high, "n": interval.n}


def differences(
    spec: Ladder, rows: Sequence[Row], folder: Path, measured: Mapping[str, Measured], near: Mapping[str, Sequence[int]]
) -> list[dict[str, Any]]:
    """Paired differences of arms, teachers and students, with 95 % intervals.

    On exact rungs over draws, each with images of its own or the same ones with p* exact; on the others crossed over
    draws and test images, for the distances by Theorem 1 from labels (or votes) that no network has seen.
    ``without_near``: the same without test images that nearly repeat a training image.
    """
    found: list[dict[str, Any]] = []
    for rung in spec.rungs:
        for role, checkpoint in NETWORKS:
            for arm, against in COMPARED:
                pair = [_of(rows, rung, role, name, checkpoint) for name in (arm, against)]
                if not all(pair) or any(row.get("lost") for own in pair for row in own):
                    continue
                about = {"rung": rung.name, "role": role, "checkpoint": checkpoint, "arm": arm, "against": against}
                if rung.truth == "exact":
                    found.extend(about | entry for entry in _over_draws(pair))
                else:
                    entries = _crossed(folder, measured[rung.ground], rung, pair, near.get(rung.ground, ()))
                    found.extend(about | entry for entry in entries)
    return found


def _over_draws(pair: Sequence[Sequence[Row]]) -> Iterator[dict[str, Any]]:
    for quantity in (name for name in EXACT if name in pair[0][0]):
        sample = [float(a[quantity]) - float(b[quantity]) for a, b in zip(*pair, strict=True)]
        if all(map(math.isfinite, sample)):
            yield {"quantity": quantity, **_interval(mean_interval(sample)), "over": "draws"}


def _crossed(
    folder: Path, measured: Measured, rung: Rung, pair: Sequence[Sequence[Row]], near: Sequence[int]
) -> Iterator[dict[str, Any]]:
    log_a, log_b = (_loaded(folder, rows) for rows in pair)
    y = measured.source.y
    truth = measured.human.probabilities if rung.truth == "people" and measured.human is not None else y
    tables = label_differences(log_a.exp(), log_b.exp(), truth, log_q_a=log_a, log_q_b=log_b)
    tables["accuracy"] = _right(log_a, truth) - _right(log_b, truth)
    kept = torch.ones(len(y), dtype=torch.bool)
    kept[list(near)] = False
    for quantity, table in tables.items():
        if not bool(table.isfinite().all()):
            continue
        entry = {"quantity": quantity, **_interval(crossed_mean_interval(table)), "over": "draws x images"}
        if near:
            entry["without_near"] = _interval(crossed_mean_interval(table[:, kept]))
        yield entry


def _loaded(folder: Path, rows: Sequence[Row]) -> Tensor:
    """Log-probabilities of a network a draw, ``(draws, n, K)``."""
    tables = [np.load(shares_path(folder, row), allow_pickle=False) for row in rows]
    return torch.from_numpy(np.stack(tables)).double().log_softmax(-1)


def _right(log_q: Tensor, truth: Tensor) -> Tensor:
    """Of each prediction, the share of the labels that agree."""
    choice = log_q.argmax(-1)
    if truth.ndim == 1:
        return (choice == truth).double()
    return truth.expand(len(log_q), -1, -1).gather(-1, choice[..., None])[..., 0]


# ----------------------------------------------------------------------------------------------------------- Theorem 1


def by_labels(
    spec: Ladder, rows: Sequence[Row], folder: Path, worlds: Callable[[str, int], Measured]
) -> list[dict[str, Any]]:
    """Differences of trained networks by labels alone, beside the same ones by their exact p*.

    One half of the measured images has labels only and goes through
    :func:`bcpd.measure.difference_to_bcpd`, the other has p* only: two independent estimates of one number, whose
    difference in standard errors is ``z``.

    Args:
        worlds: what networks of a ground and draw are measured on.
    """
    found: list[dict[str, Any]] = []
    for rung in (rung for rung in spec.rungs if rung.truth == "exact"):
        for draw in range(spec.draws):
            measured = worlds(rung.ground, draw)
            assert measured.log_bayes is not None
            p, y = measured.log_bayes.exp(), measured.source.y
            for role in ("teacher", "student"):
                for arm in ("mse", "label_smoothing"):
                    pair = [_of(rows, rung, role, name)[draw] for name in (arm, "ce")]
                    if any(row.get("lost") for row in pair):
                        continue
                    logs = [_loaded(folder, [row])[0] for row in pair]
                    about = {"rung": rung.name, "role": role, "arm": arm, "against": "ce", "draw": draw}
                    found.extend(about | entry for entry in _both_ways(logs, p, y))
    return found


def _both_ways(logs: Sequence[Tensor], p: Tensor, y: Tensor) -> Iterator[dict[str, Any]]:
    log_a, log_b = logs
    a, b = log_a[::2], log_b[::2]
    labelled = difference_to_bcpd(a.exp(), b.exp(), y[::2], log_q_a=a, log_q_b=b)
    p, log_a, log_b = p[1::2], log_a[1::2], log_b[1::2]
    exact = {
        "mse": simplex.squared_distance(p, log_a.exp()) - simplex.squared_distance(p, log_b.exp()),
        "kl": simplex.cross_entropy_from_log(p, log_a) - simplex.cross_entropy_from_log(p, log_b),
    }
    for quantity, sample in exact.items():
        label = labelled[quantity]
        mean, stderr = float(sample.mean()), float(sample.std() / math.sqrt(len(sample)))
        z = (label.value - mean) / math.hypot(label.stderr, stderr)
        if math.isfinite(z):
            numbers = {
                "by_labels": label.value,
                "by_labels_stderr": label.stderr,
                "exact": mean,
                "exact_stderr": stderr,
            }
            yield {"quantity": quantity, **{name: short(value) for name, value in numbers.items()}, "z": short(z)}


# ------------------------------------------------------------------------------------------------------------ verdicts


def verdicts(spec: Ladder, found: Sequence[Row]) -> list[dict[str, Any]]:
    """Of each rung, on the paper's claim: is the MSE teacher the closer one, and is its student the more accurate?

    ``yes`` and ``no`` where the 95 % interval lies wholly on one side of 0, else ``undecided``.
    """
    entries = []
    for rung in spec.rungs:
        entry: dict[str, Any] = {"rung": rung.name, "title": rung.title, "truth": rung.truth}
        for name, role, quantity, sign in (
            ("closer_mse", "teacher", "mse", -1),
            ("closer_kl", "teacher", "kl", -1),
            ("student", "student", "accuracy", 1),
            ("student_closer_mse", "student", "mse", -1),
        ):
            row = _find(found, rung.name, role, quantity, "mse", "ce")
            entry[name] = "undecided" if row is None else _side(row, sign)
        control = _find(found, rung.name, "teacher", "mse", "mse_t", "ce_t")
        entry["closer_mse_with_temperature"] = "undecided" if control is None else _side(control, -1)
        entries.append(entry)
    return entries


def _find(found: Sequence[Row], rung: str, role: str, quantity: str, arm: str, against: str) -> Row | None:
    wanted = {"rung": rung, "role": role, "quantity": quantity, "arm": arm, "against": against, "checkpoint": "last"}
    return next((row for row in found if all(row[name] == value for name, value in wanted.items())), None)


def _side(row: Row, sign: int) -> str:
    low, high = sorted((sign * float(row["low"]), sign * float(row["high"])))
    return "yes" if low > 0 else "no" if high < 0 else "undecided"


# --------------------------------------------------------------------------------------------------------------- words


def reading(
    spec: Ladder, found: Sequence[Row], judged: Sequence[Row], checked: Sequence[Row] = ()
) -> list[dict[str, str]]:
    """What the ladder says, rung by rung, each sentence with its numbers."""
    sentences = []
    for entry in judged:
        closer = _find(found, entry["rung"], "teacher", "mse", "mse", "ce")
        student = _find(found, entry["rung"], "student", "accuracy", "mse", "ce")
        control = _find(found, entry["rung"], "teacher", "mse", "ce_t", "ce")
        if closer is None or student is None:
            sentences.append({"topic": "rungs", "text": f"{entry['title']}: an arm diverged; nothing is compared."})
            continue
        text = (
            f"{entry['title']}: the MSE teacher is {_closer(entry['closer_mse'])} in MSE "
            f"({_number(closer)}), its student {_better(entry['student'])} ({_number(student, 100)} points)"
        )
        if control is not None:
            text += f"; a temperature moves the CE teacher by {_number(control)}"
        sentences.append({"topic": "rungs", "text": text + "."})
    for title, name in (("closer to p* in MSE", "closer_mse"), ("closer in KL", "closer_kl")):
        sentences.append({"topic": "claim", "text": _tally(f"The MSE teacher is {title}", judged, name)})
    text = _tally("With a temperature fitted to both, the MSE teacher is the closer one", judged, _CONTROL)
    sentences.append({"topic": "claim", "text": text})
    sentences.append({"topic": "claim", "text": _tally("Its student is more accurate", judged, "student")})
    sentences.append({"topic": "claim", "text": _ordered(spec, found)})
    if checked:
        sentences.append({"topic": "theorem 1", "text": _checked(checked)})
    return sentences


def _checked(entries: Sequence[Row]) -> str:
    within = sum(abs(float(entry["z"])) < 1.96 for entry in entries)
    mean = math.fsum(float(entry["z"]) for entry in entries) / len(entries)
    return (
        f"Theorem 1 on the exact rungs: of {len(entries)} differences of trained networks, estimated from labels on "
        f"one half of the images and from p* on the other, {within} agree within 1.96 standard errors "
        f"({within / len(entries):.0%}; 95 % expected, networks share labels); mean z {mean:+.2f}."
    )


_CONTROL = "closer_mse_with_temperature"


def _tally(what: str, judged: Sequence[Row], name: str) -> str:
    count = {side: sum(entry[name] == side for entry in judged) for side in ("yes", "no", "undecided")}
    return (
        f"{what} on {count['yes']} of {len(judged)} rungs; the opposite holds on {count['no']}; "
        f"{count['undecided']} cannot be decided."
    )


def _ordered(spec: Ladder, found: Sequence[Row]) -> str:
    """Whether the arms that are closer than CE have better students than CE."""
    same = other = 0
    for rung in spec.rungs:
        for arm, against in COMPARED[:4]:
            teacher = _find(found, rung.name, "teacher", "mse", arm, against)
            student = _find(found, rung.name, "student", "accuracy", arm, against)
            if teacher is None or student is None or not float(teacher["mean"]) * float(student["mean"]):
                continue
            agrees = (float(teacher["mean"]) < 0) == (float(student["mean"]) > 0)
            same, other = same + agrees, other + (not agrees)
    return (
        f"Of {same + other} comparisons of an arm with CE, the closer teacher (in MSE, by the means) has the more "
        f"accurate student in {same}, the less accurate one in {other}."
    )


def _closer(side: str) -> str:
    return {"yes": "closer to p*", "no": "farther from p*"}.get(side, "neither surely closer nor farther")


def _better(side: str) -> str:
    return {"yes": "is more accurate", "no": "is less accurate"}.get(side, "is neither surely better nor worse")


def _number(row: Row, scale: float = 1.0) -> str:
    mean, low, high = (scale * float(row[name]) for name in ("mean", "low", "high"))
    return f"{mean:+.3g} [{low:+.3g}, {high:+.3g}]"
