"""Numbers wide enough to compute a loss in, and directions that no division spoils."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeGuard, cast

import torch
from torch import Tensor

__all__ = ["full_precision", "unit"]

P = ParamSpec("P")


def full_precision(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """``function`` in the widest floating-point type of its tensors, float32 at least, autocast or not.

    Raises:
        ValueError: called with no floating-point tensor.
    """

    @functools.wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        floating = [value for value in (*args, *kwargs.values()) if _floating(value)]
        if not floating:
            raise ValueError(f"{function.__name__} needs floating-point tensors, received none")
        wide = functools.reduce(torch.promote_types, (value.dtype for value in floating), torch.float32)

        def widened(value: Any) -> Any:
            return value.to(wide) if _floating(value) else value

        with torch.autocast(floating[0].device.type, enabled=False):
            named = {name: widened(value) for name, value in kwargs.items()}
            return cast(Tensor, cast(Any, function)(*map(widened, args), **named))

    return computed


def unit(vectors: Tensor) -> Tensor:
    r""":math:`v / \|v\|_2` over the last axis; a vector of zeros stays as it is, with a finite gradient.

    Each is divided by its largest entry first (the result does not depend on it), so that no square leaves the range
    of the type.
    """
    largest = vectors.detach().abs().amax(-1, keepdim=True)
    vectors = vectors / torch.where(largest > 0, largest, 1.0)
    square = vectors.square().sum(-1, keepdim=True)
    return vectors * torch.where(square > 0, square, 1.0).rsqrt()


def _floating(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_floating_point()
