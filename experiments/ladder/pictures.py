"""Galleries of the ladder's worlds: pictures with p* beside them, the clearest and the most ambiguous."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcpd.data import Images, digits
from bcpd.mixtures import IMAGE_WORLDS, FactorAnalyzerMixture, Mixture, ShiftedTemplates, image_world
from bcpd.report.gallery import gallery_entry, packed
from bcpd.seeds import derive
from bcpd.simplex import entropy
from experiments.ladder.spec import GROUNDS, Ground, Ladder
from experiments.ladder.stages import shares_path, short
from experiments.ladder.worlds import FrozenWorld, MixtureWorld, RealWorld, real_images, restored

__all__ = ["galleries"]

Row = Mapping[str, Any]

SHOWN = 6
LOOKED_AT = 2000
"""Samples among which the clearest and the most ambiguous are looked for."""


def galleries(
    spec: Ladder, rows: Sequence[Row], folder: Path, data: Path | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Galleries of samples, which may be passed on, and those with the user's own pictures, which may not."""
    passed, own = [], []
    for name in spec.grounds:
        world = restored(spec.describe(), name, folder, data)
        if isinstance(world, MixtureWorld):
            passed.append(_of_mixture(world))
        elif isinstance(world, FrozenWorld):
            own.append(_of_nature(world, real_images(name, data)[1]))
        elif isinstance(world, RealWorld) and world.human is not None:
            own.append(_of_people(world, rows, folder))
    passed.extend(_of_family(spec, kind) for kind in IMAGE_WORLDS if kind not in _shown(spec))
    return passed, own


def _shown(spec: Ladder) -> set[str]:
    """Families of image mixtures that have a ground on the ladder."""
    return {"factor-analyzers" if GROUNDS[name].nature == "fitted" else name for name in spec.grounds}


def _of_family(spec: Ladder, kind: str) -> dict[str, Any]:
    """A family that nothing is trained on here, at the ladder's Bayes error: fitted to digits, or made."""
    images = digits("train")
    fitted: dict[str, Any] = {} if kind in ("templates", "textures") else {"images": images.x, "labels": images.y}
    size, channels = (8, 1) if fitted else (spec.size, spec.channels)
    mixture = image_world(kind, size, channels, spec.bayes_error, derive(spec.seed, "gallery", kind), **fitted)
    ground = Ground(kind, f"{TITLES[kind]} (nothing is trained on them here)", "mixture")
    return _samples(ground, mixture, derive(spec.seed, "gallery of", kind))


TITLES = {
    "templates": "Randomly shifted templates in noise",
    "textures": "Stationary Gaussian textures",
    "factor-analyzers": "Factor analysers fitted to digits",
    "bernoulli": "Independent binary pixels fitted to digits",
}


def _of_mixture(world: MixtureWorld) -> dict[str, Any]:
    return _samples(GROUNDS[world.name], world.mixture, world.seed("gallery"))


def _samples(ground: Ground, mixture: Mixture, seed: int) -> dict[str, Any]:
    x, _ = mixture.sample(LOOKED_AT, seed)
    names = [str(k) for k in range(mixture.num_classes)]
    entry = _clear_and_ambiguous(ground, _levels(x), mixture.posterior(x), names)
    plain = _without_noise(mixture)
    if plain is not None:
        levels = _levels(plain[:SHOWN])
        pictures = [{"image": packed(image), "title": f"class {k}"} for k, image in enumerate(levels)]
        entry["rows"].insert(0, {"label": "what the first classes look like without noise", "pictures": pictures})
    return entry


def _without_noise(mixture: Mixture) -> Tensor | None:
    """One picture a class, ``(K, channels, h, w)``, where the mixture has such a thing."""
    if isinstance(mixture, ShiftedTemplates):
        return mixture.templates.reshape(mixture.num_classes, -1, *mixture.shape)[:, 0]
    if isinstance(mixture, FactorAnalyzerMixture):
        return mixture.means.reshape(mixture.num_classes, -1, *mixture.shape)[:, 0]
    return None


def _of_nature(world: FrozenWorld, test: Images) -> dict[str, Any]:
    nature = world.nature
    index = torch.arange(world.pool, len(nature.images))[:LOOKED_AT]
    names = list(test.class_names or map(str, range(test.num_classes)))
    return _clear_and_ambiguous(GROUNDS[world.name], nature.images[index].numpy(), nature.log_rows[index].exp(), names)


def _clear_and_ambiguous(ground: Ground, pixels: Any, p: Tensor, names: Sequence[str]) -> dict[str, Any]:
    order = entropy(p).argsort()
    clear: list[int] = []
    for number in order.tolist():  # one of each class, the clearest first
        if all(int(p[number].argmax()) != int(p[other].argmax()) for other in clear):
            clear.append(number)
        if len(clear) == SHOWN:
            break
    ambiguous = order.flip(0)[:SHOWN].tolist()
    return gallery_entry(
        ground.name,
        ground.title[0].upper() + ground.title[1:],
        f"Of {len(p):,} pictures those with the least and the most entropy of p*, which the bars show. What a picture "
        "is cannot be said better than the bars do: the label was drawn from them.",
        [
            ("least ambiguous, one of each class", [_picture(pixels, p, number) for number in clear]),
            ("most ambiguous", [_picture(pixels, p, number) for number in ambiguous]),
        ],
        names,
    )


def _picture(pixels: Any, p: Tensor, number: int) -> dict[str, Any]:
    return {"image": packed(pixels[number]), "p": [round(value, 4) for value in p[number].tolist()]}


def _levels(x: Tensor) -> Any:
    """Grey levels of pictures without a scale of their own: black and white at the outermost hundredths of all."""
    values = x.numpy()
    low, high = np.quantile(values, [0.01, 0.99])
    return (255 * ((values - low) / max(high - low, 1e-12)).clip(0, 1)).round().astype(np.uint8)


def _of_people(world: RealWorld, rows: Sequence[Row], folder: Path) -> dict[str, Any]:
    """Where people and a CE teacher disagree most, and where people disagree most among themselves."""
    measured = world.measured(0)
    assert measured.human is not None
    people = measured.human.probabilities
    row = next(
        row
        for row in rows
        if (row["ground"], row["role"], row["arm"], row["checkpoint"], row["draw"])
        == (world.name, "teacher", "ce", "last", 0)
    )
    q = torch.from_numpy(np.load(shares_path(folder, row), allow_pickle=False)).double().softmax(-1)
    pixels = world.test.x[world.test_numbers()].numpy()
    names = list(world.test.class_names or map(str, range(world.test.num_classes)))

    def pictures(order: Tensor) -> list[dict[str, Any]]:
        return [
            _picture(pixels, people, number) | {"q": [round(short(value), 4) for value in q[number].tolist()]}
            for number in order[:SHOWN].tolist()
        ]

    return gallery_entry(
        "people",
        "Where people and a teacher disagree",
        "Shares of the votes of people (CIFAR-10H), and the probabilities of the CE teacher of draw 0.",
        [
            ("people and teacher farthest apart", pictures((people - q).square().sum(-1).argsort(descending=True))),
            ("people least of one mind", pictures(entropy(people).argsort(descending=True))),
        ],
        names,
        ("people's votes", "CE teacher"),
    )
