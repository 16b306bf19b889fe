"""Improper losses to try, random p to try them on, and how their minima are found: numerically, and by the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from bcpd import simplex
from bcpd.data import InMemory
from bcpd.distill import Supervised
from bcpd.losses import (
    LOSSES,
    Loss,
    confidence_penalty,
    focal,
    generalised_ce,
    hui_belkin,
    label_smoothing,
    tempered_ce,
)
from bcpd.nets import build
from bcpd.seeds import derive, generator
from bcpd.theory.claim import Trainer
from bcpd.theory.scores.risk_search import RiskSearch

__all__ = ["CASES", "MORE", "SEPARATION", "T1", "Case", "minimised", "numeric_minimiser", "plain_rows", "trained"]

T1 = 1e-6
"""How close a numerical minimum comes to the exact one, in every probability."""
SEPARATION = 1e-3
"""Least squared distance of a tried minimiser from p*, so that the two statements cannot be confused."""
SCALE = 8.0
"""Of the indicators that the trainer sees."""
MARGINALS = ((8, 3, 1), (5, 4, 3), (7, 4, 1), (9, 2, 1))
"""Twelfths: p* of the table's points, up to the order of the classes."""


@dataclass(frozen=True, eq=False)
class Case:
    """A loss, and how its claims are tried.

    Attributes:
        wrong: the loss whose correction is applied by mistake, where a constant can be mistaken.
        readout: the read-out that is not corrected, for losses on logits.
        rate, momentum, steps: with which the trainer fits the table; 0 steps: not tried.
        reached: how close it comes.
        recovered: how close the corrected minimum comes to p*.
        separation: least squared distance of the minimiser from p*.
    """

    loss: Loss
    wrong: Loss | None = None
    readout: str | None = None
    rate: float = 4.0
    momentum: float = 0.7
    steps: int = 120
    reached: float = T1
    recovered: float = T1
    separation: float = SEPARATION

    @property
    def corrected(self) -> bool:
        return self.loss.correction is not None

    @property
    def name(self) -> str:
        """The loss's constants, for the report."""
        return ", ".join(f"{key}={value:g}" for key, value in self.loss.parameters.items())


CASES = (
    Case(label_smoothing(0.2), label_smoothing(0.1)),
    Case(focal(2.0), focal(1.0)),
    Case(generalised_ce(0.4), generalised_ce(0.2), rate=6.0),
    Case(tempered_ce(2.0), tempered_ce(1.5), rate=16.0),
    Case(confidence_penalty(0.3), confidence_penalty(0.15)),
    Case(hui_belkin(), readout="softmax", rate=0.5),
    Case(LOSSES["logit_mse"], readout="softmax", rate=0.8),
    # a minimum at infinity, and one in a kink: the trainer comes close, and no closer
    Case(LOSSES["mae"], rate=10.0, steps=200, reached=1e-2),
    Case(LOSSES["crammer_singer"], rate=0.02, momentum=0.9, steps=250, reached=1e-2),
)
MORE = (
    Case(label_smoothing(0.5), label_smoothing(0.4), steps=0),
    # weak focal losses move p* little
    Case(focal(0.5), focal(0.25), steps=0, separation=1e-4),
    Case(focal(1.0), focal(0.5), steps=0, separation=5e-4),
    Case(focal(3.0), focal(2.5), steps=0),
    Case(focal(5.0), focal(4.0), steps=0),
    # the correction, a power of 0.3, is steep where the minimiser is nearly 0
    Case(generalised_ce(0.7), generalised_ce(0.6), steps=0, recovered=1e-4),
    Case(tempered_ce(0.5), tempered_ce(1.0), steps=0),
    Case(confidence_penalty(1.0), confidence_penalty(0.8), steps=0),
    Case(hui_belkin(15.0, 30.0), readout="softmax", steps=0),
)
"""Further constants, for the level full."""


def plain_rows(seed: int, num_classes: int, count: int = 4) -> Tensor:
    """Random p, ``(count, K)``, away from every place where the statements fall together.

    Entropy in (0.2, 0.9) log K; not close to uniform (a fixed point of most losses) nor to a vertex; a clear mode (for
    ``mae``) that is not close to 1/2 (where ``crammer_singer`` jumps).
    """
    draw = generator(seed, "plain rows", num_classes)
    weights = torch.empty(4000, num_classes, dtype=torch.float64).exponential_(generator=draw)
    rows = weights / weights.sum(-1, keepdim=True)
    share = simplex.entropy(rows) / np.log(num_classes)
    top = rows.topk(2, -1).values
    spread = (rows - 1 / num_classes).square().sum(-1)
    plain = (share > 0.2) & (share < 0.9) & (rows.amin(-1) > 0.12 / num_classes) & (spread > 0.1)
    plain &= (top[:, 0] - top[:, 1] > 0.08) & ((top[:, 0] - 0.5).abs() > 0.03)
    # the one row with a margin of 1 may be p* by coincidence
    plain &= simplex.squared_distance(LOSSES["crammer_singer"].minimiser(rows), rows) > 2 * SEPARATION
    return rows[plain][:count]


@lru_cache(maxsize=256)
def minimised(case: Case, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logits of the least risk at random p, and the p."""
    rows = plain_rows(seed, num_classes)
    return numeric_minimiser(case.loss, rows, seed), rows


def numeric_minimiser(loss: Loss, rows: Tensor, seed: int) -> Tensor:
    """Logits ``(n, K)`` of the least risk at every p, from the loss's values and autograd alone.

    Random starts and quasi-Newton steps; a linear program for ``crammer_singer``, whose risk is piecewise linear.
    """
    if loss.name == "crammer_singer":
        return torch.stack([_least_slack(p) for p in rows])
    return RiskSearch(loss.function, loss.name, rows.shape[-1], seed).minimise(rows)[0]


def _least_slack(p: Tensor) -> Tensor:
    """Least expected slack: ``s_y >= 1 + z_j - z_y`` for j other than y, ``s_y >= 0``, and the last logit is 0."""
    count = len(p)
    rows = []
    for y in range(count):
        for j in range(count):
            if j != y:
                row = np.zeros(2 * count)
                row[j], row[y], row[count + y] = 1, -1, -1
                rows.append(row)
    bounds = [(None, None)] * (count - 1) + [(0, 0)] + [(0, None)] * count
    cost = np.concatenate([np.zeros(count), p.numpy()])
    found = linprog(cost, np.array(rows), -np.ones(len(rows)), bounds=bounds)
    return torch.tensor(found.x[:count])


@lru_cache(maxsize=8)
def _table(seed: int) -> tuple[InMemory, Tensor]:
    """All pairs of a finite distribution with equal weights, x as indicators; and its p*, ``(points, K)``."""
    draw = generator(seed, "table")
    counts = torch.stack([torch.tensor(row)[torch.randperm(3, generator=draw)] for row in MARGINALS])
    points, copies = len(MARGINALS), sum(MARGINALS[0])
    x = SCALE * torch.eye(points, dtype=torch.float64).repeat_interleave(copies, 0)
    y = torch.arange(3).repeat(points).repeat_interleave(counts.reshape(-1))
    return InMemory(x, y, num_classes=3, dtype=torch.float64), counts.double() / copies


@lru_cache(maxsize=64)
def trained(case: Case, seed: int, trainer: Trainer) -> tuple[Tensor, Tensor]:
    """Logits that the trainer reaches at every point of the table, from equal ones, and p* there.

    The mean absolute error's slope vanishes at every vertex, and from elsewhere, or when one point drags another along
    by the bias that they share, it may end at a vertex that is not the mode's. The inputs are scaled so that the bias
    hardly counts.
    """
    source, bayes = _table(seed)
    points = len(bayes)
    net = build("mlp", num_classes=3, input_shape=(points,), hidden=(), seed=derive(seed, "net")).double()
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    recipe = trainer.recipe(
        epochs=case.steps,
        learning_rate=case.rate / SCALE**2,
        batch_size=len(source),
        momentum=case.momentum,
        validation=0.0,
    )
    trainer.fit(net, source, Supervised(case.loss), recipe, seed=seed)
    with torch.no_grad():
        return net(SCALE * torch.eye(points, dtype=torch.float64)).logits, bayes
