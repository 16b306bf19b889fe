"""Figure 1 from its plan to stored results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bcpd import train
from bcpd.nets import build
from bcpd.provenance import provenance, source_digest
from bcpd.runs import Report, Stages, Task
from experiments.figure1.analysis import comparisons, correlations, matched, rate_choices
from experiments.figure1.arms import ARMS, trainings
from experiments.figure1.notes import notes
from experiments.figure1.predictions import registration, tally, verdicts
from experiments.figure1.spec import Figure1, chunks, irreducible, short
from experiments.figure1.stages import NETS, TUNED, checked_cells, target_cells, trials_of, work

__all__ = ["plan", "run"]


SMALL = 2e6
"""Examples below which starting processes takes longer than training."""

TRAINING_CODE = (
    *(f"experiments.figure1.{name}" for name in ("spec", "arms", "training", "stages")),
    "bcpd.targets",
)
"""What rows depend on beside the specification: rows of other code in these modules are not mixed with its own."""

RATES = ("ce", "mse", "student", "ce, last", "mse, last")
"""Of the toy; the others are of the contaminated world."""


def run(
    spec: Figure1,
    folder: Path,
    progress: Report | None = None,
    processes: int | None = None,
) -> dict[str, Any]:
    """Run the experiment.

    Args:
        folder: where the stores of finished tasks are kept; a run that was killed goes on from there.
        progress: ``(what, done, total)`` after every task.
        processes: at once, one thread each; by default the cores, or this process alone where there is little to do.
    Returns:
        results of kind ``figure1``, JSON-able. ``table`` holds every student's row, in columns; the first is its id.
        ``seconds`` are those of all sessions that the folder has seen.
    Raises:
        ValueError: the toy or the contaminated world must be refused, so that nothing can be separated.
    """
    stages = Stages(
        folder, work, TRAINING_CODE, settings=asdict(spec), progress=progress, processes=processes, small=SMALL
    )
    worlds = [irreducible(spec, name) for name in spec.all_worlds]
    usable = _usable(worlds)

    tuned = stages.sweep("tuning", _tuning_tasks(spec))
    trials = trials_of(spec, tuned)
    rates = {trial.arm: trial.learning_rate for trial in trials if trial.chosen}
    rows = stages.sweep("rows", _tasks(spec, usable, rates), "figure 1")
    students = [{"id": number, **row} for number, row in enumerate(r for r in rows if r["role"] == "student")]
    teachers = [{"id": number, **row} for number, row in enumerate(r for r in rows if r["role"] == "teacher")]
    trained = trainings(spec, rates)
    alias = {arm: training.name for training in trained for arm in training.arms}
    student_rates = [short(rates["student"] * spec.rate_factor**step) for step in (-1, 0, 1)]
    entries = verdicts(
        students,
        teachers,
        worlds,
        num_classes=spec.num_classes,
        must_refuse=spec.must_refuse,
        student_rates=student_rates,
        alias=alias,
    )
    return {
        "kind": "figure1",
        "title": "Figure 1: the student's accuracy against its teacher's distance to p*",
        "question": (
            "Does the student's accuracy follow the MSE of its targets to p*, or their cross-entropy, once several "
            "families of targets are matched in one and differ in the other?"
        ),
        "spec": asdict(spec),
        "provenance": provenance(),
        "training_code": source_digest(*TRAINING_CODE),
        "seconds": stages.seconds(),
        "worlds": worlds,
        "tuning": [trial.record() for trial in trials],
        "rates": rate_choices(trials),
        "student_rates": student_rates,
        "arms": [
            {"arm": arm, "loss": ARMS[arm].loss, "rate": rates[ARMS[arm].tuned], "training": alias[arm]} for arm in ARMS
        ],
        "registered": registration(),
        "predictions": entries,
        "tally": tally(entries),
        "correlations": correlations(students),
        "matched": matched(students),
        "comparisons": comparisons(teachers, alias),
        "lost": _lost(students, teachers),
        "unreachable": [row for row in rows if row["role"] == "unreachable"],
        "notes": notes(spec, trained, student_rates),
        "teachers": teachers,
        "table": _columns(students),
    }


def _lost(students: Sequence[Mapping[str, Any]], teachers: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many trainings diverged: students by stage, and teachers."""
    found: dict[str, int] = {}
    for row in students:
        found[row["stage"]] = found.get(row["stage"], 0) + (not math.isfinite(row["student_accuracy_last"]))
    return found | {"teachers": sum(math.isnan(row["fresh_mse"][-1]) for row in teachers)}


def _usable(worlds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the released worlds that are not refused.

    Raises:
        ValueError: one of the two worlds of the separating experiment is.
    """
    for world in worlds[-2:]:
        if world["refused"]:
            raise ValueError(f"the {world['world']} world cannot separate anything: {world['refused']}")
    return [str(world["world"]) for world in worlds[:-2] if not world["refused"]]


def plan(spec: Figure1) -> list[dict[str, Any]]:
    """What a run trains, stage by stage: tasks, models, millions of examples shown, replicas of a group and bytes.

    Teachers: at most, since arms whose rates coincide are trained once.
    """
    usable = _usable([irreducible(spec, name) for name in spec.all_worlds])
    different = {name: 0.001 * 1.3**number for number, name in enumerate((*RATES, *TUNED))}
    net = build("mlp", num_classes=spec.num_classes, input_shape=(spec.dimension,), hidden=spec.hidden)
    stages: dict[str, dict[str, Any]] = {}
    for task in [*_tuning_tasks(spec), *_tasks(spec, usable, different)]:
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


def _tuning_tasks(spec: Figure1) -> list[Task]:
    payloads = [{"stage": "tuning", "spec": asdict(spec), "arm": arm} for arm in TUNED]
    return [Task(f"tuning/{payload['arm']}", payload, _cost(spec, payload)) for payload in payloads]


def _tasks(spec: Figure1, worlds: Sequence[str], rates: Mapping[str, float]) -> list[Task]:
    found: list[tuple[str, dict[str, Any]]] = []
    for world in worlds:
        grey, teachers = spec.released_counts(world)
        for part in chunks(sum(grey), spec.group):
            found.append((f"{world}/{part[0]}", {"stage": "grey", "world": world, "numbers": part}))
        for part in chunks(teachers, max(1, spec.group // 2)):
            found.append((f"{world}/{part[0]}", {"stage": "released teachers", "world": world, "numbers": part}))
    toy = {"rates": {name: rates[name] for name in RATES}}
    student = {"rates": {"student": rates["student"]}}
    for draw in range(spec.draws):
        for part in chunks(len(target_cells(spec)) * spec.seeds, spec.group):
            found.append((f"{draw}/{part[0]}", {"stage": "families", "draw": draw, "cells": part, **student}))
        found.append((str(draw), {"stage": "rate check", "draw": draw, **student}))
    for part in chunks(spec.draws, spec.teacher_draws):
        found.append((str(part[0]), {"stage": "teachers", "draws": part, **toy}))
    for net in NETS:
        own = {"rates": {name: rates[name] for name in rates if name.startswith(f"contaminated {net} ")}}
        for part in chunks(spec.draws, max(2, spec.group // 2)):
            found.append((f"{net}/{part[0]}", {"stage": "contaminated", "net": net, "draws": part, **own}))
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
            examples = spec.contaminated_train if far else spec.train
            grid = spec.grid(payload["arm"])
            return [(len(grid) * spec.tuning_draws, spec.tuning_epochs(payload["arm"]), examples)]
        case "grey":
            return [(len(payload["numbers"]), spec.released_epochs, released)]
        case "released teachers":
            return 2 * [(2 * len(payload["numbers"]), spec.released_epochs, released)]
        case "families":
            return [(len(payload["cells"]), spec.epochs, spec.train)]
        case "rate check":
            return [(2 * len(checked_cells(spec)), spec.epochs, spec.train)]
        case "teachers":
            draws, trained = len(payload["draws"]), trainings(spec, payload["rates"])
            students = draws * sum(len(training.taught) for training in trained)
            return [(draws * len(trained), spec.teacher_epochs, spec.train), (students, spec.epochs, spec.train)]
        case _:
            return [(2 * len(payload["draws"]), spec.contaminated_epochs, spec.contaminated_train)]


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``{"columns": names, "rows": values}``: a third of the size of a list of dicts."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "role"]
    return {"columns": names, "rows": [[row.get(name) for name in names] for row in rows]}
