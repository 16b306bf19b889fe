"""Several trainings in one process, in turns: on CUDA each on a stream of its own, so that they share the device."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence

import torch
from torch import Tensor

from bcpd.train.fitted import Fitted

__all__ = ["BURST", "Turns", "alone", "in_turns"]

Steps = Generator[None, None, Fitted]

BURST = 8
"""Steps of a training before it is the next one's turn: what its stream has to do meanwhile."""


def alone(steps: Steps, device: torch.device, captured: bool) -> Fitted:
    """One training to its end. A graph cannot be captured on the default stream, so it has its own there."""
    if captured:
        return in_turns([Turns(steps, device)], BURST)[0]
    while True:
        try:
            next(steps)
        except StopIteration as stopped:
            fitted: Fitted = stopped.value
            return fitted


def in_turns(trainings: Sequence[Turns], burst: int) -> list[Fitted]:
    """All to their ends; where one fails, the others are left where they are."""
    waiting = list(trainings)
    try:
        while waiting:
            for one in waiting:
                one.advance(burst)
            waiting = [one for one in waiting if one.fitted is None]
    finally:
        for one in waiting:
            one.steps.close()
    found = [one.fitted for one in trainings]
    return [fitted for fitted in found if fitted is not None]


class Turns:
    """One of several trainings: its steps, its stream and its global generators."""

    def __init__(self, steps: Steps, device: torch.device) -> None:
        self.steps, self.device = steps, device
        self.fitted: Fitted | None = None
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self.stream.wait_stream(torch.cuda.current_stream(device))
        self._generators = _generators(device)

    def advance(self, burst: int) -> None:
        """Take steps, until the end at most."""
        with self._own_generators(), torch.cuda.stream(self.stream) if self.stream else contextlib.nullcontext():
            try:
                for _ in range(burst):
                    next(self.steps)
            except StopIteration as stopped:
                self.fitted = stopped.value
        if self.stream is not None and self.fitted is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)

    @contextlib.contextmanager
    def _own_generators(self) -> Iterator[None]:
        """What layers draw from is this training's in its turns, and the caller's afterwards."""
        callers = _generators(self.device)
        _set(self._generators, self.device)
        try:
            yield
        finally:
            self._generators = _generators(self.device)
            _set(callers, self.device)


def _generators(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set(states: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1], device)
