r"""The search for a loss's rate, weight decay and warm-up, one after the other, from the scores of what was tried.

**No scale of the loss is searched.** SGD with momentum on :math:`c\,\ell` at rate :math:`\eta` and decay
:math:`\lambda` is SGD on :math:`\ell` at rate :math:`c\,\eta` and decay :math:`\lambda / c`: with

.. math:: v \leftarrow \mu v + c\,\nabla\ell + \lambda w, \qquad w \leftarrow w - \eta v,

:math:`v' = v / c` obeys :math:`v' \leftarrow \mu v' + \nabla\ell + (\lambda / c)\, w` and
:math:`w \leftarrow w - c\,\eta\, v'`, whatever factor a schedule puts on :math:`\eta`. A scale is no third number.

**Why the square needs another rate than cross-entropy.** The gradient of :math:`\|e_y - q\|^2`, q the softmax of the
logits z, is

.. math:: \frac{\partial}{\partial z_j} = 2 q_j \Bigl[(q_j - e_{yj}) - \sum_k q_k (q_k - e_{yk})\Bigr].

At the uniform q = 1/K the sum is :math:`\frac1K (1 - 1) = 0`, so that it is exactly 2/K times that of cross-entropy,
:math:`q_j - e_{yj}`: at K = 100 the same step wants 50 times the rate, and, since rate times decay is what shrinks the
weights, a fiftieth of the decay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["BEYOND", "Grid", "Setting", "chosen", "edges", "next_settings"]

BEYOND = 2
"""Most rates that are tried beyond the grid."""


class Setting(NamedTuple):
    """Rate, weight decay, and epochs of warm-up."""

    rate: float
    decay: float
    warm_up: float = 0.0


@dataclass(frozen=True)
class Grid:
    """What is tried for a loss.

    Attributes:
        rates: > 0, increasing.
        decays: >= 0, increasing; the rates are tried at the middle one (of an even number, the lower of the two).
        warm_ups: epochs, increasing from 0. They are not scaled to the length of a training: its first epochs do not
            depend on how many there will be.
    Raises:
        ValueError: other numbers.
    """

    rates: tuple[float, ...]
    decays: tuple[float, ...]
    warm_ups: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        for name in ("rates", "decays", "warm_ups"):
            values = tuple(float(value) for value in getattr(self, name))
            object.__setattr__(self, name, values)
            if not values or list(values) != sorted(set(values)) or not all(map(math.isfinite, values)):
                raise ValueError(f"{name} must be one or more finite numbers, increasing, received {values}")
        if self.rates[0] <= 0 or self.decays[0] < 0 or self.warm_ups[0] != 0:
            raise ValueError(
                f"rates must be > 0, decays >= 0 and warm_ups begin with 0, received {self.rates}, {self.decays} and "
                f"{self.warm_ups}"
            )

    @property
    def middle(self) -> float:
        """The decay that the rates are tried at."""
        return self.decays[(len(self.decays) - 1) // 2]

    @property
    def least(self) -> int:
        """Trainings of a search that stays on the grid."""
        return len(self.rates) + len(self.decays) - 1 + len(self.warm_ups) - 1

    @property
    def most(self) -> int:
        """Trainings of a search that leaves it as often as it may."""
        return self.least + (BEYOND if len(self.rates) > 1 else 0)


Scores = Mapping[Setting, float]
"""Validation score by setting, smaller is better; ``nan`` or ``inf`` where the training diverged."""


def next_settings(grid: Grid, scores: Scores) -> list[Setting]:
    """What is to be tried next, together; nothing when the search is over, or every rate of the grid diverged.

    All rates at the middle decay without a warm-up; while the best one lies on the edge, one rate beyond it, at most
    :data:`BEYOND` times; the other decays at the best rate; the warm-ups at the best of both.
    """
    line = [Setting(rate, grid.middle) for rate in grid.rates]
    if todo := _missing(line, scores):
        return todo
    for _ in range(BEYOND):
        further = _beyond(line, scores)
        if further is None:
            break
        if further not in scores:
            return [further]
        line = sorted([*line, further])
    best = _best(line, scores)
    if best is None:
        return []
    decays = [best._replace(decay=decay) for decay in grid.decays]
    if todo := _missing(decays, scores):
        return todo
    best = _best(decays, scores) or best
    return _missing([best._replace(warm_up=warm_up) for warm_up in grid.warm_ups], scores)


def chosen(grid: Grid, scores: Scores) -> Setting | None:
    """The best of all that was tried, the first of equals; None before the search is over, or where all diverged."""
    return None if next_settings(grid, scores) else _best(list(scores), scores)


def edges(grid: Grid, scores: Scores, best: Setting) -> list[str]:
    """In which of ``rate``, ``decay`` and ``warm-up`` the chosen setting is the last one tried.

    A better one may lie beyond. No warm-up at all is no edge.
    """
    rates = sorted({setting.rate for setting in scores})
    found = ["rate"] if len(rates) > 1 and best.rate in (rates[0], rates[-1]) else []
    found += ["decay"] if len(grid.decays) > 1 and best.decay in (grid.decays[0], grid.decays[-1]) else []
    return found + (["warm-up"] if best.warm_up > 0 and best.warm_up == grid.warm_ups[-1] else [])


def _missing(settings: Sequence[Setting], scores: Scores) -> list[Setting]:
    return [setting for setting in settings if setting not in scores]


def _best(settings: Sequence[Setting], scores: Scores) -> Setting | None:
    """The one with the smallest score, the first of equals; None where all diverged."""
    there = [setting for setting in settings if math.isfinite(scores[setting])]
    return min(there, key=scores.__getitem__) if there else None


def _beyond(line: Sequence[Setting], scores: Scores) -> Setting | None:
    """The next rate outside, by the ratio of the last two of the line; None where the best is inside."""
    best = _best(line, scores)
    if len(line) > 1 and best in (line[0], line[-1]):
        edge, neighbour = (line[0], line[1]) if best == line[0] else (line[-1], line[-2])
        return edge._replace(rate=float(f"{edge.rate**2 / neighbour.rate:.3g}"))
    return None
