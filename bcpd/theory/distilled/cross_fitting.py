r"""Cross-fitting: rows of a teacher that has not seen the example they are for (Dao et al. 2021).

A student that learns on its teacher's own training inputs learns from rows that have memorised their labels. Splitting
the inputs into folds and training a teacher without each fold gives every input a row from a teacher that has not seen
it, at the price of several teachers on fewer examples each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import Tensor, nn

from bcpd import simplex
from bcpd.data import InMemory
from bcpd.distill import Supervised
from bcpd.mixtures import GaussianMixture
from bcpd.nets import Views, build
from bcpd.seeds import derive, generator
from bcpd.theory.claim import STANDARD_ERRORS, Claim, Outcome, Settings, Trial

__all__ = ["CLAIMS", "cross_fitted", "fold_indices"]


def fold_indices(n: int, folds: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """``folds`` pairs of indices (the others, the fold) that split ``0 .. n - 1`` at random into nearly equal folds.

    Raises:
        ValueError: fewer than 2 folds, or more than examples.
    """
    if not 2 <= folds <= n:
        raise ValueError(f"folds must lie in 2..{n}, the number of examples, received {folds}")
    parts = torch.randperm(n, generator=generator(seed, "folds")).tensor_split(folds)
    return [(torch.cat([*parts[:i], *parts[i + 1 :]]), part) for i, part in enumerate(parts)]


@torch.no_grad()
def cross_fitted(train: Callable[[InMemory], nn.Module], source: InMemory, folds: int, seed: int) -> Tensor:
    """Log-probabilities of every example by a teacher trained on the other folds.

    Args:
        train: trains a teacher on a source and returns it, for example
            ``lambda part: fit(build(...), part, Supervised("ce"), recipe, seed=0).teacher()``.
        source: the training data, with or without replicas.
        folds: how many teachers are trained, >= 2; seed: of the split.
    Returns:
        float64 ``(N, K)``, or ``(R, N, K)`` with replicas.
    Raises:
        ValueError: a number of folds that does not fit.
    """
    rows = torch.empty((*source.y.shape, source.num_classes), dtype=torch.float64)
    for others, fold in fold_indices(len(source), folds, seed):
        with torch.enable_grad():
            teacher = train(source.subset(others)).eval()
        rows[..., fold, :] = teacher(source.batch(fold).x).logits.double().log_softmax(-1)
    return rows


# ------------------------------------------------------------------------------------------------------------ the claim

EXAMPLES, FOLDS, DIMENSION = 48, 4, 60
ROUNDING = 1e-12


def _world() -> GaussianMixture:
    """Hard to tell apart in many dimensions: labels are noisy, and a network can memorise them."""
    means = torch.zeros(2, DIMENSION, dtype=torch.float64)
    means[:, 0] = torch.tensor([-0.4, 0.4])
    return GaussianMixture(means=means, covariance=1.0)


class _Frozen(nn.Module):
    """A teacher that is p* itself."""

    def __init__(self, mixture: GaussianMixture) -> None:
        super().__init__()
        self.mixture = mixture

    def forward(self, x: Tensor) -> Views:
        logits = self.mixture.log_posterior(x.double().flatten(0, -2)).view(*x.shape[:-1], -1)
        return Views(logits, logits, (), ())


def _distances(settings: Settings, loss: str, *, frozen: bool) -> tuple[Tensor, Tensor]:
    """Of every replica the MSE to p* at all its inputs: one teacher that saw them all, and cross-fitted teachers."""
    replicas = 120 if settings.full else 60
    seed = derive(settings.seed, "cross-fitting", loss)
    mixture = _world()
    x, y = mixture.sample(replicas * EXAMPLES, seed)
    log_bayes = mixture.log_posterior(x).view(replicas, EXAMPLES, 2)
    source = InMemory(x.view(replicas, EXAMPLES, -1), y.view(replicas, EXAMPLES), num_classes=2)
    seeds = [derive(seed, "replica", r) for r in range(replicas)]
    recipe = settings.trainer.recipe(
        epochs=20, learning_rate=0.01, batch_size=EXAMPLES, optimizer="adam", validation=0.0
    )

    def train(part: InMemory) -> nn.Module:
        if frozen:
            return _Frozen(mixture)
        net = build("mlp", num_classes=2, input_shape=(DIMENSION,), hidden=(16,), seed=seeds)
        teacher: nn.Module = settings.trainer.fit(net, part, Supervised(loss), recipe, seed=seeds).teacher()
        return teacher

    def distance(rows: Tensor) -> Tensor:
        return simplex.squared_distance(rows.exp(), log_bayes.exp()).mean(-1)

    teacher = train(source)
    with torch.no_grad():
        seen = teacher(source.batch(torch.arange(EXAMPLES)).x).logits.double().log_softmax(-1)
    return distance(seen), distance(cross_fitted(train, source, FOLDS, seed))


def _advantage(distances: Callable[..., tuple[Tensor, Tensor]], loss: str, control: str | None = None) -> Outcome:
    """Minus the number of standard errors by which the teacher that saw the inputs is farther from p*."""
    seen, unseen = distances(loss, frozen=control == "frozen_at_bayes")
    difference = seen - unseen
    spread, mean = torch.std_mean(torch.where(difference.abs() < ROUNDING, 0.0, difference))
    if control == "reversed":
        mean = -mean
    stderr = float(spread) / math.sqrt(len(seen))
    value = -float(mean) / stderr if stderr else 0.0
    return Outcome(value, -STANDARD_ERRORS, 1, stderr=stderr, difference=-float(mean))


def _trials(settings: Settings) -> Sequence[Trial]:
    if settings.mixture is not None:
        return []
    distances = cache(partial(_distances, settings))
    trials = []
    for loss in ("ce", "mse") if settings.full else ("ce",):
        for control in (None, "frozen_at_bayes", "reversed"):
            trials.append(
                Trial(f"Monte Carlo {DIMENSION}-D", partial(_advantage, distances, loss, control), control, loss)
            )
    return trials


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="cross-fitting",
        number="C7",
        title="An overfitted teacher is farther from p* where it was trained",
        statement=(
            "At the training inputs an overfitted teacher is farther from p* in MSE than teachers that were trained "
            "without them (4 folds), over replicas paired by data, initialisation and order"
        ),
        formula=(
            r"\frac{1}{N}\sum_i \|q_S(x_i) - p^*(x_i)\|^2 > "
            r"\frac{1}{N}\sum_i \|q_{S \setminus \mathrm{fold}(i)}(x_i) - p^*(x_i)\|^2"
        ),
        conditions=(
            "noisy labels and a network that memorises them (more dimensions than examples); no theorem: a teacher "
            "that does not overfit has nothing to gain"
        ),
        source="Dao et al. 2021, for cross-fitting; the comparison is an experiment",
        controls={
            "frozen_at_bayes": "the teacher is p* itself and never trained",
            "reversed": "the teacher that saw the inputs is claimed to be closer",
        },
        trials=_trials,
    ),
)
