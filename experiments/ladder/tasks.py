"""The ladder from its plan to stored results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bcpd.provenance import provenance, source_digest
from bcpd.runs import Report, Stages, Task, Trial, choose
from experiments.ladder.analysis import by_labels, differences, reading, values, verdicts
from experiments.ladder.spec import ARMS, GROUNDS, LOSSES, Ladder
from experiments.ladder.stages import work
from experiments.ladder.worlds import Measured, restored

__all__ = ["plan", "run"]

Row = dict[str, Any]

TRAINING_CODE = tuple(f"experiments.ladder.{name}" for name in ("worlds", "stages"))
"""What rows depend on beside the specification."""


def run(
    spec: Ladder,
    folder: Path,
    data: Path | None = None,
    progress: Report | None = None,
    processes: int | None = None,
) -> dict[str, Any]:
    """Run the ladder.

    Args:
        folder: where worlds, trainings and finished tasks are kept; a run that was killed goes on from there.
        data: the folder of the real data sets, where a ground needs one.
        progress: ``(stage, done, total)`` after every task.
        processes: at once, one thread each; by default the cores.
    Returns:
        results of kind ``ladder``, JSON-able. ``own_gallery`` holds pictures of the data: for the user's own page,
        not to be passed on.
    Raises:
        ValueError: data that are needed and not given. FileNotFoundError: without their files.
    """
    if spec.needs and data is None:
        raise ValueError(f"the grounds of scale {spec.scale!r} need the folder of {' and '.join(spec.needs)} (--data)")
    stages = Stages(folder, work, TRAINING_CODE, settings=spec.describe(), progress=progress, processes=processes)
    local = {"folder": str(folder), "data": None if data is None else str(data)}

    def task(stage: str, key: str, cost: float = 1.0, **further: Any) -> Task:
        return Task(key, {"stage": stage, "spec": spec.describe(), **further}, cost, local)

    worlds = stages.sweep("worlds", [task("world", name, _cost(name), ground=name) for name in spec.grounds])
    pixels = {name: _pixels(spec, name) for name in spec.grounds}
    tuning = range(spec.tuning_draws)
    tuned = stages.sweep(
        "tuning of teachers",
        [
            task("tune teacher", f"{name}/{loss}/{number}", pixels[name], ground=name, loss=loss, draw=number)
            for name in spec.grounds
            for loss in LOSSES
            for number in tuning
        ],
    )
    trials = {(name, loss): _trials(tuned, name, loss) for name in spec.grounds for loss in LOSSES}
    rates = {name: {loss: _rate(trials[name, loss]) for loss in LOSSES} for name in spec.grounds}
    students = stages.sweep(
        "tuning of students",
        [
            task(
                "tune student",
                f"{name}/student/{number}/{rate:g}",
                pixels[name],
                ground=name,
                draw=number,
                rates=rates[name],
                rate=rate,
            )
            for name in spec.grounds
            for number in tuning
            for rate in spec.student_rates
        ],
    )
    for name in spec.grounds:
        trials[name, "student"] = _trials(students, name, "student")
        rates[name]["student"] = _rate(trials[name, "student"])
    rows = stages.sweep(
        "trainings",
        [
            task("main", f"{name}/{number}", pixels[name], ground=name, draw=number, rates=rates[name])
            for name in spec.grounds
            for number in range(spec.draws)
        ],
    )
    about = {row["ground"]: row for row in worlds}
    near = {name: row.get("near_duplicates", []) for name, row in about.items()}
    real = [rung.ground for rung in spec.rungs if rung.truth != "exact"]
    measured = {name: restored(spec.describe(), name, folder, data).measured(0) for name in dict.fromkeys(real)}

    def of_draw(name: str, draw: int) -> Measured:
        return restored(spec.describe(), name, folder, data).measured(draw)

    found = differences(spec, rows, folder, measured, near)
    judged = verdicts(spec, found)
    checked = by_labels(spec, rows, folder, of_draw)
    from experiments.ladder.pictures import galleries  # draws with matplotlib, which nothing before needs

    passed, own = galleries(spec, rows, folder, data)
    return {
        "kind": "ladder",
        "title": "The ladder from toy to real",
        "question": (
            "With the same networks, losses, distillation and trainer on every rung: is the MSE-trained teacher closer "
            "to p* than the CE-trained one, and is its student better?"
        ),
        "spec": spec.describe(),
        "provenance": provenance(spec.device),
        "training_code": source_digest(*TRAINING_CODE),
        "seconds": stages.seconds(),
        "rungs": [_rung(spec, rung, about[rung.ground], rates[rung.ground]) for rung in spec.rungs],
        "tuning": [{"ground": name, **trial.record()} for (name, _), own in trials.items() for trial in own],
        "values": values(spec, rows, folder, measured),
        "differences": found,
        "verdicts": judged,
        "by_labels": checked,
        "reading": reading(spec, found, judged, checked),
        "notes": _notes(spec, rows, trials, about),
        "rows": rows,
        "gallery": passed,
        "own_gallery": own,
    }


def _cost(name: str) -> float:
    """Of making a world."""
    return {"frozen": 3.0, "fitted": 2.0}.get(GROUNDS[name].nature, 1.0)


def _pixels(spec: Ladder, name: str) -> float:
    """Of an image, about: what a training costs relative to those on other grounds."""
    ground = GROUNDS[name]
    side = spec.size if ground.nature in ("mixture", "fitted") else 8 if ground.images == "digits" else 32
    return float(side**2)


def plan(spec: Ladder) -> list[dict[str, Any]]:
    """What a run trains, stage by stage: tasks, trainings, and thousands of images shown."""
    shown = spec.train * (1 - spec.validation) * spec.epochs / 1000
    grounds = len(spec.grounds)
    rates = sum(len(own) for own in spec.rates.values())
    frozen = sum(GROUNDS[name].nature == "frozen" for name in spec.grounds)
    counts = (
        ("worlds", grounds, frozen, frozen * spec.frozen_train * (1 - spec.validation) * spec.frozen_epochs / 1000),
        ("tuning of teachers", grounds * spec.tuning_draws * len(LOSSES), grounds * spec.tuning_draws * rates, None),
        (
            "tuning of students",
            grounds * spec.tuning_draws * len(spec.student_rates),
            grounds * spec.tuning_draws * 2 * len(spec.student_rates),
            None,
        ),
        ("trainings", grounds * spec.draws, grounds * spec.draws * (len(LOSSES) + len(ARMS)), None),
    )
    return [
        {
            "stage": name,
            "tasks": tasks,
            "trainings": trainings,
            "thousand_images": round(trainings * shown if images is None else images),
        }
        for name, tasks, trainings, images in counts
    ]


def _trials(rows: Sequence[Row], ground: str, arm: str) -> list[Trial]:
    own = [row for row in rows if row["ground"] == ground and row["arm"] == arm]
    tried = [
        Trial(
            arm,
            rate,
            0.0,
            tuple(float(row["score"]) for row in own if row["rate"] == rate),
            own[0]["name"],
            own[0]["role"],
        )
        for rate in dict.fromkeys(row["rate"] for row in own)
    ]
    return choose(tried)[1]


def _rate(trials: Sequence[Trial]) -> float:
    return next(trial.learning_rate for trial in trials if trial.chosen)


def _rung(spec: Ladder, rung: Any, about: Mapping[str, Any], rates: Mapping[str, float]) -> dict[str, Any]:
    ground = GROUNDS[rung.ground]
    further = {name: value for name, value in about.items() if name not in ("ground", "near_duplicates")}
    if "near_duplicates" in about:
        further["near_duplicates"] = len(about["near_duplicates"])
    return {
        "name": rung.name,
        "title": rung.title,
        "ground": rung.ground,
        "truth": rung.truth,
        "augmentation": ground.augment,
        "rates": dict(rates),
        **further,
    }


def _notes(
    spec: Ladder, rows: Sequence[Row], trials: Mapping[tuple[str, str], Sequence[Trial]], about: Mapping[str, Row]
) -> list[str]:
    """What a reader must know before leaning on a number, some of it from the numbers."""
    notes = [
        f"One specification on every rung: {spec.teacher} to {spec.student}, {spec.train} training images a draw, "
        f"{spec.epochs} epochs, cosine schedule, KD at T = {spec.temperature:g} with weights {spec.label_weight:g} "
        f"(labels) and {spec.teacher_weight:g} (teacher); rungs differ in the data and in the augmentation that they "
        f"allow.",
        "Each loss has the learning rate that its own validation score preferred on a tuning draw; students of all "
        "arms have one rate, chosen by the mean validation Brier score of students of a CE and of an MSE teacher.",
        "Teachers are taken, and students taught, at the last epoch; +T is a temperature fitted to the last teacher by "
        "the NLL of its validation labels.",
        f"Intervals: {spec.draws} draws. On exact rungs over draws; where p* is unknown crossed over draws and test "
        "images. They are not adjusted for their number.",
        "Draws of real images are subsets of one training set and share some of it: intervals are for other subsets of "
        "these images, and a little short for new ones. The frozen rung measures the same images in every draw.",
        "A student's validation images, which choose the students' rate, are drawn anew: most of them were in its "
        "teacher's training set. The images that networks are measured on were in nobody's.",
        f"Rates rest on {spec.tuning_draws} tuning draw{'s' * (spec.tuning_draws > 1)} a ground: one unstable training "
        "can choose a rate.",
        "Where p* is unknown, differences of distances come from labels that no network has seen (Theorem 1); people's "
        "p* from votes, whose noise cancels in differences and is subtracted in values.",
        "The people's p* and the labels of CIFAR-10 are about the same networks.",
    ]
    edges = [f"{arm} on {ground}" for (ground, arm), own in trials.items() if any(trial.edge for trial in own)]
    if edges:
        notes.append(f"Chosen at an edge of the grid of rates (a better one may lie outside): {'; '.join(edges)}.")
    for name, row in about.items():
        if "frozen" in row:
            made = row["frozen"]
            notes.append(
                f"{GROUNDS[name].title}: a {made['net']} trained on {made['images']} other images for "
                f"{made['epochs']} epochs (validation accuracy {made['validation_accuracy']:.1%}), at T = "
                f"{made['temperature']:g}."
            )
        if row.get("near_duplicates"):
            notes.append(
                f"{GROUNDS[name].title}: {len(row['near_duplicates'])} of {row['measured']} measured images nearly "
                "repeat a training image; differences without them are given beside."
            )
        if "bayes_error_of_people" in row:
            people = row["bayes_error_of_people"]
            low, high = people["hoeffding"]
            notes.append(
                f"{GROUNDS[name].title}: the Bayes error by people's votes lies between {people['lower']['value']:.4f} "
                f"(plug-in, biased down) and {people['upper']['value']:.4f} (majority of the others, biased up); in "
                f"[{low:.4f}, {high:.4f}] with 95 % (Hoeffding)."
            )
    lost = sum(bool(row.get("lost")) and row["checkpoint"] == "last" for row in rows)
    if lost:
        notes.append(f"{lost} networks diverged, or their teacher did; their arms are not compared on that rung.")
    return notes
