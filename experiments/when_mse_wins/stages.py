"""The stages of the map: worlds, tuning, main trainings and the equality control; what each trains and records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from bcpd.data import InMemory
from bcpd.distill import Method, Supervised
from bcpd.losses import label_smoothing
from bcpd.measure import fit_temperature
from bcpd.mixtures import Mixture, from_spec
from bcpd.seeds import derive, generator
from experiments.when_mse_wins.spec import Cell, Protocol
from experiments.when_mse_wins.training import Draw, Job, State, Trained, distances, draw_of, train

__all__ = ["COLUMNS", "CONTROL_LOSSES", "CONTROL_STATES", "KEPT", "LOSSES", "PAIR", "TAUGHT", "TUNED", "short", "work"]

PAIR = ("ce", "mse")
LOSSES: Mapping[str, tuple[str, str | None]] = {
    "ce": ("ce", None),
    "mse": ("mse", None),
    "label_smoothing": ("label_smoothing", None),
    "logit_projection": ("logit_mse", "projection"),
    "logit_softmax": ("logit_mse", "softmax"),
}
"""Arm -> loss and read-out."""
CONTROL_LOSSES = ("label_smoothing", "logit_projection")
"""Control arms that have a learning rate of their own; ``logit_softmax`` is the other read-out of the same training."""

TUNED = {"score": "score", "last": "last", "accuracy": "error"}
"""Tuned by -> the column of the tuning rows: the path's best own score, that of the last epoch, the least error."""
CHECKPOINTS = ("last", "best_score", "best_accuracy", "path_minimum_mse", "path_minimum_kl")
KEPT = {
    "score": ("best_score", "last", "path_minimum_mse", "path_minimum_kl"),
    "last": ("last", "best_score"),
    "accuracy": ("best_accuracy",),
}
"""Tuned by -> the checkpoints that are recorded."""
TAUGHT = (("score", "best_score"), ("last", "last"), ("accuracy", "best_accuracy"), ("score", "path_minimum_mse"))
"""(tuned by, checkpoint) of the teachers' states that have students."""
CONTROL_STATES = {"score": "best_score", "last": "last"}
"""Tuned by -> the checkpoint of the control arms: each at the rate that was tuned for it."""
STUDENT_STATES = ("best_score", "last", "best_accuracy")
"""The students' own checkpoints."""

COLUMNS = (
    "role",
    "arm",
    "tuned_by",
    "teacher_checkpoint",
    "checkpoint",
    "draw",
    "epoch",
    "rate",
    "temperature",
    "transfer_mse",
    "transfer_kl",
    "fresh_mse",
    "fresh_kl",
    "fresh_accuracy",
    "fresh_excess_risk",
    "clean_mse",
    "clean_accuracy",
)

Row = dict[str, Any]


def work(payload: dict[str, Any]) -> list[Row]:
    """Do one task, the unit of resuming."""
    protocol, cell = Protocol(**payload["protocol"]), Cell(**payload["cell"])
    return list(_STAGES[payload["stage"]](protocol, cell, payload))


def short(value: float) -> float:
    """Five significant digits."""
    return float(f"{value:.5g}")


# -------------------------------------------------------------------------------------------------------------- worlds


def _world(protocol: Protocol, cell: Cell, payload: Mapping[str, Any]) -> Iterator[Row]:
    """The tuned mixture, its Bayes error, and what soft targets can add: E[1 - |p*|^2]."""
    mixture = cell.mixture(protocol.dimension, protocol.variance, protocol.seed)
    error = mixture.bayes_error(n=50_000, seed=derive(protocol.seed, "when-mse-wins", "bayes error"))
    x, _ = mixture.sample(20_000, derive(protocol.seed, "when-mse-wins", "irreducible"))
    irreducible = float((1 - mixture.posterior(x).square().sum(-1)).mean())
    yield {
        "role": "world",
        "mixture": mixture.spec(),
        "bayes_error": {"value": short(error.value), "stderr": short(error.stderr)},
        "irreducible": short(irreducible),
    }


# -------------------------------------------------------------------------------------------------------------- tuning


def _tune(protocol: Protocol, cell: Cell, payload: Mapping[str, Any]) -> Iterator[Row]:
    """Every rate of the grid on the tuning draws.

    Students have one rate for all arms, chosen on rows that no teacher made: p* mixed with the label. A rate chosen on
    exact p*, which has no noise, is too large for the rows of any teacher. It is a compromise: what the next rates
    would have said is recorded in the base cell.
    """
    mixture = from_spec(payload["mixture"])
    arms = payload["arms"]
    role: Literal["teacher", "student"] = "student" if arms == ["student"] else "teacher"
    numbers = range(protocol.draws_to_tune(cell, role))
    draws = [draw_of(mixture, protocol, cell, "tuning", number) for number in numbers]
    grid = [(arm, rate, number) for arm in arms for rate in protocol.rates(cell, role) for number in range(len(draws))]
    jobs = []
    for arm, rate, number in grid:
        draw = draws[number]
        if role == "student":
            jobs.append(_student_job(cell, draw, _label_mixture(protocol, draw.transfer), rate))
        else:
            method = _method(protocol, arm)
            jobs.append(Job(draw, draw.train, method, rate, derive(draw.root, "teacher", 0)))
    for (arm, rate, number), job, kept in zip(grid, jobs, train(protocol, cell, jobs), strict=True):
        metrics = kept.metrics
        yield {
            "role": role,
            "arm": arm,
            "rate": rate,
            "draw": number,
            "name": job.method.score,
            "score": short(metrics["best_score"][f"validation_{job.method.score}"]),
            "last": short(metrics["last"][f"validation_{job.method.score}"]),
            "error": short(1 - metrics["best_accuracy"]["validation_accuracy"]),
        }


def _method(protocol: Protocol, arm: str) -> Method:
    return _shared(arm, protocol.smoothing)


@lru_cache
def _shared(arm: str, smoothing: float) -> Method:
    """One object for all trainings of an arm: replicas with the same method are computed together."""
    if arm == "student":
        return Supervised("ce", target="given")
    loss, readout = LOSSES[arm]
    if loss == "label_smoothing":
        return Supervised(label_smoothing(smoothing))
    return Supervised(loss, readout=readout)


def _label_mixture(protocol: Protocol, points: InMemory) -> Tensor:
    """log of u e_y + (1 - u) p*."""
    assert points.log_bayes is not None
    hot = one_hot(points.y, points.num_classes)
    share = protocol.student_noise
    return (share * hot + (1 - share) * points.log_bayes.exp()).log()


def _student_job(cell: Cell, draw: Draw, log_targets: Tensor, rate: float) -> Job:
    """A student of rows for the transfer inputs; a label has its weight where the point is labelled."""
    rows = log_targets.exp()
    if cell.label_weight:
        labelled = len(draw.train)
        hot = one_hot(draw.train.y, cell.labels).to(rows.dtype)
        mixed = cell.label_weight * hot + (1 - cell.label_weight) * rows[:labelled]
        rows = torch.cat([mixed, rows[labelled:]])
    source = draw.transfer.without_bayes().with_targets(rows)
    return Job(draw, source, _shared("student", 0.0), rate, derive(draw.root, "student"))


# ---------------------------------------------------------------------------------------------------------------- main


@dataclass(frozen=True)
class Teacher:
    """A state of a teacher that is recorded, and perhaps taught from."""

    place: int
    arm: str
    tuned_by: str
    checkpoint: str
    rate: float
    state: State
    temperature: float | None = None


def _main(protocol: Protocol, cell: Cell, payload: Mapping[str, Any]) -> Iterator[Row]:
    """Teachers of all arms on a block of draws, and students of their states."""
    mixture = from_spec(payload["mixture"])
    rates: Mapping[str, Mapping[str, float]] = payload["rates"]
    controls: bool = payload["controls"]
    numbers: list[int] = payload["draws"]
    draws = [draw_of(mixture, protocol, cell, "main", number) for number in numbers]
    teachers = _pair_of_teachers(protocol, cell, draws, rates, controls)
    if controls:
        teachers += _resampled(protocol, cell, draws, rates["ce"], teachers)
    for teacher in teachers:
        draw = draws[teacher.place]
        yield {
            **_identity("teacher", numbers[teacher.place], teacher),
            "checkpoint": teacher.checkpoint,
            **_measured(cell, draw, teacher.state, with_transfer=True),
        }

    lessons = _lessons(protocol, draws, teachers, payload)
    # a teacher that diverged teaches nothing; its student's rows say nan
    sound = [number for number, lesson in enumerate(lessons) if not bool(lesson.rows.isnan().any())]
    jobs = [_student_job(cell, draws[lessons[i].place], lessons[i].rows, lessons[i].rate) for i in sound]
    trained = dict(zip(sound, train(protocol, cell, jobs, STUDENT_STATES, sets=("fresh",)), strict=True))
    for number, lesson in enumerate(lessons):
        row = _identity(lesson.role, numbers[lesson.place], lesson.teacher)
        kept = trained.get(number)
        for checkpoint in STUDENT_STATES if lesson.role == "student" else STUDENT_STATES[:1]:
            measured = {"epoch": None, **_nothing(cell)}
            if kept is not None:
                measured = _measured(cell, draws[lesson.place], kept.states[checkpoint], with_transfer=False)
            yield {**row, "checkpoint": checkpoint, "rate": lesson.rate, **measured}


@dataclass(frozen=True)
class Lesson:
    """What a student learns from, at which rate; ``neighbour`` is the role of one at another rate than the tuned."""

    teacher: Teacher | None
    place: int
    rows: Tensor
    rate: float
    role: Literal["student", "neighbour"] = "student"


def _lessons(
    protocol: Protocol, draws: Sequence[Draw], teachers: Sequence[Teacher], payload: Mapping[str, Any]
) -> list[Lesson]:
    controls: bool = payload["controls"]
    rate = payload["rates"]["student"]["score"]
    found = [Lesson(t, t.place, t.state.transfer, rate) for t in teachers if _has_student(t, controls)]
    if controls:
        exact = [(place, draw.transfer.log_bayes) for place, draw in enumerate(draws)]
        found += [Lesson(None, place, rows, rate) for place, rows in exact if rows is not None]
    if payload["neighbours"]:
        headline = [t for t in teachers if t.arm in PAIR and (t.tuned_by, t.checkpoint) == ("score", "best_score")]
        found += [
            Lesson(t, t.place, t.state.transfer, other, "neighbour")
            for other in protocol.next_rates(rate)
            for t in headline
        ]
    return found


def _names(teacher: Teacher) -> tuple[str, str, str]:
    return teacher.arm, teacher.tuned_by, teacher.checkpoint


def _has_student(teacher: Teacher, controls: bool) -> bool:
    if teacher.arm in PAIR:
        return (teacher.tuned_by, teacher.checkpoint) in TAUGHT
    return controls


def _pair_of_teachers(
    protocol: Protocol, cell: Cell, draws: Sequence[Draw], rates: Mapping[str, Mapping[str, float]], controls: bool
) -> list[Teacher]:
    """CE and MSE at all tuned rates and at fitted temperatures; label smoothing and the square loss on logits."""
    wanted = [(arm, tuned_by, rates[arm][tuned_by]) for arm in PAIR for tuned_by in KEPT]
    if controls:
        others = {arm: arm for arm in CONTROL_LOSSES} | {"logit_softmax": "logit_projection"}
        wanted += [(arm, by, rates[tuned][by]) for arm, tuned in others.items() for by in CONTROL_STATES]
    runs = list(dict.fromkeys((arm, rate) for arm, _, rate in wanted))
    cells = [(arm, rate, place) for arm, rate in runs for place in range(len(draws))]
    jobs = [
        Job(draws[place], draws[place].train, _method(protocol, arm), rate, derive(draws[place].root, "teacher", 0))
        for arm, rate, place in cells
    ]
    found = dict(zip(cells, train(protocol, cell, jobs, CHECKPOINTS), strict=True))
    teachers = []
    for arm, tuned_by, rate in wanted:
        for place, draw in enumerate(draws):
            states = found[arm, rate, place].states
            for checkpoint in KEPT[tuned_by] if arm in PAIR else (CONTROL_STATES[tuned_by],):
                state = states[checkpoint]
                teachers.append(Teacher(place, arm, tuned_by, checkpoint, rate, state))
                if arm in PAIR and CONTROL_STATES.get(tuned_by) == checkpoint:
                    for score in ("nll", "brier"):
                        temperature = _temperature(state, draw, score)
                        cooled = state.at(temperature)
                        name = f"{arm}_t_{score}"
                        teachers.append(Teacher(place, name, tuned_by, checkpoint, rate, cooled, temperature))
            if controls and (arm, tuned_by) == ("ce", "last"):
                teachers.append(Teacher(place, "ce_early", tuned_by, "last", rate, states["best_score"]))
    return teachers


def _temperature(state: State, draw: Draw, score: str) -> float:
    if bool(state.validation.isnan().any()):
        return math.nan
    return fit_temperature(state.validation, draw.validation.y, "nll" if score == "nll" else "brier")


def _resampled(
    protocol: Protocol, cell: Cell, draws: Sequence[Draw], rates: Mapping[str, float], teachers: Sequence[Teacher]
) -> list[Teacher]:
    """The mean of several CE teachers, and CE teachers that label only points they were not trained on."""
    found = []
    for rate in dict.fromkeys(rates[by] for by in CONTROL_STATES):
        wanted = {by: checkpoint for by, checkpoint in CONTROL_STATES.items() if rates[by] == rate}
        found += _resampled_at(protocol, cell, draws, rate, wanted, teachers)
    return found


def _resampled_at(
    protocol: Protocol,
    cell: Cell,
    draws: Sequence[Draw],
    rate: float,
    wanted: Mapping[str, str],
    teachers: Sequence[Teacher],
) -> list[Teacher]:
    checkpoints = list(wanted.values())
    members = [(place, member) for place in range(len(draws)) for member in range(1, protocol.ensemble)]
    jobs = [
        Job(draws[p], draws[p].train, _method(protocol, "ce"), rate, derive(draws[p].root, "teacher", member))
        for p, member in members
    ]
    ensembles = train(protocol, cell, jobs, checkpoints)
    folds = [_folds(draw, protocol.folds) for draw in draws]
    jobs, places = [], []
    for place, draw in enumerate(draws):
        for number, (inside, _) in enumerate(folds[place]):
            points = draw.train.subset(inside)
            jobs.append(Job(draw, points, _method(protocol, "ce"), rate, derive(draw.root, "fold", number)))
            places.append(place)
    crossed = train(protocol, cell, jobs, checkpoints)
    found = []
    for place in range(len(draws)):
        for by, checkpoint in wanted.items():
            own = [kept for (p, _), kept in zip(members, ensembles, strict=True) if p == place]
            first = next(t for t in teachers if (t.place, *_names(t)) == (place, "ce", by, checkpoint))
            together = _mean_state([first.state, *(kept.states[checkpoint] for kept in own)])
            found.append(Teacher(place, "ensemble", by, checkpoint, rate, together))
            own = [kept for p, kept in zip(places, crossed, strict=True) if p == place]
            state = _out_of_fold([kept.states[checkpoint] for kept in own], folds[place])
            found.append(Teacher(place, "crossfit", by, checkpoint, rate, state))
    return found


def _folds(draw: Draw, count: int) -> list[tuple[Tensor, Tensor]]:
    """(trained on, labelled by it) of every fold; the former of one length, for the teachers train side by side."""
    length = len(draw.train)
    order = torch.randperm(length, generator=generator(draw.root, "folds"))
    parts = list(torch.tensor_split(order, count))
    least = length - max(len(part) for part in parts)
    return [(torch.cat([*parts[:i], *parts[i + 1 :]])[:least], part) for i, part in enumerate(parts)]


def _mean(tables: Sequence[Tensor]) -> Tensor:
    """The mean probability, by its logarithm."""
    return torch.stack(list(tables)).logsumexp(0) - math.log(len(tables))


def _mean_state(states: Sequence[State]) -> State:
    return State(
        None,
        _mean([state.transfer for state in states]),
        _mean([state.validation for state in states]),
        _mean([state.fresh for state in states]),
    )


def _out_of_fold(states: Sequence[State], folds: Sequence[tuple[Tensor, Tensor]]) -> State:
    """Every training point labelled by the teacher that has not seen it, every other point by the mean of all."""
    together = _mean_state(states)
    transfer = together.transfer.clone()
    for state, (_, outside) in zip(states, folds, strict=True):
        transfer[outside] = state.transfer[outside]
    return State(None, transfer, together.validation, together.fresh)


# ------------------------------------------------------------------------------------------------------------- records


def _identity(role: str, draw: int, teacher: Teacher | None) -> Row:
    row: Row = dict.fromkeys(COLUMNS)
    row |= {"role": role, "draw": draw, "tuned_by": "score", "arm": "bayes"}
    if teacher is not None:
        temperature = None if teacher.temperature is None else short(teacher.temperature)
        row |= {"arm": teacher.arm, "tuned_by": teacher.tuned_by, "rate": teacher.rate, "temperature": temperature}
        if role != "teacher":
            row["teacher_checkpoint"] = teacher.checkpoint
    return row


def _measured(cell: Cell, draw: Draw, state: State, with_transfer: bool) -> Row:
    assert draw.fresh.log_bayes is not None
    assert draw.transfer.log_bayes is not None
    fresh = distances(draw.fresh.log_bayes, state.fresh)
    row = {f"fresh_{name}": short(fresh[name]) for name in ("mse", "kl", "accuracy", "excess_risk")}
    if cell.label_noise:
        # symmetric noise is an affine map of p*, which is undone exactly
        clean = _without_noise(draw.fresh.log_bayes.exp(), cell.label_noise)
        gap = (state.fresh.exp() - clean).square().sum(-1).mean()
        row |= {"clean_mse": short(float(gap))}
        row |= {"clean_accuracy": short(float(_without_noise(fresh["accuracy"], cell.label_noise, cell.labels)))}
    if with_transfer:
        transfer = distances(draw.transfer.log_bayes, state.transfer)
        row |= {f"transfer_{name}": short(transfer[name]) for name in ("mse", "kl")}
    return {"epoch": state.epoch, **row}


def _without_noise(value: Any, rate: float, classes: int | None = None) -> Any:
    count = value.shape[-1] if classes is None else classes
    return (value - rate / count) / (1 - rate)


def _nothing(cell: Cell) -> Row:
    names = [f"fresh_{name}" for name in ("mse", "kl", "accuracy", "excess_risk")]
    names += ["clean_mse", "clean_accuracy"] if cell.label_noise else []
    return dict.fromkeys(names, math.nan)


# ------------------------------------------------------------------------------------------------------------ equality


def _equality(protocol: Protocol, cell: Cell, payload: Mapping[str, Any]) -> Iterator[Row]:
    """MSE / K at K times the rate and a K-th of the decay is MSE; at the same rate, the released scale, it is not."""
    mixture: Mixture = from_spec(payload["mixture"])
    rate, decay = payload["rates"]["mse"]["score"], protocol.equality_decay
    arms = (("mse", rate, decay), ("mse_mean", cell.labels * rate, decay / cell.labels), ("mse_mean", rate, decay))
    draws = [draw_of(mixture, protocol, cell, "main", number) for number in range(protocol.equality_draws)]
    jobs = [
        Job(draw, draw.train, Supervised(loss), own_rate, derive(draw.root, "teacher", 0), own_decay)
        for loss, own_rate, own_decay in arms
        for draw in draws
    ]
    trained: list[Trained] = train(protocol, cell, jobs, ("last",), torch.float64)
    for number, draw in enumerate(draws):
        same, scaled, released = (trained[place * len(draws) + number].states["last"] for place in range(3))
        gaps = [
            float((a.exp() - b.exp()).abs().max())
            for a, b in ((same.fresh, scaled.fresh), (same.transfer, scaled.transfer))
        ]
        assert draw.fresh.log_bayes is not None
        yield {
            "role": "equality",
            "draw": number,
            "largest_difference": max(gaps),
            "mse": short(distances(draw.fresh.log_bayes, same.fresh)["mse"]),
            "released_scale": short(distances(draw.fresh.log_bayes, released.fresh)["mse"]),
        }


_STAGES: Mapping[str, Callable[[Protocol, Cell, Mapping[str, Any]], Iterator[Row]]] = {
    "world": _world,
    "tuning": _tune,
    "main": _main,
    "equality": _equality,
}
