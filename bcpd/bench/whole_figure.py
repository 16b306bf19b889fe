"""The whole of Figure 1: 125 students of one draw, each trained for 100 epochs, measured after each, and tested.

One-hot labels, smoothed labels, the ground truth and 120 grey dots; the student of one-hot labels teaches two more, by
its last epoch and by its best. fit does all of it, over processes; of the released loop some epochs and tests are
timed, and the rest is computed from them.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from bcpd.bench import released
from bcpd.bench.released import plain_mlp
from bcpd.bench.released_metrics import measured_sums, metrics_of_sums
from bcpd.bench.workload import Students, Workload, World, known_bayes, mixed_rows
from bcpd.data import InMemory
from bcpd.runs import Progress, Store, Task, sweep
from bcpd.seeds import generator
from bcpd.train import Fitted, log_probabilities

__all__ = ["BASELINE_EPOCHS", "Figure", "figure_by_fit", "groups", "released_seconds", "train_group"]

NAMED = {"one-hot": (1.0, 0.0), "smoothed": (0.9, 0.0), "ground truth": (0.0, 1.0)}
"""Weights of the label and of p* in the targets; what is missing to 1 is spread over the classes."""
TAUGHT = {"distilled": "last", "distilled early-stopped": "best_accuracy"}
"""Students of the one-hot student, and the checkpoint that teaches each."""
COST_OF_TAUGHT = 4.0  # of their training, two at a time, in students of a full group
BASELINE_EPOCHS = 2


@dataclass(frozen=True)
class Figure:
    """What is trained.

    Attributes:
        greys: grey dots, beside three students of other targets and two of a teacher.
        epochs: of every training; test: points of the final test.
        workload: sizes of a training.
    """

    greys: int = 120
    epochs: int = 100
    test: int = 90_000
    workload: Workload = field(default_factory=Workload)

    @property
    def models(self) -> int:
        """125."""
        return len(NAMED) + self.greys + len(TAUGHT)

    @property
    def flops(self) -> int:
        """Of all trainings with their metrics, and of all tests."""
        return self.models * (self.epochs * self.workload.flops("released") + self.test * self.workload.forward_flops)


def released_seconds(figure: Figure, students: Sequence[int], device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of the released loop for some students: ``epoch`` (a mean of :data:`BASELINE_EPOCHS`) and ``test``."""
    world = World(figure.workload, test=figure.test, device=device)
    seconds: dict[str, list[float]] = {"epoch": [], "test": []}
    for seed in students:
        one = Students(world, [seed])
        net, points, parts = plain_mlp(one.network(), 0), one.points(0), one.parts(0)
        started = time.perf_counter()
        best, _ = released.train(net, points, *parts, epochs=BASELINE_EPOCHS)
        trained = time.perf_counter()
        released.evaluate(best, world.test_points(), torch.arange(len(world.test)))
        seconds["epoch"].append((trained - started) / BASELINE_EPOCHS)
        seconds["test"].append(time.perf_counter() - trained)
    return seconds


def figure_by_fit(
    figure: Figure,
    group: int,
    processes: int,
    device: str = "cpu",
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Train and test all students.

    Args:
        group: how many train together, at most.
        processes: at once, with one thread each; 1 works in this process.
    Returns:
        ``seconds`` of it all (starting the processes included), the ``rows`` of the students, and the rank correlation
        ``spearman`` of the grey dots' label weights and test accuracies, which is negative where the training is sound.
    """
    payload = {"workload": asdict(figure.workload), "epochs": figure.epochs, "test": figure.test, "device": device}
    tasks = [
        Task(
            f"students {first}-{first + count - 1}",
            {**payload, "first": first, "count": count},
            count + (COST_OF_TAUGHT if first == 0 else 0.0),
        )
        for first, count in groups(len(NAMED) + figure.greys, group, processes)
    ]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "rows.jsonl") as store:
        rows = sweep(store, tasks, train_group, processes=processes, progress=progress)
    seconds = time.perf_counter() - started
    greys = [row for row in rows if row["name"] == "grey"]
    found = float(spearmanr([row["label_weight"] for row in greys], [row["test_accuracy"] for row in greys])[0])
    return {
        "seconds": seconds,
        "models": len(rows),
        "groups": [task.payload["count"] for task in tasks],
        "processes": processes,
        "spearman": found,
        "rows": rows,
    }


def groups(count: int, largest: int, processes: int) -> list[tuple[int, int]]:
    """First student and size of each group: as many for each process; the first is lighter by those it teaches."""
    number = min(count, processes * math.ceil((count + COST_OF_TAUGHT) / (processes * largest)))
    light = max(1, round((count + COST_OF_TAUGHT) / number - COST_OF_TAUGHT)) if number > 1 else count
    rest = count - light
    sizes = [light] + [rest // (number - 1) + (place < rest % (number - 1)) for place in range(number - 1)]
    return [(sum(sizes[:place]), size) for place, size in enumerate(sizes)]


def train_group(payload: dict[str, Any]) -> list[dict[str, Any]]:
    """Train and test some students of the figure, and with the first of them those that it teaches; a row each."""
    world = World(Workload(**payload["workload"]), test=payload["test"], device=payload["device"])
    seeds = range(payload["first"], payload["first"] + payload["count"])
    weights = [_weights(seed) for seed in seeds]
    rows = torch.stack([mixed_rows(world.source, *pair) for _, pair in weights])
    fitted = Students(world, seeds, rows).fit("released", payload["epochs"])
    found = _tested(fitted, world.test)
    named = [
        {"name": name, "label_weight": pair[0], **metrics} for (name, pair), metrics in zip(weights, found, strict=True)
    ]
    if payload["first"] > 0:
        return named
    teachers = [log_probabilities(fitted.network(checkpoint), world.source)[0] for checkpoint in TAUGHT.values()]
    # seeds that no other student has
    taught = Students(world, [-1 - place for place in range(len(TAUGHT))], torch.stack(teachers).exp())
    found = _tested(taught.fit("released", payload["epochs"]), world.test)
    return named + [{"name": name, **metrics} for name, metrics in zip(TAUGHT, found, strict=True)]


def _weights(seed: int) -> tuple[str, tuple[float, float]]:
    """Name and target of a student; grey dots have label weights uniform on (0, 1)."""
    if seed < len(NAMED):
        return list(NAMED.items())[seed]
    share = float(torch.rand((), generator=generator(seed, "bench share")))
    return "grey", (share, 1 - share)


def _tested(fitted: Fitted, test: InMemory) -> list[dict[str, float]]:
    """The released metrics of the best networks at all test points; p* stands for the targets, as in the loop."""
    bayes = known_bayes(test).to(test.dtype)
    sums = measured_sums(fitted.network("best_accuracy"), fitted.method, test.x, test.y, bayes, bayes)
    metrics = metrics_of_sums(sums)
    return [
        {f"test_{name}": float(value[replica]) for name, value in metrics.items()}
        for replica in range(len(metrics["accuracy"]))
    ]
