"""The tasks of Figure 1: what each trains, and the rows it gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bcpd import simplex
from bcpd.data import InMemory
from bcpd.distill import Each, Method, Supervised
from bcpd.measure.pointwise import POINTWISE, pointwise
from bcpd.runs import Trial, choose
from bcpd.seeds import derive, generator
from bcpd.targets import TARGETS, bias_and_variance, level_for, permuted
from bcpd.theory.instruments.released import ce_of_grey_dots, ce_of_teachers, distance_of_set
from bcpd.train import Recipe, fit
from experiments.figure1.arms import BEST, LAST, trainings
from experiments.figure1.spec import Figure1, chunks, short
from experiments.figure1.training import (
    Teachers,
    draw_of,
    fresh_distances,
    log_probabilities,
    network,
    source_of,
    train_students,
    train_teachers,
    training_seed,
)

__all__ = [
    "NETS",
    "RELEASED_RATE",
    "TUNED",
    "checked_cells",
    "target_cells",
    "trials_of",
    "work",
]

RELEASED_RATE = 5e-4
RELEASED_OUTCOMES = ("best_accuracy", "last")
RELEASED_LOSSES = {"ce": "ce", "mse": "mse_mean"}
"""The release's MSE teacher is the mean over classes: one K-th of this project's ``mse``, at the same rate."""

NETS = ("linear", "mlp")
"""Of the contaminated world: a linear softmax cannot follow p* there, the perceptron can."""


def work(payload: dict[str, Any]) -> list[dict[str, Any]]:
    """Do one task, the unit of resuming: train its models and give a row for each."""
    return list(_STAGES[payload["stage"]](Figure1(**payload["spec"]), payload))


def measures(log_bayes: Tensor, y: Tensor, log_t: Tensor) -> dict[str, float]:
    """How far a table of targets is from p*, on the inputs that the student sees them on."""
    p, t = log_bayes.exp(), log_t.exp()
    named = dict(zip(POINTWISE, pointwise(log_bayes, log_t).mean(0).tolist(), strict=True))
    found = {
        "mse": named["mse"],
        "kl": named["kl"],
        "reverse_kl": float(simplex.kl_from_log(log_t, log_bayes).mean()),
        "ce": named["ce"],
        "reverse_ce": named["reverse_ce"],
        "entropy": float(simplex.entropy(p).mean()),
        "flip": named["excess_risk"],
        "label_fit": float((t.gather(-1, y[:, None])[:, 0] - (p * t).sum(-1)).mean()),
        "released_distance": distance_of_set(t, p),
        "released_ce": float(ce_of_grey_dots(t, p).mean()),
        "released_reverse_ce": float(ce_of_teachers(t, p).mean()),
    }
    return {name: short(value) for name, value in found.items()}


# ------------------------------------------------------------------------------------------------------- as released


def _grey(spec: Figure1, payload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Grey dots: students of u e_y + (1 - u) p*."""
    world, numbers = payload["world"], payload["numbers"]
    draw = draw_of(spec, world, "released", 0)
    stream = generator(spec.seed, "figure1", "mixing weights", world)
    wide, narrow = spec.released_counts(world)[0]
    levels = torch.cat([torch.rand(wide, generator=stream), torch.rand(narrow, generator=stream) / 2]).double().tolist()
    family = TARGETS["label_mixture"]
    rows = torch.stack([family(draw.log_bayes, draw.train.y, levels[number]) for number in numbers])
    seeds = [training_seed(spec, "grey", world, number) for number in numbers]
    found = train_students(
        spec, [draw] * len(numbers), rows, seeds, RELEASED_RATE, spec.released_epochs, RELEASED_OUTCOMES
    )
    for number, log_t, outcome in zip(numbers, rows, found, strict=True):
        squared_bias, variance = bias_and_variance(family, draw.log_bayes, levels[number])
        yield {
            **row_of("released", world, 0, number, "label_mixture", level=levels[number], rate=RELEASED_RATE),
            **measures(draw.log_bayes, draw.train.y, log_t),
            "squared_bias": short(squared_bias),
            "variance": short(variance),
            **outcome,
        }


def _released_teachers(spec: Figure1, payload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Red and blue dots: students of the last epoch of CE and MSE teachers."""
    world, numbers = payload["world"], payload["numbers"]
    draw = draw_of(spec, world, "released", 0)
    arms = [(loss, number) for loss in RELEASED_LOSSES for number in numbers]
    draws = [draw] * len(arms)
    seeds = [training_seed(spec, "released teacher", world, number) for _, number in arms]
    source, share = source_of(draws, seeds)
    method = Each([Supervised(RELEASED_LOSSES[loss]) for loss, _ in arms])
    recipe = Recipe(spec.released_epochs, RELEASED_RATE, batch_size=spec.batch_size, validation=share)
    fitted = fit(network(spec, draw, seeds), source, method, recipe, seed=seeds)
    rows = log_probabilities(fitted.network("last"), draw.train.x.expand(len(arms), -1, -1))
    seeds = [training_seed(spec, "student of released teacher", world, number) for _, number in arms]
    found = train_students(spec, draws, rows, seeds, RELEASED_RATE, spec.released_epochs, RELEASED_OUTCOMES)
    fresh = fresh_distances(fitted.network("last"), draws)
    for (loss, number), log_t, outcome, own in zip(arms, rows, found, fresh, strict=True):
        yield {
            **row_of("released", world, 0, number, loss, epoch=spec.released_epochs, rate=RELEASED_RATE),
            **measures(draw.log_bayes, draw.train.y, log_t),
            "fresh_mse": own["mse"],
            "fresh_kl": own["kl"],
            **outcome,
        }


# -------------------------------------------------------------------------------------------------------- separating


def target_cells(spec: Figure1) -> list[tuple[str, str, float]]:
    """(family, matched distance, goal) of every target, the references first."""
    references = [("bayes", "", 0.0), ("one_hot", "", 0.0), ("permuted", "", 0.0)]
    goals = [("mse", goal) for goal in spec.mse_goals] + [("kl", goal) for goal in spec.kl_goals]
    return references + [(family, distance, goal) for distance, goal in goals for family in TARGETS]


def checked_cells(spec: Figure1) -> list[tuple[str, str, float]]:
    """The targets that predictions (d1) and (d2) compare: their students are trained at three rates."""
    *_, largest = goals = sorted(spec.mse_goals)
    smaller = [("label_mixture", "mse", goal) for goal in goals[-2:-1]]
    kept = [(family, "mse", largest) for family in ("smoothing", "flatten")]
    return [("bayes", "", 0.0), *smaller, *kept, *(("sharpen", "mse", goal) for goal in goals)]


def _families(spec: Figure1, payload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Students of the families at their matched levels."""
    cells = target_cells(spec)
    wanted = [(cells[place // spec.seeds], place % spec.seeds, 0) for place in payload["cells"]]
    yield from _students_of(spec, "separating", payload, wanted)


def _rate_check(spec: Figure1, payload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The students that (d1) and (d2) compare, at a lower and a higher rate, with the first nested seed."""
    wanted = [(cell, 0, step) for step in (-1, 1) for cell in checked_cells(spec)]
    yield from _students_of(spec, "rate check", payload, wanted)


def _students_of(
    spec: Figure1, stage: str, payload: Mapping[str, Any], wanted: Sequence[tuple[tuple[str, str, float], int, int]]
) -> Iterator[dict[str, Any]]:
    """Students of (target, nested seed, step of the rate) on one draw; goals out of reach are said, not trained."""
    number = payload["draw"]
    draw = draw_of(spec, "toy", "separating", number)
    log_bayes, y = draw.log_bayes, draw.train.y
    noise = derive(spec.seed, "figure1", "target noise", number)
    made: list[tuple[dict[str, Any], Tensor]] = []
    for (family, distance, goal), seed, step in wanted:
        rate = short(payload["rates"]["student"] * spec.rate_factor**step)
        further = {"matched": distance or None, "goal": goal or None, "rate": rate, "rate_step": step}
        row = row_of(stage, "toy", number, seed, family, **further)
        if family == "bayes":
            log_t = log_bayes
        elif family == "one_hot":
            log_t = TARGETS["label_mixture"](log_bayes, y, 1.0)
        elif family == "permuted":
            log_t = permuted(log_bayes, noise)
        else:
            try:
                level, squared_bias, variance = _level(spec, number, family, distance, goal)
            except ValueError as error:
                yield {**row, "role": "unreachable", "reason": str(error)}
                continue
            log_t = TARGETS[family](log_bayes, y, level, noise)
            row |= {"level": short(level), "squared_bias": short(squared_bias), "variance": short(variance)}
        made.append((row | measures(log_bayes, y, log_t), log_t))
    if made:
        seeds = [training_seed(spec, "families", number, row["seed"]) for row, _ in made]
        rows = torch.stack([log_t for _, log_t in made])
        found = train_students(spec, [draw] * len(made), rows, seeds, [row["rate"] for row, _ in made], spec.epochs)
        for (row, _), outcome in zip(made, found, strict=True):
            yield {**row, **outcome}


@lru_cache(maxsize=256)
def _level(spec: Figure1, number: int, family: str, distance: Any, goal: float) -> tuple[float, float, float]:
    """The level that meets a goal on the draw, and the two parts of the MSE it has on average."""
    draw = draw_of(spec, "toy", "separating", number)
    noise = derive(spec.seed, "figure1", "target noise", number)
    level = level_for(TARGETS[family], distance, goal, draw.log_bayes, draw.train.y, noise)
    return level, *bias_and_variance(TARGETS[family], draw.log_bayes, level, redraws=32, seed=noise)


def _teachers(spec: Figure1, payload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """CE and MSE teachers, and a student of their states at several stopping times."""
    numbers, rates = payload["draws"], payload["rates"]
    models = [(number, training) for number in numbers for training in trainings(spec, rates)]
    draws = [draw_of(spec, "toy", "separating", number) for number, _ in models]
    taught = train_teachers(
        spec,
        draws,
        _held_out(spec, "toy", [number for number, _ in models]),
        [training_seed(spec, "teacher", number) for number, _ in models],
        [training.loss for _, training in models],
        [training.rate for _, training in models],
        spec.teacher_epochs,
    )
    x = torch.stack([draw.train.x for draw in draws])
    common, _ = spec.world("toy").sample(2000, derive(spec.seed, "figure1", "common points"))
    p = spec.world("toy").posterior(common)
    net = taught.fitted.network("last")
    for state, weights in taught.states.items():
        net.load_state_dict(weights)
        places = [place for place, (_, training) in enumerate(models) if state in training.taught]
        log_t = log_probabilities(net, x)
        found: dict[int, dict[str, Any]] = {}
        for part in chunks(len(places), spec.group):
            own = [places[i] for i in part]
            seeds = [training_seed(spec, "families", models[place][0], 0) for place in own]
            outcomes = train_students(
                spec, [draws[place] for place in own], log_t[own], seeds, rates["student"], spec.epochs
            )
            found.update(zip(own, outcomes, strict=True))
        gap = log_probabilities(net, common.to(x.dtype).expand(len(models), -1, -1)).exp() - p
        fresh = fresh_distances(net, draws)
        for place in places:
            number, training = models[place]
            # the bias is what teachers of other draws share with this one: an unbiased product
            others = [gap[i] for i, (n, other) in enumerate(models) if other == training and n != number]
            bias = (gap[place] * torch.stack(others).mean(0)).sum(-1).mean() if others else torch.tensor(math.nan)
            at = taught.fitted.epochs[BEST][place] if state == BEST else int(state)
            further = {"epoch": at, "checkpoint": state, "rate": rates["student"], "rate_step": 0}
            yield {
                **row_of("separating", "toy", number, 0, training.name, **further),
                **measures(draws[place].log_bayes, draws[place].train.y, log_t[place]),
                "common_bias_over_draws": short(float(bias)),
                "common_variance_over_draws": short(float(gap[place].square().sum(-1).mean() - bias)),
                "fresh_mse": fresh[place]["mse"],
                "fresh_kl": fresh[place]["kl"],
                **found[place],
            }
    named = [(number, training.name, training.rate) for number, training in models]
    yield from _paths(taught, "toy", "mlp", named)


def _held_out(spec: Figure1, world: str, numbers: Sequence[int], purpose: str = "separating") -> InMemory:
    roots = [derive(spec.seed, "figure1", "held-out points", world, purpose, number) for number in numbers]
    return InMemory.from_mixture(spec.world(world), spec.held_out, roots)


def _paths(
    taught: Teachers, world: str, net: str, models: Sequence[tuple[int, str, float]]
) -> Iterator[dict[str, Any]]:
    """A row for every teacher: its path from epoch 1 on, the initial network, and the distances at every checkpoint."""
    fitted = taught.fitted
    for place, (number, arm, rate) in enumerate(models):
        first, *lengths = (epoch[place] for epoch in taught.label_probability)
        yield {
            "role": "teacher",
            "world": world,
            "net": net,
            "draw": number,
            "arm": arm,
            "rate": rate,
            "initial": {**taught.initial[place], "label_probability": short(first)},
            "fresh_mse": [short(epoch["fresh_mse"][place]) for epoch in fitted.history],
            "fresh_kl": [short(epoch["fresh_kl"][place]) for epoch in fitted.history],
            "label_probability": [short(length) for length in lengths],
            **{
                checkpoint: {
                    "epoch": fitted.epochs[checkpoint][place],
                    "fresh_mse": short(fitted.at(checkpoint)[place]["fresh_mse"]),
                    "fresh_kl": short(fitted.at(checkpoint)[place]["fresh_kl"]),
                }
                for checkpoint in ("last", "best_score", "path_minimum_mse", "path_minimum_kl")
            },
        }


def _contaminated(spec: Figure1, payload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """CE and MSE teachers where a tenth of every class lies far out; linear (which cannot follow) and MLP."""
    net = payload["net"]
    models = [
        (number, loss, payload["rates"][f"contaminated {net} {loss}"])
        for number in payload["draws"]
        for loss in ("ce", "mse")
    ]
    numbers = [number for number, _, _ in models]
    taught = train_teachers(
        spec,
        [draw_of(spec, "contaminated", "separating", number) for number in numbers],
        _held_out(spec, "contaminated", numbers),
        [training_seed(spec, "contaminated", number) for number in numbers],
        [loss for _, loss, _ in models],
        [rate for _, _, rate in models],
        spec.contaminated_epochs,
        _hidden(spec, net),
    )
    yield from _paths(taught, "contaminated", net, models)


def _hidden(spec: Figure1, net: str) -> tuple[int, ...]:
    return () if net == "linear" else spec.hidden


# ------------------------------------------------------------------------------------------------------------ tuning

TUNED = ("ce", "mse", "student", *(f"contaminated {net} {arm}" for net in NETS for arm in ("ce", "mse")))


def _tune(spec: Figure1, payload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every rate of the grid on the tuning draws: the loss's own validation score, at its best epoch and at the last.

    The one rate of all students is chosen on label mixtures at the middle MSE goal, by the NLL of held-out labels. So
    it is that family's rate: flattened rows have smaller gradients and sharpened rows larger ones, and each might want
    another, which :func:`_rate_check` looks at.
    """
    arm: str = payload["arm"]
    world = "contaminated" if arm.startswith("contaminated") else "toy"
    grid = [(rate, number) for rate in spec.grid(arm) for number in range(spec.tuning_draws)]
    draws = [draw_of(spec, world, "tuning", number) for _, number in grid]
    seeds = [training_seed(spec, "tuning", number) for _, number in grid]
    targets = None
    method: Method
    if arm == "student":
        family, goal = TARGETS["label_mixture"], spec.mse_goals[len(spec.mse_goals) // 2]
        rows = []
        for draw in draws:
            level = level_for(family, "mse", goal, draw.log_bayes, draw.train.y)
            rows.append(family(draw.log_bayes, draw.train.y, level).exp())
        targets = torch.stack(rows).to(draws[0].train.dtype)
        method = Supervised("ce", target="given")
    else:
        method = Supervised(arm.split()[-1])
    source, share = source_of(draws, seeds, targets)
    hidden = _hidden(spec, arm.split()[1]) if world == "contaminated" else spec.hidden
    epochs = spec.tuning_epochs(arm)
    recipe = Recipe(epochs, tuple(rate for rate, _ in grid), batch_size=spec.batch_size, validation=share)
    fitted = fit(network(spec, draws[0], seeds, hidden), source, method, recipe, seed=seeds)
    name = f"validation_{method.score}"
    for (rate, number), best, last in zip(grid, fitted.at(BEST), fitted.at(LAST), strict=True):
        scores = {"score": short(best[name]), "score_last": short(last[name])}
        yield {"arm": arm, "learning_rate": rate, "draw": number, **scores, "name": method.score}


def trials_of(spec: Figure1, rows: Sequence[Mapping[str, Any]]) -> list[Trial]:
    """The tuning's rows as trials; the best rate of each arm is marked.

    ``ce, last`` and ``mse, last`` have the rate with the best score at the last epoch.
    """
    trials = []
    wanted = [(arm, arm, "score") for arm in TUNED] + [(f"{arm}, last", arm, "score_last") for arm in ("ce", "mse")]
    for name, arm, column in wanted:
        own = [row for row in rows if row["arm"] == arm]
        role = "student" if arm == "student" else "teacher"
        tried = []
        for rate in spec.grid(arm):
            scores = tuple(row[column] for row in own if row["learning_rate"] == rate)
            tried.append(Trial(name, rate, 0.0, scores, own[0]["name"], role))
        trials.extend(choose(tried)[1])
    return trials


_STAGES: Mapping[str, Callable[[Figure1, Mapping[str, Any]], Iterator[dict[str, Any]]]] = {
    "tuning": _tune,
    "grey": _grey,
    "released teachers": _released_teachers,
    "families": _families,
    "rate check": _rate_check,
    "teachers": _teachers,
    "contaminated": _contaminated,
}


def row_of(stage: str, world: str, draw: int, seed: int, family: str, **further: Any) -> dict[str, Any]:
    """What says which student it is; ``rate`` is the student's, ``rate_step`` how far from the tuned one."""
    names = ("matched", "goal", "level", "epoch", "checkpoint", "rate", "rate_step")
    plain = {**dict.fromkeys(names), **further}
    if isinstance(plain["level"], float):
        plain["level"] = short(plain["level"])
    return {"role": "student", "stage": stage, "world": world, "draw": draw, "seed": seed, "family": family, **plain}
