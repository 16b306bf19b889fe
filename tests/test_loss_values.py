"""Single losses: hand-computed values, conventions, the constants of the controls, the read-outs."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from bcpd import simplex
from bcpd.losses import LOSSES, Loss, focal, label_smoothing


def rows(*entries: list[float]) -> torch.Tensor:
    return torch.tensor(entries, dtype=torch.float64)


Q = rows([0.5, 0.3, 0.2])
P = rows([0.6, 0.1, 0.3])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ce", -math.log(0.3)),
        ("mse", 0.5**2 + 0.7**2 + 0.2**2),
        ("mse_mean", (0.5**2 + 0.7**2 + 0.2**2) / 3),
        ("spherical", -0.3 / math.sqrt(0.38)),
        ("mae", 0.5 + 0.7 + 0.2),
        ("power", 0.5 * (0.5**1.5 + 0.3**1.5 + 0.2**1.5) - 1.5 * 0.3**0.5),
        ("ranked_probability", 0.5**2 + 0.2**2),
        ("generalised_ce", (1 - 0.3**0.7) / 0.7),
        ("tempered_ce", -math.log(0.3**0.5 / (0.5**0.5 + 0.3**0.5 + 0.2**0.5))),
        ("confidence_penalty", -math.log(0.3) + 0.3 * sum(q * math.log(q) for q in (0.5, 0.3, 0.2))),
        ("crammer_singer", 1 + math.log(0.5) - math.log(0.3)),
        ("hui_belkin", (4 * (math.log(0.3) - 2) ** 2 + math.log(0.5) ** 2 + math.log(0.2) ** 2) / 3),
        ("focal", -(0.7**2) * math.log(0.3)),
        ("label_smoothing", -0.9 * math.log(0.3) - 0.1 / 3 * (math.log(0.5) + math.log(0.3) + math.log(0.2))),
    ],
)
def test_a_label_s_loss_by_hand(name: str, expected: float) -> None:
    assert float(LOSSES[name](Q.log(), torch.tensor([1]))) == pytest.approx(expected, rel=1e-14)


def test_a_row_s_loss_by_hand() -> None:
    assert float(LOSSES["mse"](Q.log(), P)) == pytest.approx(0.01 + 0.04 + 0.01, rel=1e-13)
    assert float(LOSSES["logit_mse"](Q, P)) == pytest.approx(0.01 + 0.04 + 0.01, rel=1e-13)
    expected = -0.6 * math.log(0.5) - 0.1 * math.log(0.3) - 0.3 * math.log(0.2)
    assert float(LOSSES["ce"](Q.log(), P)) == pytest.approx(expected, rel=1e-14)


def test_mae_of_a_row_is_the_expected_one_and_never_the_l1_distance() -> None:
    expected = 2 * (1 - float((P * Q).sum()))
    assert float(LOSSES["mae"](Q.log(), P)) == pytest.approx(expected, rel=1e-14)
    assert abs(expected - float(simplex.l1_distance(P, Q))) > 0.5


def test_mse_mean_is_mse_at_another_scale() -> None:
    z = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(5)
    torch.testing.assert_close(7 * LOSSES["mse_mean"](z, y), LOSSES["mse"](z, y), rtol=1e-15, atol=0)


def test_logit_mse_is_read_out_by_projection_or_by_softmax() -> None:
    loss = LOSSES["logit_mse"]
    assert list(loss.readouts) == ["projection", "softmax"]
    torch.testing.assert_close(loss.minimiser(P), P, rtol=0, atol=1e-15)
    torch.testing.assert_close(loss.minimiser(P, "projection"), P, rtol=0, atol=1e-15)
    softened = loss.minimiser(P, "softmax")
    torch.testing.assert_close(softened, P.softmax(-1), rtol=0, atol=1e-15)
    assert float(simplex.squared_distance(softened, P)) > 0.03  # right at the minimum, wrong as probabilities
    z = rows([2.0, 0.0, -1.0], [0.4, 0.3, 0.0])
    torch.testing.assert_close(loss.readout()(z), rows([1.0, 0.0, 0.0], [0.5, 0.4, 0.1]), rtol=0, atol=1e-15)
    torch.testing.assert_close(loss.readout("softmax")(z), z.softmax(-1), rtol=0, atol=1e-15)


def test_projection_reads_a_diverged_row_as_nan_and_the_others_as_ever() -> None:
    z = rows([0.2, 0.8, 0.0], [math.nan, 0.0, 1.0], [math.inf, 0.0, 0.0])
    q = LOSSES["logit_mse"].readout()(z)
    assert torch.equal(q[0], LOSSES["logit_mse"].readout()(z[:1])[0])
    assert bool(q[1:].isnan().all())


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_s_minimiser_for_every_gamma(gamma: float) -> None:
    loss = focal(gamma)
    for p in (rows([0.8, 0.2])[0], rows([0.55, 0.3, 0.1, 0.05])[0]):

        def risk(z: np.ndarray) -> tuple[float, np.ndarray]:
            logits = torch.tensor(z, requires_grad=True)
            value = loss(logits, p)  # noqa: B023
            (gradient,) = torch.autograd.grad(value, logits)
            return float(value.detach()), gradient.numpy()

        found = minimize(risk, np.zeros(len(p)), jac=True, method="BFGS", options={"gtol": 1e-11})
        torch.testing.assert_close(torch.tensor(found.x).softmax(-1), loss.minimiser(p), rtol=0, atol=1e-6)
        assert float((loss.minimiser(p) - p).abs().max()) > 1e-2


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_s_minimiser_inverts_the_published_map(gamma: float) -> None:
    """p_k proportional to u / ((1-u)^g - g (1-u)^(g-1) u log u), also for tiny and for equal entries."""
    p = rows([0.5, 0.5, 0.0], [1 - 3e-9, 2e-9, 1e-9], [0.4, 0.4, 0.2])
    u = focal(gamma).minimiser(p)
    h = u / ((1 - u) ** gamma + gamma * (1 - u) ** (gamma - 1) * torch.special.entr(u))
    torch.testing.assert_close(h / h.sum(-1, keepdim=True), p, rtol=1e-6, atol=1e-13)


def test_focal_without_focus_is_the_cross_entropy() -> None:
    z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 2])
    torch.testing.assert_close(focal(0.0)(z, y), LOSSES["ce"](z, y), rtol=1e-15, atol=0)
    assert torch.equal(focal(0.0).minimiser(P), P)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_has_a_gradient_where_the_network_is_certain(gamma: float) -> None:
    z = torch.tensor([[1e4, 0.0], [0.0, 1e4], [40.0, 0.0]], requires_grad=True)
    value = focal(gamma)(z, torch.tensor([0, 0, 0]))
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert bool(gradient.isfinite().all())
    assert value[0] == 0
    assert gradient[0].abs().max() == 0
    assert float(value[1].detach()) == pytest.approx(1e4)


def test_label_smoothing_is_cross_entropy_under_symmetric_label_noise() -> None:
    z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for epsilon in (0.0, 0.1, 0.5):
        noisy = (1 - epsilon) * P + epsilon / 3
        smoothed = label_smoothing(epsilon)
        torch.testing.assert_close(smoothed.minimiser(P), noisy, rtol=1e-14, atol=0)
        value = smoothed(z, P.expand(4, 3))
        torch.testing.assert_close(value, LOSSES["ce"](z, noisy.expand(4, 3)), rtol=1e-13, atol=0)
        assert float(simplex.squared_distance(noisy, P)) == pytest.approx(
            epsilon**2 * float((P - 1 / 3).square().sum()), abs=1e-15
        )


def test_label_smoothing_of_nothing_does_not_look_at_impossible_classes() -> None:
    z = torch.tensor([0.0, -torch.inf], dtype=torch.float64, requires_grad=True)
    value = label_smoothing(0.0)(z, torch.tensor(0))
    assert float(value.detach()) == 0


def test_mae_s_minimiser_is_the_mode_shared_among_ties() -> None:
    assert torch.equal(LOSSES["mae"].minimiser(rows([0.2, 0.5, 0.3])), rows([0.0, 1.0, 0.0]))
    assert torch.equal(LOSSES["mae"].minimiser(rows([0.4, 0.4, 0.2])), rows([0.5, 0.5, 0.0]))


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, math.nan])
def test_label_smoothing_refuses_an_epsilon_outside(epsilon: float) -> None:
    with pytest.raises(ValueError, match=r"epsilon must lie in \[0, 1\), received"):
        label_smoothing(epsilon)


@pytest.mark.parametrize("gamma", [-0.5, math.nan])
def test_focal_refuses_a_negative_gamma(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma must be >= 0, received"):
        focal(gamma)


def test_controls_carry_their_constants() -> None:
    assert label_smoothing(0.2).parameters == {"epsilon": 0.2}
    assert focal(1.5).parameters == {"gamma": 1.5}
    assert LOSSES["ce"].parameters == {}


def test_square_losses_are_selected_by_brier_and_the_others_by_nll() -> None:
    square = {"mse", "mse_mean", "logit_mse", "hui_belkin", "ranked_probability"}
    assert {name for name, loss in LOSSES.items() if loss.score == "brier"} == square


def test_a_loss_of_one_s_own_is_checked_like_the_others() -> None:
    own = Loss("own", lambda z, t: z.sum(-1), lambda p: p)
    assert float(own(torch.ones(1, 3), torch.tensor([0]))) == 3
    assert not own.proper
    with pytest.raises(ValueError, match="labels must lie in"):
        own(torch.ones(1, 3), torch.tensor([3]))
