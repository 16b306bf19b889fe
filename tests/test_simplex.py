"""Every probability formula against an independent implementation, and the inequalities between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import chain, combinations, pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats
from torch import Tensor

from bcpd import simplex

mpmath.mp.dps = 50
checked = settings(derandomize=True, deadline=None, max_examples=120)


def _softmax(logits: list[float]) -> list[float]:
    return list(special.softmax(np.array(logits)))


def _normalised(parts: list[float]) -> list[float]:
    total = math.fsum(parts)
    return [part / total for part in parts]


def rows(k: int) -> st.SearchStrategy[list[float]]:
    """Interior points, vertices, the centre, exact zeros, tied classes and subnormal entries."""
    vertex = st.integers(0, k - 1).map(lambda i: [float(j == i) for j in range(k)])
    tiny = st.sampled_from([0.0, 5e-324, 1e-310, 1e-200, 1e-160, 1e-17])
    almost_vertex = st.tuples(st.lists(tiny, min_size=k - 1, max_size=k - 1), st.integers(0, k - 1)).map(
        lambda pair: [*pair[0][: pair[1]], 1.0, *pair[0][pair[1] :]]
    )
    zeros = st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=k, max_size=k).filter(any).map(_normalised)
    interior = st.lists(st.floats(-12, 12), min_size=k, max_size=k).map(_softmax)
    return st.one_of(interior, vertex, almost_vertex, zeros, st.just([1 / k] * k))


def interiors(k: int) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(-12, 12), min_size=k, max_size=k).map(_softmax)


pairs = st.integers(1, 7).flatmap(lambda k: st.tuples(rows(k), rows(k)))
interior_pairs = st.integers(2, 7).flatmap(lambda k: st.tuples(interiors(k), interiors(k)))


def _xlogy(x: float, y: float) -> mpmath.mpf:
    if x == 0:
        return mpmath.mpf(0)
    return mpmath.mpf(x) * mpmath.log(y) if y > 0 else mpmath.mpf("-inf")


def _sum(terms: Callable[[mpmath.mpf, mpmath.mpf], mpmath.mpf]) -> Callable[[list[float], list[float]], mpmath.mpf]:
    return lambda p, q: sum((terms(mpmath.mpf(a), mpmath.mpf(b)) for a, b in zip(p, q, strict=True)), mpmath.mpf(0))


ORACLES = {
    "squared_distance": _sum(lambda a, b: (a - b) ** 2),
    "l1_distance": _sum(lambda a, b: abs(a - b)),
    "sup_distance": lambda p, q: max(abs(mpmath.mpf(a) - mpmath.mpf(b)) for a, b in zip(p, q, strict=True)),
    "total_variation": _sum(lambda a, b: abs(a - b) / 2),
    "cross_entropy": _sum(lambda a, b: -_xlogy(a, b)),
    "kl": _sum(lambda a, b: _xlogy(a, a) - _xlogy(a, b)),
    "chi_square": _sum(lambda a, b: mpmath.mpf(0) if a == b else (a - b) ** 2 / b if b else mpmath.inf),
    "squared_hellinger": _sum(lambda a, b: (mpmath.sqrt(a) - mpmath.sqrt(b)) ** 2 / 2),
}


def close(found: float, expected: float) -> bool:
    return found == expected or abs(found - expected) <= 1e-12 * (1 + abs(expected))


@checked
@given(pairs)
def test_all_agree_with_high_precision(pair: tuple[list[float], list[float]]) -> None:
    for name, oracle in ORACLES.items():
        found, expected = float(getattr(simplex, name)(*pair)), float(oracle(*pair))
        assert close(found, expected), (name, found, expected)


@pytest.mark.parametrize("name", ["cross_entropy", "kl", "chi_square"])
def test_the_high_precision_oracle_rejects_swapped_arguments(name: str) -> None:
    p, q = [0.7, 0.2, 0.1], [0.3, 0.3, 0.4]
    assert not close(float(getattr(simplex, name)(q, p)), float(ORACLES[name](p, q)))


@checked
@given(pairs)
def test_entropy_and_kl_agree_with_scipy(pair: tuple[list[float], list[float]]) -> None:
    p, q = (np.array(row) for row in pair)
    assert close(float(simplex.entropy(p)), float(special.entr(p).sum()))
    assert close(float(simplex.kl(p, q)), float(special.rel_entr(p, q).sum()))
    assert close(float(simplex.entropy(p)), float(stats.entropy(p)))


@checked
@given(pairs)
def test_logarithmic_forms_agree_with_the_plain_ones(pair: tuple[list[float], list[float]]) -> None:
    p, q = (torch.tensor(row, dtype=torch.float64) for row in pair)
    assert close(float(simplex.cross_entropy_from_log(p, q.log())), float(simplex.cross_entropy(p, q)))
    # the logarithm of a subnormal number keeps its value to 1e-13 or so, times at most 745 nats
    assert math.isclose(
        float(simplex.kl_from_log(p.log(), q.log())), float(simplex.kl(p, q)), rel_tol=1e-10, abs_tol=1e-10
    )


def test_logarithmic_forms_survive_underflow() -> None:
    log_q = torch.tensor([0.0, -1000.0], dtype=torch.float64)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert float(simplex.cross_entropy_from_log(half, log_q)) == 500.0
    assert float(simplex.kl_from_log(half.log(), log_q)) == pytest.approx(500 - math.log(2), rel=1e-14)
    assert float(simplex.kl_from_log(log_q, half.log())) == pytest.approx(math.log(2), rel=1e-14)
    assert float(simplex.cross_entropy(half, log_q.exp())) == math.inf


@checked
@given(interior_pairs)
def test_chain_of_inequalities(pair: tuple[list[float], list[float]]) -> None:
    """||p-q||^2 <= 2 TV^2 <= KL <= log(1 + chi2) <= chi2 <= ||p-q||^2 / min q."""
    p, q = pair
    squared, tv, kl, chi = (
        float(getattr(simplex, name)(p, q)) for name in ("squared_distance", "total_variation", "kl", "chi_square")
    )
    ascending = [squared, 2 * tv**2, kl, math.log1p(chi), chi, squared / min(q)]
    for smaller, larger in pairwise(ascending):
        assert smaller <= larger + 1e-12 * (1 + larger)


@pytest.mark.parametrize(
    ("p", "q", "wrong"),
    [
        pytest.param([0.5, 0.5], [0.999, 0.001], lambda s, tv, kl, chi, q: kl <= 2 * s, id="kl <= c mse"),
        pytest.param([0.5, 0.5], [0.51, 0.49], lambda s, tv, kl, chi, q: s <= kl / math.log(2) / 2, id="chain at c=2"),
        pytest.param([0.9, 0.1], [0.5, 0.5], lambda s, tv, kl, chi, q: chi <= kl, id="chi2 <= kl"),
        pytest.param([0.6, 0.3, 0.1], [0.1, 0.5, 0.4], lambda s, tv, kl, chi, q: 2 * tv**2 <= s, id="2 tv^2 <= mse"),
        pytest.param([0.5, 0.5], [0.6, 0.4], lambda s, tv, kl, chi, q: chi <= s / max(q), id="max for min"),
    ],
)
def test_reversed_and_misscaled_chains_are_violated(p: list[float], q: list[float], wrong: Callable[..., bool]) -> None:
    names = ("squared_distance", "total_variation", "kl", "chi_square")
    assert not wrong(*(float(getattr(simplex, name)(p, q)) for name in names), q)


def test_mse_and_kl_can_order_two_predictors_differently() -> None:
    p, a, b = [0.90, 0.08, 0.02], [0.80, 0.15, 0.05], [0.92, 0.0799, 0.0001]
    assert simplex.squared_distance(p, b) < simplex.squared_distance(p, a) / 15
    assert simplex.kl(p, a) < simplex.kl(p, b) / 2


def test_sum_over_classes_not_mean() -> None:
    assert float(simplex.squared_distance([1.0, 0.0], [0.0, 1.0])) == 2.0
    assert float(simplex.total_variation([1.0, 0.0], [0.0, 1.0])) == 1.0


@pytest.mark.parametrize("name", ["cross_entropy", "kl", "chi_square"])
def test_infinities_are_returned(name: str) -> None:
    divergence = getattr(simplex, name)
    assert float(divergence([0.5, 0.5], [1.0, 0.0])) == math.inf
    assert float(divergence([1e-300, 1.0], [0.0, 1.0])) == math.inf
    assert math.isfinite(float(divergence([1.0, 0.0], [0.5, 0.5])))
    assert float(divergence([1.0, 0.0], [1.0, 0.0])) == 0.0


def test_broadcasting_and_dtype() -> None:
    p, q = torch.full((4, 1, 3), 1 / 3), np.full((5, 3), 1 / 3)
    result = simplex.kl(p, q)
    assert result.shape == (4, 5)
    assert result.dtype == torch.float64


# ------------------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("name", ["squared_distance", "cross_entropy", "kl", "chi_square", "squared_hellinger"])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    @settings(derandomize=True, deadline=None, max_examples=15)
    @given(st.integers(2, 5).flatmap(lambda k: st.tuples(mild(k), mild(k))))
    def check(pair: tuple[list[float], list[float]]) -> None:
        p, q = (torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in pair)
        assert torch.autograd.gradcheck(getattr(simplex, name), (p, q), eps=1e-7, atol=1e-5, rtol=1e-4)

    def mild(k: int) -> st.SearchStrategy[list[float]]:
        return st.lists(st.floats(-2, 2), min_size=k, max_size=k).map(_softmax)

    check()


@pytest.mark.parametrize("name", ["cross_entropy", "kl", "chi_square"])
def test_gradient_in_q_is_zero_where_both_are_zero(name: str) -> None:
    q = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64, requires_grad=True)
    getattr(simplex, name)(torch.tensor([0.0, 0.25, 0.75]), q).backward()
    assert q.grad is not None
    assert q.grad.isfinite().all()
    assert float(q.grad[0]) == 0.0


def test_gradient_from_log_passes_a_masked_class() -> None:
    log_q = torch.tensor([0.0, -math.inf], dtype=torch.float64, requires_grad=True)
    simplex.cross_entropy_from_log([1.0, 0.0], log_q).backward()
    assert torch.equal(log_q.grad, torch.tensor([-1.0, 0.0], dtype=torch.float64))


# ----------------------------------------------------------------------------------------------------------- projection

points = st.integers(1, 5).flatmap(lambda k: st.lists(st.floats(-3, 3), min_size=k, max_size=k))


def brute_force_projection(z: list[float]) -> np.ndarray:
    """The nearest of the projections onto the affine hulls of all faces that land on the simplex, in rationals."""
    target = [Fraction(value) for value in z]
    candidates = []
    for face in chain.from_iterable(combinations(range(len(z)), size) for size in range(1, len(z) + 1)):
        shift = (sum(target[i] for i in face) - 1) / len(face)
        q = [value - shift if i in face else Fraction(0) for i, value in enumerate(target)]
        if min(q) >= 0:
            candidates.append((sum((a - b) ** 2 for a, b in zip(q, target, strict=True)), q))
    return np.array([float(value) for value in min(candidates)[1]])


@checked
@given(points)
def test_projection_is_the_nearest_point_over_all_faces(z: list[float]) -> None:
    assert np.allclose(simplex.project(z).numpy(), brute_force_projection(z), atol=1e-12)


def test_projection_agrees_with_a_quadratic_programme() -> None:
    rng = np.random.default_rng(0)
    for z in rng.normal(size=(10, 6)):
        found = optimize.minimize(
            lambda q, z=z: ((q - z) ** 2).sum(),
            np.full(6, 1 / 6),
            jac=lambda q, z=z: 2 * (q - z),
            bounds=[(0, 1)] * 6,
            constraints={"type": "eq", "fun": lambda q: q.sum() - 1, "jac": np.ones_like},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        assert np.allclose(simplex.project(z).numpy(), found.x, atol=1e-6)


@checked
@given(st.lists(st.floats(-1e20, 1e20), min_size=1, max_size=30))
def test_projection_satisfies_the_optimality_conditions(z: list[float]) -> None:
    """q = z - tau on the support, z <= tau off it, q >= 0, sum q = 1."""
    q = simplex.project(z)
    target = torch.tensor(z, dtype=torch.float64)
    assert abs(float(q.sum()) - 1) <= 1e-12
    assert bool((q >= 0).all())
    shift = target - target.max()
    threshold = (shift - q)[q > 0]
    assert float(threshold.max() - threshold.min()) <= 1e-12
    assert bool((shift[q == 0] <= threshold.max() + 1e-12).all())


def test_projection_differs_from_softmax_and_fixes_the_simplex() -> None:
    assert torch.allclose(simplex.project([0.2, 0.3, 0.5]), torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64))
    assert not torch.allclose(simplex.project([2.0, 0.0]), torch.tensor([2.0, 0.0]).softmax(-1).double(), atol=1e-2)
    assert torch.equal(simplex.project(torch.zeros(3, 0, 4)), torch.zeros(3, 0, 4, dtype=torch.float64))


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_shapes_that_do_not_match_are_refused(name: str) -> None:
    function = getattr(simplex, name)
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        function([0.5, 0.5], [0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match=r"broadcast.*\(2, 3\) and \(4, 3\)"):
        function(np.full((2, 3), 1 / 3), np.full((4, 3), 1 / 3))
    with pytest.raises(ValueError, match=r"K >= 1"):
        function(0.5, 0.5)


@pytest.mark.parametrize("name", ["cross_entropy", "kl", "chi_square", "squared_hellinger"])
def test_negative_entries_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"q must be non-negative, received a minimum of -0\.1"):
        getattr(simplex, name)([0.5, 0.5], [1.1, -0.1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simplex.entropy([1.5, -0.5]), "p must be non-negative"),
        (lambda: simplex.entropy(0.5), "received a scalar"),
        (lambda: simplex.cross_entropy_from_log([1.5, -0.5], [0.0, 0.0]), "p must be non-negative"),
        (lambda: simplex.project([math.nan, 0.0]), "finite"),
        (lambda: simplex.project([math.inf, 0.0]), "finite"),
        (lambda: simplex.project(1.0), "received a scalar"),
        (lambda: simplex.kl(np.array(["a"]), [1.0]), "p must be numeric"),
    ],
)
def test_errors_say_what_was_received(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
