"""Differences of scores on fresh labels are differences of distances to p*: exactly, in bias, and in coverage."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from torch import Tensor

from bcpd import simplex
from bcpd.measure import compare, compare_probabilities, difference, difference_to_bcpd, fit_temperature
from bcpd.measure.difference import crossed_difference_to_bcpd, label_differences
from bcpd.mixtures import GaussianMixture
from bcpd.seeds import generator
from bcpd.stats import crossed_mean_interval, mean_interval
from bcpd.testing import row_tables

METRICS = ("mse", "kl")
TABLES = st.integers(2, 4).flatmap(lambda k: st.tuples(*(row_tables(3, k) for _ in range(3))))


# ---------------------------------------------------------------------------------------------------------------- exact


@settings(max_examples=25)
@given(TABLES)
def test_over_all_labels_it_is_the_difference_of_the_distances(tables: tuple[Tensor, Tensor, Tensor]) -> None:
    """Theorem 1 by summing over every label with its probability; a score that is not proper has no such identity."""
    p, q_a, q_b = tables
    num_classes = p.shape[1]
    scores = [label_differences(q_a, q_b, torch.full((3,), k)) for k in range(num_classes)]
    summed = {name: sum(p[:, k] * scores[k][name] for k in range(num_classes)) for name in METRICS}
    truth = {
        "mse": simplex.squared_distance(q_a, p) - simplex.squared_distance(q_b, p),
        "kl": simplex.kl(p, q_a) - simplex.kl(p, q_b),
    }
    for name in METRICS:
        assert torch.allclose(summed[name], truth[name], rtol=0, atol=1e-11), name
    # the same sum in one step, for the scores are linear in the label: shares of labels may stand for labels
    soft = label_differences(q_a, q_b, p)
    for name in METRICS:
        assert torch.allclose(soft[name], truth[name], rtol=0, atol=1e-11), name


def test_the_absolute_error_has_no_such_identity() -> None:
    p, q_a, q_b = (torch.tensor(row, dtype=torch.float64) for row in ([0.7, 0.3], [1.0, 0.0], [0.7, 0.3]))
    on_labels = sum(
        p[k] * (simplex.l1_distance(torch.eye(2)[k], q_a) - simplex.l1_distance(torch.eye(2)[k], q_b)) for k in (0, 1)
    )
    assert on_labels < -0.1  # it prefers the teacher that is farther away
    assert simplex.l1_distance(p, q_a) - simplex.l1_distance(p, q_b) > 0.5


@settings(max_examples=20)
@given(st.integers(2, 4).flatmap(lambda k: st.tuples(row_tables(5, k), row_tables(5, k))), st.integers(0, 2**32 - 1))
def test_one_hot_rows_are_a_p_star_and_pairing_is_by_image(tables: tuple[Tensor, Tensor], seed: int) -> None:
    q_a, q_b = tables
    y = torch.randint(0, q_a.shape[1], (5,), generator=generator(seed, "labels"))
    found = difference_to_bcpd(q_a.numpy(), q_b, y.tolist())
    one_hot = torch.nn.functional.one_hot(y, q_a.shape[1]).double()
    expected = compare_probabilities(q_a, q_b, one_hot.log())
    for name in METRICS:
        assert found[name].value == pytest.approx(expected[name].value, abs=1e-12)
        assert found[name].stderr == pytest.approx(expected[name].stderr, abs=1e-12)
        assert (found[name].n, found[name].note, found[name].method) == (5, "", "monte_carlo")
        assert difference_to_bcpd(q_b, q_a, y)[name].value == pytest.approx(-found[name].value, abs=1e-12)


def test_seeds_are_rows_and_excluded_images_are_gone() -> None:
    draw = generator(0, "seeds and images")
    q_a, q_b = (torch.randn(3, 6, 4, generator=draw, dtype=torch.float64).softmax(-1) for _ in range(2))
    y, exclude = torch.arange(6) % 4, torch.tensor([False, True, False, False, True, False])
    found = label_differences(q_a, q_b, y, exclude=exclude)
    for s in range(3):
        alone = label_differences(q_a[s][~exclude], q_b[s][~exclude], y[~exclude])
        summary = difference_to_bcpd(q_a[s], q_b[s], y, exclude=exclude.numpy())
        for name in METRICS:
            assert torch.equal(found[name][s], alone[name])
            assert summary[name].value == pytest.approx(float(alone[name].mean()), abs=1e-14)
            assert summary[name].n == 4


def test_saturated_networks_keep_their_log_scores_through_log_q() -> None:
    z = torch.tensor([[0.0, 1000.0], [0.0, -1.0]], dtype=torch.float64)
    half = torch.full((2, 2), 0.5)
    q, log_q = z.softmax(-1), z.log_softmax(-1)
    found = difference_to_bcpd(q, half, [0, 0], log_q_a=log_q)["kl"]
    assert found.value == pytest.approx((1000 + math.log1p(math.exp(-1))) / 2 - math.log(2))
    assert difference_to_bcpd(half, q, [0, 0], log_q_b=log_q)["kl"].value == -found.value
    assert difference_to_bcpd(q, half, [0, 0])["kl"].value == math.inf


CERTAIN, HALF = [1.0, 0.0], [0.5, 0.5]


@pytest.mark.parametrize(
    ("q_a", "q_b", "value", "note"),
    [
        ([CERTAIN, HALF], [HALF, HALF], math.inf, "a alone gives the label of 1 of 2 images probability 0: its"),
        ([HALF, HALF], [CERTAIN, CERTAIN], -math.inf, "b alone gives the label of 2 of 2 images probability 0: its"),
        ([CERTAIN, HALF], [CERTAIN, HALF], math.nan, "both teachers give the label of 1 of 2 images"),
        ([CERTAIN, HALF], [HALF, CERTAIN], math.nan, "both log scores are infinite, and their difference is undefined"),
    ],
)
def test_infinite_log_scores_are_said(q_a: list[Any], q_b: list[Any], value: float, note: str) -> None:
    found = difference_to_bcpd(q_a, q_b, [1, 1])
    assert found["kl"].value == pytest.approx(value, nan_ok=True)
    assert math.isnan(found["kl"].stderr)
    assert note in found["kl"].note
    assert note in str(found["kl"])
    assert math.isfinite(found["mse"].value)
    assert found["mse"].note == ""


ROWS = [[0.5, 0.5], [0.2, 0.8], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: difference_to_bcpd(ROWS, ROWS[:2], [0, 1, 0]), r"same shape .* received \(3, 2\) and \(2, 2\)"),
        (lambda: difference_to_bcpd([ROWS], [ROWS], [0, 1, 0]), "received 3 axes; for seeds x images see crossed_diff"),
        (lambda: label_differences([[ROWS]], [[ROWS]], [0, 1, 0]), r"received \(1, 1, 3, 2\)"),
        (lambda: difference_to_bcpd(ROWS, [[1.0, 1.0]] * 3, [0, 1, 0]), "q_b must be rows of probabilities"),
        (lambda: difference_to_bcpd(ROWS, ROWS, [0, 1, 2]), r"y must lie in 0\.\.1, received 2"),
        (lambda: difference_to_bcpd(ROWS, ROWS, [0, 1]), r"y must have shape \(3,\) or \(3, 2\), received \(2,\)"),
        (lambda: difference_to_bcpd(ROWS, ROWS, [[3, 1], [2, 2], [4, 0]]), "y must be rows of probabilities"),
        (lambda: difference_to_bcpd(ROWS, ROWS, [0.0, 1.0, 1.0]), "y must be integers"),
        (lambda: difference_to_bcpd(ROWS[:1], ROWS[:1], [0]), "at least 2 images are needed, received 1"),
        (lambda: difference_to_bcpd(ROWS, ROWS, [0, 1, 0], exclude=[True, True, False]), "3 of which 2 are excluded"),
        (
            lambda: difference_to_bcpd(ROWS, ROWS, [0, 1, 0], exclude=[0, 1]),
            r"bool mask of shape \(3,\), received torch.int64 \(2,\)",
        ),
        (lambda: difference_to_bcpd(ROWS, ROWS, [0, 1, 0], log_q_a=ROWS), "log_q_a"),
    ],
)
def test_errors_say_what_was_received(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_docstrings_examples() -> None:
    assert doctest.testmod(difference).failed == 0


# ------------------------------------------------------------------------------------------ a world of trained teachers


class Cells:
    """Twelve points x, three classes; teachers are label frequencies of 10 training labels a point, smoothed.

    Teacher a adds 0.3 to every count (it follows its labels), b adds 1: trained models, whose expected distance to p*
    over training sets is an exact sum.
    """

    LABELS, PSEUDO = 10, (0.3, 1.0)

    def __init__(self) -> None:
        draw = generator(0, "cells")
        self.p = (0.8 * torch.randn(12, 3, generator=draw, dtype=torch.float64)).softmax(-1)
        self.weights = torch.randn(12, generator=draw, dtype=torch.float64).softmax(-1)

    def train(self, teachers: int, draw: torch.Generator) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Training labels ``(S, 12, 10)`` and both teachers' rows ``(S, 12, 3)``."""
        drawn = torch.multinomial(self.p.repeat(teachers, 1), self.LABELS, replacement=True, generator=draw)
        labels = drawn.reshape(teachers, 12, self.LABELS)
        counts = torch.nn.functional.one_hot(labels, 3).sum(-2).double()
        q_a, q_b = ((counts + more) / (self.LABELS + 3 * more) for more in self.PSEUDO)
        return labels, (q_a, q_b)

    def images(self, n: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points and fresh labels ``(n,)``."""
        x = torch.multinomial(self.weights, n, replacement=True, generator=draw)
        return x, torch.multinomial(self.p[x], 1, generator=draw)[:, 0]

    def of_teachers(self, q_a: Tensor, q_b: Tensor) -> dict[str, float]:
        """The exact difference of two teachers ``(12, 3)``."""
        found = compare_probabilities(q_a, q_b, self.p.log(), weights=self.weights)
        return {name: found[name].value for name in METRICS}

    def of_training(self) -> dict[str, float]:
        """The exact mean of it over training sets: of k labels ~ Binomial(10, p), a sum over k."""
        k = np.arange(self.LABELS + 1)
        chances = binom.pmf(k, self.LABELS, self.p.numpy()[..., None])
        sums = {}
        for name in METRICS:
            values = []
            for more in self.PSEUDO:
                q = (k + more) / (self.LABELS + 3 * more)
                p = self.p.numpy()[..., None]
                values.append((q - p) ** 2 if name == "mse" else -p * np.log(q))
            sums[name] = float(self.weights.numpy() @ (chances * (values[0] - values[1])).sum((1, 2)))
        return sums


def repeated(world: Cells, seeds: int, n: int, times: int, root: int) -> dict[str, list[Any]]:
    """Crossed intervals, and those over one factor alone, of ``times`` new sets of teachers and images."""
    draw = generator(root, "crossed coverage", seeds)
    found: dict[str, list[Any]] = {name: [] for name in METRICS}
    for _ in range(times):
        _, (q_a, q_b) = world.train(seeds, draw)
        x, y = world.images(n, draw)
        for name, table in label_differences(q_a[:, x], q_b[:, x], y).items():
            found[name].append(
                (crossed_mean_interval(table), mean_interval(table.mean(0)), mean_interval(table.mean(1)))
            )
    return found


def covered(intervals: list[Any], truth: float) -> float:
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


def far(values: list[float], truth: float) -> float:
    """Standard errors between the mean of independent values and the truth."""
    return abs(float(np.mean(values)) - truth) / (float(np.std(values, ddof=1)) / math.sqrt(len(values)))


def test_the_crossed_mean_is_unbiased_over_trainings_and_labels() -> None:
    """5 standard errors: false alarm 6e-7 each. 0.87 is 4.5 standard deviations of the share below 0.95."""
    world = Cells()
    truth = world.of_training()
    found = repeated(world, 4, 150, 150, root=0)
    for name in METRICS:
        crossed = [entry[0] for entry in found[name]]
        assert far([interval.mean for interval in crossed], truth[name]) < 5
        assert covered(crossed, truth[name]) > 0.87


def test_training_labels_make_the_teacher_that_follows_them_look_closer() -> None:
    """Of 100 trainings: on its own labels a wins by many standard errors; on as many fresh ones b, as it should."""
    world, draw = Cells(), generator(1, "own labels")
    labels, (q_a, q_b) = world.train(100, draw)
    fresh, _ = world.train(100, draw)
    x = torch.arange(12).repeat_interleave(world.LABELS)
    weights = world.weights[x] / world.LABELS  # every point has 10 labels: its share of the mean is its weight
    truth = [world.of_teachers(*teachers) for teachers in zip(q_a, q_b, strict=True)]
    for name in METRICS:
        errors = {}
        for kind, drawn in (("own", labels), ("fresh", fresh)):
            found = [label_differences(q_a[s][x], q_b[s][x], drawn[s].flatten())[name] for s in range(100)]
            errors[kind] = [float(weights @ found[s]) - truth[s][name] for s in range(100)]
            closer = float(np.mean(errors[kind])) + float(np.mean([row[name] for row in truth]))
            assert (closer < 0) == (kind == "own")
        assert far(errors["fresh"], 0.0) < 5
        assert far(errors["own"], 0.0) > 5
        assert float(np.mean(errors["own"])) < 0


# ------------------------------------------------------------------------------------------------------------- coverage


@pytest.mark.statistical
@pytest.mark.parametrize("seeds", [3, 5, 12])
def test_crossed_intervals_cover_the_difference_of_two_ways_to_train(seeds: int) -> None:
    """1,500 repetitions: the share's standard deviation is 0.0056. Coverage lies between 0.95 and 0.977 by design.

    Four of them below 0.95 and above 0.977, bias 5 standard errors: false alarms below 1e-3 in all, seeds fixed.
    Intervals over images alone, or over trainings alone, must lie below what the crossed one lies above.
    """
    world, n, least = Cells(), 300, 0.95 - 4 * 0.0056
    truth = world.of_training()
    found = repeated(world, seeds, n, 1_500, root=1)
    for name in METRICS:
        crossed, images, trainings = (list(intervals) for intervals in zip(*found[name], strict=True))
        assert far([interval.mean for interval in crossed], truth[name]) < 5
        assert least < covered(crossed, truth[name]) < 0.977 + 4 * 0.0056, name
        # the reported standard errors are those of the repetitions, and both factors count
        spread = float(np.std([interval.mean for interval in crossed]))
        assert math.sqrt(np.mean([interval.stderr**2 for interval in crossed])) == pytest.approx(spread, rel=0.1)
        assert covered(images, truth[name]) < least
        assert covered(trainings, truth[name]) < least


PLANE = GaussianMixture([[-0.8, 0.1], [0.7, 0.5], [0.2, -0.9]], 1.2, priors=[0.3, 0.3, 0.4])


def overconfident(x: Tensor) -> Tensor:
    return (1.6 * PLANE.log_posterior(x)).softmax(-1)


def tilted(x: Tensor) -> Tensor:
    return (PLANE.log_posterior(x) + 0.4 * x[:, :1] * torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)).softmax(-1)


@pytest.mark.statistical
def test_intervals_cover_the_difference_of_two_teachers() -> None:
    """1,000 sets of 500 images in the plane; the share's standard deviation is 0.0069: four either way, bias 5."""
    truth = compare(overconfident, tilted, PLANE, 400_000, 10**6)
    found: dict[str, list[Any]] = {name: [] for name in METRICS}
    for seed in range(1_000):
        x, y = PLANE.sample(500, seed)
        for name, estimate in difference_to_bcpd(overconfident(x), tilted(x), y).items():
            found[name].append(estimate)
    for name in METRICS:
        assert truth[name].stderr < 0.1 * found[name][0].stderr
        value = truth[name].value
        assert far([estimate.value for estimate in found[name]], value) < 5
        share = np.mean([low <= value <= high for low, high in (estimate.interval() for estimate in found[name])])
        assert share == pytest.approx(0.95, abs=0.028)


@pytest.mark.statistical
def test_a_temperature_fitted_on_the_same_labels_is_worth_one_nth_of_a_nat() -> None:
    """In-sample optimism of one parameter, 1/n: small beside the standard error of a set, but of one sign.

    400 sets of 200 images; both bias tests at 5 standard errors of the mean over sets.
    """
    n, errors, honest = 200, [], []
    reference_x, _ = PLANE.sample(40_000, 10**6)
    reference_log, log_tilted = PLANE.log_posterior(reference_x), tilted(reference_x).log()
    for seed in range(400):
        x, y = PLANE.sample(n, seed)
        log_q = tilted(x).log()
        temperature = fit_temperature(log_q, y)
        scaled = (log_tilted / temperature).log_softmax(-1)
        truth = float(
            (simplex.kl_from_log(reference_log, scaled) - simplex.kl_from_log(reference_log, log_tilted)).mean()
        )
        fresh_x, fresh_y = PLANE.sample(n, seed + 10_000)
        for errors_of, where, label in ((errors, x, y), (honest, fresh_x, fresh_y)):
            log_q = tilted(where).log()
            found = difference_to_bcpd((log_q / temperature).softmax(-1), log_q.exp(), label)["kl"]
            errors_of.append(found.value - truth)
    assert far(honest, 0.0) < 5
    assert far(errors, 0.0) > 5
    assert float(np.mean(errors)) == pytest.approx(-1 / n, rel=0.5)


def test_the_crossed_form_is_the_interval_of_the_table() -> None:
    draw = torch.Generator().manual_seed(3)
    q_a, q_b = torch.rand(2, 3, 40, 4, generator=draw, dtype=torch.float64).softmax(-1)
    y = torch.randint(0, 4, (40,), generator=draw)
    found = crossed_difference_to_bcpd(q_a, q_b, y)
    tables = label_differences(q_a, q_b, y)
    assert {name: vars(one) for name, one in found.items()} == {
        name: vars(crossed_mean_interval(table)) | {"note": ""} for name, table in tables.items()
    }
    swapped = crossed_difference_to_bcpd(q_b, q_a, y)
    assert swapped["mse"].mean == pytest.approx(-found["mse"].mean)
    kept = crossed_difference_to_bcpd(q_a, q_b, y, exclude=torch.arange(40) < 7)
    assert kept["kl"].columns == 33
    with pytest.raises(ValueError, match=r"\(S, n, K\)"):
        crossed_difference_to_bcpd(q_a[0], q_b[0], y)


def test_the_crossed_form_says_where_a_score_is_infinite() -> None:
    q = torch.full((2, 3, 2), 0.5, dtype=torch.float64)
    sure = q.clone()
    sure[0, 0] = torch.tensor([0.0, 1.0])
    found = crossed_difference_to_bcpd(sure, q, [0, 1, 1])
    assert found["kl"].mean == math.inf
    assert math.isnan(found["kl"].low)
    assert math.isfinite(found["mse"].high)
    assert crossed_difference_to_bcpd(q, sure, [0, 1, 1])["kl"].mean == -math.inf
    assert "a alone gives" in found["kl"].note
    undefined = crossed_difference_to_bcpd(sure, sure, [0, 1, 1])["kl"]
    assert math.isnan(undefined.mean)
    assert "both log scores are infinite" in undefined.note
