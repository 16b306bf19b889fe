"""Augmentations against slow references, and the distribution of the views."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from bcpd.data.augment import (
    AUGMENTATIONS,
    CENTRE_VIEW,
    NUM_VIEWS,
    PADDING,
    crop_flip,
    cyclic_shift,
    flip,
    num_views,
    view_numbers,
)
from bcpd.seeds import derive

FALSE_ALARM = 1e-4  # of each chi-square test below; seeds are fixed, so a pass stays a pass


def reference(image: np.ndarray, view: int) -> np.ndarray:
    """One image as torchvision's Pad, crop and hflip would leave it: pad, slice, mirror."""
    offset, flip = divmod(view, 2)
    dy, dx = divmod(offset, 9)
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))
    window = padded[:, dy : dy + height, dx : dx + width]
    return window[:, :, ::-1] if flip else window


def uniformity(counts: torch.Tensor) -> float:
    return float(chisquare(counts.numpy()).pvalue)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (2, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_every_view_equals_pad_slice_flip(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    images = torch.randint(1, 256, (NUM_VIEWS, *shape), generator=torch.Generator().manual_seed(0)).to(dtype)
    shown = crop_flip(images, torch.arange(NUM_VIEWS))
    assert shown.dtype == dtype
    for view in range(NUM_VIEWS):
        np.testing.assert_array_equal(shown[view].numpy(), reference(images[view].numpy(), view))


def test_centre_view_is_the_image_and_its_successor_the_mirror_image() -> None:
    images = torch.randint(1, 256, (2, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shown = crop_flip(images, torch.tensor([CENTRE_VIEW, CENTRE_VIEW + 1]))
    assert torch.equal(shown[0], images[0])
    assert torch.equal(shown[1], images[1].flip(-1))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (2, 5, 7), (1, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
def test_every_cyclic_shift_is_a_roll_of_the_image(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    count = shape[1] * shape[2]
    assert num_views("cyclic-shift", shape) == count
    images = torch.randint(1, 256, (count, *shape), generator=torch.Generator().manual_seed(0)).to(dtype)
    shown = cyclic_shift(images, torch.arange(count))
    assert shown.dtype == dtype
    for view in range(count):
        assert torch.equal(shown[view], images[view].roll((view // shape[2], view % shape[2]), (-2, -1))), view
    # what leaves comes back: the shifts of an image are a group, and the opposite view undoes a view
    back = [(-(view // shape[2]) % shape[1]) * shape[2] + -(view % shape[2]) % shape[2] for view in range(count)]
    assert torch.equal(cyclic_shift(shown, torch.tensor(back)), images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_flip_mirrors_left_to_right_where_it_is_asked_for(dtype: torch.dtype) -> None:
    images = torch.randint(1, 256, (4, 2, 5, 7), generator=torch.Generator().manual_seed(0)).to(dtype)
    shown = flip(images, torch.tensor([1, 0, 0, 1]))
    assert shown.dtype == dtype
    for view, image, before in zip([1, 0, 0, 1], shown.numpy(), images.numpy(), strict=True):
        np.testing.assert_array_equal(image, before[:, :, ::-1] if view else before)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_leading_axes_are_carried_and_the_input_is_left_alone(name: str) -> None:
    augmented = AUGMENTATIONS[name]
    images = torch.randint(1, 256, (2, 5, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    views = torch.arange(10).reshape(2, 5) * 15 % num_views(name, (3, 6, 6))
    shown = augmented(images, views)
    assert torch.equal(shown.flatten(0, 1), augmented(images.flatten(0, 1), views.flatten()))
    assert torch.equal(augmented(images[0, 3], views[0, 3]), shown[0, 3])
    assert torch.equal(images, before)
    assert not torch.equal(shown, before)
    # any memory format of the input, and no memory shared with it
    strided = images.flatten(0, 1).to(memory_format=torch.channels_last)
    assert torch.equal(augmented(strided, views.flatten()), shown.flatten(0, 1))
    shown.zero_()
    assert torch.equal(images, before)


def test_all_views_are_reached_equally_often() -> None:
    counts = view_numbers(0, 0, torch.arange(500 * NUM_VIEWS)).bincount(minlength=NUM_VIEWS)
    assert len(counts) == NUM_VIEWS
    assert uniformity(counts) > FALSE_ALARM
    # the same test rejects eight hash bits folded by a remainder, which favours the low views
    folded = (torch.arange(500 * NUM_VIEWS) * 2654435761 % 256 % NUM_VIEWS).bincount(minlength=NUM_VIEWS)
    assert uniformity(folded) < FALSE_ALARM


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"), [("cyclic-shift", (1, 8, 8)), ("cyclic-shift", (3, 5, 7)), ("flip", (1, 4, 4))]
)
def test_the_views_of_every_augmentation_are_reached_equally_often(name: str, shape: tuple[int, ...]) -> None:
    count = num_views(name, shape)
    views = view_numbers(0, 0, torch.arange(500 * count), count)
    assert uniformity(views.bincount(minlength=count)) > FALSE_ALARM
    later = view_numbers(0, 1, torch.arange(500 * count), count)
    if count < 40:
        assert uniformity((views * count + later).bincount(minlength=count**2)) > FALSE_ALARM
    assert not torch.equal(views, later)


@pytest.mark.slow
def test_one_image_over_epochs_and_over_seeds_sees_all_views_equally_often() -> None:
    index = torch.tensor([17])
    over_epochs = torch.cat([view_numbers(0, epoch, index) for epoch in range(40 * NUM_VIEWS)])
    over_seeds = torch.cat([view_numbers(seed, 3, index) for seed in range(40 * NUM_VIEWS)])
    assert uniformity(over_epochs.bincount(minlength=NUM_VIEWS)) > FALSE_ALARM
    assert uniformity(over_seeds.bincount(minlength=NUM_VIEWS)) > FALSE_ALARM


@pytest.mark.parametrize("neighbour", ["index", "epoch", "seed", "stride"])
def test_neighbouring_coordinates_draw_independent_views(neighbour: str) -> None:
    index = torch.arange(200_000)
    first = view_numbers(0, 7, index)
    second = {
        "index": lambda: view_numbers(0, 7, index + 1),
        "epoch": lambda: view_numbers(0, 8, index),
        "seed": lambda: view_numbers(1, 7, index),
        "stride": lambda: view_numbers(0, 7, index + 65_536),
    }[neighbour]()
    pairs = (first // 2 % 9 * 2 + first % 2) * 18 + second // 2 % 9 * 2 + second % 2  # (dx, flip) twice: 324 cells
    assert uniformity(pairs.bincount(minlength=324)) > FALSE_ALARM
    rows = first // 18 * 9 + second // 18  # (dy, dy): 81 cells
    assert uniformity(rows.bincount(minlength=81)) > FALSE_ALARM


def test_a_view_depends_on_its_own_coordinates_only() -> None:
    index = torch.arange(1000)
    views = view_numbers(5, 2, index)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(view_numbers(5, 2, order), views[order])
    assert torch.equal(view_numbers(5, 2, order.reshape(8, 125)), views[order].reshape(8, 125))
    assert int(view_numbers(5, 2, torch.tensor([421]))) == int(views[421])
    for other in (view_numbers(6, 2, index), view_numbers(5, 3, index), view_numbers(5, 2, index + (1 << 32))):
        assert float((other == views).double().mean()) < 0.05  # 1/162 expected; 0.05 is 17 sigma away


def test_views_equal_the_hash_in_exact_integers() -> None:
    def mix(word: int) -> int:
        word = ((word ^ (word >> 16)) * 0x21F0AAAD) % 2**32
        word = ((word ^ (word >> 15)) * 0x735A2D97) % 2**32
        return word ^ (word >> 15)

    index = [0, 1, 49_999, 2**31 - 1, 2**32 - 1, 2**32, 2**40 + 3, 2**62]
    key = derive(11, "augment", 4)
    expected = [mix(mix(mix(i % 2**32 ^ key % 2**32) ^ i >> 32) ^ key >> 32) * 162 // 2**32 for i in index]
    assert view_numbers(11, 4, torch.tensor(index)).tolist() == expected


def test_several_seeds_give_each_row_its_own_views() -> None:
    index = torch.arange(60).reshape(3, 20)
    views = view_numbers([4, 9, 4], 1, index)
    assert torch.equal(views[0], view_numbers(4, 1, index[0]))
    assert torch.equal(views[1], view_numbers(9, 1, index[1]))
    assert not torch.equal(view_numbers([4, 9, 4], 1, index[:1].expand(3, -1))[0], view_numbers(9, 1, index[0]))


def test_refusals() -> None:
    images, views = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="epoch must be >= 0, received -1"):
        view_numbers(0, -1, views)
    with pytest.raises(ValueError, match=r"index must be int64, received dtype torch\.int32"):
        view_numbers(0, 0, views.int())
    with pytest.raises(ValueError, match=r"2 seeds need an index of shape \(2, \.\.\.\), received \(3, 2\)"):
        view_numbers([0, 1], 0, torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"must match, received \(2, 3, 8, 8\) and \(3,\)"):
        crop_flip(images, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="views must be int64"):
        crop_flip(images, views.float())
    with pytest.raises(ValueError, match=r"views must lie in 1\.\.2147483647, received 0"):
        view_numbers(0, 0, views, 0)
    with pytest.raises(
        ValueError, match=r"augment must be one of \('crop-flip', 'cyclic-shift', 'flip'\), received 'x'"
    ):
        num_views("x", (1, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"flip needs images of shape \(C, H, W\), received \(8,\)"):
        num_views("flip", (8,))
    with pytest.raises(ValueError, match=r"views must lie in 0\.\.63, received values in 0\.\.64"):
        cyclic_shift(images, torch.tensor([0, 64]))
    with pytest.raises(ValueError, match=r"views must lie in 0\.\.1, received values in 0\.\.2"):
        flip(images, torch.tensor([0, 2]))
    for wrong in (-1, NUM_VIEWS):
        with pytest.raises(ValueError, match=rf"views must lie in 0\.\.161, received values in .*{wrong}"):
            crop_flip(images, torch.tensor([5, wrong]))


@pytest.mark.gpu
def test_views_and_pixels_are_the_same_on_the_gpu() -> None:
    index = torch.arange(100_000)
    views = view_numbers(3, 1, index)
    assert torch.equal(view_numbers(3, 1, index.cuda()).cpu(), views)
    images = torch.randint(0, 256, (512, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name, augmented in AUGMENTATIONS.items():
        shown = views[:512] % num_views(name, (3, 32, 32))
        assert torch.equal(augmented(images.cuda(), shown.cuda()).cpu(), augmented(images, shown)), name
