r"""Contrastive representation distillation (Tian, Krishnan & Isola 2020): the critic's loss, its memory, its negatives.

An anchor, the unit-norm embedding of an example by one of the two networks, meets one positive (the same example) and N
negatives (examples of other classes) as the *other* network embedded them, which a memory of one row an example keeps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from bcpd.data.augment import view_numbers
from bcpd.distill.functional.precision import full_precision, unit

__all__ = [
    "class_groups",
    "contrastive",
    "draw_negatives",
    "draw_positives",
    "log_normaliser",
    "memory_scores",
    "remembered",
]

_BITS = 30


@full_precision
def contrastive(scores: Tensor, log_constant: Tensor | float, examples: int) -> Tensor:
    r"""The critic's loss, :math:`-\log h_0 - \sum_{j=1}^{N} \log(1 - h_j)`, one value an anchor.

    :math:`h_j = \frac{e^{s_j} / Z}{e^{s_j} / Z + N / M}` is the probability that pair j was drawn from the joint law of
    the two embeddings and not from the product of their marginals (Tian et al. 2020, section 3; Z = 1 there, in
    practice the constant of Wu et al. 2018, :func:`log_normaliser`). Computed as log-sigmoids of
    :math:`s_j - \log(Z N / M)`: no exponential overflows, also where half precision or a small temperature would.

    A sum over the negatives, not a mean. It is > 0, and at scores that are all equal least where each h is
    :math:`1 / (N + 1)`: there it is :math:`\log(N + 1) + N \log(1 + 1/N)`, what is paid without information.

    Args:
        scores: :math:`s_j = \langle u, v_j \rangle / \tau`, ``(..., 1 + N)``, the positive first.
        log_constant: log Z, a scalar.
        examples: M, how many the memory holds.
    Returns:
        tensor ``(...)`` in nats, at least float32.
    Raises:
        ValueError: no negative, or ``examples`` below 1.
    """
    if scores.ndim < 1 or scores.shape[-1] < 2:
        raise ValueError(
            f"scores must be (..., 1 + N), a positive and N >= 1 negatives, received {tuple(scores.shape)}"
        )
    if examples < 1:
        raise ValueError(f"examples must be >= 1, received {examples}")
    logits = scores - (log_constant + math.log((scores.shape[-1] - 1) / examples))
    return -functional.logsigmoid(logits[..., 0]) - functional.logsigmoid(-logits[..., 1:]).sum(-1)


@full_precision
def log_normaliser(scores: Tensor, examples: int) -> Tensor:
    r"""log Z for :math:`Z = M \cdot \mathrm{mean}(e^{s})` over all scores (Wu et al. 2018), a scalar; no gradient.

    With it :math:`h = \sigma(s - \log \mathrm{mean}(e^{s}) - \log N)`: M cancels, and a critic starts where nothing is
    known.
    """
    return scores.detach().flatten().logsumexp(0) + math.log(examples / scores.numel())


@full_precision
def memory_scores(anchors: Tensor, memory: Tensor, index: Tensor, temperature: float = 0.07) -> Tensor:
    r"""Scores :math:`\langle u_i, m_{\mathrm{index}(i, j)} \rangle / \tau` of anchors and rows of a memory.

    All ``(B, M)`` products are made and the asked ones taken: one matrix product instead of ``B (1 + N)`` gathered
    rows, which at N = 16384 would be 0.5 GB a batch of 64.

    Args:
        anchors: ``(B, d)`` of unit norm.
        memory: ``(M, d)`` of unit norm; no gradient is taken through it.
        index: int64 ``(B, 1 + N)``, rows of the memory.
        temperature: :math:`\tau > 0`.
    Returns:
        tensor ``(B, 1 + N)`` in :math:`[-1/\tau, 1/\tau]`, at least float32.
    Raises:
        ValueError: a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, received {temperature}")
    return (anchors @ memory.detach().T).gather(-1, index) / temperature


@full_precision
def remembered(memory: Tensor, embedded: Tensor, momentum: float = 0.5) -> Tensor:
    r"""What a memory's rows become, :math:`m \leftarrow (\mu m + (1 - \mu) u) / \| \cdot \|`; no gradient.

    Args:
        memory, embedded: ``(B, d)``, the rows of a batch's examples and their new embeddings.
        momentum: :math:`0 \le \mu < 1`.
    """
    return unit(memory.detach().lerp(embedded.detach(), 1 - momentum))


def class_groups(
    labels: Tensor, labelled: Tensor | None = None, among: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The examples sorted by class, so that those of other classes are drawn by arithmetic alone.

    An example whose label must not be looked at is a class of its own.

    Args:
        labels: int64 ``(n,)``.
        labelled: bool ``(n,)``; None: all are.
        among: int64 ``(m,)``, the positions that may be drawn; None: all.
    Returns:
        ``groups`` int64 ``(n,)``, the class of each example (G in all); ``order`` int64 ``(m,)``, positions sorted by
        class; ``starts`` int64 ``(G + 1,)``: class g is ``order[starts[g] : starts[g + 1]]``.
    Raises:
        ValueError: shapes that do not belong together, positions out of range or twice, or a class beside which there
            is no other to draw from.
    """
    if labels.ndim != 1 or labels.dtype != torch.int64 or not len(labels):
        raise ValueError(f"labels must be int64 of shape (n,), n >= 1, received {labels.dtype} {tuple(labels.shape)}")
    if labelled is None:
        labelled = torch.ones_like(labels, dtype=torch.bool)
    elif labelled.shape != labels.shape or labelled.dtype != torch.bool:
        raise ValueError(
            f"labelled must be bool of shape {tuple(labels.shape)}, received {labelled.dtype} {tuple(labelled.shape)}"
        )
    known = labels[labelled]
    if len(known) and int(known.min()) < 0:
        raise ValueError(f"labels must be >= 0, received {int(known.min())}")
    groups = labels.clone()
    first = int(known.max()) + 1 if len(known) else 0
    groups[~labelled] = first + torch.arange(len(labels) - len(known), device=labels.device)
    order = torch.arange(len(labels), device=labels.device)
    if among is not None:
        order = among.to(labels.device).sort().values
        inside = order.ndim == 1 and bool(len(order)) and int(order[0]) >= 0 and int(order[-1]) < len(labels)
        if not inside or bool((order.diff() == 0).any()):
            raise ValueError(f"positions to draw among must be different ones in 0..{len(labels) - 1}, one or more")
    order = order[groups[order].argsort(stable=True)]
    counts = groups[order].bincount(minlength=int(groups.max()) + 1)
    if int(counts.max()) == len(order):
        raise ValueError(
            f"negatives are examples of other classes, but all {len(order)} examples to draw from are of one class"
        )
    return groups, order, torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def draw_negatives(
    groups: Tensor, order: Tensor, starts: Tensor, index: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    r"""Examples of other classes than those at ``index``, uniform and independent, **with** replacement.

    Each negative of either scheme has the same law, so the loss has the same expectation given the memory; without
    replacement (as the paper's release draws) its variance over draws would be smaller by the finite-population factor
    :math:`1 - (N - 1)/(n' - 1)` for n' examples of other classes: 0.67 for N = 16384 of CIFAR-100, 0.99 of ImageNet.
    With replacement N may exceed n', and all draws are one operation on the examples' device.

    What is drawn for an example depends on the generator's seed and that example only, not on who shares its batch or
    which process holds it (a counter-based hash, uniform up to a share of n / 2^30).

    Args:
        groups, order, starts: of :func:`class_groups`.
        index: int64 ``(B,)``.
        count: N >= 1.
        generator: gives one number, the seed of the draws.
    Returns:
        int64 ``(B, N)``.
    """
    own, begin = _own_classes(groups, starts, index)
    place = _uniform(index, len(order) - own, count, generator)
    return order[torch.where(place < begin[:, None], place, place + own[:, None])]


def draw_positives(groups: Tensor, order: Tensor, starts: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
    """An example of the class of each at ``index``, uniform (perhaps itself); itself where it is alone; int64 ``(B,)``.

    Arguments as for :func:`draw_negatives`.
    """
    own, begin = _own_classes(groups, starts, index)
    place = _uniform(index, own.clamp(min=1), 1, generator).squeeze(-1)
    return torch.where(own > 0, order[(begin + place).clamp(max=len(order) - 1)], index)


def _own_classes(groups: Tensor, starts: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """How many share the class of each example, and where they begin in the order; ``(B,)`` each."""
    group = groups[index]
    begin = starts[group]
    return starts[group + 1] - begin, begin


def _uniform(index: Tensor, below: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` integers in ``0 .. below_i - 1`` for each example, by the hash that views are drawn by."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    draws = index[:, None] * count + torch.arange(count, device=index.device)
    return (view_numbers(seed, 0, draws, 2**_BITS) * below[:, None]) >> _BITS
