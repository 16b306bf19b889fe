"""How a network is trained: optimizer, schedule, lengths, and the part of the data held back for validation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Constant", "Cosine", "Recipe", "Schedule", "Step"]


@dataclass(frozen=True)
class Constant:
    """The base rate throughout."""

    def factor(self, progress: float) -> float:
        """1."""
        return 1.0


@dataclass(frozen=True)
class Step:
    """The base rate times ``decay`` once for every milestone passed.

    Attributes:
        milestones: fractions of the training in (0, 1), increasing. RepDistiller's 150/180/210 of 240 epochs is
            ``(150 / 240, 180 / 240, 210 / 240)``, the default.
        decay: the factor at each milestone.
    """

    milestones: tuple[float, ...] = (150 / 240, 180 / 240, 210 / 240)
    decay: float = 0.1

    def __post_init__(self) -> None:
        inside = all(0 < m < 1 for m in self.milestones)
        if not inside or list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must be increasing fractions in (0, 1), received {self.milestones}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must lie in (0, 1], received {self.decay}")

    def factor(self, progress: float) -> float:
        """``decay ** (number of milestones <= progress)``; a hair of slack absorbs rounding of epoch / epochs."""
        return self.decay ** sum(progress >= m - 1e-12 for m in self.milestones)


@dataclass(frozen=True)
class Cosine:
    r"""Half a cosine from the base rate to ``final`` times it: :math:`f + (1 - f)(1 + \cos \pi s)/2`, s in [0, 1]."""

    final: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.final <= 1:
            raise ValueError(f"final must lie in [0, 1], received {self.final}")

    def factor(self, progress: float) -> float:
        """The factor at ``progress``, the share of the training's steps already done."""
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


Schedule = Constant | Step | Cosine


@dataclass(frozen=True)
class Recipe:
    """Everything about a training that is not the network, the data or the loss.

    Attributes:
        epochs: passes over the training part, >= 1.
        learning_rate: base rate > 0; a sequence gives each replica its own.
        batch_size: >= 1; the last batch of an epoch may be smaller and is kept.
        optimizer: ``sgd`` or ``adam`` (torch's definitions; weight decay enters the gradient in both).
        momentum, nesterov: for ``sgd``.
        weight_decay: >= 0; a sequence gives each replica its own.
        schedule: factor on the base rate; evaluated at every step.
        validation: share of the training examples carved out for validation, in [0, 1); 0 gives no validation
            columns and no best-validation states.
        warm_up: epochs, a fraction allowed, in [0, ``epochs``], over which the rate rises step by step to the base rate
            before the schedule sets in; see :meth:`factor`.
    """

    epochs: int
    learning_rate: float | tuple[float, ...]
    batch_size: int = 64
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float | tuple[float, ...] = 0.0
    schedule: Schedule = Constant()
    validation: float = 0.1
    warm_up: float = 0.0

    def __post_init__(self) -> None:
        for name, lowest in (("epochs", 1), ("batch_size", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ValueError(f"{name} must be an int >= {lowest}, received {value!r}")
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            if isinstance(value, Sequence):
                object.__setattr__(self, name, tuple(float(v) for v in value))
        rates, decays = _as_tuple(self.learning_rate), _as_tuple(self.weight_decay)
        if not rates or not all(r > 0 and math.isfinite(r) for r in rates):
            raise ValueError(f"learning_rate must be > 0 and finite, received {self.learning_rate}")
        if not decays or not all(w >= 0 and math.isfinite(w) for w in decays):
            raise ValueError(f"weight_decay must be >= 0 and finite, received {self.weight_decay}")
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer must be 'sgd' or 'adam', received {self.optimizer!r}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), received {self.momentum}")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum > 0, received 0")
        if not isinstance(self.schedule, Constant | Step | Cosine):
            raise ValueError(f"schedule must be Constant, Step or Cosine, received {self.schedule!r}")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation must be a share in [0, 1), received {self.validation}")
        if not 0 <= self.warm_up <= self.epochs:
            raise ValueError(f"warm_up must lie in [0, {self.epochs}], in epochs, received {self.warm_up}")
        object.__setattr__(self, "warm_up", float(self.warm_up))

    def factor(self, epoch: float, step: float = 0.0) -> float:
        r"""The factor on the base rate when ``epoch`` epochs are done.

        While :math:`e < w` (``warm_up``) it is :math:`\min(1, (e + s) / w)`, afterwards that of the schedule at
        :math:`e / E`. With s the length of a step, the first of n steps of warm-up has 1/n of the base rate, the last
        one all of it.

        Args:
            epoch: e >= 0, with the part of the present one that is done.
            step: s >= 0, in epochs: 1 / steps of an epoch; 0: the rate at that time itself, from 0.
        """
        if epoch < self.warm_up:
            return min(1.0, (epoch + step) / self.warm_up)
        return self.schedule.factor(epoch / self.epochs)

    def rates(self, replicas: int | None) -> tuple[float, ...]:
        """One base learning rate a replica (one in all for a network without replicas)."""
        return _spread("learning_rate", self.learning_rate, replicas)

    def decays(self, replicas: int | None) -> tuple[float, ...]:
        """One weight decay a replica."""
        return _spread("weight_decay", self.weight_decay, replicas)

    def describe(self) -> dict[str, Any]:
        """JSON-able settings; part of a run's identity. A recipe without a warm-up says nothing of one."""
        settings = {**asdict(self), "schedule": {"kind": type(self.schedule).__name__, **asdict(self.schedule)}}
        if not self.warm_up:
            del settings["warm_up"]
        return settings


def _as_tuple(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (float(value),)


def _spread(name: str, value: float | tuple[float, ...], replicas: int | None) -> tuple[float, ...]:
    values = _as_tuple(value)
    count = 1 if replicas is None else replicas
    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise ValueError(f"{name} must be one number or one for each of the {count} replicas, received {len(values)}")
    return values
