"""Rungs, grounds that networks train on, and the sizes of the ladder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bcpd.data.source import Augmentation

__all__ = ["ARMS", "GROUNDS", "LOSSES", "RUNGS", "SCALES", "Ground", "Ladder", "Rung"]

Truth = Literal["exact", "people", "unknown"]
Nature = Literal["mixture", "fitted", "frozen", "unknown"]
Known = Literal["digits", "cifar10", "cifar100"]

LOSSES: tuple[str, ...] = ("ce", "mse", "label_smoothing")
"""What teachers are trained with."""

ARMS: Mapping[str, tuple[str, bool]] = {
    "ce": ("ce", False),
    "mse": ("mse", False),
    "ce_t": ("ce", True),
    "mse_t": ("mse", True),
    "label_smoothing": ("label_smoothing", False),
}
"""Arm -> the loss of its teacher, and whether a temperature is fitted to it on validation labels (by their NLL)."""


@dataclass(frozen=True)
class Ground:
    """What networks train on: a world of images and the augmentation that it allows.

    Attributes:
        name: its key.
        title: in a few words.
        nature: where labels come from: a ``mixture``; one ``fitted`` to real images; a ``frozen`` network at real
            images; or ``unknown``, the labels of real images.
        images: the real images behind it, or None.
        augment: of the training images: on exact grounds a symmetry of p*, on real ones the field's crop and flip.
    """

    name: str
    title: str
    nature: Nature
    images: Known | None = None
    augment: Augmentation | None = None

    @property
    def exact(self) -> bool:
        """Whether p* is known exactly."""
        return self.nature != "unknown"

    @property
    def needs(self) -> str | None:
        """The data set that has to be given, or None: digits are built in."""
        return None if self.images == "digits" else self.images


GROUNDS: Mapping[str, Ground] = {
    ground.name: ground
    for ground in (
        Ground("templates", "randomly shifted templates in noise", "mixture", augment="cyclic-shift"),
        Ground("textures", "stationary Gaussian textures", "mixture", augment="cyclic-shift"),
        Ground("digit-factors", "factor analysers fitted to digits", "fitted", "digits"),
        Ground("cifar-factors", "factor analysers fitted to CIFAR-10", "fitted", "cifar10"),
        Ground("digit-frozen", "digits, labels from a frozen network", "frozen", "digits"),
        Ground("cifar-frozen", "CIFAR-10 images, labels from a frozen network", "frozen", "cifar10"),
        Ground("digits", "digits", "unknown", "digits"),
        Ground("cifar10", "CIFAR-10", "unknown", "cifar10", "crop-flip"),
        Ground("cifar100", "CIFAR-100", "unknown", "cifar100", "crop-flip"),
    )
}


@dataclass(frozen=True)
class Rung:
    """A row of the ladder: where networks train, and against what they are measured.

    Attributes:
        name, title: in the table.
        ground: its key.
        truth: ``exact`` p*; ``people``, the votes of people on the test images; ``unknown``, labels alone.
    """

    name: str
    title: str
    ground: str
    truth: Truth


RUNGS: tuple[Rung, ...] = (
    Rung("templates", "image mixture: shifted templates", "templates", "exact"),
    Rung("textures", "image mixture: textures", "textures", "exact"),
    Rung("digit-factors", "image mixture: factor analysers of digits", "digit-factors", "exact"),
    Rung("cifar-factors", "image mixture: factor analysers of CIFAR-10", "cifar-factors", "exact"),
    Rung("digit-frozen", "digits, labels from a frozen network", "digit-frozen", "exact"),
    Rung("cifar-frozen", "CIFAR-10 images, labels from a frozen network", "cifar-frozen", "exact"),
    Rung("people", "CIFAR-10, people's p* (CIFAR-10H)", "cifar10", "people"),
    Rung("digits", "digits, p* unknown", "digits", "unknown"),
    Rung("cifar10", "CIFAR-10, p* unknown", "cifar10", "unknown"),
    Rung("cifar100", "CIFAR-100, p* unknown", "cifar100", "unknown"),
)
"""From the known to the unknown."""


@dataclass(frozen=True)
class Ladder:
    """One specification for every rung.

    Attributes:
        grounds: keys of :data:`GROUNDS`.
        draws: of every ground: training images, labels, initialisation and batch order vary together.
        train: training images of a draw, the validation part included. measured: images that the distances are
            measured on, most; on exact mixtures new ones in every draw.
        size, channels: of the images of the mixtures; those fitted to real images have their channels, and at most
            their size.
        teacher, student: nets.
        rates: the grid of every loss; ``student_rates`` that of all students. decay: weight decay of all.
        temperature, label_weight, teacher_weight: of the distillation, the published setting.
        smoothing: epsilon of label smoothing.
        bayes_error: that every exact ground is tuned to.
        frozen_train, frozen_epochs: of the frozen network, whose images and labels are the real ones.
        frozen_rate: its learning rate.
    """

    scale: str
    grounds: tuple[str, ...]
    draws: int = 3
    train: int = 5000
    measured: int = 5000
    size: int = 32
    channels: int = 3
    teacher: str = "resnet8"
    student: str = "resnet8"
    epochs: int = 10
    batch_size: int = 64
    rates: Mapping[str, tuple[float, ...]] = field(
        default_factory=lambda: {"ce": (0.02, 0.05, 0.1), "mse": (0.1, 0.2, 0.5), "label_smoothing": (0.02, 0.05, 0.1)}
    )
    student_rates: tuple[float, ...] = (0.02, 0.05, 0.1)
    decay: float = 1e-4
    validation: float = 0.1
    tuning_draws: int = 1
    temperature: float = 4.0
    label_weight: float = 0.1
    teacher_weight: float = 0.9
    smoothing: float = 0.1
    bayes_error: float = 0.2
    frozen_train: int = 5000
    frozen_epochs: int = 15
    frozen_rate: float = 0.05
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.grounds if name not in GROUNDS]
        if unknown or not self.grounds:
            raise ValueError(f"grounds must be some of {', '.join(GROUNDS)}; received {self.grounds}")
        object.__setattr__(self, "grounds", tuple(self.grounds))  # JSON has lists
        object.__setattr__(self, "rates", {loss: tuple(rates) for loss, rates in self.rates.items()})
        object.__setattr__(self, "student_rates", tuple(self.student_rates))
        if set(self.rates) != set(LOSSES):
            raise ValueError(f"rates must name {', '.join(LOSSES)}; received {', '.join(self.rates)}")
        for name, least in (("draws", 2), ("train", 20), ("measured", 20), ("epochs", 1), ("tuning_draws", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, received {getattr(self, name)}")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation must be a share in (0, 1), received {self.validation}")

    @property
    def rungs(self) -> list[Rung]:
        """Those of the grounds, from the known to the unknown."""
        return [rung for rung in RUNGS if rung.ground in self.grounds]

    @property
    def needs(self) -> list[str]:
        """Data sets that have to be given."""
        wanted = (GROUNDS[name].needs for name in self.grounds)
        return list(dict.fromkeys(name for name in wanted if name is not None))

    def describe(self) -> dict[str, Any]:
        """JSON-able settings."""
        return asdict(self)


SCALES: Mapping[str, Ladder] = {
    "smoke": Ladder(
        "smoke",
        ("templates", "digit-factors", "digit-frozen", "digits"),
        draws=2,
        train=300,
        measured=300,
        size=8,
        channels=1,
        epochs=2,
        batch_size=32,
        rates={"ce": (0.05, 0.1), "mse": (0.2, 0.5), "label_smoothing": (0.05, 0.1)},
        student_rates=(0.05,),
        frozen_train=300,
        frozen_epochs=3,
    ),
    "laptop": Ladder(
        "laptop",
        ("templates", "cifar-factors", "cifar-frozen", "cifar10", "cifar100"),
        size=16,
        teacher="resnet8x0.5",
        student="resnet8x0.5",
        epochs=6,
        batch_size=32,
        rates={
            "ce": (0.02, 0.06, 0.2, 0.6),
            "mse": (0.1, 0.3, 1.0, 3.0, 10.0),
            "label_smoothing": (0.02, 0.06, 0.2, 0.6),
        },
        student_rates=(0.02, 0.06, 0.2, 0.6, 2.0),
        frozen_epochs=12,
    ),
    "full": Ladder(
        "full",
        ("templates", "textures", "cifar-factors", "cifar-frozen", "cifar10", "cifar100"),
        draws=5,
        train=45_000,
        measured=10_000,
        teacher="resnet56",
        student="resnet20",
        epochs=240,
        rates={
            "ce": (0.02, 0.05, 0.1),
            "mse": (0.1, 0.2, 0.5, 1.0),
            "label_smoothing": (0.02, 0.05, 0.1),
        },
        decay=5e-4,
        frozen_train=5000,
        frozen_epochs=60,
        device="cuda",
    ),
}
