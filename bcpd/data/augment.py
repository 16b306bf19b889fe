"""Augmentation of a whole batch of images, each image's view a pure function of (seed, epoch, index).

An augmentation has a finite number of views an image, which are numbered, so that teacher logits can be tabulated by
(index, view):

======================  ===================================  ==========================================================
augmentation            view                                 shown
======================  ===================================  ==========================================================
``crop-flip``           ``(dy * 9 + dx) * 2 + flip``         padded by four black pixels on each side; the window of
                        (162 views)                          the original size that starts at row ``dy`` and column
                                                             ``dx``, both in 0..8; mirrored where ``flip`` is 1
``cyclic-shift``        ``dy * W + dx`` (H W views)          rolled down by ``dy`` rows and right by ``dx`` columns
``flip``                0 or 1                               as it is, or mirrored left to right
======================  ===================================  ==========================================================

View 0 of the last two, and ``CENTRE_VIEW`` of ``crop-flip``, is the image itself. Cyclic shifts and flips permute the
pixels: p* is the same at all views of an image where no class's law changes under them. A crop loses pixels and adds
black ones: the shown image has another law, and P(y | shown) is another function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from bcpd.seeds import derive

__all__ = [
    "AUGMENTATIONS",
    "CENTRE_VIEW",
    "NUM_VIEWS",
    "PADDING",
    "Augmentation",
    "crop_flip",
    "cyclic_shift",
    "flip",
    "num_views",
    "view_numbers",
]

Augmentation = Literal["crop-flip", "cyclic-shift", "flip"]

PADDING = 4
_OFFSETS = 2 * PADDING + 1
NUM_VIEWS = _OFFSETS * _OFFSETS * 2
"""Of ``crop-flip``; :func:`num_views` has the others."""
CENTRE_VIEW = (PADDING * _OFFSETS + PADDING) * 2

_WORD = 0xFFFF_FFFF


def num_views(augment: Augmentation, shape: Sequence[int]) -> int:
    """How many views an image of shape (C, H, W) has.

    Raises:
        ValueError: an unknown augmentation, or a shape that is no image's.
    """
    if augment not in AUGMENTATIONS:
        raise ValueError(f"augment must be one of {tuple(AUGMENTATIONS)}, received {augment!r}")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{augment} needs images of shape (C, H, W), received {tuple(shape)}")
    return {"crop-flip": NUM_VIEWS, "cyclic-shift": shape[1] * shape[2], "flip": 2}[augment]


def _mix(word: Tensor) -> Tensor:
    """A bijection of 32-bit words held in int64 in which every input bit moves every output bit.

    Xor-shift-multiply with two odd multipliers below 2^31, so that no product of a 32-bit word overflows int64 and
    the result is the same on every device.
    """
    word = ((word ^ (word >> 16)) * 0x21F0_AAAD) & _WORD
    word = ((word ^ (word >> 15)) * 0x735A_2D97) & _WORD
    return word ^ (word >> 15)


def view_numbers(seed: int | Sequence[int], epoch: int, index: Tensor, views: int = NUM_VIEWS) -> Tensor:
    """The view that each image shows in an epoch, ``0 .. views - 1``: a counter-based hash of its coordinates.

    It depends on nothing else: not on the batch an image is in, its place there, the device or the process. Over
    images and epochs the views are uniform and independent (as far as a hash is); those of ``crop-flip`` are what
    ``RandomCrop(32, padding=4)`` followed by ``RandomHorizontalFlip()`` draws.

    Args:
        seed: root seed of the run; or R of them for ``index`` of shape ``(R, ...)``, one a replica.
        epoch: >= 0.
        index: the images' positions in their source, int64 >= 0, any shape.
        views: how many there are, :func:`num_views`; at most 2^31 - 1.
    Returns:
        int64 of ``index``'s shape, on its device.
    Raises:
        ValueError: a negative epoch, no views or too many, an index that is not int64, or a number of seeds that is
            not R.
    """
    if epoch < 0:
        raise ValueError(f"epoch must be >= 0, received {epoch}")
    if not 1 <= views < 2**31:
        raise ValueError(f"views must lie in 1..{2**31 - 1}, received {views}")
    if index.dtype != torch.int64:
        raise ValueError(f"index must be int64, received dtype {index.dtype}")
    low: int | Tensor
    high: int | Tensor
    if isinstance(seed, Sequence):
        if index.ndim < 1 or index.shape[0] != len(seed):
            raise ValueError(
                f"{len(seed)} seeds need an index of shape ({len(seed)}, ...), received {tuple(index.shape)}"
            )
        shape = (len(seed),) + (1,) * (index.ndim - 1)
        key = torch.tensor([derive(s, "augment", epoch) for s in seed], device=index.device).reshape(shape)
        low, high = key & _WORD, key >> 32
    else:
        one_key = derive(seed, "augment", epoch)
        low, high = one_key & _WORD, one_key >> 32
    word = _mix((index & _WORD) ^ low)
    word = _mix(word ^ (index >> 32))
    word = _mix(word ^ high)
    return (word * views) >> 32


def crop_flip(images: Tensor, views: Tensor) -> Tensor:
    """Each image as its view shows it: padded with zeros by 4, cropped back to its size, perhaps mirrored.

    Zero is black: call it before normalisation, as ``RandomCrop(padding=4)`` pads the picture and not the input of the
    network.

    Args:
        images: ``(..., C, H, W)`` of any dtype.
        views: ``(...)`` int64 in ``0 .. 161``, the numbering of this module.
    Returns:
        a new tensor of ``images``' shape, dtype and device.
    Raises:
        ValueError: shapes that do not match, or views that are not int64 (their range is checked on the CPU only:
            elsewhere it would wait for the device).
    """
    view = _checked("crop-flip", images, views)
    width = images.shape[-1]
    column, row = _grid(images)
    offset = view // 2
    column = torch.where((view % 2).bool(), width - 1 - column, column) + offset % _OFFSETS
    padded = functional.pad(images.reshape(-1, *images.shape[-3:]), (PADDING,) * 4)
    return _gathered(padded, (row + offset // _OFFSETS) * (width + 2 * PADDING) + column, images.shape)


def cyclic_shift(images: Tensor, views: Tensor) -> Tensor:
    """Each image as its view shows it: rolled down by ``view // W`` rows and right by ``view % W`` columns.

    As :func:`torch.roll` of the last two axes: what leaves on one side comes in on the other.

    Args:
        images: ``(..., C, H, W)`` of any dtype.
        views: ``(...)`` int64 in ``0 .. H W - 1``.
    Returns:
        a new tensor of ``images``' shape, dtype and device.
    Raises:
        ValueError: as :func:`crop_flip` does.
    """
    view = _checked("cyclic-shift", images, views)
    height, width = images.shape[-2:]
    column, row = _grid(images)
    column, row = (column - view % width) % width, (row - view // width) % height
    return _gathered(images.reshape(-1, *images.shape[-3:]), row * width + column, images.shape)


def flip(images: Tensor, views: Tensor) -> Tensor:
    """Each image as its view shows it: view 0 as it is, view 1 mirrored left to right.

    Args:
        images: ``(..., C, H, W)`` of any dtype.
        views: ``(...)`` int64, 0 or 1.
    Returns:
        a new tensor of ``images``' shape, dtype and device.
    Raises:
        ValueError: as :func:`crop_flip` does.
    """
    _checked("flip", images, views)
    return torch.where(views.bool()[..., None, None, None], images.flip(-1), images)


AUGMENTATIONS: dict[Augmentation, Callable[[Tensor, Tensor], Tensor]] = {
    "crop-flip": crop_flip,
    "cyclic-shift": cyclic_shift,
    "flip": flip,
}
"""Name -> (images, views) -> what the views show."""


def _checked(augment: Augmentation, images: Tensor, views: Tensor) -> Tensor:
    """The views as ``(n, 1, 1)``."""
    if images.ndim < 3 or images.shape[:-3] != views.shape:
        raise ValueError(
            f"images (..., C, H, W) and views (...) must match, received {tuple(images.shape)} and {tuple(views.shape)}"
        )
    if views.dtype != torch.int64:
        raise ValueError(f"views must be int64, received dtype {views.dtype}")
    count = num_views(augment, images.shape[-3:])
    if views.device.type == "cpu" and views.numel():
        lowest, highest = (int(v) for v in views.aminmax())
        if lowest < 0 or highest >= count:
            raise ValueError(f"views must lie in 0..{count - 1}, received values in {lowest}..{highest}")
    return views.reshape(-1, 1, 1)


def _grid(images: Tensor) -> tuple[Tensor, Tensor]:
    """Columns ``(W,)`` and rows ``(H, 1)``."""
    height, width = images.shape[-2:]
    return torch.arange(width, device=images.device), torch.arange(height, device=images.device)[:, None]


def _gathered(images: Tensor, pixel: Tensor, shape: torch.Size) -> Tensor:
    """``images`` ``(n, C, ...)`` at the pixels ``(n, H, W)``, as ``shape``.

    One gather, its index shared by the channels: five times faster than indexing by four tensors.
    """
    index = pixel.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, index).reshape(shape)
