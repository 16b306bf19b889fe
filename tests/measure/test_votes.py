"""Estimates from votes: unbiased by listing outcomes, the bracket, Hoeffding's interval, and people's votes."""

import math
import os
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bcpd import simplex
from bcpd.measure import bayes_error_from_votes, bayes_error_interval, distance_to_votes
from bcpd.measure.votes import majority_of_the_others, squared_distance_from_votes, squared_norm_from_votes
from bcpd.mixtures import GaussianMixture
from bcpd.seeds import generator
from bcpd.testing import simplex_rows, simplex_rows_with_zeros
from bcpd.theory.instruments.votes import draw_votes

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [Path(os.environ["BCPD_DATA"])] if "BCPD_DATA" in os.environ else []
HUMAN = [
    folder / part / "cifar10h-probs.npy"
    for folder in [*FOLDERS, ROOT.parent / "shared" / "data"]
    for part in ("cifar-10h", "cifar10")
]


def every_ballot(voters: int, p: Tensor) -> tuple[Tensor, Tensor]:
    """All ordered ballots as counts ``(K**m, K)``, and their probabilities: no multinomial coefficient anywhere."""
    ballots = list(product(range(len(p)), repeat=voters))
    counts = torch.tensor([[ballot.count(k) for k in range(len(p))] for ballot in ballots], dtype=torch.float64)
    return counts, torch.tensor([math.prod(float(p[k]) for k in ballot) for ballot in ballots], dtype=torch.float64)


ROWS = st.integers(2, 4).flatmap(lambda k: st.tuples(simplex_rows(k), simplex_rows_with_zeros(k)))


@settings(max_examples=40)
@given(ROWS, st.integers(2, 4))
def test_norm_and_distance_are_unbiased_and_their_plug_ins_are_not(pair: tuple[Tensor, Tensor], voters: int) -> None:
    q, p = pair
    counts, chances = every_ballot(voters, p)
    norm, noise = float(p.square().sum()), float(1 - p.square().sum())
    assert float(chances @ squared_norm_from_votes(counts)) == pytest.approx(norm, abs=1e-12)
    distance = float(simplex.squared_distance(q, p))
    assert float(chances @ squared_distance_from_votes(q, counts)) == pytest.approx(distance, abs=1e-12)
    shares = counts / voters
    plug_in = float(chances @ simplex.squared_distance(q, shares))
    assert plug_in == pytest.approx(distance + noise / voters, abs=1e-12)


def test_the_squared_norm_is_how_often_two_voters_agree() -> None:
    ballot = [0, 0, 1, 2, 2, 2]
    agree = [first == second for first, second in permutations(ballot, 2)]
    assert float(squared_norm_from_votes([2, 1, 3])) == pytest.approx(np.mean(agree))


@given(st.lists(st.integers(0, 5), min_size=2, max_size=5).filter(lambda counts: sum(counts) >= 2))
def test_majority_of_the_others_by_leaving_every_voter_out(counts: list[int]) -> None:
    ballot = [k for k, count in enumerate(counts) for _ in range(count)]
    disagreements = []
    for place, vote in enumerate(ballot):
        others = ballot[:place] + ballot[place + 1 :]
        most = max(others.count(k) for k in range(len(counts)))
        winners = [k for k in range(len(counts)) if others.count(k) == most]
        disagreements.append(1 - winners.count(vote) / len(winners))
    assert float(majority_of_the_others(counts)) == pytest.approx(np.mean(disagreements), abs=1e-12)


@settings(max_examples=30)
@given(simplex_rows_with_zeros(3), st.integers(2, 5))
def test_the_bracket_holds_the_bayes_error_in_expectation(p: Tensor, voters: int) -> None:
    counts, chances = every_ballot(voters, p)
    lower = float(chances @ (1 - counts.amax(-1) / voters))
    upper = float(chances @ majority_of_the_others(counts))
    assert lower - 1e-12 <= float(1 - p.max()) <= upper + 1e-12


def test_five_votes_put_the_plug_in_far_below() -> None:
    p = torch.tensor([0.6, 0.4], dtype=torch.float64)
    counts, chances = every_ballot(5, p)
    assert float(chances @ (1 - counts.amax(-1) / 5)) < 0.4 - 0.08


# ------------------------------------------------------------------------------------------------------------- samples


def sampled(n: int, voters: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """p*, a teacher, and votes at points of three classes in the plane."""
    mixture = GaussianMixture([[-0.8, 0.1], [0.7, 0.5], [0.2, -0.9]], 1.2, priors=[0.3, 0.3, 0.4])
    x, _ = mixture.sample(n, seed)
    p = mixture.posterior(x)
    return p, (0.5 * p.log()).softmax(-1), draw_votes(p, voters, seed)


def test_distance_to_votes_finds_the_distance_and_its_noise() -> None:
    p, q, votes = sampled(20_000, 5, 0)
    measured = distance_to_votes(q, votes)
    exact = {
        "mse": simplex.squared_distance(q, p),
        "irreducible": 1 - p.square().sum(-1),
        "vote_noise": (1 - p.square().sum(-1)) / 5,
        "plug_in": simplex.squared_distance(q, p) + (1 - p.square().sum(-1)) / 5,
    }
    for name, values in exact.items():
        # 5 standard errors: false alarm 6e-7 each; the errors include the spread over x, so they are generous
        assert abs(measured[name].value - float(values.mean())) < 5 * measured[name].stderr, name
    assert measured["plug_in"].value - float(exact["mse"].mean()) > 50 * measured["plug_in"].stderr
    assert measured["plug_in"].value == pytest.approx(measured["mse"].value + measured["vote_noise"].value, abs=1e-12)
    low, high = measured["mse"].interval()
    assert low < measured["mse"].value < high


def test_rows_may_have_different_numbers_of_votes() -> None:
    p, q, _ = sampled(20_000, 2, 1)
    few, many = draw_votes(p[:10_000], 2, 5), draw_votes(p[10_000:], 20, 6)
    measured = distance_to_votes(q, torch.cat([few, many]))
    assert abs(measured["mse"].value - float(simplex.squared_distance(q, p).mean())) < 5 * measured["mse"].stderr
    apart = [squared_distance_from_votes(q[:10_000], few), squared_distance_from_votes(q[10_000:], many)]
    assert torch.equal(torch.cat(apart), squared_distance_from_votes(q, torch.cat([few, many])))


def test_votes_that_trained_the_teacher_are_no_measure_of_it() -> None:
    p, _, votes = sampled(5000, 5, 2)
    own = votes / 5
    assert distance_to_votes(own, votes)["mse"].value < -0.05
    fresh = draw_votes(p, 5, 99)
    measured = distance_to_votes(own, fresh)["mse"]
    assert abs(measured.value - float(simplex.squared_distance(own, p).mean())) < 5 * measured.stderr


def test_the_bracket_from_sampled_votes() -> None:
    p, _, votes = sampled(20_000, 5, 3)
    bayes_error = float((1 - p.amax(-1)).mean())
    bracket = bayes_error_from_votes(votes)
    assert bracket.lower.value + 10 * bracket.lower.stderr < bayes_error
    assert bracket.upper.value - 5 * bracket.upper.stderr > bayes_error
    low, high = bracket.interval(0.99)
    assert low < bracket.lower.value < bayes_error < bracket.upper.value < high
    wide = bayes_error_from_votes(draw_votes(p, 40, 4))
    assert wide.upper.value - wide.lower.value < 0.5 * (bracket.upper.value - bracket.lower.value)


# ------------------------------------------------------------------------------------------------------------ interval


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_hoeffdings_half_width(num_classes: int) -> None:
    draw = generator(0, "interval")
    rows = torch.rand(400, num_classes, generator=draw, dtype=torch.float64).softmax(-1)
    found = bayes_error_interval(rows, 0.9)
    assert found.estimate.value == pytest.approx(float((1 - rows.amax(-1)).mean()))
    half = (1 - 1 / num_classes) * math.sqrt(math.log(2 / 0.1) / 800)
    assert found.high - found.low <= 2 * half + 1e-12
    assert found.low == pytest.approx(found.estimate.value - half)
    if num_classes == 2:
        assert half == pytest.approx(math.sqrt(math.log(2 / 0.1) / (8 * 400)))


def test_the_interval_is_cut_to_what_a_bayes_error_can_be() -> None:
    sure = bayes_error_interval(torch.eye(3, dtype=torch.float64))
    assert (sure.estimate.value, sure.low) == (0.0, 0.0)
    even = bayes_error_interval(torch.full((5, 4), 0.25))
    assert even.high == 0.75
    assert even.low < 0.75


# ------------------------------------------------------------------------------------------------------------ refusals


def test_what_is_no_vote_is_refused() -> None:
    for votes, message in [
        ([0.5, 0.5], "whole numbers"),
        ([-1, 3], "whole numbers"),
        ([1, 0], "at least 2 votes, received one with 1"),
        (3.0, "received a scalar"),
    ]:
        with pytest.raises(ValueError, match=message):
            squared_norm_from_votes(votes)
    with pytest.raises(ValueError, match=r"rows of the same shape \(n, K\), n >= 2, received \(2, 2\) and \(2, 3\)"):
        distance_to_votes([[0.5, 0.5], [0.5, 0.5]], [[1, 1, 1], [1, 1, 1]])
    with pytest.raises(ValueError, match=r"votes must have shape \(n, K\) with n >= 2, received \(1, 2\)"):
        bayes_error_from_votes([[3, 1]])
    with pytest.raises(ValueError, match=r"bayes must have shape \(n, K\) with n >= 2"):
        bayes_error_interval([0.5, 0.5])
    with pytest.raises(ValueError, match=r"confidence must lie in \(0, 1\), received 1"):
        bayes_error_interval([[0.5, 0.5], [1.0, 0.0]], 1)


# ------------------------------------------------------------------------------------------------------ people's votes


def human_votes() -> Tensor:
    """CIFAR-10H as counts: the least number of votes in 40 .. 70 of which all shares are multiples."""
    path = next((path for path in HUMAN if path.is_file()), None)
    if path is None:
        pytest.skip("CIFAR-10H is not here: no cifar10h-probs.npy below BCPD_DATA or ../shared/data")
    shares = torch.tensor(np.load(path))
    counts = torch.zeros_like(shares)
    for voters in range(70, 39, -1):
        votes = shares * voters
        whole = ((votes - votes.round()).abs() < 1e-6).all(-1)
        counts[whole] = votes[whole].round()
    return counts


def split(votes: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """``size`` of the voters at every image, drawn without replacement, and the others."""
    rng = np.random.default_rng(seed)
    chosen = np.array([rng.multivariate_hypergeometric(count, size) for count in votes.long().numpy()])
    some = torch.tensor(chosen).double()
    return some, votes - some


def test_few_votes_and_many_votes_of_people_agree_on_a_distance_once_it_is_debiased() -> None:
    """A teacher made of 10 voters at every image, judged by 5 others and by all the others."""
    votes = human_votes()
    assert bool((votes.sum(-1) >= 40).all())
    uncertain = votes[(votes.amax(-1) < votes.sum(-1))][:2000]
    teacher, rest = split(uncertain, 10, 0)
    few, many = split(rest, 5, 1)
    q = teacher / 10
    measured, judged = distance_to_votes(q, few), distance_to_votes(q, many)
    paired = squared_distance_from_votes(q, few) - squared_distance_from_votes(q, many)
    stderr = float(paired.std()) / math.sqrt(len(paired))
    # 5 standard errors of the paired difference: false alarm 6e-7
    assert abs(float(paired.mean())) < 5 * stderr
    assert measured["plug_in"].value - judged["plug_in"].value > 10 * stderr
    bracket = bayes_error_from_votes(few)
    assert bracket.lower.value < bayes_error_from_votes(many).lower.value < bracket.upper.value
