"""The released conventions as named functions, and what they amount to."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from trying import settings_at, tried

from bcpd import simplex
from bcpd.losses import LOSSES
from bcpd.testing import simplex_rows
from bcpd.theory.instruments import released, released_claims


def test_claims_hold_and_controls_fail_at_a_fixed_seed() -> None:
    checks = tried(released_claims.CLAIMS, settings_at(0))
    quick = [claim for claim in released_claims.CLAIMS if claim.id != "released-scale-training"]
    again = {check.id: check.value for check in tried(quick, settings_at(5))}
    assert again == {check.id: check.value for check in checks if check.id in again}
    (training,) = [c for c in checks if c.claim == "released-scale-training" and c.control is None]
    assert training.value == 0  # to the bit: K is a power of two


def test_a_users_finite_mixture_has_the_grey_dots_alone() -> None:
    assert {check.claim for check in tried(released_claims.CLAIMS, settings_at(0, "finite"))} == {"released-grey-dots"}


def test_the_training_loss_by_a_loop() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]], dtype=torch.float64)
    total = 0.0
    for row, label in zip(logits.tolist(), [0, 1], strict=True):
        weights = [math.exp(value) for value in row]
        for k, weight in enumerate(weights):
            total += (weight / sum(weights) - (k == label)) ** 2
    assert float(released.training_loss(logits, torch.tensor([0, 1]))) == pytest.approx(total / 6)


def test_the_distance_of_a_set_grows_with_the_set() -> None:
    q, p = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).double(), torch.tensor([[0.6, 0.4], [0.7, 0.3]]).double()
    once, twice = released.distance_of_set(q, p), released.distance_of_set(q.repeat(2, 1), p.repeat(2, 1))
    assert once == pytest.approx(math.sqrt(0.02 + 0.08))
    assert twice == pytest.approx(math.sqrt(2) * once)


@settings(max_examples=40)
@given(st.integers(2, 5).flatmap(lambda k: st.tuples(simplex_rows(k), simplex_rows(k))))
def test_the_two_orientations_and_the_cut_off_by_a_loop(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    forward = -math.fsum(float(a) * max(math.log(float(b)), -10.0) for a, b in zip(p, q, strict=True))
    reverse = -math.fsum(float(b) * max(math.log(float(a)), -10.0) for a, b in zip(p, q, strict=True))
    assert float(released.ce_of_grey_dots(q, p)) == pytest.approx(forward, abs=1e-12)
    assert float(released.ce_of_teachers(q, p)) == pytest.approx(reverse, abs=1e-12)
    assert forward <= float(simplex.cross_entropy(p, q)) + 1e-12


def test_an_exact_zero_costs_ten_where_the_cross_entropy_is_infinite() -> None:
    assert float(released.ce_of_grey_dots([1.0, 0.0], [0.0, 1.0])) == 10.0
    assert math.isinf(float(simplex.cross_entropy([0.0, 1.0], [1.0, 0.0])))


def test_grey_dots_are_rows_between_p_star_and_the_label() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    dots = released.grey_dots(p, torch.tensor([2]), 0.4)
    assert dots.tolist()[0] == pytest.approx([0.3, 0.18, 0.52])


@pytest.mark.parametrize(
    ("num_classes", "temperature", "printed"),
    [(10, 4, 0.125), (100, 4, 0.0128), (1000, 4, 0.00128), (10, 1, 0.232), (100, 1, 0.0267), (1000, 1, 0.0027)],
)
def test_one_hot_logits_read_out_by_softmax(num_classes: int, temperature: float, printed: float) -> None:
    row = released.one_hot_readout(num_classes, temperature)
    raised = math.exp(1 / temperature)
    assert float(row.max()) == pytest.approx(raised / (raised + num_classes - 1), rel=1e-12)
    digits = len(str(printed).split(".")[1])
    assert round(float(row.max()), digits) == printed
    assert float(row.sum()) == pytest.approx(1)


def test_the_released_criterion_is_cross_entropy_whatever_is_asked_for() -> None:
    z, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double(), torch.tensor([0, 1, 2, 3, 0, 1])
    rows = nn.functional.one_hot(y, 4).double()
    for asked in ("MSE", "mse", "CE"):
        assert isinstance(released.criterion(asked), nn.CrossEntropyLoss)
    assert isinstance(released.criterion("mse", repaired=True), nn.MSELoss)
    assert isinstance(released.criterion("ce", repaired=True), nn.CrossEntropyLoss)
    chosen = released.criterion("MSE")
    # one-hot rows and labels: the same number to the last bit
    assert float(chosen(z, rows)) == float(chosen(z, y))
    assert float(chosen(z, rows)) == pytest.approx(float(LOSSES["ce"](z, y).mean()), abs=1e-15)


def test_the_repaired_comparison_would_stop_in_the_released_validation_loop() -> None:
    """There the criterion is called with labels, not with one-hot rows."""
    z, y = torch.zeros(6, 4), torch.zeros(6, dtype=torch.int64)
    with pytest.warns(UserWarning, match="target size"), pytest.raises(RuntimeError, match="must match the size"):
        released.criterion("MSE", repaired=True)(z, y)


def test_the_picture_shows_a_reverse_cross_entropy_that_does_not_move() -> None:
    (claim,) = [claim for claim in released_claims.CLAIMS if claim.picture is not None]
    assert claim.picture is not None
    mse, forward, reverse = claim.picture(settings_at(0))["series"]
    assert max(reverse["y"]) - min(reverse["y"]) < 1e-4
    assert mse["y"] == sorted(mse["y"])
    assert forward["y"] == sorted(forward["y"])
