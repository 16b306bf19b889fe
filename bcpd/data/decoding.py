"""From the bytes of an image file to a window of its picture at a fixed size, as 8-bit RGB.

Decoding in full and resizing afterwards wastes most of the work on a large JPEG: libjpeg gives the picture at 1/2, 1/4
or 1/8 of its size for a fraction of the time. The smallest of these at which the window still has at least as many
pixels as are wanted is decoded, and resized from there. Where that is the full size, a crop is, bit for bit, what
Pillow's ``crop`` and ``resize`` (bilinear, antialiased) make of the whole picture, and the centre is within 2 levels of
255. At a reduced size the shrinking is partly libjpeg's, which is a little sharper: levels differ by less than 1 in the
mean where detail is as faint as in photographs, and by less than 9 in white noise, the worst case. A crop of 224 pixels
from a picture whose shorter side is below 448 is never reduced.

Stored pixels are what is shown. An orientation in the EXIF header is ignored, and so is a colour profile: the training
and the published numbers of ImageNet networks ignore both, and the header would turn pictures that the labels and all
other tools saw as they are stored. Grey and palette pictures become RGB, CMYK is converted as Pillow does (Adobe's
inverted values included), 16-bit grey is scaled to 8 bits, and what is transparent is laid over white, as a viewer
shows it: dropping the alpha channel would bring out colours that nobody has seen.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

__all__ = ["BadImage", "Window", "as_rgb", "centre", "decode", "show"]

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
T = TypeVar("T")

_REDUCTIONS = (8, 4, 2)


class BadImage(ValueError):
    """A file that is there and can be read, but holds no picture that can be decoded.

    Attributes:
        name: of the file.
        reason: what the decoder said.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} is no image that can be decoded: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str]]:
        return type(self), (self.name, self.reason)


class Window(NamedTuple):
    """A part of a picture, in pixels of its full size, fractions allowed.

    Attributes:
        left, top, width, height: as named.
        alone: whether the pixels beside it are out of sight, as after a crop; else the filter that resizes looks over
            the edge, as it does where a picture is resized first and cropped afterwards.
    """

    left: float
    top: float
    width: float
    height: float
    alone: bool


def centre(width: int, height: int, size: int, shorter: int) -> Window:
    """The central ``size`` x ``size`` pixels of a picture once its shorter side is ``shorter``, in its own pixels.

    The longer side becomes a whole number of pixels, rounded down, and an odd pixel is left over as Python's ``round``
    has it: the sizes and offsets that ImageNet's validation images are usually given.
    """
    if width <= height:
        across, down = shorter, int(shorter * height / width)
    else:
        across, down = int(shorter * width / height), shorter
    x, y = width / across, height / down
    return Window(round((across - size) / 2) * x, round((down - size) / 2) * y, size * x, size * y, alone=False)


def show(content: bytes, name: str, window: Callable[[int, int], Window], size: int) -> Pixels:
    """What ``window(width, height)`` of the picture shows, resized to ``(size, size, 3)``.

    Args:
        content: of an image file of any format that Pillow reads.
        name: for the error.
        window: of the picture's full size, as its header has it.
    Raises:
        BadImage: not an image, or a damaged or truncated one.
    """

    def shown(image: Image.Image) -> Pixels:
        part = window(*image.size)
        reduction = _reduce(image, part, size)
        left, top = part.left / reduction, part.top / reduction
        right, bottom = left + part.width / reduction, top + part.height / reduction
        picture: Image.Image = image
        if part.alone:
            # the reduced picture's pixels seldom end where the window does: a fraction of one is looked at on each side
            x, y = math.floor(left), math.floor(top)
            picture = image.crop((x, y, math.ceil(right), math.ceil(bottom)))
            left, top, right, bottom = left - x, top - y, right - x, bottom - y
        return np.asarray(
            as_rgb(picture).resize((size, size), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
        )

    return _decoded(content, name, shown)


def decode(content: bytes, name: str) -> tuple[int, int]:
    """Width and height of a picture, of which every pixel was decoded.

    Raises:
        BadImage: as :func:`show`.
    """

    def decoded(image: Image.Image) -> tuple[int, int]:
        image.load()
        return as_rgb(image).size

    return _decoded(content, name, decoded)


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as 8-bit RGB: see the head of this module.

    Raises:
        ValueError: a mode whose range of values is not known.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"grey values must lie in 0..65535, received {values.min()}..{values.max()}")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("grey values of floating point have no known range")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _reduce(image: Image.Image, part: Window, size: int) -> int:
    """Have the decoder reduce the picture as far as ``part`` allows; by how much it does."""
    width, height = image.size
    allowed = min(part.width, part.height) / size
    for reduction in _REDUCTIONS:
        # 1e-6: the window of a resized picture is rounded
        if reduction <= allowed + 1e-6 and reduction <= min(width, height):
            image.draft(None, (width // reduction, height // reduction))
            return reduction if image.size != (width, height) else 1
    return 1


def _decoded(content: bytes, name: str, use: Callable[[Image.Image], T]) -> T:
    if not content:
        raise BadImage(name, "the file is empty")
    try:
        with Image.open(io.BytesIO(content)) as image:
            return use(image)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(name, "of no known format, or its header is damaged") from error
    except Exception as error:
        # Pillow's readers raise whatever a damaged file leads them to: OSError, SyntaxError, ValueError, struct.error
        raise BadImage(name, f"{type(error).__name__}: {error}") from error
