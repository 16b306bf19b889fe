"""People's p* end to end: shares of votes as CIFAR-10H publishes them, distances, differences, Bayes error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from bcpd import simplex
from bcpd.data.cifar10h import HumanLabels
from bcpd.measure import bayes_error_from_votes, distance_to_votes
from bcpd.measure.votes import compare_to_votes, kl_from_votes, squared_distance_from_votes


@dataclass(frozen=True)
class Crowd:
    """A known p*, the votes of 47 to 63 people at every x, and a teacher that has seen neither."""

    p: Tensor
    counts: Tensor
    human: HumanLabels
    q: Tensor


@pytest.fixture(scope="module")
def crowd() -> Crowd:
    """6,000 rows of ten classes, most of them nearly sure, as people are about CIFAR-10."""
    rng = np.random.default_rng(11)
    n = 6000
    y = rng.integers(0, 10, n)
    p = rng.dirichlet(np.full(10, 0.3), n) * rng.beta(0.3, 1.5, n)[:, None]
    p[np.arange(n), y] += 1 - p.sum(1)
    counts = torch.tensor(
        np.stack([rng.multinomial(m, row) for m, row in zip(rng.integers(47, 64, n), p, strict=True)])
    )
    truth = torch.tensor(p)
    return Crowd(truth, counts, HumanLabels.from_shares(counts / counts.sum(-1, keepdim=True)), 0.9 * truth + 0.01)


def test_votes_recovered_from_shares_measure_like_the_votes_themselves(crowd: Crowd) -> None:
    """The one quantity that depends on m lies between its least and its most, in an interval of no importance."""
    known = crowd.human.known
    assert 0.3 < float(known.double().mean()) < 0.95
    assert torch.equal(crowd.human.counts[known], crowd.counts[known])
    least, true, typical, most = (
        distance_to_votes(crowd.q, votes)["mse"]
        for votes in (
            crowd.human.counts_at("least"),
            crowd.counts,
            crowd.human.counts_at(),
            crowd.human.counts_at("most"),
        )
    )
    assert least.value <= true.value <= most.value
    assert least.value <= typical.value <= most.value
    assert most.value - least.value < 0.1 * true.stderr


def test_the_debiased_distance_to_people_is_right_and_the_plug_in_is_not(crowd: Crowd) -> None:
    """False alarm 6e-7 (5 standard errors of the error at each row, p* known)."""
    votes = crowd.human.counts_at()
    exact = simplex.squared_distance(crowd.q, crowd.p)
    error = squared_distance_from_votes(crowd.q, votes) - exact
    stderr = float(error.std()) / len(error) ** 0.5
    assert abs(float(error.mean())) < 5 * stderr
    measured = distance_to_votes(crowd.q, votes)
    assert measured["plug_in"].value - float(exact.mean()) > 10 * stderr
    noise = (1 - crowd.p.square().sum(-1)) / votes.sum(-1)
    assert abs(measured["vote_noise"].value - float(noise.mean())) < 5 * measured["vote_noise"].stderr


def test_which_of_two_teachers_is_closer_to_people(crowd: Crowd) -> None:
    """The difference needs no number of votes, and sees in 6,000 rows what the distances themselves do not."""
    nearer = 0.905 * crowd.p + 0.0095
    found = compare_to_votes(nearer, crowd.q, crowd.human.probabilities)
    truth = simplex.squared_distance(nearer, crowd.p) - simplex.squared_distance(crowd.q, crowd.p)
    assert abs(found["mse"].value - float(truth.mean())) < 5 * found["mse"].stderr
    assert found["mse"].value < -10 * found["mse"].stderr
    assert found["kl"].value < -10 * found["kl"].stderr
    one = distance_to_votes(crowd.q, crowd.human.counts_at())["mse"]
    assert abs(float(truth.mean())) < 20 * one.stderr
    assert found["mse"].stderr < 0.2 * one.stderr


def test_bayes_error_and_kl_lie_in_their_brackets(crowd: Crowd) -> None:
    votes = crowd.human.counts_at()
    bayes_error = float((1 - crowd.p.amax(-1)).mean())
    bracket = bayes_error_from_votes(votes)
    low, high = bracket.interval(0.999)
    assert low < bayes_error < high
    sure_low, sure_high = bracket.hoeffding(0.999)
    assert sure_low < low < high < sure_high
    # what is not known of m leaves the lower end as it is: shares alone are in it
    assert bayes_error_from_votes(crowd.human.counts_at("most")).lower == bracket.lower
    kl = kl_from_votes(crowd.q, votes)
    exact = float(simplex.kl(crowd.p, crowd.q).mean())
    assert kl.lower.value - 5 * kl.lower.stderr < exact < kl.upper.value + 5 * kl.upper.stderr
    assert float(simplex.kl(crowd.human.probabilities, crowd.q).mean()) > kl.upper.value
