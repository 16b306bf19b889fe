"""What is searched, trained and measured: nets, losses, grids, lengths, and the sizes at which it can be run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from bcpd.nets import NETS
from experiments import tables
from experiments.tables.spec import Protocol
from experiments.teachers.search import Grid

__all__ = ["ARMS", "LOSSES", "SCALES", "STARTED", "Teachers", "specification"]

LOSSES: tuple[str, ...] = ("ce", "mse", "mse-from-ce", "ls")
"""What a teacher can be trained with; ``ls``: label smoothing."""

STARTED = "mse-from-ce"
"""MSE after some epochs of cross-entropy at the published rate."""

ARMS: Mapping[str, tuple[str, bool]] = {
    "ce": ("ce", False),
    "mse": ("mse", False),
    "mse-from-ce": ("mse-from-ce", False),
    "ls": ("ls", False),
    "ce+T": ("ce", True),
    "mse+T": ("mse", True),
    "mse-from-ce+T": ("mse-from-ce", True),
}
"""Arm -> what its teacher was trained with, and whether a temperature is fitted to it on the validation labels of its
training (by their NLL)."""


@dataclass(frozen=True)
class Teachers:
    """One run.

    Attributes:
        scale: key of :data:`SCALES`.
        protocol: as for the tables; ``epochs`` is the length of the recipe, that of the teachers.
        nets: some of :data:`bcpd.nets.NETS`. losses: some of :data:`LOSSES`.
        seeds: each its own training images, split, initialisation and batch order, the same for every loss.
        search_epochs: of the trainings that choose; 0 for as many as the teachers have.
        start_epochs: of cross-entropy, in :data:`STARTED`; not scaled to the length of a training.
        grids: of every loss.
    Raises:
        ValueError: unknown names, a loss without a grid, a start or warm-up that a training has no room for.
    """

    scale: str
    protocol: Protocol
    nets: tuple[str, ...]
    losses: tuple[str, ...] = ("ce", "mse", "mse-from-ce")
    seeds: int = 3
    search_epochs: int = 0
    start_epochs: int = 5
    grids: Mapping[str, Grid] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, known in (("nets", tuple(NETS)), ("losses", LOSSES)):
            chosen = getattr(self, name)
            if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
                raise ValueError(
                    f"{name} must be some of {', '.join(known)}, each once; received {', '.join(chosen) or 'none'}"
                )
        if self.seeds < 1 or self.search_epochs < 0:
            raise ValueError(f"seeds must be >= 1 and search_epochs >= 0; received {self.seeds}, {self.search_epochs}")
        if self.protocol.dataset == "imagenet" or self.protocol.partial != "none":
            raise ValueError(
                f"teachers are searched on sets held in memory with all labels, received {self.protocol.dataset} with "
                f"partial {self.protocol.partial}"
            )
        without = [loss for loss in self.losses if loss not in self.grids]
        if without:
            raise ValueError(f"grids must have one for every loss, received none for {', '.join(without)}")
        shortest = min(self.protocol.epochs, self.length_of_search)
        if STARTED in self.losses and not 1 <= self.start_epochs < shortest:
            raise ValueError(
                f"start_epochs must be >= 1 and below the {shortest} epochs of the shortest training, "
                f"received {self.start_epochs}"
            )
        longest = max(self.grids[loss].warm_ups[-1] for loss in self.losses)
        if longest > shortest:
            raise ValueError(f"a warm-up of {longest:g} epochs does not fit into a training of {shortest}")

    @property
    def length_of_search(self) -> int:
        """Epochs of the trainings that choose."""
        return self.search_epochs or self.protocol.epochs

    @property
    def arms(self) -> list[str]:
        """Those of :data:`ARMS` whose teachers there are."""
        return [arm for arm, (loss, _) in ARMS.items() if loss in self.losses]

    def describe(self) -> dict[str, Any]:
        """JSON-able settings."""
        return asdict(self)


SCALES: tuple[str, ...] = ("smoke", "reduced", "full")
"""``smoke``: built-in digits and the smallest net, under a minute. ``reduced``: 10,000 images of CIFAR-100 and
resnet20, for two cores. ``full``: CIFAR-100 and the published length, for a GPU."""


def specification(scale: str, **changes: Any) -> Teachers:
    """A size, with fields of the protocol and of :class:`Teachers` replaced by keyword.

    The data, lengths, rates and decays are those of ``table1`` at that size: what is trained without a warm-up is
    trained once for both.

    Raises:
        ValueError: an unknown scale or field; what :class:`Teachers` refuses.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, received {scale!r}")
    shared = {entry.name for entry in fields(Protocol)}
    unknown = changes.keys() - shared - {entry.name for entry in fields(Teachers)}
    if unknown:
        raise ValueError(f"a specification has no {', '.join(sorted(unknown))}")
    like = tables.specification("table1", scale)
    settings = dict(_OWN[scale])
    warm_ups, decays = settings.pop("warm_ups"), settings.pop("decays", like.decays)
    protocol = {name: getattr(like.protocol, name) for name in shared} | settings.pop("protocol", {})
    settings["grids"] = {
        loss: Grid(like.rates[of], decays[of], warm_ups)
        for loss, of in (("ce", "ce"), ("mse", "mse"), (STARTED, "mse"), ("ls", "ls"))
    }
    protocol |= {name: value for name, value in changes.items() if name in shared}
    settings |= {name: value for name, value in changes.items() if name not in shared}
    return Teachers(scale=scale, protocol=Protocol(**protocol), **settings)


_OWN: Mapping[str, Mapping[str, Any]] = {
    "smoke": {
        "protocol": {"train": 480, "test": 360, "epochs": 4},
        "nets": ("resnet8x0.5",),
        "seeds": 2,
        "start_epochs": 1,
        "decays": dict.fromkeys(("ce", "mse", "ls"), (1e-4, 5e-4, 5e-3)),
        "warm_ups": (0.0, 1.0),
    },
    "reduced": {"nets": ("resnet20",), "start_epochs": 2, "warm_ups": (0.0, 1.0, 3.0)},
    "full": {"nets": ("resnet56", "wrn_40_2", "resnet32x4"), "search_epochs": 60, "warm_ups": (0.0, 1.0, 5.0)},
}
"""What a size has of its own."""
