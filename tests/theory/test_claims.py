"""Theorem 1's claims hold, and each wrong version is rejected well beyond the tolerance."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from trying import tried

from bcpd.data import InMemory
from bcpd.distill import Supervised
from bcpd.losses import LOSSES, Loss
from bcpd.mixtures import FiniteMixture, GaussianMixture
from bcpd.nets import Net
from bcpd.seeds import derive, generator
from bcpd.theory import (
    CONTROLS,
    MATRIX,
    Check,
    Settings,
    Trainer,
    Trial,
    find_claims,
    plan,
    run_checks,
    verdict,
    version,
)
from bcpd.theory.linear import linear_design, logits, minimise, table_design
from bcpd.theory.scores.identities import gradient_identity, own_metric, random_network, risk_identity
from bcpd.theory.scores.own_loss import loss_from_callable
from bcpd.theory.scores.versions import LOSSES_CHECKED, effects_on
from bcpd.theory.suite import CLAIMS
from bcpd.theory.worlds import finite_world, quadrature_world, rational_world, sample_world
from bcpd.train import Recipe, fit, followed_gradient

TRAINER = Trainer(followed_gradient, fit, Recipe)


@pytest.mark.slow
def test_every_claim_holds_and_every_control_fails_clearly() -> None:
    checks = tried(CLAIMS, Settings("quick", derive(0, "verify", 0), TRAINER))
    assert verdict(checks)
    assert len(checks) == len(plan("quick", 0, TRAINER))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_verdict_does_not_depend_on_the_seed(seed: int) -> None:
    assert all(check.as_expected for check in run_checks(plan("quick", seed, TRAINER)))


def test_the_matrix_names_known_controls_and_every_claim_has_one_that_fails_for_each_loss() -> None:
    for claim, row in MATRIX.items():
        assert set(row) <= set(CONTROLS), claim
        for loss in ("ce", "mse") if claim == "own-metric" else LOSSES_CHECKED:
            assert "fails" in effects_on(claim, loss).values(), claim
        assert {effect for effects in row.values() for effect in effects.values()} <= {"fails", "passes", "-"}


@pytest.mark.parametrize("loss", LOSSES_CHECKED)
def test_risk_identity_on_finite_x_and_its_controls(loss: str) -> None:
    world = rational_world(3)
    outcome = risk_identity(version(loss), world, 3)
    assert outcome.value <= outcome.bound == 1e-12
    for control, effect in effects_on("risk-identity", loss).items():
        outcome = risk_identity(version(loss, control), world, 3)
        assert (outcome.value > 10 * outcome.bound) == (effect == "fails"), control


def _trials_of(claim: str, **settings: Any) -> list[Trial]:
    (found,) = find_claims([claim])
    return list(found.trials(Settings("quick", 0, TRAINER, **settings)))


@pytest.mark.parametrize("claim", [claim for claim in MATRIX if claim != "own-metric"])
def test_every_strictly_proper_score_is_tried(claim: str) -> None:
    trials = _trials_of(claim)
    assert {trial.loss for trial in trials} == set(LOSSES_CHECKED)
    for loss in LOSSES_CHECKED:
        assert {"finite X", "quadrature 1-D"} <= {trial.world for trial in trials if trial.loss == loss}


def _cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(z, y, reduction="none")


def _floored(z: Tensor, y: Tensor) -> Tensor:
    return -(z.softmax(-1).gather(1, y[:, None]).squeeze(1) + 0.02).log()


@pytest.mark.parametrize("claim", [claim for claim in MATRIX if claim != "own-metric"])
def test_a_loss_of_ones_own_satisfies_theorem_1_only_if_it_is_proper(claim: str) -> None:
    for function, right in ((_cross_entropy, True), (_floored, False)):
        trials = _trials_of(claim, loss=loss_from_callable(function, "mine"))
        assert {trial.loss for trial in trials} == {"mine"}
        for trial in trials:
            if trial.world not in ("finite X", "quadrature 1-D"):
                continue
            outcome = trial.run()
            assert (outcome.value <= outcome.bound) == (right and (trial.control is None or trial.harmless)), trial


def test_a_named_improper_loss_is_held_to_theorem_1_and_fails() -> None:
    for name in ("focal", "mae", "crammer_singer", "logit_mse"):
        trial = _trials_of("risk-identity", loss=LOSSES[name])[0]
        outcome = trial.run()
        assert trial.loss == name
        assert outcome.value > 1e-3
    assert _trials_of("own-metric", loss=LOSSES["ce"]) != []
    assert _trials_of("own-metric", loss=LOSSES["spherical"]) == []


def _scaled(net: Net, x: Tensor, y: Tensor, loss: Loss) -> Sequence[Tensor]:
    return [2 * gradient for gradient in followed_gradient(net, x, y, loss)]


def _detached(net: Net, x: Tensor, y: Tensor, loss: Loss) -> Sequence[Tensor]:
    gradient = list(followed_gradient(net, x, y, loss))
    return [*gradient[:-2], torch.zeros_like(gradient[-2]), gradient[-1]]


def _one_label_wrong(net: Net, x: Tensor, y: Tensor, loss: Loss) -> Sequence[Tensor]:
    y = y.clone()
    y[0] = (y[0] + 1) % net.num_classes
    return followed_gradient(net, x, y, loss)


def _with_weight_decay(net: Net, x: Tensor, y: Tensor, loss: Loss) -> Sequence[Tensor]:
    before = [parameter.detach().clone() for parameter in net.parameters()]
    recipe = Recipe(epochs=1, learning_rate=1.0, batch_size=len(y), momentum=0.0, weight_decay=1e-6, validation=0.0)
    fit(net, InMemory(x, y, num_classes=net.num_classes, dtype=x.dtype), Supervised(loss), recipe, seed=0)
    return [old - new.detach() for old, new in zip(before, net.parameters(), strict=True)]


@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_gradient_identity_goes_through_the_trainer_and_sees_a_wrong_one(loss: str) -> None:
    world = rational_world(5)
    outcome = gradient_identity(version(loss), world, 5, followed_gradient)
    assert outcome.value <= outcome.bound == 1e-10
    for wrong in (_scaled, _detached, _one_label_wrong, _with_weight_decay):
        assert gradient_identity(version(loss), world, 5, wrong).value > 10 * outcome.bound, wrong.__name__


def test_the_trainer_follows_an_improper_loss_and_not_the_divergence_of_ce() -> None:
    for trial in _trials_of("own-loss-gradient"):
        outcome = trial.run()
        assert outcome.value <= outcome.bound if trial.control is None else outcome.value > 1e-3, trial


def test_followed_gradient_is_autograds() -> None:
    world = rational_world(1)
    net = random_network(world, 1)
    loss = LOSSES["mse"](net(world.x).logits, world.y).mean()
    expected = torch.autograd.grad(loss, list(net.parameters()))
    for followed, gradient in zip(followed_gradient(net, world.x, world.y, LOSSES["mse"]), expected, strict=True):
        torch.testing.assert_close(followed, gradient, rtol=1e-12, atol=1e-14)


def test_minimise_finds_a_known_optimum_and_a_lower_one_than_a_single_start() -> None:
    draw = generator(0, "minimise test")
    x = torch.randn(50, 2, generator=draw, dtype=torch.float64)
    theta = torch.randn(3, 2, generator=draw, dtype=torch.float64)
    p = logits(linear_design(x), theta).softmax(-1)
    weights = torch.full((50,), 1 / 50, dtype=torch.float64)

    def brier(z: Tensor) -> Tensor:
        return (z.softmax(-1) - p).square().sum(-1)

    found = minimise(brier, weights, linear_design(x), 3, seed=0)
    torch.testing.assert_close(found, theta, rtol=0, atol=1e-5)


def test_the_table_class_has_a_row_for_every_distinct_point() -> None:
    x = torch.tensor([[1.0], [2.0], [1.0]], dtype=torch.float64)
    assert table_design(x).tolist() == [[1, 0], [0, 1], [1, 0]]


def test_worlds_agree_on_an_expectation() -> None:
    mixture = GaussianMixture(means=[[-1.0], [0.5]], covariance=0.7, priors=[0.3, 0.7])
    nodes = quadrature_world(mixture, 64, "line")
    sample = sample_world(mixture, 200_000, 0, "sample")
    values = [(w.x[:, 0].sin() * (w.y == 1).double()) for w in (nodes, sample)]
    exact, estimate = float(nodes.mean(values[0])), float(sample.mean(values[1]))
    assert abs(exact - estimate) < 5 * float(values[1].std()) / 200_000**0.5
    assert float(nodes.weights.sum()) == pytest.approx(1)
    with pytest.raises(ValueError, match="1 or 2 dimensions"):
        quadrature_world(GaussianMixture(means=torch.zeros(2, 3), covariance=1.0), 8, "space")


def test_a_finite_world_lists_every_pair_with_its_probability() -> None:
    mixture = FiniteMixture([0.25, 0.75], [[0.2, 0.8], [1.0, 0.0]])
    world = finite_world(mixture)
    assert float(world.mean((world.y == 0).double())) == pytest.approx(0.25 * 0.2 + 0.75)
    realised = world.realised(0)
    assert len(realised.y) == 2
    assert float(realised.weights.sum()) == pytest.approx(1)


def test_rational_worlds_weigh_pairs_equally() -> None:
    world = rational_world(7, points=4, num_classes=3, copies=10)
    for k in range(3):
        share = ((world.y == k).double() - world.bayes[:, k]).reshape(4, 10).sum(1)
        torch.testing.assert_close(share, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)


def test_own_metric_needs_misspecification() -> None:
    inside = quadrature_world(GaussianMixture(means=[[-1.0], [1.0]], covariance=1.0), 64, "inside", finer=False)
    ce, mse = version("ce"), version("mse")
    outcome = own_metric(mse, ce, mse.divergence, inside, 0, sign=1.0)
    assert abs(outcome.value) < 1e-9
    assert outcome.value > outcome.bound


def test_a_check_that_is_nan_neither_holds_nor_counts_as_failing() -> None:
    for role in ("claim", "control"):
        check = Check.of("id", "statement", "world", "ce", role, float("nan"), 1.0, claim="id")  # type: ignore[arg-type]
        assert not check.holds
        assert not check.as_expected
    assert not verdict([])


def test_unknown_versions_and_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="strictly proper"):
        version("focal")
    with pytest.raises(ValueError, match="control must be one of"):
        version("ce", "no_such")
    with pytest.raises(ValueError, match="level must be one of"):
        plan("half", 0, TRAINER)
