"""What callers bring is converted without changing a value, or refused with a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bcpd.tensors import float64, labels, probability_rows


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "value",
    [
        [1, 2, 3],
        (1.0, 2.0, 3.0),
        np.array([1, 2, 3], dtype=np.int16),
        np.array([1, 2, 3], dtype=np.float32),
        np.array([3.0, 2.0, 1.0])[::-1],
        np.array([1.0, 2.0, 3.0], dtype=">f8"),
        _read_only(np.array([1.0, 2.0, 3.0])),
        torch.tensor([1, 2, 3]),
        torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
def test_float64_takes_numbers_of_every_origin(value: Any) -> None:
    result = float64(value, "value")
    assert result.dtype == torch.float64
    assert result.tolist() == [1.0, 2.0, 3.0]


def test_float64_keeps_gradients_and_scalars() -> None:
    x = torch.ones(2, requires_grad=True)
    float64(x, "x").sum().backward()
    assert torch.equal(x.grad, torch.ones(2))
    assert float64(0.5, "x").shape == ()


@pytest.mark.parametrize("value", ["abc", [[1.0], [1.0, 2.0]], None, object()])
def test_float64_refuses_what_is_not_numeric(value: Any) -> None:
    with pytest.raises(ValueError, match=f"temperature must be numeric, received {type(value).__name__}"):
        float64(value, "temperature")


@pytest.mark.parametrize("value", [np.array([1j]), torch.tensor([True]), [True, False]])
def test_float64_refuses_complex_and_boolean(value: Any) -> None:
    with pytest.raises(ValueError, match="x must be real numbers, received dtype torch"):
        float64(value, "x")


def test_labels_are_int64() -> None:
    for value in ([0, 2], np.array([0, 2], dtype=np.uint8), torch.tensor([0, 2], dtype=torch.int32)):
        result = labels(value, 3)
        assert result.dtype == torch.int64
        assert result.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([0.0, 1.0], r"targets must be integers in 0\.\.2, received dtype torch.float64"),
        ([True, False], "received dtype torch.bool"),
        ([0, 1, 3], r"targets must lie in 0\.\.2, received 3 at \(2,\)"),
        ([[0, 1], [-1, 2]], r"received -1 at \(1, 0\)"),
        (["a"], "targets must be numeric"),
    ],
)
def test_labels_name_the_first_offender(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        labels(value, 3, "targets")


def test_probability_rows_are_passed_unchanged() -> None:
    rows = torch.tensor([[0.3, 0.7], [1.0, 0.0]], dtype=torch.float64)
    assert torch.equal(probability_rows(rows, "q"), rows)
    off = torch.tensor([0.3, 0.7 + 5e-5], dtype=torch.float64)
    assert torch.equal(probability_rows(off, "q"), off)  # within tolerance: checked, not repaired
    assert probability_rows(torch.zeros(0, 4), "q").shape == (0, 4)
    assert probability_rows(torch.randn(1000, 50).softmax(-1), "q").dtype == torch.float64


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[0.5, 0.5], [0.5, 0.6]], r"row 1 received \[0\.5, 0\.6\] with sum 1\.1"),
        ([[0.5, 0.5], [-0.1, 1.1]], r"row 1 received \[-0\.1, 1\.1\]"),
        ([[float("nan"), 1.0]], r"row 0 received \[nan, 1\]"),
        ([[float("inf"), 0.0]], "row 0"),
        ([30.0, 70.0], r"received \[30, 70\] with sum 100"),
        ([[[0.5, 0.5]], [[0.4, 0.4]]], r"row \(1, 0\)"),
        (0.5, r"shape \(\.\.\., K\)"),
        (np.zeros((3, 0)), r"received shape \(3, 0\)"),
        (np.full((1, 20), 1.0), r"1, \.\.\.\] with sum 20"),
    ],
)
def test_probability_rows_name_the_first_offending_row(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probability_rows(value, "q")


def test_probability_rows_check_the_number_of_classes() -> None:
    with pytest.raises(ValueError, match=r"q must have 3 columns, received shape \(1, 2\)"):
        probability_rows([[0.5, 0.5]], "q", num_classes=3)
