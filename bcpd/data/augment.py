"""Random crop and horizontal flip of a whole batch, each image's view a pure function of (seed, epoch, index).

Crop with padding 4 and flip has only 9 * 9 * 2 = 162 views an image. They are numbered

    view = (dy * 9 + dx) * 2 + flip,        dy, dx in 0..8,  flip in {0, 1}

where the image is padded by four black pixels on each side, the window of the original size starts at row ``dy`` and
column ``dx`` of the padded image, and ``flip = 1`` mirrors the window left to right. ``CENTRE_VIEW`` (dy = dx = 4, no
flip) is the image itself. Teacher logits can be tabulated by (index, view).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from bcpd.seeds import derive

__all__ = ["CENTRE_VIEW", "NUM_VIEWS", "PADDING", "crop_flip", "view_numbers"]

PADDING = 4
_OFFSETS = 2 * PADDING + 1
NUM_VIEWS = _OFFSETS * _OFFSETS * 2
CENTRE_VIEW = (PADDING * _OFFSETS + PADDING) * 2

_WORD = 0xFFFF_FFFF


def _mix(word: Tensor) -> Tensor:
    """A bijection of 32-bit words held in int64 in which every input bit moves every output bit.

    Xor-shift-multiply with two odd multipliers below 2^31, so that no product of a 32-bit word overflows int64 and
    the result is the same on every device.
    """
    word = ((word ^ (word >> 16)) * 0x21F0_AAAD) & _WORD
    word = ((word ^ (word >> 15)) * 0x735A_2D97) & _WORD
    return word ^ (word >> 15)


def view_numbers(seed: int | Sequence[int], epoch: int, index: Tensor) -> Tensor:
    """The view, int64 in ``0 .. 161``, that each image shows in an epoch: a counter-based hash of its coordinates.

    It depends on nothing else: not on the batch an image is in, its place there, the device or the process. Over
    images and epochs the views are uniform and independent (as far as a hash is), which is what ``RandomCrop(32,
    padding=4)`` followed by ``RandomHorizontalFlip()`` draws.

    Args:
        seed: root seed of the run; or R of them for ``index`` of shape ``(R, ...)``, one a replica.
        epoch: >= 0.
        index: the images' positions in their source, int64 >= 0, any shape.
    Returns:
        int64 of ``index``'s shape, on its device.
    Raises:
        ValueError: a negative epoch, an index that is not int64, or a number of seeds that is not R.
    """
    if epoch < 0:
        raise ValueError(f"epoch must be >= 0, received {epoch}")
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
    return (word * NUM_VIEWS) >> 32


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
    if images.ndim < 3 or images.shape[:-3] != views.shape:
        raise ValueError(
            f"images (..., C, H, W) and views (...) must match, received {tuple(images.shape)} and {tuple(views.shape)}"
        )
    if views.dtype != torch.int64:
        raise ValueError(f"views must be int64, received dtype {views.dtype}")
    if views.device.type == "cpu" and views.numel():
        lowest, highest = (int(v) for v in views.aminmax())
        if lowest < 0 or highest >= NUM_VIEWS:
            raise ValueError(f"views must lie in 0..{NUM_VIEWS - 1}, received values in {lowest}..{highest}")
    channels, height, width = images.shape[-3:]
    view = views.reshape(-1, 1, 1)
    offset, flip = view // 2, (view % 2).bool()
    column = torch.arange(width, device=images.device)
    column = torch.where(flip, width - 1 - column, column) + offset % _OFFSETS
    row = torch.arange(height, device=images.device)[:, None] + offset // _OFFSETS
    padded = functional.pad(images.reshape(-1, channels, height, width), (PADDING,) * 4)
    # one gather of pixels, its index shared by the channels: five times faster than indexing by four tensors
    pixel = (row * padded.shape[-1] + column).reshape(-1, 1, height * width).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, pixel).reshape(images.shape)
