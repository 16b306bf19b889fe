"""Progress on standard error: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["Meter"]

SECONDS_BETWEEN_LINES = 10.0


class Meter:
    """Shows how far a long command is.

    Args:
        title: of the command.
        total: steps in all, where known.
    """

    def __init__(self, title: str, total: int | None = None) -> None:
        self.title, self.total, self.done = title, total, 0
        self.started = self.last_line = time.monotonic()
        self.bar: Progress | None = None
        if sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.task = self.bar.add_task(title, total=total)

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, what: str) -> None:
        """One step done."""
        self.done += 1
        self._show(what, self.done, self.total)

    def stage(self, what: str, done: int, total: int) -> None:
        """A stage of its own length: a training and its epochs."""
        self._show(what, done, total)

    def _show(self, what: str, done: int, total: int | None) -> None:
        if self.bar is not None:
            self.bar.update(self.task, description=f"{self.title}: {what}", completed=done, total=total)
            return
        now = time.monotonic()
        if now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            length = f"/{total}" if total else ""
            print(f"{now - self.started:5.0f} s  {self.title}: {what} {done}{length}", file=sys.stderr, flush=True)
