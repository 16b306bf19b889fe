"""The grounds of the ladder: what networks train on, and what they are measured on."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcpd.data import NORMALISATION, Images, InMemory, digits, read_cifar, stratified_subset
from bcpd.data.cifar10h import HumanLabels, read_cifar10h
from bcpd.data.frozen import relabelled
from bcpd.mixtures import Mixture, from_spec
from bcpd.mixtures.frozen import FrozenNature
from bcpd.seeds import derive, generator
from experiments.ladder.spec import GROUNDS, Ladder

__all__ = ["Measured", "World", "frozen_parts", "normalisation", "real_images", "restored"]


@dataclass(frozen=True)
class Measured:
    """Images that networks are measured on, and what is known of their p*.

    Attributes:
        source: the images as networks see them, with labels.
        log_bayes: exact log p*, ``(n, K)``, or None.
        human: people's votes, or None.
        numbers: positions in the test set of real images, ``(n,)``, or None.
    """

    source: InMemory
    log_bayes: Tensor | None = None
    human: HumanLabels | None = None
    numbers: Tensor | None = None


class World(ABC):
    """A ground whose world has been made."""

    def __init__(self, spec: Ladder, name: str) -> None:
        self.spec, self.name = spec, name

    def seed(self, *purpose: str | int) -> int:
        """Of a purpose of this ground."""
        return derive(self.spec.seed, "ladder", self.name, *purpose)

    @abstractmethod
    def training(self, draw: str | int) -> InMemory:
        """The training images of a draw."""

    @abstractmethod
    def measured(self, draw: str | int) -> Measured:
        """The images that networks of a draw are measured on."""


class MixtureWorld(World):
    """New images of an exact mixture in every draw."""

    def __init__(self, spec: Ladder, name: str, mixture: Mixture) -> None:
        super().__init__(spec, name)
        self.mixture = mixture

    def training(self, draw: str | int) -> InMemory:
        augment = GROUNDS[self.name].augment
        return InMemory.from_mixture(self.mixture, self.spec.train, self.seed("train", draw), augment=augment)

    def measured(self, draw: str | int) -> Measured:
        source = InMemory.from_mixture(self.mixture, self.spec.measured, self.seed("measured", draw))
        return Measured(source, source.log_bayes)


class FrozenWorld(World):
    """Real images that the frozen network has not learned from; a draw takes some to train on and redraws all labels.

    Measured are images of the test set, the same in every draw.
    """

    def __init__(self, spec: Ladder, name: str, nature: FrozenNature, pool: int) -> None:
        super().__init__(spec, name)
        self.nature, self.pool = nature, pool
        self.normalise = normalisation(name)

    def training(self, draw: str | int) -> InMemory:
        order = torch.randperm(self.pool, generator=generator(self.seed("images", draw), "order"))
        chosen = order[: self.spec.train]
        return relabelled(self.nature, self.seed("labels", draw), chosen, normalise=self.normalise)

    def measured(self, draw: str | int) -> Measured:
        index = torch.arange(self.pool, len(self.nature.images))
        source = relabelled(self.nature, self.seed("measured labels", draw), index, normalise=self.normalise)
        return Measured(source, source.log_bayes)


class RealWorld(World):
    """Real images and their labels. Measured is one stratified subset of the test set, the same in every draw."""

    def __init__(self, spec: Ladder, name: str, data: Path | None) -> None:
        super().__init__(spec, name)
        self.train, self.test = real_images(name, data)
        self.human = None
        if name == "cifar10":
            assert data is not None
            self.human = read_cifar10h(data, self.test.y)

    def _source(self, images: Images, index: Tensor, augmented: bool) -> InMemory:
        return InMemory(
            images.x[index],
            images.y[index],
            num_classes=images.num_classes,
            augment=GROUNDS[self.name].augment if augmented else None,
            normalise=normalisation(self.name),
        )

    def training(self, draw: str | int) -> InMemory:
        chosen = stratified_subset(self.train.y, self.spec.train, self.seed("images", draw))
        return self._source(self.train, chosen, True)

    def measured(self, draw: str | int) -> Measured:
        chosen = self.test_numbers()
        human = None if self.human is None else self.human.subset(chosen)
        return Measured(self._source(self.test, chosen, False), None, human, chosen)

    def test_numbers(self) -> Tensor:
        """The positions of the measured test images."""
        count = min(self.spec.measured, len(self.test))
        return stratified_subset(self.test.y, count, self.seed("measured")).sort().values


def real_images(name: str, data: Path | None) -> tuple[Images, Images]:
    """Training and test images behind a ground.

    Raises:
        ValueError: no folder, where one is needed; or no images. FileNotFoundError: without the files.
    """
    known = GROUNDS[name].images
    if known == "digits":
        return digits("train"), digits("test")
    if known is None:
        raise ValueError(f"there are no real images behind the ground {name!r}")
    if data is None:
        raise ValueError(f"the ground {name!r} needs the folder of {known} (--data DIR)")
    return _read(known, data)


def normalisation(name: str) -> Any:
    """Mean and deviation of the real images behind a ground."""
    images = GROUNDS[name].images
    assert images is not None
    return NORMALISATION[images]


@lru_cache(maxsize=1)
def _read(name: Any, data: Path) -> tuple[Images, Images]:
    return read_cifar(data, name, "train"), read_cifar(data, name, "test")


def frozen_parts(spec: Ladder, name: str, data: Path | None) -> tuple[Images, Tensor, int]:
    """What the frozen network learns from, all images of its nature (the pool to train on, then the test images to
    measure on), and the size of the pool."""
    train, test = real_images(name, data)
    own = stratified_subset(train.y, spec.frozen_train, derive(spec.seed, "ladder", name, "frozen images"))
    rest = torch.ones(len(train), dtype=torch.bool)
    rest[own] = False
    kept = stratified_subset(test.y, min(spec.measured, len(test)), derive(spec.seed, "ladder", name, "measured"))
    learned = Images(train.x[own], train.y[own], train.num_classes)
    return learned, torch.cat([train.x[rest], test.x[kept.sort().values]]), int(rest.sum())


@lru_cache(maxsize=1)
def _world(spec_text: str, name: str, folder: Path, data: Path | None) -> World:
    spec = Ladder(**json.loads(spec_text))
    nature = GROUNDS[name].nature
    if nature == "unknown":
        return RealWorld(spec, name, data)
    if nature == "frozen":
        _, images, pool = frozen_parts(spec, name, data)
        found = json.loads((folder / f"{name}.json").read_text())
        logits = np.load(folder / f"{name}.npy", allow_pickle=False)
        return FrozenWorld(spec, name, FrozenNature(images, logits, found["temperature"], found["description"]), pool)
    return MixtureWorld(spec, name, from_spec(json.loads((folder / f"{name}.json").read_text())))


def restored(spec: Mapping[str, Any], name: str, folder: Path, data: Path | None) -> World:
    """The world of a ground, from the files that the first stage has left in ``folder``; the last one is kept."""
    return _world(json.dumps(spec, sort_keys=True), name, folder, data)
