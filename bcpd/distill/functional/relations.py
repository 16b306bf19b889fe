"""Losses that compare how the examples of a batch relate to each other: one value a batch, and a replica.

Features are rows ``(B, F)``, or ``(R, B, F)`` for R replicas; the two networks' F may differ. A batch of one has no
relations and costs 0. How each value depends on B is said in its docstring.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from bcpd.distill.functional.precision import full_precision, unit

__all__ = [
    "correlation_congruence",
    "probabilistic_knowledge_transfer",
    "relational_angle",
    "relational_distance",
    "similarity_preserving",
]

_FLOOR = 1e-7
"""Added to PKT's affinities: examples that point in opposite directions keep a logarithm."""


@full_precision
def similarity_preserving(f_s: Tensor, f_t: Tensor) -> Tensor:
    r"""Similarity preservation, :math:`\frac{1}{B^2} \|\tilde G_s - \tilde G_t\|_F^2` (Tung & Mori 2019, equation 4).

    :math:`G = F F^\top` holds the inner products of the examples, :math:`\tilde G` has its rows at unit length.

    **Batch size:** a row contributes a squared distance of at most 4 that tends to a constant, so the value scales as
    1/B; a published weight belongs to the batch size it was found at (3000 to B = 64).

    Args:
        f_s, f_t: features of student and teacher, rows ``(..., B, F)`` or maps ``(B, C, H, W)``, which are flattened;
            no gradient is taken through the latter.
    Returns:
        tensor ``(...)``, at least float32; 0 where the similarities agree.
    Raises:
        ValueError: features of different examples.
    """
    f_s, f_t = _rows(f_s, f_t)
    return (unit(f_s @ f_s.mT) - unit(f_t @ f_t.mT)).square().mean((-2, -1))


@full_precision
def probabilistic_knowledge_transfer(f_s: Tensor, f_t: Tensor) -> Tensor:
    r"""Probabilistic knowledge transfer, :math:`\frac{1}{B^2} \sum_{ij} P^t_{ij} \log (P^t_{ij} / P^s_{ij})`.

    :math:`P_{ij} = k_{ij} / \sum_m k_{im}` with the cosine kernel :math:`k_{ij} = (\cos(f_i, f_j) + 1) / 2`, to which
    1e-7 is added so that opposite examples have a logarithm (Passalis & Tefas 2018, section 3; as in
    RepDistiller, to which the weight of 30000 belongs, i = j is kept and the mean over pairs is taken for the sum).

    **Batch size:** the mean of B divergences, divided by B: the value scales as 1/B; a published weight belongs to the
    batch size it was found at (30000 to B = 64).

    Args:
        f_s, f_t: features of student and teacher, rows ``(..., B, F)`` or maps ``(B, C, H, W)``, which are flattened;
            no gradient is taken through the latter.
    Returns:
        tensor ``(...)``, at least float32; >= 0, and 0 where the affinities agree.
    Raises:
        ValueError: features of different examples.
    """
    f_s, f_t = _rows(f_s, f_t)
    log_s, log_t = _log_affinities(f_s), _log_affinities(f_t)
    return (log_t.exp() * (log_t - log_s)).mean((-2, -1))


@full_precision
def relational_distance(f_s: Tensor, f_t: Tensor) -> Tensor:
    r"""Distance-wise relational distillation, :math:`\frac{1}{B^2} \sum_{ij} h(d^s_{ij}, d^t_{ij})`.

    :math:`d_{ij} = \|f_i - f_j\|_2 / \mu`, :math:`\mu` the mean of the distances > 0 in the batch, and h the Huber
    (smooth L1) loss (Park et al. 2019, section 3.2.1).

    **Batch size:** (B - 1)/B times the mean over the pairs of different examples: nearly free of B. (Within a batch,
    :math:`\mu` couples all pairs.)

    Args:
        f_s, f_t: features of student and teacher, rows ``(..., B, F)`` or maps ``(B, C, H, W)``, which are flattened;
            no gradient is taken through the latter.
    Returns:
        tensor ``(...)``, at least float32; 0 where the distances agree up to a factor.
    Raises:
        ValueError: features of different examples.
    """
    f_s, f_t = _rows(f_s, f_t)
    return smooth_l1_loss(_distances(f_s), _distances(f_t), reduction="none").mean((-2, -1))


@full_precision
def relational_angle(f_s: Tensor, f_t: Tensor) -> Tensor:
    r"""Angle-wise relational distillation, :math:`\frac{1}{B^3} \sum_{ijk} h(\psi^s_{ijk}, \psi^t_{ijk})`.

    :math:`\psi_{ijk} = \langle e_{ij}, e_{ik} \rangle`, :math:`e_{ij} = (f_i - f_j) / \|f_i - f_j\|_2`: the cosine of
    the angle that j and k make at i, 0 where two of them coincide with i; h is the Huber (smooth L1) loss (Park et al.
    2019, section 3.2.2).

    **Batch size:** (B - 1)(B - 2)/B^2 times the mean over the triplets of different examples: nearly free of B. Memory
    grows as B^3 + B^2 F (17 MB a network at B = 64, F = 1000 in float32).

    Args:
        f_s, f_t: features of student and teacher, rows ``(..., B, F)`` or maps ``(B, C, H, W)``, which are flattened;
            no gradient is taken through the latter.
    Returns:
        tensor ``(...)``, at least float32; 0 where the angles agree.
    Raises:
        ValueError: features of different examples.
    """
    f_s, f_t = _rows(f_s, f_t)
    return smooth_l1_loss(_angles(f_s), _angles(f_t), reduction="none").mean((-3, -2, -1))


@full_precision
def correlation_congruence(e_s: Tensor, e_t: Tensor) -> Tensor:
    r"""RepDistiller's "correlation" loss, :math:`\frac{1}{B-1} \sum_{i=1}^{B-1} \sum_d |D_{id}|\,|D_{i+1,d}|`.

    :math:`D = e_s - e_t` is the difference of two embeddings, and i, i + 1 neighbours in the batch. It is what the
    published tables call CC. The paper's own loss (Peng et al. 2019, section 3) is another one:
    :math:`\frac{1}{B^2} \|\psi(F_s) - \psi(F_t)\|_F^2`, with :math:`\psi` a Gaussian kernel between all pairs of a
    batch that is sampled by class.

    **Batch size:** a mean over neighbours: its expectation does not depend on B >= 2. It does depend on the order.

    Args:
        e_s, e_t: embeddings ``(..., B, E)`` of student and teacher. Both are learned, so **the gradient reaches both**:
            detach the teacher's features before they are embedded.
    Returns:
        tensor ``(...)``, at least float32; 0 where the embeddings agree (and wherever one of every two neighbours
        agrees).
    Raises:
        ValueError: shapes that differ.
    """
    if e_s.shape != e_t.shape or e_s.ndim < 2:
        raise ValueError(
            f"the embeddings must have one shape (..., B, E), received {tuple(e_s.shape)} and {tuple(e_t.shape)}"
        )
    gap = (e_s - e_t).abs()
    products = (gap[..., :-1, :] * gap[..., 1:, :]).sum(-1)
    return products.sum(-1) / max(1, products.shape[-1])


def _rows(f_s: Tensor, f_t: Tensor) -> tuple[Tensor, Tensor]:
    """Features as rows of the same examples, the teacher's without gradient."""
    rows = [f.flatten(1) if f.ndim == 4 else f for f in (f_s, f_t.detach())]
    if rows[0].ndim < 2 or rows[0].shape[:-1] != rows[1].shape[:-1]:
        raise ValueError(
            f"student and teacher features must be rows (..., B, F) or maps (B, C, H, W) of the same examples, "
            f"received {tuple(f_s.shape)} and {tuple(f_t.shape)}"
        )
    return rows[0], rows[1]


def _log_affinities(f: Tensor) -> Tensor:
    directions = unit(f)
    kernel = ((directions @ directions.mT + 1) / 2).clamp(min=0) + _FLOOR
    return kernel.log() - kernel.sum(-1, keepdim=True).log()


def _distances(f: Tensor) -> Tensor:
    """In units of their mean over those > 0; from differences, so that equal examples are at distance exactly 0."""
    distances = torch.cdist(f, f, compute_mode="donot_use_mm_for_euclid_dist")
    positive = (distances > 0).sum((-2, -1), keepdim=True)
    mean = distances.sum((-2, -1), keepdim=True) / positive.clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1.0)


def _angles(f: Tensor) -> Tensor:
    edges = unit(f.unsqueeze(-2) - f.unsqueeze(-3))
    return edges @ edges.mT
