"""The binned calibration error against direct computation, and its interval against an ordinary bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bcpd.measure.reliability import BINS, ConfidenceBins

Array = np.ndarray


def _rows(n: int, k: int, seed: int, concentration: float = 1.0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(k, concentration), n), rng.dirichlet(np.full(k, concentration), n)


def direct(bayes: Array, q: Array, weights: Array | None = None) -> float:
    """Bin by bin, interval by interval."""
    top = q.argmax(1)
    confidence = q.max(1)
    gap = bayes[np.arange(len(q)), top] - confidence
    share = np.full(len(q), 1 / len(q)) if weights is None else weights / weights.sum()
    total = 0.0
    for b in range(BINS):
        inside = (confidence > b / BINS) & (confidence <= (b + 1) / BINS)
        total += abs((share * gap)[inside].sum())
    return total


def tallies(bayes: Array, q: Array, weights: Array | None = None, blocks: int = 1) -> ConfidenceBins:
    bins = ConfidenceBins()
    for rows in np.array_split(np.arange(len(q)), blocks):
        share = None if weights is None else torch.from_numpy(weights[rows])
        bins.add(torch.from_numpy(bayes[rows]).log(), torch.from_numpy(q[rows]).log(), share)
    return bins


@pytest.mark.parametrize("k", [2, 3, 10])
def test_value_agrees_with_bins_formed_one_by_one(k: int) -> None:
    bayes, q = _rows(500, k, k)
    weights = np.random.default_rng(k).random(500)
    assert tallies(bayes, q, blocks=13).bootstrap(0).value == pytest.approx(direct(bayes, q), rel=1e-12)
    assert tallies(bayes, q, weights, blocks=13).exact().value == pytest.approx(direct(bayes, q, weights), rel=1e-12)


def test_bins_are_closed_on_the_right_and_certainty_is_counted() -> None:
    q = np.array([[1.0, 0.0], [0.6, 0.4], [0.6 + 1e-9, 0.4 - 1e-9]])  # 0.6 = 9/15
    bayes = np.array([[0.75, 0.25], [0.5, 0.5], [0.8, 0.2]])
    assert tallies(bayes, q).exact().value == pytest.approx((0.25 + 0.1 + 0.2) / 3, abs=1e-9)
    # in one bin, the gaps of opposite sign would cancel
    assert tallies(bayes[1:], q[[1, 1]]).exact().value == pytest.approx((0.2 - 0.1) / 2, abs=1e-9)


def test_the_posterior_itself_has_none_where_sampled_labels_see_some() -> None:
    bayes, _ = _rows(400, 3, 0)
    assert tallies(bayes, bayes).bootstrap(0).value < 1e-16
    rng = np.random.default_rng(0)
    labels = np.array([rng.choice(3, p=row) for row in bayes])
    assert direct(np.eye(3)[labels], bayes) > 0.03


def test_the_plug_in_value_is_biased_upward() -> None:
    """q = p* moved by noise of mean zero is calibrated in every bin of the population, not in a sample's bins."""
    rng = np.random.default_rng(0)

    def mean_value(n: int) -> float:
        values = []
        for _ in range(40):
            confidence = rng.uniform(0.55, 0.95, n)
            top = confidence + rng.choice([-0.04, 0.04], n)
            values.append(tallies(np.stack([top, 1 - top], 1), np.stack([confidence, 1 - confidence], 1)).exact().value)
        return float(np.mean(values))

    few, many = mean_value(20), mean_value(2_000)
    assert few > 5 * many > 0


def test_bootstrap_agrees_with_resampling_the_points() -> None:
    """Two standard deviations of 2 percent relative error each: 15 percent is 5 standard errors."""
    rng = np.random.default_rng(3)
    n = 2_000
    confidence = rng.uniform(0.5, 1.0, n)
    top = np.clip(confidence - 0.6 * (confidence - 0.5) + rng.normal(0, 0.1, n), 0, 1)
    bayes, q = np.stack([top, 1 - top], 1), np.stack([confidence, 1 - confidence], 1)
    found = tallies(bayes, q, blocks=3).bootstrap(0)
    ordinary = np.std([direct(bayes[rows], q[rows]) for rows in (rng.integers(0, n, n) for _ in range(1_000))], ddof=1)
    assert found.method == "bootstrap"
    assert found.stderr == pytest.approx(ordinary, rel=0.15)
    # neither source of variation alone is enough
    gap = top - confidence
    bins = (np.ceil(confidence * BINS) - 1).astype(int)
    means = np.array([gap[bins == b].mean() if (bins == b).any() else 0.0 for b in range(BINS)])
    within = np.sqrt(((gap - means[bins]) ** 2).mean() / n)
    between = np.abs(means[bins]).std() / np.sqrt(n)
    assert within < 0.85 * ordinary
    assert between < 0.85 * ordinary
    assert np.hypot(within, between) == pytest.approx(ordinary, rel=0.15)


def test_bootstrap_depends_on_its_seed_only() -> None:
    bayes, q = _rows(300, 3, 0)
    bins = tallies(bayes, q)
    assert bins.bootstrap(0) == bins.bootstrap(0)
    assert bins.bootstrap(0).stderr != bins.bootstrap(1).stderr
