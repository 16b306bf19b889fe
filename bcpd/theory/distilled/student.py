r"""What a student's 0-1 risk owes to its teacher's distance to p*: a bound with a sharp constant.

The excess risk of a student s is at most :math:`\sqrt2\,\mathbb E\|s - p^*\|_2` (:mod:`bcpd.measure.bounds`); with a
teacher t in between (triangle and Jensen inequalities)

.. math:: L(s) - L^* \leq \sqrt2 \big(\mathbb E\|s - t\|_2 + \mathbb E\|t - p^*\|_2\big)
          \leq \sqrt2 \big(\sqrt{\mathbb E\|s - t\|_2^2} + \sqrt{\mathbb E\|t - p^*\|_2^2}\big) .

This is the precise form of "a student's error is bounded by its teacher's MSE". The constant is attained by a student
that :func:`bcpd.measure.bounds.tipped` makes and any teacher on the straight line from p* to it; the second form, if
the gap of the two largest p* is the same everywhere. All expectations are over the distribution of x: on the teacher's
own training inputs an overfitted teacher may be close to p* and promise what it does not keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bcpd import simplex
from bcpd.data import InMemory
from bcpd.distill import KD, Supervised
from bcpd.measure.bounds import tipped, worst_excess
from bcpd.mixtures import FiniteMixture
from bcpd.mixtures.base import distributions
from bcpd.nets import build
from bcpd.seeds import derive, generator
from bcpd.tensors import ArrayLike, probability_rows
from bcpd.theory.claim import Claim, Outcome, Picture, Settings, Trial
from bcpd.theory.finite_tables import default_tables, random_rows, random_table, rounded, world_name

__all__ = ["CLAIMS", "StudentBound", "student_bound"]

EXACT = 1e-12
FORMS = ("l2", "mse")


class StudentBound(NamedTuple):
    r"""The excess 0-1 risk of a student, and the two upper bounds of this module, ``l2`` the smaller."""

    excess_risk: float
    l2: float
    mse: float


def student_bound(
    student: ArrayLike, teacher: ArrayLike, bayes: ArrayLike, weights: ArrayLike | None = None
) -> StudentBound:
    r"""Excess risk of a student and its bounds by the distances to its teacher and of the teacher to p*.

    Args:
        student, teacher, bayes: probabilities at the same points, ``(n, K)``.
        weights: ``(n,)``, probabilities of the points; equal by default, for points that were sampled.
    Returns:
        ``excess_risk`` (ties are broken against the student); ``l2``,
        :math:`\sqrt2(\mathbb E\|s - t\|_2 + \mathbb E\|t - p^*\|_2)`; ``mse``, with roots of mean squares for means.
    Raises:
        ValueError: shapes that differ, rows or weights that are not probabilities.
    """
    s, t, p = (probability_rows(row, n) for row, n in ((student, "student"), (teacher, "teacher"), (bayes, "bayes")))
    if s.ndim != 2 or s.shape != t.shape or s.shape != p.shape:
        raise ValueError(
            f"student, teacher and bayes must have one shape (n, K), "
            f"received {tuple(s.shape)}, {tuple(t.shape)} and {tuple(p.shape)}"
        )
    mass = (
        torch.full((len(p),), 1 / len(p), dtype=torch.float64) if weights is None else distributions(weights, "weights")
    )
    if mass.shape != (len(p),):
        raise ValueError(f"weights must have shape ({len(p)},), received {tuple(mass.shape)}")
    to_teacher, to_bayes = simplex.squared_distance(s, t), simplex.squared_distance(t, p)
    return StudentBound(
        excess_risk=float(mass @ worst_excess(p, s)),
        l2=math.sqrt(2) * float(mass @ (to_teacher.sqrt() + to_bayes.sqrt())),
        mse=math.sqrt(2) * (math.sqrt(mass @ to_teacher) + math.sqrt(mass @ to_bayes)),
    )


# ------------------------------------------------------------------------------------------------------------ the claim


class _Pair(NamedTuple):
    """A student and a teacher on a table, ``(n, K)`` each."""

    table: FiniteMixture
    student: Tensor
    teacher: Tensor

    def bound(self) -> StudentBound:
        return student_bound(self.student, self.teacher, self.table.rows, self.table.weights)


def _outcome(pairs: Sequence[_Pair], form: str, factor: float = 1.0) -> Outcome:
    """The worst of the pairs; ``factor`` scales the bound."""
    bounds = [pair.bound() for pair in pairs]
    gaps = [each.excess_risk - factor * getattr(each, form) for each in bounds]
    shares = [each.excess_risk / getattr(each, form) for each in bounds]
    return Outcome(max(gaps), EXACT, tightness=min(1.0, max(shares)))


def _random_pairs(table: FiniteMixture, seed: int, count: int = 100) -> list[_Pair]:
    """Teachers between p* and random rows, students between their teacher and random rows."""
    shape = table.rows.shape
    pairs = []
    for number in range(count):
        away, further = (random_rows(derive(seed, name, number), *shape) for name in ("teacher", "student"))
        a, b = torch.rand(2, generator=generator(seed, "shares", number), dtype=torch.float64)
        teacher = table.rows.lerp(away, a)
        pairs.append(_Pair(table, teacher.lerp(further, b), teacher))
    return pairs


def _attaining_pair(seed: int, num_classes: int) -> _Pair:
    """One row p*, its entries in another order at every point (so that the gap is the same); the teacher half-way."""
    row = 0.5 * random_rows(seed, 1, num_classes)[0]
    row[0] += 0.5
    n = 6
    order = torch.rand(n, num_classes, generator=generator(seed, "order")).argsort(-1)
    table = FiniteMixture(random_rows(derive(seed, "weights"), 1, n)[0], row[order])
    student = tipped(table.rows)
    return _Pair(table, student, (student + table.rows) / 2)


def _holds(make: Callable[[], Sequence[_Pair]], form: str, factor: float = 1.0) -> Outcome:
    return _outcome(make(), form, factor)


def _attained(make: Callable[[], Sequence[_Pair]], form: str) -> Outcome:
    tightness = _outcome(make(), form).tightness or 0.0
    return Outcome(1 - tightness, 1e-3, tightness=tightness)


REPLICAS = 4


def _trained(settings: Settings, table: FiniteMixture, examples: Tensor, labels: Tensor, seed: int) -> list[_Pair]:
    """Teachers trained on the labels of the examples (positions in the table) and their students, by the trainer."""
    x = table.points.flatten(1)
    x = (x - x.mean(0)) / x.std(0, correction=0).clamp(min=1e-9)
    source = InMemory(x[examples], labels, num_classes=table.num_classes)
    recipe = settings.trainer.recipe(epochs=40, learning_rate=0.02, batch_size=32, optimizer="adam", validation=0.0)
    seeds = [[derive(seed, who, r) for r in range(REPLICAS)] for who in ("teacher", "student")]
    nets = [
        build("mlp", num_classes=table.num_classes, input_shape=(x.shape[1],), hidden=(32,), seed=each)
        for each in seeds
    ]
    teacher = settings.trainer.fit(nets[0], source, Supervised("ce"), recipe, seed=seeds[0]).teacher()
    student = settings.trainer.fit(nets[1], source, KD.pure(), recipe, seed=seeds[1], teacher=teacher).teacher()
    return [_Pair(table, s, t) for s, t in zip(_rows(student, x), _rows(teacher, x), strict=True)]


@torch.no_grad()
def _rows(net: nn.Module, x: Tensor) -> Tensor:
    """``(R, n, K)`` in float64."""
    logits: Tensor = net(x.float()).logits
    return logits.double().softmax(-1)


class _Memorised:
    """Teachers that have memorised a quarter of many points whose classes follow no rule, and their students.

    p* is nearly certain, so that on the memorised points labels, teacher and student are all close to it.
    """

    def __init__(self, settings: Settings, seed: int, n: int = 400, num_classes: int = 4) -> None:
        draw = generator(seed, "memorised")
        points = torch.randn(n, 20, generator=draw, dtype=torch.float64)
        modes = torch.randint(num_classes, (n,), generator=draw)
        bayes = 0.99 * torch.nn.functional.one_hot(modes, num_classes) + 0.01 * random_rows(seed, n, num_classes)
        table = FiniteMixture(torch.full((n,), 1 / n, dtype=torch.float64), bayes, points)
        self.seen = torch.arange(n // 4)
        labels = torch.multinomial(bayes[self.seen], 1, generator=draw).squeeze(1)
        self.pairs = _trained(settings, table, self.seen, labels, seed)

    def promises(self) -> list[float]:
        """The bound of every pair, computed on the training inputs."""
        return [student_bound(s[self.seen], t[self.seen], table.rows[self.seen]).l2 for table, s, t in self.pairs]


def _trained_on_sample(settings: Settings, table: FiniteMixture, seed: int) -> list[_Pair]:
    draw = generator(seed, "sample")
    examples = torch.multinomial(table.weights, 64, replacement=True, generator=draw)
    labels = torch.multinomial(table.rows[examples], 1, generator=draw).squeeze(1)
    return _trained(settings, table, examples, labels, seed)


def _trials(settings: Settings) -> Sequence[Trial]:
    seed, name = derive(settings.seed, "student-chain"), world_name(settings)
    sizes = [(8, 3), *([(20, 10), (6, 2)] if settings.full else [])]
    trials: list[Trial] = []
    tables = default_tables(settings, seed, sizes)
    for number, table in enumerate(tables):
        pairs = partial(_random_pairs, table, derive(seed, "random", number))
        shape = f"n={len(table.weights)}, K={table.num_classes}"
        trials += [Trial(name, partial(_holds, pairs, form), detail=f"{form}, random rows, {shape}") for form in FORMS]
    for number, table in enumerate(tables[:1]):
        networks = cache(partial(_trained_on_sample, settings, table, derive(seed, "trained", number)))
        trials += [Trial(name, partial(_holds, networks, form), detail=f"{form}, networks") for form in FORMS]
    if settings.mixture is not None:
        return trials
    for num_classes in (2, 3, 10) if settings.full else (3,):
        built = partial(_attaining, derive(seed, "attaining", num_classes), num_classes)
        for form in FORMS:
            detail = f"{form}, attained, K={num_classes}"
            trials += [
                Trial(name, partial(_attained, built, form), detail=detail),
                Trial(name, partial(_holds, built, form, 0.5**0.5), "constant_one", detail=detail),
            ]
        over_k = partial(_holds, built, "mse", num_classes**-0.5)
        trials.append(Trial(name, over_k, "mse_over_k", detail=f"mse, attained, K={num_classes}"))
    memorised = cache(partial(_Memorised, settings, derive(seed, "memorised")))
    trials += [
        Trial(name, partial(_memorised_holds, memorised), detail="l2, memorised"),
        Trial(name, partial(_memorised_promise, memorised), "training_inputs", detail="l2, memorised"),
    ]
    return trials


def _attaining(seed: int, num_classes: int) -> list[_Pair]:
    return [_attaining_pair(seed, num_classes)]


def _memorised_holds(memorised: Callable[[], _Memorised]) -> Outcome:
    return _outcome(memorised().pairs, "l2")


def _memorised_promise(memorised: Callable[[], _Memorised]) -> Outcome:
    """The smallest gap of a pair's excess risk and the bound as computed on its training inputs."""
    risks = [pair.bound().excess_risk for pair in memorised().pairs]
    return Outcome(min(r - p for r, p in zip(risks, memorised().promises(), strict=True)), EXACT)


def _picture(settings: Settings) -> Picture:
    """Excess risk against the bound: random rows, trained students, and pairs that attain it."""
    seed = derive(settings.seed, "student-chain", "picture")
    table = random_table(seed, 8, 3)
    networks = _trained_on_sample(settings, table, seed)
    memorised = _Memorised(settings, seed)
    groups = (
        ("random rows", _random_pairs(table, seed, 200), "d"),
        ("trained students", [*networks, *memorised.pairs], "a"),
        ("built to attain it", [_attaining_pair(derive(seed, "attaining", i), 3) for i in range(12)], "bayes"),
    )
    series = []
    for name, pairs, colour in groups:
        bounds = [pair.bound() for pair in pairs]
        x, y = rounded([b.l2 for b in bounds]), rounded([b.excess_risk for b in bounds])
        series.append({"name": name, "x": x, "y": y, "style": "points", "colour": colour})
    risks = [pair.bound().excess_risk for pair in memorised.pairs]
    series += [
        {
            "name": "bound taken on memorised inputs",
            "x": rounded(memorised.promises()),
            "y": rounded(risks),
            "style": "points",
            "colour": "control",
        },
        {"name": "excess risk = bound", "x": [0.0, 1.0], "y": [0.0, 1.0], "style": "dashed", "colour": "f"},
    ]
    return {
        "kind": "curves",
        "title": "A student's excess risk and its bound",
        "caption": (
            "No point lies above the dashed line, and some lie on it: the constant is sharp. The distances taken on "
            "memorised training inputs instead bound nothing."
        ),
        "x_label": "sqrt(2) (E |s - t| + E |t - p*|)",
        "y_label": "excess 0-1 risk of the student",
        "x_log": False,
        "y_log": False,
        "series": series,
        "lines": [],
    }


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="student-chain",
        number="C9",
        title="A student's excess risk is bounded by its teacher's distance to p*",
        statement=(
            "The excess 0-1 risk of a student is at most sqrt(2) times the sum of its mean distance to the teacher "
            "and the teacher's to p*, hence of the roots of the two MSEs; the constant is attained"
        ),
        formula=(
            r"L(s) - L^* \leq \sqrt{2}\,(\mathbb{E}\|s - t\|_2 + \mathbb{E}\|t - p^*\|_2) \leq "
            r"\sqrt{2}\,(\sqrt{\mathbb{E}\|s - t\|_2^2} + \sqrt{\mathbb{E}\|t - p^*\|_2^2})"
        ),
        conditions="any student and teacher; the distances are means over the distribution, not a training set",
        source="derived here",
        controls={
            "constant_one": "the constant is 1",
            "mse_over_k": "the MSE is divided by the number of classes",
            "training_inputs": "the distances are those on the training inputs of an overfitted teacher",
        },
        trials=_trials,
        picture=_picture,
    ),
)
