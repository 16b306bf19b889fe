"""The stages of the ladder: making a world, tuning, and the trainings of a draw; what each records."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bcpd.data import Images, InMemory
from bcpd.data.cifar10h import HumanLabels
from bcpd.data.near_duplicates import near_duplicates
from bcpd.distill import KD, Method, Supervised
from bcpd.files import write_bytes, write_json
from bcpd.losses import label_smoothing
from bcpd.measure import (
    bayes_error_from_votes,
    distance_of_probabilities,
    distance_to_votes,
    fit_temperature,
    label_scores,
)
from bcpd.mixtures.frozen import FrozenNature
from bcpd.mixtures.image_worlds import image_world
from bcpd.nets import build
from bcpd.seeds import derive
from bcpd.train import Cosine, Fitted, PathMetrics, Recipe, fit, log_probabilities, validation_part
from experiments.ladder.spec import ARMS, GROUNDS, LOSSES, Ladder
from experiments.ladder.worlds import Measured, World, frozen_parts, normalisation, real_images, restored

__all__ = ["NEAR", "SHARES", "work"]

Row = dict[str, Any]

NEAR = 0.3
"""Test images this near to a training image (see :func:`bcpd.data.near_duplicates`) are left out as a check: by eye
63 of the 68 pairs of CIFAR-10, and some 104 of the 133 of CIFAR-100, are one picture."""

SHARES = "probabilities"
"""The folder of log-probabilities at the measured images."""

FITTED_TO = 5000
"""Images that a mixture is fitted to, most."""


class Places(NamedTuple):
    """Folders of a run: of its files, and of the data."""

    folder: Path
    data: Path | None


def work(payload: dict[str, Any]) -> list[Row]:
    """Do one task, the unit of resuming; trainings within it are resumed by themselves."""
    spec, data = Ladder(**payload["spec"]), payload["data"]
    places = Places(Path(payload["folder"]), None if data is None else Path(data))
    stage: Callable[[Ladder, Places, Mapping[str, Any]], Iterator[Row]] = _STAGES[payload["stage"]]
    return list(stage(spec, places, payload))


def short(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}")


# -------------------------------------------------------------------------------------------------------------- worlds


def _world(spec: Ladder, places: Places, payload: Mapping[str, Any]) -> Iterator[Row]:
    """Make the world of a ground and leave it in files; say what it is."""
    name = payload["ground"]
    path = places.folder / f"{name}.json"
    nature = GROUNDS[name].nature
    if nature == "frozen":
        yield _frozen(spec, places, name)
    elif nature == "unknown":
        world = restored(spec.describe(), name, places.folder, places.data)
        train, test = real_images(name, places.data)
        numbers = world.measured(0).numbers
        assert numbers is not None
        near = near_duplicates(test.x[numbers], train.x, NEAR).found
        row = {"ground": name, "near_duplicates": near.nonzero()[:, 0].tolist(), "measured": len(numbers)}
        human = world.measured(0).human
        yield row if human is None else row | {"bayes_error_of_people": _people_s_error(human)}
    else:
        fitted: dict[str, Any] = {}
        size, channels = spec.size, spec.channels
        if nature == "fitted":
            images = _some(real_images(name, places.data)[0], spec, name)
            size, channels = min(size, images.x.shape[-1]), images.x.shape[1]
            fitted = {"images": images.x, "labels": images.y}
        kind = "factor-analyzers" if fitted else name
        mixture = image_world(kind, size, channels, spec.bayes_error, derive(spec.seed, "ladder", name), **fitted)
        write_json(path, mixture.spec())
        yield {"ground": name, "bayes_error": _error(mixture.bayes_error(n=20_000, seed=derive(spec.seed, name)))}


def _some(images: Images, spec: Ladder, name: str) -> Images:
    count = min(FITTED_TO, len(images))
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(derive(spec.seed, "fitted", name)))
    return Images(images.x[chosen[:count]], images.y[chosen[:count]], images.num_classes)


def _frozen(spec: Ladder, places: Places, name: str) -> Row:
    """Train the network that is nature, keep its logits, and choose the temperature for the Bayes error."""
    learned, images, pool = frozen_parts(spec, name, places.data)
    normalise = normalisation(name)
    source = InMemory(learned.x, learned.y, num_classes=learned.num_classes, normalise=normalise)
    seed = derive(spec.seed, "ladder", name, "frozen network")
    recipe = _recipe(spec, spec.frozen_rate, spec.frozen_epochs)
    fitted = _trained(spec, places, f"{name}/frozen", spec.teacher, Supervised("ce"), recipe, seed, source)
    plain = InMemory(
        images, torch.zeros(len(images), dtype=torch.int64), num_classes=learned.num_classes, normalise=normalise
    )
    logits = log_probabilities(fitted.teacher("last"), plain.to(spec.device)).cpu()
    nature = FrozenNature(images, logits).tuned(spec.bayes_error)
    (last,) = fitted.at("last")
    description = {
        "net": spec.teacher,
        "images": spec.frozen_train,
        "epochs": spec.frozen_epochs,
        "learning_rate": spec.frozen_rate,
        "validation_accuracy": short(last["validation_accuracy"]),
        "temperature": short(nature.temperature),
        "pool": pool,
        "measured": len(images) - pool,
    }
    buffer = io.BytesIO()
    np.save(buffer, nature.logits.numpy(), allow_pickle=False)
    write_bytes(places.folder / f"{name}.npy", buffer.getvalue())
    write_json(places.folder / f"{name}.json", {"temperature": nature.temperature, "description": description})
    return {"ground": name, "bayes_error": _error(nature.bayes_error()), "frozen": description}


def _error(estimate: Any) -> dict[str, Any]:
    return {"value": short(estimate.value), "stderr": short(estimate.stderr), "method": estimate.method}


def _people_s_error(human: HumanLabels) -> Row:
    """The bracket of the Bayes error from their votes, and Hoeffding's interval about it."""
    found = bayes_error_from_votes(human.counts_at("typical"))
    low, high = found.hoeffding()
    return {"lower": _error(found.lower), "upper": _error(found.upper), "hoeffding": [short(low), short(high)]}


# ------------------------------------------------------------------------------------------------------------ training


def _recipe(spec: Ladder, rate: float, epochs: int | None = None) -> Recipe:
    return Recipe(
        epochs=epochs or spec.epochs,
        learning_rate=rate,
        weight_decay=spec.decay,
        batch_size=spec.batch_size,
        schedule=Cosine(),
        validation=spec.validation,
    )


def _trained(
    spec: Ladder,
    places: Places,
    name: str,
    net_name: str,
    method: Method,
    recipe: Recipe,
    seed: int,
    source: InMemory,
    teacher: nn.Module | None = None,
) -> Fitted:
    net = build(net_name, num_classes=source.num_classes, input_shape=source.shape, seed=seed)
    return fit(
        net.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        source,
        method,
        recipe,
        seed=seed,
        teacher=teacher,
        folder=places.folder / "trainings" / name,
        device=spec.device,
        metrics=partial(PathMetrics, only=("validation",)),
    )


def _method(spec: Ladder, loss: str) -> Supervised:
    return Supervised(label_smoothing(spec.smoothing) if loss == "label_smoothing" else loss)


class Draw:
    """What the trainings of a draw share: images, split, initialisation and batch order."""

    def __init__(self, spec: Ladder, places: Places, ground: str, number: str | int) -> None:
        self.spec, self.places, self.ground, self.number = spec, places, ground, number
        self.world: World = restored(spec.describe(), ground, places.folder, places.data)
        self.source = self.world.training(number)
        self.seed = self.world.seed("draw", number)

    def teacher(self, loss: str, rate: float) -> Fitted:
        """Trained with a loss at a rate, or read back."""
        name = f"{self.ground}/{self.number}/{loss}-{rate:g}"
        method, recipe = _method(self.spec, loss), _recipe(self.spec, rate)
        return self._trained(name, self.spec.teacher, method, recipe, "teacher")

    def student(self, arm: str, rate: float, teacher: nn.Module) -> Fitted:
        """Distilled from a teacher."""
        spec = self.spec
        method = KD(spec.temperature, spec.label_weight, spec.teacher_weight)
        name = f"{self.ground}/{self.number}/student-{arm}-{rate:g}"
        return self._trained(name, spec.student, method, _recipe(spec, rate), "student", teacher)

    def _trained(
        self, name: str, net: str, method: Method, recipe: Recipe, role: str, teacher: nn.Module | None = None
    ) -> Fitted:
        seed = derive(self.seed, role)
        return _trained(self.spec, self.places, name, net, method, recipe, seed, self.source, teacher)

    def temperature(self, fitted: Fitted) -> float:
        """Fitted to the last teacher, on the validation labels of its training, by their NLL."""
        held = validation_part(self.source, self.spec.validation, derive(self.seed, "teacher"))
        log_q = log_probabilities(fitted.teacher("last"), held.to(self.spec.device)).cpu()
        return fit_temperature(log_q, held.y.cpu(), "nll")


# -------------------------------------------------------------------------------------------------------------- tuning


def _tune_teacher(spec: Ladder, places: Places, payload: Mapping[str, Any]) -> Iterator[Row]:
    """Every rate of a loss on a tuning draw, judged by the loss's own validation score at the last epoch."""
    loss, number = payload["loss"], payload["draw"]
    draw = Draw(spec, places, payload["ground"], f"tuning-{number}")
    for rate in spec.rates[loss]:
        fitted = draw.teacher(loss, rate)
        (last,) = fitted.at("last")
        score = fitted.method.score
        yield {
            "ground": payload["ground"],
            "role": "teacher",
            "arm": loss,
            "rate": rate,
            "draw": number,
            "name": score,
            "score": short(last[f"validation_{score}"]),
            "accuracy": short(last["validation_accuracy"]),
        }


def _tune_student(spec: Ladder, places: Places, payload: Mapping[str, Any]) -> Iterator[Row]:
    """A rate of the students on a tuning draw, by the mean validation Brier score over a CE and an MSE teacher.

    One rate for the students of all arms, so that none is favoured; neither of the two scores is one teacher's own.
    """
    number, rates, rate = payload["draw"], payload["rates"], payload["rate"]
    draw = Draw(spec, places, payload["ground"], f"tuning-{number}")
    scores, accuracies = [], []
    for loss in ("ce", "mse"):
        frozen = draw.teacher(loss, rates[loss]).teacher("last")
        (last,) = draw.student(loss, rate, frozen).at("last")
        scores.append(last["validation_brier"])
        accuracies.append(last["validation_accuracy"])
    yield {
        "ground": payload["ground"],
        "role": "student",
        "arm": "student",
        "rate": rate,
        "draw": number,
        "name": "brier",
        "score": short(math.fsum(scores) / 2),
        "accuracy": short(math.fsum(accuracies) / 2),
    }


# --------------------------------------------------------------------------------------------------------------- draws


def _main(spec: Ladder, places: Places, payload: Mapping[str, Any]) -> Iterator[Row]:
    """The teachers of a draw with every loss, and the students of every arm."""
    ground, number, rates = payload["ground"], payload["draw"], payload["rates"]
    draw = Draw(spec, places, ground, number)
    measured = draw.world.measured(number)
    teachers = {loss: draw.teacher(loss, rates[loss]) for loss in LOSSES}
    for arm, (loss, scaled) in ARMS.items():
        fitted = teachers[loss]
        if fitted.diverged[0] is not None:
            yield from _lost(draw, arm, rates[loss], ("teacher", "student"))
            continue
        temperature = draw.temperature(fitted) if scaled else 1.0
        about = {"ground": ground, "draw": number, "arm": arm, "temperature": short(temperature)}
        for checkpoint in ("last",) if scaled else ("last", "best_score"):
            frozen = fitted.teacher(checkpoint, temperature)
            (path,) = fitted.at(checkpoint)
            row = about | {"role": "teacher", "checkpoint": checkpoint, "rate": rates[loss], "epoch": path["epoch"]}
            row |= _kept(path)
            yield row | _measure(spec, places, frozen, measured, row) | _on_transfer(spec, frozen, draw)
        student = draw.student(arm, rates["student"], fitted.teacher("last", temperature))
        if student.diverged[0] is not None:
            yield from _lost(draw, arm, rates["student"], ("student",))
            continue
        (path,) = student.at("last")
        row = about | {"role": "student", "checkpoint": "last", "rate": rates["student"], "epoch": path["epoch"]}
        row |= _kept(path) | {"agreement": short(path["agreement"])}
        yield row | _measure(spec, places, student.teacher("last"), measured, row)


def _lost(draw: Draw, arm: str, rate: float, roles: tuple[str, ...]) -> Iterator[Row]:
    """Rows of networks that diverged, or whose teacher did: all of their columns are undefined."""
    columns = [f"test_{name}" for name in ("brier", "nll", "accuracy")]
    columns += [f"people_{name}" for name in ("mse", "ce", "accuracy")]
    if GROUNDS[draw.ground].exact:
        columns = ["mse", "kl", "accuracy", "excess_risk"]
    about = {"ground": draw.ground, "draw": draw.number, "arm": arm, "rate": rate, "lost": True}
    for role in roles:
        best = role == "teacher" and not ARMS[arm][1]
        for checkpoint in ("last", "best_score") if best else ("last",):
            yield about | {"role": role, "checkpoint": checkpoint} | dict.fromkeys(columns, math.nan)


def _on_transfer(spec: Ladder, teacher: nn.Module, draw: Draw) -> Row:
    """A teacher's distance to p* at the images that its student sees, where p* is exact."""
    if draw.source.log_bayes is None:
        return {}
    log_q = log_probabilities(teacher, draw.source.to(spec.device)).cpu()
    found = distance_of_probabilities(log_q.exp(), draw.source.log_bayes, log_q=log_q, decompose=False)
    return {f"transfer_{name}": short(found[name].value) for name in ("mse", "kl")}


def _kept(path: Mapping[str, float]) -> Row:
    names = ("train_loss", "validation_accuracy", "validation_nll", "validation_brier")
    return {name: short(path[name]) for name in names}


def _measure(spec: Ladder, places: Places, net: nn.Module, measured: Measured, row: Row) -> Row:
    """Distances and scores of a network, whose log-probabilities are kept."""
    log_q = log_probabilities(net, measured.source.to(spec.device)).cpu()
    _keep(places.folder, row, log_q)
    q = log_q.exp()
    found: Row = {}
    if measured.log_bayes is not None:
        distances = distance_of_probabilities(q, measured.log_bayes, log_q=log_q, decompose=False)
        for name in ("mse", "kl", "accuracy", "excess_risk"):
            found[name] = short(distances[name].value)
        return found
    scores = label_scores(q, measured.source.y, log_q=log_q)
    found |= {f"test_{name}": short(estimate.value) for name, estimate in scores.items()}
    if measured.human is not None:
        people = distance_to_votes(q, measured.human.counts_at("typical"), log_q=log_q)
        found |= {f"people_{name}": short(people[name].value) for name in ("mse", "ce", "accuracy")}
    return found


def shares_path(folder: Path, row: Mapping[str, Any]) -> Path:
    """Where the log-probabilities of a network are kept."""
    name = f"{row['draw']}-{row['role']}-{row['arm']}-{row['checkpoint']}.npy"
    return folder / SHARES / row["ground"] / name  # type: ignore[no-any-return]


def _keep(folder: Path, row: Mapping[str, Any], log_q: Tensor) -> None:
    buffer = io.BytesIO()
    np.save(buffer, log_q.numpy().astype(np.float32), allow_pickle=False)
    write_bytes(shares_path(folder, row), buffer.getvalue())


_STAGES: Mapping[str, Callable[[Ladder, Places, Mapping[str, Any]], Iterator[Row]]] = {
    "world": _world,
    "tune teacher": _tune_teacher,
    "tune student": _tune_student,
    "main": _main,
}
