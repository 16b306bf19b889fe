"""The real data set that needs no download: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""

from __future__ import annotations

from typing import Literal

import torch

from bcpd.data.images import Images
from bcpd.data.stratified import stratified_subset

__all__ = ["digits"]

_TEST_SIZE = 360
_GREY_STEP = 15  # 16 levels above black: 0, 15, ..., 240, exact in uint8


def digits(split: Literal["train", "test"]) -> Images:
    """The UCI optical digits as shipped with scikit-learn (Alpaydin & Kaynak 1998), in a fixed stratified split.

    1,437 train and 360 test images, in file order. Pixels 0..16 are held as uint8 in steps of 15.

    Returns:
        :class:`Images` with x ``(N, 1, 8, 8)``.
    Raises:
        ValueError: another split.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be one of ['test', 'train'], received {split!r}")
    from sklearn.datasets import load_digits  # here, since it takes seconds to import

    bunch = load_digits()
    x = torch.from_numpy(bunch.images * _GREY_STEP).to(torch.uint8)[:, None]
    y = torch.from_numpy(bunch.target).to(torch.int64)
    in_test = torch.zeros(len(y), dtype=torch.bool)
    in_test[stratified_subset(y, _TEST_SIZE, seed=0)] = True
    chosen = in_test if split == "test" else ~in_test
    return Images(x=x[chosen], y=y[chosen], num_classes=10, class_names=tuple("0123456789"))
