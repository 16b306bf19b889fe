"""How many replicas train together: a group fills a core's cache, and a grid of any size streams through in groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from bcpd.nets import Net

__all__ = ["CACHE_BYTES", "Plan", "plan"]

CACHE_BYTES = 8 * 2**20
"""Weights, gradients and momenta of a group. Fixed, not read off the machine: group sizes belong to a specification."""

_COPIES = 3
"""Of every parameter: itself, its gradient, its momentum (Adam has one more)."""

_PASSING = 24 * 2**20
"""What a group needs at once beside what it holds: the pieces that are measured together, a batch and its layers."""


@dataclass(frozen=True)
class Plan:
    """How R replicas are cut into groups that train one after another, or in several processes.

    Attributes:
        replicas: R.
        group: replicas of the largest group; all are as large or one smaller.
        state_bytes: of one replica, read and written at every step.
        replica_bytes: of one replica, all that is held: its state, examples, kept states, p* where it is measured.
    """

    replicas: int
    group: int
    state_bytes: int
    replica_bytes: int

    @property
    def groups(self) -> list[range]:
        """The replicas of each group, in order."""
        count = math.ceil(self.replicas / self.group)
        edges = [number * self.replicas // count for number in range(count + 1)]
        return [range(start, stop) for start, stop in pairwise(edges)]

    @property
    def bytes(self) -> int:
        """Of the largest group: what a process needs beside the interpreter, however many replicas there are."""
        return self.group * self.replica_bytes + _PASSING

    def __str__(self) -> str:
        return (
            f"{self.replicas} replicas in {len(self.groups)} groups of up to {self.group}: "
            f"{self.state_bytes / 2**10:.0f} KiB of state a replica, {self.bytes / 2**20:.1f} MiB a group"
        )


def plan(
    net: Net,
    replicas: int,
    examples: int,
    *,
    held_out: int = 0,
    own_examples: bool = True,
    kept_states: int = 5,
    cache_bytes: int | None = CACHE_BYTES,
    memory_bytes: int = 2**30,
) -> Plan:
    """Cut R replicas of a network into groups.

    Args:
        net: one model, or any number of replicas of it; only its sizes are looked at.
        replicas: R >= 1.
        examples, held_out: of each replica (p* in float64 beside every one).
        own_examples: whether each replica has its own, or all share one set.
        kept_states: copies of the weights that the training keeps (last, best, path minima).
        cache_bytes: bound on a group's weights, gradients and momenta; a group has at least one replica. None: no
            bound but memory, to fill a GPU.
        memory_bytes: bound on all that a group holds.
    Raises:
        ValueError: a count below 1 (0 for ``held_out``), or a single replica above ``memory_bytes``.
    """
    for name, value, least in (("replicas", replicas, 1), ("examples", examples, 1), ("held_out", held_out, 0)):
        if value < least:
            raise ValueError(f"{name} must be an int >= {least}, received {value!r}")
    if cache_bytes is not None and cache_bytes < 1:
        raise ValueError(f"cache_bytes must be >= 1, received {cache_bytes}")
    models = net.replicas or 1
    weights = sum(p.numel() * p.element_size() for p in net.parameters()) // models
    item = next(net.parameters()).element_size()
    example = math.prod(net.input_shape) * item + 8 + net.num_classes * (8 + item)
    held = (examples + held_out) * example if own_examples else 0
    # measuring keeps p* at the training inputs in the order of each replica's split, and what p* alone determines
    measured = (examples + held_out) * (8 * net.num_classes + 24)
    each = (_COPIES + 1 + kept_states) * weights + held + measured
    alone = each + _PASSING
    if alone > memory_bytes:
        raise ValueError(
            f"one replica needs {alone / 2**20:.0f} MiB, above memory_bytes = {memory_bytes / 2**20:.0f} MiB"
        )
    cached = replicas if cache_bytes is None else cache_bytes // (_COPIES * weights)
    group = max(1, min(cached, (memory_bytes - _PASSING) // each, replicas))
    count = math.ceil(replicas / group)
    return Plan(replicas, math.ceil(replicas / count), _COPIES * weights, each)
