"""What an experiment will cost on this machine, from a few timed steps of every pair of nets and every method."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bcpd.data import NORMALISATION, Batch, InMemory
from bcpd.distill import Method
from bcpd.files import write_json
from bcpd.nets import Net, build
from bcpd.seeds import generator
from experiments.tables.methods import SCRATCH, refusal, student_method, student_recipe
from experiments.tables.spec import DATASETS, METHODS, Known, Pair, Protocol, Tables

__all__ = ["Cost", "calibrate", "plan"]

SHAPES: Mapping[Known, tuple[tuple[int, int, int], int, int, int]] = {
    "digits": ((1, 8, 8), 10, 1437, 360),
    "cifar10": ((3, 32, 32), 10, 50_000, 10_000),
    "cifar100": ((3, 32, 32), 100, 50_000, 10_000),
    "imagenet": ((3, 224, 224), 1000, 1_281_167, 50_000),
}
"""Shape of an image, classes, training and test images."""

TIMED_IMAGES = 32
"""A batch that is timed on a CPU; a small one is slower by the image, so that the estimate errs on the long side."""

TEACHER = "teacher"


@dataclass(frozen=True)
class Cost:
    """Of one training.

    Attributes:
        seconds: a training image, shown once: forward, backward and update, the teacher's forward with it.
        forward: an image through the trained network alone.
        image_bytes: held for the backward pass, an image of a batch.
        fixed_bytes: weights of all networks, gradients, momenta, kept states, a method's own memory.
        phases: epochs, and seconds an image, of trainings that come before.
    """

    seconds: float
    forward: float
    image_bytes: float
    fixed_bytes: int
    phases: tuple[tuple[int, float], ...] = ()


def calibrate(spec: Tables, folder: Path | None = None) -> dict[str, Cost]:
    """Time a few steps of every teacher and every method on every pair; one thread of a CPU, or the device.

    Args:
        folder: keeps what was measured, ``calibration.json``; what is there is not measured again.
    Returns:
        by ``net/teacher`` and ``teacher-student/method``; a method that refuses a pair is left out.
    """
    path = None if folder is None else folder / "calibration.json"
    key = f"{spec.protocol.dataset} {spec.protocol.train} {spec.protocol.epochs} {spec.protocol.device}"
    stored: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    if path is not None and path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        kept = stored.get(key, {})
    wanted: list[tuple[Pair, str]] = [((net, net), TEACHER) for net in spec.teacher_nets]
    wanted += [(("", net), SCRATCH) for net in spec.student_nets]
    wanted += [(pair, method) for pair in spec.pairs for method in spec.methods]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for pair, method in wanted:
            name = _name(pair, method)
            if name not in kept:
                cost = _measured(spec, pair, method)
                kept[name] = None if cost is None else asdict(cost)
    finally:
        torch.set_num_threads(threads)
    if path is not None:
        write_json(path, {**stored, key: kept})
    return {name: Cost(**cost) for name, cost in kept.items() if cost is not None}


def _name(pair: Pair, method: str) -> str:
    return f"{pair[1]}/{method}" if method in (TEACHER, SCRATCH) else f"{pair[0]}-{pair[1]}/{method}"


def _measured(spec: Tables, pair: Pair, name: str) -> Cost | None:
    protocol = spec.protocol
    device = torch.device(protocol.device)
    source = _blank(protocol)
    net = _net(pair[1], source)
    teacher = None if name in (TEACHER, SCRATCH) else _net(pair[0], source).eval()

    def make() -> Method:
        options = spec.options.get(name, {})
        return student_method(protocol, name, net, teacher, source, 0, protocol.validation, options)

    two = source.batch(torch.arange(2)).x
    if refusal(make, net, teacher, two) is not None:
        return None
    method = make()
    with torch.no_grad():
        method.adapt(net(two), None if teacher is None else teacher(two))
    for part in (net, method, teacher):
        if part is not None:
            part.to(device)
    source = source.to(device)

    def main(batch: Batch, t: Any) -> Mapping[str, Tensor]:
        method.progress(0, 0)
        return method.loss(batch, net.train()(batch.x), t)

    method.train()
    trained = [*net.parameters(), *method.parameters()]
    seconds, image_bytes = _timed(main, trained, method, teacher, source, device)
    phases = []
    for phase in method.phases():
        taken, held = _timed(phase.loss, list(phase.parameters), method, teacher, source, device)
        phases.append((phase.epochs, taken))
        image_bytes = max(image_bytes, held)
    # gradients and momenta; the weights, and the last, best and best-scored of them, once more while they are written
    fixed = 2 * _bytes(trained) + 5 * _bytes([*net.state_dict().values(), *method.state_dict().values()])
    fixed += 0 if teacher is None else _bytes(teacher.parameters())
    # a memory has a row an example: here of few, there of all
    rows = [buffer for buffer in method.buffers() if buffer.ndim > 1 and len(buffer) == len(source)]
    fixed += round(5 * _bytes(rows) * (_examples(protocol) / len(source) - 1))
    return Cost(seconds, _forward(net, source, device), image_bytes, fixed, tuple(phases))


def _examples(protocol: Protocol) -> int:
    """Training images of a seed."""
    return protocol.train or SHAPES[DATASETS[protocol.dataset].images][2]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _shown(source: InMemory) -> Tensor:
    """A batch: a quarter of the source, so that a method's negatives are not all in it."""
    return torch.arange(len(source) // 4)


def _blank(protocol: Protocol) -> InMemory:
    """Four batches of noise in the data's shape."""
    entry = DATASETS[protocol.dataset]
    shape, classes, _, _ = SHAPES[entry.images]
    classes = 2 if entry.merged else classes
    count = 4 * (TIMED_IMAGES if torch.device(protocol.device).type == "cpu" else 64)
    draw = generator(0, "calibration")
    return InMemory(
        torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=draw),
        torch.arange(count) % classes,
        num_classes=classes,
        augment=entry.augment,
        normalise=NORMALISATION.get(entry.images),
    )


def _net(name: str, source: InMemory) -> Net:
    return build(name, num_classes=source.num_classes, input_shape=source.shape, seed=0)


def _timed(
    loss: Callable[[Batch, Any], Mapping[str, Tensor]],
    parameters: list[nn.Parameter],
    method: Method,
    teacher: nn.Module | None,
    source: InMemory,
    device: torch.device,
) -> tuple[float, float]:
    """Seconds, and bytes held for the backward pass, an image."""
    index = _shown(source)
    optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        batch = method.prepare(source.batch(index, seed=0, epoch=0), generator(0, "method"))
        with torch.no_grad():
            t = None if teacher is None else teacher(batch.x)
        torch.stack(list(loss(batch, t).values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    with _counted() as held:
        step()
    seconds = min(_clocked(step, device) for _ in range(2))
    return seconds / len(index), sum(held.values()) / len(index)


@torch.no_grad()
def _forward(net: nn.Module, source: InMemory, device: torch.device) -> float:
    x = source.inputs(_shown(source))
    net.eval()
    net(x)
    return _clocked(lambda: net(x), device) / len(x)


def _clocked(work: Callable[[], object], device: torch.device) -> float:
    """Time of this process, which others do not lengthen; on an accelerator, of the wall."""
    if device.type == "cpu":
        before = time.process_time()
        work()
        return time.process_time() - before
    torch.cuda.synchronize(device)
    before = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - before


@contextlib.contextmanager
def _counted() -> Iterator[dict[int, int]]:
    """Bytes of every storage that autograd keeps, parameters left out."""
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = max(held.get(storage.data_ptr(), 0), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield held


# ---------------------------------------------------------------------------------------------------------------- plan


def plan(spec: Tables, folder: Path | None = None, processes: int = 2, together: int = 1) -> dict[str, Any]:
    """Runs, images, hours and memory before anything starts.

    Args:
        folder: of the run, where the calibration is kept.
        processes: that will work at once. together: trainings side by side in each; what that saves is not counted.
    Returns:
        ``stages``, a row each (``hours`` of one process; ``MiB`` of one training, beside the interpreter), and in all
        ``runs``, ``process_hours``, and ``hours`` and ``GiB`` with so many processes and trainings.
    """
    costs = calibrate(spec, folder)
    protocol = spec.protocol
    entry = SHAPES[DATASETS[protocol.dataset].images]
    whole = _examples(protocol)
    test = min(protocol.test or entry[3], entry[3])
    kept = 0 if DATASETS[protocol.dataset].images == "imagenet" else math.prod(entry[0]) * (entry[2] + entry[3] + whole)

    def row(stage: str, name: str, runs: int, epochs: int, share: float = 1.0, batch: int = 64) -> dict[str, Any]:
        cost = costs[name]
        images = whole * (share if protocol.partial == "images" else 1.0)
        held = protocol.validation * images * (share if protocol.partial == "labels" else 1.0)
        shown = (images - held) * epochs
        seconds = shown * cost.seconds + sum((images - held) * e * s for e, s in cost.phases)
        seconds += (held * epochs + 2 * test) * cost.forward
        return {
            "stage": stage,
            "runs": runs,
            "thousand_images": round(runs * shown / 1000),
            "images_a_second": round(1 / cost.seconds),
            "hours": runs * seconds / 3600,
            "MiB": round((kept + cost.fixed_bytes + batch * cost.image_bytes) / 2**20),
        }

    stages = []
    for net in spec.teacher_nets:
        settings = sum(len(spec.rates[loss]) + len(spec.decays[loss]) - 1 for loss in spec.losses)
        name = _name((net, net), TEACHER)
        stages.append(row(f"tuning of {net}", name, settings, spec.tuning_epochs or protocol.epochs))
        trained = spec.seeds * len(spec.losses) * (len(spec.shares) if protocol.teacher_sees == "share" else 1)
        stages.append(row(f"teachers {net}", name, trained, protocol.epochs))
    todo: list[tuple[Pair, str]] = [(("", net), SCRATCH) for net in spec.student_nets]
    todo += [(pair, method) for method in sorted(spec.methods, key=METHODS.index) for pair in spec.pairs]
    for pair, method in todo:
        name = _name(pair, method)
        if name not in costs:
            continue
        arms = 1 if method == SCRATCH else len(spec.arms_of(method))
        batch = student_recipe(protocol, method, pair[1], protocol.validation, pair[0]).batch_size
        own = [row(name, name, spec.seeds * arms, protocol.epochs, share, batch) for share in spec.shares]
        stages.append(own[0] | {key: sum(part[key] for part in own) for key in ("runs", "thousand_images", "hours")})
    hours = sum(part["hours"] for part in stages)
    return {
        "stages": stages,
        "runs": sum(part["runs"] for part in stages),
        "process_hours": hours,
        "processes": processes,
        "together": together,
        "hours": hours / processes,
        "GiB": processes * together * max(part["MiB"] for part in stages) / 1024,
    }
