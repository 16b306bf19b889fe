"""A table from its plan to stored results; what has landed is a table of fewer seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bcpd.provenance import Stopwatch, provenance
from bcpd.runs import Report, Stages, Task, Trial, choose, landed
from experiments.tables.analysis import differences, reading, values
from experiments.tables.methods import SCRATCH
from experiments.tables.places import Places, number_together
from experiments.tables.reference import CLAIMS, FEW_SHOT, SOURCES, published_accuracy, published_network
from experiments.tables.spec import ARMS, DATASETS, EXPERIMENTS, METHODS, STAND_INS, Tables
from experiments.tables.stages import LATE, LATE_GAIN, LEFT, train_together, work

__all__ = ["collect", "run"]

Row = dict[str, Any]
Setting = tuple[float, float]

TRAINING_CODE = tuple(f"experiments.tables.{name}" for name in ("images", "methods", "training", "stages"))
"""What rows depend on beside their task."""


def run(
    spec: Tables,
    folder: Path,
    data: Path | None = None,
    progress: Report | None = None,
    processes: int | None = None,
    teachers: Path | None = None,
    together: int | None = None,
) -> dict[str, Any]:
    """Run an experiment: tune the teachers, then seed by seed train them and the students of every method.

    Every training is a task of its own, and its rows land when it is finished: after a kill it goes on from there, and
    :func:`collect` reads what has landed. More seeds, methods, pairs or arms may be asked for later; what is there
    stays.

    Args:
        folder: where tasks and students are kept.
        data: the folder of the real data sets, where one is needed.
        progress: ``(stage, done, total)`` after every task.
        processes: at once, one thread each; by default the cores, and one for a GPU or several trainings together.
        teachers: where teachers are kept, by the digest of all that they are made from: experiments that share the
            folder share them. By default below ``folder``.
        together: trainings side by side in a process (:func:`bcpd.train.fit_side_by_side`), students of one
            teacher next to each other; by default 1, or :data:`experiments.tables.places.CAPTURED_TOGETHER` of
            captured steps.
    Returns:
        results of kind ``tables``, JSON-able.
    Raises:
        ValueError: data that are needed and not given, or nothing together. FileNotFoundError: without their files.
    """
    places = Places.of_run(f"{spec.experiment} at scale {spec.scale!r}", spec.protocol, folder, data, teachers)
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
    trials = [trial for net in spec.teacher_nets for loss in spec.losses for trial in _tuned(tasks, net, loss, stages)]
    settings = _settings(trials)
    for number in range(spec.seeds):
        stages.sweep("teachers", list(tasks.teachers(settings, number)), f"teachers of seed {number}")
        students = list(tasks.students(settings, number))
        if group > 1:
            students.sort(key=_by_teacher)
        stages.sweep("students", students, f"students of seed {number}")
    stages.seconds()
    return collect(spec, folder)


def _by_teacher(task: Task) -> tuple[Any, ...]:
    """Students of one teacher next to each other; those that have none at the end."""
    given = task.payload
    return given["method"] == SCRATCH, given["share"], given["pair"], given["arm"]


class _Tasks:
    """The tasks of a specification. All have one cost: they are begun in the order in which they are listed."""

    def __init__(self, spec: Tables, local: Mapping[str, Any]) -> None:
        self.spec, self.local = spec, local

    def _task(self, stage: str, key: str, **further: Any) -> Task:
        return Task(key, {"stage": stage, "protocol": asdict(self.spec.protocol), **further}, 1.0, self.local)

    def tuning(self, net: str, loss: str, settings: Sequence[Setting]) -> Iterator[Task]:
        """One a setting."""
        epochs = self.spec.tuning_epochs or self.spec.protocol.epochs
        for rate, decay in settings:
            key = f"{net}/{loss}/{rate:g}/{decay:g}"
            yield self._task("tune", key, net=net, loss=loss, setting=[rate, decay], epochs=epochs)

    def teachers(self, settings: Mapping[tuple[str, str], Setting], number: int) -> Iterator[Task]:
        """One a net, loss and share."""
        shares = self.spec.shares if self.spec.protocol.teacher_sees == "share" else (1.0,)
        for net in self.spec.teacher_nets:
            for loss in self.spec.losses:
                for share in shares:
                    setting = list(settings[net, loss])
                    key = f"{net}/{loss}/{share:g}/{number}"
                    yield self._task("teach", key, net=net, loss=loss, setting=setting, number=number, share=share)

    def students(self, settings: Mapping[tuple[str, str], Setting], number: int) -> Iterator[Task]:
        """Without a teacher, then method by method, the costliest last."""
        spec = self.spec
        for share in spec.shares:
            for student in spec.student_nets:
                yield self._student(("", student), SCRATCH, "labels", None, number, share)
        for method in sorted(spec.methods, key=METHODS.index):
            for share in spec.shares:
                for pair in spec.pairs:
                    for arm in spec.arms_of(method):
                        setting = settings[pair[0], ARMS[arm][0]]
                        yield self._student(pair, method, arm, setting, number, share)

    def _student(
        self, pair: tuple[str, str], method: str, arm: str, setting: Setting | None, number: int, share: float
    ) -> Task:
        return self._task(
            "student",
            f"{pair[0]}-{pair[1]}/{method}/{arm}/{share:g}/{number}",
            pair=list(pair),
            method=method,
            arm=arm,
            setting=None if setting is None else list(setting),
            number=number,
            share=share,
            options=dict(self.spec.options.get(method, {})),
        )


def _tuned(tasks: _Tasks, net: str, loss: str, stages: Stages) -> list[tuple[str, Trial]]:
    """Rates at the middle decay, then the other decays at the best rate; the trials, marked, with their net."""
    rates, decays = tasks.spec.rates[loss], tasks.spec.decays[loss]
    title = f"tuning of {net} with {loss}"
    middle = decays[(len(decays) - 1) // 2]
    rows = stages.sweep("tuning", list(tasks.tuning(net, loss, [(rate, middle) for rate in rates])), title)
    best = choose(_trials(rows))[0].learning_rate
    others = [(best, decay) for decay in decays if decay != middle]
    rows += stages.sweep("tuning", list(tasks.tuning(net, loss, others)), title)
    return [(net, trial) for trial in choose(_trials(rows))[1]]


def _trials(rows: Sequence[Row]) -> list[Trial]:
    return [Trial(row["arm"], row["rate"], row["decay"], (float(row["score"]),), row["name"]) for row in rows]


def _settings(trials: Sequence[tuple[str, Trial]]) -> dict[tuple[str, str], Setting]:
    return {(net, trial.arm): (trial.learning_rate, trial.weight_decay) for net, trial in trials if trial.chosen}


# ------------------------------------------------------------------------------------------------------------- results


def collect(spec: Tables, folder: Path) -> dict[str, Any]:
    """The results of what has landed in ``folder``, also while a run goes on; nothing is trained.

    Raises:
        ValueError: nothing has landed that belongs to the specification.
    """
    tasks = _Tasks(spec, {})
    tuned = landed(folder, "tuning")
    trials: list[tuple[str, Trial]] = []
    for net in spec.teacher_nets:
        for loss in spec.losses:
            grid = (spec.rates[loss], spec.decays[loss])
            own = _trials(
                [
                    row
                    for (row,) in tuned.values()
                    if (row["net"], row["arm"]) == (net, loss) and row["rate"] in grid[0] and row["decay"] in grid[1]
                ]
            )
            if own:
                trials.extend((net, trial) for trial in choose(own)[1])
    settings = _settings(trials)
    wanted = {(net, loss) for net in spec.teacher_nets for loss in spec.losses}
    teachers: list[Row] = []
    students: list[Row] = []
    if wanted <= settings.keys():
        taught, learned = landed(folder, "teachers"), landed(folder, "students")
        for number in range(spec.seeds):
            teachers += _rows(taught, tasks.teachers(settings, number))
            students += _rows(learned, tasks.students(settings, number))
    if not students:
        raise ValueError(f"no student of {spec.experiment} at scale {spec.scale!r} has landed in {folder} yet")
    return _results(spec, folder, trials, teachers, students)


def _rows(found: Mapping[str, list[Row]], tasks: Iterator[Task]) -> list[Row]:
    return [row for task in tasks for row in found.get(task.key, [])]


def _results(
    spec: Tables,
    folder: Path,
    trials: Sequence[tuple[str, Trial]],
    teachers: Sequence[Row],
    students: Sequence[Row],
) -> dict[str, Any]:
    experiment = EXPERIMENTS[spec.experiment]
    measured = values(spec, teachers, students)
    found = differences(spec, teachers, students)
    return {
        "kind": "tables",
        "experiment": spec.experiment,
        "title": experiment.title if spec.scale == "full" else f"{experiment.title} ({spec.scale} size)",
        "question": (
            "With everything else as published, does a student learn more from a teacher trained with MSE than from "
            "one trained with cross-entropy, method by method?"
        ),
        "spec": spec.describe(),
        "provenance": provenance(),
        "seconds": round(Stopwatch(folder / "seconds.json").before, 1),
        "tuning": [{"net": net, **trial.record()} for net, trial in trials],
        "values": measured,
        "differences": found,
        "refused": [row for row in (*teachers, *students) if "refused" in row],
        "reference": _reference(spec),
        "reading": reading(spec, found, measured),
        "notes": _notes(spec, trials, teachers, students),
        "rows": [*({"role": "teacher", **row} for row in teachers), *({"role": "student", **row} for row in students)],
    }


def _reference(spec: Tables) -> dict[str, Any]:
    """Published numbers of these pairs, and what the paper and a follow-up report of MSE teachers."""
    dataset = spec.protocol.dataset
    students = []
    for pair in spec.pairs:
        of = STAND_INS.get(pair, pair)
        for method in spec.methods:
            known = published_accuracy(dataset, of, method)
            if known is not None:
                about = {"pair": list(pair), "of": list(of), "method": method, "source": SOURCES[known.source]}
                students.append(about | {"accuracy": known.accuracy, "spread": known.spread})
    networks = []
    for net in dict.fromkeys((*spec.teacher_nets, *spec.student_nets)):
        alone = published_network(dataset, net)
        if alone is not None:
            networks.append({"net": net, "accuracy": alone.accuracy, "source": SOURCES[alone.source]})
    few = []
    if spec.experiment == "fewshot" and ("resnet56", "resnet20") in spec.pairs:
        few = [
            {"share": share, "accuracy": accuracy, "spread": spread, "method": "hsakd", "source": SOURCES["hsakd*"]}
            for share, (accuracy, spread) in FEW_SHOT.items()
        ]
    claims = [
        {"difference": claim.difference, "what": claim.what, "source": claim.source}
        for claim in CLAIMS
        if spec.experiment in claim.tables
    ]
    return {"students": students, "networks": networks, "few_shot": few, "claims": claims}


def _notes(
    spec: Tables, trials: Sequence[tuple[str, Trial]], teachers: Sequence[Row], students: Sequence[Row]
) -> list[str]:
    """What a reader must know before leaning on a number, some of it from the numbers."""
    protocol, experiment = spec.protocol, EXPERIMENTS[spec.experiment]
    images = f"{protocol.train} training images a seed" if protocol.train else "all training images"
    done = len({row["seed"] for row in students})
    notes = [
        f"Size: {DATASETS[protocol.dataset].title}, {images} ({protocol.validation:.0%} of them for validation), "
        f"{protocol.epochs} epochs, {done} of {spec.seeds} seeds have landed. "
        f"{'' if spec.scale == 'full' else 'At full size: '}{experiment.chosen}",
        "Students have the recipe and the weights published for their method, whoever teaches them (milestones and "
        "warm-ups scaled to the epochs); the unit of every interval is the seed, with its own images, initialisation, "
        "batch order and teachers. What the two students of a seed share cancels in their difference.",
        "A teacher's rate and decay are chosen by its loss's own validation score on a seed that is not reported; a "
        "scale of the loss is a rate and a decay. Teachers are taken at the last epoch. The test set is looked at when "
        "a training is over, and chooses nothing.",
        f"A teacher is called under-trained where its training loss ends above {LEFT:.0%} of what the uniform "
        f"prediction costs, or where more than {LATE_GAIN:.0%} of all that it gained came in the last {LATE:.0%} of "
        "the epochs.",
    ]
    notes.append(
        "Published figures are of networks trained on all training images, by the full recipe, with the public "
        "teachers; some are of the last epoch, some of the best one on the test set (their sources say which): they "
        "say what a CE row looks like there, not what it should be here."
    )
    notes.append(
        "A student's validation images are drawn anew: most were in its teacher's training set. Best-validation epochs "
        "are chosen on them alike for all teachers; test images were in nobody's."
    )
    if any("wrn" in net for pair in spec.pairs for net in pair):
        notes.append(
            "Stages of the wide ResNets end in norm and ReLU here; the published weights of AT, SP, VID, FitNet and "
            "ReviewKD belong to the sums before them."
        )
    if protocol.partial == "labels":
        whole = "with all labels" if protocol.teacher_sees == "all" else "with the labels that its student has"
        notes.append(f"Images without a label feed the teacher's terms only. The teacher was trained {whole}.")
    for net in spec.teacher_nets:
        for loss in spec.losses:
            own = [row for row in teachers if (row["net"], row["arm"]) == (net, loss) and "refused" not in row]
            own = [row for row in own if row["checkpoint"] == "last"]
            short_of = [row for row in own if row["under_trained"]]
            if short_of:
                left, late = (max(row[name] for row in short_of) for name in ("left", "late_gain"))
                notes.append(
                    f"Under-trained: {net} with {loss} in {len(short_of)} of {len(own)} seeds; its training loss ends "
                    f"at up to {left:.0%} of the uniform prediction's, up to {late:.1%} of the gain came late."
                )
    edges = [
        f"{net} with {trial.arm}: rate {trial.learning_rate:g}, decay {trial.weight_decay:g}"
        for net, trial in trials
        if trial.edge
    ]
    if edges:
        notes.append(f"Chosen on the edge of the grid (a better one may lie outside): {'; '.join(edges)}.")
    blind = [method for method in spec.methods if len(spec.arms_of(method)) < len(spec.teachers)]
    if blind:
        notes.append(
            "A temperature changes a teacher's logits alone. Methods that do not look at them have the same students "
            f"with and without it, trained once: {', '.join(blind)}."
        )
    sentences = dict.fromkeys(
        f"{row.get('method', row.get('net'))} ({row['arm']}): {row['refused']}"
        for row in (*teachers, *students)
        if "refused" in row
    )
    notes.extend(f"Left out, {sentence}." for sentence in sentences)
    return notes
