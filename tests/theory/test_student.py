"""The student chain: the inequality on any rows, its tight case, and what the claims find of trained networks."""

import math

import pytest
import torch
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from torch import Tensor
from trying import settings_at, tried

from bcpd.measure.bounds import excess_risk_bounds_of_probabilities, tipped
from bcpd.testing import row_tables
from bcpd.theory.distilled.student import CLAIMS, StudentBound, student_bound

Tables = tuple[Tensor, Tensor, Tensor, Tensor]


@st.composite
def chains(draw: st.DrawFn, zeros: bool = True) -> Tables:
    """Student, teacher, p* and weights."""
    n, k = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    student, teacher, bayes = (draw(row_tables(n, k, zeros=zeros)) for _ in range(3))
    return student, teacher, bayes, draw(row_tables(1, n, zeros=zeros))[0]


def test_claims_hold_and_controls_fail() -> None:
    checks = tried(CLAIMS, settings_at(0))
    attained = [check for check in checks if "attained" in check.detail and check.role == "claim"]
    assert len(attained) == 2
    assert all(check.tightness is not None and check.tightness >= 0.999 for check in attained)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_claims_hold_at_other_seeds(seed: int) -> None:
    tried(CLAIMS, settings_at(seed))


def test_a_users_finite_mixture_is_tried() -> None:
    checks = tried(CLAIMS, settings_at(0, "finite"))
    assert {check.world for check in checks} == {"finite"}
    assert any("networks" in check.detail for check in checks)


@settings(max_examples=30)
@given(chains())
def test_the_chain_holds_for_any_rows(tables: Tables) -> None:
    bound = student_bound(*tables)
    assert 0 <= bound.excess_risk <= bound.l2 + 1e-12
    assert bound.l2 <= bound.mse + 1e-12


@settings(max_examples=40)
@given(chains())
def test_the_bound_by_a_loop(tables: Tables) -> None:
    """Point by point in plain Python; the prediction is the worst of the classes that tie."""
    student, teacher, bayes, weights = (table.tolist() for table in tables)
    excess = first = second = square_first = square_second = 0.0
    for s, t, p, w in zip(student, teacher, bayes, weights, strict=True):
        excess += w * (max(p) - min(p[k] for k in range(len(p)) if s[k] == max(s)))
        first += w * math.dist(s, t)
        second += w * math.dist(t, p)
        square_first += w * math.dist(s, t) ** 2
        square_second += w * math.dist(t, p) ** 2
    expected = StudentBound(
        excess, math.sqrt(2) * (first + second), math.sqrt(2) * (math.sqrt(square_first) + math.sqrt(square_second))
    )
    assert student_bound(*tables) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=40)
@given(chains(zeros=False))
def test_with_the_student_as_its_own_teacher_it_is_the_bound_of_a_single_network(tables: Tables) -> None:
    student, _, bayes, weights = tables
    bound = student_bound(student, student, bayes, weights)
    single = excess_risk_bounds_of_probabilities(student, bayes.log(), weights=weights)
    assert bound.excess_risk == pytest.approx(single.excess_risk.value, abs=1e-12)
    assert bound.l2 == pytest.approx(single.bounds["l2"].bound.value, abs=1e-12)
    assert bound.mse == pytest.approx(single.bounds["mse"].bound.value, abs=1e-12)
    assert student_bound(student, bayes, bayes, weights) == pytest.approx(bound, abs=1e-12)


@settings(max_examples=40)
@given(row_tables(3, 4), st.floats(0, 1))
def test_every_teacher_between_p_star_and_the_tipped_student_attains_it(bayes: Tensor, share: float) -> None:
    student = tipped(bayes, tip=0.0)
    bound = student_bound(student, bayes.lerp(student, share), bayes)
    assert bound.excess_risk == pytest.approx(bound.l2, abs=1e-12)


def test_find_a_chain_that_uses_more_than_constant_1_allows() -> None:
    """A search through random rows is enough to refute the constant 1, without the construction."""

    def refutes(tables: Tables) -> bool:
        bound = student_bound(*tables)
        return bound.excess_risk > bound.l2 / math.sqrt(2) + 1e-3

    found = find(chains(), refutes, settings=settings(max_examples=3000, phases=[Phase.generate]))
    assert refutes(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ([[0.5, 0.5]], [[0.5, 0.5]], [[0.2, 0.3, 0.5]]),
            r"one shape \(n, K\), received \(1, 2\), \(1, 2\) and \(1, 3",
        ),
        (([[0.5, 0.6]], [[0.5, 0.5]], [[0.5, 0.5]]), "student must be rows of probabilities"),
        (([[0.5, 0.5]], [[0.5, 0.5]], [[0.5, 0.5]], [0.5, 0.5]), r"weights must have shape \(1,\), received \(2,\)"),
    ],
)
def test_mistakes_are_named(arguments: tuple[list[list[float]], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        student_bound(*arguments)


def test_the_picture_has_no_point_above_the_line_but_those_of_memorised_inputs() -> None:
    series = {each["name"]: each for each in CLAIMS[0].picture(settings_at(0))["series"]}  # type: ignore[misc]
    for name in ("random rows", "trained students", "built to attain it"):
        assert all(y <= x * (1 + 1e-4) for x, y in zip(series[name]["x"], series[name]["y"], strict=True))
    tight = series["built to attain it"]
    assert all(y >= 0.999 * x for x, y in zip(tight["x"], tight["y"], strict=True))
    promised = series["bound taken on memorised inputs"]
    assert all(y > x for x, y in zip(promised["x"], promised["y"], strict=True))


def test_weights_are_equal_by_default() -> None:
    rows = torch.tensor([[0.6, 0.4], [0.1, 0.9]])
    other = torch.tensor([[0.4, 0.6], [0.2, 0.8]])
    assert student_bound(other, rows, rows) == student_bound(other, rows, rows, [0.5, 0.5])
