"""Distances to p*: against quadrature and finite sums, on samples and on files, with honest error bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special
from torch import Tensor

from bcpd.estimate import Estimate
from bcpd.measure import LogPredictor, compare, compare_probabilities, distance, distance_of_probabilities, points
from bcpd.mixtures import FAMILIES, FiniteMixture, GaussianMixture

POINTWISE = ("mse", "ce", "kl", "reverse_ce", "total_variation", "accuracy", "excess_risk")
TWO = GaussianMixture([[-1.0], [1.0]], 1.5, priors=[0.4, 0.6])


def distorted(x: Tensor) -> Tensor:
    """A wrong posterior of TWO: half its log-odds, and shifted."""
    odds = 0.5 * (2 * x[:, 0] / 1.5 + math.log(1.5)) + 0.4
    return torch.stack([torch.sigmoid(-odds), torch.sigmoid(odds)], -1)


def quadrature(integrand: Callable[[np.ndarray, np.ndarray], float]) -> float:
    """E over TWO's x of a function of (p*, q), with the boundary points of both argmaxes given to the integrator."""

    def function(x: float) -> float:
        odds = 2 * x / 1.5 + math.log(1.5)
        bayes = special.expit(np.array([-odds, odds]))
        q = special.expit(np.array([-1, 1]) * (0.5 * odds + 0.4))
        density = (0.4 * math.exp(-((x + 1) ** 2) / 3) + 0.6 * math.exp(-((x - 1) ** 2) / 3)) / math.sqrt(3 * math.pi)
        return density * integrand(bayes, q)

    kinks = [-math.log(1.5) * 0.75, (-0.8 - math.log(1.5)) * 0.75]
    return integrate.quad(function, -14, 14, points=kinks, limit=400, epsabs=1e-12)[0]


def truth() -> dict[str, float]:
    return {
        "mse": quadrature(lambda p, q: ((p - q) ** 2).sum()),
        "ce": quadrature(lambda p, q: -(p * np.log(q)).sum()),
        "kl": quadrature(lambda p, q: special.rel_entr(p, q).sum()),
        "reverse_ce": quadrature(lambda p, q: -(q * np.log(p)).sum()),
        "total_variation": quadrature(lambda p, q: np.abs(p - q).sum() / 2),
        "accuracy": quadrature(lambda p, q: p[q.argmax()]),
        "excess_risk": quadrature(lambda p, q: p.max() - p[q.argmax()]),
    }


def deviations(estimate: Estimate, value: float) -> float:
    return abs(estimate.value - value) / estimate.stderr


def test_sampled_distances_agree_with_quadrature() -> None:
    """Seven checks at 5 standard errors: false alarms 4e-6."""
    found, expected = distance(distorted, TWO, 40_000, 1, decompose=False), truth()
    for name in POINTWISE:
        assert found[name].method == "monte_carlo"
        assert deviations(found[name], expected[name]) < 5, name
    # the neighbouring conventions are told apart
    assert deviations(found["mse"], expected["mse"] / 2) > 8
    assert deviations(found["ce"], expected["reverse_ce"]) > 8
    assert deviations(found["kl"], expected["kl"] / math.log(2)) > 8
    assert deviations(found["accuracy"], 1 - expected["excess_risk"]) > 8


def test_the_bayes_predictor_is_at_distance_zero() -> None:
    found = distance(LogPredictor(TWO.log_posterior, 2), TWO, 20_000, 0)
    for name in ("mse", "kl", "total_variation", "excess_risk", "ece", "calibration", "grouping"):
        assert abs(found[name].value) < 1e-15, name
    assert found["ce"].value == pytest.approx(found["reverse_ce"].value, rel=1e-14)
    assert deviations(found["accuracy"], 1 - TWO.bayes_error().value) < 5


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_can_be_measured(few_trees: None, name: str) -> None:
    mixture = FAMILIES[name]()
    found = distance(lambda x: (mixture.log_posterior(x) / 2).softmax(-1), mixture, 300, 0)
    assert set(found) == {*POINTWISE, "ece", "calibration", "grouping"}
    assert found["mse"].value == pytest.approx(found["calibration"].value + found["grouping"].value, rel=1e-9)
    assert found["excess_risk"].value == pytest.approx(0, abs=1e-12)  # a temperature moves no argmax


# --------------------------------------------------------------------------------------------------------- finite X

worlds = st.tuples(st.integers(1, 8), st.integers(2, 5), st.integers(0, 2**32 - 1))


def _finite(n: int, k: int, seed: int) -> tuple[FiniteMixture, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    w, p, q = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(k), n), rng.dirichlet(np.ones(k), n)
    return FiniteMixture(w, p), w, p, q


@settings(derandomize=True, deadline=None, max_examples=40)
@given(worlds)
def test_finite_distances_are_finite_sums(world: tuple[int, int, int]) -> None:
    mixture, w, p, q = _finite(*world)
    found = distance(lambda x: q[x[:, 0].long().numpy()], mixture, n=0, seed="ignored")  # type: ignore[arg-type]
    rows = list(zip(w, p, q, strict=True))
    expected = {
        "mse": math.fsum(a * sum((r - s) ** 2) for a, r, s in rows),
        "ce": math.fsum(-a * sum(r * np.log(s)) for a, r, s in rows),
        "kl": math.fsum(a * sum(special.rel_entr(r, s)) for a, r, s in rows),
        "reverse_ce": math.fsum(-a * sum(s * np.log(r)) for a, r, s in rows),
        "total_variation": math.fsum(a * sum(abs(r - s)) / 2 for a, r, s in rows),
        "accuracy": math.fsum(a * r[s.argmax()] for a, r, s in rows),
        "excess_risk": math.fsum(a * (r.max() - r[s.argmax()]) for a, r, s in rows),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, rel=1e-12, abs=1e-12), name
    assert all(estimate.method == "exact" and estimate.stderr == 0 for estimate in found.values())
    same = distance_of_probabilities(q, np.log(p), weights=w)
    assert {name: e.value for name, e in same.items()} == pytest.approx(
        {name: e.value for name, e in found.items()}, abs=1e-12
    )


def test_points_of_no_mass_do_not_matter() -> None:
    mixture = FiniteMixture([0.5, 0.5, 0.0], [[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
    q = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)
    assert math.isfinite(distance(lambda x: q[x[:, 0].long()], mixture, 0, 0)["ce"].value)
    assert distance(lambda x: q[x[:, 0].long().clamp(max=0)], mixture, 0, 0)["mse"].value == 0.0625
    weighted = distance_of_probabilities(q, mixture.rows.log(), weights=mixture.weights)
    assert math.isfinite(weighted["ce"].value)


# ------------------------------------------------------------------------------------------------- infinite and tiny


def rarely_certain(x: Tensor) -> Tensor:
    q = distorted(x)
    return torch.where(x > 3.5, torch.tensor([0.0, 1.0], dtype=q.dtype), q)


def test_one_false_certainty_makes_the_cross_entropy_infinite() -> None:
    found = distance(rarely_certain, TWO, 5_000, 0)
    for name in ("ce", "kl"):
        assert found[name].value == math.inf
        assert math.isnan(found[name].stderr)
        assert str(found[name]) == "inf (monte_carlo)"
    for name in set(found) - {"ce", "kl"}:
        assert math.isfinite(found[name].value), name
        assert math.isfinite(found[name].stderr), name


def test_a_vertex_of_the_posterior_makes_the_reverse_infinite() -> None:
    mixture = FiniteMixture([0.5, 0.5], [[1.0, 0.0], [0.5, 0.5]])
    found = distance(lambda x: torch.full((2, 2), 0.5, dtype=torch.float64), mixture, 0, 0)
    assert found["reverse_ce"] == found["reverse_ce"]
    assert found["reverse_ce"].value == math.inf
    assert found["ce"].value == pytest.approx(math.log(2), rel=1e-15)


def test_comparisons_with_infinities() -> None:
    above = compare(rarely_certain, distorted, TWO, 5_000, 0)
    below = compare(distorted, rarely_certain, TWO, 5_000, 0)
    both = compare(rarely_certain, lambda x: rarely_certain(-x), TWO, 5_000, 0)
    for name in ("ce", "kl"):
        assert above[name].value == math.inf
        assert below[name].value == -math.inf
        assert math.isnan(both[name].value)
        assert math.isnan(both[name].stderr)
        assert both[name].method == "monte_carlo"
    assert math.isfinite(both["mse"].value)


def test_logarithms_keep_what_probabilities_lose() -> None:
    log_q = torch.tensor([[0.0, -900.0]] * 2, dtype=torch.float64)
    log_bayes = torch.tensor([[0.5, 0.5]] * 2, dtype=torch.float64).log()
    assert distance_of_probabilities(log_q.exp(), log_bayes, decompose=False)["ce"].value == math.inf
    found = distance_of_probabilities(log_q.exp(), log_bayes, log_q=log_q, decompose=False)
    assert found["ce"].value == 450.0


# ------------------------------------------------------------------------------------------------------------- streams


def test_a_stream_in_small_blocks_gives_the_same(few_trees: None, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = distance(distorted, TWO, 3_000, 5)
    monkeypatch.setattr(points, "_LARGEST_BLOCK", 70)
    parts = distance(distorted, TWO, 3_000, 5)
    for name, estimate in whole.items():
        assert parts[name].value == pytest.approx(estimate.value, rel=1e-12), name
        assert parts[name].stderr == pytest.approx(estimate.stderr, rel=1e-9), name


def test_blocks_are_bounded_and_hold_all_points() -> None:
    sizes: list[int] = []

    def constant(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return torch.full((len(x), 2), 0.5)

    distance(constant, TWO, 70_000, 0, decompose=False)
    assert sum(sizes) == 70_000
    assert max(sizes) <= 65_536
    sizes.clear()
    wide = GaussianMixture(torch.eye(2, 100), 1.0)
    distance(constant, wide, 45_000, 0, decompose=False)
    assert sum(sizes) == 45_000
    assert max(sizes) * 100 <= 2**22


def test_the_seed_decides_everything(few_trees: None) -> None:
    first, again, other = (distance(distorted, TWO, 500, seed) for seed in (0, 0, 1))
    assert first == again
    assert all(first[name].value != other[name].value for name in first)


def test_a_predictor_cannot_spoil_the_points() -> None:
    def careless(x: Tensor) -> Tensor:
        x *= 0
        return torch.full((len(x), 2), 0.5)

    assert compare(careless, distorted, TWO, 500, 0) == compare(
        lambda x: np.full((len(x), 2), 0.5), distorted, TWO, 500, 0
    )
    mixture = FiniteMixture([0.25, 0.75], [[1.0, 0.0], [0.5, 0.5]], points=[[3.0], [4.0]])
    distance(careless, mixture, 0, 0)
    assert mixture.points.flatten().tolist() == [3.0, 4.0]


# --------------------------------------------------------------------------------------------------------------- pairs


def test_paired_differences_have_small_errors() -> None:
    def slightly_worse(x: Tensor) -> Tensor:
        return (distorted(x).log() * 0.98).softmax(-1)

    a, b = (distance(predict, TWO, 10_000, 0, decompose=False) for predict in (slightly_worse, distorted))
    difference = compare(slightly_worse, distorted, TWO, 10_000, 0)
    for name in POINTWISE:
        assert difference[name].value == pytest.approx(a[name].value - b[name].value, abs=1e-12), name
        unpaired = math.hypot(a[name].stderr, b[name].stderr)
        assert difference[name].stderr < unpaired / 10, name
    assert difference["mse"].value > 5 * difference["mse"].stderr
    assert abs(a["mse"].value - b["mse"].value) < 2 * math.hypot(a["mse"].stderr, b["mse"].stderr)


def test_comparison_is_antisymmetric_and_exact_on_finite_x() -> None:
    mixture, w, p, q = _finite(6, 3, 0)
    found = compare(lambda x: q[x[:, 0].long()], mixture.posterior, mixture, 0, 0)
    back = compare(mixture.posterior, lambda x: q[x[:, 0].long()], mixture, 0, 0)
    files = compare_probabilities(q, p, np.log(p), weights=w)
    for name in POINTWISE:
        assert found[name].method == "exact"
        assert found[name].value == pytest.approx(-back[name].value, abs=1e-14)
        assert files[name].value == pytest.approx(found[name].value, abs=1e-12)


# --------------------------------------------------------------------------------------------------------------- files


def test_rows_of_a_file_are_a_sample_in_any_order() -> None:
    x, _ = TWO.sample(3_000, 0)
    log_bayes, q = TWO.log_posterior(x), distorted(x)
    direct = distance(distorted, TWO, 3_000, 0)
    order = x[:, 0].argsort()
    for rows in (torch.arange(3_000), order):
        found = distance_of_probabilities(q[rows].float(), log_bayes[rows].numpy(), seed=3)
        for name in (*POINTWISE, "ece"):
            assert found[name].value == pytest.approx(direct[name].value, rel=1e-5), name
            assert found[name].stderr == pytest.approx(direct[name].stderr, rel=0.15), name
        # the halves of the cross-fit differ, and must not be the two ends of a sorted file
        assert found["calibration"].value == pytest.approx(direct["calibration"].value, rel=0.02)
    pair = compare_probabilities(q, log_bayes.exp(), log_bayes, log_q_a=q.log(), log_q_b=log_bayes)
    assert pair["kl"].value == pytest.approx(direct["kl"].value, rel=1e-9)
    assert pair["kl"].stderr == pytest.approx(direct["kl"].stderr, rel=1e-9)


# -------------------------------------------------------------------------------------------------------------- errors

HALF = np.full((3, 2), 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distance(distorted, TWO, 1, 0), "n must be an int of at least 2 points, received 1"),
        (lambda: distance(distorted, TWO, 100.0, 0), r"received 100\.0"),
        (lambda: distance(distorted, TWO, True, 0), "received True"),
        (lambda: compare(distorted, distorted, TWO, 0, 0), "received 0"),
        (lambda: distance(distorted, TWO, 100, 0.5), r"seed must be an int, received 0\.5"),
        (lambda: distance(distorted, TWO, 99, 0), "at least 100 points .* received 99; decompose=False"),
        (
            lambda: distance(lambda x: distorted(x)[:-1], TWO, 200, 0),
            r"\(n, K\) = \(200, 2\), received shape \(199, 2\)",
        ),
        (lambda: distance(lambda x: HALF[:1], TWO, 200, 0), r"received shape \(1, 2\)"),
        (lambda: distance(lambda x: np.full((len(x), 3), 1 / 3), TWO, 200, 0), r"2 columns, received shape \(200, 3\)"),
        (lambda: distance(lambda x: distorted(x).log(), TWO, 200, 0), "rows of probabilities .* row 0 received"),
        (lambda: distance_of_probabilities(HALF, np.log(HALF[:2])), r"q \(3, 2\) and log_bayes \(2, 2\)"),
        (lambda: distance_of_probabilities(HALF[0], np.log(HALF[0])), r"q \(2,\) and log_bayes \(2,\)"),
        (lambda: distance_of_probabilities([[0.5, 0.5], [0.5, 0.6]], np.log(HALF[:2])), r"q must be .* row 1 received"),
        (lambda: distance_of_probabilities(HALF, HALF), r"exp\(log_bayes\) must be rows of probabilities"),
        (lambda: distance_of_probabilities(HALF[:1], np.log(HALF[:1])), "at least 2 rows are needed, received 1"),
        (lambda: distance_of_probabilities(HALF, np.log(HALF)), "at least 100 points .* received 3"),
        (lambda: distance_of_probabilities(HALF, np.log(HALF), weights=[0.5, 0.5]), r"weights must have shape \(3,\)"),
        (lambda: distance_of_probabilities(HALF, np.log(HALF), weights=[1, 1, 1]), "weights must be .* sum 3"),
        (
            lambda: distance_of_probabilities(HALF, np.log(HALF), log_q=np.log([[0.4, 0.6]] * 3)),
            "log_q must be the logarithm of q",
        ),
        (
            lambda: compare_probabilities(HALF, HALF[:2], np.log(HALF)),
            r"q \(3, 2\) and \(2, 2\) and log_bayes \(3, 2\)",
        ),
    ],
)
def test_errors_say_what_was_received(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_leaving_out_the_decomposition() -> None:
    found = distance(distorted, TWO, 2, 0, decompose=False)
    assert set(found) == {*POINTWISE, "ece"}
    assert found["mse"].stderr > 0


def test_only_the_protocol_is_needed() -> None:
    class Coin:
        num_classes = 2
        shape = ()

        def stream(self, n: int, seed: int, block: int = 10) -> Iterator[tuple[Tensor, Tensor]]:
            for start in range(0, n, block):
                x = torch.arange(start, min(n, start + block), dtype=torch.float64)
                yield x, torch.zeros(len(x), dtype=torch.int64)

        def log_posterior(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 2), math.log(0.5), dtype=torch.float64)

        def support(self) -> None:
            return None

    found = distance(lambda x: np.tile([0.75, 0.25], (len(x), 1)), Coin(), 200, 0)
    assert found["mse"] == Estimate(0.125, 0.0, "monte_carlo")
    assert found["ece"].value == 0.25
