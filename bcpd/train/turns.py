"""Several trainings in one process, in turns: on CUDA each on a stream of its own, so that they share the device."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bcpd.nets import Views
from bcpd.train.execution import EAGER, Execution
from bcpd.train.fitted import Fitted
from bcpd.train.teacher_table import TeacherTable

__all__ = ["BURST", "OnePass", "Turns", "alone", "in_turns", "with_one_pass"]

Steps = Generator[float, None, Fitted]
"""Pauses after every step, and tells how far it is: epochs done of the main training, or minus the phases that are to
be done before it."""

BURST = 8
"""Steps of a training on CUDA before it is the next one's turn: what its stream has to do meanwhile."""


class OnePass(nn.Module):
    """A frozen teacher that several students ask in turns: what it was asked last is not computed again.

    Students of one seed see the same inputs in the same order, whatever their method: one forward pass serves all. The
    last batch of each size is remembered, for methods have batches of their own.
    """

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher
        self.replicas: int | None = getattr(teacher, "replicas", None)
        self._last: dict[tuple[torch.Size, torch.dtype], tuple[Tensor, Views]] = {}

    def forward(self, x: Tensor) -> Views:
        """The teacher's views, which are not to be changed in place."""
        key = x.shape, x.dtype
        if key not in self._last or not torch.equal(self._last[key][0], x):
            self._last[key] = x, self.teacher(x)
        return self._last[key][1]


def with_one_pass(trainings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The trainings on a CPU that have one teacher, and ask it in the same way, ask it once."""
    shared: dict[tuple[int, Execution], OnePass] = {}
    found = []
    for arguments in trainings:
        teacher, execution = arguments.get("teacher"), arguments.get("execution", EAGER)
        live = isinstance(teacher, nn.Module) and not isinstance(teacher, TeacherTable) and not execution.compile
        if live and torch.device(arguments.get("device", "cpu")).type == "cpu":
            key = id(teacher), execution
            if key not in shared:
                shared[key] = OnePass(arguments["teacher"])
            arguments = {**arguments, "teacher": shared[key]}
        found.append(arguments)
    return found


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
    """All to their ends; where one fails, the others are left where they are.

    On CUDA every one has its turn. On a CPU it is the turn of the one that is furthest behind: trainings that were
    resumed at different steps meet again, and share their teacher's passes.
    """
    waiting = list(trainings)
    together = any(one.stream is not None for one in trainings)
    try:
        while waiting:
            for one in list(waiting) if together else [min(waiting, key=lambda one: one.epochs)]:
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
        self.epochs = -math.inf
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
                    self.epochs = next(self.steps)
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
