"""What holds for every mixture, tried on random ones of every kind, bare and wrapped."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import Phase, assume, find, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bcpd.mixtures import FiniteMixture, LabelNoise, Mixture, PriorShift, Superclasses, Warped, calibration_z, from_spec
from bcpd.mixtures.components import ComponentMixture
from bcpd.testing import (
    finite_mixtures,
    mixtures,
    mixtures_with_points,
    simplex_rows,
    stochastic_matrices,
    warps,
)

some = settings(max_examples=40)
few = settings(max_examples=15)
Drawn = tuple[Mixture, Tensor]


def same(found: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# ------------------------------------------------------------------------------------------------------------ posterior


@given(mixtures_with_points())
def test_rows_are_probabilities_and_their_logarithms(drawn: Drawn) -> None:
    mixture, x = drawn
    p, log_p = mixture.posterior(x), mixture.log_posterior(x)
    assert p.shape == (len(x), mixture.num_classes)
    assert bool((p >= 0).all())
    assert bool((log_p <= 0).all())
    same(p.sum(-1), torch.ones(len(x), dtype=torch.float64))
    assert torch.equal(p, log_p.exp())


@some
@given(mixtures_with_points(), st.permutations(range(12)))
def test_every_row_is_on_its_own(drawn: Drawn, order: list[int]) -> None:
    mixture, x = drawn
    same(mixture.posterior(x[order]), mixture.posterior(x)[order], 1e-13)
    same(mixture.posterior(x[0]), mixture.posterior(x)[0], 1e-13)
    same(mixture.posterior(x.numpy()), mixture.posterior(x), 1e-13)


@given(mixtures_with_points(max_depth=0))
def test_bayes_rule(drawn: Drawn) -> None:
    """p* is the softmax of log f_k + log pi_k; a prior of another class would not do."""
    mixture, x = drawn
    assume(isinstance(mixture, ComponentMixture))
    joint = mixture.log_density(x) + mixture.priors.log()  # type: ignore[attr-defined]
    same(joint.softmax(-1), mixture.posterior(x), 1e-10)


@few
@given(mixtures(kinds=["gaussian", "student", "laplace"], max_depth=0, max_dimension=1))
def test_densities_integrate_to_one(mixture: Mixture) -> None:
    """By the trapezoid rule in u for x = sinh u, which reaches 1e26; the kinks of Laplace densities leave 1e-5."""
    assert isinstance(mixture, ComponentMixture)
    u = torch.linspace(-60, 60, 40_001, dtype=torch.float64)
    densities = mixture.log_density(u.sinh()[:, None]).exp() * u.cosh()[:, None]
    total = torch.trapezoid(densities, u, dim=0)
    same(total, torch.ones(mixture.num_classes, dtype=torch.float64), 1e-4)


@few
@given(mixtures(kinds=["bernoulli", "categorical"], max_depth=0))
def test_probabilities_of_a_listed_x_sum_to_one(mixture: Mixture) -> None:
    support = mixture.support()
    assert support is not None
    assert isinstance(mixture, ComponentMixture)
    densities = mixture.log_density(support[0]).exp()
    same(densities.sum(0), torch.ones(mixture.num_classes, dtype=torch.float64))
    same(support[1], densities @ mixture.priors, 1e-14)


# ------------------------------------------------------------------------------------------------------------- sampling


@settings(max_examples=20)
@given(mixtures(), st.integers(0, 2**32 - 1))
def test_labels_follow_the_posterior(mixture: Mixture, seed: int) -> None:
    """20 mixtures with some 20 scores each, in Bernstein's form: over new seeds a false alarm in 1,000 runs."""
    x, y = mixture.sample(8192, seed)
    scores = calibration_z(x, y, mixture.log_posterior(x))
    assert float(scores.abs().max()) < 5


def test_random_samplers_that_are_wrong_are_found() -> None:
    """Other labels than drawn: the test above must be able to fail."""

    def caught(mixture: Mixture) -> bool:
        x, y = mixture.sample(8192, 0)
        return float(calibration_z(x, (y + 1) % mixture.num_classes, mixture.log_posterior(x)).abs().max()) > 20

    find(mixtures(), caught, settings=settings(max_examples=20, phases=[Phase.generate], derandomize=True))


@some
@given(mixtures())
def test_priors_are_class_frequencies(mixture: Mixture) -> None:
    """Exactly, where X is finite: the mean of p* is the priors."""
    same(mixture.priors.sum(), torch.tensor(1.0, dtype=torch.float64))
    support = mixture.support()
    assume(support is not None)
    assert support is not None
    same(mixture.expectation(mixture.posterior(support[0])), mixture.priors, 1e-12)


@some
@given(mixtures_with_points())
def test_a_spec_is_the_mixture(drawn: Drawn) -> None:
    mixture, x = drawn
    text = json.dumps(mixture.spec())
    again = from_spec(json.loads(text))
    assert json.dumps(again.spec()) == text
    assert torch.equal(again.log_posterior(x), mixture.log_posterior(x))


# ------------------------------------------------------------------------------------------- the algebra of wrappers


@some
@given(st.data(), mixtures_with_points(max_depth=1))
def test_a_noise_channel_multiplies_rows(data: st.DataObject, drawn: Drawn) -> None:
    mixture, x = drawn
    first = data.draw(stochastic_matrices(mixture.num_classes, 3))
    second = data.draw(stochastic_matrices(3))
    noisy = LabelNoise(mixture, first)
    same(noisy.posterior(x), mixture.posterior(x) @ first)
    same(noisy.priors, mixture.priors @ first, 1e-14)
    same(LabelNoise(noisy, second).posterior(x), LabelNoise(mixture, first @ second).posterior(x))


def test_channels_do_not_commute() -> None:
    def differ(drawn: tuple[FiniteMixture, Tensor, Tensor]) -> bool:
        world, first, second = drawn
        points = world.support()[0]
        there, back = (LabelNoise(LabelNoise(world, a), b) for a, b in ((first, second), (second, first)))
        return float((there.posterior(points) - back.posterior(points)).abs().max()) > 0.05

    drawn = st.tuples(finite_mixtures(num_classes=2), stochastic_matrices(2), stochastic_matrices(2))
    find(drawn, differ, settings=settings(max_examples=500, phases=[Phase.generate], derandomize=True))


@some
@given(st.data(), mixtures_with_points(max_depth=1))
def test_a_permutation_of_labels_is_a_channel(data: st.DataObject, drawn: Drawn) -> None:
    mixture, x = drawn
    order = data.draw(st.permutations(range(mixture.num_classes)))
    matrix = torch.eye(mixture.num_classes, dtype=torch.float64)[:, order]
    same(LabelNoise(mixture, matrix).posterior(x), mixture.posterior(x)[:, order], 0)


@some
@given(mixtures_with_points(max_depth=1), st.floats(0, 0.99))
def test_symmetric_noise_keeps_the_decision(drawn: Drawn, rate: float) -> None:
    mixture, x = drawn
    p, q = mixture.posterior(x), LabelNoise.symmetric(mixture, rate).posterior(x)
    same(q, (1 - rate) * p + rate / mixture.num_classes)
    assert bool((p.gather(-1, q.argmax(-1, keepdim=True))[:, 0] >= p.amax(-1) - 1e-12).all())


@some
@given(st.data(), mixtures_with_points(max_depth=1))
def test_groups_of_groups_are_groups(data: st.DataObject, drawn: Drawn) -> None:
    mixture, x = drawn
    classes = mixture.num_classes
    order = data.draw(st.permutations(range(classes)))
    cut = data.draw(st.integers(1, classes - 1))
    inner = Superclasses(mixture, [[k] for k in order])
    same(inner.posterior(x), mixture.posterior(x)[:, order], 1e-15)
    outer = Superclasses(inner, [list(range(cut)), list(range(cut, classes))])
    at_once = Superclasses(mixture, [order[:cut], order[cut:]])
    same(outer.posterior(x), at_once.posterior(x))
    same(at_once.posterior(x)[:, 0], mixture.posterior(x)[:, order[:cut]].sum(-1))


@some
@given(st.data(), mixtures_with_points(max_depth=1))
def test_priors_can_be_shifted_twice_and_back(data: st.DataObject, drawn: Drawn) -> None:
    mixture, x = drawn
    first, second = (data.draw(simplex_rows(mixture.num_classes, 1e-3)) for _ in range(2))
    once, twice = PriorShift(mixture, second), PriorShift(PriorShift(mixture, first), second)
    same(twice.log_posterior(x).exp(), once.posterior(x), 1e-11)
    same(PriorShift(once, mixture.priors).posterior(x), mixture.posterior(x), 1e-11)
    odds = once.posterior(x) / mixture.posterior(x).clamp(min=1e-300) * mixture.priors / second
    kept = odds[mixture.posterior(x).amin(-1) > 1e-12]
    torch.testing.assert_close(kept, kept[:, :1].expand_as(kept), rtol=1e-9, atol=0)


@some
@given(
    mixtures_with_points(kinds=["gaussian", "student", "laplace", "bernoulli", "categorical"], max_depth=0), st.data()
)
def test_shifted_priors_are_those_written_in(drawn: Drawn, data: st.DataObject) -> None:
    mixture, x = drawn
    priors = data.draw(simplex_rows(mixture.num_classes, 1e-3))
    direct = from_spec({**mixture.spec(), "priors": priors.tolist()})
    same(PriorShift(mixture, priors).posterior(x), direct.posterior(x), 1e-11)


@some
@given(st.data(), mixtures_with_points(max_depth=1))
def test_a_warp_changes_x_and_nothing_else(data: st.DataObject, drawn: Drawn) -> None:
    mixture, z = drawn
    warp = data.draw(warps(math.prod(mixture.shape)))
    image = Warped(mixture, warp)
    support = image.support()
    if support is None:
        x = warp.forward(z.flatten(1)).reshape(z.shape)
    else:
        z, x = mixture.support()[0], support[0]  # type: ignore[index]
        same(support[1], mixture.support()[1], 0)  # type: ignore[index]
    same(image.posterior(x), mixture.posterior(z), 1e-9)
    same(image.priors, mixture.priors, 0)
    assert image.symmetries == frozenset()


@few
@given(st.data(), mixtures_with_points(max_depth=0))
def test_wrappers_of_labels_commute_with_warps(data: st.DataObject, drawn: Drawn) -> None:
    mixture, z = drawn
    warp = data.draw(warps(math.prod(mixture.shape)))
    channel = data.draw(stochastic_matrices(mixture.num_classes))
    outside, inside = LabelNoise(Warped(mixture, warp), channel), Warped(LabelNoise(mixture, channel), warp)
    support = outside.support()
    x = warp.forward(z.flatten(1)).reshape(z.shape) if support is None else support[0]
    same(outside.posterior(x), inside.posterior(x))
    assert outside.bayes_error(n=2).method == inside.bayes_error(n=2).method


# ---------------------------------------------------------------------------------------------------------- Bayes error


@some
@given(finite_mixtures(num_classes=3), stochastic_matrices(3), st.floats(0, 1))
def test_what_noise_and_merging_do_to_the_bayes_error(world: FiniteMixture, channel: Tensor, rate: float) -> None:
    """Noise of any kind does not help to guess the noisy label beyond the best column; merging makes it easier."""
    clean = world.bayes_error().value
    symmetric = LabelNoise.symmetric(world, rate).bayes_error().value
    assert symmetric == pytest.approx(1 - (1 - rate) * (1 - clean) - rate / 3, abs=1e-12)
    assert LabelNoise(world, channel).bayes_error().value >= 1 - float(channel.amax()) - 1e-12
    assert Superclasses(world, [0, 0, 1]).bayes_error().value <= clean + 1e-12
    assert clean <= 1 - float(world.priors.max()) + 1e-12


@few
@given(mixtures(max_depth=1))
def test_the_bayes_error_is_at_most_that_of_the_priors(mixture: Mixture) -> None:
    error = mixture.bayes_error(n=4096)
    assert -1e-12 <= error.value <= 1 - float(mixture.priors.max()) + 5 * error.stderr + 1e-9


@few
@given(mixtures(max_depth=1))
def test_two_methods_agree(mixture: Mixture) -> None:
    """15 comparisons at 5 standard errors: false alarms 1e-5."""
    best = mixture.bayes_error(n=2)
    assume(best.method != "monte_carlo")
    sampled = mixture.bayes_error("monte_carlo", n=20_000, seed=1)
    assert abs(best.value - sampled.value) <= 5 * sampled.stderr + best.stderr + 1e-9
