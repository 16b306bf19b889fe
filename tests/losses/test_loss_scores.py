"""Theorem 1 for every proper loss: risk = entropy + divergence, truth first, and no other loss's divergence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bcpd.losses import LOSSES

PROPER = [name for name, loss in LOSSES.items() if loss.proper]
SYMMETRIC = ("mse", "mse_mean", "ranked_probability")
proper = pytest.mark.parametrize("name", PROPER)

Divergence = Callable[[Tensor, Tensor], Tensor]


def random_logits(*shape: int, scale: float = 3.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def logits_and_row(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    count = draw(st.integers(2, 7))
    logit = st.floats(-12, 12, allow_nan=False)
    row = st.lists(logit, min_size=count, max_size=count).map(lambda z: torch.tensor(z, dtype=torch.float64))
    vertex = st.integers(0, count - 1).map(lambda k: torch.eye(count, dtype=torch.float64)[k])
    uniform = st.just(torch.full((count,), 1 / count, dtype=torch.float64))
    return draw(row), draw(st.one_of(row.map(lambda z: z.softmax(-1)), vertex, uniform))


def divergence_of(name: str) -> Divergence:
    divergence = LOSSES[name].divergence
    assert divergence is not None
    return divergence


def theorem_gap(name: str, logits: Tensor, p: Tensor, divergence: Divergence) -> float:
    """|label risk - entropy - divergence| of one row."""
    loss = LOSSES[name]
    assert loss.entropy is not None
    outcomes = torch.stack([loss(logits, torch.tensor(k)) for k in range(len(p))])
    risk = (p * outcomes).sum()
    return float((risk - loss.entropy(p) - divergence(p, logits.softmax(-1))).abs() / (1 + risk.abs()))


@proper
@given(example=logits_and_row())
def test_risk_is_entropy_plus_divergence(name: str, example: tuple[Tensor, Tensor]) -> None:
    logits, p = example
    divergence = divergence_of(name)
    assert theorem_gap(name, logits, p, divergence) < 1e-12
    assert float(divergence(p, logits.softmax(-1))) >= -1e-12
    assert abs(float(divergence(p, p))) < 1e-12


@proper
def test_the_divergence_of_another_loss_is_found_out(name: str) -> None:
    logits, p = random_logits(4), random_logits(4, scale=1.5, seed=1).softmax(-1)
    for other in PROPER:
        if other != name:
            assert theorem_gap(name, logits, p, divergence_of(other)) > 1e-3


@proper
def test_the_truth_comes_first_in_a_divergence(name: str) -> None:
    divergence = divergence_of(name)
    logits, p = random_logits(4), random_logits(4, scale=1.5, seed=1).softmax(-1)
    gap = theorem_gap(name, logits, p, lambda p, q: divergence(q, p))
    assert gap < 1e-12 if name in SYMMETRIC else gap > 1e-2


@proper
def test_the_gradient_of_the_label_risk_is_that_of_the_divergence(name: str) -> None:
    logits, p = random_logits(6, 4).requires_grad_(), random_logits(6, 4, scale=1.5, seed=1).softmax(-1)
    (left,) = torch.autograd.grad(LOSSES[name](logits, p).sum(), logits)
    (right,) = torch.autograd.grad(divergence_of(name)(p, logits.softmax(-1)).sum(), logits)
    torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


@proper
def test_entropies_are_zero_or_least_at_certainty_and_largest_when_undecided(name: str) -> None:
    entropy = LOSSES[name].entropy
    assert entropy is not None
    vertices = entropy(torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(vertices, vertices[:1].expand(4), rtol=0, atol=1e-15)
    inside = entropy(random_logits(50, 4).softmax(-1))
    assert float(inside.min()) > float(vertices[0])
    if name != "ranked_probability":  # whose hardest row has half of the mass at either end
        assert float(inside.max()) < float(entropy(torch.full((4,), 0.25, dtype=torch.float64)))
    else:
        ends = torch.tensor([0.5, 0.0, 0.0, 0.5], dtype=torch.float64)
        assert float(inside.max()) < float(entropy(ends)) == pytest.approx(0.75)


@proper
def test_rows_that_are_no_probabilities_have_neither_entropy_nor_divergence(name: str) -> None:
    entropy, divergence = LOSSES[name].entropy, divergence_of(name)
    assert entropy is not None
    with pytest.raises(ValueError, match="received"):
        entropy([1.2, -0.2])
    with pytest.raises(ValueError, match="received"):
        divergence(torch.tensor([0.5, 0.5]), torch.tensor([0.3, 0.3, 0.4]))
