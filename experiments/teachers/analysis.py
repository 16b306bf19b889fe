"""From teachers' log-probabilities at the test images to scores and paired differences, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcpd import simplex
from bcpd.measure.difference import crossed_difference_to_bcpd, difference_to_bcpd
from bcpd.stats import CrossedInterval, Interval, crossed_mean_interval, mean_interval
from experiments.tables.stages import short
from experiments.teachers.spec import ARMS, Teachers
from experiments.teachers.stages import kept_labels, kept_log_probabilities

__all__ = ["differences", "values"]

Row = Mapping[str, Any]

QUANTITIES = ("accuracy", "nll", "brier")


def values(spec: Teachers, rows: Sequence[Row], folder: Path) -> list[dict[str, Any]]:
    """Test accuracy, log score and Brier score of every arm: mean and 95 % t-interval over seeds, same test images.

    A temperature moves no accuracy. A teacher that diverged is left out, and its seed does not count.
    """
    found: list[dict[str, Any]] = []
    for net in spec.nets:
        y = kept_labels(folder)
        for arm, teachers in _log_probabilities(spec, rows, folder, net).items():
            samples: dict[str, list[float]] = {name: [] for name in QUANTITIES}
            for log_q in teachers.values():
                for name, of_images in _scores(log_q, y).items():
                    samples[name].append(float(of_images.mean()))
            for name, sample in samples.items():
                if all(map(math.isfinite, sample)):
                    found.append({"net": net, "arm": arm, "quantity": name, **_interval(mean_interval(sample))})
    return found


def differences(spec: Teachers, rows: Sequence[Row], folder: Path, near: Sequence[int]) -> list[dict[str, Any]]:
    """For each pair of arms of a net: how much farther from p* the first is, by labels that neither has seen.

    ``mse`` is the difference of Brier scores, ``kl`` that of log scores (:func:`bcpd.measure.difference_to_bcpd`):
    negative, and ``arm`` is closer to p* than ``against``. Seed by seed with the standard error over images, and over
    the seeds that both have with a 95 % interval crossed over seeds and images; one seed alone has none.
    ``without_near``: the same without test images that nearly repeat a training image. ``accuracy`` goes along.

    Args:
        near: positions of those images.
    """
    found: list[dict[str, Any]] = []
    for net in spec.nets:
        y = kept_labels(folder)
        exclude = torch.zeros(len(y), dtype=torch.bool)
        exclude[list(near)] = True
        teachers = _log_probabilities(spec, rows, folder, net)
        for against, arm in combinations(teachers, 2):
            both = sorted(teachers[arm].keys() & teachers[against].keys())
            if not both:
                continue
            pair = [torch.stack([teachers[name][seed] for seed in both]) for name in (arm, against)]
            about = {"net": net, "arm": arm, "against": against}
            found += [about | entry for entry in _compared(pair, y, both, exclude)]
    return found


def _compared(pair: Sequence[Tensor], y: Tensor, seeds: Sequence[int], exclude: Tensor) -> list[dict[str, Any]]:
    """Of log-probabilities ``(S, n, K)`` of both arms."""
    by_seed: dict[str, list[dict[str, Any]]] = {}
    for seed, a, b in zip(seeds, *pair, strict=True):
        for name, one in difference_to_bcpd(a.exp(), b.exp(), y, log_q_a=a, log_q_b=b).items():
            entry = {"seed": seed, "value": short(one.value), "stderr": short(one.stderr)}
            by_seed.setdefault(name, []).append(entry | ({"note": one.note} if one.note else {}))
    right = [(log_q.argmax(-1) == y).double() for log_q in pair]
    gap = right[0] - right[1]
    by_seed["accuracy"] = [
        {"seed": seed, "value": short(float(own.mean())), "stderr": short(float(own.std() / math.sqrt(len(own))))}
        for seed, own in zip(seeds, gap, strict=True)
    ]
    whole = _crossed(pair, y, gap, torch.zeros_like(exclude)) if len(seeds) > 1 else {}
    checked = _crossed(pair, y, gap, exclude) if whole and bool(exclude.any()) and int((~exclude).sum()) > 1 else {}
    entries = []
    for name, each in by_seed.items():
        found: dict[str, Any] = {"quantity": name, "by_seed": each, "n": len(seeds), "images": len(y)}
        found |= whole.get(name) or _one_seed(each)
        entries.append(found | ({"without_near": checked[name]} if name in checked else {}))
    return entries


def _crossed(pair: Sequence[Tensor], y: Tensor, gap: Tensor, exclude: Tensor) -> dict[str, dict[str, Any]]:
    a, b = pair
    found: dict[str, dict[str, Any]] = {}
    for name, one in crossed_difference_to_bcpd(a.exp(), b.exp(), y, log_q_a=a, log_q_b=b, exclude=exclude).items():
        found[name] = _both_ways(one) | ({"note": one.note} if one.note else {})
    return found | {"accuracy": _both_ways(crossed_mean_interval(gap[:, ~exclude]))}


def _both_ways(interval: CrossedInterval) -> dict[str, Any]:
    """With what more seeds, and what more images would lower."""
    parts = {"seed_stderr": short(interval.row_stderr), "image_stderr": short(interval.column_stderr)}
    return _interval(interval) | parts


def _one_seed(each: Sequence[Row]) -> dict[str, Any]:
    """Its value, and no interval."""
    return {"mean": each[0]["value"], "low": -math.inf, "high": math.inf}


def _log_probabilities(spec: Teachers, rows: Sequence[Row], folder: Path, net: str) -> dict[str, dict[int, Tensor]]:
    """Of every arm of a net at its temperature, by seed: float64 ``(n, K)``."""
    found: dict[str, dict[int, Tensor]] = {}
    for arm in spec.arms:
        loss, scaled = ARMS[arm]
        for row in rows:
            if (row["net"], row["loss"]) == (net, loss) and "refused" not in row:
                log_q = kept_log_probabilities(folder, row)
                if scaled:
                    log_q = (log_q / float(row["temperature"])).log_softmax(-1)
                found.setdefault(arm, {})[int(row["seed"])] = log_q
    return found


def _scores(log_q: Tensor, y: Tensor) -> dict[str, Tensor]:
    """One an image."""
    truth = torch.nn.functional.one_hot(y, log_q.shape[-1]).to(log_q)
    return {
        "accuracy": (log_q.argmax(-1) == y).double(),
        "nll": simplex.cross_entropy_from_log(truth, log_q),
        "brier": simplex.squared_distance(truth, log_q.exp()),
    }


def _interval(interval: Interval) -> dict[str, Any]:
    return {name: short(getattr(interval, name)) for name in ("mean", "low", "high")} | {"n": interval.n}
