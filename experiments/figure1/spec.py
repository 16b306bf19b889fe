"""The specification of Figure 1, its worlds and its sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from bcpd.mixtures import GaussianMixture, Mixture, paper_toy
from bcpd.seeds import derive

__all__ = [
    "DEGENERATE",
    "SCALES",
    "Figure1",
    "chunks",
    "contaminated",
    "irreducible",
    "quarter_decades",
    "short",
    "world_name",
]

DEGENERATE = 1e-3
"""A world with a smaller E[1 - |p*|^2] is refused: its p* is one-hot (``theory.md`` B14)."""


def quarter_decades(first: int, last: int) -> tuple[float, ...]:
    """:math:`10^{k/4}` for k = first .. last, to three digits: 1, 1.78, 3.16, 5.62 a decade."""
    return tuple(float(f"{10 ** (place / 4):.3g}") for place in range(first, last + 1))


@dataclass(frozen=True)
class Figure1:
    """The specification.

    Attributes:
        worlds: (K, separation) of the released experiment; a degenerate one is refused, and shown as refused.
        refused: those of them that must be refused, registered before the run.
        points: of the one data draw; ``share`` of them for training, as many for validation, the rest for testing.
        grey: how many mixing weights u are drawn from U(0, 1), and how many from U(0, 0.5).
        teachers: of each loss, with a student each.
        further_grey, further_teachers: the same in the worlds after the first.
        released_epochs: of teachers and students.
        draws: fresh data draws of the separating experiment, the unit of every interval.
        seeds: nested in a draw: initialisation and batch order of the students.
        train, validation, test: points of a draw; test points are only measured on.
        held_out: further points with known p*, on which path minima of teachers are chosen and reported.
        epochs: of students; ``teacher_epochs``: of teachers.
        snapshots: epochs at which a teacher becomes a target, beside its best own validation score; the last of them
            is ``teacher_epochs``.
        mse_goals, kl_goals: the distances to p* that levels are matched to.
        rates, student_rates: the grids of learning rates; ``tuning_draws``: draws they are chosen on.
        rate_factor: the students of predictions (d1) and (d2) are trained again at the chosen rate over and times it.
        contaminated_train, contaminated_epochs: points of a draw of the contaminated world, and epochs there.
        group: replicas that train together; ``teacher_draws``: draws whose teachers do.
    """

    worlds: tuple[tuple[int, float], ...] = ((10, 1.0), (3, 1.0), (3, 4.0))
    refused: tuple[tuple[int, float], ...] = ((3, 4.0),)
    points: int = 100_000
    share: float = 0.05
    grey: tuple[int, int] = (100, 20)
    teachers: int = 10
    further_grey: tuple[int, int] = (33, 7)
    further_teachers: int = 5
    released_epochs: int = 100
    draws: int = 12
    seeds: int = 1
    train: int = 2000
    validation: int = 1000
    test: int = 10_000
    held_out: int = 4000
    epochs: int = 30
    teacher_epochs: int = 60
    snapshots: tuple[int, ...] = (2, 5, 15, 60)
    mse_goals: tuple[float, ...] = (0.02, 0.06, 0.2)
    kl_goals: tuple[float, ...] = (0.1, 0.4)
    rates: tuple[float, ...] = quarter_decades(-16, -8)
    student_rates: tuple[float, ...] = quarter_decades(-12, -6)
    tuning_draws: int = 2
    rate_factor: float = 3.16
    contaminated_train: int = 4000
    contaminated_epochs: int = 25
    num_classes: int = 10
    dimension: int = 30
    variance: float = 6.0
    hidden: tuple[int, ...] = (128, 128)
    batch_size: int = 32
    group: int = 24
    teacher_draws: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):  # JSON has lists
            value = getattr(self, field.name)
            if isinstance(value, list):
                plain = tuple(tuple(entry) if isinstance(entry, list) else entry for entry in value)
                object.__setattr__(self, field.name, plain)
        least = {"draws": 2, "seeds": 1, "train": 20, "validation": 2, "test": 2, "held_out": 4, "epochs": 1}
        least |= {"teachers": 1, "further_teachers": 1, "released_epochs": 1, "contaminated_epochs": 1}
        least |= {"tuning_draws": 1, "group": 1, "teacher_draws": 2}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be at least {lowest}, received {getattr(self, name)}")
        if not 0 < self.share < 0.5:
            raise ValueError(f"share must lie in (0, 0.5), received {self.share}")
        if not self.snapshots or max(self.snapshots) != self.teacher_epochs:
            raise ValueError(
                f"the last of snapshots must be teacher_epochs = {self.teacher_epochs}, received {self.snapshots}"
            )
        if not self.rate_factor > 1:
            raise ValueError(f"rate_factor must be above 1, received {self.rate_factor}")

    @property
    def all_worlds(self) -> tuple[str, ...]:
        """Names of the released worlds and of the two that the separating experiment lives in."""
        return (*(world_name(*world) for world in self.worlds), "toy", "contaminated")

    @property
    def must_refuse(self) -> tuple[str, ...]:
        """Names of :attr:`refused`."""
        return tuple(world_name(*world) for world in self.refused)

    def released_counts(self, world: str) -> tuple[tuple[int, int], int]:
        """``grey`` and ``teachers`` of a released world."""
        if world == world_name(*self.worlds[0]):
            return self.grey, self.teachers
        return self.further_grey, self.further_teachers

    def grid(self, arm: str) -> tuple[float, ...]:
        """The learning rates that an arm is tuned over."""
        return self.student_rates if arm == "student" else self.rates

    def tuning_epochs(self, arm: str) -> int:
        """Epochs of an arm, in tuning as later."""
        if arm == "student":
            return self.epochs
        return self.contaminated_epochs if arm.startswith("contaminated") else self.teacher_epochs

    def world(self, name: str) -> Mixture:
        """``toy`` (well-specified), ``contaminated``, or ``K classes, separation S`` of the release."""
        if name == "contaminated":
            return contaminated(self.num_classes, self.dimension, self.variance, self.seed)
        if name == "toy":
            return paper_toy(self.num_classes, self.dimension, 1.0, self.variance, self.seed)
        for classes, separation in self.worlds:
            if name == world_name(classes, separation):
                return paper_toy(classes, self.dimension, separation, self.variance, self.seed)
        raise ValueError(f"unknown world {name!r}")


SCALES: Mapping[str, Figure1] = {
    "smoke": Figure1(
        worlds=((10, 1.0), (3, 4.0)),
        points=6000,
        share=0.1,
        grey=(10, 2),
        teachers=2,
        released_epochs=6,
        draws=3,
        seeds=1,
        train=300,
        validation=200,
        test=1000,
        held_out=400,
        epochs=5,
        teacher_epochs=8,
        snapshots=(2, 8),
        mse_goals=(0.06, 0.2),
        kl_goals=(0.2,),
        rates=(0.003, 0.03),
        student_rates=(0.003, 0.03),
        tuning_draws=1,
        contaminated_train=600,
        contaminated_epochs=8,
    ),
    "laptop": Figure1(),
    "full": Figure1(
        further_grey=(100, 20),
        further_teachers=10,
        draws=48,
        seeds=4,
        tuning_draws=4,
        test=50_000,
        mse_goals=(0.01, 0.03, 0.08, 0.2),
        kl_goals=(0.03, 0.1, 0.3, 1.0),
    ),
}


def world_name(classes: int, separation: float) -> str:
    """``10 classes, separation 1``."""
    return f"{classes} classes, separation {separation:g}"


def contaminated(classes: int, dimension: int, variance: float, seed: int) -> GaussianMixture:
    """The toy with a tenth of class k lying at three times the mean of class k + 1, on its far side.

    p* of class k + 1 falls again behind its centre, which no linear softmax can follow (``theory.md`` B10a).
    """
    centres = paper_toy(classes, dimension, 1.0, variance, seed).means
    means = torch.cat([centres, 3 * centres.roll(-1, 0)], 1)
    return GaussianMixture(means, variance, weights=[[0.9, 0.1]] * classes)


def irreducible(spec: Figure1, name: str) -> dict[str, Any]:
    r"""What is left to learn from soft targets in a world: :math:`E[1 - \|p^*\|^2]`; almost nothing: refused."""
    mixture = spec.world(name)
    x, _ = mixture.sample(20_000, derive(spec.seed, "figure1", "degenerate"))
    p = mixture.posterior(x)
    variance = float((1 - p.square().sum(-1)).mean())
    refused = ""
    if variance < DEGENERATE:
        refused = (
            f"refused: E[1 - |p*|^2] = {variance:.2g} < {DEGENERATE:g}, so p* is one-hot: every target of the figure "
            f"is the label, and no distance to p* can differ"
        )
    return {
        "world": name,
        "num_classes": mixture.num_classes,
        "irreducible": short(variance),
        "bayes_accuracy": short(float(p.amax(-1).mean())),
        "refused": refused,
    }


def chunks(count: int, size: int) -> list[list[int]]:
    """``0 .. count - 1`` in parts of nearly equal length, none longer than ``size``."""
    parts = -(-count // size)
    return [list(range(count * part // parts, count * (part + 1) // parts)) for part in range(parts)]


def short(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}")
