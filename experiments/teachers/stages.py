"""One training at a time, a trial of the search or a teacher of a seed, and the test images: what each records."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcpd.data import digits, near_duplicates, read_cifar
from bcpd.distill import Method, Started, Supervised
from bcpd.files import write_bytes
from bcpd.losses import LOSSES, Loss
from bcpd.measure import label_scores
from bcpd.train import Fitted, log_probabilities
from bcpd.train.recipes import cifar100_published
from experiments.tables.images import measured_source
from experiments.tables.places import Places
from experiments.tables.spec import DATASETS, Protocol
from experiments.tables.stages import levelled, short
from experiments.tables.training import (
    Asked,
    Teacher,
    held_out_temperature,
    loss_of,
    teacher_folder,
    teacher_identity,
    teacher_training,
    trained,
    trained_together,
)
from experiments.teachers.spec import STARTED

__all__ = ["NEAR", "identity", "kept_labels", "kept_log_probabilities", "method_of", "train_together", "work"]

Row = dict[str, Any]
Given = Mapping[str, Any]

NEAR = 0.3
"""Test images this near to a training image (:func:`bcpd.data.near_duplicates`) are left out as a check."""


def work(given: dict[str, Any]) -> list[Row]:
    """Do one task, the unit of resuming; a training within it is resumed by itself."""
    stage: Callable[[Given], Iterator[Row]] = _STAGES[given["stage"]]
    return list(stage(given))


def train_together(several: Sequence[Given]) -> list[Row]:
    """Train the networks of several tasks side by side, each in its folder: the tasks then only read them back."""
    trained_together(training(given) for given in several)
    return []


# ------------------------------------------------------------------------------------------------------------ training


def identity(protocol: Protocol, given: Given) -> dict[str, Any]:
    """All that a teacher is made from: that of the tables where it has no warm-up and no start."""
    about = teacher_identity(protocol, _asked(given))
    warm_up = given["setting"][2]
    if warm_up:
        about["warm_up"] = warm_up
    if given["loss"] == STARTED:
        about["start_epochs"] = given["start_epochs"]
    return about


def _asked(given: Given) -> Asked:
    """The teacher of the tables, as far as they know it."""
    rate, decay, _ = given["setting"]
    return Asked(given["net"], given["loss"], (rate, decay), given["number"])


def method_of(protocol: Protocol, given: Given) -> Method:
    """What a teacher is trained with.

    A start is cross-entropy at the published rate of the net: its loss is scaled by that rate over the training's,
    which is the same (see :mod:`experiments.teachers.search`) but for the decay, which stays that of the training.
    """
    loss: str = given["loss"]
    if loss != STARTED:
        return Supervised(_loss(protocol, loss))
    published = cifar100_published(given["net"]).learning_rate
    assert isinstance(published, float)
    first = _scaled(LOSSES["ce"], published / given["setting"][0])
    return Started(Supervised(first), given["start_epochs"], Supervised(_loss(protocol, loss)))


def _loss(protocol: Protocol, name: str) -> Loss:
    """That a training ends with."""
    return loss_of(protocol, "mse" if name == STARTED else name)


def _scaled(loss: Loss, scale: float) -> Loss:
    def function(logits: Tensor, target: Tensor) -> Tensor:
        return scale * loss.function(logits, target)

    return replace(loss, function=function, entropy=None, divergence=None, parameters={"scale": scale})


def _protocol(given: Given) -> Protocol:
    return Protocol(**given["protocol"])


def training(given: Given) -> dict[str, Any]:
    """The arguments of :func:`bcpd.train.fit`: those of the tables' teachers, so that it is the same training."""
    protocol, places = _protocol(given), Places.of_task(given)
    asked = _asked(given)
    usual = teacher_training(protocol, places, asked._replace(loss="mse" if asked.loss == STARTED else asked.loss))
    return usual | {
        "method": method_of(protocol, given),
        "recipe": replace(usual["recipe"], warm_up=given["setting"][2]),
        "folder": teacher_folder(places, identity(protocol, given)),
    }


def _trained(given: Given) -> Teacher:
    """Or read back."""
    arguments = training(given)
    return Teacher(trained(arguments), arguments["source"], arguments["seed"], arguments["recipe"].validation)


def _path(protocol: Protocol, given: Given, fitted: Fitted, num_classes: int) -> Row:
    """Whether the training has levelled off, by the epochs of the loss that it ended with."""
    uniform = _loss(protocol, given["loss"])(torch.zeros(1, num_classes), torch.zeros(1, dtype=torch.int64))
    losses = [row["train_loss"][0] for row in fitted.history]
    started = given["start_epochs"] if given["loss"] == STARTED else 0
    return {**levelled(losses[started:], float(uniform)), "train_loss": short(losses[-1])}


def _about(given: Given) -> Row:
    rate, decay, warm_up = given["setting"]
    return {"net": given["net"], "loss": given["loss"], "rate": rate, "decay": decay, "warm_up": warm_up}


# -------------------------------------------------------------------------------------------------------------- stages


def _trial(given: Given) -> Iterator[Row]:
    """A setting, judged by the loss's own validation score at the last epoch; ``nan`` where it diverged."""
    trained = _trained(given)
    fitted = trained.fitted
    (last,) = fitted.at("last")
    name = fitted.method.score
    row = _about(given) | {"name": name}
    if fitted.diverged[0] is not None:
        yield row | {"score": math.nan, "accuracy": math.nan, "diverged": fitted.diverged[0]}
        return
    scores = {"score": short(last[f"validation_{name}"]), "accuracy": short(last["validation_accuracy"])}
    yield row | scores | _path(_protocol(given), given, fitted, trained.source.num_classes)


def _teach(given: Given) -> Iterator[Row]:
    """A teacher of a seed: its temperature, and its log-probabilities at the test images, kept in a file.

    The test set is looked at here, once, and chooses nothing.
    """
    protocol, places = _protocol(given), Places.of_task(given)
    trained = _trained(given)
    fitted = trained.fitted
    row = _about(given) | {"seed": given["number"]}
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
    row |= {"temperature": short(held_out_temperature(protocol, trained))}
    row |= {f"test_{name}": short(found[name].value) for name in names}
    row |= {f"validation_{name}": short(last[f"validation_{name}"]) for name in names}
    yield row | _path(protocol, given, fitted, test.num_classes)


def _images(given: Given) -> Iterator[Row]:
    """The labels of the test images, in a file, and which of these nearly repeat a training image."""
    protocol, places = _protocol(given), Places.of_task(given)
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


_STAGES: Mapping[str, Callable[[Given], Iterator[Row]]] = {"trial": _trial, "teach": _teach, "images": _images}


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
