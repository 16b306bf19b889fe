"""Streaming means and errors equal those of all rows at once, and remember infinities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bcpd.measure.moments import Moments


def test_merging_equals_one_shot() -> None:
    """A large offset makes the textbook formula E v^2 - (E v)^2 lose all digits of the variance."""
    values = 1e8 + np.random.default_rng(0).normal(size=(20_000, 2)) * [1.0, 1e-3]
    moments = Moments(2)
    for block in np.array_split(values, [1, 10, 300, 300, 9_000]):
        moments.add(torch.from_numpy(block))
    for column, found in enumerate(moments.estimates("monte_carlo")):
        v = values[:, column]
        mean = math.fsum(v) / len(v)
        stderr = math.sqrt(math.fsum((v - mean) ** 2) / (len(v) - 1) / len(v))
        assert found.value == pytest.approx(mean, rel=1e-15)
        assert found.stderr == pytest.approx(stderr, rel=1e-6)
        naive = math.sqrt(abs((v**2).mean() - v.mean() ** 2) / len(v))
        assert naive != pytest.approx(stderr, rel=1e-2)


def test_many_small_blocks_do_not_drift() -> None:
    values = np.random.default_rng(1).random(1_000)
    moments = Moments(1)
    for value in values:
        moments.add(torch.tensor([[value]]).double())
    assert moments.estimates("monte_carlo")[0].value == pytest.approx(math.fsum(values) / 1_000, rel=1e-14)
    assert moments.estimates("monte_carlo")[0].stderr == pytest.approx(values.std(ddof=1) / 1_000**0.5, rel=1e-12)


def test_weights() -> None:
    rng = np.random.default_rng(2)
    values, weights = rng.normal(size=(50, 3)), rng.random(50)
    moments = Moments(3)
    for rows in np.array_split(np.arange(50), 7):
        moments.add(torch.from_numpy(values[rows]), torch.from_numpy(weights[rows]))
    found = moments.estimates("exact")
    assert [e.value for e in found] == pytest.approx(np.average(values, axis=0, weights=weights), rel=1e-13)
    assert {e.stderr for e in found} == {0.0}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([1.0, math.inf], math.inf),
        ([-math.inf, 1.0], -math.inf),
        ([math.inf, 0.0, -math.inf], math.nan),
        ([math.nan, 1.0], math.nan),
        ([math.nan, math.inf], math.nan),
    ],
)
def test_infinities_survive_in_every_order(entries: list[float], expected: float) -> None:
    for order in (entries, entries[::-1]):
        moments = Moments(2)
        for entry in order:
            moments.add(torch.tensor([[entry, 1.0]], dtype=torch.float64))
        found, other = moments.estimates("monte_carlo")
        assert found.value == expected or (math.isnan(found.value) and math.isnan(expected))
        assert math.isnan(found.stderr)
        assert (other.value, other.stderr) == (1.0, 0.0)


def test_one_row_has_no_error_and_no_rows_change_nothing() -> None:
    moments = Moments(1)
    moments.add(torch.tensor([[2.0]], dtype=torch.float64))
    moments.add(torch.zeros(0, 1, dtype=torch.float64))
    found = moments.estimates("monte_carlo")[0]
    assert found.value == 2.0
    assert math.isnan(found.stderr)
