"""Kill trainings with SIGKILL at chosen moments and let them go on; run as a program, since the killer must fork.

``python killed_runs.py OPTIMIZER few|all|within FOLDER`` writes an undisturbed run to FOLDER/whole and, for every
scenario, a run that was killed (often more than once) and then completed to FOLDER/<scenario>. It prints the scenarios
as JSON, with the number of lives each run needed. ``within`` saves after every step, not only after every epoch.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from dummy_methods import Everything
from small_world import mlp, world

import bcpd
from bcpd.distill import Supervised
from bcpd.train import Recipe

EPOCHS = 4


def recipe(optimizer: str) -> Recipe:
    if optimizer == "adam":
        return Recipe(epochs=EPOCHS, learning_rate=0.02, batch_size=8, optimizer="adam", validation=0.25)
    return Recipe(epochs=EPOCHS, learning_rate=0.05, batch_size=8, momentum=0.9, nesterov=True, validation=0.25)


def train(optimizer: str, folder: Path) -> None:
    """One life: a student with a phase, learned parts, a memory and noise, saved after every epoch."""
    teacher = bcpd.train.ReadOut(mlp(5, (9,)), Supervised("ce"))
    bcpd.fit(
        mlp(1),
        world(),
        Everything(40),
        recipe(optimizer),
        seed=0,
        teacher=teacher,
        held_out=world(20, 3),
        folder=folder,
        save_seconds=0.0,
    )


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def life(optimizer: str, folder: Path, prepare: Callable[[], None], patience: float | None = None) -> bool:
    """Train in a child of its own; whether it came to the end. With ``patience``, it is killed after that time."""
    child = os.fork()
    if child == 0:
        try:
            prepare()
            train(optimizer, folder)
        except BaseException:
            os._exit(3)
        os._exit(0)
    if patience is not None:
        time.sleep(patience)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"a run in {folder} failed instead of going on")
    return os.WIFEXITED(status)


def at_replacement(number: int, *, after: bool) -> Callable[[], None]:
    """Die at the ``number``-th renaming of a file into place, just before it or just after."""

    def prepare() -> None:
        replace, count = os.replace, 0

        def counted(source: str, target: str) -> None:
            nonlocal count
            count += 1
            if count == number and not after:
                die()
            replace(source, target)
            if count == number:
                die()

        os.replace = counted  # type: ignore[assignment]

    return prepare


def while_writing(number: int) -> Callable[[], None]:
    """Die with the ``number``-th file half written."""

    def prepare() -> None:
        fsync, count = os.fsync, 0

        def counted(handle: int) -> None:
            nonlocal count
            count += 1
            if count == number:
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
                die()
            fsync(handle)

        os.fsync = counted

    return prepare


def load_optimizers() -> None:
    """torch imports half of itself at the first step of an optimizer; once here spares every child seconds."""
    for kind in (torch.optim.SGD, torch.optim.Adam):
        parameter = torch.nn.Parameter(torch.zeros(1))
        parameter.grad = torch.ones(1)
        optimizer = kind([parameter], lr=0.1)
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())


def main(optimizer: str, extent: str, root: Path) -> None:
    torch.set_num_threads(1)
    load_optimizers()
    began = time.monotonic()
    assert life(optimizer, root / "whole", lambda: None)
    duration = time.monotonic() - began
    everything = extent == "all"
    if extent == "within":
        bcpd.train.folder.WITHIN_SECONDS = 0.0  # type: ignore[attr-defined]
    lives: dict[str, int] = {}

    def until_done(name: str, *first: Callable[[], bool]) -> None:
        lives[name] = 1
        for attempt in first:
            if attempt():
                return
            lives[name] += 1
        while not life(optimizer, root / name, lambda: None):
            lives[name] += 1

    # provenance, spec, 6 saves (24 within epochs and after them), metrics, 5 weights, method, done: 16 files (34)
    moments_of_death = {"few": (2, 4, 8, 11, 16), "all": range(1, 17), "within": (3, 4, 5, 9, 14, 19, 24, 27)}
    for number in moments_of_death[extent]:
        name = f"replacement {number}"
        prepare = at_replacement(number, after=number % 2 == 0)
        until_done(name, lambda f=root / name, p=prepare: life(optimizer, f, p))  # type: ignore[misc]
    for number in {"few": (6,), "all": (3, 6, 10), "within": (4, 11, 20)}[extent]:
        name = f"half of file {number}"
        prepare = while_writing(number)
        until_done(name, lambda f=root / name, p=prepare: life(optimizer, f, p))  # type: ignore[misc]
    # lives of three files, the third of which comes to nothing
    name = "again and again"
    short = at_replacement(3, after=False)
    until_done(name, *[lambda f=root / name: life(optimizer, f, short)] * 12)  # type: ignore[misc]
    moments = random.Random(0 if optimizer == "adam" else 1)
    for number in range(4 if everything else 1):
        name = f"moment {number}"
        waits = [moments.uniform(0, duration) for _ in range(3)]
        until_done(name, *[lambda f=root / name, w=w: life(optimizer, f, lambda: None, w) for w in waits])  # type: ignore[misc]
    print(json.dumps(lives))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
