"""A finite set of points, found again by their bits."""

from __future__ import annotations

import torch
from torch import Tensor

from bcpd.seeds import generator

__all__ = ["PointTable"]


class PointTable:
    """Points ``(n, *shape)``, all different, and the position of each.

    Raises:
        ValueError: a point that comes twice.
    """

    def __init__(self, points: Tensor) -> None:
        self.points = points
        flat = points.flatten(1)
        if len(torch.unique(flat, dim=0)) < len(flat):
            raise ValueError("points must all be different, received a point twice")
        self._keys, self._order = torch.sort(_row_keys(flat))

    def find(self, x: Tensor) -> Tensor:
        """Position of every row of x ``(n, *shape)``, by a hash of its bits, then compared bit for bit.

        Raises:
            ValueError: a row that is not among the points.
        """
        rows = x.flatten(1)
        keys, order, points = (t.to(x.device) for t in (self._keys, self._order, self.points.flatten(1)))
        place = torch.searchsorted(keys, _row_keys(rows)).clamp_(max=len(keys) - 1)
        index = order[place]
        unknown = (points[index] != rows).any(1)
        if bool(unknown.any()):
            first = rows[unknown][0].tolist()
            shown = f"{first[:6]}{' ...' if len(first) > 6 else ''}"
            raise ValueError(f"x must be among the {len(points)} points of this mixture, received {shown}")
        return index


def _row_keys(rows: Tensor) -> Tensor:
    """A 64-bit hash a row ``(n, d)``: the mixed bits of its numbers times fixed odd multipliers, modulo 2**64."""
    bits = (rows.contiguous() + 0.0).view(torch.int64)  # + 0.0 turns -0.0 into 0.0
    # small whole numbers differ in their leading bits alone: carry those down before the products push them out
    mixed = (bits ^ (bits >> 32)) * 0x5851F42D4C957F2D
    mixed = mixed ^ (mixed >> 29)
    multipliers = torch.randint(-(2**63), 2**63 - 1, (rows.shape[1],), generator=generator(0, "row keys")) | 1
    return (mixed * multipliers.to(rows.device)).sum(1)
