"""The one trainer: teachers and students, vectors and images, one network or R replicas, by the same loop."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bcpd.data import InMemory
from bcpd.distill import Method, Phase, check_needs
from bcpd.seeds import derive
from bcpd.train.checkpoint import fingerprint
from bcpd.train.evaluation import EvaluationSet, MeasuredSets, Metrics, PathMetrics
from bcpd.train.fitted import Fitted, OneForAll
from bcpd.train.folder import RunFolder
from bcpd.train.gradient import Gradient, StepOf, global_seed
from bcpd.train.optim import AnyOptimizer, build_optimizer, set_rates
from bcpd.train.parts import check_parts, check_ranks, described, first_look
from bcpd.train.ranks import Ranks, synchronised
from bcpd.train.recipe import Recipe, Step
from bcpd.train.selection import Keeper
from bcpd.train.split import halves, order_of_epoch, replica_seeds, split

__all__ = ["Progress", "fit", "split"]

FINITE_AT = 32
"""Training inputs that a network is tried on after every epoch: one that gives no finite logits has diverged."""


@dataclass(frozen=True)
class Progress:
    """What a progress callback receives after every epoch.

    Attributes:
        phase: ``"main"``, or the name of a method's auxiliary phase.
        epoch, epochs: 1-based epoch and the length of the phase.
        metrics: this epoch's row of the history (lists, one number a replica).
    """

    phase: str
    epoch: int
    epochs: int
    metrics: Mapping[str, Any]


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
            where the method asks for it. A single model may teach all R students.
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
    Returns:
        :class:`Fitted`.
    Raises:
        ValueError: parts that do not fit together (before step 0); a folder that holds another run.
        CheckpointError: a damaged or foreign file in the folder.
    """
    if gradients not in ("auto", "autograd"):
        raise ValueError(f"gradients must be 'auto' or 'autograd', received {gradients!r}")
    if batch_statistics not in ("rank", "synchronised"):
        raise ValueError(f"batch_statistics must be 'rank' or 'synchronised', received {batch_statistics!r}")
    device = torch.device(device)
    if batch_statistics == "synchronised" and device.type != "cuda":
        raise ValueError(
            f"batch statistics are synchronised on CUDA only (torch.nn.SyncBatchNorm), received device {device.type}"
        )
    ranks = Ranks.current()
    replicas: int | None = getattr(net, "replicas", None)
    seeds = replica_seeds(seed, replicas)
    check_parts(net, source, recipe, teacher, held_out)
    source = source.to(device)
    net.to(device)
    if teacher is not None:
        teacher.to(device).eval()
    taught_by = teacher
    if teacher is not None and replicas is not None and getattr(teacher, "replicas", None) is None:
        teacher = OneForAll(teacher, replicas, len(source.shape))
    train_index, validation_index = split(source, recipe.validation, seeds, replicas)
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
    if ranks.count > 1:
        spec |= {"ranks": ranks.count, "batch_statistics": batch_statistics}
    identity = hashlib.blake2b(json.dumps(spec, sort_keys=True).encode(), digest_size=10).hexdigest()
    ranks.check_alike(identity)
    run = RunFolder(folder, identity, spec, save_seconds, ranks) if folder is not None else None
    if run is not None and run.complete:
        return run.read(net, method)

    select = fresh = None
    if held_out is not None:
        held_out = held_out.to(device)
        select, fresh = (EvaluationSet(held_out, index) for index in halves(held_out))
    transfer = EvaluationSet(source, train_index)
    validation = None if validation_index is None else EvaluationSet(source, validation_index)
    gradient = Gradient(net, method, teacher, source, seeds, ranks, by_hand=gradients == "auto")
    trainer = _Trainer(
        gradient=gradient,
        source=source,
        train_index=train_index,
        recipe=recipe,
        device=device,
        # measured is where it is reported
        measure=metrics(MeasuredSets(method, teacher, transfer, validation, select, fresh)) if ranks.first else None,
        run=run,
        progress=progress if ranks.first else None,
    )
    with contextlib.ExitStack() as stack:
        if ranks.count > 1 and batch_statistics == "synchronised":
            # the learned parts of a method whose batches are gathered see all rows already
            stack.enter_context(synchronised(net) if gradient.gathers else synchronised(net, method))
        return trainer.train(identity)


class _Trainer:
    """The loop, and the state that a resumed run takes up again: phase, epoch, step, weights, optimizer, kept states,
    sums and generators of an epoch that was left."""

    def __init__(
        self,
        *,
        gradient: Gradient,
        source: InMemory,
        train_index: Tensor,
        recipe: Recipe,
        device: torch.device,
        measure: Metrics | None,
        run: RunFolder | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.gradient, self.train_index, self.recipe, self.device = gradient, train_index, recipe, device
        self.net, self.method, self.ranks = gradient.net, gradient.method, gradient.ranks
        self.seeds, self.replicas = gradient.seeds, gradient.replicas
        self.measure, self.run, self.progress = measure, run, progress
        # p* is not gathered for a method that does not ask for it
        self.training = source if "bayes" in self.method.needs else source.without_bayes()
        roots = [derive(seed, "augment") for seed in self.seeds]
        self.augmentation_seed: int | list[int] = roots[0] if self.replicas is None else roots
        self.keeper = Keeper(self.method.scores(self.replicas), self.replicas)
        self.history: list[dict[str, Any]] = []
        self.phase, self.epoch, self.step = 0, 0, 0
        self.sums: dict[str, Tensor] = {}
        self.generators: dict[str, Tensor] = {}

    def train(self, identity: str) -> Fitted:
        auxiliary = list(self.method.phases())
        resumed = self.run.resume() if self.run is not None else None
        if resumed is not None:
            self._restore(*resumed)
        for number, phase in enumerate(auxiliary):
            if number >= self.phase:
                step_of = self.gradient.of_phase(phase, number)
                recipe = _recipe_of(phase, self.recipe)
                self._run_phase(number, phase.name, recipe, list(phase.parameters), step_of)
        main = [p for p in (*self.net.parameters(), *self.method.parameters()) if p.requires_grad]
        if not main:
            raise ValueError("nothing is trained: every parameter of the network is frozen (requires_grad is False)")
        self._run_phase(len(auxiliary), "main", self.recipe, main, self.gradient.of_student)
        fitted = Fitted(
            net=self.net.eval(),
            method=self.method,
            history=self.history,
            states={"last": _clone(self.net.state_dict()), **self.keeper.states},
            epochs={"last": [self.recipe.epochs] * len(self.seeds), **self.keeper.epochs},
            identity=identity,
        )
        if self.run is not None:
            self.run.finish(fitted)
        return fitted

    def _run_phase(
        self,
        number: int,
        name: str,
        recipe: Recipe,
        parameters: list[nn.Parameter],
        step_of: StepOf,
    ) -> None:
        epochs = recipe.epochs
        optimizer = build_optimizer(recipe, parameters, self.replicas)
        if self.phase != number:
            self.phase, self.epoch, self.step = number, 0, 0
        elif (self.epoch or self.step) and self.run is not None:
            self.run.restore_optimizer(optimizer, self.device)
        while self.epoch < epochs:
            metrics = self._train_epoch(name, recipe, optimizer, parameters, step_of)
            self.epoch, self.step = self.epoch + 1, 0
            self.ranks.share_buffers(self.net, self.method)
            if name == "main":
                metrics |= self.ranks.from_first(functools.partial(self._measured, metrics))
                self.history.append({"epoch": self.epoch, **metrics})
                self.keeper.update(self.epoch, metrics, self.net.state_dict())
            if self.run is not None and (self.epoch == epochs or self.run.due()):
                self.run.save(self._export(), self._record(), optimizer)
            if self.progress is not None:
                self.progress(Progress(name, self.epoch, epochs, metrics))

    def _measured(self, training: Mapping[str, Any]) -> dict[str, list[float]]:
        """The metrics of the network as it is, checked, and which replicas still give finite logits."""
        assert self.measure is not None
        mode = self.net.training
        self.net.eval()
        with torch.no_grad():
            found = self.measure(self.net)
            logits = self.net(self.training.inputs(self.train_index[..., :FINITE_AT])).logits
        self.net.train(mode)
        count = len(self.seeds)
        for name, values in found.items():
            if name in training or name in ("epoch", "finite"):
                raise ValueError(f"metrics must not be named {name!r}, which the training has itself")
            if len(values) != count:
                raise ValueError(f"metrics must be lists of {count} floats, one a replica; {name} is {values!r}")
        return {**found, "finite": logits.isfinite().reshape(count, -1).all(-1).double().tolist()}

    def _train_epoch(
        self,
        phase: str,
        recipe: Recipe,
        optimizer: AnyOptimizer,
        parameters: list[nn.Parameter],
        step_of: StepOf,
    ) -> dict[str, list[float]]:
        """The rest of the epoch that the run is in, from ``self.step`` on."""
        epoch = self.epoch
        order = order_of_epoch(self.train_index, self.seeds, phase, epoch)
        indices = torch.split(order, recipe.batch_size, dim=-1)
        rates = recipe.rates(self.replicas)
        self.net.train()
        self.method.train()
        with global_seed(derive(self.seeds[0], "epoch", phase, epoch), self.device):
            if self.step:
                _set_generators(self.generators, self.device)
            else:
                self.sums = {}
            rest: Sequence[Tensor] = indices[self.step :]
            if self.ranks.count > 1:
                rest = [index[self.ranks.rows(len(index))] for index in rest]
            for batch in self.training.batches(rest, seed=self.augmentation_seed, epoch=epoch):
                size = indices[self.step].shape[-1]
                factor = recipe.schedule.factor((epoch + self.step / len(indices)) / recipe.epochs)
                set_rates(optimizer, [rate * factor for rate in rates])
                optimizer.zero_grad(set_to_none=True)
                named = self.gradient.over_ranks(step_of(batch, size, epoch, self.step), parameters)
                optimizer.step()
                for name, value in named.items():
                    share = value.detach().reshape(-1) * (size / order.shape[-1])
                    self.sums[name] = self.sums[name] + share if name in self.sums else share
                self.step += 1
                if self.run is not None and self.step < len(indices) and self.run.due(within=True):
                    self.generators = _generators(self.device)
                    self.run.save(self._export(), self._record(), optimizer)
        sums = self.sums
        sums["loss"] = torch.stack(list(sums.values())).sum(0)
        return {f"train_{name}": value.tolist() for name, value in sums.items()}

    def _export(self) -> dict[str, Tensor]:
        kept, _ = self.keeper.export()
        net = {f"net.{key}": value for key, value in self.net.state_dict().items()}
        method = {f"method.{key}": value for key, value in self.method.state_dict().items()}
        if not self.step:
            return {**net, **method, **kept}
        sums = {f"sum.{name}": value for name, value in self.sums.items()}
        generators = {f"generator.{name}": state for name, state in self.generators.items()}
        return {**net, **method, **kept, **sums, **generators}

    def _record(self) -> dict[str, Any]:
        _, kept = self.keeper.export()
        record = {"phase": self.phase, "epoch": self.epoch, "history": self.history, "kept": kept}
        # in the middle of an epoch; a file keeps tensors in no order, and the loss is the sum of the terms in theirs
        return {**record, "step": self.step, "terms": list(self.sums)} if self.step else record

    def _restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        for prefix, module in (("net.", self.net), ("method.", self.method)):
            module.load_state_dict(_under(prefix, tensors))
        self.keeper.restore(tensors, record["kept"], self.device)
        self.phase, self.epoch, self.step = record["phase"], record["epoch"], record.get("step", 0)
        self.history = [_numbers(row) for row in record["history"]]
        self.generators = _under("generator.", tensors)
        self.sums = {name: tensors[f"sum.{name}"].to(self.device) for name in record.get("terms", [])}


def _generators(device: torch.device) -> dict[str, Tensor]:
    """The state of the global generators that layers draw from."""
    own = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **own}


def _recipe_of(phase: Phase, recipe: Recipe) -> Recipe:
    """The recipe with what the phase has of its own."""
    own: dict[str, Any] = {"epochs": phase.epochs}
    if phase.learning_rate is not None:
        own["learning_rate"] = phase.learning_rate
    if phase.milestones is not None:
        own["schedule"] = Step(phase.milestones)
    return replace(recipe, **own)


def _set_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _clone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in state.items()}


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """A history row read from JSON, with ``"nan"`` and ``"inf"`` as floats again."""
    return {key: [float(v) for v in value] if isinstance(value, list) else value for key, value in row.items()}
