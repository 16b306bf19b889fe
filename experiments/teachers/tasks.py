"""The search, the teachers and what is measured of them: from a plan to stored results; what has landed is a part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bcpd.provenance import Stopwatch, provenance
from bcpd.runs import Report, Stages, Task, landed
from experiments.tables.places import Places, number_together
from experiments.teachers.analysis import differences, values
from experiments.teachers.search import Setting, chosen, edges, next_settings
from experiments.teachers.spec import Teachers
from experiments.teachers.stages import train_together, work
from experiments.teachers.words import notes, reading

__all__ = ["collect", "plan", "run"]

Row = dict[str, Any]

TRAINING_CODE = (
    *(f"experiments.tables.{name}" for name in ("images", "methods", "training", "stages")),
    "experiments.teachers.stages",
)
"""What rows depend on beside their task."""

SEARCHED = "tuning-0"
"""The seed that settings are chosen on; it is not reported, and the tables choose theirs on it too."""


def run(
    spec: Teachers,
    folder: Path,
    data: Path | None = None,
    progress: Report | None = None,
    processes: int | None = None,
    teachers: Path | None = None,
    together: int | None = None,
) -> dict[str, Any]:
    """Search the settings of every net and loss, then train the teachers seed by seed and measure them on test images.

    Every training is a task of its own, and its rows land when it is finished; after a kill it goes on from there, and
    :func:`collect` reads what has landed. More nets, losses or seeds may be asked for later; what is there stays.

    Args:
        folder: where tasks and log-probabilities are kept.
        data: the folder of the real data sets, where one is needed.
        progress: ``(stage, done, total)`` after every task.
        processes: at once, one thread each; by default the cores, and one for a GPU or several trainings together.
        teachers: where teachers are kept, by the digest of all that they are made from, as the tables keep theirs. By
            default below ``folder``.
        together: trainings side by side in a process (:func:`bcpd.train.fit_side_by_side`); by default
            1, or :data:`experiments.tables.places.CAPTURED_TOGETHER` of
            captured steps.
    Returns:
        results of kind ``teachers``, JSON-able.
    Raises:
        ValueError: data that are needed and not given, or nothing together. FileNotFoundError: without their files.
    """
    places = Places.of_run(f"the search of teachers at scale {spec.scale!r}", spec.protocol, folder, data, teachers)
    group, processes = number_together(spec.protocol, together, processes)
    stages = Stages(
        folder,
        work,
        TRAINING_CODE,
        progress=progress,
        processes=processes,
        train_together=train_together,
        together=group,
    )
    tasks = _Tasks(spec, places.local())
    stages.sweep("images", [tasks.images()], "test images", alone=True)
    for net in spec.nets:
        settings = _searched(tasks, net, stages)
        for number in range(spec.seeds):
            stages.sweep("teachers", list(tasks.teachers(net, settings, number)), f"teachers {net} of seed {number}")
    stages.seconds()
    return collect(spec, folder)


class _Tasks:
    """The tasks of a specification. All have one cost: they are begun in the order in which they are listed."""

    def __init__(self, spec: Teachers, local: Mapping[str, Any]) -> None:
        self.spec, self.local = spec, local

    def _task(self, stage: str, key: str, epochs: int, **further: Any) -> Task:
        protocol = asdict(replace(self.spec.protocol, epochs=epochs))
        return Task(key, {"stage": stage, "protocol": protocol, **further}, 1.0, self.local)

    def _training(
        self, stage: str, key: str, epochs: int, net: str, loss: str, setting: Setting, number: int | str
    ) -> Task:
        return self._task(
            stage,
            f"{net}/{loss}/{key}",
            epochs,
            net=net,
            loss=loss,
            setting=list(setting),
            number=number,
            start_epochs=self.spec.start_epochs,
        )

    def images(self) -> Task:
        """The test images."""
        return self._task("images", "images", 1)

    def trial(self, net: str, loss: str, setting: Setting) -> Task:
        """One setting."""
        key = "/".join(f"{value:g}" for value in setting)
        return self._training("trial", key, self.spec.length_of_search, net, loss, setting, SEARCHED)

    def teachers(self, net: str, settings: Mapping[str, Setting], number: int) -> Iterator[Task]:
        """One a loss."""
        epochs = self.spec.protocol.epochs
        for loss in self.spec.losses:
            if loss in settings:
                yield self._training("teach", f"{number}", epochs, net, loss, settings[loss], number)


def _searched(tasks: _Tasks, net: str, stages: Stages) -> dict[str, Setting]:
    """The chosen setting of every loss; the searches go on together. A loss whose rates all diverge has none."""
    grids, losses = tasks.spec.grids, tasks.spec.losses
    scores: dict[str, dict[Setting, float]] = {loss: {} for loss in losses}
    while todo := [(loss, setting) for loss in losses for setting in next_settings(grids[loss], scores[loss])]:
        rows = stages.sweep("search", [tasks.trial(net, *each) for each in todo], f"search of {net}")
        for (loss, setting), row in zip(todo, rows, strict=True):
            scores[loss][setting] = float(row["score"])
    found = {loss: chosen(grids[loss], scores[loss]) for loss in losses}
    return {loss: setting for loss, setting in found.items() if setting is not None}


# ------------------------------------------------------------------------------------------------------------- results


def collect(spec: Teachers, folder: Path) -> dict[str, Any]:
    """The results of what has landed in ``folder``, also while a run goes on; nothing is trained.

    Raises:
        ValueError: nothing has landed that belongs to the specification.
    """
    tasks = _Tasks(spec, {})
    tried, taught, images = (landed(folder, stage) for stage in ("search", "teachers", "images"))
    trials: list[Row] = []
    rows: list[Row] = []
    for net in spec.nets:
        settings = {}
        for loss in spec.losses:
            own, setting = _replayed(tasks, net, loss, tried)
            trials += own
            if setting is not None:
                settings[loss] = setting
        for number in range(spec.seeds):
            rows += [row for task in tasks.teachers(net, settings, number) for row in taught.get(task.key, [])]
    if not trials:
        raise ValueError(f"no trial of teachers at scale {spec.scale!r} has landed in {folder} yet")
    (about,) = images["images"]
    measured = values(spec, rows, folder)
    found = differences(spec, rows, folder, about["near_duplicates"])
    return {
        "kind": "teachers",
        "scale": spec.scale,
        "title": f"Teachers at the recipe's length{'' if spec.scale == 'full' else f' ({spec.scale} size)'}",
        "question": (
            "What rate, weight decay, warm-up and start does an MSE teacher need at the length of the cross-entropy "
            "recipe, has its training levelled off, and is it then closer to p* on real test images?"
        ),
        "spec": spec.describe(),
        "provenance": provenance(),
        "seconds": round(Stopwatch(folder / "seconds.json").before, 1),
        "search": trials,
        "values": measured,
        "differences": found,
        "refused": [row for row in rows if "refused" in row],
        "reading": reading(spec, trials, rows, found),
        "notes": notes(spec, trials, rows, about),
        "rows": rows,
    }


def _replayed(tasks: _Tasks, net: str, loss: str, found: Mapping[str, list[Row]]) -> tuple[list[Row], Setting | None]:
    """The trials that the search asks for, as far as they have landed, marked; and its choice, where it is over."""
    grid = tasks.spec.grids[loss]
    scores: dict[Setting, float] = {}
    rows: dict[Setting, Row] = {}
    while todo := next_settings(grid, scores):
        there = {setting: found.get(tasks.trial(net, loss, setting).key) for setting in todo}
        rows |= {setting: own[0] for setting, own in there.items() if own}
        if len(rows) < len(scores) + len(todo):
            return [row | {"chosen": False, "edge": []} for row in rows.values()], None
        scores |= {setting: float(rows[setting]["score"]) for setting in todo}
    best = chosen(grid, scores)
    marks = {setting: edges(grid, scores, setting) if setting == best else [] for setting in rows}
    return [row | {"chosen": setting == best, "edge": marks[setting]} for setting, row in rows.items()], best


# ---------------------------------------------------------------------------------------------------------------- plan


def plan(spec: Teachers) -> dict[str, Any]:
    """Trainings and epochs before anything starts: ``at_most`` where every best rate lies on the edge of its grid.

    Returns:
        ``stages``, a row each, and in all ``trainings``, ``epochs`` and the most of both.
    """
    grids = [spec.grids[loss] for loss in spec.losses]
    stages = []
    for net in spec.nets:
        search = (sum(grid.least for grid in grids), sum(grid.most for grid in grids), spec.length_of_search)
        teachers = spec.seeds * len(spec.losses)
        for name, (trainings, most, epochs) in (
            (f"search of {net}", search),
            (f"teachers {net}", (teachers, teachers, spec.protocol.epochs)),
        ):
            row = {"stage": name, "trainings": trainings, "at_most": most, "epochs_each": epochs}
            stages.append(row | {"epochs": trainings * epochs, "epochs_at_most": most * epochs})
    names = ("trainings", "at_most", "epochs", "epochs_at_most")
    return {"stages": stages, **{name: sum(int(str(row[name])) for row in stages) for name in names}}
