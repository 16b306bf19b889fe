"""Turn what a caller brings (tensors, NumPy arrays, lists) into checked tensors, or say what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["ArrayLike", "float64", "labels", "log_softmax", "probability_rows", "softmax"]

ArrayLike = Tensor | np.ndarray[Any, Any] | Sequence[Any] | float


def _as_tensor(value: ArrayLike, name: str) -> Tensor:
    """``value`` as a tensor of its own dtype; memory is shared with NumPy only where torch can address it."""
    if isinstance(value, Tensor):
        return value
    try:
        array = np.asarray(value)
        # torch addresses neither read-only (memory-mapped), reversed nor byte-swapped arrays
        if not array.flags.writeable or any(s < 0 for s in array.strides) or not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="), order="C")
        return torch.as_tensor(array)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numeric, received {type(value).__name__}: {error}") from None


def float64(value: ArrayLike, name: str) -> Tensor:
    """``value`` as a float64 tensor; integer input is converted, complex and non-numeric input refused.

    Raises:
        ValueError: naming the argument ``name`` and what was received.
    """
    tensor = _as_tensor(value, name)
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} must be real numbers, received dtype {tensor.dtype}")
    return tensor.to(torch.float64)


def labels(value: ArrayLike, num_classes: int, name: str = "labels") -> Tensor:
    """``value`` as int64 class labels in ``0 .. num_classes - 1``.

    Raises:
        ValueError: not integers, or a label outside the range (the first offender is named).
    """
    tensor = _as_tensor(value, name)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} must be integers in 0..{num_classes - 1}, received dtype {tensor.dtype}")
    tensor = tensor.to(torch.int64)
    wrong = (tensor < 0) | (tensor >= num_classes)
    if bool(wrong.any()):
        position = tuple(int(i) for i in wrong.nonzero()[0])
        raise ValueError(f"{name} must lie in 0..{num_classes - 1}, received {int(tensor[position])} at {position}")
    return tensor


def probability_rows(value: ArrayLike, name: str, tolerance: float = 1e-4, num_classes: int | None = None) -> Tensor:
    """``value`` as float64 rows of probabilities, shape ``(..., K)``.

    The rows are checked, not repaired: entries finite and non-negative, each row summing to 1 within ``tolerance``
    (1e-4 admits float32 and bfloat16-accumulated softmaxes, not percentages or logits).

    Raises:
        ValueError: naming the argument, the first offending row and what was received.
    """
    rows = float64(value, name)
    if rows.ndim == 0 or rows.shape[-1] < 1:
        raise ValueError(f"{name} must have shape (..., K) with K >= 1, received shape {tuple(rows.shape)}")
    if num_classes is not None and rows.shape[-1] != num_classes:
        raise ValueError(f"{name} must have {num_classes} columns, received shape {tuple(rows.shape)}")
    detached = rows.detach()
    total = detached.sum(-1)
    wrong = ~(detached.isfinite() & (detached >= 0)).all(-1) | ~((total - 1).abs() <= tolerance)
    if bool(wrong.any()):
        position = tuple(int(i) for i in wrong.nonzero()[0]) if wrong.ndim else ()
        where = f"row {position[0] if len(position) == 1 else position} " if position else ""
        row = detached[position]
        shown = ", ".join(f"{float(entry):.6g}" for entry in row[:8]) + (", ..." if len(row) > 8 else "")
        raise ValueError(
            f"{name} must be rows of probabilities (finite, >= 0, summing to 1 within {tolerance:g}); "
            f"{where}received [{shown}] with sum {float(row.sum()):.6g}"
        )
    return rows


def log_softmax(logits: Tensor) -> Tensor:
    """Log-softmax over the last axis, along whichever axis the memory runs.

    A row of few classes fills no vector register: where the logits are a transposed view, ``(..., B, K)`` over a
    memory of ``(..., K, B)`` as those of :class:`bcpd.nets.MLP` are, many rows go down the class axis at once.
    """
    return logits.mT.log_softmax(-2).mT if _class_major(logits) else logits.log_softmax(-1)


def softmax(logits: Tensor) -> Tensor:
    """Softmax over the last axis; see :func:`log_softmax`."""
    return logits.mT.softmax(-2).mT if _class_major(logits) else logits.softmax(-1)


def _class_major(logits: Tensor) -> bool:
    return logits.ndim > 1 and logits.stride(-1) != 1 and logits.stride(-2) == 1
