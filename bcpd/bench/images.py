"""``bcpd bench images``: images a second that small convolutional networks train on, are augmented, and are drawn.

A **cell** is a network, a size of images, a batch and a number of threads. In it take turns, in both memory formats: a
bare loop (slices of a permutation, plain autograd, torch's own SGD), :func:`bcpd.fit`, which must end an epoch at the
loop's weights, and ``fit`` with crop and flip. Labels and images are random, p* is unknown: nothing but training is
timed. A turn is an epoch; times are medians.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from bcpd.bench.stepping import EPOCHS, stepwise
from bcpd.bench.timing import Timing, clock, interleaved, machine, matmul_rate
from bcpd.data import AUGMENTATIONS, Augmentation, InMemory, digits
from bcpd.distill import Supervised
from bcpd.nets import build
from bcpd.seeds import generator
from bcpd.train import Fitted, Progress, Recipe, fit
from bcpd.train.split import order_of_epoch

__all__ = ["FORMATS", "SCALES", "Cell", "Scale", "bare_epoch", "check", "run"]

Format = Literal["channels_first", "channels_last"]
FORMATS: dict[Format, torch.memory_format] = {
    "channels_first": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
NUM_CLASSES = 10
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4
TOLERANCE = 1e-4
"""Of the weights after an epoch in float32, relative to the largest of a tensor."""
LOADED = 256
"""Images of an augmented batch: several steps' worth."""

VARIANTS: dict[str, Augmentation | None] = {"bare loop": None, "fit": None, "fit, crop-flip": "crop-flip"}

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Cell:
    """What is trained.

    Attributes:
        net: its name in :data:`bcpd.nets.NETS`.
        shape: (C, H, W).
        batch: images a step.
        threads: of torch.
        images: of an epoch.
    """

    net: str
    shape: tuple[int, int, int]
    batch: int
    threads: int
    images: int

    @property
    def size(self) -> str:
        """Such as 32x32x3."""
        channels, height, width = self.shape
        return f"{height}x{width}x{channels}"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a forward pass of one image."""
        net = build(self.net, num_classes=NUM_CLASSES, input_shape=self.shape).to("meta")
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(1, *self.shape, device="meta"))
        return int(counter.get_total_flops()) // 2

    def source(self, augment: Augmentation | None = None) -> InMemory:
        """Random images in bytes, as those of files are, with random labels."""
        stream = generator(0, "bench images", self.size)
        x = torch.randint(0, 256, (self.images, *self.shape), dtype=torch.uint8, generator=stream)
        y = torch.randint(0, NUM_CLASSES, (self.images,), generator=stream)
        return InMemory(x, y, num_classes=NUM_CLASSES, augment=augment)

    def network(self, layout: Format) -> nn.Module:
        """Freshly initialised, its weights in a memory format."""
        net = build(self.net, num_classes=NUM_CLASSES, input_shape=self.shape, seed=0)
        return net.to(memory_format=FORMATS[layout])  # type: ignore[call-overload, no-any-return]

    def fit(
        self,
        layout: Format,
        augment: Augmentation | None,
        epochs: int,
        progress: Callable[[Progress], None] | None = None,
    ) -> Fitted:
        """Train by :func:`bcpd.fit`, on the cell's threads."""
        torch.set_num_threads(self.threads)
        recipe = Recipe(epochs, LEARNING_RATE, self.batch, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, validation=0.0)
        net = self.network(layout)
        return fit(net, self.source(augment), Supervised("ce"), recipe, seed=0, progress=progress)


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        nets, shapes, batches, threads: of the cells, every combination.
        pixels: of an epoch's images, in one channel.
        loaded, drawn: images of a turn of augmentation and of sampling (mixtures draw them by 4,096).
    """

    nets: tuple[str, ...] = ("resnet8",)
    shapes: tuple[tuple[int, int, int], ...] = ((1, 8, 8), (1, 16, 16), (3, 32, 32))
    batches: tuple[int, ...] = (64,)
    threads: tuple[int, ...] = (1, 2)
    pixels: int = 2**18
    loaded: int = 4096
    drawn: int = 4096

    @property
    def cells(self) -> list[Cell]:
        """In the order in which they are measured."""
        return [
            Cell(net, shape, batch, threads, max(self.pixels // (shape[1] * shape[2]), batch))
            for net, shape, batch, threads in product(self.nets, self.shapes, self.batches, self.threads)
        ]


SCALES: dict[str, Scale] = {
    "laptop": Scale(),
    "smoke": Scale(shapes=((1, 8, 8),), batches=(16,), threads=(1,), pixels=2**11, loaded=64, drawn=64),
}


def run(rounds: int = 5, scale: str | Scale = "laptop", progress: Report | None = None) -> dict[str, Any]:
    """Measure; see the module.

    Args:
        rounds: of every table, at least 1; each variant is timed once in each.
        scale: a name in :data:`SCALES`, or a scale.
        progress: told ``(stage, done, total)``.
    Returns:
        JSON-able: ``training``, a row for each cell and variant (``images_per_second``, ``gflops`` and the share of
        the machine's matrix rate that they are); ``cells``, with the ratios ``channels_last_ratio`` (its speed over
        channels first's, by fit), ``loop_ratio`` (fit's speed over the bare loop's, channels last) and
        ``augmented_ratio`` (with crop and flip over without); ``augmentation``, a row a variant; ``sampling``, a row a
        world and size, ``over_training`` being how many times as fast as the fastest training on one thread images are
        drawn and answered (above 1, training is the bottleneck); and where it was measured. Speeds on one thread are
        by CPU time where the machine was ``busy``, others by the wall.
    Raises:
        ValueError: an unknown scale, no rounds, or a fit that does not do the loop's work.
    """
    if isinstance(scale, str) and scale not in SCALES:
        raise ValueError(f"scale must be one of {sorted(SCALES)}, received {scale!r}")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, received {rounds}")
    settings = SCALES[scale] if isinstance(scale, str) else scale
    report = progress or _silent
    stages = len(settings.cells) + 3
    with _threads(1):
        before = machine()
        report("matrix products", 0, stages)
        rate = matmul_rate()
        rows, cells = [], []
        for number, cell in enumerate(settings.cells):
            report(f"{cell.net} {cell.size}, batch {cell.batch}, threads {cell.threads}", number + 1, stages)
            found, ratios = _train(cell, rounds)
            for row in found:
                row["share_of_matmul"] = 1e9 * row["gflops"] / rate / cell.threads
            rows += found
            cells.append(ratios)
        report("augmentation", stages - 2, stages)
        augmentation = _augmentation(settings, rounds)
        report("sampling", stages - 1, stages)
        sampling = _sampling(settings, rounds, rows)
    return {
        "kind": "bench images",
        "rounds": rounds,
        "scale": scale if isinstance(scale, str) else "own",
        "busy": any(row["busy"] for row in (*rows, *augmentation, *sampling)),
        "matmul_gflops": rate / 1e9,
        "training": rows,
        "cells": cells,
        "augmentation": augmentation,
        "sampling": sampling,
        "machine": before,
    }


def _silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------------------- training


def bare_epoch(
    net: nn.Module, optimizer: torch.optim.Optimizer, source: InMemory, order: Tensor, batch: int, layout: Format
) -> None:
    """What one would write without a library: an epoch of cross-entropy over a permutation ``order``."""
    net.train()
    for index in torch.split(order, batch):
        images = source.x[index].to(torch.float32, memory_format=FORMATS[layout]).div_(255)
        loss = functional.cross_entropy(net(images).logits, source.y[index])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


class _Loop:
    """The bare loop, an epoch at a call, in the batch orders of fit."""

    def __init__(self, cell: Cell, layout: Format) -> None:
        self.cell, self.layout, self.epoch = cell, layout, 0
        self.source, self.net = cell.source(), cell.network(layout)
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        # the order in which fit holds its examples before it shuffles them
        self.index = torch.randperm(cell.images, generator=generator(0, "split"))

    def __call__(self) -> None:
        order = order_of_epoch(self.index, [0], "main", self.epoch)
        bare_epoch(self.net, self.optimizer, self.source, order, self.cell.batch, self.layout)
        self.epoch += 1


def check(cell: Cell, layout: Format) -> float:
    """See that an epoch of fit ends at the bare loop's weights; their largest relative difference.

    Raises:
        ValueError: it does not.
    """
    with _threads(cell.threads):
        loop = _Loop(cell, layout)
        loop()
        fitted = cell.fit(layout, None, 1)
    gap = max(
        float((fitted.states["last"][name] - value).abs().max() / value.abs().max().clamp(min=1e-6))
        for name, value in loop.net.state_dict().items()
        if value.is_floating_point()
    )
    if not gap <= TOLERANCE:
        raise ValueError(
            f"after one epoch the weights of fit ({cell.net}, {cell.size}, {layout}) differ from the bare loop's by "
            f"{gap:.2g} of the largest, more than {TOLERANCE:g}: it does other work, and no time is taken of it"
        )
    return gap


def _train(cell: Cell, rounds: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    variants: dict[str, Callable[[], None]] = {}
    about: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(_threads(cell.threads))
        for layout in FORMATS:
            check(cell, layout)
            for name, augment in VARIANTS.items():
                variant = f"{name}, {layout}"
                if name == "bare loop":
                    variants[variant] = _Loop(cell, layout)
                else:
                    train = partial(_trained, cell, layout, augment)
                    variants[variant] = stack.enter_context(stepwise(train))
                about.append({"variant": name, "format": layout})
        timings = interleaved(variants, rounds)
    by_cpu = cell.threads == 1 and clock(timings) == "cpu"
    speeds = {name: cell.images / (timing.cpu if by_cpu else timing.median) for name, timing in timings.items()}
    where = {"net": cell.net, "size": cell.size, "batch": cell.batch, "threads": cell.threads}
    gflop = 6 * cell.macs / 1e9  # two operations each, forward and twice as many backward
    rows = [
        {
            **where,
            **row,
            **_record(timings[name], cell.threads),
            "images_per_second": speeds[name],
            "gflops": gflop * speeds[name],
        }
        for row, name in zip(about, timings, strict=True)
    ]
    last = speeds["fit, channels_last"]
    ratios = {
        "channels_last_ratio": last / speeds["fit, channels_first"],
        "loop_ratio": last / speeds["bare loop, channels_last"],
        "augmented_ratio": speeds["fit, crop-flip, channels_last"] / last,
    }
    return rows, {**where, "macs": cell.macs, "clock": "cpu" if by_cpu else "wall", **ratios}


def _trained(cell: Cell, layout: Format, augment: Augmentation | None, progress: Callable[[Progress], None]) -> Fitted:
    return cell.fit(layout, augment, EPOCHS, progress)


def _record(timing: Timing, threads: int = 1) -> dict[str, Any]:
    """A timing for JSON; several threads are never said to wait, since their CPU times add up."""
    return {**timing.record(), "busy": threads == 1 and timing.busy}


# ----------------------------------------------------------------------------------------------- augmentation, sampling


def _augmentation(scale: Scale, rounds: int) -> list[dict[str, Any]]:
    """Batches gathered, augmented and scaled, from images in bytes and in float32."""
    names: tuple[Augmentation | None, ...] = (None, *AUGMENTATIONS)
    rows = []
    for shape in scale.shapes:
        cell = Cell(scale.nets[0], shape, LOADED, 1, scale.loaded)
        variants: dict[str, Callable[[], None]] = {}
        about: list[dict[str, Any]] = []
        for augment in names:
            given = cell.source(augment)
            floating = InMemory(given.x.float() / 255, given.y, num_classes=NUM_CLASSES, augment=augment)
            for stored, source in (("uint8", given), ("float32", floating)):
                variants[f"{augment}, {stored}"] = partial(_load, source)
                about.append({"size": cell.size, "augment": augment or "none", "stored": stored})
        timings = interleaved(variants, rounds)
        rows += [
            {**row, **_record(timing), "images_per_second": scale.loaded / _seconds(timings, timing)}
            for row, timing in zip(about, timings.values(), strict=True)
        ]
    return rows


def _seconds(timings: dict[str, Timing], timing: Timing) -> float:
    return timing.cpu if clock(timings) == "cpu" else timing.median


def _load(source: InMemory) -> None:
    for index in torch.split(torch.arange(len(source)), LOADED):
        source.batch(index, epoch=0)


def _sampling(scale: Scale, rounds: int, training: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Draws and their p* from worlds as they are made, not tuned: the Bayes error does not enter the work."""
    from bcpd.mixtures.image_worlds import IMAGE_WORLDS

    rows = []
    for channels, height, _ in scale.shapes:
        size = f"{height}x{height}x{channels}"
        fastest = max(
            (row["images_per_second"] for row in training if row["size"] == size and row["threads"] == 1), default=None
        )
        for name, world in IMAGE_WORLDS.items():
            pictures = _pictures(height, channels) if name == "factor-analyzers" else None
            mixture = world(height, channels, NUM_CLASSES, 0, pictures)
            x, _ = mixture.sample(scale.drawn, 0)
            timings = interleaved(
                {"draw": partial(mixture.sample, scale.drawn, 0), "p*": partial(mixture.posterior, x)}, rounds
            )
            draw, posterior = (_seconds(timings, timing) for timing in timings.values())
            both = scale.drawn / (draw + posterior)
            rows.append(
                {
                    "world": name,
                    "size": size,
                    "sampled_per_second": scale.drawn / draw,
                    "answered_per_second": scale.drawn / posterior,
                    "both_per_second": both,
                    "over_training": None if fastest is None else both / fastest,
                    "busy": any(timing.busy for timing in timings.values()),
                }
            )
    return rows


def _pictures(size: int, channels: int) -> tuple[Tensor, Tensor]:
    """Digits brought to a size, all channels alike: what a world that is fitted to images is fitted to."""
    given = digits("train")
    x = functional.interpolate(given.x.to(torch.float64), (size, size), mode="bilinear")
    return x.expand(-1, channels, -1, -1), given.y
