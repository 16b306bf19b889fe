"""Nearest images by pixels, against all pairs one by one; planted copies; the search rules out most pairs."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bcpd.data.near_duplicates import NearDuplicates, near_duplicates
from bcpd.seeds import generator

module = sys.modules[near_duplicates.__module__]


def smooth_images(n: int, seed: int, side: int = 8) -> Tensor:
    """Random pictures whose neighbouring pixels agree, as in nature: coarse patterns plus noise."""
    draw = generator(seed, "pictures")
    coarse = torch.randn(n, 3, 2, 2, generator=draw)
    picture = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    noise = torch.randn(n, 3, side, side, generator=draw)
    return (128 + 50 * picture + 12 * noise).clamp(0, 255).to(torch.uint8)


def all_pairs(test: Tensor, train: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Distances ``(2, n, N)`` straight from the definition, plain and mirrored."""

    def normalised(images: Tensor) -> np.ndarray:
        pixels = images.flatten(1).numpy().astype(np.float64)
        centred = pixels - pixels.mean(1, keepdims=True)
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-300)

    known = normalised(train)
    views = (normalised(test), normalised(test.flip(-1)))
    return tuple(np.linalg.norm(view[:, None] - known, axis=2) for view in views)  # type: ignore[return-value]


def check(found: NearDuplicates, test: Tensor, train: Tensor, threshold: float) -> None:
    plain, mirrored = all_pairs(test, train)
    best = np.minimum(plain, mirrored).min(1)
    clear = np.abs(best - threshold) > 1e-6
    assert (found.found.numpy() == (best <= threshold))[clear].all()
    for i in np.flatnonzero(found.found.numpy()):
        view = (mirrored if found.mirrored[i] else plain)[i]
        assert float(found.distance[i]) == pytest.approx(best[i], abs=1e-6)
        assert view[found.nearest[i]] == pytest.approx(best[i], abs=1e-6)
    assert found.distance[~found.found].isinf().all()
    assert (found.nearest[~found.found] == -1).all()


@settings(max_examples=25)
@given(
    st.integers(1, 6), st.integers(1, 40), st.sampled_from([4, 6, 7, 8]), st.sampled_from([0.1, 0.4, 0.8, 2.0]),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_it_is_the_nearest_of_all_pairs(n: int, known: int, side: int, threshold: float, seed: int) -> None:
    test, train = smooth_images(n, seed, side), smooth_images(known, seed + 1, side)
    test[0] = train[-1].flip(-1)
    test[-1] = 7  # an image of one colour
    check(near_duplicates(test, train, threshold), test, train, threshold)


def test_planted_copies_are_found_whatever_was_done_to_them() -> None:
    train, test = smooth_images(300, 0), smooth_images(8, 1)
    train[200] = train[100]
    test[0] = train[5]
    test[1] = train[6].flip(-1)
    test[2] = (0.5 * train[7].float() + 20).to(torch.uint8)  # darker, and of less contrast
    test[3] = train[100]  # which is there twice: the first counts
    test[4] = train[8] ^ 3  # its two lowest bits inverted
    test[5] = train[9].roll(3, -1)  # shifted: another picture to this distance
    found = near_duplicates(test, train, 0.3)
    assert found.nearest[:5].tolist() == [5, 6, 7, 100, 8]
    assert found.mirrored[:5].tolist() == [False, True, False, False, False]
    assert found.distance[[0, 1, 3]].tolist() == [0.0, 0.0, 0.0]
    assert 0 < float(found.distance[2]) < 0.05
    assert int(found.nearest[5]) != 9
    assert near_duplicates(test[:5], train, 0.0).found.tolist() == [True, True, False, True, False]


def test_the_bound_rules_out_most_pairs_and_none_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    test, train = smooth_images(40, 2), smooth_images(500, 3)
    test[:3] = train[:3]
    exact, compared = module._squared_distance, []

    def counted(a: Tensor, b: Tensor) -> Tensor:
        compared.append(len(a))
        return exact(a, b)

    monkeypatch.setattr(module, "_squared_distance", counted)
    check(near_duplicates(test, train, 0.1), test, train, 0.1)
    assert sum(compared) < 0.02 * 2 * 40 * 500


def test_blocks_change_nothing_and_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    test, train = smooth_images(23, 4), smooth_images(60, 5)
    whole = near_duplicates(test, train, 2.0)
    for name, size in (("_QUERIES", 5), ("_PAIRS", 7), ("_IMAGES", 11)):
        monkeypatch.setattr(module, name, size)
    told: list[tuple[int, int]] = []
    blocks = near_duplicates(test, train, 2.0, progress=lambda done, total: told.append((done, total)))
    assert all(torch.equal(a, b) for a, b in zip(whole, blocks, strict=True))
    assert told == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]


IMAGES = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGES.float(), IMAGES, 0.1), r"test must be .* \(N, C, H, W\) uint8.* received Tensor of torch.float32"),
        ((IMAGES, IMAGES[0], 0.1), r"train must .* received Tensor of torch.uint8 \(3, 4, 4\)"),
        ((IMAGES[:0], IMAGES, 0.1), r"test must .* of torch.uint8 \(0, 3, 4, 4\)"),
        ((IMAGES.numpy(), IMAGES, 0.1), "test must be a tensor .* received ndarray of uint8"),
        ((IMAGES, IMAGES[:, :, :2], 0.1), r"one shape, received \(2, 3, 4, 4\) and \(2, 3, 2, 4\)"),
        ((IMAGES, IMAGES, 2.5), r"threshold must lie in \[0, 2\], received 2\.5"),
    ],
)
def test_errors_say_what_was_received(arguments: tuple[Any, Any, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        near_duplicates(*arguments)
