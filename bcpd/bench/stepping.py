"""Trainings by fit that go on by one epoch at a call, so that their epochs can be timed in turn with other loops.

What a training does once (reading its arguments, splitting, the first epoch's allocations) is done when it is made.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import SimpleQueue

import torch

from bcpd.bench.workload import Includes, Students, Workload, World
from bcpd.train import Fitted, Progress

__all__ = ["EPOCHS", "Advance", "apart", "stepwise"]

EPOCHS = 100_000
"""Of a training that is stopped long before."""

Advance = Callable[[], None]
Train = Callable[[Callable[[Progress], None]], Fitted]


class _StoppedError(Exception):
    """Ends a training from its progress callback."""


@contextlib.contextmanager
def stepwise(train: Train) -> Iterator[Advance]:
    """A training in this process: it runs in a thread of its own, and only while a call waits for it.

    Args:
        train: given a progress callback, trains for :data:`EPOCHS` epochs.
    Raises:
        Exception: what the training raises, at the call during which it does.
    """
    turns: SimpleQueue[bool] = SimpleQueue()
    ends: SimpleQueue[BaseException | None] = SimpleQueue()

    def epoch_done(progress: Progress) -> None:
        ends.put(None)
        if not turns.get():
            raise _StoppedError

    def run() -> None:
        try:
            if turns.get():
                torch.set_num_threads(1)  # a thread has a number of its own
                train(epoch_done)
                ends.put(RuntimeError(f"the training ended after {EPOCHS} epochs"))
        except _StoppedError:
            pass
        except BaseException as error:
            ends.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def advance() -> None:
        turns.put(True)
        error = ends.get()
        if error is not None:
            raise error

    try:
        advance()
        yield advance
    finally:
        turns.put(False)
        thread.join()


@contextlib.contextmanager
def apart(workload: Workload, seeds: Sequence[Sequence[int]], includes: Includes) -> Iterator[Advance]:
    """Trainings of students with these seeds, each in a process of its own with one thread, on the CPU.

    A call returns when all of them have done an epoch.
    """
    context = multiprocessing.get_context("spawn")
    workers: list[tuple[Connection, BaseProcess]] = []
    try:
        for own in seeds:
            here, there = context.Pipe()
            process: BaseProcess = context.Process(
                target=_train_apart, args=(there, workload, list(own), includes), daemon=True
            )
            process.start()
            there.close()
            workers.append((here, process))

        def advance() -> None:
            for connection, _ in workers:
                connection.send(True)
            for connection, _ in workers:
                try:
                    error = connection.recv()
                except EOFError:
                    raise RuntimeError("a process of the benchmark ended before its epoch did") from None
                if error is not None:
                    raise RuntimeError(f"a process of the benchmark failed: {error}")

        advance()
        yield advance
    finally:
        for connection, process in workers:
            with contextlib.suppress(OSError):
                connection.send(False)
            process.join()
            connection.close()


def _train_apart(connection: Connection, workload: Workload, seeds: list[int], includes: Includes) -> None:
    def epoch_done(progress: Progress) -> None:
        connection.send(None)
        if not connection.recv():
            raise _StoppedError

    try:
        torch.set_num_threads(1)
        students = Students(World(workload), seeds)
        if connection.recv():
            students.fit(includes, EPOCHS, progress=epoch_done)
    except (_StoppedError, EOFError, OSError):
        pass  # the parent has had enough, or is no more
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
