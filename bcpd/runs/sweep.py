"""Many independent tasks over processes, each stored as soon as it is finished: a killed sweep goes on from there."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from bcpd.runs.store import Store, check_json, check_rows

__all__ = ["Progress", "SweepError", "Task", "sweep"]

Rows = list[dict[str, Any]]
Work = Callable[[Any], Rows]

START_METHOD = "spawn"
SECONDS_BETWEEN_LOOKS = 0.5
THREADS_OF_LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PR_SET_PDEATHSIG = 1


class SweepError(RuntimeError):
    """A task failed, or its process died twice; the tasks finished before it are stored."""


@dataclass(frozen=True)
class Task:
    """One piece of a sweep.

    Attributes:
        key: its name in the store, unique in the sweep.
        payload: what ``work`` receives: JSON (see :func:`bcpd.runs.store.check_json`).
        cost: its time relative to the others: costly tasks begin first, and the remaining time is estimated by it.
        local: what ``work`` receives beside the entries of the payload, which then is a dict: folders, devices. It is
            no part of what the task is, so that a sweep goes on where it was moved to.
    """

    key: str
    payload: Any
    cost: float = 1.0
    local: Mapping[str, Any] | None = None

    @property
    def given(self) -> Any:
        """What ``work`` receives."""
        return self.payload if self.local is None else {**self.payload, **self.local}


@dataclass(frozen=True)
class Progress:
    """How far a sweep is.

    Attributes:
        done, total: tasks finished (those of earlier runs included), and all of them.
        key: the task that has just been finished; None at the beginning.
        done_cost, total_cost: the same in units of :attr:`Task.cost`.
        resumed_cost: the part of ``done_cost`` that was found in the store.
        seconds: since this run of the sweep began.
    """

    done: int
    total: int
    key: str | None
    done_cost: float
    total_cost: float
    resumed_cost: float
    seconds: float

    @property
    def remaining_seconds(self) -> float | None:
        """At the speed of this run so far; None before its first task is finished."""
        fresh = self.done_cost - self.resumed_cost
        return self.seconds * (self.total_cost - self.done_cost) / fresh if fresh > 0 else None


def sweep(
    store: Store,
    tasks: Sequence[Task],
    work: Work,
    *,
    processes: int | None = None,
    threads: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> Rows:
    """Do every task that is not yet in the store, and return the rows of all of them in the order of ``tasks``.

    A task is stored as soon as it is finished. A sweep that was stopped, by whatever, is started again with the same
    arguments: finished tasks are not done again, and the rows are those of an undisturbed sweep. Only this process
    writes. A worker process whose parent dies ends at once; a worker that dies alone (killed for lack of memory) has
    its task done once more by a fresh one.

    Args:
        store: open for writing.
        tasks: with different keys.
        work: ``work(payload) -> rows``, a list of dicts of JSON; deterministic; a function at the top of a module that
            can be imported, so that worker processes find it (in a script: behind ``if __name__ == "__main__"``, the
            call of ``sweep``).
        processes: at once; by default as many as this process may use cores. 1 works in this process.
        threads: of torch in each of them (and of OpenMP, MKL and OpenBLAS in worker processes).
        progress: called at the beginning and after each task.

    Raises:
        ValueError: keys twice, a payload that is not JSON, a task stored with another payload, a cost that is not a
            finite number >= 0, a number below 1, a ``work`` that cannot be imported, a store that is read only.
        SweepError: a task failed (its error is the cause), gave rows that are not JSON, or lost its process twice.
        StoreError: the disk is full or cannot be written.
    """
    tasks = list(tasks)
    processes = _usable_cores() if processes is None else processes
    for name, number in (("processes", processes), ("threads", threads)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, received {number}")
    check_tasks(store, tasks)
    _check_work(work, processes)
    keep = _Keeper(store, tasks, progress)
    pending = sorted((task for task in tasks if task.key not in store.done), key=lambda task: -task.cost)
    if pending:
        if store.read_only:
            raise ValueError(f"{store.path} was opened read only, and {len(pending)} of {len(tasks)} tasks are missing")
        if processes == 1:
            _work_here(pending, work, threads, keep)
        else:
            _work_apart(pending, work, min(processes, len(pending)), threads, keep)
    return list(store.rows(task.key for task in tasks))


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_tasks(store: Store, tasks: Sequence[Task]) -> None:
    for task in tasks:
        if not isinstance(task.key, str):
            raise ValueError(f"the key of a task must be a string, received {task.key!r}")
    twice = [key for key, count in Counter(task.key for task in tasks).items() if count > 1]
    if twice:
        raise ValueError(f"keys of tasks must differ, received {twice[:5]} more than once")
    for task in tasks:
        if not (math.isfinite(task.cost) and task.cost >= 0):
            raise ValueError(f"cost of task {task.key!r} must be finite and >= 0, received {task.cost}")
        check_json(task.payload, f"payload of task {task.key!r}")
        if task.local is not None:
            check_json(dict(task.local), f"local of task {task.key!r}")
            if not isinstance(task.payload, dict) or task.local.keys() & task.payload.keys():
                raise ValueError(f"local of task {task.key!r} needs a payload that is a dict without its names")
        if task.key in store.done and not store.matches(task.key, task.payload):
            raise ValueError(
                f"{store.path} holds task {task.key!r} with another payload: its settings were changed; "
                f"use another key or another file"
            )


def _check_work(work: Work, processes: int) -> None:
    """Other processes import the function by its name; here any callable will do."""
    if processes == 1:
        return
    module = sys.modules.get(getattr(work, "__module__", ""))
    if getattr(module, getattr(work, "__qualname__", ""), None) is not work:
        raise ValueError(
            f"with {processes} processes work must be a function at the top of a module, received {work!r}; "
            f"or use processes=1"
        )
    if module is sys.modules["__main__"] and getattr(module, "__file__", None) is None:
        raise ValueError(
            f"with {processes} processes work must be importable: a function in a file, not one typed at a prompt, "
            f"in a notebook or given by -c; or use processes=1"
        )


class _Keeper:
    """Stores what is finished and tells how far it is."""

    def __init__(self, store: Store, tasks: Sequence[Task], progress: Callable[[Progress], None] | None) -> None:
        self.store, self.tasks, self.progress = store, tasks, progress
        self.done = sum(task.key in store.done for task in tasks)
        self.total_cost = sum(task.cost for task in tasks)
        self.resumed_cost = self.done_cost = sum(task.cost for task in tasks if task.key in store.done)
        self.started = time.monotonic()
        self.tell(None)

    def __call__(self, task: Task, rows: Rows) -> None:
        try:
            self.store.append(task.key, rows, task.payload)
        except ValueError as error:
            raise self.failure(task, f"gave what cannot be stored: {error}") from error
        self.done += 1
        self.done_cost += task.cost
        self.tell(task.key)

    def tell(self, key: str | None) -> None:
        if self.progress is not None:
            seconds = time.monotonic() - self.started
            costs = (self.done_cost, self.total_cost, self.resumed_cost)
            self.progress(Progress(self.done, len(self.tasks), key, *costs, seconds))

    def failure(self, task: Task, what: str) -> SweepError:
        return SweepError(
            f"task {task.key!r} {what}. {self.done} of {len(self.tasks)} tasks are kept in {self.store.path}; "
            f"start the same again to go on from there"
        )


def _work_here(pending: Sequence[Task], work: Work, threads: int, keep: _Keeper) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for task in pending:
            try:
                rows = work(copy.deepcopy(task.given))
            except Exception as error:
                raise keep.failure(task, f"failed: {type(error).__name__}: {error}") from error
            keep(task, rows)
    finally:
        torch.set_num_threads(before)


def _work_apart(pending: Sequence[Task], work: Work, processes: int, threads: int, keep: _Keeper) -> None:
    queue = deque(pending)
    deaths: Counter[str] = Counter()
    workers: list[_Worker] = []
    unstored: list[tuple[Task, Rows]] = []
    try:
        while queue or workers:
            while queue and len(workers) < processes:
                with _interrupts_held_back():
                    workers.append(_Worker(work, threads))
                workers[-1].give(queue.popleft())
            ready = wait([worker.connection for worker in workers], SECONDS_BETWEEN_LOOKS)
            for worker in list(workers):
                if worker.connection not in ready and worker.process.is_alive():
                    continue
                task, answer = worker.take()
                if answer is None:
                    reason = worker.end()
                    workers.remove(worker)
                    deaths[task.key] += 1
                    if deaths[task.key] == 1:
                        queue.appendleft(task)
                        continue
                if not isinstance(answer, list):
                    _salvage(workers, unstored, keep)
                    if answer is None:
                        raise keep.failure(task, f"lost its worker process twice ({reason})")
                    raise keep.failure(task, f"failed: {type(answer).__name__}: {answer}") from answer
                unstored.append((task, answer))
                if queue:
                    worker.give(queue.popleft())
                keep(task, answer)
                unstored.pop()
                if worker.task is None:
                    worker.end()
                    workers.remove(worker)
    except KeyboardInterrupt:
        _salvage(workers, unstored, keep)
        raise
    finally:
        for worker in workers:
            worker.kill()


def _salvage(workers: Sequence[_Worker], unstored: list[tuple[Task, Rows]], keep: _Keeper) -> None:
    """Store what is finished before a sweep stops."""
    for worker in workers:
        if worker.task is not None and worker.connection.poll():
            task, answer = worker.take()
            if isinstance(answer, list):
                unstored.append((task, answer))
    for task, rows in unstored:
        if task.key not in keep.store.done:
            keep(task, rows)


class _Worker:
    """A process that does one task after another."""

    def __init__(self, work: Work, threads: int) -> None:
        context = multiprocessing.get_context(START_METHOD)
        self.connection, far_end = context.Pipe()
        self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(far_end, work, threads, os.getpid()), name="sweep worker"
        )
        self.task: Task | None = None
        with _environment(dict.fromkeys(THREADS_OF_LIBRARIES, str(threads))):
            self.process.start()
        far_end.close()

    def give(self, task: Task) -> None:
        self.task = task
        with contextlib.suppress(OSError):  # a dead process: take() finds it
            self.connection.send((task.given,))

    def take(self) -> tuple[Task, Rows | Exception | None]:
        """The task and its rows, or what it raised, or None where the process died."""
        task, self.task = self.task, None
        assert task is not None
        try:
            rows, error, trace = self.connection.recv()
        except (EOFError, OSError):
            return task, None
        if error is None:
            return task, rows
        error.add_note(trace)
        return task, error

    def end(self) -> str:
        """Let the process end; how it ended, in words."""
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join(5)
        code = self.process.exitcode
        self.kill()
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}" + (", lack of memory?" if code == -signal.SIGKILL else "")
        return f"exit status {code}"

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, work: Work, threads: int, parent: int) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    _die_with(parent)
    torch.set_num_threads(threads)
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while (message := connection.recv()) is not None:
            connection.send(_answer(work, *message))


def _answer(work: Work, payload: Any) -> tuple[Rows | None, Exception | None, str]:
    """Rows, or the error and where it was raised."""
    try:
        rows = work(payload)
        check_rows(rows, "rows")
        return list(rows), None, ""
    except Exception as error:
        return None, _portable(error), traceback.format_exc()


def _portable(error: Exception) -> Exception:
    """The error itself where it survives the way to the parent, or one that says what it was."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _die_with(parent: int) -> None:
    """End this process when its parent is gone, whatever it is busy with."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables that a process started inside begins with."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """A process started inside is deaf to Ctrl-C while it imports; here Ctrl-C comes at the end."""
    resource_tracker.ensure_running()  # it would let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
