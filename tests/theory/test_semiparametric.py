"""Hard and soft labels mixed, the best share of labels, and cross-fitted teachers."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from trying import settings_at, tried

from bcpd.data import InMemory
from bcpd.losses import LOSSES
from bcpd.nets import Views
from bcpd.seeds import generator
from bcpd.testing import losses, simplex_rows
from bcpd.theory.distilled import cross_fitting, mixing_weight, semiparametric
from bcpd.theory.distilled.cross_fitting import cross_fitted, fold_indices
from bcpd.theory.distilled.distilled_risk import risk_error
from bcpd.theory.distilled.distilled_variance import label_variance
from bcpd.theory.distilled.mixing_weight import mixed_risk_error, optimal_share
from bcpd.theory.distilled.semiparametric import corrected_target

SHARES = st.floats(0, 1)


@pytest.mark.parametrize("seed", [0, 1])
def test_claims_hold_and_controls_fail(seed: int) -> None:
    tried((*semiparametric.CLAIMS, *mixing_weight.CLAIMS), settings_at(seed))


def test_cross_fitting_holds_and_its_controls_fail() -> None:
    checks = tried(cross_fitting.CLAIMS, settings_at(0))
    assert {check.control: check.value for check in checks}["frozen_at_bayes"] == 0


@pytest.mark.slow
def test_cross_fitting_has_power_at_every_seed() -> None:
    """Five standard errors are asked for; 13 or more were there at each of 40 seeds."""
    claim = cross_fitting.CLAIMS[0]
    for seed in range(10):
        (trial,) = [each for each in claim.trials(settings_at(seed)) if each.control is None]
        assert trial.run().value < -10


@pytest.mark.parametrize("name", ["finite", "bernoulli"])
def test_a_users_finite_mixture_is_tried(name: str) -> None:
    for module in (semiparametric, mixing_weight):
        assert {check.world for check in tried(module.CLAIMS, settings_at(0, name))} == {name}  # type: ignore[attr-defined]
    assert not cross_fitting.CLAIMS[0].trials(settings_at(0, name))


# ------------------------------------------------------------------------------------------------- hard and soft labels


@given(losses(), simplex_rows(4), simplex_rows(4), st.integers(0, 3), SHARES)
def test_values_and_gradients_of_the_mixture(
    loss: object, q: Tensor, teacher: Tensor, label: int, share: float
) -> None:
    """Every named loss is linear in its target up to a term without q, so that its gradient is linear."""
    hard = torch.nn.functional.one_hot(torch.tensor(label), 4).double()
    z = q.log()[None].requires_grad_()
    slopes = [
        torch.autograd.grad(loss.function(z, t[None]).sum(), z)[0]  # type: ignore[attr-defined]
        for t in (corrected_target(teacher, hard, share), teacher, hard)
    ]
    mixed, soft, by_label = slopes
    assert torch.allclose(mixed, (1 - share) * soft + share * by_label, atol=1e-10)


@given(simplex_rows(3), simplex_rows(3), st.integers(0, 2), SHARES)
def test_cross_entropy_is_linear_and_brier_up_to_its_constant(
    q: Tensor, teacher: Tensor, label: int, share: float
) -> None:
    hard = torch.nn.functional.one_hot(torch.tensor(label), 3).double()
    target = corrected_target(teacher, hard, share)
    z = q.log()[None]

    def excess(name: str) -> float:
        value = LOSSES[name].function
        parts = (value(z, t[None]) for t in (target, teacher, hard))
        mixed, soft, by_label = (float(part) for part in parts)
        return mixed - (1 - share) * soft - share * by_label

    assert excess("ce") == pytest.approx(0, abs=1e-12)
    constant = target.square().sum() - (1 - share) * teacher.square().sum() - share
    assert excess("mse") == pytest.approx(float(constant), abs=1e-12)


def test_corrected_target_is_the_teacher_moved_towards_the_label() -> None:
    target = corrected_target([[0.5, 0.3, 0.2]], [[0.0, 1.0, 0.0]], 0.5)
    assert target[0].tolist() == pytest.approx([0.25, 0.65, 0.1])
    with pytest.raises(ValueError, match=r"received 1\.2"):
        corrected_target([0.5, 0.5], [1.0, 0.0], 1.2)


# ----------------------------------------------------------------------------------------------------------- the share


def random_law(seed: int, n: int = 4, k: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = generator(seed, "law")
    rows = torch.randn(2 * n + 1, k, generator=draw, dtype=torch.float64).softmax(-1)
    weights = torch.rand(n, generator=draw, dtype=torch.float64) + 0.1
    return weights / weights.sum(), rows[:n], rows[n : 2 * n], torch.randn(n, k, generator=draw, dtype=torch.float64)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 500))
def test_the_best_share_is_the_minimum_of_the_error(seed: int, size: int) -> None:
    law = random_law(seed)
    share = optimal_share(*law, size)
    found = minimize_scalar(lambda a: mixed_risk_error(*law, size, a), bounds=(0, 1), method="bounded")
    assert mixed_risk_error(*law, size, share) <= found.fun + 1e-12
    assert 0 <= share <= 1


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 500))
def test_the_ends_of_the_mixture_are_teacher_and_labels(seed: int, size: int) -> None:
    weights, bayes, teacher, values = random_law(seed)
    law = (weights, bayes, teacher, values)
    assert mixed_risk_error(*law, size, 0.0) == pytest.approx(risk_error(*law, size), rel=1e-10)
    assert mixed_risk_error(*law, size, 1.0) == pytest.approx(label_variance(weights, bayes, values) / size, rel=1e-10)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_p_star_needs_no_labels_and_a_biased_teacher_ever_more(seed: int) -> None:
    weights, bayes, teacher, values = random_law(seed)
    assert optimal_share(weights, bayes, bayes, values, 10) == 0
    if abs(float(weights @ ((teacher - bayes) * values).sum(-1))) > 0.05:
        assert optimal_share(weights, bayes, teacher, values, 10**7) > 0.99


def test_a_sample_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match="at least 1, received 0"):
        mixed_risk_error(*random_law(0), 0, 0.5)


def test_the_picture_marks_the_minima() -> None:
    series = mixing_weight.CLAIMS[0].picture(settings_at(0))["series"]  # type: ignore[misc]
    best = []
    for curve, point in zip(series[::2], series[1::2], strict=True):
        assert point["y"][0] <= min(curve["y"]) * (1 + 1e-4)
        best.append(point["x"][0])
    assert best == sorted(best)


# ------------------------------------------------------------------------------------------------------- cross-fitting


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_folds_split_the_examples(n: int, folds: int, seed: int) -> None:
    if folds > n:
        with pytest.raises(ValueError, match=f"received {folds}"):
            fold_indices(n, folds, seed)
        return
    pairs = fold_indices(n, folds, seed)
    assert sorted(torch.cat([fold for _, fold in pairs]).tolist()) == list(range(n))
    assert max(len(fold) for _, fold in pairs) - min(len(fold) for _, fold in pairs) <= 1
    for others, fold in pairs:
        assert sorted([*others.tolist(), *fold.tolist()]) == list(range(n))


class Memory(nn.Module):
    """Certain of class 1 on the inputs it was given, of class 0 elsewhere."""

    def __init__(self, source: InMemory) -> None:
        super().__init__()
        self.seen = source.x[..., 0]

    def forward(self, x: Tensor) -> Views:
        known = (x[..., :1] == self.seen[..., None, :]).any(-1)
        logits = 50.0 * torch.stack([~known, known], -1)
        return Views(logits, logits, (), ())


def test_a_teacher_frozen_at_p_star_goes_through_both_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """As any teacher does, and comes out at p* either way."""
    seen: list[int] = []

    def watched(train: Callable[[InMemory], nn.Module], source: InMemory, folds: int, seed: int) -> Tensor:
        seen.append(folds)
        return cross_fitted(train, source, folds, seed)

    monkeypatch.setattr(cross_fitting, "cross_fitted", watched)
    distances = cross_fitting._distances(settings_at(0), "ce", frozen=True)
    assert seen == [cross_fitting.FOLDS]
    for distance in distances:
        assert float(distance.max()) < 1e-12  # inputs are rounded to single precision


@pytest.mark.parametrize("replicas", [None, 3])
def test_no_teacher_sees_the_examples_that_its_rows_are_for(replicas: int | None) -> None:
    shape = (7,) if replicas is None else (replicas, 7)
    x = torch.arange(float(torch.Size(shape).numel())).view(*shape, 1)
    source = InMemory(x, torch.zeros(shape, dtype=torch.int64), num_classes=2)
    rows = cross_fitted(Memory, source, 3, seed=1).exp()
    assert rows.shape == (*shape, 2)
    assert bool((rows[..., 0] > 0.99).all())
    assert bool((Memory(source)(source.x).logits.softmax(-1)[..., 1] > 0.99).all())
