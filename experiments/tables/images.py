"""The images of an experiment: what the networks of a seed train on, and the test set."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from bcpd.data import (
    NORMALISATION,
    Images,
    InMemory,
    digits,
    few_shot,
    labelled_mask,
    merged_classes,
    read_cifar,
    stratified_subset,
)
from bcpd.data.image_folder import IMAGENET, ImageFolder
from bcpd.data.random_resized_crop import RandomResizedCrop
from bcpd.seeds import derive
from experiments.tables.spec import DATASETS, Known, Protocol

__all__ = ["draw_seed", "measured_source", "training_source", "validation_share"]

Number = int | str
"""Of a seed: 0, 1, ...; ``tuning-0`` for the one that settings are chosen on."""


def draw_seed(protocol: Protocol, number: Number, *purpose: str | int) -> int:
    """Of a purpose of a seed; it does not depend on the experiment, so that tables share their teachers."""
    return derive(protocol.seed, "tables", DATASETS[protocol.dataset].images, "seed", number, *purpose)


def training_source(protocol: Protocol, number: Number, data: Path | None, share: float = 1.0) -> InMemory:
    """The training images of a seed, all of them labelled, or a share of them, or a share of them there.

    Raises:
        ValueError: data that are needed and not given. FileNotFoundError: without their files.
    """
    entry = DATASETS[protocol.dataset]
    if entry.images == "imagenet":
        return _some(_folder("train", data), protocol.train, draw_seed(protocol, number, "images"))
    images = _read(entry.images, data)[0]
    if protocol.train:
        chosen = stratified_subset(images.y, protocol.train, draw_seed(protocol, number, "images"))
        images = _taken(images, chosen)
    mask = None
    if share < 1 and protocol.partial == "images":
        images = few_shot(images, share, draw_seed(protocol, number, "few"))
    elif share < 1 and protocol.partial == "labels":
        mask = labelled_mask(images.y, share, draw_seed(protocol, number, "labelled"))
    if entry.merged:
        images = merged_classes(images)
    return InMemory(
        images.x,
        images.y,
        num_classes=images.num_classes,
        labelled=mask,
        augment=entry.augment,
        normalise=NORMALISATION[entry.images],
    )


def validation_share(protocol: Protocol, share: float) -> float:
    """Of all images, where validation images are drawn among the labelled ones."""
    return protocol.validation * (share if protocol.partial == "labels" else 1.0)


def measured_source(protocol: Protocol, data: Path | None) -> InMemory:
    """The test images, the same for every seed."""
    entry = DATASETS[protocol.dataset]
    seed = derive(protocol.seed, "tables", "test images")
    if entry.images == "imagenet":
        return _some(_folder("val", data), protocol.test, seed)
    images = _read(entry.images, data)[1]
    if protocol.test:
        images = _taken(images, stratified_subset(images.y, min(protocol.test, len(images)), seed))
    if entry.merged:
        images = merged_classes(images)
    return InMemory(images.x, images.y, num_classes=images.num_classes, normalise=NORMALISATION[entry.images])


def _taken(images: Images, chosen: torch.Tensor) -> Images:
    return Images(images.x[chosen], images.y[chosen], images.num_classes, images.class_names)


def _some(source: ImageFolder, count: int, seed: int) -> ImageFolder:
    return source.subset(stratified_subset(source.y, min(count, len(source)), seed)) if count else source


def _needed(name: Known, data: Path | None) -> Path:
    if data is None:
        raise ValueError(f"{name} needs the folder of its official files (--data DIR)")
    return data


@lru_cache(maxsize=1)
def _read(name: Known, data: Path | None) -> tuple[Images, Images]:
    """Training and test images; the last ones stay."""
    if name == "digits":
        return digits("train"), digits("test")
    assert name in ("cifar10", "cifar100")
    folder = _needed(name, data)
    return read_cifar(folder, name, "train"), read_cifar(folder, name, "test")


@lru_cache(maxsize=2)
def _folder(split: str, data: Path | None) -> ImageFolder:
    """ImageNet in its usual layout, ``DIR/train`` and ``DIR/val``; damaged files are counted, and not learned from."""
    crop = RandomResizedCrop() if split == "train" else None
    return ImageFolder(_needed("imagenet", data), split, crop=crop, normalise=IMAGENET, on_error="count")
