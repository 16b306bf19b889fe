"""The fitted temperature against a search of its own, the score's derivative, and data made at a known temperature."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from bcpd.measure import fit_temperature
from bcpd.seeds import generator


def _case(n: int, num_classes: int, seed: int, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose labels were drawn at ``temperature``."""
    draw = generator(seed, "temperature")
    z = 3 * torch.randn(n, num_classes, generator=draw, dtype=torch.float64)
    return z, torch.multinomial((z / temperature).softmax(-1), 1, generator=draw)[:, 0]


def _score(z: torch.Tensor, y: torch.Tensor, temperature: float, score: str) -> float:
    log_q = (z / temperature).log_softmax(-1).numpy()
    if score == "nll":
        return -float(log_q[range(len(y)), y].mean())
    return float(np.square(np.exp(log_q) - np.eye(z.shape[1])[y]).sum(1).mean())


@pytest.mark.parametrize("score", ["nll", "brier"])
@settings(max_examples=25)
@given(st.integers(2, 6), st.integers(0, 10**6), st.floats(0.2, 5.0))
def test_no_temperature_of_a_finer_search_is_better(score: str, num_classes: int, seed: int, true: float) -> None:
    z, y = _case(60, num_classes, seed, true)
    found = fit_temperature(z, y, score)  # type: ignore[arg-type]
    best = min(_score(z, y, t, score) for t in np.geomspace(0.01, 100, 200))
    near = minimize_scalar(
        lambda log_t: _score(z, y, math.exp(log_t), score),
        bounds=np.clip(math.log(found) + np.array([-0.05, 0.05]), math.log(0.01), math.log(100)),
        method="bounded",
    )
    assert _score(z, y, found, score) <= min(best, near.fun) + 1e-9


@given(st.integers(2, 6), st.integers(0, 10**6))
def test_at_the_nll_minimum_the_mean_logit_is_that_of_the_labels(num_classes: int, seed: int) -> None:
    z, y = _case(80, num_classes, seed)
    found = fit_temperature(z, y)
    slopes = [
        float(((z / t).softmax(-1) * z).sum(-1).mean() - z.gather(-1, y[:, None]).mean()) for t in (found, 1.3 * found)
    ]
    if 0.011 < found < 90:
        assert abs(slopes[0]) < 1e-5
        assert abs(slopes[1]) > 1e-3


@pytest.mark.parametrize("score", ["nll", "brier"])
@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_the_temperature_that_drew_the_labels_is_found(score: str, true: float) -> None:
    z, y = _case(60_000, 5, 1, true)
    assert fit_temperature(z, y, score) == pytest.approx(true, rel=0.03)  # type: ignore[arg-type]


@settings(max_examples=25)
@given(st.floats(0.3, 3.0), st.floats(-5.0, 5.0))
def test_scaling_the_logits_scales_the_temperature_and_a_constant_does_not_matter(factor: float, shift: float) -> None:
    z, y = _case(200, 4, 2)
    for score in ("nll", "brier"):
        plain, changed = (fit_temperature(rows, y, score) for rows in (z, factor * z + shift))  # type: ignore[arg-type]
        assert changed == pytest.approx(factor * plain, rel=1e-5)


def test_the_two_scores_may_differ_and_zeros_stay_zeros() -> None:
    z, y = _case(100, 3, 3, 2.0)
    assert abs(fit_temperature(z, y, "nll") - fit_temperature(z, y, "brier")) > 1e-3
    absent = torch.cat([z, torch.full((100, 1), -torch.inf)], 1)
    for score in ("nll", "brier"):
        assert fit_temperature(absent, y, score) == pytest.approx(fit_temperature(z, y, score))  # type: ignore[arg-type]


def test_the_ends_of_the_range() -> None:
    z = torch.eye(3, dtype=torch.float64)
    assert fit_temperature(z, [0, 1, 2]) < 0.04  # always right: the sharper the better, as far as float64 sees it
    assert fit_temperature(z / 100, [0, 1, 2]) == pytest.approx(0.01)
    assert fit_temperature(z, [1, 2, 0]) == pytest.approx(100)  # always wrong
    assert fit_temperature(torch.zeros(4, 3), [0, 1, 2, 0]) == pytest.approx(1.0)  # uniform rows stay


@pytest.mark.parametrize(
    ("log_q", "y", "score", "said"),
    [
        ([[0.0, 1.0]], [0], "accuracy", "score must be 'nll' or 'brier'"),
        ([0.0, 1.0], [0], "nll", r"log_q must have shape \(n, K\)"),
        ([[0.0, math.nan]], [0], "nll", "finite"),
        ([[-math.inf, -math.inf]], [0], "brier", "finite entry"),
        ([[0.0, 1.0]], [0, 1], "nll", "one label a row"),
        ([[0.0, -math.inf]], [1], "nll", "probability 0"),
    ],
)
def test_what_has_no_temperature_is_refused(log_q: object, y: object, score: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit_temperature(log_q, y, score)  # type: ignore[arg-type]
