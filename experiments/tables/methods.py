"""Methods and recipes of the students, as published, scaled to the length of the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from bcpd.data import InMemory
from bcpd.distill import Method, Supervised
from bcpd.distill.published import published
from bcpd.nets import Net
from bcpd.train import Recipe
from bcpd.train.recipes import (
    CIFAR_EPOCHS,
    IMAGENET_EPOCHS,
    cifar100_hsakd,
    cifar100_published,
    cifar100_reviewkd,
    imagenet_hsakd,
    imagenet_mdistiller,
    imagenet_torchdistill,
)
from bcpd.train.split import split
from experiments.tables.spec import DATASETS, STAND_INS, Protocol

__all__ = ["SCRATCH", "refusal", "student_method", "student_recipe", "teacher_recipe"]

SCRATCH = "scratch"
"""The student that no teacher teaches: cross-entropy on labels, by the recipe of RepDistiller."""


def _natural(protocol: Protocol) -> bool:
    return DATASETS[protocol.dataset].images == "imagenet"


def teacher_recipe(
    protocol: Protocol, net: str, setting: tuple[float, float], epochs: int, validation: float
) -> Recipe:
    """The published recipe with a tuned rate and decay."""
    if _natural(protocol):
        recipe = imagenet_torchdistill(epochs, validation)
    else:
        recipe = cifar100_published(net, epochs, validation)
    return replace(recipe, learning_rate=setting[0], weight_decay=setting[1])


def student_recipe(protocol: Protocol, method: str, net: str, validation: float, teacher: str = "") -> Recipe:
    """The recipe that goes with a method's published weights; RepDistiller's, or torchdistill's, where it has none.

    ReviewKD's weight for resnet50 to mobilenetv2 was found by others than its authors, with RepDistiller's recipe.
    """
    epochs = protocol.epochs
    if _natural(protocol):
        if method == "hsakd":
            return imagenet_hsakd(epochs, validation)
        if method in ("kd", "dkd", "at", "crd", "reviewkd"):
            known: Literal["kd", "dkd", "at", "crd", "reviewkd"] = method  # type: ignore[assignment]
            return imagenet_mdistiller(known, epochs, validation)
        return imagenet_torchdistill(epochs, validation)
    if (method, teacher, net) == ("reviewkd", "resnet50", "mobilenetv2"):
        return cifar100_published(net, epochs, validation)
    own = {"reviewkd": cifar100_reviewkd, "hsakd": cifar100_hsakd}
    return own.get(method, cifar100_published)(net, epochs, validation)


def student_method(
    protocol: Protocol,
    method: str,
    student: Net,
    teacher: nn.Module | None,
    source: InMemory,
    seed: int,
    validation: float,
    options: Mapping[str, Any],
) -> Method:
    """The published method with its published weights, a fresh one.

    What lasts so many epochs there (warm-ups, the training of a teacher's heads) lasts the same share of the training.
    A pair of :data:`experiments.tables.spec.STAND_INS` has the weights of the pair that stands in for it; the small
    sets have those of CIFAR-100.

    Args:
        student, teacher: the networks; a read-out around the teacher is looked through.
        source, seed, validation: of the training that the method is for: CRD has to know which examples it may draw.
        options: beside the published ones.
    Raises:
        ValueError: nothing was published for it.
    """
    if method == SCRATCH or teacher is None:
        return Supervised("ce")
    given: dict[str, Any] = {}
    if method in ("dkd", "reviewkd"):
        given["warm_up"] = _scaled(protocol, 1 if _natural(protocol) else 20)
    elif method == "hsakd":
        given["head_epochs"] = max(1, _scaled(protocol, 100))
    elif method == "crd":
        train_index, _ = split(source, validation, [seed], None)
        given |= {"labels": source.y, "labelled": source.labelled, "train_index": train_index}
    given |= options
    weights = "imagenet" if _natural(protocol) else "cifar100"
    if method == "hsakd":
        return published(method, teacher, student, weights, **given)
    names = (str(getattr(getattr(teacher, "net", teacher), "name", "")), student.name)
    return published(method, *STAND_INS.get(names, names), weights, **given)


def _scaled(protocol: Protocol, epochs: int) -> int:
    whole = IMAGENET_EPOCHS if _natural(protocol) else CIFAR_EPOCHS
    return round(epochs * protocol.epochs / whole)


def refusal(make: Callable[[], Method], student: Net, teacher: nn.Module | None, x: torch.Tensor) -> str | None:
    """Why a method cannot work with these networks and classes, by its own word; None where it can.

    Args:
        make: a spare method: learned parts are built.
        student, teacher: networks, left in eval mode.
        x: two inputs.
    """
    with torch.no_grad():
        views = (student.eval()(x), None if teacher is None else teacher.eval()(x))
    try:
        with torch.random.fork_rng(devices=[]):
            make().adapt(*views)
    except ValueError as error:
        return str(error)
    return None
