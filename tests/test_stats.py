"""Intervals and tests over data draws, against scipy and against their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from bcpd.stats import (
    CrossedInterval,
    crossed_mean_interval,
    equivalence,
    holm,
    mean_interval,
    paired_difference,
    partial_spearman,
    spearman,
)

checked = settings(derandomize=True, deadline=None, max_examples=60)
samples = st.tuples(st.integers(2, 30), st.integers(0, 2**32 - 1))


def _pair(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=n), rng.normal(0.3, 1.5, size=n)


@checked
@given(samples, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_mean_interval_agrees_with_scipy(sample: tuple[int, int], confidence: float) -> None:
    values, _ = _pair(*sample)
    found = mean_interval(values, confidence)
    expected = scipy_stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12, abs=1e-12)
    assert found.stderr == pytest.approx(scipy_stats.sem(values), rel=1e-12)
    assert found.n == len(values)


def test_student_not_normal() -> None:
    found = mean_interval([0.0, 1.0])
    assert (found.mean, found.stderr) == (0.5, 0.5)
    assert found.high == pytest.approx(0.5 + 0.5 * 12.7062047, rel=1e-8)


def test_one_unit_says_nothing_about_spread() -> None:
    found = mean_interval([3.0])
    assert (found.mean, found.low, found.high, found.n) == (3.0, -math.inf, math.inf, 1)
    assert math.isnan(found.stderr)
    assert math.isnan(paired_difference([1.0], [2.0]).p_value)


@checked
@given(samples)
def test_paired_difference_agrees_with_scipy(sample: tuple[int, int]) -> None:
    a, b = _pair(*sample)
    found = paired_difference(torch.from_numpy(a), b)
    expected = scipy_stats.ttest_rel(a, b)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-12)
    assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)


def test_pairing_matters() -> None:
    luck = np.random.default_rng(0).normal(0, 10, 8)
    a, b = luck + 0.1 * np.arange(8), luck
    assert paired_difference(a, b).p_value < 0.01
    assert scipy_stats.ttest_ind(a, b).pvalue > 0.5


@pytest.mark.parametrize(("shift", "p_value"), [(0.0, 1.0), (0.5, 0.0)])
def test_equal_differences(shift: float, p_value: float) -> None:
    b = np.array([1.0, 2.0, 4.0])
    found = paired_difference(b + shift, b)
    assert (found.mean, found.stderr, found.p_value) == (shift, 0.0, p_value)


# ------------------------------------------------------------------------------------------------------------- crossed

tables = st.tuples(st.integers(2, 6), st.integers(2, 8), st.integers(0, 2**32 - 1))


@checked
@given(tables, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_without_an_interaction_the_squares_of_two_intervals_add(
    table: tuple[int, int, int], confidence: float
) -> None:
    rows, columns, seed = table
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=rows), rng.normal(2, 3, columns)
    found = crossed_mean_interval(a[:, None] + b, confidence)
    by_row, by_column = mean_interval(a, confidence), mean_interval(b, confidence)
    assert (found.n, found.columns) == (rows, columns)
    assert found.mean == pytest.approx(by_row.mean + by_column.mean, abs=1e-12)
    assert (found.row_stderr, found.column_stderr) == pytest.approx((by_row.stderr, by_column.stderr), rel=1e-9)
    assert found.stderr == pytest.approx(math.hypot(by_row.stderr, by_column.stderr), rel=1e-9)
    half = math.hypot(by_row.high - by_row.mean, by_column.high - by_column.mean)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), rel=1e-9, abs=1e-9)


@checked
@given(tables)
def test_the_interaction_is_that_of_all_two_by_two_tables_and_counts_once(table: tuple[int, int, int]) -> None:
    rows, columns, seed = table
    values = np.random.default_rng(seed).normal(size=(rows, columns)) + 3 * np.arange(columns)
    contrasts = [
        values[s, i] - values[t, i] - values[s, j] + values[t, j]
        for s, t in combinations(range(rows), 2)
        for i, j in combinations(range(columns), 2)
    ]
    shared = np.mean(np.square(contrasts)) / 4 / values.size
    parts = np.array([values.mean(1).var(ddof=1) / rows, values.mean(0).var(ddof=1) / columns])
    parts[int(rows <= columns)] = max(0.0, parts[int(rows <= columns)] - shared)
    found = crossed_mean_interval(torch.from_numpy(values))
    assert (found.row_stderr**2, found.column_stderr**2) == pytest.approx(tuple(parts), rel=1e-9, abs=1e-12)
    turned = crossed_mean_interval(values.T)
    if rows != columns:
        assert (turned.low, turned.high) == pytest.approx((found.low, found.high), rel=1e-9)
        assert (turned.row_stderr, turned.column_stderr) == pytest.approx((found.column_stderr, found.row_stderr))


def coverage(half: Callable[[np.ndarray], float], rows: int, shares: tuple[float, float, float]) -> float:
    """Exact coverage where the parts of the mean's variance are ``shares`` and only the row means' spread is random.

    The spread of 400 column means and of the interaction is put to its expectation; the chi-square of the row means
    is integrated over 100 quantiles, given which the mean is normal.
    """
    columns = 400
    contrast = scipy_stats.zscore(np.arange(rows), ddof=1)
    first, second = np.tile([1.0, -1.0], columns // 2), np.repeat([1.0, -1.0], columns // 2)
    a, b, c = shares
    effect = math.sqrt((b + c) * columns) * first + math.sqrt(c * columns * rows) * contrast[:, None] * second
    covered = []
    for level in (np.arange(100) + 0.5) / 100:
        spread = (a + c) * scipy_stats.chi2.ppf(level, rows - 1) / (rows - 1)
        covered.append(1 - 2 * scipy_stats.norm.sf(half(math.sqrt(spread * rows) * contrast[:, None] + effect)))
    return float(np.mean(covered))


def _half(found: CrossedInterval) -> float:
    return found.high - found.mean


def _satterthwaite(table: np.ndarray) -> float:
    found = crossed_mean_interval(table)
    degrees = (len(table) - 1) * (found.stderr / found.row_stderr) ** 4
    return float(scipy_stats.t.ppf(0.975, degrees)) * found.stderr


@pytest.mark.parametrize(("rows", "largest"), [(2, 0.99), (3, 0.98), (5, 0.97), (12, 0.96)])
def test_the_crossed_interval_never_covers_less_than_it_says(rows: int, largest: float) -> None:
    for shares in ((0.3, 0.7, 0.0), (0.8, 0.2, 0.0), (0.4, 0.2, 0.4), (0.0, 0.7, 0.3), (0.1, 0.0, 0.9)):
        assert 0.95 <= coverage(lambda table: _half(crossed_mean_interval(table)), rows, shares) < largest
    for shares in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)):  # one factor alone: the t interval, exact
        found = coverage(lambda table: _half(crossed_mean_interval(table)), rows, shares)
        assert found == pytest.approx(0.95, abs=2e-3)


def test_intervals_that_the_crossed_one_replaces_cover_less() -> None:
    shares = (0.8, 0.2, 0.0)
    normal = coverage(lambda table: 1.96 * crossed_mean_interval(table).stderr, 3, shares)
    by_column = coverage(lambda table: _half_of(table.mean(0)), 3, shares)
    by_row = coverage(lambda table: _half_of(table.mean(1)), 3, (0.2, 0.8, 0.0))
    assert coverage(_satterthwaite, 3, shares) < 0.935
    assert normal < 0.89
    assert by_column < 0.65
    assert by_row < 0.85


def _half_of(values: np.ndarray) -> float:
    found = mean_interval(values)
    return found.high - found.mean


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_one_row_or_column_says_nothing_about_its_spread(shape: tuple[int, int]) -> None:
    found = crossed_mean_interval(np.full(shape, 2.0))
    assert (found.mean, found.low, found.high, found.n, found.columns) == (2.0, -math.inf, math.inf, *shape)
    assert all(math.isnan(part) for part in (found.stderr, found.row_stderr, found.column_stderr))


# --------------------------------------------------------------------------------------------------------- equivalence


@checked
@given(samples, st.floats(0.05, 3.0))
def test_equivalence_is_two_one_sided_tests(sample: tuple[int, int], margin: float) -> None:
    a, b = _pair(*sample)
    found = equivalence(a, b, margin)
    lower = scipy_stats.ttest_1samp(a - b, -margin, alternative="greater").pvalue
    upper = scipy_stats.ttest_1samp(a - b, margin, alternative="less").pvalue
    assert found.p_value == pytest.approx(max(lower, upper), rel=1e-9, abs=1e-15)
    inside = -margin < found.difference.low and found.difference.high < margin
    assert found.equivalent == inside == (found.p_value < 0.05)


def test_no_difference_found_is_not_equivalence() -> None:
    a, b = np.array([0.0, 1.0, -1.0]), np.array([0.5, -1.0, 1.0])
    assert paired_difference(a, b).p_value > 0.5
    assert not equivalence(a, b, 0.5).equivalent
    assert equivalence(a, b, 50.0).equivalent
    assert equivalence([1.0, 2.0], [1.0, 2.0], 0.1).p_value == 0.0
    assert equivalence([1.5, 2.5], [1.0, 2.0], 0.25).p_value == 1.0


# ------------------------------------------------------------------------------------------------------------ spearman


@pytest.mark.slow
@checked
@given(st.tuples(st.integers(3, 30), st.integers(0, 2**32 - 1)), st.booleans())
def test_spearman_agrees_with_scipy(sample: tuple[int, int], ties: bool) -> None:
    x, y = _pair(*sample)
    y = y + x
    if ties:
        x, y = np.append(np.round(x), [-9, 9]), np.append(np.round(y), [-9, 9])
    assert spearman(x, y, resamples=20).rho == pytest.approx(scipy_stats.spearmanr(x, y).statistic, abs=1e-12)


@pytest.mark.slow
def test_spearman_interval_agrees_with_scipys_bootstrap() -> None:
    """Both ends are quantiles of 1500 resamples: 0.03 is more than 5 of their standard deviations."""
    x, y = _pair(40, 0)
    y = y + 2 * x
    found = spearman(x, y, resamples=1_500, confidence=0.9)
    reference = scipy_stats.bootstrap(
        (x, y),
        lambda a, b: np.corrcoef(scipy_stats.rankdata(a), scipy_stats.rankdata(b))[0, 1],
        paired=True,
        vectorized=False,
        n_resamples=1_500,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.03)
    assert found.low < found.rho < found.high
    assert found == spearman(x, y, resamples=1_500, confidence=0.9)
    assert found.low != spearman(x, y, resamples=1_500, confidence=0.9, seed=1).low
    wider = spearman(x, y, resamples=1_500, confidence=0.99)
    assert wider.low < found.low
    assert wider.high > found.high


@pytest.mark.slow
def test_units_are_resampled_whole() -> None:
    """Ten copies of each draw's pair add nothing; taken as units of their own they would narrow the interval."""
    x, y = _pair(12, 1)
    y = y + x
    once = spearman(x, y)
    copies = spearman(np.repeat(x, 10), np.repeat(y, 10), units=np.repeat(np.arange(12), 10))
    assert copies.n == once.n == 12
    assert (copies.rho, copies.low, copies.high) == pytest.approx((once.rho, once.low, once.high), abs=1e-9)
    naive = spearman(np.repeat(x, 10), np.repeat(y, 10), resamples=500)
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


# ---------------------------------------------------------------------------------------------------- partial spearman


def _draws(units: int, pairs: int, seed: int) -> tuple[np.ndarray, ...]:
    """x, y and z that share much of z's luck, with ties, and the unit of each pair."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=units * pairs)
    x, y = (np.round(z + rng.normal(size=z.shape), 1) for _ in range(2))
    return x, y, z, np.repeat(np.arange(units), pairs)


def _rho(a: np.ndarray, b: np.ndarray) -> float:
    return float(scipy_stats.spearmanr(a, b).statistic)


def _given(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    xy, xz, yz = _rho(x, y), _rho(x, z), _rho(y, z)
    return (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))


@checked
@given(st.integers(2, 6), st.integers(12, 20), st.integers(0, 2**32 - 1))
def test_partial_spearman_is_the_textbook_formula_within_units(units: int, pairs: int, seed: int) -> None:
    x, y, z, unit = _draws(units, pairs, seed)
    by_unit = [np.flatnonzero(unit == u) for u in range(units)]
    for given_z, r in (
        (z, [_given(x[rows], y[rows], z[rows]) for rows in by_unit]),
        (np.empty((len(x), 0)), [_rho(x[rows], y[rows]) for rows in by_unit]),
    ):
        found = partial_spearman(x, y, given_z, units=unit)
        expected = mean_interval(np.arctanh(r))
        on_r = np.tanh([expected.mean, expected.low, expected.high])
        assert (found.mean, found.low, found.high) == pytest.approx(tuple(on_r), abs=1e-9)
        assert found.n == units


def test_intervals_of_rank_correlations_stay_inside_their_range() -> None:
    """A t interval of the plain r does not: two units at 1 and one below give one that ends above 1."""
    order, unit = np.arange(30.0), np.repeat([0, 1, 2], 10)
    y = order.copy()
    y[20:] = y[[20, 23, 22, 21, 27, 25, 29, 24, 28, 26]]
    found = partial_spearman(order, y, np.empty((30, 0)), units=unit)
    assert -1 <= found.low < found.mean < found.high <= 1
    rs = [_rho(order[unit == u], y[unit == u]) for u in range(3)]
    assert rs[:2] == pytest.approx([1.0, 1.0])
    assert mean_interval(rs).high > 1
    most = 1 - 6 / (10 * 99)  # half a step below the exchange of two neighbours
    assert found.mean == pytest.approx(math.tanh((2 * math.atanh(most) + math.atanh(rs[2])) / 3))
    same = partial_spearman(order, -order, np.empty((30, 0)), units=unit)
    assert (same.mean, same.low, same.high, same.stderr) == pytest.approx((-1, -1, -1, 0))
    one = partial_spearman(order, y, np.empty((30, 0)), units=np.zeros(30))
    assert (one.low, one.high, one.n) == (-1, 1, 1)


@checked
@given(st.integers(12, 20), st.integers(0, 2**32 - 1))
def test_given_two_variables_is_the_recursion(pairs: int, seed: int) -> None:
    x, y, z, unit = _draws(1, pairs, seed)
    w = np.random.default_rng(seed + 1).normal(size=pairs) + 0.5 * x
    xy, xw, yw = _given(x, y, z), _given(x, w, z), _given(y, w, z)
    expected = (xy - xw * yw) / math.sqrt((1 - xw**2) * (1 - yw**2))
    found = partial_spearman(x, y, np.column_stack([z, w]), units=unit)
    assert found.mean == pytest.approx(expected, abs=1e-9)


def test_what_is_shared_is_taken_out_and_what_differs_between_units_does_not_count() -> None:
    """x and y agree only through z, and through a jump between units that a pooled correlation would see."""
    rng = np.random.default_rng(0)
    z, unit = rng.normal(size=400), np.repeat(np.arange(8), 50)
    x, y = (np.exp(2 * z + rng.normal(size=400)) + 100.0 * unit for _ in range(2))
    found = partial_spearman(x, y, z, units=unit)
    assert found.low < 0 < found.high
    assert abs(found.mean) < 0.15
    assert partial_spearman(x, y, np.empty((400, 0)), units=unit).low > 0.5
    assert partial_spearman(x, y, z, units=np.zeros(400)).mean > 0.9


# ---------------------------------------------------------------------------------------------------------------- holm


@checked
@given(st.lists(st.floats(0, 1) | st.sampled_from([0.01, 0.02, 0.05]), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p_values: list[float]) -> None:
    """The adjusted p-value of i is the largest Bonferroni p-value of any set of hypotheses that holds i."""
    for i, found in enumerate(holm(p_values)):
        sets = (s for size in range(1, len(p_values) + 1) for s in combinations(range(len(p_values)), size) if i in s)
        assert found == pytest.approx(max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets), abs=1e-15)


def test_holm_is_neither_bonferroni_nor_benjamini_hochberg() -> None:
    p = [0.04, 0.01, 0.03]
    assert holm(p) == pytest.approx([0.06, 0.03, 0.06])
    assert holm(p) != pytest.approx([min(1, 3 * value) for value in p])
    assert holm(p) != pytest.approx(list(scipy_stats.false_discovery_control(p)))


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), r"one number a unit, .* received shape \(0,\)"),
        (lambda: mean_interval([[1.0, 2.0]]), r"received shape \(1, 2\)"),
        (lambda: mean_interval([1.0, math.nan]), "values must be finite, received nan at 1"),
        (lambda: mean_interval([1.0, 2.0], 95), r"confidence must lie in \(0, 1\), received 95"),
        (lambda: crossed_mean_interval([1.0, 2.0]), r"shape \(rows, columns\), received shape \(2,\)"),
        (lambda: crossed_mean_interval(np.empty((0, 2))), r"received shape \(0, 2\)"),
        (lambda: crossed_mean_interval([[1.0, 2.0], [1.0, math.inf]]), r"finite, received inf at \(1, 1\)"),
        (lambda: crossed_mean_interval([[1.0, 2.0], [1.0, 3.0]], 95), r"confidence must lie in \(0, 1\), received 95"),
        (lambda: paired_difference([1.0, 2.0], [1.0]), "received 2 and 1"),
        (lambda: paired_difference([1.0, 2.0], [1.0, math.inf]), "second sample must be finite, received inf at 1"),
        (lambda: equivalence([1.0, 2.0], [1.0, 2.0], 0.0), r"margin must be positive and finite, received 0\.0"),
        (lambda: equivalence([1.0, 2.0], [1.0, 2.0], math.nan), "received nan"),
        (lambda: equivalence([1.0, 2.0], [1.0, 2.0], 1.0, alpha=0.5), r"alpha must lie in \(0, 0\.5\)"),
        (lambda: equivalence([1.0], [1.0], 1.0), "at least 2 units"),
        (lambda: spearman([1.0, 2.0], [1.0, 2.0]), "at least 3 of them, received 2"),
        (lambda: spearman([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], units=[0, 0, 1]), "at least 3 of them, received 2"),
        (lambda: spearman([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], units=[0, 1]), "received 2 for 3 pairs"),
        (lambda: spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), "received a constant"),
        (lambda: spearman([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], resamples=0), "resamples must be .* received 0"),
        (lambda: spearman([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], confidence=1.0), "confidence"),
        (lambda: partial_spearman([1.0] * 3, [1.0] * 3, [1.0] * 3, units=[0, 0, 0]), "at least 4 pairs a unit, .* 3"),
        (
            lambda: partial_spearman([1.0, 2, 3, 4], [4.0, 1, 2, 3], [2.0, 4, 6, 8], units=[0] * 4),
            "nothing is left of x",
        ),
        (lambda: partial_spearman([4.0, 1, 2, 3], [1.0] * 4, [2.0, 4, 6, 8], units=[0] * 4), "nothing is left of y"),
        (lambda: partial_spearman([1.0] * 4, [1.0] * 4, [1.0, 2], units=[0] * 4), r"received \(2, 1\) and \(4,\)"),
        (lambda: partial_spearman([1.0] * 4, [1.0] * 4, [1, 2, 3, math.nan], units=[0] * 4), "given must be finite"),
        (lambda: holm([0.5, 1.5]), r"must lie in \[0, 1\], received 1\.5"),
        (lambda: holm([0.5, math.nan]), "must be finite"),
    ],
)
def test_errors_say_what_was_received(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
