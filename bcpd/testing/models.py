"""Strategies for networks and losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from hypothesis import strategies as st

from bcpd.losses import LOSSES, Loss
from bcpd.nets import Net, build

__all__ = ["losses", "nets"]

_SEEDS = st.integers(0, 2**32 - 1)
_HIDDEN: dict[str, int] = {"linear": 0, "mlp1": 1, "mlp2": 2}


@st.composite
def nets(
    draw: st.DrawFn, num_classes: int, input_shape: Sequence[int], kinds: Sequence[str] = ("linear", "mlp1", "mlp2")
) -> Net:
    """Random networks in float64: a linear softmax, or one or two hidden layers of 1 to 16 tanh units.

    Args:
        num_classes: K >= 2; input_shape: of one x.
        kinds: among ``linear``, ``mlp1`` and ``mlp2``.

    >>> import torch
    >>> from hypothesis import given
    >>> @given(nets(3, (2,)))
    ... def test_logits_are_finite(net):
    ...     assert net(torch.zeros(5, 2, dtype=torch.float64)).logits.isfinite().all()
    >>> test_logits_are_finite()
    """
    unknown = [kind for kind in kinds if kind not in _HIDDEN]
    if unknown:
        raise ValueError(f"kinds must be among {list(_HIDDEN)}, received {list(kinds)}")
    layers = _HIDDEN[draw(st.sampled_from(list(kinds)))]
    width = draw(st.integers(1, 16)) if layers else 1
    options: dict[str, Any] = {"hidden": (width,) * layers, "activation": "tanh"}
    seed = draw(_SEEDS)
    return build("mlp", num_classes=num_classes, input_shape=tuple(input_shape), seed=seed, **options).double()


def losses(which: Literal["all", "proper", "improper"] = "all") -> st.SearchStrategy[Loss]:
    """The named losses of :data:`bcpd.losses.LOSSES`, those that are strictly proper, or those that are not.

    Raises:
        ValueError: another word.

    >>> from hypothesis import given
    >>> from bcpd.testing import simplex_rows
    >>> @given(losses("proper"), simplex_rows())
    ... def test_the_minimiser_is_the_truth(loss, p):
    ...     assert (loss.minimiser(p) - p).abs().max() < 1e-12
    >>> test_the_minimiser_is_the_truth()
    """
    if which not in ("all", "proper", "improper"):
        raise ValueError(f"which must be 'all', 'proper' or 'improper', received {which!r}")
    return st.sampled_from([loss for loss in LOSSES.values() if which == "all" or loss.proper == (which == "proper")])
