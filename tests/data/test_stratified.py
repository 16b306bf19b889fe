"""Stratified subsets keep every class's share."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bcpd.data import stratified_subset


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_counts_are_the_quota_rounded_by_largest_remainder(sizes: list[int], share: float, seed: int) -> None:
    y = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))  # sorted by class, as files may be
    total = len(y)
    count = max(1, round(share * total))
    chosen = stratified_subset(y, count, seed)
    assert chosen.dtype == torch.int64
    assert len(set(chosen.tolist())) == len(chosen) == count
    counts = y[chosen].bincount(minlength=len(sizes))
    rounded_up = [k for k, size in enumerate(sizes) if int(counts[k]) == count * size // total + 1]
    assert all(int(counts[k]) - count * size // total in (0, 1) for k, size in enumerate(sizes))
    remainders = [count * size % total for size in sizes]
    rest = [remainders[k] for k in range(len(sizes)) if k not in rounded_up]
    assert all(remainders[k] >= max(rest, default=0) for k in rounded_up)


def test_equal_classes_differ_by_at_most_one_where_a_slice_would_miss_classes() -> None:
    y = torch.arange(10).repeat_interleave(50)
    counts = y[stratified_subset(y, 123, seed=0)].bincount(minlength=10)
    assert int(counts.max() - counts.min()) == 1
    assert int((y[:123].bincount(minlength=10) == 0).sum()) == 7


def test_the_draw_is_seeded_and_in_random_order() -> None:
    y = torch.arange(4).repeat_interleave(100)
    chosen = stratified_subset(y, 200, seed=1)
    assert torch.equal(chosen, stratified_subset(y.numpy(), 200, seed=1))
    assert set(chosen.tolist()) != set(stratified_subset(y, 200, seed=2).tolist())
    assert not torch.equal(chosen, chosen.sort().values)
    assert len(y[chosen[:40]].unique()) == 4  # an order by class would show one; false alarm 4 * (3/4)^40 = 4e-5
    assert sorted(stratified_subset(y, 400, seed=3).tolist()) == list(range(400))


def test_members_and_ties_are_drawn_uniformly() -> None:
    y = torch.arange(3).repeat_interleave(4)
    hits = torch.zeros(12)
    for seed in range(1200):
        hits[stratified_subset(y, 4, seed)] += 1  # one a class, and the fourth from a random class
    # 400 expected of each member, binomial deviation sqrt(1200 / 3 * 2 / 3) = 16; 5 sigma, false alarm 12 * 6e-7
    assert float((hits - 400).abs().max()) < 5 * 16.4
    assert not torch.equal(hits, hits[0].expand(12))


@pytest.mark.parametrize("count", [0, -1, 13])
def test_a_count_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"count must lie in 1\.\.12, received {count}"):
        stratified_subset(torch.arange(12) % 3, count, seed=0)


@pytest.mark.parametrize("y", [np.zeros((3, 2), dtype=np.int64), np.array([0.5, 1.0])])
def test_labels_that_are_no_vector_of_integers_are_refused(y: np.ndarray) -> None:
    with pytest.raises(ValueError, match="y must be a vector of integers"):
        stratified_subset(y, 1, seed=0)
