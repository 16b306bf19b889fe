"""The map from its plan to stored results."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bcpd.data import InMemory
from bcpd.distill import Supervised
from bcpd.mixtures import paper_toy
from bcpd.provenance import provenance
from bcpd.runs import Progress, Store, Task, Trial, choose, sweep
from bcpd.stats import paired_difference
from bcpd.train import Recipe, fit
from experiments.when_mse_wins.analysis import control_differences, planner, reading, summarise, temperatures
from experiments.when_mse_wins.predictions import verdicts
from experiments.when_mse_wins.quantities import QUANTITIES
from experiments.when_mse_wins.spec import Cell, Map, Protocol
from experiments.when_mse_wins.stages import COLUMNS, CONTROL_LOSSES, PAIR, short, work
from experiments.when_mse_wins.training import network

__all__ = ["calibrate", "plan", "run"]

Report = Callable[[str, int, int], None]
Row = dict[str, Any]

COST_OF_PROCESSES = 20.0
"""Below, starting processes takes longer than they save."""

TAUGHT_STATES = 3
CONTROL_STUDENTS = 2 * 9
"""Arms with students at both checkpoints: four temperatures, smoothing, two read-outs, ensemble, cross-fitting."""


def run(spec: Map, folder: Path, progress: Report | None = None, processes: int | None = None) -> dict[str, Any]:
    """Run the map.

    Args:
        folder: where the stores of finished tasks are kept; a run that was killed goes on from there.
        progress: ``(stage, done, total)`` after every task.
        processes: at once, one thread each; by default the cores, or one where there is little to do.
    Returns:
        results of kind ``when-mse-wins``, JSON-able.
    """
    started = time.monotonic()
    worlds = _worlds(spec, folder, progress, processes)
    tuning_tasks = _tuning_tasks(spec, worlds)
    tuned = _sweep(spec, folder / "tuning.jsonl", tuning_tasks, progress, processes, "tuning")
    trials = {cell.name: _trials(rows) for cell, rows in _by_cell(spec, tuning_tasks, tuned).items()}
    rates = {name: _chosen(found) for name, found in trials.items()}
    tasks = _main_tasks(spec, worlds, rates)
    found = _sweep(spec, folder / "rows.jsonl", tasks, progress, processes, "trainings")
    rows = {cell.name: own for cell, own in _by_cell(spec, tasks, found).items()}
    equality = [row for row in rows[spec.base.name] if row["role"] == "equality"]
    rows[spec.base.name] = [row for row in rows[spec.base.name] if row["role"] != "equality"]

    results: dict[str, Any] = {
        "kind": "when-mse-wins",
        "title": "When an MSE teacher wins",
        "question": (
            "Each loss at its own tuned learning rate: in which settings is the MSE-trained teacher closer to p* than "
            "the CE-trained one, and where does its student gain?"
        ),
        "spec": spec.describe(),
        "provenance": provenance(),
        "seconds": round(time.monotonic() - started, 1),
        "notes": _notes(spec),
        "base": spec.base.name,
        "cells": [_cell_record(spec, cell, worlds[_key(cell)], rates[cell.name]) for cell in spec.cells],
        "lines": [line.record(spec.base) for line in spec.lines],
        "pairs": [pair.record() for pair in spec.pairs],
        "settings": [{"id": line.factor, "title": title, **line.record(spec.base)} for title, line in spec.settings],
        "quantities": [quantity.record() for quantity in QUANTITIES],
        "rates": [_rate_record(name, trial) for name, own in trials.items() for trial in own if trial.chosen],
        "sensitivity": [_sensitivity_record(name, trial) for name, own in trials.items() for trial in own],
        "equality": _equality_record(spec, equality),
    }
    results["summary"] = summarise(rows)
    controlled = [cell.name for cell in spec.controls]
    results["controls"] = control_differences({name: rows[name] for name in controlled})
    results["temperatures"] = temperatures(rows)
    results["planner"] = planner(results["summary"])
    results["predictions"] = verdicts(spec, rows, results)
    results["reading"] = reading(results)
    results["tables"] = [{"cell": name, **_table(own)} for name, own in rows.items()]
    return results


def plan(spec: Map, processes: int = 2, seconds_per_unit: float | None = None) -> dict[str, Any]:
    """What a run trains: cells, tasks, models, model-epochs, and seconds where the machine was measured.

    Args:
        processes: at once.
        seconds_per_unit: from :func:`calibrate`.
    """
    stand_in: dict[str, Row] = {_key(cell): {"mixture": {}} for cell in spec.cells}
    one = {"score": 0.01, "accuracy": 0.02}  # the upper bound: two rates
    rates = {cell.name: dict.fromkeys((*PAIR, *CONTROL_LOSSES, "student"), one) for cell in spec.cells}
    tuning, main = _tuning_tasks(spec, stand_in), _main_tasks(spec, stand_in, rates)
    stages = []
    for name, tasks in (("tuning", tuning), ("trainings", main)):
        trainings = [_trainings(spec.protocol, Cell(**task.payload["cell"]), task.payload) for task in tasks]
        epochs = [task.payload["cell"]["epochs"] for task in tasks]
        models = [sum(count for count, _ in groups) for groups in trainings]
        units = sum(task.cost for task in tasks)
        stages.append(
            {
                "stage": name,
                "tasks": len(tasks),
                "models": sum(models),
                "model_epochs": sum(m * e for m, e in zip(models, epochs, strict=True)),
                "seconds": None if seconds_per_unit is None else short(units * seconds_per_unit / processes),
            }
        )
    return {
        "scale": spec.scale,
        "cells": [
            {"cell": cell.name, "draws": spec.draws_of(cell), "tuning_draws": spec.protocol.draws_to_tune(cell)}
            for cell in spec.cells
        ],
        "worlds": len(stand_in),
        "stages": stages,
        "models": sum(stage["models"] for stage in stages),
        "model_epochs": sum(stage["model_epochs"] for stage in stages),
        "seconds": None if seconds_per_unit is None else short(sum(stage["seconds"] for stage in stages)),
    }


def calibrate(spec: Map) -> float:
    """Seconds of one process for a unit of cost (a million examples shown to the linear softmax), in about a second."""
    protocol, cell, models, examples = spec.protocol, spec.base, 24, 400
    mixture = paper_toy(cell.num_classes, protocol.dimension, 1.0, protocol.variance, protocol.seed)
    seeds = list(range(models))
    source = InMemory.from_mixture(mixture, examples, seeds).without_bayes()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = []
        for epochs in (1, 4):
            recipe = Recipe(epochs, 0.001, protocol.batch_size, validation=0.1)
            before = time.process_time()
            fit(network(protocol, cell, seeds), source, Supervised("ce"), recipe, seed=seeds)
            seconds.append(time.process_time() - before)
    finally:
        torch.set_num_threads(threads)
    shown = models * (examples - round(0.1 * examples)) * 3
    return (seconds[1] - seconds[0]) / (shown * _price(protocol, cell) / 1e6)


# --------------------------------------------------------------------------------------------------------------- tasks


def _sweep(
    spec: Map, path: Path, tasks: Sequence[Task], progress: Report | None, processes: int | None, name: str
) -> list[Row]:
    protocol = json.dumps(asdict(spec.protocol), sort_keys=True)
    identity = hashlib.blake2b(protocol.encode(), digest_size=10).hexdigest()

    def report(state: Progress) -> None:
        if progress is not None:
            progress(name, state.done, state.total)

    if processes is None and sum(task.cost for task in tasks) < COST_OF_PROCESSES:
        processes = 1
    with Store(path, identity=identity) as store:
        sweep(store, tasks, work, processes=processes, progress=report)
        # every row knows its task, and so its cell
        return [{"task": task.key, **row} for task in tasks for row in store.rows([task.key])]


def _key(cell: Cell) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in cell.world.items())


def _worlds(spec: Map, folder: Path, progress: Report | None, processes: int | None) -> dict[str, Row]:
    cells = {_key(cell): cell for cell in spec.cells}
    tasks = [Task(f"world/{key}", _payload(spec, Cell(**cell.world), "world")) for key, cell in cells.items()]
    rows = _sweep(spec, folder / "worlds.jsonl", tasks, progress, processes, "worlds")
    return dict(zip(cells, rows, strict=True))


def _payload(spec: Map, cell: Cell, stage: str) -> dict[str, Any]:
    return {"stage": stage, "protocol": asdict(spec.protocol), "cell": asdict(cell)}


def _tuning_tasks(spec: Map, worlds: Mapping[str, Row]) -> list[Task]:
    tasks = []
    for cell in spec.cells:
        losses = [*PAIR, *(CONTROL_LOSSES if cell in spec.controls else ())]
        for name, arms in (("teachers", losses), ("student", ["student"])):
            payload = _payload(spec, cell, "tuning") | {"arms": arms, "mixture": worlds[_key(cell)]["mixture"]}
            tasks.append(Task(f"tuning/{cell.name}/{name}", payload, _cost(spec.protocol, cell, payload)))
    return tasks


def _main_tasks(spec: Map, worlds: Mapping[str, Row], rates: Mapping[str, Any]) -> list[Task]:
    tasks = []
    for cell in spec.cells:
        further = {"mixture": worlds[_key(cell)]["mixture"], "rates": rates[cell.name]}
        draws = range(spec.draws_of(cell))
        for start in range(0, len(draws), spec.protocol.block):
            block = list(draws[start : start + spec.protocol.block])
            payload = _payload(spec, cell, "main") | further | {"draws": block, "controls": cell in spec.controls}
            key = f"main/{cell.name}/{block[0]}-{block[-1]}" + ("/controls" if cell in spec.controls else "")
            tasks.append(Task(key, payload, _cost(spec.protocol, cell, payload)))
        if cell == spec.base:
            payload = _payload(spec, cell, "equality") | further
            tasks.append(Task(f"equality/{cell.name}", payload, _cost(spec.protocol, cell, payload)))
    return tasks


def _trainings(protocol: Protocol, cell: Cell, payload: Mapping[str, Any]) -> list[tuple[int, float]]:
    """(models, examples seen in an epoch) of a task's trainings; a measured point counts a quarter."""
    trained, held = protocol.sizes(cell)
    taught = trained + cell.unlabelled + held / 4
    if payload["stage"] == "tuning":
        draws = protocol.draws_to_tune(cell)
        if payload["arms"] == ["student"]:
            return [(len(protocol.rates(cell, "student")) * draws, taught)]
        return [(len(protocol.rates(cell, "teacher")) * draws * len(payload["arms"]), trained + held / 4)]
    teacher = trained + (held + protocol.select + 4 * protocol.fresh / cell.epochs) / 4
    if payload["stage"] == "equality":
        return [(3 * protocol.equality_draws, 2 * teacher)]
    draws = len(payload["draws"])
    tuned = [payload["rates"][arm] for arm in PAIR]
    found = [(draws * sum(len({own["score"], own["accuracy"]}) for own in tuned), teacher)]
    students = len(PAIR) * TAUGHT_STATES + 1
    if payload["controls"]:
        others = protocol.ensemble - 1 + 3
        found += [(draws * others, teacher), (draws * protocol.folds, teacher * (1 - 1 / protocol.folds))]
        students += CONTROL_STUDENTS
    return [*found, (draws * students, taught + protocol.fresh / cell.epochs / 4)]


def _cost(protocol: Protocol, cell: Cell, payload: Mapping[str, Any]) -> float:
    """Millions of examples, in units of one shown to the linear softmax."""
    shown = sum(models * examples for models, examples in _trainings(protocol, cell, payload))
    return shown * cell.epochs * _price(protocol, cell) / 1e6


def _price(protocol: Protocol, cell: Cell) -> float:
    """Of one example: what a step costs anyway, and 10,000 weights as much again (measured)."""
    weights = sum(parameter.numel() for parameter in network(protocol, cell, [0]).parameters())
    return 1 + weights / 10_000


def _by_cell(spec: Map, tasks: Sequence[Task], rows: Sequence[Row]) -> dict[Cell, list[Row]]:
    cell_of = {task.key: Cell(**task.payload["cell"]) for task in tasks}
    found: dict[Cell, list[Row]] = {cell: [] for cell in spec.cells}
    for row in rows:
        plain = {name: value for name, value in row.items() if name != "task"}
        found[cell_of[row["task"]]].append(plain)
    return found


# --------------------------------------------------------------------------------------------------------------- rates


def _trials(rows: Sequence[Row]) -> list[Trial]:
    """All rates of all arms of a cell, by the own score and by the error; the best of each is marked."""
    found = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        for column in ("score", "error"):
            if column == "error" and arm not in PAIR:
                continue
            name = own[0]["name"] if column == "score" else "error"
            tried = [
                Trial(arm, rate, 0.0, tuple(row[column] for row in own if row["rate"] == rate), name, own[0]["role"])
                for rate in dict.fromkeys(row["rate"] for row in own)
            ]
            found.extend(choose(tried)[1])
    return found


def _tuned_by(trial: Trial) -> str:
    return "accuracy" if trial.score == "error" else "score"


def _chosen(trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
    rates: dict[str, dict[str, float]] = {}
    for trial in trials:
        if trial.chosen:
            rates.setdefault(trial.arm, {})[_tuned_by(trial)] = trial.learning_rate
    return rates


# ------------------------------------------------------------------------------------------------------------- records


def _notes(spec: Map) -> list[str]:
    return [
        "All differences are MSE teacher minus CE teacher, paired over data draws.",
        "Best score: the epoch of the best own validation score (NLL for CE, Brier for MSE); the path minimum is "
        "chosen on points of its own. Every number but transfer_* is measured on fresh points that chose nothing.",
        "Epochs are equal within a cell, so more labelled points mean more steps.",
        "Under label noise p* is that of the labels seen; clean_* refers to the labels before the noise.",
        f"Cross-fitted teachers see {1 - 1 / spec.protocol.folds:.0%} of the points, and as much less steps.",
        "Students learn from the teacher's rows alone (T = 1); in the semi-supervised cells labelled points have the "
        "label with weight 0.1.",
    ]


def _cell_record(spec: Map, cell: Cell, world: Row, rates: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    return {
        "name": cell.name,
        "factors": asdict(cell),
        "draws": spec.draws_of(cell),
        "controls": cell in spec.controls,
        "bayes_error": world["bayes_error"],
        "irreducible": world["irreducible"],
        "student_rate": rates["student"]["score"],
    }


def _rate_record(cell: str, trial: Trial) -> dict[str, Any]:
    return {
        "cell": cell,
        "role": trial.role,
        "arm": trial.arm,
        "tuned_by": _tuned_by(trial),
        "rate": trial.learning_rate,
        "edge": trial.edge,
        "score": short(trial.mean),
    }


def _sensitivity_record(cell: str, trial: Trial) -> dict[str, Any]:
    lost = sum(score != score for score in trial.scores)
    mean = None if lost else short(trial.mean)
    return {
        "cell": cell,
        "arm": trial.arm,
        "tuned_by": _tuned_by(trial),
        "rate": trial.learning_rate,
        "mean": mean,
        "diverged": lost,
    }


def _equality_record(spec: Map, rows: Sequence[Row]) -> dict[str, Any]:
    found = paired_difference([row["released_scale"] for row in rows], [row["mse"] for row in rows])
    return {
        "cell": spec.base.name,
        "draws": len(rows),
        "largest_difference": max(row["largest_difference"] for row in rows),
        "released_scale": {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n},
    }


def _table(rows: Sequence[Row]) -> dict[str, Any]:
    return {"columns": list(COLUMNS), "rows": [[row.get(name) for name in COLUMNS] for row in rows]}
