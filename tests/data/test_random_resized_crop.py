"""Random resized crops: their rectangles, their law, and what they depend on."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from bcpd.data.random_resized_crop import NUM_UNIFORMS, TRIES, RandomResizedCrop, crop_uniforms

CROP = RandomResizedCrop()
Array = np.ndarray


def uniforms(area: float = 0.5, shape: float = 0.5, across: float = 0.5, down: float = 0.5) -> list[float]:
    """Every try draws the same area and shape."""
    return [area, shape] * TRIES + [across, down, 0.5]


def test_a_rectangle_by_hand() -> None:
    # a = 0.54, r = 1: sqrt(5400) = 73.48; 28 x 28 places
    assert CROP.rectangle(uniforms(), 100, 100) == (14, 14, 73, 73)
    # r = 4/3 and a = 0.08: sqrt(0.08 * 4/3 * 30000) = 56.57, sqrt(0.08 * 3/4 * 30000) = 42.43
    assert CROP.rectangle(uniforms(area=0.0, shape=1.0, across=0.0, down=1 - 1e-9), 200, 150) == (0, 108, 57, 42)


def test_a_try_that_does_not_fit_gives_way_to_the_next() -> None:
    drawn = uniforms(area=1.0, shape=0.0)  # sqrt(0.75) by sqrt(1.33) times the side: too high
    assert CROP.rectangle(drawn, 100, 100) == (0, 0, 100, 100)
    drawn[6:8] = [0.0, 0.5]
    assert CROP.rectangle(drawn, 100, 100) == (36, 36, 28, 28)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1000, 50, (466, 0, 67, 50)),
        (50, 1000, (0, 466, 50, 67)),
        (1, 500, (0, 249, 1, 1)),
        (1, 1, (0, 0, 1, 1)),
    ],
)
def test_where_nothing_fits_the_rectangle_is_the_largest_centred_one(
    width: int, height: int, expected: tuple[int, ...]
) -> None:
    drawn = crop_uniforms(0, 0, torch.arange(20)).tolist()
    assert {CROP.rectangle(row, width, height) for row in drawn} == {expected}


@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    seed=st.integers(0, 10**7),
    low=st.floats(0.01, 1.0),
    wide=st.floats(1.0, 3.0),
)
def test_rectangles_are_parts_of_the_image(width: int, height: int, seed: int, low: float, wide: float) -> None:
    drawn = np.random.default_rng(seed).random(NUM_UNIFORMS).tolist()
    left, top, w, h = RandomResizedCrop((low, 1.0), (1 / wide, wide)).rectangle(drawn, width, height)
    assert 0 <= left <= left + w <= width
    assert 0 <= top <= top + h <= height
    assert w >= 1
    assert h >= 1


def test_numbers_depend_on_seed_epoch_and_index_only() -> None:
    index = torch.tensor([5, 0, 123_456_789, 2**40])
    drawn = crop_uniforms(3, 7, index)
    assert (drawn.dtype, drawn.shape) == (torch.float64, (4, NUM_UNIFORMS))
    assert 0 < float(drawn.min()) < float(drawn.max()) < 1
    for place, position in enumerate(index):
        assert torch.equal(crop_uniforms(3, 7, position[None])[0], drawn[place])
    assert not bool((crop_uniforms(3, 8, index) == drawn).any())
    assert not bool((crop_uniforms(4, 7, index) == drawn).any())
    both = crop_uniforms([3, 4], 7, torch.stack([index, index]))
    assert torch.equal(both[0], drawn)
    assert torch.equal(both[1], crop_uniforms(4, 7, index))


@pytest.mark.parametrize(
    ("scale", "ratio"),
    [((0.0, 1.0), (1.0, 1.0)), ((0.5, 0.4), (1.0, 1.0)), ((0.5, 1.1), (1.0, 1.0)), ((0.1, 1.0), (2.0, 1.0))],
)
def test_ranges_that_no_crop_has_are_refused(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"increasing pair.*received"):
        RandomResizedCrop(scale, ratio)


@pytest.mark.parametrize("bad", [(-1, torch.arange(3)), (0, torch.arange(3.0))])
def test_coordinates_that_are_none_are_refused(bad: tuple[int, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"(epoch|index) must be"):
        crop_uniforms(0, *bad)
    with pytest.raises(ValueError, match=r"2 seeds need an index of shape \(2, ...\), received \(3,\)"):
        crop_uniforms([0, 1], 0, torch.arange(3))


# ---------------------------------------------------------------------------------------------------------------- law

DRAWN = 20_000
ALARM = 1e-5
"""Of one Kolmogorov-Smirnov test; some 60 are made here, so a right version fails with probability below 1e-3."""


def shown(crop: Callable[[list[float], int, int], tuple[int, ...]], width: int, height: int, seed: int = 0) -> Array:
    """Rectangles ``(DRAWN, 4)`` of one image at as many positions."""
    drawn = crop_uniforms(seed, 0, torch.arange(DRAWN)).tolist()
    return np.array([crop(row, width, height) for row in drawn])


def simulated(width: int, height: int, seed: int) -> Array:
    """The definition, drawn by NumPy's generator for all images at once, a try after the other."""
    rng = np.random.default_rng(seed)
    w, h = np.zeros(DRAWN, int), np.zeros(DRAWN, int)
    open_ = np.ones(DRAWN, bool)
    for _ in range(10):
        area = rng.uniform(0.08, 1, DRAWN) * width * height
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), DRAWN))
        tried_w, tried_h = np.rint(np.sqrt(area * ratio)).astype(int), np.rint(np.sqrt(area / ratio)).astype(int)
        fits = open_ & (tried_w <= width) & (tried_h <= height)
        w[fits], h[fits] = tried_w[fits], tried_h[fits]
        open_ &= ~fits
    left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    if width / height > 4 / 3:
        last = (round(height * 4 / 3), height)
    elif width / height < 3 / 4:
        last = (width, round(width * 4 / 3))
    else:
        last = (width, height)
    w[open_], h[open_] = last
    left[open_], top[open_] = (width - last[0]) // 2, (height - last[1]) // 2
    return np.stack([left, top, w, h], -1)


def quantities(rectangles: Array) -> dict[str, Array]:
    left, top, w, h = rectangles.T.astype(float)
    return {"area": w * h, "ratio": w / h, "left": left, "top": top, "width": w, "centre": left + w / 2}


def smallest_p(rectangles: Array, width: int, height: int) -> float:
    """Of two-sample tests of every quantity against the simulation."""
    ours, theirs = quantities(rectangles), quantities(simulated(width, height, seed=1))
    return min(float(stats.ks_2samp(ours[name], theirs[name]).pvalue) for name in ours)


SIZES = [(500, 375), (375, 500), (640, 240), (130, 500), (224, 224)]


@pytest.mark.statistical
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_rectangles_have_the_law_of_the_definition(width: int, height: int) -> None:
    assert smallest_p(shown(CROP.rectangle, width, height), width, height) > ALARM


def clipped(drawn: list[float], width: int, height: int) -> tuple[int, ...]:
    """Wrong: what does not fit is cut to size."""
    area = width * height * (0.08 + 0.92 * drawn[0])
    ratio = math.exp(math.log(3 / 4) + drawn[1] * math.log(16 / 9))
    w, h = min(width, round(math.sqrt(area * ratio))), min(height, round(math.sqrt(area / ratio)))
    return int(drawn[-3] * (width - w + 1)), int(drawn[-2] * (height - h + 1)), w, h


def even_ratio(drawn: list[float], width: int, height: int) -> tuple[int, ...]:
    """Wrong: the ratio is uniform, and not its logarithm."""
    even = [
        math.log(4 / 3 * (3 / 4 + u * (4 / 3 - 3 / 4))) / math.log(16 / 9) if place % 2 and place < 2 * TRIES else u
        for place, u in enumerate(drawn)
    ]
    return CROP.rectangle(even, width, height)


def even_side(drawn: list[float], width: int, height: int) -> tuple[int, ...]:
    """Wrong: the square root of the area is uniform, and not the area."""
    low = math.sqrt(0.08)
    even = [
        ((low + u * (1 - low)) ** 2 - 0.08) / 0.92 if place % 2 == 0 and place < 2 * TRIES else u
        for place, u in enumerate(drawn)
    ]
    return CROP.rectangle(even, width, height)


@pytest.mark.statistical
@pytest.mark.parametrize("wrong", [clipped, even_ratio, even_side])
def test_the_tests_reject_another_law(wrong: Callable[[list[float], int, int], tuple[int, ...]]) -> None:
    assert smallest_p(shown(wrong, 500, 375), 500, 375) < ALARM


@pytest.mark.statistical
def test_area_and_log_ratio_are_uniform_where_every_crop_fits() -> None:
    # at most half the area and 4 : 3: the first try fits a square; 4000 pixels make the rounding too small to see
    side, crop = 4000, RandomResizedCrop((0.08, 0.5))
    found = quantities(shown(crop.rectangle, side, side))
    log_ratio = stats.uniform(math.log(3 / 4), math.log(16 / 9)).cdf
    assert stats.kstest(found["area"] / side**2, stats.uniform(0.08, 0.42).cdf).pvalue > ALARM
    assert stats.kstest(np.log(found["ratio"]), log_ratio).pvalue > ALARM
    assert abs(stats.spearmanr(found["area"], found["ratio"]).statistic) < 4.5 / math.sqrt(DRAWN)
    wrong = quantities(shown(even_ratio, side, side))
    assert stats.kstest(np.log(wrong["ratio"]), log_ratio).pvalue < ALARM


@pytest.mark.statistical
def test_every_place_is_equally_likely() -> None:
    # a = 1/4, r = 1: 5 x 5 of 10 x 10 pixels, in 6 x 6 places
    crop = RandomResizedCrop((0.25, 0.25), (1.0, 1.0))
    rectangles = shown(crop.rectangle, 10, 10)
    assert set(map(tuple, rectangles[:, 2:])) == {(5, 5)}

    def p(places: Array) -> float:
        return float(stats.chisquare(np.bincount(places, minlength=36)).pvalue)

    assert p(rectangles[:, 0] * 6 + rectangles[:, 1]) > ALARM
    assert p(np.minimum(rectangles[:, 0], 4) * 6 + rectangles[:, 1]) < ALARM
    drawn = crop_uniforms(0, 0, torch.arange(DRAWN))
    diagonal = [crop.rectangle([*row[:-2], row[-3], row[-1]], 10, 10) for row in drawn.tolist()]
    assert p(np.array([left * 6 + top for left, top, _, _ in diagonal])) < ALARM


@pytest.mark.statistical
def test_numbers_are_uniform_and_uncorrelated() -> None:
    index = torch.arange(DRAWN)
    drawn = crop_uniforms(0, 0, index).numpy()
    assert min(stats.kstest(column, "uniform").pvalue for column in drawn.T) > ALARM

    def largest(columns: Array) -> float:
        correlation = np.corrcoef(columns.T)
        return float(np.abs(correlation[~np.eye(len(correlation), dtype=bool)]).max() * math.sqrt(DRAWN))

    # 2346 pairs of the three epochs' numbers, each beyond 6 with probability 2e-9
    epochs = [crop_uniforms(0, epoch, index).numpy() for epoch in range(3)]
    assert largest(np.concatenate(epochs, 1)) < 6
    assert largest(np.concatenate([drawn[1:], drawn[:-1]], 1)) < 6
    assert largest(np.concatenate([drawn, crop_uniforms(1, 0, index).numpy()], 1)) < 6
    assert largest(np.concatenate([drawn, drawn[:, :1] + drawn], 1)) > 6
