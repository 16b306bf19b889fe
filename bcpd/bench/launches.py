"""What a step of fit and of the baseline asks of its device: operators, launches, kernels.

On CUDA they are counted by torch's profiler, which stays attached to the driver and may make later launches slower: no
time is taken after it in the same process.
"""

from __future__ import annotations

import contextlib
from typing import Any, Self

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from bcpd.bench.real_work import Cell, Variant, Work
from bcpd.bench.repdistiller_loop import loader, released_settings, train_epoch
from bcpd.train import Progress

__all__ = ["CAPTURED_IN", "Launches", "of_baseline", "of_fit"]

STEPS = (2, 4)
"""Whole batches of the two epochs whose counts differ by those of two steps; a quarter of a batch comes last."""

FEW = 8
"""Images of a batch on the CPU, where it makes no difference to what is called."""

CAPTURED_IN = 3
"""Epochs of a training whose steps are captured: in the third one every size of batch is a replayed graph."""


class Launches:
    """Counts while it is entered, by the thread that enters and leaves it; what autograd does for that thread counts.

    Args:
        device: ``cpu``: ``operators`` of ATen are counted, but for those that only make a view. ``cuda``: ``launches``,
            calls of the runtime and driver that launch a kernel or a whole graph, and ``kernels``, those that ran on
            the device, of a graph one by one (by torch's profiler).
    """

    def __init__(self, device: str) -> None:
        self._counting: _Operators | _Kernels = _Kernels() if device == "cuda" else _Operators()

    def __enter__(self) -> Self:
        self._counting.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._counting.__exit__(*error)

    def counts(self) -> dict[str, int]:
        """What was counted, by name."""
        return self._counting.counts()


def of_fit(work: Work, cell: Cell, variant: Variant) -> dict[str, float]:
    """Of one run alone, with a table that is full."""
    work, counts = _small(work), []
    warm_up = CAPTURED_IN if variant.execution.graphs else 1
    for steps in STEPS:
        source = work.source(_images(work, steps))
        teacher = work.table(source) if variant.table else work.teacher(cell, torch.channels_last)
        launches = Launches(work.device)
        with contextlib.ExitStack() as counting:

            def progress(
                run: int,
                reported: Progress,
                launches: Launches = launches,
                counting: contextlib.ExitStack = counting,
            ) -> None:
                if reported.epoch == warm_up:
                    counting.enter_context(launches)
                else:
                    counting.close()

            work.train(cell, variant, work.nets(cell, variant), source, teacher, warm_up + 1, progress)
        counts.append(launches.counts())
    return _a_step(*counts)


def of_baseline(work: Work, cell: Cell) -> dict[str, float]:
    """Of its steps, not of its loader."""
    work, counts = _small(work), []
    net, teacher = work.network(cell.student), work.teacher(cell)
    optimizer = work.optimizer(cell, net)
    with released_settings(work.device):
        for steps in STEPS:
            batches = list(loader(work.pictures(_images(work, steps)), work.batch, 0))
            train_epoch(net, teacher, optimizer, batches)
            with Launches(work.device) as launches:
                train_epoch(net, teacher, optimizer, batches)
            counts.append(launches.counts())
    return _a_step(*counts)


def _small(work: Work) -> Work:
    return work if work.device == "cuda" else Work(work.images, work.device, min(FEW, work.batch), work.threads)


def _images(work: Work, steps: int) -> int:
    return steps * work.batch + work.batch // 4


def _a_step(fewer: dict[str, int], more: dict[str, int]) -> dict[str, float]:
    """Without what an epoch does once."""
    return {name: (more[name] - fewer[name]) / (STEPS[1] - STEPS[0]) for name in more}


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))

    def counts(self) -> dict[str, int]:
        return {"operators": self.count}


class _Kernels:
    """Of the whole process: nothing else may use the device meanwhile."""

    def __init__(self) -> None:
        self._profile = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True)

    def __enter__(self) -> None:
        torch.cuda.synchronize()
        self._profile.start()

    def __exit__(self, *error: Any) -> None:
        torch.cuda.synchronize()
        self._profile.stop()

    def counts(self) -> dict[str, int]:
        """Both numbers.

        Raises:
            RuntimeError: no kernel was seen: the profiler has no access to the device.
        """
        launches = kernels = 0
        for event in self._profile.events() or ():  # type: ignore[no-untyped-call]
            if event.device_type == DeviceType.CPU:
                launches += event.name.startswith("cu") and "Launch" in event.name
            else:
                moved = event.name.startswith(("Memcpy", "Memset"))
                kernels += not moved and not getattr(event, "is_user_annotation", False)
        if not kernels:
            raise RuntimeError("torch's profiler saw no kernel on the device")
        return {"launches": launches, "kernels": kernels}
