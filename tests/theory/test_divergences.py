"""The chain of divergences, its tight cases, and the two orders of teachers."""

import math

import mpmath
import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st
from torch import Tensor
from trying import SEEDS, settings_at, tried

from bcpd import simplex
from bcpd.testing import pairs, simplex_rows_with_zeros
from bcpd.theory.parts import divergences
from bcpd.theory.parts.divergences import (
    LINKS,
    SEARCH,
    TRIPLE,
    chain,
    disagreement_rate,
    orders_disagree,
    random_triples,
)


@pytest.mark.parametrize("seed", SEEDS)
def test_claims_hold_and_controls_fail(seed: int) -> None:
    tried(divergences.CLAIMS, settings_at(seed))


def test_a_users_finite_mixture_has_the_chain_alone() -> None:
    assert {check.claim for check in tried(divergences.CLAIMS, settings_at(0, "finite"))} == {"norm-chain"}
    assert tried(divergences.CLAIMS, settings_at(0, "gaussian-1d")) == []


@settings(max_examples=50)
@given(pairs())
def test_every_link_holds(pair: tuple[Tensor, Tensor]) -> None:
    members = chain(*pair)
    assert members.shape == (len(LINKS),)
    for left, right in zip(members[:-1].tolist(), members[1:].tolist(), strict=True):
        assert left <= right + 1e-12 * (1 + left)


@settings(max_examples=50)
@given(st.integers(2, 4).flatmap(lambda k: st.tuples(simplex_rows_with_zeros(k), simplex_rows_with_zeros(k))))
def test_members_are_infinite_or_right_at_the_boundary(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    members = chain(p, q)
    assert not bool(members.isnan().any())
    if bool(((q == 0) & (p > 0)).any()):
        assert bool(members[3:].isinf().all())


def test_the_claim_is_tried_where_members_are_infinite() -> None:
    table = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], dtype=torch.float64)
    p, q = divergences._pairs_with_zeros(lambda: table)
    members = chain(p, q)
    assert bool(members[:2, 3:].isinf().all())
    assert bool(members[2:, :6].isfinite().all())
    assert bool(members[4:, 3:6].isfinite().all())
    assert bool(members[4:, 6].isinf().all())  # the least q is 0 where p is as well


@settings(max_examples=25)
@given(pairs())
def test_members_against_mpmath(pair: tuple[Tensor, Tensor]) -> None:
    with mpmath.workdps(40):
        p, q = ([mpmath.mpf(float(value)) for value in row] for row in pair)
        gaps = [a - b for a, b in zip(p, q, strict=True)]
        chi = mpmath.fsum(gap**2 / b for gap, b in zip(gaps, q, strict=True))
        exact = [
            mpmath.fsum(gap**2 for gap in gaps),
            mpmath.fsum(abs(gap) for gap in gaps) ** 2 / 2,
            mpmath.fsum(abs(gap) for gap in gaps) ** 2 / 2,
            mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(p, q, strict=True)),
            mpmath.log(1 + chi),
            chi,
            mpmath.fsum(gap**2 for gap in gaps) / min(q),
        ]
    assert chain(*pair).tolist() == pytest.approx([float(value) for value in exact], rel=1e-9, abs=1e-12)


def test_the_fixed_triple_as_printed() -> None:
    p, a, b = (torch.tensor(row, dtype=torch.float64) for row in TRIPLE)
    mse = [float(simplex.squared_distance(p, each)) for each in (a, b)]
    nats = [float(simplex.kl(p, each)) for each in (a, b)]
    assert [round(value, 4) for value in mse] == [0.0158, 0.0008]
    assert [round(value, 3) for value in nats] == [0.037, 0.086]
    assert mse[0] / mse[1] == pytest.approx(20, abs=1)
    assert nats[1] / nats[0] == pytest.approx(2.3, abs=0.05)
    assert bool(orders_disagree(p, a, b))
    assert bool(orders_disagree(p, b, a))
    assert not bool(orders_disagree(p, a, a))


@pytest.mark.parametrize("num_classes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_search_finds_a_disagreement_within_the_allowed_draws(num_classes: int) -> None:
    row = st.lists(st.integers(1, 6), min_size=num_classes, max_size=num_classes).map(
        lambda parts: torch.tensor(parts, dtype=torch.float64) / sum(parts)
    )
    allowed = settings(max_examples=SEARCH, derandomize=True, deadline=None)
    p, a, b = find(st.tuples(row, row, row), lambda triple: bool(orders_disagree(*triple)), settings=allowed)
    closer = simplex.squared_distance(p, a) < simplex.squared_distance(p, b)
    assert bool(closer) != bool(simplex.kl(p, a) < simplex.kl(p, b))


@settings(max_examples=30)
@given(pairs(), st.floats(0.01, 0.99))
def test_on_one_ray_the_orders_agree(pair: tuple[Tensor, Tensor], part: float) -> None:
    p, a = pair
    assert not bool(orders_disagree(p, a, (1 - part) * p + part * a)) or float(simplex.kl(p, a)) < 1e-14


def test_random_triples_are_uniform_on_the_simplex() -> None:
    """The first two moments of Dirichlet(1, ..., 1), within 5 standard errors; independent of each other."""
    n, k = 40_000, 4
    p, a, b = random_triples(k, n, 0)
    for row in (p, a, b):
        assert torch.allclose(row.sum(-1), torch.ones(n).double())
        assert abs(float(row[:, 0].mean()) - 1 / k) < 5 * float(row[:, 0].std()) / math.sqrt(n)
        squares = row[:, 0].square()
        assert abs(float(squares.mean()) - 2 / (k * (k + 1))) < 5 * float(squares.std()) / math.sqrt(n)
    product = (p[:, 0] - 1 / k) * (a[:, 0] - 1 / k)
    assert abs(float(product.mean())) < 5 * float(product.std()) / math.sqrt(n)
    assert not torch.equal(a, b)


def test_the_rate_counts_disagreements() -> None:
    rate = disagreement_rate(3, 5000, 0)
    p, a, b = random_triples(3, 5000, 0)
    by_loop = sum(
        (float(simplex.squared_distance(x, y)) < float(simplex.squared_distance(x, z)))
        != (float(simplex.kl(x, y)) < float(simplex.kl(x, z)))
        for x, y, z in zip(p[:500], a[:500], b[:500], strict=True)
    )
    assert int(orders_disagree(p[:500], a[:500], b[:500]).sum()) == by_loop
    assert rate.stderr == pytest.approx(math.sqrt(rate.value * (1 - rate.value) / 5000), rel=1e-3)
    assert 0.05 < rate.value < 0.12


def test_the_picture_has_intervals_that_grow_with_the_classes() -> None:
    (claim,) = [claim for claim in divergences.CLAIMS if claim.id == "order-disagreement"]
    assert claim.picture is not None
    (series,) = claim.picture(settings_at(0))["series"]
    assert series["y"][0] < series["y"][3] < series["y"][-1]
    assert all(low < y < high for low, y, high in zip(series["low"], series["y"], series["high"], strict=True))
