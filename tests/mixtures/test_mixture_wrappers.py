"""Label noise, superclasses and prior shift: the formulas, their composition, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bcpd.mixtures import FAMILIES, FiniteMixture, GaussianMixture, LabelNoise, PriorShift, Superclasses, from_spec
from bcpd.mixtures.families import KINDS
from bcpd.testing import simplex_rows

BASE = GaussianMixture([[0.0, 0.0], [1.5, 0.5], [-0.5, 1.5]], 0.8, priors=[0.5, 0.3, 0.2])
X = BASE.sample(200, seed=0)[0]


@settings(max_examples=8)
@given(st.floats(0, 1))
def test_symmetric_noise_flattens(rate: float) -> None:
    noisy = LabelNoise.symmetric(BASE, rate)
    torch.testing.assert_close(noisy.posterior(X), (1 - rate) * BASE.posterior(X) + rate / 3, rtol=0, atol=1e-14)
    assert 1 - noisy.bayes_error().value == pytest.approx(
        (1 - rate) * (1 - BASE.bayes_error().value) + rate / 3, abs=1e-12
    )


@settings(max_examples=25)
@given(simplex_rows(3, 1e-3), st.floats(0, 1))
def test_rotating_noise_moves_labels_to_the_next_class(p: Tensor, rate: float) -> None:
    noisy = LabelNoise.rotating(FiniteMixture([1.0], p[None]), rate)
    torch.testing.assert_close(noisy.posterior([[0.0]])[0], (1 - rate) * p + rate * p.roll(1), rtol=0, atol=1e-14)


@settings(max_examples=10)
@given(simplex_rows(3, 1e-3))
def test_prior_shift_is_the_mixture_with_those_priors(priors: Tensor) -> None:
    direct = GaussianMixture(BASE.means, BASE.covariance, priors=priors)
    shifted = PriorShift(BASE, priors)
    torch.testing.assert_close(shifted.log_posterior(X), direct.log_posterior(X), rtol=1e-11, atol=1e-11)
    assert torch.equal(shifted.sample(100, 1)[0], direct.sample(100, 1)[0])
    back = PriorShift(shifted, BASE.priors)
    torch.testing.assert_close(back.log_posterior(X), BASE.log_posterior(X), rtol=1e-11, atol=1e-11)
    assert shifted.bayes_error().value == pytest.approx(direct.bayes_error().value, abs=1e-9)


def test_superclasses_sum_in_the_log_domain() -> None:
    """Far out both members of the losing group underflow; their sum in logarithms does not."""
    base = GaussianMixture([[0.0], [1.0], [60.0]], 1.0)
    merged = Superclasses(base, [[0, 1], [2]])
    x = torch.tensor([[200.0]], dtype=torch.float64)
    logs = base.log_posterior(x)
    assert float(base.posterior(x)[0, :2].sum()) == 0.0
    expected = float(torch.logaddexp(logs[0, 0], logs[0, 1]))
    assert -1e5 < expected < -1000
    assert float(merged.log_posterior(x)[0, 0]) == pytest.approx(expected, rel=1e-14)


def test_both_ways_to_write_a_partition() -> None:
    nested, flat = Superclasses(BASE, [[0, 2], [1]]), Superclasses(BASE, [0, 1, 0])
    assert nested.groups == flat.groups == ((0, 2), (1,))
    assert nested.num_classes == 2
    torch.testing.assert_close(nested.priors, torch.tensor([0.7, 0.3], dtype=torch.float64))
    p = BASE.posterior(X)
    torch.testing.assert_close(flat.posterior(X), torch.stack([p[:, 0] + p[:, 2], p[:, 1]], 1))
    assert Superclasses(BASE, [[1], [0, 2]]).groups == ((1,), (0, 2))


def test_superclasses_of_gaussians_are_gaussians_with_components() -> None:
    merged = Superclasses(BASE, [[0, 2], [1]])
    means = torch.stack([BASE.means[[0, 2], 0], BASE.means[[1, 1], 0]])
    direct = GaussianMixture(means, 0.8, weights=[[5 / 7, 2 / 7], [1.0, 0.0]], priors=[0.7, 0.3])
    torch.testing.assert_close(merged.log_posterior(X), direct.log_posterior(X), rtol=1e-11, atol=1e-11)
    assert merged.bayes_error().value == pytest.approx(direct.bayes_error().value, abs=1e-7)


def test_a_label_that_is_never_given_has_probability_zero() -> None:
    mixture = LabelNoise(BASE, [[1.0, 0.0, 0.0], [0.5, 0.0, 0.5], [0.0, 0.0, 1.0]])
    assert bool((mixture.log_posterior(X)[:, 1] == -math.inf).all())
    assert float(mixture.priors[1]) == 0
    assert 1 not in mixture.sample(5000, 0)[1]
    assert PriorShift(mixture, [0.5, 0.0, 0.5]).posterior(X)[:, 1].abs().max() == 0


def test_noise_may_change_the_number_of_labels() -> None:
    wide = LabelNoise(BASE, [[0.5, 0.5, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 0.5, 0.5]])
    assert wide.num_classes == 4
    assert wide.posterior(X).shape == (200, 4)


def test_wrappers_inherit_what_leaves_p_unchanged() -> None:
    base = GaussianMixture(BASE.means, BASE.covariance)
    base.symmetries = frozenset({"flip"})
    assert LabelNoise.symmetric(Superclasses(base, [0, 0, 1]), 0.1).symmetries == {"flip"}


def test_two_wrappers_do_not_share_their_draws_by_accident() -> None:
    """Noise in the labels only: the x of a symmetric channel have the law of the clean x, the labels do not."""
    noisy = LabelNoise.symmetric(BASE, 0.5)
    x, y = noisy.sample(100_000, 0)
    clean, labels = BASE.sample(100_000, 0)
    assert float((x.mean(0) - clean.mean(0)).abs().max()) < 5 * float(clean.std(0).max()) * math.sqrt(2 / 100_000)
    assert abs(float((y == 0).double().mean()) - (0.25 + 0.5 / 3)) < 5 * math.sqrt(0.25 / 100_000)
    assert abs(float((labels == 0).double().mean()) - 0.5) < 5 * math.sqrt(0.25 / 100_000)


# --------------------------------------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize(
    ("transition", "message"),
    [
        ([[0.9, 0.2], [0.5, 0.5], [0.1, 0.9]], r"transition must be rows of probabilities.*sum 1\.1"),
        ([[1.2, -0.2], [0.5, 0.5], [0.1, 0.9]], "transition must be rows of probabilities"),
        ([[0.9, 0.1], [0.5, 0.5]], r"transition must have shape \(3, K'\), received \(2, 2\)"),
        ([0.2, 0.3, 0.5], r"transition must have shape \(3, K'\), received \(3,\)"),
    ],
)
def test_a_transition_that_is_not_row_stochastic_is_refused(transition: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelNoise(BASE, transition)


@pytest.mark.parametrize("make", [LabelNoise.symmetric, LabelNoise.rotating])
@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_outside_its_range_is_refused(make: Callable[..., LabelNoise], rate: float) -> None:
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\]"):
        make(BASE, rate)


@pytest.mark.parametrize(
    "groups",
    [
        [[0, 1]],
        [[0, 1], [1, 2]],
        [[0, 1], [2], []],
        [[0, 1], [2, 3]],
        [[0, 1.0], [2]],
        [0, 1],
        [0, 2, 2],
        [-1, 0, 1],
        [0, [1, 2]],
        ["ab", "c"],
        [],
    ],
)
def test_groups_that_are_no_partition_are_refused(groups: list[int]) -> None:
    with pytest.raises(ValueError, match=r"groups must partition the classes 0\.\.2"):
        Superclasses(BASE, groups)


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        ([0.5, 0.5, 0.5], "priors must be rows of probabilities"),
        ([0.5, 0.5], r"priors must have shape \(3,\), received \(2,\)"),
        ([0.5, 0.5, 0.0], r"priors must be positive exactly for the classes that occur, \[0, 1, 2\]"),
    ],
)
def test_priors_that_do_not_fit_are_refused(priors: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PriorShift(BASE, priors)


def test_only_mixtures_can_be_wrapped() -> None:
    with pytest.raises(ValueError, match="mixture must be a Mixture, received str"):
        PriorShift("gaussian-1d", [0.5, 0.5])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "cauchy"}, "kind of a mixture must be one of .*'gaussian'.*received 'cauchy'"),
        ({"means": [[0.0]]}, "received None"),
        ({"kind": "gaussian", "means": [[0.0]], "spread": 1.0}, "does not take .*spread"),
    ],
)
def test_specs_that_describe_nothing_are_refused(spec: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_spec(spec)


def test_every_kind_has_a_named_mixture() -> None:
    def kinds(spec: dict[str, object]) -> set[object]:
        inner = spec.get("mixture")
        return {spec["kind"]} | (kinds(inner) if isinstance(inner, dict) else set())

    assert {FAMILIES[name]().kind for name in FAMILIES} == set(KINDS)
    assert set.union(*(kinds(FAMILIES[name]().spec()) for name in FAMILIES)) == set(KINDS)
