"""Losses of feature maps ``(B, C, H, W)`` or vectors ``(B, F)``: one value per example, the caller reduces."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from bcpd.distill.functional.precision import full_precision, unit

__all__ = ["attention_transfer", "hint", "same_size", "variational_information"]


def same_size(f_s: Tensor, f_t: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps ``(B, C, H, W)`` at the smaller height and width of the two, average-pooled where they are larger."""
    height, width = (min(a, b) for a, b in zip(f_s.shape[2:], f_t.shape[2:], strict=True))

    def pooled(f: Tensor) -> Tensor:
        return f if f.shape[2:] == (height, width) else adaptive_avg_pool2d(f, (height, width))

    return pooled(f_s), pooled(f_t)


@full_precision
def attention_transfer(f_s: Tensor, f_t: Tensor, exponent: float = 2.0) -> Tensor:
    r"""Attention transfer, :math:`\frac{1}{HW} \|A(F_s) - A(F_t)\|_2^2`.

    :math:`A(F) = a / \|a\|_2`, :math:`a_{hw} = \frac1C \sum_c |F_{chw}|^p`: where a map is bright, whatever its scale
    and its number of channels. The larger map is average-pooled to the size of the smaller one first.

    This is the squared distance, averaged over the positions, that the code of Zagoruyko & Komodakis (2017) minimises
    and that weights of 1000 belong to; equation 2 of the paper has the distance itself. The value scales as 1/(HW). It
    does not depend on the other examples. On 1 x 1 maps it is 0 whatever the networks do.

    Args:
        f_s, f_t: maps ``(B, C, H, W)`` of student and teacher; no gradient is taken through the latter.
        exponent: p >= 1.
    Returns:
        tensor ``(B,)``, at least float32; 0 where the two attend alike, at most 4 / (HW).
    Raises:
        ValueError: tensors that are no maps of the same examples, or an exponent below 1.
    """
    if f_s.ndim != 4 or f_t.ndim != 4 or len(f_s) != len(f_t):
        raise ValueError(
            f"attention is compared on maps (B, C, H, W) of the same examples, "
            f"received {tuple(f_s.shape)} and {tuple(f_t.shape)}"
        )
    if not exponent >= 1:
        raise ValueError(f"exponent must be >= 1, received {exponent}")
    f_s, f_t = same_size(f_s, f_t.detach())
    return (_attention(f_s, exponent) - _attention(f_t, exponent)).square().mean(-1)


@full_precision
def variational_information(mean: Tensor, f_t: Tensor, variance: Tensor) -> Tensor:
    r"""Variational information distillation, :math:`\frac{1}{CHW} \sum_{chw} \frac12
    \left(\frac{(\mu_{chw} - t_{chw})^2}{v_c} + \log v_c\right)`.

    Up to a constant the negative log-likelihood of the teacher's features t under a Gaussian around :math:`\mu`, a
    learned function of the student's features, with a learned variance a channel: a bound on the information that the
    student's features have about the teacher's (Ahn et al. 2019, section 2, averaged over channels and positions
    where the paper sums). For given residuals the least value is at :math:`v_c` = their mean square, and is not 0 but
    :math:`\frac{1}{2C} \sum_c (1 + \log v_c)`.

    Args:
        mean: ``(B, C, ...)``.
        f_t: the teacher's features, of the same shape; no gradient is taken through them.
        variance: ``(C,)``, > 0.
    Returns:
        tensor ``(B,)``, at least float32.
    Raises:
        ValueError: shapes that do not belong together.
    """
    if mean.ndim < 2 or mean.shape != f_t.shape or variance.shape != mean.shape[1:2]:
        raise ValueError(
            f"mean and teacher must have one shape (B, C, ...) and variance (C,), "
            f"received {tuple(mean.shape)}, {tuple(f_t.shape)} and {tuple(variance.shape)}"
        )
    variance = variance.reshape(-1, *[1] * (mean.ndim - 2))
    values = 0.5 * ((mean - f_t.detach()).square() / variance + variance.log())
    return values.flatten(1).mean(-1)


@full_precision
def hint(mapped: Tensor, f_t: Tensor) -> Tensor:
    r"""Hint of FitNets, :math:`\frac{1}{CHW} \|r(F_s) - F_t\|_2^2` (Romero et al. 2015, equation 3, without its factor
    1/2 and averaged over channels and positions where the paper sums).

    Args:
        mapped: the student's features on the teacher's shape, ``(B, C, ...)``.
        f_t: the teacher's; no gradient is taken through them.
    Returns:
        tensor ``(B,)``, at least float32; 0 at equality.
    Raises:
        ValueError: shapes that differ.
    """
    if mapped.ndim < 2 or mapped.shape != f_t.shape:
        raise ValueError(
            f"mapped and teacher's features must have one shape (B, C, ...), "
            f"received {tuple(mapped.shape)} and {tuple(f_t.shape)}"
        )
    return (mapped - f_t.detach()).square().flatten(1).mean(-1)


def _attention(maps: Tensor, exponent: float) -> Tensor:
    return unit(maps.abs().pow(exponent).mean(1).flatten(1))
