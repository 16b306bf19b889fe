"""Figure 1 from its plan to stored results."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bcpd import train
from bcpd.nets import build
from bcpd.provenance import provenance
from bcpd.runs import Progress, Store, Task, sweep
from experiments.figure1.analysis import correlations, matched, verdicts
from experiments.figure1.spec import Figure1, chunks, irreducible, world_name
from experiments.figure1.stages import NETS, TEACHERS, TUNED, target_cells, trials_of, work

__all__ = ["plan", "run"]


SMALL = 2e6
"""Examples below which starting processes takes longer than training."""


def run(
    spec: Figure1,
    folder: Path,
    progress: Callable[[str, int, int], None] | None = None,
    processes: int | None = None,
) -> dict[str, Any]:
    """Run the experiment.

    Args:
        folder: where the stores of finished tasks are kept; a run that was killed goes on from there.
        progress: ``(what, done, total)`` after every task.
        processes: at once, one thread each; by default the cores, or this process alone where there is little to do.
    Returns:
        results of kind ``figure1``, JSON-able. ``table`` holds every student's row, in columns; the first is its id.
    """
    started = time.monotonic()
    worlds = [irreducible(spec, world_name(*world)) for world in spec.worlds]
    usable = [str(world["world"]) for world in worlds if not world["refused"]]
    tuned = _sweep(spec, folder / "tuning.jsonl", _tuning_tasks(spec), progress, processes, "tuning")
    trials = trials_of(spec, tuned)
    rates = {trial.arm: trial.learning_rate for trial in trials if trial.chosen}
    rows = _sweep(spec, folder / "rows.jsonl", _tasks(spec, usable, rates), progress, processes, "figure 1")
    students = [{"id": number, **row} for number, row in enumerate(r for r in rows if r["role"] == "student")]
    teachers = [row for row in rows if row["role"] == "teacher"]
    return {
        "kind": "figure1",
        "title": "Figure 1: the student's accuracy against its teacher's distance to p*",
        "question": (
            "Does the student's accuracy follow the MSE of its targets to p*, or their cross-entropy, once several "
            "families of targets are matched in one and differ in the other?"
        ),
        "spec": asdict(spec),
        "provenance": provenance(),
        "seconds": round(time.monotonic() - started, 1),
        "worlds": worlds,
        "tuning": [trial.record() for trial in trials],
        "predictions": verdicts(students, teachers, worlds),
        "correlations": correlations(students),
        "matched": matched(students),
        "unreachable": [row for row in rows if row["role"] == "unreachable"],
        "teachers": teachers,
        "table": _columns(students),
    }


def plan(spec: Figure1) -> list[dict[str, Any]]:
    """What a run trains, stage by stage: tasks, models, millions of examples shown, replicas of a group and bytes."""
    usable = [world_name(*world) for world in spec.worlds if not irreducible(spec, world_name(*world))["refused"]]
    net = build("mlp", num_classes=spec.num_classes, input_shape=(spec.dimension,), hidden=spec.hidden)
    stages: dict[str, dict[str, Any]] = {}
    for task in [*_tuning_tasks(spec), *_tasks(spec, usable, dict.fromkeys(TUNED, spec.rates[0]))]:
        groups = _trainings(spec, task.payload)
        name = task.payload["stage"]
        empty = {"stage": name, "tasks": 0, "models": 0, "million_examples": 0.0, "group": 0, "group_MiB": 0.0}
        stage = stages.setdefault(name, empty)
        stage["tasks"] += 1
        stage["models"] += sum(models for models, _, _ in groups)
        stage["million_examples"] += task.cost / 1e6
        for models, _, examples in groups:
            together = min(models, spec.group)
            held = train.plan(net, together, examples + spec.validation)
            stage["group"] = max(stage["group"], together)
            stage["group_MiB"] = max(stage["group_MiB"], round(together * held.replica_bytes / 2**20, 1))
    return list(stages.values())


def _sweep(
    spec: Figure1,
    path: Path,
    tasks: Sequence[Task],
    progress: Callable[[str, int, int], None] | None,
    processes: int | None,
    name: str,
) -> list[dict[str, Any]]:
    identity = hashlib.blake2b(json.dumps(asdict(spec), sort_keys=True).encode(), digest_size=10).hexdigest()

    def report(state: Progress) -> None:
        if progress is not None:
            progress(name, state.done, state.total)

    if processes is None and sum(task.cost for task in tasks) < SMALL:
        processes = 1
    with Store(path, identity=identity) as store:
        return sweep(store, tasks, work, processes=processes, progress=report)


def _tuning_tasks(spec: Figure1) -> list[Task]:
    payloads = [{"stage": "tuning", "spec": asdict(spec), "arm": arm} for arm in TUNED]
    return [Task(f"tuning/{payload['arm']}", payload, _cost(spec, payload)) for payload in payloads]


def _tasks(spec: Figure1, worlds: Sequence[str], rates: Mapping[str, float]) -> list[Task]:
    found: list[tuple[str, dict[str, Any]]] = []
    for world in worlds:
        for part in chunks(sum(spec.grey), spec.group):
            found.append((f"{world}/{part[0]}", {"stage": "grey", "world": world, "numbers": part}))
        for part in chunks(spec.teachers, max(1, spec.group // 2)):
            found.append((f"{world}/{part[0]}", {"stage": "released teachers", "world": world, "numbers": part}))
    tuned = {"rates": dict(rates)}
    for draw in range(spec.draws):
        for part in chunks(len(target_cells(spec)) * spec.seeds, spec.group):
            found.append((f"{draw}/{part[0]}", {"stage": "families", "draw": draw, "cells": part, **tuned}))
    for part in chunks(spec.draws, spec.teacher_draws):
        found.append((str(part[0]), {"stage": "teachers", "draws": part, **tuned}))
    for net in NETS:
        for part in chunks(spec.draws, max(2, spec.group // 2)):
            found.append((f"{net}/{part[0]}", {"stage": "contaminated", "net": net, "draws": part, **tuned}))
    plain = asdict(spec)
    return [
        Task(f"{payload['stage']}/{key}", payload | {"spec": plain}, _cost(spec, payload)) for key, payload in found
    ]


def _cost(spec: Figure1, payload: Mapping[str, Any]) -> float:
    """Training examples that the task shows to its models."""
    return float(sum(models * epochs * examples for models, epochs, examples in _trainings(spec, payload)))


def _trainings(spec: Figure1, payload: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """(models, epochs, examples) of the trainings in a task."""
    released = round(spec.share * spec.points)
    match payload["stage"]:
        case "tuning":
            far = payload["arm"].startswith("contaminated")
            epochs = spec.epochs if payload["arm"] == "student" else spec.teacher_epochs
            examples = spec.contaminated_train if far else spec.train
            return [(len(spec.rates) * spec.tuning_draws, epochs, examples)]
        case "grey":
            return [(len(payload["numbers"]), spec.released_epochs, released)]
        case "released teachers":
            return 2 * [(2 * len(payload["numbers"]), spec.released_epochs, released)]
        case "families":
            return [(len(payload["cells"]), spec.epochs, spec.train)]
        case "teachers":
            models = len(payload["draws"]) * len(TEACHERS)
            students = models * (1 + len(spec.snapshots))
            return [(models, spec.teacher_epochs, spec.train), (students, spec.epochs, spec.train)]
        case _:
            return [(2 * len(payload["draws"]), spec.teacher_epochs, spec.contaminated_train)]


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``{"columns": names, "rows": values}``: a third of the size of a list of dicts."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "role"]
    return {"columns": names, "rows": [[row.get(name) for name in names] for row in rows]}
