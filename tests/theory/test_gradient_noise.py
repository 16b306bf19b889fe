"""Gradient noise at the optimum: Jacobians by finite differences, formulas by hand, and the claims."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from trying import settings_at, tried

from bcpd.losses import LOSSES
from bcpd.nets import Net
from bcpd.testing import nets, row_tables
from bcpd.theory.distilled.gradient_noise import (
    CLAIMS,
    covariance_gradient_noise,
    helpful_variance,
    label_gradient_noise,
    noisy_gradient_noise,
    probability_jacobian,
)
from bcpd.theory.distilled.noisy_targets import one_hot_target_mse


@pytest.mark.parametrize("seed", [0, 1])
def test_claims_hold_and_controls_fail(seed: int) -> None:
    tried(CLAIMS, settings_at(seed))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["finite", "bernoulli"])
def test_a_users_finite_mixture_is_tried(name: str) -> None:
    assert {check.world for check in tried(CLAIMS, settings_at(0, name))} == {name}


def shifted(net: Net, index: int, step: float, x: Tensor) -> Tensor:
    """Probabilities with one parameter moved."""
    flat = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    moved = flat.clone()
    moved[index] += step
    torch.nn.utils.vector_to_parameters(moved, net.parameters())
    with torch.no_grad():
        q = net(x).logits.softmax(-1)
    torch.nn.utils.vector_to_parameters(flat, net.parameters())
    return q


@settings(max_examples=15)
@given(nets(3, (2,), kinds=("linear", "mlp1")), st.integers(0, 2**32 - 1))
def test_the_jacobian_by_finite_differences(net: Net, seed: int) -> None:
    x = torch.randn(2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows, jacobian = probability_jacobian(net, x)
    assert torch.allclose(rows, net(x).logits.softmax(-1).detach(), atol=1e-14)
    assert float(jacobian.sum(1).abs().max()) < 1e-12
    for index in (0, jacobian.shape[-1] // 2, jacobian.shape[-1] - 1):
        slope = (shifted(net, index, 1e-5, x) - shifted(net, index, -1e-5, x)) / 2e-5
        assert torch.allclose(jacobian[..., index], slope, atol=1e-8)


@settings(max_examples=15)
@given(nets(3, (2,), kinds=("linear", "mlp1")))
def test_labels_make_the_noise_that_the_formula_says(net: Net) -> None:
    x = torch.tensor([[0.3, -1.0], [2.0, 0.5]], dtype=torch.float64)
    rows, jacobian = probability_jacobian(net, x)
    brute = 0.0
    for i, weight in enumerate((0.25, 0.75)):
        for k in range(3):
            loss = LOSSES["ce"].function(net(x[i, None]).logits, torch.tensor([k])).sum()
            slopes = torch.autograd.grad(loss, list(net.parameters()))
            brute += weight * float(rows[i, k]) * sum(float(slope.square().sum()) for slope in slopes)
    assert label_gradient_noise([0.25, 0.75], rows, jacobian) == pytest.approx(brute, rel=1e-10)


def softmax_jacobian(rows: Tensor) -> Tensor:
    """Of probabilities in their own logits, parameters ``(n, K)`` flattened."""
    n, k = rows.shape
    jacobian = torch.zeros(n, k, n, k, dtype=torch.float64)
    for i, p in enumerate(rows):
        jacobian[i, :, i] = torch.diag(p) - torch.outer(p, p)
    return jacobian.flatten(2)


@given(row_tables(2, 4, floor=1e-6))
def test_in_logits_labels_make_the_noise_of_their_distance_to_p_star(rows: Tensor) -> None:
    noise = label_gradient_noise([0.5, 0.5], rows, softmax_jacobian(rows))
    assert noise == pytest.approx(one_hot_target_mse([0.5, 0.5], rows), rel=1e-9)


@given(row_tables(2, 3, floor=1e-3), st.floats(0, 2))
def test_the_general_form_contains_the_two_special_ones(rows: Tensor, variance: float) -> None:
    jacobian = softmax_jacobian(rows)
    law = ([0.3, 0.7], rows, jacobian)
    identity = variance * torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    assert covariance_gradient_noise(*law, identity) == pytest.approx(noisy_gradient_noise(*law, variance), rel=1e-12)
    categorical = torch.diag_embed(rows) - rows[:, :, None] * rows[:, None, :]
    assert covariance_gradient_noise(*law, categorical) == pytest.approx(label_gradient_noise(*law), rel=1e-8)


@given(row_tables(2, 3, floor=1e-3), st.floats(0.01, 100))
def test_below_the_helpful_variance_noise_is_weaker_than_that_of_labels(rows: Tensor, share: float) -> None:
    assume(abs(share - 1) > 1e-6)
    law = ([0.3, 0.7], rows, softmax_jacobian(rows))
    threshold = helpful_variance(*law)
    assert float(rows.min()) * (1 - 1e-9) <= threshold <= float(rows.max()) * (1 + 1e-9)
    helps = noisy_gradient_noise(*law, share * threshold) < label_gradient_noise(*law)
    assert helps == (share < 1)


ROWS, SLOPES = [[0.5, 0.5]], [[[1.0], [-1.0]]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: label_gradient_noise([1.0], [[1.0, 0.0]], SLOPES), r"positive, .*received 0\.0"),
        (lambda: label_gradient_noise([1.0], ROWS, [[1.0, -1.0]]), r"jacobian \(n, K, parameters\), received"),
        (lambda: noisy_gradient_noise([1.0], ROWS, SLOPES, -1.0), r"received -1\.0"),
        (lambda: covariance_gradient_noise([1.0], ROWS, SLOPES, [[1.0]]), r"shape \(1, 2, 2\), received \(1, 1\)"),
    ],
)
def test_mistakes_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
