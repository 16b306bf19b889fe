"""Which examples are trained on and in which order, which are held back, and by which seed: functions of seeds only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bcpd.data import InMemory
from bcpd.seeds import generator

__all__ = ["halves", "order_of_epoch", "replica_seeds", "split", "validation_part"]


def replica_seeds(seed: int | Sequence[int], replicas: int | None) -> list[int]:
    """One seed a replica (one in all for a network without replicas); a single int is everybody's."""
    seeds = [seed] if isinstance(seed, int) else list(seed)
    count = 1 if replicas is None else replicas
    if len(seeds) == 1:
        seeds = seeds * count
    if len(seeds) != count:
        raise ValueError(f"seed must be one int or one for each of the {count} replicas, received {len(seeds)}")
    return seeds


def split(source: InMemory, share: float, seeds: Sequence[int], replicas: int | None) -> tuple[Tensor, Tensor | None]:
    """Indices of the training and the validation part, ``(n,)`` or ``(R, n)``; each replica splits by its own seed.

    Validation examples are drawn among the labelled ones.

    Returns:
        ``(train, validation)``; the latter ``None`` for a share of 0.
    Raises:
        ValueError: a share that leaves no training or no validation example, or no label to train on.
    """
    count = len(source)
    held = round(share * count)
    if share and not 0 < held < count:
        raise ValueError(f"a validation share of {share} of {count} examples leaves one of the two parts empty")
    rows = []
    for number, seed in enumerate(seeds):
        order = torch.randperm(count, generator=generator(seed, "split"))
        if source.labelled is not None and held:
            mask = (source.labelled if source.replicas is None else source.labelled[number]).cpu()
            if int(mask.sum()) <= held:
                raise ValueError(
                    f"{held} validation examples (a share of {share}) were asked for, but only {int(mask.sum())} are "
                    f"labelled, and some must be left to train on"
                )
            order = torch.cat([order[mask[order]], order[~mask[order]]])
        rows.append(order)
    index = torch.stack(rows) if replicas is not None else rows[0]
    index = index.to(source.device)
    return index[..., held:], index[..., :held] if held else None


def validation_part(source: InMemory, share: float, seed: int) -> InMemory:
    """The examples that a training with this ``Recipe.validation`` and seed held back: to fit a temperature to it, say.

    Args:
        source: as given to :func:`bcpd.fit`, without replicas.
        share: in (0, 1).
        seed: of the training.
    Raises:
        ValueError: a share of nothing; what :func:`split` refuses.
    """
    _, index = split(source, share, [seed], None)
    if index is None:
        raise ValueError(f"a training with validation={share} holds nothing back; the share must lie in (0, 1)")
    return source.subset(index)


def halves(held_out: InMemory) -> tuple[Tensor, Tensor]:
    """Indices of the half that chooses and of the half that reports, ``(n,)`` or ``(R, n)``."""
    middle = len(held_out) // 2
    index = torch.arange(len(held_out), device=held_out.device)
    if held_out.replicas is not None:
        index = index.expand(held_out.replicas, -1)
    return index[..., :middle], index[..., middle:]


def order_of_epoch(index: Tensor, seeds: Sequence[int], phase: str, epoch: int) -> Tensor:
    """The training index in an epoch's order; the same for every method and replica that share a seed.

    The phase goes by its name, so that a method with phases has the main order of one without.
    """
    length = index.shape[-1]
    orders = [torch.randperm(length, generator=generator(seed, "order", phase, epoch)) for seed in seeds]
    if index.ndim == 1:
        return index[orders[0].to(index.device)]
    return index.gather(-1, torch.stack(orders).to(index.device))
