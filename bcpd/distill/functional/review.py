"""The hierarchical context loss of knowledge review (Chen, Liu, Zhao & Jia 2021)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from bcpd.distill.functional.precision import full_precision

__all__ = ["hierarchical_context"]

_SIZES = (4, 2, 1)


@full_precision
def hierarchical_context(f_s: Tensor, f_t: Tensor) -> Tensor:
    r"""Mean squared difference of two maps, whole and averaged over ever larger fields; one value per example.

    :math:`\sum_{l} w_l \, \mathrm{mean}_{c, h, w} (P_l f_s - P_l f_t)^2 / \sum_l w_l`, where :math:`P_0` is the
    identity (weight 1) and the others pool adaptively to 4 x 4, 2 x 2 and 1 x 1, those of them that are smaller than
    the map, with weights 1/2, 1/4, 1/8 in the order they occur (Chen et al. 2021). It is 0 at equal maps only.

    Args:
        f_s, f_t: student's and teacher's map, ``(B, C, H, W)``; no gradient is taken through the teacher's.
    Returns:
        tensor ``(B,)``, at least float32.
    Raises:
        ValueError: shapes that differ or are no maps.
    """
    if f_s.shape != f_t.shape or f_s.ndim != 4:
        raise ValueError(
            f"student and teacher maps must have one shape (B, C, H, W), "
            f"received {tuple(f_s.shape)} and {tuple(f_t.shape)}"
        )
    difference = f_s - f_t.detach()  # pooling is linear: once is enough
    value = difference.square().mean((1, 2, 3))
    weight = total = 1.0
    for size in _SIZES:
        if size < min(difference.shape[-2:]):
            weight /= 2
            total += weight
            value = value + weight * adaptive_avg_pool2d(difference, size).square().mean((1, 2, 3))
    return value / total
