"""The distilled risk: Lemma 1, the exact error, the bounds on the bias, unbiased noise; brute force as the oracle."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from torch import Tensor
from trying import settings_at, tried

from bcpd import simplex
from bcpd.losses import LOSSES
from bcpd.mixtures import FiniteMixture
from bcpd.seeds import generator
from bcpd.testing import row_tables, simplex_rows
from bcpd.theory.distilled import distilled_bias, distilled_risk, distilled_variance, noisy_targets
from bcpd.theory.distilled.distilled_bias import attaining_case, bias_bounds, risk_bias
from bcpd.theory.distilled.distilled_risk import risk_error
from bcpd.theory.distilled.distilled_variance import (
    Case,
    label_variance,
    sample_mean_error,
    target_variance,
    variance_gap,
)
from bcpd.theory.distilled.noisy_targets import (
    dirichlet_covariance,
    dirichlet_target_mse,
    matching_concentration,
    mixture_target_mse,
    mixture_targets,
    one_hot_target_mse,
)
from bcpd.theory.finite_tables import beta_nodes, default_tables, every_sample, largest_size, outcome_losses

MODULES = (distilled_variance, distilled_bias, distilled_risk, noisy_targets)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_claims_hold_and_controls_fail(module: object, seed: int) -> None:
    checks = tried(module.CLAIMS, settings_at(seed))  # type: ignore[attr-defined]
    attained = [check for check in checks if "attained" in check.detail and check.role == "claim"]
    assert all(check.tightness is not None and check.tightness >= 0.999 for check in attained)


@pytest.mark.parametrize("name", ["finite", "bernoulli", "warped-table"])
def test_a_users_finite_mixture_is_tried(name: str) -> None:
    for module in MODULES:
        checks = tried(module.CLAIMS, settings_at(0, name))
        assert checks
        assert {check.world for check in checks} == {name}


@st.composite
def cases(draw: st.DrawFn, zeros: bool = False, most_points: int = 3, most_classes: int = 3) -> Case:
    n, k = draw(st.integers(1, most_points)), draw(st.integers(2, most_classes))
    rows = row_tables(n, k, zeros=zeros)
    stream = generator(draw(st.integers(0, 2**32 - 1)), "losses")
    losses = 3 * torch.randn(n, k, generator=stream, dtype=torch.float64)
    return Case(draw(row_tables(1, n))[0], draw(rows), draw(rows), losses)


def loop_over_samples(case: Case, size: int, targets: Tensor | None) -> tuple[float, float]:
    """Mean and mean square about the true risk of the risk on a sample, in plain Python.

    Labels are drawn where there are no targets.
    """
    w, p, losses = case.weights.tolist(), case.bayes.tolist(), case.losses.tolist()
    points = range(len(w))
    if targets is None:
        outcomes = [(w[i] * p[i][k], losses[i][k]) for i in points for k in range(len(p[i]))]
    else:
        t = targets.tolist()
        outcomes = [(w[i], math.fsum(a * b for a, b in zip(t[i], losses[i], strict=True))) for i in points]
    truth = math.fsum(w[i] * p[i][k] * losses[i][k] for i in points for k in range(len(p[i])))
    mean = square = 0.0
    for sample in itertools.product(outcomes, repeat=size):
        chance = math.prod(probability for probability, _ in sample)
        value = sum(each for _, each in sample) / size
        mean += chance * value
        square += chance * (value - truth) ** 2
    return mean, square


@settings(max_examples=40)
@given(cases(zeros=True), st.integers(1, 3))
def test_lemma_1_with_its_gap(case: Case, size: int) -> None:
    """Both risks are unbiased, so that their mean squares about R are variances."""
    mean, hard = loop_over_samples(case, size, None)
    soft_mean, soft = loop_over_samples(case, size, case.bayes)
    assert mean == pytest.approx(case.risk, abs=1e-12)
    assert soft_mean == pytest.approx(case.risk, abs=1e-12)
    law = (case.weights, case.bayes, case.losses)
    assert label_variance(*law) / size == pytest.approx(hard, abs=1e-12)
    assert target_variance(case.weights, case.bayes, case.losses) / size == pytest.approx(soft, abs=1e-12)
    gap = variance_gap(*law)
    assert gap >= 0
    assert size * (hard - soft) == pytest.approx(gap, abs=3e-12)


@settings(max_examples=40)
@given(cases(zeros=True), st.integers(1, 3))
def test_the_exact_error_of_the_distilled_risk(case: Case, size: int) -> None:
    mean, square = loop_over_samples(case, size, case.teacher)
    law = (case.weights, case.bayes, case.teacher, case.losses)
    assert risk_error(*law, size) == pytest.approx(square, abs=1e-12)
    assert risk_bias(*law) == pytest.approx(mean - case.risk, abs=1e-12)


@settings(max_examples=40)
@given(cases(zeros=True, most_points=4, most_classes=5), st.floats(-3, 3))
def test_losses_constant_on_the_support_give_both_risks_one_variance(case: Case, level: float) -> None:
    constant = case.losses[:, :1].expand_as(case.losses)
    # what cannot happen may cost anything
    losses = torch.where(case.bayes > 0, constant, case.losses + level)
    assert variance_gap(case.weights, case.bayes, losses) == pytest.approx(0, abs=1e-12)


@settings(max_examples=50)
@given(cases(zeros=True, most_points=4, most_classes=5))
def test_bias_bounds_are_a_chain_above_the_bias(case: Case) -> None:
    law = (case.weights, case.bayes, case.teacher, case.losses)
    bounds = bias_bounds(*law)
    chain = [abs(risk_bias(*law)), bounds.l1, bounds.l2, bounds.sup]
    assert all(low <= high + 1e-12 for low, high in itertools.pairwise(chain))


@settings(max_examples=40)
@given(cases(most_classes=5))
def test_non_negative_losses_halve_the_sup_bound(case: Case) -> None:
    losses = case.losses.abs()
    bounds = bias_bounds(case.weights, case.bayes, case.teacher, losses)
    assert abs(risk_bias(case.weights, case.bayes, case.teacher, losses)) <= bounds.sup / 2 + 1e-12


@pytest.mark.parametrize("num_classes", [2, 3, 4, 7, 10])
@pytest.mark.parametrize("form", ["l1", "l2", "sup"])
def test_the_bounds_are_attained(form: str, num_classes: int) -> None:
    case = attaining_case(form, num_classes, seed=3)
    law = (case.weights, case.bayes, case.teacher, case.losses)
    share = abs(risk_bias(*law)) / getattr(bias_bounds(*law), form)
    # with an odd number of classes as many signs of each kind there cannot be
    expected = math.sqrt(1 - num_classes**-2) if form == "sup" and num_classes % 2 else 1.0
    assert share == pytest.approx(expected, abs=1e-12)


def test_no_search_beats_the_constant_of_the_l2_form() -> None:
    """The maximum of <d, l> over zero-sum unit d and losses in [-1/2, 1/2] is at a corner: all corners."""
    for k in range(2, 9):
        signs = np.array(list(itertools.product([-0.5, 0.5], repeat=k)))
        best = np.linalg.norm(signs - signs.mean(1, keepdims=True), axis=1).max()
        assert best == pytest.approx(math.sqrt(k - (k % 2) / k) / 2)


def test_find_a_closer_teacher_with_the_larger_error() -> None:
    """Hypothesis finds a world in which the teacher of smaller MSE misleads more."""

    def misleads(pair: tuple[Case, Tensor]) -> bool:
        case, rival = pair
        closer = case.weights @ (
            simplex.squared_distance(case.teacher, case.bayes) - simplex.squared_distance(rival, case.bayes)
        )
        law, other = (case.weights, case.bayes, case.teacher), (case.weights, case.bayes, rival)
        return bool(closer < -1e-3) and risk_error(*law, case.losses, 3) > risk_error(*other, case.losses, 3) + 1e-3

    both = cases(most_points=2).flatmap(lambda case: st.tuples(st.just(case), row_tables(*case.bayes.shape)))
    found, _ = find(both, misleads, settings=settings(max_examples=2000, phases=[Phase.generate]))
    assert risk_bias(found.weights, found.bayes, found.teacher, found.losses) != 0


@settings(max_examples=30)
@given(st.integers(2, 4).flatmap(lambda k: row_tables(2, k, floor=1e-4)), st.floats(0.1, 50))
def test_the_covariance_of_dirichlet_targets_is_a_share_of_that_of_labels(rows: Tensor, concentration: float) -> None:
    categorical = torch.diag_embed(rows) - rows[:, :, None] * rows[:, None, :]
    by_quadrature = dirichlet_covariance(rows, concentration)
    assert torch.allclose(by_quadrature, categorical / (concentration + 1), rtol=0, atol=1e-12)
    assert float(by_quadrature.sum(-1).abs().max()) < 1e-12


@settings(max_examples=40)
@given(row_tables(3, 4, zeros=True), st.floats(0, 1))
def test_mixture_targets_by_all_labels(rows: Tensor, share: float) -> None:
    weights = torch.tensor([0.2, 0.5, 0.3])
    targets = mixture_targets(rows, share)
    assert torch.allclose((rows[:, :, None] * targets).sum(1), rows, atol=1e-14)
    brute = sum(
        float(weights[i] * rows[i, k]) * float((targets[i, k] - rows[i]).square().sum())
        for i in range(3)
        for k in range(4)
    )
    assert mixture_target_mse(weights, rows, share) == pytest.approx(brute, abs=1e-7)  # weights are float32
    assert one_hot_target_mse(weights, rows) == pytest.approx(mixture_target_mse(weights, rows, 1.0))


@settings(max_examples=50)
@given(simplex_rows(floor=1e-6), st.floats(0.05, 100))
def test_dirichlet_moments_by_mpmath(p: Tensor, concentration: float) -> None:
    """The variance of Dirichlet entries from their gamma functions, to 30 digits."""
    import mpmath

    with mpmath.workdps(30):
        a = [mpmath.mpf(float(each)) * concentration for each in p]
        total = mpmath.fsum(a)
        second = [each * (each + 1) / (total * (total + 1)) for each in a]
        variance = mpmath.fsum(s - (each / total) ** 2 for s, each in zip(second, a, strict=True))
    assert dirichlet_target_mse([1.0], p[None], concentration) == pytest.approx(float(variance), rel=1e-9)
    nodes, weights = beta_nodes(float(p[0]), concentration)
    assert float(weights @ nodes) == pytest.approx(float(p[0]), abs=1e-12)
    assert float(weights @ nodes.square()) == pytest.approx(float(second[0]), abs=1e-12)


@settings(max_examples=40)
@given(st.floats(0.01, 1), row_tables(2, 3))
def test_the_two_families_match_where_they_are_said_to(share: float, rows: Tensor) -> None:
    mixture = mixture_target_mse([0.5, 0.5], rows, share)
    assert dirichlet_target_mse([0.5, 0.5], rows, matching_concentration(share)) == pytest.approx(mixture, rel=1e-9)


def test_extremes_of_the_families() -> None:
    assert matching_concentration(0.0) == math.inf
    assert matching_concentration(1.0) == 0.0
    vertex = [[1.0, 0.0]]
    assert dirichlet_target_mse([1.0], vertex, 3.0) == mixture_target_mse([1.0], vertex, 0.5) == 0.0
    assert beta_nodes(1.0, 2.0)[0].tolist() == [1.0]


def test_every_sample_is_listed_once() -> None:
    indices, chances = every_sample(torch.tensor([0.2, 0.3, 0.5]).double(), 2)
    assert sorted(map(tuple, indices.tolist())) == sorted(itertools.product(range(3), repeat=2))
    assert float(chances.sum()) == pytest.approx(1)
    assert (largest_size(15), largest_size(300), largest_size(100_000)) == (3, 1, 1)
    values = torch.tensor([1.0, 2.0, 4.0]).double()
    assert sample_mean_error(values, torch.tensor([0.2, 0.3, 0.5]).double(), 2, around=1.0) == pytest.approx(
        sum(
            p * q * ((x + y) / 2 - 1) ** 2
            for p, x in zip([0.2, 0.3, 0.5], [1, 2, 4], strict=True)
            for q, y in zip([0.2, 0.3, 0.5], [1, 2, 4], strict=True)
        )
    )


def test_outcome_losses_are_the_label_losses() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0]]).double()
    by_hand = [float(LOSSES["mse"](logits, torch.tensor([k]))) for k in range(3)]
    assert outcome_losses(LOSSES["mse"], logits)[0].tolist() == by_hand


def test_of_a_large_table_the_heaviest_positive_points_are_kept() -> None:
    weights = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)
    rows = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.3, 0.7], [0.2, 0.8]], dtype=torch.float64)
    own = settings_at(0)
    own = type(own)("quick", 0, own.trainer, ("table", FiniteMixture(weights, rows)))
    (kept,) = default_tables(own, 0, [], most=2, positive=1e-3)
    assert kept.weights.tolist() == pytest.approx([0.4, 0.6])
    assert kept.points.flatten().tolist() == [2.0, 3.0]
    assert list(default_tables(own, 0, [], positive=0.4)) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: label_variance([1.0], [[0.5, 0.5]], [[1.0, 2.0, 3.0]]), r"losses \(n, K\), received"),
        (lambda: variance_gap([0.5, 0.5], [[0.5, 0.5]], [[1.0, 2.0]]), "received 2 weights and 1 rows"),
        (lambda: target_variance([1.0], [[0.5, 0.6]], [[1.0, 2.0]]), "must be rows of probabilities"),
        (lambda: risk_error([1.0], [[0.5, 0.5]], [[0.5, 0.5]], [[1.0, 2.0]], 0), "at least 1, received 0"),
        (lambda: mixture_target_mse([1.0], [[0.5, 0.5]], 1.5), r"lie in \[0, 1\], received 1.5"),
        (lambda: matching_concentration(-0.1), r"received -0.1"),
        (lambda: dirichlet_target_mse([1.0], [[0.5, 0.5]], -1.0), "received -1.0"),
    ],
)
def test_mistakes_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_pictures_show_what_the_claims_say() -> None:
    own = settings_at(0)
    panels = distilled_risk.CLAIMS[0].picture(own)["panels"]  # type: ignore[misc]
    along, across = panels[0]["series"]
    assert max(across["y"]) == pytest.approx(min(across["y"]), rel=1e-3)
    assert along["y"][-1] > 2 * along["y"][0]
    labels, exact, biased = (series["y"] for series in panels[1]["series"])
    assert biased[0] < labels[0]
    assert biased[-1] > labels[-1]
    assert all(a < b for a, b in zip(exact, labels, strict=True))
    tightness = distilled_bias.CLAIMS[0].picture(own)  # type: ignore[misc]
    built = {series["name"]: series["y"] for series in tightness["series"]}
    assert built["l1, built"] == pytest.approx([1.0] * 9)
    assert max(built["l1, best of 60 random"]) <= 1
