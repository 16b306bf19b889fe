"""The calibration check itself: its false alarms, its power, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from bcpd.mixtures import FiniteMixture, GaussianMixture, calibration_z, paper_toy


def test_scores_of_a_right_posterior_look_standard_normal() -> None:
    """40 samples of a mixture with 19 scores each: mean square near 1, correlated, so within a wide 0.75 .. 1.25."""
    mixture = GaussianMixture([[-1.0], [0.5], [2.5]], 1.2)
    squares = []
    for seed in range(40):
        x, y = mixture.sample(20_000, seed)
        squares.append(calibration_z(x, y, mixture.log_posterior(x)).square().mean())
    assert 0.75 < float(torch.stack(squares).mean()) < 1.25


def test_rare_classes_raise_no_false_alarm() -> None:
    """A class of probability 1e-5 seen once in 1000 points is 100 standard deviations off, and yet not surprising.

    The plain z-score would exceed 5 in one of a hundred samples; Bernstein's stays below.
    """
    mixture = FiniteMixture([0.5, 0.5], [[0.5, 0.49999, 1e-5], [0.3, 0.69999, 1e-5]])
    rows = torch.tensor([0, 1]).repeat(500)
    x, y = rows[:, None].double(), torch.tensor([0, 1]).repeat(500)
    y[7] = 2
    log_p = mixture.log_posterior(x)
    p = log_p.exp()
    plain = ((y == 2).double() - p[:, 2]).sum() / (p[:, 2] * (1 - p[:, 2])).sum().sqrt()
    assert float(plain) > 9
    frequent = torch.randint(0, 2, (1000,), generator=torch.Generator().manual_seed(0))
    y = torch.where(y == 2, 2, (torch.rand(1000, generator=torch.Generator().manual_seed(1)) > p[:, 0]).long())
    assert float(calibration_z(x, y, log_p).abs().max()) < 5
    assert float(calibration_z(x, frequent * 2, log_p).abs().max()) > 5


def test_the_first_score_is_the_direction_of_a_wrong_scale() -> None:
    mixture = paper_toy(num_classes=4, dimension=6, variance=2.0)
    for amount, sign in ((0.05, -1), (-0.05, 1)):
        x, y = mixture.misspecified(amount).sample(200_000, seed=0)
        scores = calibration_z(x, y, mixture.log_posterior(x))
        assert float(scores[0]) * sign > 8
        assert float(scores[0].abs()) == float(scores.abs().max())


def test_true_rows_in_the_place_of_labels_give_the_mean_of_the_scores() -> None:
    """The mean over 30 samples of labels at fixed x, within 5 standard errors of each of the 19 scores."""
    mixture = GaussianMixture([[-1.0], [0.5], [2.5]], 1.2)
    wrong = GaussianMixture([[-1.0], [0.5], [2.5]], 1.5)
    x, _ = mixture.sample(20_000, 0)
    truth, stated = mixture.posterior(x), wrong.log_posterior(x)
    expected = calibration_z(x, truth, stated)
    draw = torch.Generator().manual_seed(0)
    drawn = torch.stack(
        [calibration_z(x, torch.multinomial(truth, 1, generator=draw)[:, 0], stated) for _ in range(30)]
    )
    assert float(expected.abs().max()) > 8
    assert bool(((drawn.mean(0) - expected).abs() < 5 * drawn.std(0) / math.sqrt(30) + 0.05).all())
    assert float(calibration_z(x, truth, truth.log()).abs().max()) < 1e-9


def test_temperature_is_noticed_in_both_directions() -> None:
    mixture = paper_toy(num_classes=4, dimension=6, variance=2.0)
    x, y = mixture.sample(100_000, seed=0)
    log_p = mixture.log_posterior(x)
    assert float(calibration_z(x, y, log_p).abs().max()) < 5
    for power in (0.9, 1.1):
        assert float(calibration_z(x, y, (power * log_p).log_softmax(-1)).abs().max()) > 8


def test_a_label_that_p_excludes_is_infinitely_wrong() -> None:
    scores = calibration_z([[0.0], [1.0]], [1, 0], [[0.0, -math.inf], [math.log(0.5), math.log(0.5)]])
    assert bool(scores.isinf().all())


def test_certain_labels_that_come_true_score_zero() -> None:
    x, y = torch.zeros(100, 1), torch.zeros(100, dtype=torch.int64)
    log_p = torch.tensor([[0.0, -math.inf]]).expand(100, 2)
    assert bool((calibration_z(x, y, log_p) == 0).all())


def test_the_number_of_scores_is_as_documented() -> None:
    x, y = paper_toy().sample(100, 0)
    assert len(calibration_z(x, y, paper_toy().log_posterior(x))) == 1 + 10 * (1 + 10 + 2 * 8)
    narrow = GaussianMixture([[0.0, 1.0], [1.0, 0.0]], 1.0)
    x, y = narrow.sample(100, 0)
    assert len(calibration_z(x, y, narrow.log_posterior(x))) == 1 + 2 * (1 + 2 + 2 * 2)


@pytest.mark.parametrize(
    ("x", "y", "log_p", "message"),
    [
        ([[0.0]], [0, 1], [[-0.7, -0.7]] * 2, r"x must have shape \(n, \.\.\.\).*received \(1, 1\) and \(2, 2\)"),
        ([[0.0], [1.0]], [0], [[-0.7, -0.7]] * 2, r"y must have shape \(2,\) or \(2, 2\), received \(1,\)"),
        ([[0.0], [1.0]], [[0.5, 0.5]], [[-0.7, -0.7]] * 2, r"or \(2, 2\), received \(1, 2\)"),
        ([[0.0], [1.0]], [[0.5, 0.6]] * 2, [[-0.7, -0.7]] * 2, "y must be rows of probabilities"),
        ([[0.0], [1.0]], [0.0, 1.0], [[-0.7, -0.7]] * 2, "y must be integers"),
        ([[0.0], [1.0]], [0, 2], [[-0.7, -0.7]] * 2, r"y must lie in 0\.\.1, received 2"),
        ([[0.0], [1.0]], [0, 1], [-0.7, -0.7], r"log_posterior \(n, K\)"),
    ],
)
def test_shapes_that_do_not_match_are_refused(x: object, y: object, log_p: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibration_z(x, y, log_p)  # type: ignore[arg-type]
