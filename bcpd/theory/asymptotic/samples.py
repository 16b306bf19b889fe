r"""How many samples until one loss is closer to p* than another: limits, 1/N terms, and data sets that show it.

For each loss :math:`E\,D(N) = D_\infty + c/N + O(N^{-2})`, from :func:`.asymptotics.asymptotics`: the
limit is the distance of the class's best member in that loss's own sense, and c has the sandwich and, where the class
misses p*, the bias of the estimates. In the metric MSE the Brier score has the smaller limit (its optimum is the
class's closest member) and the cross-entropy often the smaller c, so that CE leads up to some N and MSE beyond; where
the class contains p* both limits are 0 and CE leads throughout. The crossing is then taken from simulated data sets,
the same for both losses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, SupportsInt

import numpy as np
import torch
from scipy.stats import chi2

from bcpd.estimate import Estimate
from bcpd.losses import Loss
from bcpd.mixtures import Mixture
from bcpd.seeds import derive, generator
from bcpd.theory.asymptotic.asymptotics import Asymptotics, asymptotics, model_of, proper_loss
from bcpd.theory.asymptotic.estimators import Law, law_of, simulate
from bcpd.theory.asymptotic.models import Design, LinearModel
from bcpd.theory.linear import linear_design

__all__ = ["Crossover", "SizePoint", "samples_until"]

Metric = Literal["mse", "kl"]

_USUAL = (100, 200, 400, 800, 1600, 3200, 6400)
_AROUND = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
_PAIRS = 8 * 10**5  # (x, y) drawn for one size
_LARGEST = 16_000  # samples of one data set that is drawn pair by pair
_DRAWS = 4000


@dataclass(frozen=True)
class SizePoint:
    """Simulated data sets of one size.

    Attributes:
        n: N.
        first, second: mean distances to p* of the two losses; difference: first - second, on the same data sets.
        replicas: data sets; excluded: those of them left out because a loss had no finite optimum.
    """

    n: int
    first: Estimate
    second: Estimate
    difference: Estimate
    replicas: int
    excluded: int

    @property
    def sign(self) -> int:
        """-1 where the first loss is closer by more than two standard errors, 1 where the second is, else 0."""
        if abs(self.difference.value) <= 2 * self.difference.stderr:
            return 0
        return -1 if self.difference.value < 0 else 1


@dataclass(frozen=True)
class Crossover:
    """Which of two losses is closer to p* at which N.

    Attributes:
        metric: ``mse`` (summed over classes) or ``kl`` (nats).
        first, second: the limits and 1/N terms.
        points: simulated sizes, increasing.
        predicted: where the two first-order laws cross; ``None`` where they do not for any N.
        crossing: the last crossing, from the data sets and the limit; low, high: its 95 % interval. ``None`` where
            there is no crossing, or the sizes do not tell where it is.
        closer: the closer loss in every stretch of N, from the smallest size that tells the losses apart to the limit:
            one name where it does not change, two with one crossing between them. It is that of the limit alone where
            no size tells, and empty where the limit does not either.
    """

    metric: Metric
    first: Asymptotics
    second: Asymptotics
    points: tuple[SizePoint, ...]
    predicted: float | None
    crossing: float | None
    low: float | None
    high: float | None
    closer: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        a, b, start = self.first.loss, self.second.loss, self.points[0].n
        told, untold = ([point.n for point in self.points if (point.sign != 0) is so] for so in (True, False))
        if not self.closer:
            sizes = _listed([point.n for point in self.points])
            return f"{a} and {b} tie in the limit, and no size tried (N = {sizes}) tells which is closer to p*."
        if len(self.closer) == 1:
            (best,) = self.closer
            if not told:
                return (
                    f"The sizes tried (N = {_listed(untold)}) do not tell whether {a} or {b} is closer to p*; "
                    f"{best} is{self._reason(alone=True)}{self._theory()}."
                )
            if untold:
                return (
                    f"{best} is closer to p* than {b if best == a else a} at the sizes that tell (N = {_listed(told)})"
                    f"{self._reason()}; N = {_listed(untold)} {'does' if len(untold) == 1 else 'do'} not tell"
                    f"{self._theory()}."
                )
            answer = "from the start: it" if best == a else f"never: {b}"
            return (
                f"{a} beats {b} {answer} is closer to p* at every size tried (N >= {start:,}){self._reason()}"
                f"{self._theory()}."
            )
        at = self._where()
        if self.closer[-1] == a:
            return f"{a} beats {b} {at}{self._reason()}."
        return f"{a} beats {b} only at smaller sizes: {b} is closer {at}{self._reason()}."

    def _where(self) -> str:
        """The crossing with its interval and what was predicted."""
        guess = "" if self.predicted is None else f"; first-order theory: {_count(self.predicted)}"
        more = " for the last time" if len(self.closer) > 2 else ""
        if self.crossing is None or self.low is None or self.high is None:
            behind = [
                point.n for point in self.points if point.sign * (1 if self.closer[-1] == self.first.loss else -1) > 0
            ]
            return f"from some N above {max(behind):,} on{more}{guess}"
        return f"from N = {_count(self.crossing)} on{more} (95 %: {_count(self.low)} to {_count(self.high)}{guess})"

    def _theory(self) -> str:
        """Where the first-order laws cross, for verdicts without a crossing."""
        if self.predicted is None or not _limit_sign(self.first, self.second, self.metric):
            return ""
        return f"; first-order theory: {self._behind().loss} is closer up to N = {_count(self.predicted)}"

    def _behind(self) -> Asymptotics:
        return self.second if self.closer[-1] == self.first.loss else self.first

    def _reason(self, alone: bool = False) -> str:
        """What the limit says; ``alone``: with no size before it."""
        behind = self._behind()
        ahead = self.first if behind is self.second else self.second
        if not _limit_sign(self.first, self.second, self.metric):
            return "; in the limit they tie"
        if ahead.well_specified:
            ratio = getattr(behind, f"n_{self.metric}") / getattr(ahead, f"n_{self.metric}")
            each = " as N grows" if alone else ""
            return (
                f"{each}; both reach p* in the limit, for which {behind.loss} needs {ratio:.3g} times as many samples"
            )
        gap = f"{getattr(behind, self.metric) - getattr(ahead, self.metric):.3g}"
        return f" in the limit, by {gap}" if alone else f" and in the limit, there by {gap}"

    def __str__(self) -> str:
        a, b = self.first, self.second
        inside = "contains p*" if a.well_specified else "misses p*"
        lines = [
            f"Expected {self.metric} to p* of {a.loss} and {b.loss}; a class of {a.rank} identifiable parameters that "
            f"{inside}.",
            *(
                f"  {of.loss}: {0 if of.well_specified else getattr(of, self.metric):.4g} + "
                f"{getattr(of, f'n_{self.metric}'):.4g} / N as N grows"
                for of in (a, b)
            ),
            f"  {'N':>9}  {a.loss:>22}  {b.loss:>22}  {'difference':>22}  closer",
        ]
        for point in self.points:
            numbers = "  ".join(f"{_number(e):>22}" for e in (point.first, point.second, point.difference))
            name = {-1: a.loss, 0: "-", 1: b.loss}[point.sign]
            left_out = (
                f"  ({point.excluded} of {point.replicas} data sets without an optimum)" if point.excluded else ""
            )
            lines.append(f"  {point.n:>9,}  {numbers}  {name}{left_out}")
        return "\n".join([*lines, f"Answer: {self.verdict}"])


def samples_until(
    mixture: Mixture | Law,
    model: LinearModel | Design = linear_design,
    *,
    losses: tuple[Loss | str, Loss | str] = ("ce", "mse"),
    metric: Metric = "mse",
    sizes: Iterable[SupportsInt] | None = None,
    replicas: SupportsInt | None = None,
    seed: int = 0,
) -> Crossover:
    """How many samples until the first loss is closer to p* than the second, by theory and by simulation.

    Both are fitted without regularisation to the same data sets, of a class linear in its parameters; where a risk has
    several minima, to the one nearest to the population optimum. Data sets without a finite optimum are left out and
    counted.

    Args:
        mixture: finite X (exact), Gaussians in 1 or 2 dimensions (quadrature), else a fixed sample of its x.
        model: a design, x ``(n, d)`` to rows ``(n, p)``; ``[x, 1]`` by default, the linear softmax.
        losses: two smooth strictly proper losses, or their names in ``LOSSES``.
        metric: ``mse`` or ``kl``, of the trained probabilities to p*.
        sizes: the N to simulate, whole numbers of any type; by default seven around the predicted crossing, or from
            100 to 6,400.
        replicas: data sets a size, at least 2; by default 2,000 on small finite X, else up to 1,000, of 800,000
            pairs in all.
        seed: of the data sets.
    Raises:
        ValueError: an unknown metric or loss, the same loss twice, sizes or replicas that are no whole numbers; as
            :func:`bcpd.theory.asymptotic.asymptotics.asymptotics`.
    """
    first, second = (proper_loss(loss) for loss in losses)
    if first.name == second.name:
        raise ValueError(f"losses must be two different ones, received {first.name!r} twice")
    if metric not in ("mse", "kl"):
        raise ValueError(f"metric must be 'mse' or 'kl', received {metric!r}")
    chosen_sizes: Sequence[int] | None = None if sizes is None else _size_list(sizes)
    count = None if replicas is None else _whole(replicas)
    if replicas is not None and count is None:
        raise ValueError(f"replicas must be a whole number of data sets, at least 2, received {replicas!r}")
    law = mixture if isinstance(mixture, Law) else law_of(mixture, seed=seed)
    chosen = model_of(model, law)
    one, two = (asymptotics(law, chosen, loss, seed=seed) for loss in (first, second))
    predicted = _first_order_crossing(one, two, metric)
    if chosen_sizes is None:
        chosen_sizes = _sizes(predicted, max(20, 5 * one.rank), 10**9 if law.tabular else _LARGEST)
    points = []
    for n in sorted(set(chosen_sizes)):
        drawn = count or (2000 if law.tabular else max(50, min(1000, _PAIRS // n)))
        starts = [(first, one.theta), (second, two.theta)]
        run = simulate(law, chosen, starts, n, drawn, derive(seed, "samples"), rank=one.rank)
        means = (run.mean(metric, first.name), run.mean(metric, second.name))
        difference = run.mean(metric, first.name, minus=second.name)
        points.append(SizePoint(n, *means, difference, drawn, run.excluded))
    closer = _closer(one, two, metric, points)
    crossing = low = high = None
    if len(closer) > 1:
        gap = 0.0 if one.well_specified else getattr(one, metric) - getattr(two, metric)
        crossing, low, high = _crossing(points, gap, seed)
    return Crossover(metric, one, two, tuple(points), predicted, crossing, low, high, closer)


def _sizes(predicted: float | None, least: int, most: int) -> Sequence[int]:
    """Around the predicted crossing where that can be simulated, else the usual ones."""
    if predicted is None or not 2 * least <= predicted <= most / 2:
        return [n for n in _USUAL if n >= least] or [least]
    return [round(n) for factor in _AROUND if least <= (n := predicted * factor) <= most]


def _first_order_crossing(first: Asymptotics, second: Asymptotics, metric: Metric) -> float | None:
    r"""The N with :math:`D_1 + c_1 / N = D_2 + c_2 / N`, if there is a positive one."""
    if first.well_specified:
        return None
    gap = getattr(first, metric) - getattr(second, metric)
    coefficients = getattr(second, f"n_{metric}") - getattr(first, f"n_{metric}")
    return coefficients / gap if gap * coefficients > 0 else None


def _size_list(sizes: Iterable[SupportsInt]) -> list[int]:
    """The sizes as integers, whatever holds them."""
    received = sizes.tolist() if isinstance(sizes, (torch.Tensor, np.ndarray)) else sizes
    listed = list(received) if isinstance(received, Iterable) and not isinstance(received, (str, bytes)) else []
    found = [whole for value in listed if (whole := _whole(value)) is not None]
    if not listed or len(found) < len(listed):
        shown = listed if listed else received
        raise ValueError(f"sizes must be whole numbers of samples, at least 2, received {shown}")
    return found


def _whole(value: object) -> int | None:
    """A whole number of any type, at least 2, as an integer; ``None`` for anything else."""
    if isinstance(value, (torch.Tensor, np.generic)) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) and value >= 2 else None


def _limit_sign(first: Asymptotics, second: Asymptotics, metric: Metric) -> int:
    """-1 where the first loss is closer in the limit, or by its 1/N term where both reach p*; 0 where they tie."""
    name = f"n_{metric}" if first.well_specified else metric
    gap, scale = getattr(first, name) - getattr(second, name), getattr(first, name)
    if abs(gap) <= 1e-9 * scale:
        return 0
    return -1 if gap < 0 else 1


def _closer(first: Asymptotics, second: Asymptotics, metric: Metric, points: Sequence[SizePoint]) -> tuple[str, ...]:
    """The closer loss along N, repetitions and undecided sizes left out; the last is that of the limit."""
    signs = [*(point.sign for point in points), _limit_sign(first, second, metric)]
    names = [first.loss if sign < 0 else second.loss for sign in signs if sign]
    return tuple(name for place, name in enumerate(names) if place == 0 or names[place - 1] != name)


def _crossing(points: Sequence[SizePoint], limit: float, seed: int) -> tuple[float | None, float | None, float | None]:
    r"""The last root of :math:`D_\infty + c/N + e/N^2`, with c and e fitted to the simulated differences.

    Weighted least squares on :math:`N (D - D_\infty) = c + e/N`, the limit being known; the smallest sizes are left out
    while the third term shows (chi-squared above its 99.9 % point). The 95 % interval is that of the roots for normal
    draws of the differences.
    """
    found = [(point.n, point.difference.value, point.difference.stderr) for point in points]
    n, mean, stderr = torch.tensor(found, dtype=torch.float64).T
    noise = torch.randn(_DRAWS, len(points), generator=generator(seed, "crossing"), dtype=torch.float64)
    noise[0] = 0
    while True:
        scaled, scale = n * (mean + stderr * noise - limit), n * stderr
        design = torch.stack([torch.ones_like(n), 1 / n], 1) / scale[:, None]
        fitted = (scaled / scale) @ torch.linalg.pinv(design).T
        misfit = float((scaled[0] / scale - design @ fitted[0]).square().sum())
        if len(n) <= 3 or misfit <= chi2.isf(1e-3, len(n) - 2):
            break
        n, mean, stderr, noise = n[1:], mean[1:], stderr[1:], noise[:, 1:]
    slope, curve = fitted.T
    if limit == 0:
        roots = -curve / slope
    else:
        # the larger of the two, nan where there is none
        roots = (-slope / limit + ((slope / limit).square() - 4 * curve / limit).sqrt()) / 2
    if not float(roots[0]) > 0:
        return None, None, None
    ordered = torch.nan_to_num(roots, nan=0.0).clamp(min=0).sort().values
    low, high = (float(ordered[round(share * (_DRAWS - 1))]) for share in (0.025, 0.975))
    return float(roots[0]), low, high


def _number(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} +- {1.96 * estimate.stderr:.1g}"


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(f"{n:,}" for n in sizes[:-1]) + (" and " if len(sizes) > 1 else "") + f"{sizes[-1]:,}"


def _count(n: float) -> str:
    return f"{float(f'{n:.3g}'):,.0f}"
