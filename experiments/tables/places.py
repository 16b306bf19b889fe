"""Where a run keeps what it makes, and how many trainings it has going at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.tables.spec import DATASETS, Protocol

__all__ = ["CAPTURED_TOGETHER", "Places", "number_together"]

CAPTURED_TOGETHER = 8
"""Trainings that go side by side in one process where their steps are captured; elsewhere one at a time."""


class Places(NamedTuple):
    """Folders: of this run, of the teachers that runs share, and of the data."""

    folder: Path
    teachers: Path
    data: Path | None

    @classmethod
    def of_run(cls, run: str, protocol: Protocol, folder: Path, data: Path | None, teachers: Path | None) -> Places:
        """Of a run, named for the error; teachers are below its folder where they have no other.

        Raises:
            ValueError: data that are needed and not given.
        """
        needed = DATASETS[protocol.dataset].images
        if needed != "digits" and data is None:
            raise ValueError(f"{run} needs the folder of {needed} (--data DIR)")
        return cls(folder, teachers or folder / "teachers", data)

    def local(self) -> dict[str, Any]:
        """What every task is given beside its payload."""
        return {name: None if path is None else str(path) for name, path in self._asdict().items()}

    @classmethod
    def of_task(cls, given: Mapping[str, Any]) -> Places:
        """From what a task was given."""
        data = given["data"]
        return cls(Path(given["folder"]), Path(given["teachers"]), None if data is None else Path(data))


def number_together(protocol: Protocol, asked: int | None, processes: int | None) -> tuple[int, int | None]:
    """Trainings side by side in a process, and processes: where none were asked for, one for several, or for a GPU.

    Raises:
        ValueError: fewer than one training at once.
    """
    together = (CAPTURED_TOGETHER if protocol.execution.graphs else 1) if asked is None else asked
    if together < 1:
        raise ValueError(f"together must be at least 1, received {together}")
    return together, 1 if processes is None and (together > 1 or protocol.device != "cpu") else processes
