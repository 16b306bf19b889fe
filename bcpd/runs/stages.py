"""The stages of an experiment: one sweep after another, each with a store of its own in the folder of the run."""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bcpd.provenance import Stopwatch, source_digest
from bcpd.runs.store import Store
from bcpd.runs.sweep import Progress, Rows, SweepError, Task, Work, check_tasks, sweep

__all__ = ["Report", "Stages", "landed"]

Report = Callable[[str, int, int], None]
"""What is told after every task: (stage, tasks done, tasks in all)."""


class Stages:
    """Sweeps the tasks of a run, stage by stage; a run that was stopped goes on where it was.

    Args:
        folder: of the run: a store a stage, and the seconds of all its sessions.
        work: what does a task, as in :func:`bcpd.runs.sweep`.
        code: the modules on which rows depend beside their tasks; stores that other code has filled are refused.
        settings: JSON-able, on which they depend as well; None: on nothing.
        progress: told after every task.
        processes: at once, one thread each; by default the cores.
        small: tasks that cost less than this in all are done in this process, where ``processes`` is not given.
        train_together: as ``work``, but receives what several tasks would be given: prepares them side by side in one
            process, so that they then find it done; gives no rows.
        together: how many; 1: none.
    Raises:
        ValueError: nothing together, or several and nothing that prepares them; a folder with a damaged clock.
    """

    def __init__(
        self,
        folder: Path,
        work: Work,
        code: Sequence[str],
        *,
        settings: Any = None,
        progress: Report | None = None,
        processes: int | None = None,
        small: float = 0.0,
        train_together: Work | None = None,
        together: int = 1,
    ) -> None:
        if together < 1 or (together > 1 and train_together is None):
            raise ValueError(f"together must be at least 1, and 1 where nothing trains together; received {together}")
        self.folder, self.work = folder, work
        digest = source_digest(*code)
        content = digest if settings is None else f"{json.dumps(settings, sort_keys=True)} {digest}"
        self.identity = hashlib.blake2b(content.encode(), digest_size=10).hexdigest()
        self.watch = Stopwatch(folder / "seconds.json")
        self.progress, self.processes, self.small = progress, processes, small
        self.train_together, self.together = train_together, together

    def sweep(self, stage: str, tasks: Sequence[Task], title: str | None = None, *, alone: bool = False) -> Rows:
        """The rows of all tasks, in their order.

        Args:
            stage: names the store. title: what is told of it; by default the stage.
            tasks: may be some of those that the store has or will have.
            alone: never several together.
        Raises:
            as :func:`bcpd.runs.sweep`.
        """
        with Store(store_path(self.folder, stage), identity=self.identity) as store:

            def report(state: Progress) -> None:
                self.watch.lap()
                if self.progress is not None:
                    self.progress(title or stage, sum(task.key in store.done for task in tasks), len(tasks))

            pending = [task for task in tasks if task.key not in store.done]
            if self.together > 1 and not alone:
                check_tasks(store, tasks)
                at_once = self.together * (self.processes or 1)
                for start in range(0, len(pending), at_once):
                    if self.progress is not None:
                        self.progress(title or stage, len(tasks) - len(pending) + start, len(tasks))
                    some = pending[start : start + at_once]
                    self._prepare(some)
                    sweep(store, some, self.work, processes=min(len(some), self.processes or 1), progress=report)
            processes = self.processes
            if len(pending) < 2 or (processes is None and sum(task.cost for task in tasks) < self.small):
                processes = 1  # another process would only have to start
            return sweep(store, tasks, self.work, processes=processes, progress=report)

    def _prepare(self, tasks: Sequence[Task]) -> None:
        """Tasks in groups, a process each; they keep what they have done by themselves.

        Where that fails, they are left to be done one by one: then those that can be done land, and the one that
        cannot is named.
        """
        assert self.train_together is not None
        groups = [tasks[start : start + self.together] for start in range(0, len(tasks), self.together)]
        prepared = [Task(", ".join(task.key for task in group), [task.given for task in group]) for group in groups]
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "groups.jsonl") as store:
            try:
                sweep(store, prepared, self.train_together, processes=min(len(groups), self.processes or 1))
            except SweepError as error:
                warnings.warn(f"{error.__cause__ or error}; going on one by one", RuntimeWarning, stacklevel=3)

    def seconds(self) -> float:
        """Of all sessions that the folder has seen."""
        return round(self.watch.lap(), 1)


def landed(folder: Path, stage: str) -> dict[str, Rows]:
    """The rows of every task of a stage that has landed, by its key, also while the run goes on."""
    path = store_path(folder, stage)
    if not path.exists():
        return {}
    with Store(path, read_only=True) as store:
        return {key: list(store.rows([key])) for key in store.done}


def store_path(folder: Path, stage: str) -> Path:
    """Of a stage."""
    return folder / f"{stage.replace(' ', '-')}.jsonl"
