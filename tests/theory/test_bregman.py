"""Scores from a convex function alone are the named losses, and what mpmath makes of the same function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bcpd.losses import LOSSES, power
from bcpd.theory.scores.bregman import SCORES, Score, power_score

mpmath.mp.dps = 40

every_score = pytest.mark.parametrize("name", SCORES)

CONVEX: dict[str, Callable[[Sequence[Any]], Any]] = {
    "brier": lambda q: mpmath.fsum(entry**2 for entry in q) - 1,
    "log": lambda q: mpmath.fsum(entry * mpmath.log(entry) for entry in q),
    "spherical": lambda q: mpmath.sqrt(mpmath.fsum(entry**2 for entry in q)),
    "power": lambda q: mpmath.fsum(entry ** mpmath.mpf(1.5) for entry in q),
    "ranked_probability": lambda q: mpmath.fsum(mpmath.fsum(q[: j + 1]) ** 2 for j in range(len(q))),
}


@st.composite
def rows(draw: st.DrawFn, number: int = 2) -> list[Tensor]:
    count = draw(st.integers(2, 6))
    logit = st.floats(-10, 10, allow_nan=False)
    return [
        torch.tensor(draw(st.lists(logit, min_size=count, max_size=count)), dtype=torch.float64).softmax(-1)
        for _ in range(number)
    ]


def outcome_losses(name: str, q: Tensor) -> Tensor:
    count = q.shape[-1]
    return LOSSES[name](q.log().unsqueeze(-2).expand(*q.shape, count), torch.arange(count).expand(q.shape))


@every_score
@given(pair=rows())
@settings(max_examples=40)
def test_a_score_is_its_entry_of_the_losses_up_to_the_stated_constant_of_the_outcome(
    name: str, pair: list[Tensor]
) -> None:
    p, q = pair
    score, loss = SCORES[name], LOSSES[SCORES[name].loss]
    assert loss.entropy is not None
    assert loss.divergence is not None
    offset = torch.zeros(len(q)).double() if score.offset is None else score.offset(len(q))
    torch.testing.assert_close(score.outcome_losses(q) + offset, outcome_losses(score.loss, q), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(score.divergence(p, q), loss.divergence(p, q), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(score.entropy(p) + p @ offset, loss.entropy(p), rtol=1e-12, atol=1e-12)


def test_the_ranked_probability_score_needs_its_constant() -> None:
    q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    difference = outcome_losses("ranked_probability", q) - SCORES["ranked_probability"].outcome_losses(q)
    torch.testing.assert_close(difference, torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))


@every_score
@given(pair=rows())
@settings(max_examples=15)
def test_savages_formula_is_what_mpmath_makes_of_it(name: str, pair: list[Tensor]) -> None:
    """The derivative along the segment from q to the vertex (to p), by mpmath's finite differences in 40 digits."""
    p, q = ([mpmath.mpf(entry) for entry in row.tolist()] for row in pair)
    convex, score = CONVEX[name], SCORES[name]
    count = len(q)

    def along(target: list[Any]) -> Any:
        return mpmath.diff(
            lambda t: convex([a + t * (b - a) for a, b in zip(q, target, strict=True)]),
            0,
            h=mpmath.mpf(10) ** -18,
        )

    value = convex(q)
    expected = [float(-value - along([mpmath.mpf(int(j == k)) for j in range(count)])) for k in range(count)]
    # rows of doubles do not sum to 1 in 40 digits: a relative error of 1e-16 of the slope
    torch.testing.assert_close(
        score.outcome_losses(pair[1]), torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=1e-11
    )
    divergence = float(convex(p) - value - along(p))
    torch.testing.assert_close(float(score.divergence(*pair)), divergence, rtol=1e-10, atol=1e-11)


@every_score
@given(pair=rows())
@settings(max_examples=30)
def test_the_expected_loss_is_entropy_plus_divergence_and_least_at_the_truth(name: str, pair: list[Tensor]) -> None:
    p, q = pair
    score = SCORES[name]
    risk = float(p @ score.outcome_losses(q))
    assert risk == pytest.approx(float(score.entropy(p) + score.divergence(p, q)), rel=1e-12, abs=1e-12)
    assert float(score.divergence(p, q)) >= -1e-12
    assert abs(float(score.divergence(p, p))) < 1e-12


@every_score
def test_batches_and_vertices(name: str) -> None:
    score = SCORES[name]
    q = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(score.outcome_losses(q)[1, 2], score.outcome_losses(q[1, 2]), rtol=1e-14, atol=0)
    torch.testing.assert_close(score.divergence(q[0], q[1])[2], score.divergence(q[0, 2], q[1, 2]), rtol=1e-14, atol=0)
    vertices = torch.eye(3, dtype=torch.float64)
    at_vertices = score.outcome_losses(vertices)
    assert not bool(at_vertices.isnan().any())
    assert bool((at_vertices.diagonal() + 0.0 == at_vertices.diagonal()).all())
    mistaken = score.divergence(vertices[0], vertices[1])
    assert float(mistaken) > 0.5
    assert bool(mistaken.isinf()) == (name == "log")
    assert float(score.divergence(vertices, vertices).abs().max()) < 1e-15


@every_score
def test_a_score_as_a_loss_trains_like_its_entry(name: str) -> None:
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    target = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(-1)
    own, entry = SCORES[name].as_loss(), LOSSES[SCORES[name].loss]
    assert own.proper
    assert torch.equal(own.minimiser(target), target)
    for t in (target, torch.tensor([0, 1, 2, 3, 3])):
        gradients = [torch.autograd.grad(loss(z, t).sum(), z)[0] for loss in (own, entry)]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
    assert own(z.float(), target).dtype == torch.float32


def test_second_derivatives_go_through_the_divergence() -> None:
    z = torch.tensor([0.2, -0.4, 0.9], dtype=torch.float64, requires_grad=True)
    p = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    for name, score in SCORES.items():
        divergence = LOSSES[score.loss].divergence
        assert divergence is not None
        curvatures = []
        for d in (score.divergence, divergence):
            (slope,) = torch.autograd.grad(d(p, z.softmax(-1)), z, create_graph=True)
            curvatures.append(torch.autograd.grad(slope[0], z)[0])
        torch.testing.assert_close(*curvatures, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("exponent", [1.1, 1.5, 2.0, 3.0])
def test_power_scores_of_every_exponent(exponent: float) -> None:
    q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    labels = torch.arange(3)
    values = power(exponent)(q.log().expand(3, 3), labels)
    torch.testing.assert_close(power_score(exponent).outcome_losses(q), values, rtol=1e-12, atol=1e-13)
    brier = LOSSES["mse"](q.log().expand(3, 3), labels)
    assert torch.allclose(values, brier - 1) == (exponent == 2.0)


def test_what_is_no_score_is_refused() -> None:
    q = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"must return one value a row, shape \(1,\), received \(\)"):
        Score("sum", lambda q: q.square().sum()).outcome_losses(q)
    with pytest.raises(ValueError, match=r"exponent must be > 1, received 1\.0"):
        power_score(1.0)
    with pytest.raises(ValueError, match="q must have 2 columns"):
        SCORES["log"].divergence(q, torch.full((1, 3), 1 / 3))
