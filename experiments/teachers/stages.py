"""One training at a time, a trial of the search or a teacher of a seed, and the test images: what each records."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcpd.data import InMemory, digits, near_duplicates, read_cifar
from bcpd.distill import Method, Started, Supervised
from bcpd.files import write_bytes
from bcpd.losses import LOSSES, Loss, label_smoothing
from bcpd.measure import fit_temperature, label_scores
from bcpd.nets import build
from bcpd.train import Fitted, PathMetrics, fit, fit_side_by_side, log_probabilities
from bcpd.train.execution import EAGER, Execution
from bcpd.train.recipes import cifar100_published
from bcpd.train.split import split
from experiments.tables.images import draw_seed, measured_source, training_source
from experiments.tables.methods import teacher_recipe
from experiments.tables.spec import DATASETS, Protocol
from experiments.tables.stages import Places, levelled, short, teacher_folder, teacher_identity
from experiments.teachers.search import Setting
from experiments.teachers.spec import STARTED

__all__ = ["NEAR", "identity", "kept_labels", "kept_log_probabilities", "method_of", "train_together", "work"]

Row = dict[str, Any]
Payload = Mapping[str, Any]

NEAR = 0.3
"""Test images this near to a training image (:func:`bcpd.data.near_duplicates`) are left out as a check."""


def work(payload: dict[str, Any]) -> list[Row]:
    """Do one task, the unit of resuming; a training within it is resumed by itself."""
    stage: Callable[[Payload], Iterator[Row]] = _STAGES[payload["stage"]]
    return list(stage(payload))


def train_together(payloads: Sequence[Payload]) -> None:
    """Train the networks of several tasks side by side, each in its folder: the tasks then only read them back."""
    fit_side_by_side([_training(payload) for payload in payloads])


# ------------------------------------------------------------------------------------------------------------ training


def identity(protocol: Protocol, payload: Payload) -> dict[str, Any]:
    """All that a teacher is made from: that of the tables where it has no warm-up, no start and the usual execution."""
    setting = Setting(*payload["setting"])
    about = teacher_identity(
        protocol,
        payload["net"],
        payload["loss"],
        (setting.rate, setting.decay),
        payload["number"],
        protocol.epochs,
        1.0,
    )
    if setting.warm_up:
        about["warm_up"] = setting.warm_up
    if payload["loss"] == STARTED:
        about["start_epochs"] = payload["start_epochs"]
    if payload["execution"] != EAGER.describe():
        about["execution"] = payload["execution"]
    return about


def method_of(protocol: Protocol, payload: Payload) -> Method:
    """What a teacher is trained with.

    A start is cross-entropy at the published rate of the net: its loss is scaled by that rate over the training's,
    which is the same (see :mod:`experiments.teachers.search`) but for the decay, which stays that of the training.
    """
    loss: str = payload["loss"]
    if loss != STARTED:
        return Supervised(_loss(protocol, loss))
    published = cifar100_published(payload["net"]).learning_rate
    assert isinstance(published, float)
    first = _scaled(LOSSES["ce"], published / payload["setting"][0])
    return Started(Supervised(first), payload["start_epochs"], Supervised(_loss(protocol, loss)))


def _loss(protocol: Protocol, name: str) -> Loss:
    """That a training ends with."""
    if name == "ls":
        return label_smoothing(protocol.smoothing)
    return LOSSES["mse" if name == STARTED else name]


def _scaled(loss: Loss, scale: float) -> Loss:
    def function(logits: Tensor, target: Tensor) -> Tensor:
        return scale * loss.function(logits, target)

    return replace(loss, function=function, entropy=None, divergence=None, parameters={"scale": scale})


def _protocol(payload: Payload) -> Protocol:
    return Protocol(**payload["protocol"])


def _places(payload: Payload) -> Places:
    data = payload["data"]
    return Places(Path(payload["folder"]), Path(payload["teachers"]), None if data is None else Path(data))


def _training(payload: Payload) -> dict[str, Any]:
    """The arguments of :func:`bcpd.train.fit`: those of the tables' teachers, so that it is the same training."""
    protocol, places = _protocol(payload), _places(payload)
    setting = Setting(*payload["setting"])
    source = training_source(protocol, payload["number"], places.data)
    seed = draw_seed(protocol, payload["number"], "teacher")
    recipe = teacher_recipe(
        protocol, payload["net"], (setting.rate, setting.decay), protocol.epochs, protocol.validation
    )
    training: dict[str, Any] = {
        "net": build(payload["net"], num_classes=source.num_classes, input_shape=source.shape, seed=seed),
        "source": source,
        "method": method_of(protocol, payload),
        "recipe": replace(recipe, warm_up=setting.warm_up),
        "seed": seed,
        "folder": teacher_folder(places, identity(protocol, payload)),
        "device": protocol.device,
        "metrics": partial(PathMetrics, only=("validation",)),
    }
    execution = Execution(**payload["execution"])
    return training if execution == EAGER else training | {"execution": execution}


def _path(protocol: Protocol, payload: Payload, fitted: Fitted, num_classes: int) -> Row:
    """Whether the training has levelled off, by the epochs of the loss that it ended with."""
    uniform = _loss(protocol, payload["loss"])(torch.zeros(1, num_classes), torch.zeros(1, dtype=torch.int64))
    losses = [row["train_loss"][0] for row in fitted.history]
    started = payload["start_epochs"] if payload["loss"] == STARTED else 0
    return {**levelled(losses[started:], float(uniform)), "train_loss": short(losses[-1])}


def _about(payload: Payload) -> Row:
    rate, decay, warm_up = payload["setting"]
    return {"net": payload["net"], "loss": payload["loss"], "rate": rate, "decay": decay, "warm_up": warm_up}


# -------------------------------------------------------------------------------------------------------------- stages


def _trial(payload: Payload) -> Iterator[Row]:
    """A setting, judged by the loss's own validation score at the last epoch; ``nan`` where it diverged."""
    training = _training(payload)
    fitted = fit(**training)
    (last,) = fitted.at("last")
    name = fitted.method.score
    row = _about(payload) | {"name": name}
    if fitted.diverged[0] is not None:
        yield row | {"score": math.nan, "accuracy": math.nan, "diverged": fitted.diverged[0]}
        return
    scores = {"score": short(last[f"validation_{name}"]), "accuracy": short(last["validation_accuracy"])}
    yield row | scores | _path(_protocol(payload), payload, fitted, training["source"].num_classes)


def _teach(payload: Payload) -> Iterator[Row]:
    """A teacher of a seed: its temperature, and its log-probabilities at the test images, kept in a file.

    The test set is looked at here, once, and chooses nothing.
    """
    protocol, places = _protocol(payload), _places(payload)
    training = _training(payload)
    fitted = fit(**training)
    row = _about(payload) | {"seed": payload["number"]}
    if fitted.diverged[0] is not None:
        yield row | {"refused": f"diverged in epoch {fitted.diverged[0]}"}
        return
    teacher = fitted.teacher("last")
    test = measured_source(protocol, places.data)
    log_q = log_probabilities(teacher, test.to(protocol.device)).cpu()
    _keep(_log_probabilities_path(places.folder, row), log_q.numpy().astype(np.float32))
    found = label_scores(log_q.exp(), test.y.cpu(), log_q=log_q)
    (last,) = fitted.at("last")
    names = ("accuracy", "nll", "brier")
    row |= {"temperature": short(_temperature(protocol, fitted, training["source"], training["seed"]))}
    row |= {f"test_{name}": short(found[name].value) for name in names}
    row |= {f"validation_{name}": short(last[f"validation_{name}"]) for name in names}
    yield row | _path(protocol, payload, fitted, test.num_classes)


def _temperature(protocol: Protocol, fitted: Fitted, source: InMemory, seed: int) -> float:
    """Fitted on the validation labels of the training, by their NLL."""
    _, index = split(source, protocol.validation, [seed], None)
    assert index is not None
    held = source.subset(index)
    log_q = log_probabilities(fitted.teacher("last"), held.to(protocol.device)).cpu()
    return fit_temperature(log_q, held.y.cpu(), "nll")


def _images(payload: Payload) -> Iterator[Row]:
    """The labels of the test images, in a file, and which of these nearly repeat a training image."""
    protocol, places = _protocol(payload), _places(payload)
    test = measured_source(protocol, places.data)
    known = DATASETS[protocol.dataset].images
    if known == "digits":
        images = digits("train")
    else:
        assert known != "imagenet"
        assert places.data is not None
        images = read_cifar(places.data, known, "train")
    near = near_duplicates(test.x, images.x.to(protocol.device), NEAR).found.cpu()
    _keep(places.folder / LABELS, test.y.numpy())
    found = near.nonzero()[:, 0].tolist()
    yield {"measured": len(test), "classes": test.num_classes, "near_duplicates": found}


_STAGES: Mapping[str, Callable[[Payload], Iterator[Row]]] = {"trial": _trial, "teach": _teach, "images": _images}


# --------------------------------------------------------------------------------------------------------------- files

LABELS = "test-labels.npy"


def _log_probabilities_path(folder: Path, row: Mapping[str, Any]) -> Path:
    return folder / "log-probabilities" / f"{row['net']}-{row['loss']}-{row['seed']}.npy"


def _keep(path: Path, values: Any) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def kept_log_probabilities(folder: Path, row: Mapping[str, Any]) -> Tensor:
    """Of the teacher of a row at the test images, at temperature 1: float64 ``(n, K)``, from what was kept in float32.

    Raises:
        FileNotFoundError: it was not kept there.
    """
    values = np.load(_log_probabilities_path(folder, row), allow_pickle=False)
    return torch.from_numpy(values).double().log_softmax(-1)


def kept_labels(folder: Path) -> Tensor:
    """Of the test images, ``(n,)``.

    Raises:
        FileNotFoundError: they were not kept there.
    """
    return torch.from_numpy(np.load(folder / LABELS, allow_pickle=False))
