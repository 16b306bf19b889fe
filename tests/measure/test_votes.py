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
from bcpd.data.cifar10h import read_cifar10h
from bcpd.measure import bayes_error_from_votes, bayes_error_interval, distance_to_votes
from bcpd.measure.votes import (
    compare_to_votes,
    entropy_from_votes,
    kl_from_votes,
    majority_of_the_others,
    squared_distance_from_votes,
    squared_norm_from_votes,
    surprise_of_the_others,
    truncated_entropy,
)
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


@settings(max_examples=30)
@given(simplex_rows_with_zeros(3), st.integers(2, 5))
def test_the_entropys_bracket_holds_it_in_expectation_and_is_narrower_than_the_plug_in(p: Tensor, voters: int) -> None:
    counts, chances = every_ballot(voters, p)
    lower, upper = float(chances @ truncated_entropy(counts)), float(chances @ surprise_of_the_others(counts))
    series = sum(float((p * (1 - p) ** v).sum()) / v for v in range(1, voters))
    assert lower == pytest.approx(series, abs=1e-12)
    entropy = float(simplex.entropy(p))
    assert lower - 1e-12 <= entropy <= upper + 1e-12
    plug_in = float(chances @ simplex.entropy(counts / voters))
    assert plug_in <= lower + 1e-12
    # a vote judged by a rule that has seen it is no upper bound
    seen = -torch.special.xlogy(counts / voters, (counts + 1 / 3) / (voters + 1)).sum(-1)
    if voters >= 4 and float(p.max()) < 0.5:
        assert float(chances @ seen) < upper


@given(st.lists(st.integers(0, 5), min_size=2, max_size=5).filter(lambda counts: sum(counts) >= 2))
def test_the_surprise_by_leaving_every_voter_out(counts: list[int]) -> None:
    ballot = [k for k, count in enumerate(counts) for _ in range(count)]
    surprises = []
    for place, vote in enumerate(ballot):
        others = ballot[:place] + ballot[place + 1 :]
        surprises.append(-math.log((others.count(vote) + 1 / len(counts)) / (len(others) + 1)))
    assert float(surprise_of_the_others(counts)) == pytest.approx(np.mean(surprises), abs=1e-12)


@settings(max_examples=20)
@given(ROWS, simplex_rows(4), st.integers(1, 4))
def test_differences_of_distances_are_unbiased_for_any_number_of_votes(
    pair: tuple[Tensor, Tensor], other: Tensor, voters: int
) -> None:
    """One vote is enough: the noise is the same in both, and cancels."""
    q_a, p = pair
    q_b = other[: len(p)] / other[: len(p)].sum()
    counts, chances = every_ballot(voters, p)
    found = {"mse": 0.0, "kl": 0.0}
    for count, chance in zip(counts, chances.tolist(), strict=True):
        at_one_x = compare_to_votes(q_a.expand(2, -1), q_b.expand(2, -1), count.expand(2, -1))
        found = {name: value + chance * at_one_x[name].value for name, value in found.items()}
    squared = simplex.squared_distance(q_a, p) - simplex.squared_distance(q_b, p)
    assert found["mse"] == pytest.approx(float(squared), abs=1e-10)
    assert found["kl"] == pytest.approx(float(simplex.kl(p, q_a) - simplex.kl(p, q_b)), abs=1e-9)


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


def test_what_is_linear_in_p_and_the_brackets_of_the_rest() -> None:
    p, q, votes = sampled(20_000, 5, 7)
    measured = distance_to_votes(q, votes)
    predicted = p.gather(-1, q.argmax(-1, keepdim=True))[:, 0]
    for name, values in {"ce": simplex.cross_entropy(p, q), "accuracy": predicted}.items():
        assert abs(measured[name].value - float(values.mean())) < 5 * measured[name].stderr, name
    entropy, kl = entropy_from_votes(votes), kl_from_votes(q, votes)
    for bracket, truth in ((entropy, simplex.entropy(p)), (kl, simplex.kl(p, q))):
        assert bracket.lower.value - 5 * bracket.lower.stderr < float(truth.mean())
        assert bracket.upper.value + 5 * bracket.upper.stderr > float(truth.mean())
    # the plug-in misses both, by (K - 1) / 2m and more
    share = votes / 5
    assert float(simplex.entropy(share).mean()) + 50 * entropy.lower.stderr < float(simplex.entropy(p).mean())
    assert float(simplex.kl(share, q).mean()) - 50 * kl.upper.stderr > float(simplex.kl(p, q).mean())
    assert kl.upper.value == pytest.approx(measured["ce"].value - entropy.lower.value, abs=1e-12)
    assert kl.lower.value == pytest.approx(measured["ce"].value - entropy.upper.value, abs=1e-12)


def test_the_noise_of_the_votes_cancels_between_two_predictors() -> None:
    p, q, votes = sampled(5000, 2, 8)
    other = 0.8 * p + 0.2 * p.roll(1, -1)
    found = compare_to_votes(q, other, votes)
    apart = squared_distance_from_votes(q, votes) - squared_distance_from_votes(other, votes)
    assert found["mse"].value == pytest.approx(float(apart.mean()), abs=1e-12)
    assert compare_to_votes(q, other, votes / 2)["mse"].value == pytest.approx(found["mse"].value, abs=1e-15)
    truth = {
        "mse": simplex.squared_distance(q, p) - simplex.squared_distance(other, p),
        "kl": simplex.kl(p, q) - simplex.kl(p, other),
    }
    for name, values in truth.items():
        assert abs(found[name].value - float(values.mean())) < 5 * found[name].stderr, name
    assert found["accuracy"].value < 0.02
    single = distance_to_votes(q, votes)["mse"].stderr
    assert compare_to_votes(q, 0.99 * q + 0.01 / 3, votes)["mse"].stderr < 0.05 * single


def test_an_excluded_class_that_somebody_chose_costs_infinity() -> None:
    q = [[1.0, 0.0], [0.5, 0.5]]
    votes = [[3, 1], [2, 2]]
    assert distance_to_votes(q, votes)["ce"].value == math.inf
    assert kl_from_votes(q, votes).lower.value == math.inf
    assert distance_to_votes(q, [[4, 0], [2, 2]])["ce"].value == pytest.approx(math.log(2) / 2)
    assert compare_to_votes(q, [[0.5, 0.5], [0.5, 0.5]], votes)["kl"].value == math.inf
    assert math.isnan(compare_to_votes(q, q, votes)["kl"].value)
    logs = [[0.0, -200.0], [math.log(0.5)] * 2]
    assert distance_to_votes(q, votes, log_q=logs)["ce"].value == pytest.approx(25 + math.log(2) / 2)


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
    sure_low, sure_high = bracket.hoeffding()
    half = math.sqrt(math.log(2 / 0.05) / 40_000)
    assert sure_low == pytest.approx(bracket.lower.value - 2 / 3 * half)
    assert sure_high == pytest.approx(bracket.upper.value + half)
    assert sure_low < bayes_error < sure_high
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
    for confidence in (0, 1):
        with pytest.raises(ValueError, match=rf"confidence must lie in \(0, 1\), received {confidence}"):
            bayes_error_interval([[0.5, 0.5], [1.0, 0.0]], confidence)
        with pytest.raises(ValueError, match=rf"confidence must lie in \(0, 1\), received {confidence}"):
            bayes_error_from_votes([[3, 1], [2, 2]]).hoeffding(confidence)
    rows = [[0.5, 0.5], [1.0, 0.0]]
    for wrong in ([[1, -1], [1, 1]], [[0, 0], [1, 1]]):
        with pytest.raises(ValueError, match=r"votes must be counts >= 0 \(or their shares\), at least one a row"):
            compare_to_votes(rows, rows, wrong)
    with pytest.raises(ValueError, match=r"q_b and votes must be rows of the same shape"):
        compare_to_votes(rows, [[0.5, 0.5]], [[1, 1], [1, 1]])


# ------------------------------------------------------------------------------------------------------ people's votes


def human_votes() -> Tensor:
    """CIFAR-10H as counts."""
    path = next((path for path in HUMAN if path.is_file()), None)
    if path is None:
        pytest.skip("CIFAR-10H is not here: no cifar10h-probs.npy below BCPD_DATA or ../shared/data")
    return read_cifar10h(path.parent).counts_at().double()


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
