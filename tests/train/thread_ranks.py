"""Several ranks in the threads of one process: what torch's process group exchanges, without starting processes."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from bcpd.train.ranks import Ranks

T = TypeVar("T")


class Broken(Exception):
    """A rank has failed that others wait for."""


class Group:
    """What the ranks of one group exchange. One of them runs at a time, for they share torch's global generator."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.turn = threading.Condition()
        self.failed = False
        self.begun = [0] * count
        self.rounds: dict[int, dict[int, Any]] = {}

    def exchange(self, rank: int, value: Any) -> list[Any]:
        """What all ranks gave in this rank's next round; called by the rank whose turn it is, who gives it away."""
        number = self.begun[rank]
        self.begun[rank] += 1
        self.rounds.pop(number - 2, None)  # which everybody has read
        said = self.rounds.setdefault(number, {})
        said[rank] = value
        self.turn.notify_all()
        self.turn.wait_for(lambda: len(said) == self.count or self.failed, timeout=60)
        if len(said) < self.count:
            raise Broken
        return [said[other] for other in range(self.count)]


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    group: Group = Group(1)  # noqa: RUF009

    def _add(self, tensor: Tensor) -> None:
        tensor.copy_(torch.stack(self.group.exchange(self.rank, tensor.clone())).sum(0))

    def _gathered(self, tensor: Tensor) -> list[Tensor]:
        parts = self.group.exchange(self.rank, tensor.clone())
        assert len({(part.shape, part.dtype) for part in parts}) == 1, "a process group exchanges equal shapes"
        return [part.clone() for part in parts]

    def _spread(self, tensor: Tensor) -> None:
        tensor.copy_(self.group.exchange(self.rank, tensor.clone())[0])

    def _told(self, value: Any) -> Any:
        return copy.deepcopy(self.group.exchange(self.rank, value)[0])

    def _all_told(self, value: Any) -> list[Any]:
        return copy.deepcopy(self.group.exchange(self.rank, value))


def together(count: int, program: Callable[[int], T], monkeypatch: pytest.MonkeyPatch) -> list[T]:
    """What the program returns on each of ``count`` ranks; the first error of its own that one of them raised."""
    group, local = Group(count), threading.local()

    def life(rank: int) -> T:
        local.ranks = ThreadRanks(rank, count, group)
        with group.turn:
            try:
                return program(rank)
            except BaseException:
                group.failed = True
                group.turn.notify_all()
                raise

    with monkeypatch.context() as patch:
        patch.setattr(Ranks, "current", classmethod(lambda cls: local.ranks))
        with ThreadPoolExecutor(count) as pool:
            lives = [pool.submit(life, rank) for rank in range(count)]
    errors = [error for error in (one.exception() for one in lives) if error is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Broken | RuntimeError)):
        raise error
    return [one.result() for one in lives]
