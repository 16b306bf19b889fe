"""The one trainer: teachers and students, vectors and images, one network or R replicas, by the same loop."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from bcpd.data import InMemory
from bcpd.distill import Method, check_needs
from bcpd.seeds import derive
from bcpd.train.checkpoint import fingerprint
from bcpd.train.evaluation import EvaluationSet, MeasuredSets, Metrics, PathMetrics
from bcpd.train.execution import EAGER, Execution, checked_device
from bcpd.train.fitted import Fitted, OneForAll
from bcpd.train.folder import RunFolder
from bcpd.train.gradient import Gradient, global_seed
from bcpd.train.graphs import check_capture
from bcpd.train.parts import check_kinds, check_parts, check_ranks, described, first_look
from bcpd.train.ranks import Ranks, synchronised
from bcpd.train.recipe import Recipe
from bcpd.train.split import halves, replica_seeds, split
from bcpd.train.teacher_table import TeacherTable
from bcpd.train.trainer import Progress, Trainer
from bcpd.train.turns import BURST, OnePass, Turns, alone, in_turns, with_one_pass

__all__ = ["Progress", "fit", "fit_side_by_side", "split", "training"]


def fit(
    net: nn.Module,
    source: InMemory,
    method: Method,
    recipe: Recipe,
    *,
    seed: int | Sequence[int],
    teacher: nn.Module | None = None,
    held_out: InMemory | None = None,
    folder: Path | str | None = None,
    save_seconds: float = 30.0,
    device: torch.device | str = "cpu",
    progress: Callable[[Progress], None] | None = None,
    gradients: Literal["auto", "autograd"] = "auto",
    batch_statistics: Literal["rank", "synchronised"] = "rank",
    metrics: Callable[[MeasuredSets], Metrics] = PathMetrics,
    execution: Execution = EAGER,
) -> Fitted:
    r"""Train a network (or R replicas of one) by minimising a method's loss, and measure it every epoch.

    A teacher is a network trained with :class:`bcpd.distill.Supervised`; a student one trained with a method that
    looks at ``teacher``. Replica r of a run equals the single run with ``seed[r]``: the validation split, the batch
    order and the augmentation are functions of the seed (and epoch, and example) only, so that two runs that differ
    in the loss alone are paired. (What a method draws itself, in ``adapt``, ``prepare`` or by dropout, comes for all
    replicas from the stream of the first seed.) ``train_*`` are the means over an epoch's steps of the terms that were
    minimised, weighted by the sizes of the batches.

    Under ``torchrun`` the processes share every batch: see :mod:`bcpd.train.ranks`.

    Args:
        net: a network of :mod:`bcpd.nets` (or anything returning :class:`bcpd.nets.Views`), trained in place.
        source: the training data; a share of it is carved out for validation (``recipe.validation``).
        method: what is minimised.
        recipe: how.
        seed: one int, or one for each replica.
        teacher: frozen, called in eval mode (it is left in it) without gradient on the very inputs the student sees,
            where the method asks for it. A single model may teach all R students. A :class:`bcpd.train.TeacherTable`
            is looked up instead.
        held_out: points with known p* that are never trained on. Half of them choose the path minimum, the other half
            report it and all ``fresh_*`` metrics.
        folder: where to keep spec, metrics, weights and resume state. If the folder holds this very run, it is
            continued (to the bits it would have had, on a CPU with the same number of threads) or, if complete,
            read back.
        save_seconds: least time between two saves of the resume state. They are made after an epoch, and within one
            that takes long (there at least 5 s apart).
        device: where to train; network, data and teacher are moved there.
        progress: called after every epoch.
        gradients: ``auto`` takes the network's own :meth:`bcpd.nets.HandNet.backward` where it has one and the method
            looks at nothing but its logits; ``autograd`` never does. The two agree up to rounding.
        batch_statistics: where several processes share a batch, over whose rows batch normalisation takes its
            statistics: each ``rank`` over its own, or ``synchronised`` over all (CUDA only).
        metrics: makes what measures the network after every epoch (in eval mode, without gradient; a function of the
            network alone, for a resumed run makes it anew); by default the columns of
            :class:`bcpd.train.PathMetrics`.
        execution: precision of the steps, compilation, CUDA graphs.
    Returns:
        :class:`Fitted`.
    Raises:
        ValueError: parts that do not fit together (before step 0); a folder that holds another run.
        CheckpointError: a damaged or foreign file in the folder.
    """
    steps = training(
        net,
        source,
        method,
        recipe,
        seed=seed,
        teacher=teacher,
        held_out=held_out,
        folder=folder,
        save_seconds=save_seconds,
        device=device,
        progress=progress,
        gradients=gradients,
        batch_statistics=batch_statistics,
        metrics=metrics,
        execution=execution,
    )
    return alone(steps, checked_device(device), captured=execution.graphs)


def fit_side_by_side(trainings: Sequence[Mapping[str, Any]], burst: int | None = None) -> list[Fitted]:
    """Train several networks at once in this process; the results are those of :func:`bcpd.fit` one after another.

    A small network leaves most of a GPU idle. Here each training hands its steps to a stream of its own, which the
    device runs beside the others' (worth it with ``Execution(graphs=True)``, where a step is one launch). The host
    takes turns: ``burst`` steps of each. On the CPU they are done in turns, and students of one teacher that see the
    same inputs (of one source, seed and batch size) share its forward pass. A training keeps its folder, progress and
    generators as if it were alone; trainings may share their source and their (frozen) teacher, but not a network that
    is trained or a method.

    Args:
        trainings: the arguments of :func:`bcpd.fit`, by name, of each.
        burst: steps a turn, >= 1; by default :data:`bcpd.train.turns.BURST` on CUDA, and 1 on a CPU, where longer
            turns share no pass.
    Returns:
        what each was fitted to, in their order.
    Raises:
        ValueError: networks or methods that are shared, no steps in a turn; and what :func:`bcpd.fit` raises: the
            others are then left where they are, to be resumed from their folders.
    """
    devices = [checked_device(arguments.get("device", "cpu")) for arguments in trainings]
    if burst is None:
        burst = BURST if any(device.type == "cuda" for device in devices) else 1
    if burst < 1:
        raise ValueError(f"burst must be at least 1, received {burst}")
    for name in ("net", "method"):
        parts = [id(arguments[name]) for arguments in trainings if name in arguments]
        if len(set(parts)) < len(parts):
            raise ValueError(f"every training needs a {name} of its own, received one in several of them")
    steps = [training(**arguments) for arguments in with_one_pass(trainings)]
    return in_turns([Turns(own, device) for own, device in zip(steps, devices, strict=True)], burst)


def training(
    net: nn.Module,
    source: InMemory,
    method: Method,
    recipe: Recipe,
    *,
    seed: int | Sequence[int],
    teacher: nn.Module | None = None,
    held_out: InMemory | None = None,
    folder: Path | str | None = None,
    save_seconds: float = 30.0,
    device: torch.device | str = "cpu",
    progress: Callable[[Progress], None] | None = None,
    gradients: Literal["auto", "autograd"] = "auto",
    batch_statistics: Literal["rank", "synchronised"] = "rank",
    metrics: Callable[[MeasuredSets], Metrics] = PathMetrics,
    execution: Execution = EAGER,
) -> Generator[float, None, Fitted]:
    """:func:`fit`, pausing after every step, when its work has been handed to the device: to run several in turns."""
    if gradients not in ("auto", "autograd"):
        raise ValueError(f"gradients must be 'auto' or 'autograd', received {gradients!r}")
    if batch_statistics not in ("rank", "synchronised"):
        raise ValueError(f"batch_statistics must be 'rank' or 'synchronised', received {batch_statistics!r}")
    device = checked_device(device)
    if batch_statistics == "synchronised" and device.type != "cuda":
        raise ValueError(
            f"batch statistics are synchronised on CUDA only (torch.nn.SyncBatchNorm), received device {device.type}"
        )
    execution.check(device)
    check_kinds(net, source, method, recipe, teacher)
    ranks = Ranks.current()
    replicas: int | None = getattr(net, "replicas", None)
    seeds = replica_seeds(seed, replicas)
    check_parts(net, source, recipe, teacher, held_out)
    source = source.to(device)
    net.to(device)
    if teacher is not None:
        teacher.to(device).eval()
    if isinstance(teacher, TeacherTable):
        teacher.check_source(source)
    taught_by = teacher.teacher if isinstance(teacher, OnePass) else teacher
    teacher, measured_teacher = (
        OneForAll(one, replicas, len(source.shape))
        if one is not None and replicas is not None and getattr(one, "replicas", None) is None
        else one
        for one in (teacher, taught_by)
    )
    train_index, validation_index = split(source, recipe.validation, seeds, replicas)
    if execution.graphs:
        check_capture(net, source, ranks.count)
    check_ranks(ranks, replicas, train_index.shape[-1], recipe.batch_size)

    example = source.batch(train_index[..., : min(2, train_index.shape[-1])]).x
    student_views, teacher_views = first_look(net, example), None if teacher is None else first_look(teacher, example)
    if student_views.logits.shape[-1] != source.num_classes:
        raise ValueError(
            f"the network has {student_views.logits.shape[-1]} outputs, the source {source.num_classes} classes"
        )
    check_needs(method, source, student_views, teacher_views)
    with global_seed(derive(seeds[0], "adapt"), device):
        method.adapt(student_views, teacher_views)
    method.to(device)

    spec = {
        "net": {"name": getattr(net, "name", type(net).__name__), "initial": fingerprint(net)},
        "source": source.fingerprint(),
        "held_out": None if held_out is None else held_out.fingerprint(),
        "method": {**method.describe(), "initial": fingerprint(method)},
        "teacher": None if taught_by is None else fingerprint(taught_by),
        "recipe": recipe.describe(),
        "seeds": seeds,
        "device": device.type,
        "gradients": gradients,
        "metrics": described(metrics, folder),
        "frozen": [name for name, parameter in net.named_parameters() if not parameter.requires_grad],
    }
    if isinstance(taught_by, TeacherTable):
        spec["table"] = taught_by.describe()
    if execution != EAGER:
        spec["execution"] = execution.describe()
    if ranks.count > 1:
        spec |= {"ranks": ranks.count, "batch_statistics": batch_statistics}
    identity = hashlib.blake2b(json.dumps(spec, sort_keys=True).encode(), digest_size=10).hexdigest()
    ranks.check_alike(identity)
    run = RunFolder(folder, identity, spec, save_seconds, ranks) if folder is not None else None
    if run is not None and run.complete:
        return run.read(net, method)
    if isinstance(taught_by, TeacherTable) and execution.graphs and not taught_by.full:
        raise ValueError("captured steps need a whole table of the teacher: call its fill() first")

    select = fresh = None
    if held_out is not None:
        held_out = held_out.to(device)
        select, fresh = (EvaluationSet(held_out, index) for index in halves(held_out))
    transfer = EvaluationSet(source, train_index)
    validation = None if validation_index is None else EvaluationSet(source, validation_index)
    by_hand = gradients == "auto"
    gradient = Gradient(net, method, teacher, source, seeds, ranks, execution, device, by_hand)
    sets = MeasuredSets(method, measured_teacher, transfer, validation, select, fresh)
    trainer = Trainer(
        gradient=gradient,
        source=source,
        train_index=train_index,
        recipe=recipe,
        device=device,
        # measured is where it is reported
        measure=metrics(sets) if ranks.first else None,
        run=run,
        progress=progress if ranks.first else None,
        execution=execution,
    )
    with contextlib.ExitStack() as stack:
        if ranks.count > 1 and batch_statistics == "synchronised":
            # the learned parts of a method whose batches are gathered see all rows already
            stack.enter_context(synchronised(net) if gradient.gathers else synchronised(net, method))
        return (yield from trainer.steps(identity))
