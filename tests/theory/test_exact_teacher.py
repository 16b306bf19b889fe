"""Distillation from an exact teacher: minimisers by an optimiser of its own, tempered rows to 30 digits, the claims."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor
from trying import settings_at, tried

from bcpd import simplex
from bcpd.testing import row_tables, simplex_rows, simplex_rows_with_zeros
from bcpd.theory.distilled.exact_teacher import CLAIMS, tempered, tempered_teacher_minimiser

TEMPERATURES = st.floats(0.3, 20)


@pytest.mark.parametrize("seed", [0, 1])
def test_claims_hold_and_controls_fail(seed: int) -> None:
    checks = tried(CLAIMS, settings_at(seed))
    harmless = {(check.claim, check.control) for check in checks if check.control and check.role == "claim"}
    assert ("exact-teacher-kd", "dropped_square") in harmless
    assert ("exact-teacher-kd", "teacher_only") in harmless  # at T = 1
    for weights in ("gamma=0.1, alpha=0.9", "gamma=0.7, alpha=2"):
        assert any(weights in check.detail for check in checks if check.control == "teacher_only")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["finite", "bernoulli"])
def test_a_users_finite_mixture_is_tried(name: str) -> None:
    assert {check.world for check in tried(CLAIMS, settings_at(0, name))} == {name}


@settings(max_examples=60)
@given(simplex_rows_with_zeros(), TEMPERATURES, TEMPERATURES)
def test_a_higher_temperature_lowers_the_largest_probability(p: Tensor, one: float, other: float) -> None:
    cooler, warmer = sorted((one, other))
    assert float(tempered(p, warmer).max()) <= float(tempered(p, cooler).max()) + 1e-14


@settings(max_examples=40)
@given(simplex_rows(floor=1e-9), TEMPERATURES)
def test_tempered_rows_to_30_digits(p: Tensor, temperature: float) -> None:
    with mpmath.workdps(30):
        powers = [mpmath.mpf(float(each)) ** (1 / mpmath.mpf(temperature)) for each in p]
        expected = [float(each / mpmath.fsum(powers)) for each in powers]
    assert tempered(p, temperature).tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)


@given(simplex_rows_with_zeros(), TEMPERATURES)
def test_tempering_keeps_zeros_and_sums(p: Tensor, temperature: float) -> None:
    rows = tempered(p, temperature)
    assert bool(((rows == 0) | (p > 0)).all())
    assert float(rows.sum()) == pytest.approx(1, abs=1e-12)
    assert torch.allclose(tempered(p, 1.0), p, atol=1e-12)


@settings(max_examples=15)
@given(simplex_rows(floor=0.01), st.floats(0.5, 8), st.floats(0, 5))
def test_the_minimiser_by_an_optimiser_without_derivatives_of_ours(
    p: Tensor, temperature: float, weight: float
) -> None:
    """BFGS with numerical gradients on the formula written out in NumPy."""
    truth = p.numpy()
    soft = truth ** (1 / temperature)
    soft /= soft.sum()

    def risk(z: np.ndarray) -> float:
        log_q = z - z.max() - np.log(np.exp(z - z.max()).sum())
        return float(-(truth * log_q).sum() + weight * (soft * (np.log(soft) - log_q)).sum())

    z = minimize(risk, np.zeros(len(p)), method="BFGS", options={"gtol": 1e-7}).x
    q = np.exp(z - z.max())
    assert tempered_teacher_minimiser(p, temperature, weight).tolist() == pytest.approx(list(q / q.sum()), abs=1e-4)


@settings(max_examples=40)
@given(row_tables(3, 4), row_tables(3, 4), TEMPERATURES, st.floats(0, 5))
def test_no_row_beats_the_minimiser(bayes: Tensor, rival: Tensor, temperature: float, weight: float) -> None:
    def risk(q: Tensor) -> Tensor:
        return simplex.cross_entropy(bayes, q) + weight * simplex.kl(tempered(bayes, temperature), q)

    best = tempered_teacher_minimiser(bayes, temperature, weight)
    assert bool((risk(best) <= risk(rival) + 1e-10).all())


def test_extremes() -> None:
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    assert torch.allclose(tempered(p, 1e6), torch.full((3,), 1 / 3, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(tempered(p, 0.01), torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), atol=1e-12)
    assert torch.equal(tempered_teacher_minimiser(p, 3.0, 0.0), p)
    assert torch.allclose(tempered_teacher_minimiser(p, 3.0, 1e9), tempered(p, 3.0), atol=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tempered([0.5, 0.5], 0.0), r"temperature must be > 0, received 0\.0"),
        (lambda: tempered_teacher_minimiser([0.5, 0.5], 2.0, -1.0), r"weight must be >= 0, received -1\.0"),
        (lambda: tempered([0.5, 0.6], 1.0), "p must be rows of probabilities"),
    ],
)
def test_mistakes_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
