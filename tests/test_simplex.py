"""Every probability formula against an independent implementation, and the inequalities between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations, pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats
from torch import Tensor

from bcpd import simplex
from bcpd.testing import (
    Distortion,
    distortions,
    pairs,
    row_tables,
    simplex_rows,
    simplex_rows_with_zeros,
    stochastic_matrices,
)

mpmath.mp.dps = 50
checked = settings(max_examples=60)
searching = settings(max_examples=1000, derandomize=True, deadline=None, phases=[Phase.generate])
Pair = tuple[Tensor, Tensor]


def any_rows(k: int) -> st.SearchStrategy[Tensor]:
    """Interior points, vertices, faces, ties and subnormal entries."""
    return st.one_of(simplex_rows(k), simplex_rows_with_zeros(k))


any_pairs = st.integers(1, 7).flatmap(lambda k: st.tuples(any_rows(k), any_rows(k)))
triples = st.integers(2, 6).flatmap(lambda k: st.tuples(simplex_rows(k), simplex_rows(k), simplex_rows(k)))


def _xlogy(x: float, y: float) -> mpmath.mpf:
    if x == 0:
        return mpmath.mpf(0)
    return mpmath.mpf(x) * mpmath.log(y) if y > 0 else mpmath.mpf("-inf")


Oracle = Callable[[list[float], list[float]], mpmath.mpf]


def _sum(terms: Callable[[mpmath.mpf, mpmath.mpf], mpmath.mpf]) -> Oracle:
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
@given(any_pairs)
def test_all_agree_with_high_precision(pair: Pair) -> None:
    rows = [row.tolist() for row in pair]
    for name, oracle in ORACLES.items():
        found, expected = float(getattr(simplex, name)(*pair)), float(oracle(*rows))
        assert close(found, expected), (name, found, expected)


@pytest.mark.parametrize("name", ["cross_entropy", "kl", "chi_square"])
def test_the_high_precision_oracle_rejects_swapped_arguments(name: str) -> None:
    p, q = [0.7, 0.2, 0.1], [0.3, 0.3, 0.4]
    assert not close(float(getattr(simplex, name)(q, p)), float(ORACLES[name](p, q)))


@checked
@given(any_pairs)
def test_entropy_and_kl_agree_with_scipy(pair: Pair) -> None:
    p, q = (row.numpy() for row in pair)
    assert close(float(simplex.entropy(p)), float(special.entr(p).sum()))
    assert close(float(simplex.kl(p, q)), float(special.rel_entr(p, q).sum()))
    assert close(float(simplex.entropy(p)), float(stats.entropy(p)))


@checked
@given(any_pairs)
def test_logarithmic_forms_agree_with_the_plain_ones(pair: Pair) -> None:
    p, q = pair
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


# -------------------------------------------------------------------------------------- inequalities and invariances


def chain(p: Tensor, q: Tensor) -> list[float]:
    """||p-q||^2 <= 2 TV^2 <= KL <= log(1 + chi2) <= chi2 <= ||p-q||^2 / min q."""
    squared, tv, kl, chi = (
        float(getattr(simplex, name)(p, q)) for name in ("squared_distance", "total_variation", "kl", "chi_square")
    )
    return [squared, 2 * tv**2, kl, math.log1p(chi), chi, squared / float(q.min())]


@checked
@given(pairs())
def test_chain_of_inequalities(pair: Pair) -> None:
    for smaller, larger in pairwise(chain(*pair)):
        assert smaller <= larger + 1e-12 * (1 + larger)


@pytest.mark.parametrize("link", range(5), ids=["2 tv^2", "kl", "log(1 + chi2)", "chi2", "mse / min q"])
def test_no_link_of_the_chain_can_be_turned_round(link: int) -> None:
    """Each inequality is strict somewhere, by a fifth at least (the first by at most a third at K = 3)."""
    find(
        pairs(3, 1e-3),
        lambda pair: chain(*pair)[link + 1] > max(1.2 * chain(*pair)[link], 1e-6),
        settings=searching,
    )


@checked
@given(triples)
def test_distances_are_metrics_and_divergences_are_not_negative(rows: tuple[Tensor, Tensor, Tensor]) -> None:
    p, q, r = rows
    roots = {
        "l1_distance": 1.0,
        "sup_distance": 1.0,
        "total_variation": 1.0,
        "squared_distance": 0.5,
        "squared_hellinger": 0.5,
    }
    for name, power in roots.items():
        distance = getattr(simplex, name)
        pq, qr, pr = (float(distance(*two)) ** power for two in ((p, q), (q, r), (p, r)))
        assert pr <= pq + qr + 1e-12
        assert float(distance(p, q)) == pytest.approx(float(distance(q, p)), rel=1e-12, abs=1e-300)
        assert float(distance(p, p)) == 0
    for name in ("kl", "chi_square"):
        assert float(getattr(simplex, name)(p, q)) >= -1e-12
        assert abs(float(getattr(simplex, name)(p, p))) < 1e-12
    assert float(simplex.cross_entropy(p, q)) == pytest.approx(
        float(simplex.entropy(p) + simplex.kl(p, q)), rel=1e-9, abs=1e-12
    )


def test_kl_is_no_metric() -> None:
    find(triples, lambda r: float(simplex.kl(r[0], r[2]) - simplex.kl(r[0], r[1]) - simplex.kl(r[1], r[2])) > 0.1,
         settings=searching)  # fmt: skip
    find(pairs(), lambda pair: float(simplex.kl(*pair) - simplex.kl(*pair[::-1])) > 0.1, settings=searching)


@checked
@given(st.data(), pairs(4))
def test_names_of_classes_do_not_matter(data: st.DataObject, pair: Pair) -> None:
    order = data.draw(st.permutations(range(4)))
    p, q = pair
    for name in ORACLES:
        formula = getattr(simplex, name)
        assert float(formula(p[order], q[order])) == pytest.approx(float(formula(p, q)), rel=1e-9, abs=1e-15), name


@checked
@given(pairs(4), stochastic_matrices(4, 3))
def test_a_channel_brings_rows_together(pair: Pair, channel: Tensor) -> None:
    """Data processing (Csiszar 1967): f-divergences of labels sent through the same noise do not grow."""
    p, q = pair
    for name in ("total_variation", "kl", "chi_square", "squared_hellinger"):
        formula = getattr(simplex, name)
        assert float(formula(p @ channel, q @ channel)) <= float(formula(p, q)) * (1 + 1e-9) + 1e-12, name


def test_the_squared_distance_is_no_f_divergence() -> None:
    """A channel may double it: two classes told apart by two labels instead of four."""
    channel = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    p, q = torch.tensor([0.5, 0.5, 0.0, 0.0]).double(), torch.tensor([0.0, 0.0, 0.5, 0.5]).double()
    assert float(simplex.squared_distance(p @ channel, q @ channel)) == 2 * float(simplex.squared_distance(p, q))


@checked
@given(triples, st.floats(0, 1))
def test_divergences_are_convex_in_the_second_row_and_entropy_is_concave(
    rows: tuple[Tensor, Tensor, Tensor], share: float
) -> None:
    p, q, r = rows
    mixed = share * q + (1 - share) * r
    for name in ("squared_distance", "total_variation", "cross_entropy", "kl", "chi_square", "squared_hellinger"):
        formula = getattr(simplex, name)
        line = share * float(formula(p, q)) + (1 - share) * float(formula(p, r))
        assert float(formula(p, mixed)) <= line * (1 + 1e-9) + 1e-12, name
    assert float(simplex.entropy(mixed)) >= share * float(simplex.entropy(q)) + (1 - share) * float(
        simplex.entropy(r)
    ) - 1e-12  # fmt: skip


@settings(max_examples=15)
@given(row_tables(3, 3, zeros=True), row_tables(3, 3, zeros=True))
def test_rows_are_independent_and_broadcast(p: Tensor, q: Tensor) -> None:
    for name in ORACLES:
        formula = getattr(simplex, name)
        table = formula(p[:, None], q)
        assert table.shape == (3, 3)
        for i in range(3):
            torch.testing.assert_close(table[i, i], formula(p[i], q[i]), rtol=1e-14, atol=1e-15)
        torch.testing.assert_close(formula(p.numpy(), q.tolist()), table.diagonal(), rtol=1e-14, atol=1e-15)


@checked
@given(simplex_rows(), distortions())
def test_smoothing_has_a_known_distance(p: Tensor, distort: Distortion) -> None:
    """|(1 - e) p + e / K - p|^2 = e^2 |p - 1 / K|^2; any distortion that changes nothing is at distance 0."""
    squared = float(simplex.squared_distance(p, distort(p)))
    if distort.name == "smoothing":
        expected = distort.amount**2 * float(simplex.squared_distance(p, torch.full_like(p, 1 / len(p))))
        assert squared == pytest.approx(expected, rel=1e-9, abs=1e-28)
    assert (squared == 0) == torch.equal(distort(p), p)


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
    @settings(max_examples=15)
    @given(pairs(floor=0.01))
    def check(pair: Pair) -> None:
        p, q = (row.clone().requires_grad_() for row in pair)
        assert torch.autograd.gradcheck(getattr(simplex, name), (p, q), eps=1e-7, atol=1e-5, rtol=1e-4)

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
point_pairs = st.integers(2, 5).flatmap(lambda k: st.tuples(*[st.lists(st.floats(-9, 9), min_size=k, max_size=k)] * 2))


def brute_force_projection(z: list[float]) -> np.ndarray:
    """The nearest of the projections onto the affine hulls of all faces that land on the simplex, in rationals."""
    target = [Fraction(value) for value in z]
    candidates = []
    faces = [face for size in range(1, len(z) + 1) for face in combinations(range(len(z)), size)]
    for face in faces:
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


@checked
@given(simplex_rows(), simplex_rows_with_zeros())
def test_projection_fixes_the_simplex(interior: Tensor, face: Tensor) -> None:
    for p in (interior, face):
        torch.testing.assert_close(simplex.project(p), p, rtol=0, atol=1e-15)


@checked
@given(point_pairs, st.data())
def test_projection_brings_points_together_and_knows_no_names(
    pair: tuple[list[float], list[float]], data: st.DataObject
) -> None:
    """Non-expansive, as onto every convex set; idempotent; the same for every order of the classes and common shift."""
    first, second = (torch.tensor(row, dtype=torch.float64) for row in pair)
    near, far = (simplex.project(row) for row in (first, second))
    assert float((near - far).norm()) <= float((first - second).norm()) + 1e-12
    torch.testing.assert_close(simplex.project(near), near, rtol=0, atol=1e-14)
    order = data.draw(st.permutations(range(len(first))))
    torch.testing.assert_close(simplex.project(first[order]), near[order], rtol=0, atol=1e-14)
    torch.testing.assert_close(simplex.project(first + 5), near, rtol=0, atol=1e-14)


def test_projection_differs_from_softmax() -> None:
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
