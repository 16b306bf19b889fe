"""The map from its plan to stored results."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from bcpd.data import InMemory
from bcpd.distill import Supervised
from bcpd.mixtures import paper_toy
from bcpd.provenance import provenance
from bcpd.runs import Report, Stages, Task, Trial, choose, landed
from bcpd.stats import mean_interval, paired_difference
from bcpd.train import Recipe, fit
from bcpd.train import plan as replica_plan
from experiments.when_mse_wins.analysis import (
    best_epochs,
    control_differences,
    planner,
    reading,
    students_by_rate,
    summarise,
    temperatures,
)
from experiments.when_mse_wins.predictions import digest, verdicts
from experiments.when_mse_wins.quantities import QUANTITIES
from experiments.when_mse_wins.spec import Cell, Map, Protocol
from experiments.when_mse_wins.stages import (
    COLUMNS,
    CONTROL_LOSSES,
    CONTROL_STATES,
    KEPT,
    PAIR,
    TAUGHT,
    TUNED,
    short,
    work,
)
from experiments.when_mse_wins.training import network

__all__ = ["calibrate", "plan", "run"]

Row = dict[str, Any]

TRAINING_CODE = tuple(f"experiments.when_mse_wins.{name}" for name in ("spec", "training", "stages"))
"""What rows depend on beside the protocol: rows of other code in these modules are refused."""

COST_OF_PROCESSES = 20.0
"""Below, starting processes takes longer than they save."""

COST_OF_TASK = 20.0
"""A task of more draws than one is kept below: well under a minute, so that a kill loses little."""

CONTROL_ARMS = 9
"""With students at both checkpoints: four temperatures, smoothing, two read-outs, ensemble, cross-fitting. Further
students: those of early stopping and of p* itself."""


def run(spec: Map, folder: Path, progress: Report | None = None, processes: int | None = None) -> dict[str, Any]:
    """Run the map.

    Args:
        folder: where the stores of finished tasks are kept; a run that was killed goes on from there. Stores of other
            training code or another protocol are refused.
        progress: ``(stage, done, total)`` after every task.
        processes: at once, one thread each; by default the cores, or one where there is little to do.
    Returns:
        results of kind ``when-mse-wins``, JSON-able; ``seconds`` are those of all sessions that the folder has seen.
    """
    stages = Stages(
        folder,
        work,
        TRAINING_CODE,
        settings=asdict(spec.protocol),
        progress=progress,
        processes=processes,
        small=COST_OF_PROCESSES,
    )
    worlds = _worlds(spec, stages)
    tuning_tasks = _tuning_tasks(spec, worlds)
    tuned = _swept(stages, "tuning", tuning_tasks)
    trials = {cell.name: _trials(rows) for cell, rows in _by_cell(spec, tuning_tasks, tuned).items()}
    rates = {name: _chosen(found) for name, found in trials.items()}
    tasks = _main_tasks(spec, worlds, rates)
    found = _swept(stages, "rows", tasks, "trainings")
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
        "seconds": stages.seconds(),
        "notes": _notes(spec),
        "base": spec.base.name,
        "cells": [_cell_record(spec, cell, worlds[_key(cell)], rates[cell.name]) for cell in spec.cells],
        "lines": [line.record(spec.base) for line in spec.lines],
        "pairs": [pair.record() for pair in spec.pairs],
        "settings": [{"id": line.factor, "title": title, **line.record(spec.base)} for title, line in spec.settings],
        "quantities": [quantity.record() for quantity in QUANTITIES],
        "rates": [_rate_record(name, by, own) for name, tuned in trials.items() for by, own in tuned],
        "sensitivity": [
            _sensitivity_record(name, by, trial) for name, tuned in trials.items() for by, own in tuned for trial in own
        ],
        "equality": _equality_record(spec, equality),
    }
    results["summary"] = summarise(rows)
    controlled = [cell.name for cell in spec.controls]
    results["controls"] = control_differences({name: rows[name] for name in controlled})
    results["temperatures"] = temperatures(rows)
    results["best_epochs"] = best_epochs(rows, {cell.name: cell.epochs for cell in spec.cells})
    results["student_rates"] = students_by_rate(spec.base.name, rows[spec.base.name])
    results["planner"] = planner(results["summary"])
    results["predictions"] = verdicts(spec, rows, results)
    results["predictions_digest"] = digest()
    results["reading"] = reading(results)
    results["tables"] = [{"cell": name, **_table(own)} for name, own in rows.items()]
    return results


def plan(spec: Map, processes: int = 2, seconds_per_unit: float | None = None) -> dict[str, Any]:
    """What a run trains at most: cells, tasks, models, model-epochs, replicas of the largest group and MiB it holds,
    and seconds where the machine was measured.

    Args:
        processes: at once.
        seconds_per_unit: from :func:`calibrate`.
    """
    stand_in: dict[str, Row] = {_key(cell): {"mixture": {}} for cell in spec.cells}
    one = dict(zip(TUNED, (0.01, 0.02, 0.03), strict=True))  # the upper bound: every rule has a rate of its own
    rates = {cell.name: dict.fromkeys((*PAIR, *CONTROL_LOSSES, "student"), one) for cell in spec.cells}
    tuning, main = _tuning_tasks(spec, stand_in), _main_tasks(spec, stand_in, rates)
    stages: list[dict[str, Any]] = []
    for name, tasks in (("tuning", tuning), ("trainings", main)):
        models = epochs = group = 0
        held = 0.0
        for task in tasks:
            cell = Cell(**task.payload["cell"])
            for training in _trainings(spec.protocol, cell, task.payload):
                models += training.models
                epochs += training.models * cell.epochs
                found = replica_plan(
                    network(spec.protocol, cell, [0]), training.models, training.examples, held_out=training.held_out
                )
                group, held = max(group, found.group), max(held, found.bytes / 2**20)
        units = sum(task.cost for task in tasks)
        stages.append(
            {
                "stage": name,
                "tasks": len(tasks),
                "models": models,
                "model_epochs": epochs,
                "group": group,
                "group_MiB": round(held, 1),
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


def _swept(stages: Stages, stage: str, tasks: Sequence[Task], title: str | None = None) -> list[Row]:
    """Every row knows its task, and so its cell."""
    stages.sweep(stage, tasks, title)
    rows = landed(stages.folder, stage)
    return [{"task": task.key, **row} for task in tasks for row in rows[task.key]]


def _key(cell: Cell) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in cell.world.items())


def _worlds(spec: Map, stages: Stages) -> dict[str, Row]:
    cells = {_key(cell): cell for cell in spec.cells}
    tasks = [Task(f"world/{key}", _payload(spec, Cell(**cell.world), "world")) for key, cell in cells.items()]
    rows = _swept(stages, "worlds", tasks)
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
        controls = cell in spec.controls
        further |= {"controls": controls, "neighbours": cell == spec.base}
        one = _payload(spec, cell, "main") | further | {"draws": [0]}
        together = max(1, min(spec.protocol.block, int(COST_OF_TASK / _cost(spec.protocol, cell, one))))
        draws = spec.draws_of(cell)
        count = math.ceil(draws / together)
        for number in range(count):
            block = list(range(number * draws // count, (number + 1) * draws // count))
            payload = one | {"draws": block}
            key = f"main/{cell.name}/{block[0]}-{block[-1]}" + ("/controls" if controls else "")
            tasks.append(Task(key, payload, _cost(spec.protocol, cell, payload)))
        if cell == spec.base:
            payload = _payload(spec, cell, "equality") | further
            tasks.append(Task(f"equality/{cell.name}", payload, _cost(spec.protocol, cell, payload)))
    return tasks


class Training(NamedTuple):
    """Models that train side by side, examples that one sees in an epoch (a measured point counts a quarter), and the
    examples and held-out points that it holds."""

    models: int
    seen: float
    examples: int
    held_out: int = 0


def _trainings(protocol: Protocol, cell: Cell, payload: Mapping[str, Any]) -> list[Training]:
    """Of a task."""
    trained, held = protocol.sizes(cell)
    points = trained + cell.unlabelled
    taught = points + held / 4
    if payload["stage"] == "tuning":
        role: Literal["student", "teacher"] = "student" if payload["arms"] == ["student"] else "teacher"
        models = len(protocol.rates(cell, role)) * protocol.draws_to_tune(cell, role) * len(payload["arms"])
        if role == "student":
            return [Training(models, taught, points + held)]
        return [Training(models, trained + held / 4, trained + held)]
    measured = (held + len(_states(KEPT)) * (points + protocol.fresh) / cell.epochs) / 4
    if payload["stage"] == "equality":
        return [Training(3 * protocol.equality_draws, 2 * (trained + measured), trained + held)]
    draws = len(payload["draws"])
    controls: bool = payload["controls"]
    models = sum(len(set(payload["rates"][arm].values())) for arm in PAIR)
    students = len(PAIR) * (len(TAUGHT) + 2 * payload["neighbours"])
    found = []
    if controls:
        rates = [len({payload["rates"][arm][by] for by in CONTROL_STATES}) for arm in ("ce", *CONTROL_LOSSES)]
        models += rates[1] + 2 * rates[2]
        several = (protocol.ensemble - 1, 1.0), (protocol.folds, 1 - 1 / protocol.folds)
        found += [
            Training(draws * count * rates[0], trained * share + measured, trained + held) for count, share in several
        ]
        students += len(CONTROL_STATES) * CONTROL_ARMS + 2
    teacher = trained + measured + protocol.select / 4
    found += [Training(draws * models, teacher, trained + held, 2 * protocol.select)]
    return [*found, Training(draws * students, taught + 3 * protocol.fresh / cell.epochs / 4, points + held)]


def _states(kept: Mapping[str, Sequence[str]]) -> set[str]:
    return {checkpoint for states in kept.values() for checkpoint in states}


def _cost(protocol: Protocol, cell: Cell, payload: Mapping[str, Any]) -> float:
    """Millions of examples, in units of one shown to the linear softmax."""
    shown = sum(training.models * training.seen for training in _trainings(protocol, cell, payload))
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


Tuned = list[tuple[str, list[Trial]]]
"""(tuned by, all rates of an arm with the best of them marked)."""


def _trials(rows: Sequence[Row]) -> Tuned:
    """All rates of all arms of a cell, by each rule that the arm is tuned by."""
    found: Tuned = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        rules = TUNED if arm in PAIR else ("score",) if arm == "student" else CONTROL_STATES
        for by in rules:
            column = TUNED[by]
            name = "error" if column == "error" else own[0]["name"]
            tried = [
                Trial(arm, rate, 0.0, tuple(row[column] for row in own if row["rate"] == rate), name, own[0]["role"])
                for rate in dict.fromkeys(row["rate"] for row in own)
            ]
            found.append((by, choose(tried)[1]))
    return found


def _best(tried: Sequence[Trial]) -> Trial:
    return next(trial for trial in tried if trial.chosen)


def _chosen(tuned: Tuned) -> dict[str, dict[str, float]]:
    rates: dict[str, dict[str, float]] = {}
    for by, tried in tuned:
        best = _best(tried)
        rates.setdefault(best.arm, {})[by] = best.learning_rate
    return rates


# ------------------------------------------------------------------------------------------------------------- records


def _notes(spec: Map) -> list[str]:
    protocol = spec.protocol
    return [
        "All differences are MSE teacher minus CE teacher, paired over data draws.",
        "Best score: the epoch of the best own validation score (NLL for CE, Brier for MSE), at the rate tuned for it. "
        "Last epoch: at the rate tuned by the own validation score of the last epoch. Best accuracy: rate and epoch by "
        "validation accuracy. Path minima are chosen on points of their own. Every number but transfer_* is measured "
        "on fresh points that chose nothing.",
        "The verdicts of the two headline quantities are corrected together over all cells (Holm, 5 %); every other "
        "quantity is exploratory, corrected over the cells by itself. Intervals are unadjusted.",
        "Cells share class means, initial weights and base points of the same draw, so that their verdicts are not "
        "independent; Holm's correction does not ask for that.",
        "All worlds have one set of class means: draws vary the points, not the geometry.",
        "A draw has one initialisation and one batch order, which vary with it: the spread between draws has both.",
        "Learning rates are constant, without a decay, and there is no weight decay.",
        "A teacher's best epoch and its temperature are chosen on the same validation points, so that the temperature "
        "at the best epoch is fitted to an optimistic score; distances are measured on other points.",
        "A quantity with draws in which an arm diverged or was infinite has no verdict; its mean is over the others.",
        f"The students' one rate was tuned on rows {protocol.student_noise:g} e_y + {1 - protocol.student_noise:g} p* "
        "that no teacher made. It may suit one arm better; for the base cell the next rates are shown.",
        "Epochs are equal within a cell, so more labelled points mean more steps.",
        "Under label noise p* is that of the labels seen; clean_* refers to the labels before the noise.",
        f"Cross-fitted teachers see {1 - 1 / protocol.folds:.0%} of the points, and as much less steps. They are "
        "compared on the transfer inputs, where each point is labelled by the teacher that has not seen it; on fresh "
        "points they would be the mean of all folds.",
        "Students learn from the teacher's rows alone (T = 1); in the semi-supervised cells labelled points have the "
        "label with weight 0.1.",
    ]


def _cell_record(spec: Map, cell: Cell, world: Row, rates: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    return {
        "name": cell.name,
        "factors": asdict(cell),
        "draws": spec.draws_of(cell),
        "controls": cell in spec.controls,
        "controls_figure": _controls_figure(spec, cell),
        "bayes_error": world["bayes_error"],
        "irreducible": world["irreducible"],
        "student_rate": rates["student"]["score"],
    }


def _controls_figure(spec: Map, cell: Cell) -> str | None:
    """Name of the figure of a cell's control arms."""
    if cell not in spec.controls:
        return None
    return "map-controls" if cell == spec.base else f"map-controls-{re.sub('[^a-z0-9.]+', '-', cell.name)}"


def _rate_record(cell: str, by: str, tried: Sequence[Trial]) -> dict[str, Any]:
    """The chosen rate, and how close the others came, paired over tuning draws."""
    best = _best(tried)
    ordered = sorted(tried, key=lambda trial: trial.learning_rate)
    place = ordered.index(best)
    gaps = {trial.learning_rate: _gap(trial, best) for trial in tried if trial is not best}
    near = [gap for gap in gaps.values() if gap["stderr"] is not None and gap["difference"] <= gap["stderr"]]
    several = len(best.scores) > 1
    return {
        "cell": cell,
        "role": best.role,
        "arm": best.arm,
        "tuned_by": by,
        "rate": best.learning_rate,
        "edge": best.edge,
        "score": short(best.mean),
        "stderr": short(mean_interval(best.scores).stderr) if several else None,
        "draws": len(best.scores),
        "below": gaps[ordered[place - 1].learning_rate] if place > 0 else None,
        "above": gaps[ordered[place + 1].learning_rate] if place + 1 < len(ordered) else None,
        "tried": len(tried),
        "within_one_stderr": len(near) if several else None,
    }


def _gap(trial: Trial, best: Trial) -> dict[str, Any]:
    """Mean difference of the scores to the best rate's, and its paired standard error."""
    if not math.isfinite(trial.mean):
        return {"rate": trial.learning_rate, "difference": None, "stderr": None}
    found = paired_difference(trial.scores, best.scores)
    stderr = short(found.stderr) if found.n > 1 else None
    return {"rate": trial.learning_rate, "difference": short(found.mean), "stderr": stderr}


def _sensitivity_record(cell: str, by: str, trial: Trial) -> dict[str, Any]:
    lost = sum(not math.isfinite(score) for score in trial.scores)
    mean = None if lost else short(trial.mean)
    return {
        "cell": cell,
        "arm": trial.arm,
        "tuned_by": by,
        "rate": trial.learning_rate,
        "mean": mean,
        "diverged": lost,
    }


def _equality_record(spec: Map, rows: Sequence[Row]) -> dict[str, Any]:
    gaps = [row["released_scale"] - row["mse"] for row in rows]
    return {
        "cell": spec.base.name,
        "draws": len(rows),
        "largest_difference": max(row["largest_difference"] for row in rows),
        "released_scale": {"mean": sum(gaps) / len(gaps), "n": len(gaps)},
    }


def _table(rows: Sequence[Row]) -> dict[str, Any]:
    return {"columns": list(COLUMNS), "rows": [[row.get(name) for name in COLUMNS] for row in rows]}
