"""One training of a table at a time: tuning of a teacher, teachers, students; what each of them records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from bcpd.data import InMemory
from bcpd.distill import Method, Supervised
from bcpd.losses import LOSSES, Loss, label_smoothing
from bcpd.measure import fit_temperature, label_scores
from bcpd.nets import Net, build
from bcpd.train import Fitted, PathMetrics, Recipe, fit, log_probabilities
from bcpd.train.split import split
from experiments.tables.images import draw_seed, measured_source, training_source, validation_share
from experiments.tables.methods import SCRATCH, refusal, student_method, student_recipe, teacher_recipe
from experiments.tables.spec import ARMS, Pair, Protocol

__all__ = ["LATE", "LATE_GAIN", "LEFT", "Places", "levelled", "short", "teacher_folder", "teacher_identity", "work"]

Row = dict[str, Any]
Setting = tuple[float, float]

CHECKPOINTS = ("last", "best_accuracy")
"""The last epoch, and the one with the best validation accuracy: separate columns."""

LATE, LATE_GAIN, LEFT = 0.2, 0.02, 0.5
"""The rule by which a teacher is under-trained, see :func:`levelled`."""


class Places(NamedTuple):
    """Folders: of this run, of the teachers that tables share, and of the data."""

    folder: Path
    teachers: Path
    data: Path | None


def work(payload: dict[str, Any]) -> list[Row]:
    """Do one task, the unit of resuming; a training within it is resumed by itself."""
    data = payload["data"]
    places = Places(Path(payload["folder"]), Path(payload["teachers"]), None if data is None else Path(data))
    stage: Callable[[Protocol, Places, Mapping[str, Any]], Iterator[Row]] = _STAGES[payload["stage"]]
    return list(stage(Protocol(**payload["protocol"]), places, payload))


def short(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}")


# ------------------------------------------------------------------------------------------------------------ teachers


def teacher_identity(
    protocol: Protocol, net: str, loss: str, setting: Setting, number: int | str, epochs: int, share: float
) -> dict[str, Any]:
    """All that a teacher is made from. Two experiments that ask for the same have the same teacher."""
    partial_share = share if protocol.teacher_sees == "share" else 1.0
    return {
        "dataset": protocol.dataset,
        "train": protocol.train,
        "validation": protocol.validation,
        "net": net,
        "loss": f"label smoothing {protocol.smoothing:g}" if loss == "ls" else loss,
        "setting": list(setting),
        "epochs": epochs,
        "share": [protocol.partial, partial_share] if partial_share < 1 else None,
        "number": number,
        "seed": protocol.seed,
        "device": protocol.device,
    }


def teacher_folder(places: Places, identity: Mapping[str, Any]) -> Path:
    """By the digest of its identity."""
    text = json.dumps(identity, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return places.teachers / f"{identity['net']}-{identity['loss'].replace(' ', '-')}-{digest}"


class Teacher(NamedTuple):
    """A trained teacher and the images it was trained on."""

    fitted: Fitted
    source: InMemory
    seed: int
    validation: float


def _teacher(
    protocol: Protocol,
    places: Places,
    net: str,
    loss: str,
    setting: Setting,
    number: int | str,
    epochs: int | None = None,
    share: float = 1.0,
) -> Teacher:
    """Trained, or read back."""
    epochs = epochs or protocol.epochs
    own = share if protocol.teacher_sees == "share" else 1.0
    source = training_source(protocol, number, places.data, own)
    validation = validation_share(protocol, own)
    seed = draw_seed(protocol, number, "teacher")
    recipe = teacher_recipe(protocol, net, setting, epochs, validation)
    folder = teacher_folder(places, teacher_identity(protocol, net, loss, setting, number, epochs, share))
    method = Supervised(_loss(protocol, loss))
    fitted = _trained(protocol, _net(net, source, seed), source, method, recipe, seed, folder)
    return Teacher(fitted, source, seed, validation)


def _loss(protocol: Protocol, name: str) -> Loss:
    return label_smoothing(protocol.smoothing) if name == "ls" else LOSSES[name]


def _trained(
    protocol: Protocol,
    net: Net,
    source: InMemory,
    method: Method,
    recipe: Recipe,
    seed: int,
    folder: Path,
    teacher: nn.Module | None = None,
) -> Fitted:
    return fit(
        net,
        source,
        method,
        recipe,
        seed=seed,
        teacher=teacher,
        folder=folder,
        device=protocol.device,
        metrics=partial(PathMetrics, only=("validation",)),
    )


def _net(name: str, source: InMemory, seed: int) -> Net:
    return build(name, num_classes=source.num_classes, input_shape=source.shape, seed=seed)


def _temperature(protocol: Protocol, teacher: Teacher) -> float:
    """Fitted to the last teacher on the validation labels of its training, by their NLL."""
    _, index = split(teacher.source, teacher.validation, [teacher.seed], None)
    assert index is not None
    held = teacher.source.subset(index)
    log_q = log_probabilities(teacher.fitted.teacher("last"), held.to(protocol.device)).cpu()
    return fit_temperature(log_q, held.y.cpu(), "nll")


def levelled(losses: list[float], uniform: float) -> dict[str, Any]:
    r"""Whether a training was long enough, by its training loss after every epoch.

    With :math:`L_e` the loss of epoch e of E and U that of the uniform prediction: ``left`` is :math:`L_E / U` and
    ``late_gain`` :math:`(L_{E-w} - L_E) / (U - L_E)`, the share of all that was gained that came in the last w = 20 %
    of the epochs (at least one). Under-trained: ``left`` above 50 %, or ``late_gain`` above 2 %. The second is lenient
    where the schedule has let the rate fall: it says that the schedule is over, not that a longer one would not help.
    """
    window = max(1, round(LATE * len(losses)))
    left = losses[-1] / uniform
    before = losses[-1 - window] if len(losses) > window else uniform
    gained = uniform - losses[-1]
    late = (before - losses[-1]) / gained if gained > 0 else 1.0
    return {"left": short(left), "late_gain": short(late), "under_trained": left > LEFT or late > LATE_GAIN}


def _tune(protocol: Protocol, places: Places, payload: Mapping[str, Any]) -> Iterator[Row]:
    """One setting of one loss, judged by the loss's own validation score at the last epoch."""
    net, loss, setting = payload["net"], payload["loss"], tuple(payload["setting"])
    fitted = _teacher(protocol, places, net, loss, setting, "tuning-0", payload["epochs"]).fitted
    (last,) = fitted.at("last")
    score = fitted.method.score
    yield {
        "net": net,
        "arm": loss,
        "rate": setting[0],
        "decay": setting[1],
        "name": score,
        "score": short(last[f"validation_{score}"]),
        "accuracy": short(last["validation_accuracy"]),
    }


def _teach(protocol: Protocol, places: Places, payload: Mapping[str, Any]) -> Iterator[Row]:
    """A teacher of a seed, as it is and with a temperature, on the test set: looked at once, chosen by nothing."""
    net, loss, setting = payload["net"], payload["loss"], tuple(payload["setting"])
    number, share = payload["number"], payload["share"]
    teacher = _teacher(protocol, places, net, loss, setting, number, share=share)
    test = measured_source(protocol, places.data)
    uniform = float(_loss(protocol, loss)(torch.zeros(1, test.num_classes), torch.zeros(1, dtype=torch.int64)))
    path = levelled([row["train_loss"][0] for row in teacher.fitted.history], uniform)
    diverged = _diverged(teacher.fitted)
    for arm, (of, scaled) in ARMS.items():
        if of == loss:
            if diverged:
                yield {"net": net, "arm": arm, "seed": number, "share": share, "refused": diverged}
                continue
            temperature = _temperature(protocol, teacher) if scaled else 1.0
            about = {"net": net, "arm": arm, "seed": number, "share": share, "temperature": short(temperature)}
            for checkpoint in ("last",) if scaled else CHECKPOINTS:
                frozen = teacher.fitted.teacher(checkpoint, temperature)
                scores = _scores(protocol, teacher.fitted, checkpoint, frozen, test)
                yield about | {"checkpoint": checkpoint, **scores, **path}


def _scores(protocol: Protocol, fitted: Fitted, checkpoint: str, net: nn.Module, test: InMemory) -> Row:
    """Of the test set, and what was known of the epoch before."""
    (path,) = fitted.at(checkpoint)
    log_q = log_probabilities(net, test.to(protocol.device)).cpu()
    found = label_scores(log_q.exp(), test.y.cpu(), log_q=log_q)
    row: Row = {"epoch": path["epoch"]}
    row |= {f"test_{name}": short(found[name].value) for name in ("accuracy", "nll", "brier")}
    names = ("train_loss", "validation_accuracy", "validation_nll", "validation_brier", "agreement")
    return row | {name: short(path[name]) for name in names if name in path}


def _diverged(fitted: Fitted) -> str | None:
    epoch = fitted.diverged[0]
    return None if epoch is None else f"diverged in epoch {epoch}"


# ------------------------------------------------------------------------------------------------------------ students


def _student(protocol: Protocol, places: Places, payload: Mapping[str, Any]) -> Iterator[Row]:
    """A student of a seed by one method from one teacher; or the sentence by which the method refuses."""
    pair: Pair = tuple(payload["pair"])
    method_name, arm, number, share = payload["method"], payload["arm"], payload["number"], payload["share"]
    source = training_source(protocol, number, places.data, share)
    validation = validation_share(protocol, share)
    seed = draw_seed(protocol, number, "student")
    about = {"pair": list(pair), "method": method_name, "arm": arm, "seed": number, "share": share}
    frozen: nn.Module | None = None
    if method_name != SCRATCH:
        loss, scaled = ARMS[arm]
        taught = _teacher(protocol, places, pair[0], loss, tuple(payload["setting"]), number, share=share)
        if _diverged(taught.fitted):
            yield about | {"refused": f"its teacher {_diverged(taught.fitted)}"}
            return
        frozen = taught.fitted.teacher("last", _temperature(protocol, taught) if scaled else 1.0)

    net = _net(pair[1], source, seed)

    def make() -> Method:
        return student_method(protocol, method_name, net, frozen, source, seed, validation, payload["options"])

    two = source.batch(torch.arange(2)).x
    refused = None if frozen is None else refusal(make, net, frozen.to("cpu"), two)
    if refused is not None:
        yield about | {"refused": refused}
        return
    recipe = student_recipe(protocol, method_name, pair[1], validation, pair[0])
    name = f"{pair[0] or 'labels'}-{pair[1]}/{method_name}-{arm}/{share:g}-{number}"
    fitted = _trained(protocol, net, source, make(), recipe, seed, places.folder / "students" / name, frozen)
    if _diverged(fitted):
        yield about | {"refused": _diverged(fitted)}
        return
    test = measured_source(protocol, places.data)
    for checkpoint in CHECKPOINTS:
        scores = _scores(protocol, fitted, checkpoint, fitted.network(checkpoint), test)
        yield about | {"checkpoint": checkpoint, **scores}


_STAGES: Mapping[str, Callable[[Protocol, Places, Mapping[str, Any]], Iterator[Row]]] = {
    "tune": _tune,
    "teach": _teach,
    "student": _student,
}
