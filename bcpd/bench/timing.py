"""Fair times on a shared machine: variants in turns, wall and CPU time, the machine's own rates, peak memory."""

from __future__ import annotations

import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch

from bcpd.provenance import provenance

__all__ = ["BUSY", "Timing", "clock", "copy_rate", "extra_memory", "interleaved", "machine", "matmul_rate"]

BUSY = 1.1  # wall over CPU time of one thread, above which the machine does something else as well

T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    """Seconds of each timed round of a variant.

    Attributes:
        wall, cpu_times: by the clock, and of all threads of this process.
    """

    wall: tuple[float, ...]
    cpu_times: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the wall times."""
        return median(self.wall)

    @property
    def best(self) -> float:
        """Of the wall times."""
        return min(self.wall)

    @property
    def cpu(self) -> float:
        """Median of the CPU times."""
        return median(self.cpu_times)

    @property
    def busy(self) -> bool:
        """Whether a variant of one thread waited for the machine: its wall time is over 1.1 times its CPU time."""
        return self.median > BUSY * self.cpu

    def record(self) -> dict[str, Any]:
        """As a dict, for JSON."""
        return {"seconds": self.median, "best": self.best, "cpu": self.cpu, "busy": self.busy, "rounds": len(self.wall)}


def interleaved(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Time variants in turns in this process, in reversed order every other round, after one round of warm-up.

    Work that a variant starts on a CUDA device is waited for.

    Args:
        variants: by name; what they return is dropped.
        rounds: timed ones, at least 1.
    Raises:
        ValueError: no round, or nothing to time.
    """
    if rounds < 1 or not variants:
        raise ValueError(f"needs a variant and rounds >= 1, received {len(variants)} variants and {rounds} rounds")
    names = list(variants)
    wall: dict[str, list[float]] = {name: [] for name in variants}
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            _wait()
            started, started_cpu = time.perf_counter(), time.process_time()
            variants[name]()
            _wait()
            if number > 0:
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - started_cpu)
    return {name: Timing(tuple(wall[name]), tuple(cpu[name])) for name in variants}


def _wait() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def clock(timings: Mapping[str, Timing]) -> str:
    """What ratios of variants of one thread are taken of: ``wall`` time, or ``cpu`` time where one of them is busy."""
    return "cpu" if any(timing.busy for timing in timings.values()) else "wall"


def matmul_rate(device: str = "cpu", size: int = 2048, rounds: int = 5) -> float:
    """FLOP/s of a square float32 product, the best of ``rounds``: what no dense network is faster than."""
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    output = torch.empty_like(left)
    timing = interleaved({"product": lambda: torch.mm(left, right, out=output)}, rounds)["product"]
    return 2 * size**3 / timing.best


def copy_rate(device: str = "cpu", megabytes: int = 128, rounds: int = 5) -> float:
    """Bytes/s of a copy, read and written ones together, the best of ``rounds``: what nothing streams faster than."""
    source = torch.zeros(megabytes * 2**18, device=device)
    output = torch.zeros_like(source)
    timing = interleaved({"copy": lambda: output.copy_(source)}, rounds)["copy"]
    return 2 * source.nbytes / timing.best


def machine(device: str = "cpu") -> dict[str, Any]:
    """Versions, device, threads, the CPU's name and the load average of the last minute; JSON-able."""
    return {**provenance(device), "cpu": _cpu_name(), "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def extra_memory(prepare: Callable[[], T], action: Callable[[T], object]) -> int | None:
    """Bytes by which the peak resident memory of a fresh process rises in ``action(prepare())``.

    What ``action`` returns counts, what ``prepare`` has made and touched does not. Both are functions of a module
    (or :func:`functools.partial` of one): the process is spawned. It has one thread.

    Returns:
        the bytes; None where the system has no ``/proc/self/clear_refs`` to reset the peak.
    """
    if not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, prepare, action).result()


def _measured(prepare: Callable[[], T], action: Callable[[T], object]) -> int:
    torch.set_num_threads(1)
    state = prepare()
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident_peak()
    kept = action(state)
    after = _resident_peak()
    del kept
    return after - before


def _resident_peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
