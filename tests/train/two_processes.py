"""One of two processes that share trainings, as torchrun starts it: ``two_processes.py FOLDER``, or ``... cuda``.

Rank 0 then trains alone what they trained together, and prints the largest differences as JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from shared_runs import MORE_RUNS, RUNS, SIZE, Conv, Whole, gap, images, run
from small_world import K, mlp, world

from bcpd.distill import KD
from bcpd.nets import build
from bcpd.train import Fitted, Recipe, from_environment
from bcpd.train.ranks import Ranks

EVERY_RUN = {**RUNS, **MORE_RUNS}


class Stop(Exception):
    """Raised to interrupt a training."""


def single_precision() -> Fitted:
    net, teacher = (build("mlp", num_classes=K, input_shape=(4,), seed=seed, hidden=(16, 16)) for seed in (1, 5))
    recipe = Recipe(epochs=2, learning_rate=0.05, batch_size=32, validation=0.1)
    return run(KD(2.0), net, world(333, dtype=torch.float32), teacher, recipe)


def kept(folder: Path | None, *, stop: bool = False) -> Fitted:
    """The training with everything, in a folder where one is given; it may stop in the second epoch, on every rank."""

    class Stopped(Whole):
        def progress(self, epoch: int, step: int) -> None:
            if stop and (epoch, step) == (1, 2):
                raise Stop
            super().progress(epoch, step)

    return run(Stopped(SIZE), teacher=mlp(5), folder=folder, save_seconds=0.0)


def normalised(device: str, statistics: str) -> Fitted:
    options = {"device": device, "batch_statistics": statistics}
    return run(KD(2.0), Conv(1, norm=True), images(augment="flip"), Conv(5, norm=True), **options)


def on_one_device() -> None:
    """Batch statistics of both processes' rows. They share a device, which NCCL does not do."""
    dist.init_process_group("gloo")
    shared = {statistics: normalised("cuda", statistics) for statistics in ("synchronised", "rank")}
    assert all(type(fitted.net.norm) is torch.nn.BatchNorm2d for fitted in shared.values())
    if Ranks.current().first:
        dist.destroy_process_group()
        alone = normalised("cuda", "rank")
        print(json.dumps({statistics: gap(fitted, alone) for statistics, fitted in shared.items()}))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with from_environment("cpu"):
        ranks = Ranks.current()
        assert ranks.count == 2
        shared = {name: make() for name, make in EVERY_RUN.items()}
        shared["single precision"] = single_precision()
        try:
            kept(folder, stop=True)
        except Stop:
            shared["interrupted"] = kept(folder)
        read_back = kept(folder)
        assert gap(read_back, shared["interrupted"]) == 0
        states = ranks._all_told([fitted.states["last"] for fitted in shared.values()])
        for one, other in zip(*states, strict=True):
            assert all(torch.equal(one[key], other[key]) for key in one)
    if not ranks.first:
        return
    alone = {name: make() for name, make in EVERY_RUN.items()}
    alone["single precision"] = single_precision()
    alone["interrupted"] = kept(None)
    print(json.dumps({name: gap(shared[name], fitted) for name, fitted in alone.items()}))


if __name__ == "__main__":
    warnings.simplefilter("error")
    if sys.argv[1] == "cuda":
        on_one_device()
    else:
        main(Path(sys.argv[1]))
