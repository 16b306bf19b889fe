"""The trainings of a run, teachers and students, as arguments of :func:`bcpd.train.fit`: one by one or side by side."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from bcpd.data import InMemory
from bcpd.distill import Method, Supervised
from bcpd.losses import LOSSES, Loss, label_smoothing
from bcpd.measure import fit_temperature
from bcpd.nets import Net, build
from bcpd.train import Fitted, PathMetrics, TeacherTable, fit, fit_side_by_side, log_probabilities, validation_part
from bcpd.train.execution import EAGER
from experiments.tables.images import draw_seed, training_source, validation_share
from experiments.tables.methods import SCRATCH, refusal, student_method, student_recipe, teacher_recipe
from experiments.tables.places import Places
from experiments.tables.spec import ARMS, Protocol

__all__ = [
    "Asked",
    "Refused",
    "Teacher",
    "diverged",
    "held_out_temperature",
    "loss_of",
    "student_training",
    "teacher",
    "teacher_folder",
    "teacher_identity",
    "teacher_training",
    "trained",
    "trained_together",
]

Setting = tuple[float, float]
Training = dict[str, Any]
"""Arguments of :func:`bcpd.train.fit`, by name."""


class Refused(ValueError):
    """A student that there is not: its method refuses the networks, or its teacher diverged."""


# ------------------------------------------------------------------------------------------------------------ teachers


class Asked(NamedTuple):
    """A teacher that is asked for.

    Attributes:
        net, loss: its network and its loss (``ls``: label smoothing). setting: rate and decay.
        number: the seed. epochs: 0 for those of the protocol.
        share: of labels or images, where the teacher sees no more than its student.
    """

    net: str
    loss: str
    setting: Setting
    number: int | str
    epochs: int = 0
    share: float = 1.0

    @classmethod
    def by_task(cls, given: Mapping[str, Any]) -> Asked:
        """By a trial, or for a seed; ``given`` is what its task was given."""
        number, epochs = ("tuning-0", given["epochs"]) if given["stage"] == "tune" else (given["number"], 0)
        return cls(given["net"], given["loss"], _setting(given), number, epochs, given.get("share", 1.0))


def _setting(given: Mapping[str, Any]) -> Setting:
    rate, decay = given["setting"]
    return float(rate), float(decay)


class Teacher(NamedTuple):
    """A trained teacher and the images it was trained on."""

    fitted: Fitted
    source: InMemory
    seed: int
    validation: float


def teacher_identity(protocol: Protocol, asked: Asked) -> dict[str, Any]:
    """All that a teacher is made from. Two experiments that ask for the same have the same teacher."""
    share = _share(protocol, asked)
    about = {
        "dataset": protocol.dataset,
        "train": protocol.train,
        "validation": protocol.validation,
        "net": asked.net,
        "loss": f"label smoothing {protocol.smoothing:g}" if asked.loss == "ls" else asked.loss,
        "setting": list(asked.setting),
        "epochs": asked.epochs or protocol.epochs,
        "share": [protocol.partial, share] if share < 1 else None,
        "number": asked.number,
        "seed": protocol.seed,
        "device": protocol.device,
    }
    return about if protocol.execution == EAGER else about | {"execution": protocol.execution.describe()}


def teacher_folder(places: Places, identity: Mapping[str, Any]) -> Path:
    """By the digest of its identity."""
    text = json.dumps(identity, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return places.teachers / f"{identity['net']}-{identity['loss'].replace(' ', '-')}-{digest}"


def teacher_training(protocol: Protocol, places: Places, asked: Asked) -> Training:
    """As the published recipe has it, but for rate and decay."""
    share = _share(protocol, asked)
    source = training_source(protocol, asked.number, places.data, share)
    validation = validation_share(protocol, share)
    seed = draw_seed(protocol, asked.number, "teacher")
    recipe = teacher_recipe(protocol, asked.net, asked.setting, asked.epochs or protocol.epochs, validation)
    method = Supervised(loss_of(protocol, asked.loss))
    folder = teacher_folder(places, teacher_identity(protocol, asked))
    return {
        "net": _net(asked.net, source, seed),
        "source": source,
        "method": method,
        "recipe": recipe,
        "seed": seed,
        "folder": folder,
        **_common(protocol),
    }


def _share(protocol: Protocol, asked: Asked) -> float:
    return asked.share if protocol.teacher_sees == "share" else 1.0


def _common(protocol: Protocol) -> Training:
    return {
        "device": protocol.device,
        "metrics": partial(PathMetrics, only=("validation",)),
        "execution": protocol.execution,
    }


def _net(name: str, source: InMemory, seed: int) -> Net:
    return build(name, num_classes=source.num_classes, input_shape=source.shape, seed=seed)


def loss_of(protocol: Protocol, name: str) -> Loss:
    """By its key; ``ls``: smoothing by as much as the protocol says."""
    return label_smoothing(protocol.smoothing) if name == "ls" else LOSSES[name]


@lru_cache(maxsize=4)
def teacher(protocol: Protocol, places: Places, asked: Asked) -> Teacher:
    """Trained, or read back; the last ones stay, so that students of one teacher have the same object."""
    training = teacher_training(protocol, places, asked)
    return Teacher(trained(training), training["source"], training["seed"], training["recipe"].validation)


def diverged(fitted: Fitted) -> str | None:
    """In words, if it did."""
    epoch = fitted.diverged[0]
    return None if epoch is None else f"diverged in epoch {epoch}"


def held_out_temperature(protocol: Protocol, taught: Teacher) -> float:
    """Fitted to the last state of a teacher on the validation labels of its training, by their NLL."""
    held = validation_part(taught.source, taught.validation, taught.seed)
    log_q = log_probabilities(taught.fitted.teacher("last"), held.to(protocol.device)).cpu()
    return fit_temperature(log_q, held.y.cpu(), "nll")


# ------------------------------------------------------------------------------------------------------------ students


def student_training(protocol: Protocol, places: Places, given: Mapping[str, Any]) -> Training:
    """Of a seed, by one method from one teacher, or from labels alone.

    Args:
        given: what the task of a student was given.
    Raises:
        Refused: there is none, in a sentence.
    """
    method_name, pair, number, share = given["method"], tuple(given["pair"]), given["number"], given["share"]
    source = training_source(protocol, number, places.data, share)
    validation = validation_share(protocol, share)
    seed = draw_seed(protocol, number, "student")
    frozen: nn.Module | None = None
    if method_name != SCRATCH:
        loss, scaled = ARMS[given["arm"]]
        asked = Asked(pair[0], loss, _setting(given), number, share=share)
        if found := diverged(teacher(protocol, places, asked).fitted):
            raise Refused(f"its teacher {found}")
        frozen = _frozen(protocol, places, asked, scaled)

    net = _net(pair[1], source, seed)

    def make() -> Method:
        return student_method(protocol, method_name, net, frozen, source, seed, validation, given["options"])

    if frozen is not None:
        two = source.batch(torch.arange(2)).x.to(protocol.device)
        refused = refusal(make, net.to(protocol.device), frozen.to(protocol.device), two)
        if refused is not None:
            raise Refused(refused)
    method = make()
    if protocol.table and frozen is not None and _by_logits(method):
        shown = share if protocol.partial == "images" else 1.0
        frozen = _table(protocol, places, asked, scaled, shown)
    name = f"{pair[0] or 'labels'}-{pair[1]}/{method_name}-{given['arm']}/{share:g}-{number}"
    return {
        "net": net,
        "source": source,
        "method": method,
        "recipe": student_recipe(protocol, method_name, pair[1], validation, pair[0]),
        "seed": seed,
        "folder": places.folder / "students" / name,
        "teacher": frozen,
        **_common(protocol),
    }


def _by_logits(method: Method) -> bool:
    """Whether the method sees nothing of its teacher but logits."""
    return {need for need in method.needs if need.startswith("teacher")} == {"teacher.logits"}


@lru_cache(maxsize=4)
def _frozen(protocol: Protocol, places: Places, asked: Asked, scaled: bool) -> nn.Module:
    taught = teacher(protocol, places, asked)
    return taught.fitted.teacher("last", held_out_temperature(protocol, taught) if scaled else 1.0)


@lru_cache(maxsize=2)
def _table(protocol: Protocol, places: Places, asked: Asked, scaled: bool, share: float) -> TeacherTable:
    """Of the logits at the images of the students; filled as they ask, or by :func:`trained`."""
    source = training_source(protocol, asked.number, places.data, share).to(protocol.device)
    frozen = _frozen(protocol, places, asked, scaled).to(protocol.device)
    return TeacherTable(frozen, source, execution=protocol.execution)


# ------------------------------------------------------------------------------------------------------------ training


def trained(training: Training) -> Fitted:
    """Or read back."""
    _fill_table(training)
    return fit(**training)


def trained_together(trainings: Iterable[Training]) -> None:
    """Side by side, each in its folder, where it is then read back."""
    chosen = list(trainings)
    for training in chosen:
        _fill_table(training)
    fit_side_by_side(chosen)


def _fill_table(training: Training) -> None:
    """What is captured needs a whole table; what is read back, none."""
    table = training.get("teacher")
    captured = training["execution"].graphs and not (training["folder"] / "done.json").exists()
    if isinstance(table, TeacherTable) and captured and not table.full:
        table.fill()
