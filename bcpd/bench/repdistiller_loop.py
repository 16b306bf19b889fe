r"""The baseline: the shape of RepDistiller's training loops on CIFAR (Tian, Krishnan & Isola 2020), in our own words.

A ``Dataset`` of pictures that a loader's workers crop, mirror and normalise one by one with Pillow; batches are
collated on the CPU and copied to the device from memory that is not pinned; float32, operation by operation, channels
first; a student's teacher looks at every batch; the loss is read (``.item()``) and top-1 and top-5 are averaged on
every step. On CUDA, cuDNN looks for its fastest algorithms and convolutions are in TF32, as that repository leaves
them. It is meant to be what it is, not fast: tests hold its pictures, losses and steps equal to those of
:func:`bcpd.fit`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from bcpd.data import Normalisation
from bcpd.data.augment import PADDING

__all__ = [
    "LABEL_WEIGHT",
    "NAME",
    "TEACHER_WEIGHT",
    "TEMPERATURE",
    "WORKERS",
    "Collated",
    "Epoch",
    "Pictures",
    "augmented",
    "distillation",
    "loader",
    "released_settings",
    "train_epoch",
    "workers_here",
]

NAME = "repdistiller loop"
TEMPERATURE, LABEL_WEIGHT, TEACHER_WEIGHT = 4.0, 0.1, 0.9
WORKERS = {"cuda": 8, "cpu": 2}
"""Of the loader, by device, where there are as many cores: 8 is that repository's default."""

Collated = tuple[Tensor, Tensor, Tensor]
"""Images ``(B, C, H, W)`` float32, labels ``(B,)``, places in the data set ``(B,)``."""


class Pictures(Dataset[tuple[Tensor, int, int]]):
    """Pictures and labels, each augmented anew whenever it is asked for.

    Args:
        x: ``(N, 3, H, W)`` uint8; y: ``(N,)`` labels.
        normalise: the moments by channel.
    """

    def __init__(self, x: Tensor, y: Tensor, normalise: Normalisation) -> None:
        self.arrays = x.cpu().permute(0, 2, 3, 1).contiguous().numpy()
        self.labels: list[int] = y.tolist()
        self.mean, self.std = (torch.tensor(moment)[:, None, None] for moment in (normalise.mean, normalise.std))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        row, column = (int(torch.randint(0, 2 * PADDING + 1, (1,)).item()) for _ in range(2))
        mirrored = torch.rand(1).item() < 0.5
        return self.shown(index, row, column, mirrored), self.labels[index], index

    def shown(self, index: int, row: int, column: int, mirrored: bool) -> Tensor:
        """One view of a picture as the network sees it, ``(3, H, W)``; the arguments are those of :func:`augmented`."""
        picture = augmented(Image.fromarray(self.arrays[index]), row, column, mirrored)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        return pixels.to(torch.float32).div(255).sub_(self.mean).div_(self.std)


def augmented(picture: Image.Image, row: int, column: int, mirrored: bool) -> Image.Image:
    """Padded by four black pixels on each side, cut out from ``row`` and ``column`` (0..8) on, perhaps mirrored."""
    width, height = picture.size
    padded = ImageOps.expand(picture, border=PADDING, fill=0)
    cut = padded.crop((column, row, column + width, row + height))
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else cut


def workers_here(device: str) -> int:
    """Workers of the loader beside a device: :data:`WORKERS`, no more than cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(WORKERS[device], cores)


def loader(pictures: Pictures, batch: int, workers: int) -> DataLoader[tuple[Tensor, int, int]]:
    """Batches in a new order every epoch, the last one kept; its workers stay from epoch to epoch.

    They are spawned: a process that has threads or CUDA is not forked.
    """
    return DataLoader(
        pictures,
        batch_size=batch,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,
    )


def distillation(z_s: Tensor, z_t: Tensor, y: Tensor) -> Tensor:
    r""":math:`0.1\, CE(y, s) + 0.9\, T^2\, KL(\mathrm{softmax}(z_t/T) \,\|\, \mathrm{softmax}(z_s/T))` at T = 4.

    Args:
        z_s, z_t: logits ``(B, K)``; y: labels ``(B,)``.
    Returns:
        the mean over the batch.
    """
    log_s = functional.log_softmax(z_s / TEMPERATURE, dim=1)
    t = functional.softmax(z_t / TEMPERATURE, dim=1)
    divergence = functional.kl_div(log_s, t, reduction="sum") * TEMPERATURE**2 / len(z_s)
    return LABEL_WEIGHT * functional.cross_entropy(z_s, y) + TEACHER_WEIGHT * divergence


class _Average:
    """A mean over examples, brought up to date with every batch."""

    def __init__(self) -> None:
        self.total: float | Tensor = 0.0
        self.mean: float | Tensor = 0.0
        self.count = 0

    def update(self, value: float | Tensor, size: int) -> None:
        self.total = self.total + value * size
        self.count += size
        self.mean = self.total / self.count


@torch.no_grad()
def _percent_found(logits: Tensor, y: Tensor, ranks: tuple[int, ...] = (1, 5)) -> list[Tensor]:
    """Percent of examples whose label is among the first classes, so many as each rank says."""
    best = logits.topk(max(ranks), dim=1).indices
    found = best == y[:, None]
    return [found[:, :rank].any(dim=1).float().mean() * 100 for rank in ranks]


class Epoch(NamedTuple):
    """Means over an epoch's examples, each under the weights of its step: the loss, and top-1 and top-5 in percent."""

    loss: float
    top1: float
    top5: float


def train_epoch(
    net: nn.Module, teacher: nn.Module | None, optimizer: torch.optim.Optimizer, batches: Iterable[Collated]
) -> Epoch:
    """Train in place for an epoch: on the labels by cross-entropy, or on a teacher too (:func:`distillation`).

    Args:
        net, teacher: give :class:`bcpd.nets.Views`, of at least 5 classes, on one device.
        batches: such as a :func:`loader` gives.
    """
    device = next(net.parameters()).device
    losses, top1, top5 = _Average(), _Average(), _Average()
    net.train()
    if teacher is not None:
        teacher.eval()
    for x, y, _ in batches:
        x, y = x.to(device), y.to(device)
        logits = net(x).logits
        if teacher is None:
            loss = functional.cross_entropy(logits, y)
        else:
            with torch.no_grad():
                taught = teacher(x).logits
            loss = distillation(logits, taught, y)
        losses.update(loss.item(), len(y))
        for average, value in zip((top1, top5), _percent_found(logits, y), strict=True):
            average.update(value, len(y))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Epoch(float(losses.mean), float(top1.mean), float(top5.mean))


@contextlib.contextmanager
def released_settings(device: str) -> Iterator[None]:
    """While it lasts: on CUDA, cuDNN's search for algorithms, TF32 in convolutions, and float32 in matrix products."""
    if device != "cuda":
        yield
        return
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    convolutions = cudnn.conv  # type: ignore[attr-defined]
    before = cudnn.benchmark, convolutions.fp32_precision, products.fp32_precision
    try:
        cudnn.benchmark, convolutions.fp32_precision, products.fp32_precision = True, "tf32", "ieee"
        yield
    finally:
        cudnn.benchmark, convolutions.fp32_precision, products.fp32_precision = before
