"""Named random streams: (root seed, purpose, coordinates) -> a seed or a generator.

A stream hashes only its own coordinates. Two runs that share a root seed share every stream whose purpose and
coordinates they share: a CE and an MSE teacher see the same data, initialisation and batch order, and adding a run
moves no other run's randomness.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["derive", "generator"]

_SEPARATOR = "\x1f"


def derive(root: int, purpose: str, *coordinates: int | str) -> int:
    """A 63-bit seed for the stream ``purpose`` of the root seed, e.g. ``derive(0, "order", epoch)``.

    Args:
        root: the run's seed, any integer.
        purpose: what the randomness is for: ``"data"``, ``"split"``, ``"init"``, ``"order"``, ...
        coordinates: integers or strings that tell streams of one purpose apart.
    Raises:
        ValueError: a coordinate (or root) that is neither int nor str (floats would hash by their repr), or text
            that contains the separator ``"\\x1f"``, by which two different streams could collide.
    """
    if isinstance(root, bool) or not isinstance(root, int):
        raise ValueError(f"a root seed must be an int, received {root!r} of type {type(root).__name__}")
    if not isinstance(purpose, str):
        raise ValueError(f"a stream's purpose must be a str, received {purpose!r} of type {type(purpose).__name__}")
    for coordinate in coordinates:
        if isinstance(coordinate, bool) or not isinstance(coordinate, int | str):
            raise ValueError(f"stream coordinates must be int or str, received {coordinate!r}")
    for part in (purpose, *coordinates):
        if isinstance(part, str) and _SEPARATOR in part:
            raise ValueError(f"a stream's purpose and coordinates must not contain {_SEPARATOR!r}, received {part!r}")
    text = _SEPARATOR.join([str(root), purpose, *(f"{type(c).__name__}:{c}" for c in coordinates)])
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"bcpd.seeds").digest()
    return int.from_bytes(digest, "little") >> 1


def generator(root: int, purpose: str, *coordinates: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh :class:`torch.Generator` for the stream; see :func:`derive`."""
    return torch.Generator(device=device).manual_seed(derive(root, purpose, *coordinates))
