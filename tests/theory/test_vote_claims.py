"""Claims about votes, and the listing of outcomes that they rest on."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multinomial
from torch import Tensor
from trying import SEEDS, settings_at, tried

from bcpd.testing import simplex_rows
from bcpd.theory.instruments import votes
from bcpd.theory.instruments.votes import draw_votes, every_vote, vote_probabilities


@pytest.mark.parametrize("seed", SEEDS)
def test_claims_hold_and_controls_fail(seed: int) -> None:
    tried(votes.CLAIMS, settings_at(seed))


@pytest.mark.parametrize("name", ["finite", "gaussian-1d"])
def test_a_users_mixture(name: str) -> None:
    checks = tried(votes.CLAIMS, settings_at(0, name))
    assert {check.world for check in checks} == {name}
    ids = {check.claim for check in checks}
    assert {"vote-distance", "bayes-error-interval"} <= ids
    assert ("vote-norm" in ids) == (name == "finite")


@settings(max_examples=25)
@given(simplex_rows(3), st.integers(1, 6))
def test_outcomes_and_probabilities_are_scipys(p: Tensor, voters: int) -> None:
    counts = every_vote(voters, 3)
    assert len(counts) == math.comb(voters + 2, 2)
    assert len({tuple(row) for row in counts.tolist()}) == len(counts)
    assert counts.sum(-1).tolist() == [voters] * len(counts)
    chances = vote_probabilities(p, counts)
    assert float(chances.sum()) == pytest.approx(1, abs=1e-12)
    expected = multinomial.pmf(counts.numpy(), voters, (p / p.sum()).numpy())
    assert chances.tolist() == pytest.approx(expected.tolist(), rel=1e-9, abs=1e-15)


def test_drawn_votes_have_the_probabilities_of_the_rows() -> None:
    """Frequencies of all 6 outcomes of two votes for three classes, within 5 standard errors."""
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    drawn = draw_votes(p.expand(20_000, 3), 2, 0)
    for count, chance in zip(every_vote(2, 3), vote_probabilities(p, every_vote(2, 3)).tolist(), strict=True):
        frequency = float((drawn == count).all(-1).double().mean())
        assert abs(frequency - chance) < 5 * math.sqrt(chance * (1 - chance) / 20_000)


def test_the_picture_brackets_the_bayes_error_and_closes() -> None:
    (claim,) = [claim for claim in votes.CLAIMS if claim.picture is not None]
    assert claim.picture is not None
    picture = claim.picture(settings_at(0))
    upper, lower = picture["series"]
    (line,) = picture["lines"]
    assert all(low < line["y"] < high for low, high in zip(lower["y"], upper["y"], strict=True))
    assert upper["y"] == sorted(upper["y"], reverse=True)
    assert lower["y"] == sorted(lower["y"])
