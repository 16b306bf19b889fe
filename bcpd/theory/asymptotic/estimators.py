r"""M-estimation in batches: thousands of data sets fitted at once, and population risks minimised from many starts.

:math:`\hat\theta = \arg\min_\theta \frac1N \sum_i \ell(y_i, z_\theta(x_i))` by a damped Newton method in float64 whose
leading axis is the replica. A data set whose classes a linear rule separates has no finite optimum under the
cross-entropy: such replicas are found, counted and left out, never hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bcpd import simplex
from bcpd.estimate import Estimate
from bcpd.losses import Loss
from bcpd.mixtures import GaussianMixture, Mixture
from bcpd.seeds import generator
from bcpd.theory.asymptotic.models import Derivatives, Model
from bcpd.theory.worlds import Kind, quadrature_world, sample_world

__all__ = ["Fit", "Law", "Sample", "Simulation", "best_of_starts", "fit", "law_of", "limit", "minimiser_of", "simulate"]

_CHUNK = 2**20  # logits in one evaluation: 8 MiB an array
_CELLS = 4096  # up to so many pairs (point, class) a data set is a table of counts
_STEP = 1e-6  # a full Newton step so short, relative to 1 + the parameters, is the last: about its square is left
_BELOW = 1e-9  # a risk that is lower by more than this, relative to 1 + its modulus, is lower
_MANY = 400  # Newton steps for starts that have no minimum after the usual number
_SINGULAR = 1e-9  # share of the largest curvature below which the smallest does not hold an optimum


class Sample(NamedTuple):
    """R data sets, or one: rows of features with a mass and a target each.

    Attributes:
        features: ``(B, p)`` shared by all, or ``(R, B, p)``.
        weights: ``(B,)`` or ``(R, B)``, each data set's summing to 1.
        target: labels ``(R, B)``, or rows of probabilities ``(B, K)`` or ``(R, B, K)``.
    """

    features: Tensor
    weights: Tensor
    target: Tensor

    def of(self, rows: Tensor) -> Sample:
        """The data sets of these indices; what is shared stays shared."""
        labels = not self.target.is_floating_point()
        return Sample(
            self.features if self.features.ndim == 2 else self.features[rows],
            self.weights if self.weights.ndim == 1 else self.weights[rows],
            self.target[rows] if labels or self.target.ndim == 3 else self.target,
        )


@dataclass(frozen=True)
class Law:
    r"""The law of (x, y) of a mixture as points with weights: :math:`E f(x) = \sum_i w_i f(x_i)`.

    Attributes:
        name: for the report.
        kind: ``exact`` (finite X), ``quadrature`` (nodes; data sets are drawn from the mixture itself) or
            ``monte_carlo`` (a fixed sample of x, from then on *the* law of x: data sets are drawn from its points).
        x: ``(n, d)``; weights: ``(n,)`` summing to 1; log_bayes: ``(n, K)``.
        mixture: where it comes from.
    """

    name: str
    kind: Kind
    x: Tensor
    weights: Tensor
    log_bayes: Tensor
    mixture: Mixture

    @property
    def num_classes(self) -> int:
        return self.log_bayes.shape[-1]

    @property
    def bayes(self) -> Tensor:
        return self.log_bayes.exp()

    @property
    def tabular(self) -> bool:
        """Whether a data set is a small table of counts, whatever its size."""
        return self.kind == "exact" and len(self.x) * self.num_classes <= _CELLS

    def mean(self, values: Tensor) -> Tensor:
        """The expectation of per-point values ``(..., n)``."""
        return values @ self.weights

    def population(self, model: Model) -> Sample:
        """The law itself as a data set of infinite size: labels summed out against p*."""
        return Sample(model.features(self.x), self.weights, self.bayes)

    def distances(self, model: Model, theta: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`E\|q_\theta - p^*\|^2` and :math:`E\,KL(p^* \| q_\theta)` of ``(R, P)`` parameters: ``(R,)`` each."""
        features, mse, kl = model.features(self.x), [], []
        for part in torch.split(theta, _rows_of(self.x.shape[0] * self.num_classes)):
            log_q = model.logits(part, features).detach().log_softmax(-1)
            mse.append(self.mean(simplex.squared_distance(self.bayes, log_q.exp())))
            kl.append(self.mean(simplex.kl_from_log(self.log_bayes, log_q)))
        return torch.cat(mse), torch.cat(kl)

    def data_sets(self, model: Model, n: int, replicas: int, seed: int) -> Iterator[Sample]:
        """``replicas`` data sets of ``n`` pairs, in chunks that fit the cache; a function of the seed and n."""
        chunk = _rows_of((len(self.x) if self.tabular else n) * self.num_classes)
        for number, start in enumerate(range(0, replicas, chunk)):
            draw, count = generator(seed, "data sets", n, number), min(chunk, replicas - start)
            if self.tabular:
                yield self._counts(model, n, count, draw)
            elif self.kind == "quadrature":
                x, y = self.mixture.sample(n * count, draw.initial_seed())
                yield Sample(model.features(x).reshape(count, n, -1), _even(n), y.reshape(count, n))
            else:
                index = torch.multinomial(self.weights, n * count, replacement=True, generator=draw)
                y = torch.multinomial(self.bayes[index], 1, generator=draw)
                features = model.features(self.x)[index]
                yield Sample(features.reshape(count, n, -1), _even(n), y.reshape(count, n))

    def _counts(self, model: Model, n: int, replicas: int, draw: torch.Generator) -> Sample:
        """Data sets on finite X as tables: how often each point came, and with which labels."""
        everywhere = torch.full((replicas,), n, dtype=torch.float64)
        at_point = _multinomial(everywhere, self.weights, draw)
        table = _multinomial(at_point, self.bayes, draw)
        seen = at_point.clamp(min=1)[..., None]
        return Sample(model.features(self.x), at_point / n, table / seen)


def law_of(mixture: Mixture, name: str = "mixture", seed: int = 0, *, nodes: int = 128, points: int = 20_000) -> Law:
    """Exact where X is finite, quadrature for Gaussians on a line or plane, else a fixed sample of ``points`` x.

    Args:
        name: for the report; seed: of the sample.
        nodes: an axis on a line, half as many on a plane.
    """
    support = mixture.support()
    if support is not None:
        x, weights = support
        return Law(name, "exact", x, weights, mixture.log_posterior(x), mixture)
    if isinstance(mixture, GaussianMixture) and mixture.shape[0] <= 2:
        world = quadrature_world(mixture, nodes // mixture.shape[0], name, finer=False)
    else:
        world = sample_world(mixture, points, seed, name)
    return Law(name, world.kind, world.x, world.weights, world.log_bayes, mixture)


class Fit(NamedTuple):
    """Where R minimisations ended.

    Attributes:
        theta: ``(R, P)``; value: ``(R,)``, the risk there.
        finite: ``(R,)``: it is a local minimum, reached to about 1e-12. False where the parameters run away.
    """

    theta: Tensor
    value: Tensor
    finite: Tensor


def fit(
    model: Model, sample: Sample, loss: Loss, start: Tensor, *, rank: int | None = None, iterations: int = 60
) -> Fit:
    r"""Minimise R risks :math:`\sum_b w_{rb}\, \ell(t_{rb}, z_{rb})` at once, each from its own start.

    Newton's direction with the absolute values of the Hessian's eigenvalues (downhill also where the risk is not
    convex, as the Brier score of a linear softmax), damped after Levenberg whenever the risk would rise. An optimum is
    where the **undamped** step in the ``rank`` steepest directions is shorter than 1e-6, relative to the parameters,
    and all their curvatures are positive: on separable data the gradient vanishes too, but the step does not, and those
    replicas end as not finite.

    Args:
        start: ``(R, P)``.
        rank: identifiable directions, P by default. In the others the parameters stay where they are.
    """
    theta = start.detach().clone()
    rank = model.size if rank is None else rank
    value = torch.full((len(theta),), torch.nan, dtype=torch.float64)
    finite = torch.zeros(len(theta), dtype=torch.bool)
    active = torch.arange(len(theta))
    at = _derivatives(model, theta, sample, loss)
    damping = torch.zeros_like(value)
    for _ in range(iterations):
        curvature, axes = torch.linalg.eigh(at.hessian)
        curvature, axes = _steepest(curvature, axes, rank)
        slope = (axes.mT @ at.gradient[..., None]).squeeze(-1)
        size = curvature.abs()
        top = size.amax(-1, keepdim=True)
        newton = -slope / size.clamp(min=1e-300)
        reach = 1 + theta[active].abs().amax(-1)
        done = (newton.abs().amax(-1) <= _STEP * reach) & (curvature.amin(-1) > _SINGULAR * top.squeeze(-1))
        value[active] = at.value
        theta[active[done]] += (axes[done] @ newton[done, :, None]).squeeze(-1)
        finite[active[done]] = True
        keep = ~done
        if not bool(keep.any()):
            break
        active, damping, slope, size, axes, top = (part[keep] for part in (active, damping, slope, size, axes, top))
        at = Derivatives(*(part[keep] for part in at))
        step = (axes @ (-slope / (size + damping[:, None] * top).clamp(min=1e-300))[..., None]).squeeze(-1)
        trial = theta[active] + step
        new = _derivatives(model, trial, sample.of(active), loss)
        better = new.value <= at.value + 1e-15 * at.value.abs()
        theta[active[better]] = trial[better]
        at = Derivatives(
            *(torch.where(better.reshape(-1, *[1] * (b.ndim - 1)), a, b) for a, b in zip(new, at, strict=True))
        )
        damping = torch.where(better, torch.where(damping > 1e-9, damping / 10, 0.0), (10 * damping).clamp(min=1e-3))
    return Fit(theta, value, finite)


def minimiser_of(
    law: Law, model: Model, loss: Loss, seed: int, *, starts: int = 8, spread: float = 1.0, rank: int | None = None
) -> Tensor:
    """Parameters ``(P,)`` of the lowest population risk found from 0 and ``starts - 1`` random starts.

    Raises:
        ValueError: no start reached a minimum, or one without a minimum came below the others' (after many more
            steps too): the infimum lies at infinity, or the parameters are not identified.
    """
    result = best_of_starts(law, model, loss, seed, starts=starts, spread=spread, rank=rank)
    if not bool(result.finite.any()):
        raise ValueError(
            f"{loss.name} has no finite minimum in this class on {law.name} from {starts} starts: its parameters run "
            "away, or some of them change nothing (give the rank)"
        )
    best = _lowest(result)
    below = ~result.finite & (result.value < result.value[best] - _BELOW * (1 + result.value[best].abs()))
    if bool(below.any()):
        # slow, or on the way to infinity
        on = fit(model, law.population(model), loss, result.theta[below], rank=rank, iterations=_MANY)
        theta, value, finite = (torch.cat([old[~below], new]) for old, new in zip(result, on, strict=True))
        result = Fit(theta, value, finite)
        best = _lowest(result)
        least = torch.where(result.finite, torch.inf, result.value).amin()
        if bool(least < result.value[best] - _BELOW * (1 + result.value[best].abs())):
            raise ValueError(
                f"{loss.name} has no least risk at finite parameters in this class on {law.name}: its lowest minimum "
                f"found from {starts} starts is {float(result.value[best]):.6g}, but a start whose parameters run away "
                f"to infinity comes down to {float(least):.6g}"
            )
    return result.theta[best]


def _lowest(result: Fit) -> Tensor:
    return torch.where(result.finite, result.value, torch.inf).argmin()


def best_of_starts(
    law: Law, model: Model, loss: Loss, seed: int, *, starts: int = 8, spread: float = 1.0, rank: int | None = None
) -> Fit:
    """Where all the starts of :func:`minimiser_of` end: 0, and Gaussian ones with standard deviation ``spread``.

    The starts depend on the seed alone, so that two losses are minimised from the same places.
    """
    begin = spread * torch.randn(starts, model.size, generator=generator(seed, "starts"), dtype=torch.float64)
    begin[0] = 0
    return fit(model, law.population(model), loss, begin, rank=rank)


@dataclass(frozen=True)
class Simulation:
    r"""Distances to p* of models fitted to R data sets of size N, the same data sets for every loss.

    Attributes:
        n: N; replicas: R.
        mse, kl: a loss's name to the population distances ``(R',)`` of the replicas kept.
        excluded: how many replicas were left out because a loss had no finite optimum there.
    """

    n: int
    replicas: int
    mse: Mapping[str, Tensor]
    kl: Mapping[str, Tensor]
    excluded: int

    def mean(self, metric: str, loss: str, minus: str | None = None) -> Estimate:
        """The mean of a distance, or of a difference of two losses' on the same data sets, with its standard error."""
        values = getattr(self, metric)[loss]
        if minus is not None:
            values = values - getattr(self, metric)[minus]
        return Estimate(float(values.mean()), float(values.std() / len(values) ** 0.5), "monte_carlo")

    def ratio(self, metric: str, loss: str, over: str) -> Estimate:
        """The ratio of two losses' mean distances on the same data sets; standard error by the delta method."""
        above, below = getattr(self, metric)[loss], getattr(self, metric)[over]
        ratio = float(above.mean() / below.mean())
        spread = (above - ratio * below).std() / below.mean()
        return Estimate(ratio, float(spread / len(above) ** 0.5), "monte_carlo")


def limit(near: Simulation, far: Simulation, metric: str, loss: str) -> Estimate:
    r"""The limit of N times a distance, from two sizes :math:`N_1 < N_2`.

    :math:`N\,E D = c + c'/N + O(N^{-2})`, so that :math:`(N_2^2 E D_2 - N_1^2 E D_1) / (N_2 - N_1)` is c up
    to :math:`O(N^{-2})` (Richardson). For well-specified classes, where the distance itself tends to 0.
    """
    small, large = near.mean(metric, loss), far.mean(metric, loss)
    gap = far.n - near.n
    value = (far.n**2 * large.value - near.n**2 * small.value) / gap
    stderr = ((far.n**2 * large.stderr) ** 2 + (near.n**2 * small.stderr) ** 2) ** 0.5 / gap
    return Estimate(value, stderr, "monte_carlo")


def simulate(
    law: Law,
    model: Model,
    starts: Sequence[tuple[Loss, Tensor]],
    n: int,
    replicas: int,
    seed: int,
    *,
    rank: int | None = None,
) -> Simulation:
    r"""Fit every loss to the same R data sets of size N and measure the results against p*.

    Args:
        starts: losses, and the parameters ``(P,)`` that each one's fits start from: the population optimum, so that
            of several local minima of a risk that is not convex the fit takes the consistent one.
        rank: identifiable directions, see :func:`fit`.
    Raises:
        ValueError: fewer than two data sets had a finite optimum.
    """
    found: dict[str, list[Tensor]] = {loss.name: [] for loss, _ in starts}
    finite: list[Tensor] = []
    for sample in law.data_sets(model, n, replicas, seed):
        count = sample.target.shape[0]
        kept = torch.ones(count, dtype=torch.bool)
        for loss, start in starts:
            result = fit(model, sample, loss, start.expand(count, -1), rank=rank)
            found[loss.name].append(result.theta)
            kept &= result.finite
        finite.append(kept)
    kept = torch.cat(finite)
    if int(kept.sum()) < 2:
        raise ValueError(f"{int((~kept).sum())} of {replicas} data sets of size {n} have no finite optimum")
    distances = {name: law.distances(model, torch.cat(parts)[kept]) for name, parts in found.items()}
    return Simulation(
        n,
        replicas,
        {name: mse for name, (mse, _) in distances.items()},
        {name: kl for name, (_, kl) in distances.items()},
        int((~kept).sum()),
    )


def _derivatives(model: Model, theta: Tensor, sample: Sample, loss: Loss) -> Derivatives:
    def risk(z: Tensor) -> Tensor:
        target = sample.target
        if target.is_floating_point():
            target = target.expand(len(z), -1, -1)
        return (sample.weights * loss.function(z, target)).sum(-1)

    return model.derivatives(theta, sample.features, risk)


def _steepest(curvature: Tensor, axes: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The ``rank`` eigenvalues of largest modulus and their axes."""
    if rank == curvature.shape[-1]:
        return curvature, axes
    order = curvature.abs().argsort(-1, descending=True)[..., :rank]
    return curvature.gather(-1, order), axes.gather(-1, order[..., None, :].expand(*axes.shape[:-1], rank))


def _multinomial(count: Tensor, probabilities: Tensor, draw: torch.Generator) -> Tensor:
    """``count (R, ...)`` shared out among the C cells of ``probabilities (..., C)``: a chain of binomials."""
    left, rest = count, torch.ones_like(probabilities[..., 0])
    cells = []
    for cell in probabilities.unbind(-1):
        share = torch.where(rest > 0, cell / rest, 0.0).clamp(0, 1)
        taken = torch.binomial(left, share.expand_as(left).contiguous(), generator=draw)
        cells.append(taken)
        left, rest = left - taken, rest - cell
    cells[-1] = cells[-1] + left  # what rounding left over
    return torch.stack(cells, -1)


def _even(n: int) -> Tensor:
    return torch.full((n,), 1 / n, dtype=torch.float64)


def _rows_of(numbers: int) -> int:
    """How many replicas of so many numbers a chunk holds."""
    return max(1, _CHUNK // numbers)
