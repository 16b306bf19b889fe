"""The one trainer: teachers and students, vectors and images, one network or R replicas, by the same loop."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bcpd.data import InMemory
from bcpd.distill import Method, check_needs
from bcpd.nets import HandNet, Views
from bcpd.seeds import derive, generator
from bcpd.train.checkpoint import fingerprint
from bcpd.train.evaluation import EvaluationSet, MeasuredSets, Metrics, PathMetrics
from bcpd.train.fitted import Fitted, OneForAll
from bcpd.train.folder import RunFolder
from bcpd.train.optim import AnyOptimizer, build_optimizer, set_rates
from bcpd.train.recipe import Recipe
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
    metrics: Callable[[MeasuredSets], Metrics] = PathMetrics,
) -> Fitted:
    r"""Train a network (or R replicas of one) by minimising a method's loss, and measure it every epoch.

    A teacher is a network trained with :class:`bcpd.distill.Supervised`; a student one trained with a method that
    looks at ``teacher``. Replica r of a run equals the single run with ``seed[r]``: the validation split, the batch
    order and the augmentation are functions of the seed (and epoch, and example) only, so that two runs that differ
    in the loss alone are paired. (What a method draws itself, in ``adapt``, ``prepare`` or by dropout, comes for all
    replicas from the stream of the first seed.) ``train_*`` are the means over an epoch's steps of the terms that were
    minimised, weighted by the sizes of the batches.

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
        save_seconds: least time between two saves of the resume state.
        device: where to train; network, data and teacher are moved there.
        progress: called after every epoch.
        gradients: ``auto`` takes the network's own :meth:`bcpd.nets.HandNet.backward` where it has one and the method
            looks at nothing but its logits; ``autograd`` never does. The two agree up to rounding.
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
    device = torch.device(device)
    replicas: int | None = getattr(net, "replicas", None)
    seeds = replica_seeds(seed, replicas)
    _check_parts(net, source, recipe, teacher, held_out)
    source = source.to(device)
    net.to(device)
    if teacher is not None:
        teacher.to(device).eval()
    taught_by = teacher
    if teacher is not None and replicas is not None and getattr(teacher, "replicas", None) is None:
        teacher = OneForAll(teacher, replicas, len(source.shape))
    train_index, validation_index = split(source, recipe.validation, seeds, replicas)

    example = source.batch(train_index[..., : min(2, train_index.shape[-1])]).x
    student_views, teacher_views = _look(net, example), None if teacher is None else _look(teacher, example)
    if student_views.logits.shape[-1] != source.num_classes:
        raise ValueError(
            f"the network has {student_views.logits.shape[-1]} outputs, the source {source.num_classes} classes"
        )
    check_needs(method, source, student_views, teacher_views)
    with _global_seed(derive(seeds[0], "adapt"), device):
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
        "metrics": _described(metrics, folder),
        "frozen": [name for name, parameter in net.named_parameters() if not parameter.requires_grad],
    }
    identity = hashlib.blake2b(json.dumps(spec, sort_keys=True).encode(), digest_size=10).hexdigest()
    run = RunFolder(folder, identity, spec, save_seconds) if folder is not None else None
    if run is not None and run.complete:
        return run.read(net, method)

    select = fresh = None
    if held_out is not None:
        held_out = held_out.to(device)
        select, fresh = (EvaluationSet(held_out, index) for index in halves(held_out))
    transfer = EvaluationSet(source, train_index)
    validation = None if validation_index is None else EvaluationSet(source, validation_index)
    trainer = _Trainer(
        net=net,
        source=source,
        train_index=train_index,
        method=method,
        recipe=recipe,
        seeds=seeds,
        teacher=teacher,
        replicas=replicas,
        device=device,
        measure=metrics(MeasuredSets(method, teacher, transfer, validation, select, fresh)),
        run=run,
        progress=progress,
        by_hand=gradients == "auto" and _by_hand(net, method),
    )
    return trainer.train(identity)


class _Trainer:
    """The loop, and the state that a resumed run takes up again: phase, epoch, weights, optimizer, kept states."""

    def __init__(
        self,
        *,
        net: nn.Module,
        source: InMemory,
        train_index: Tensor,
        method: Method,
        recipe: Recipe,
        seeds: list[int],
        teacher: nn.Module | None,
        replicas: int | None,
        device: torch.device,
        measure: Metrics,
        run: RunFolder | None,
        progress: Callable[[Progress], None] | None,
        by_hand: bool,
    ) -> None:
        self.net, self.source, self.train_index = net, source, train_index
        self.method, self.recipe, self.seeds = method, recipe, seeds
        self.teacher, self.replicas, self.device = teacher, replicas, device
        self.measure, self.run, self.progress = measure, run, progress
        # p* is not gathered for a method that does not ask for it, nor is a stream made for one that draws nothing
        self.training = source if "bayes" in method.needs else source.without_bayes()
        self.prepares = type(method).prepare is not Method.prepare
        self.by_hand = by_hand
        self.looks_at_teacher = any(need.startswith("teacher") for need in method.needs)
        roots = [derive(seed, "augment") for seed in seeds]
        self.augmentation_seed: int | list[int] = roots[0] if replicas is None else roots
        self.keeper = Keeper(method.scores(replicas), replicas)
        self.history: list[dict[str, Any]] = []
        self.phase, self.epoch = 0, 0

    def train(self, identity: str) -> Fitted:
        auxiliary = list(self.method.phases())
        resumed = self.run.resume() if self.run is not None else None
        if resumed is not None:
            self._restore(*resumed)
        for number, phase in enumerate(auxiliary):
            if number >= self.phase:
                self._run_phase(number, phase.name, phase.epochs, list(phase.parameters), self._phase_step(phase.loss))
        main = [p for p in (*self.net.parameters(), *self.method.parameters()) if p.requires_grad]
        if not main:
            raise ValueError("nothing is trained: every parameter of the network is frozen (requires_grad is False)")
        self._run_phase(len(auxiliary), "main", self.recipe.epochs, main, self._student_step)
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
        epochs: int,
        parameters: list[nn.Parameter],
        step_of: Callable[[Tensor, int, int], Mapping[str, Tensor]],
    ) -> None:
        optimizer = build_optimizer(self.recipe, parameters, self.replicas)
        if self.phase != number:
            self.phase, self.epoch = number, 0
        elif self.epoch and self.run is not None:
            self.run.restore_optimizer(optimizer, self.device)
        while self.epoch < epochs:
            metrics = self._train_epoch(name, self.epoch, epochs, optimizer, step_of)
            self.epoch += 1
            if name == "main":
                metrics |= self._measured(metrics)
                self.history.append({"epoch": self.epoch, **metrics})
                self.keeper.update(self.epoch, metrics, self.net.state_dict())
            if self.run is not None:
                self.run.save(self._export(), self._record(), optimizer, last=self.epoch == epochs)
            if self.progress is not None:
                self.progress(Progress(name, self.epoch, epochs, metrics))

    def _measured(self, training: Mapping[str, Any]) -> dict[str, list[float]]:
        """The metrics of the network as it is, checked, and which replicas still give finite logits."""
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
        epoch: int,
        epochs: int,
        optimizer: AnyOptimizer,
        step_of: Callable[[Tensor, int, int], Mapping[str, Tensor]],
    ) -> dict[str, list[float]]:
        order = order_of_epoch(self.train_index, self.seeds, phase, epoch)
        batches = torch.split(order, self.recipe.batch_size, dim=-1)
        rates = self.recipe.rates(self.replicas)
        sums: dict[str, Tensor] = {}
        self.net.train()
        self.method.train()
        with _global_seed(derive(self.seeds[0], "epoch", phase, epoch), self.device):
            for step, index in enumerate(batches):
                factor = self.recipe.schedule.factor((epoch + step / len(batches)) / epochs)
                set_rates(optimizer, [rate * factor for rate in rates])
                optimizer.zero_grad(set_to_none=True)
                named = step_of(index, epoch, step)
                optimizer.step()
                for name, value in named.items():
                    share = value.detach().reshape(-1) * (index.shape[-1] / order.shape[-1])
                    sums[name] = sums[name] + share if name in sums else share
        sums["loss"] = torch.stack(list(sums.values())).sum(0)
        return {f"train_{name}": value.tolist() for name, value in sums.items()}

    def _student_step(self, index: Tensor, epoch: int, step: int) -> Mapping[str, Tensor]:
        """The loss terms of a batch; the gradients of network and method are set."""
        self.method.progress(epoch, step)
        batch = self.training.batch(index, seed=self.augmentation_seed, epoch=epoch)
        if self.prepares:
            batch = self.method.prepare(batch, generator(self.seeds[0], "method", epoch, step))
        t: Views | None = None
        if self.teacher is not None and self.looks_at_teacher:
            with torch.no_grad():
                t = self.teacher(batch.x)
        if not self.by_hand:
            return self._backward(self.method.loss(batch, self.net(batch.x), t))
        net = self.net
        assert isinstance(net, HandNet)
        with torch.no_grad():
            views: Views = net(batch.x)
        shown = _leaves(views)
        named = self._backward(self.method.loss(batch, shown, t))
        if any(view.grad is not None for view in (shown.pooled, *shown.stages, *shown.preacts)):
            raise ValueError(
                f"{type(self.method).__name__} learns from a student's view other than its logits; "
                f"declare it in needs (student.pooled, student.stages or student.preacts)"
            )
        if shown.logits.grad is not None:
            with torch.no_grad():
                net.backward(batch.x, views, shown.logits.grad)
        return named

    def _phase_step(
        self, loss: Callable[..., Mapping[str, Tensor]]
    ) -> Callable[[Tensor, int, int], Mapping[str, Tensor]]:
        teacher = self.teacher
        if teacher is None:
            raise ValueError(f"{type(self.method).__name__} has a phase that trains on a teacher, but none was given")

        def step_of(index: Tensor, epoch: int, step: int) -> Mapping[str, Tensor]:
            batch = self.training.batch(index, seed=self.augmentation_seed, epoch=epoch)
            batch = self.method.prepare(batch, generator(self.seeds[0], "phase", self.phase, epoch, step))
            with torch.no_grad():
                t = teacher(batch.x)
            return self._backward(loss(batch, t))

        return step_of

    def _backward(self, named: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Back-propagate the sum of the terms; replicas share no parameter, so each gets the gradient of its own."""
        # a term of another shape would be summed over examples, or over replicas, without a word
        expected = () if self.replicas is None else (self.replicas,)
        wrong = [f"{name}: {tuple(value.shape)}" for name, value in named.items() if value.shape != expected]
        if "loss" in named:
            raise ValueError(f"a term of {type(self.method).__name__} must not be named 'loss', which is their sum")
        if wrong or not named:
            raise ValueError(
                f"a loss of {type(self.method).__name__} must return terms of shape {expected}, one number a replica, "
                f"received {', '.join(wrong) or 'no term'}"
            )
        learned = [term for term in named.values() if term.requires_grad]
        if not learned:
            raise ValueError(f"no term of {type(self.method).__name__} depends on what is trained")
        total = learned[0] if len(learned) == 1 else torch.stack(learned).sum(0)
        total.sum().backward()  # type: ignore[no-untyped-call]
        return named

    def _export(self) -> dict[str, Tensor]:
        kept, _ = self.keeper.export()
        net = {f"net.{key}": value for key, value in self.net.state_dict().items()}
        method = {f"method.{key}": value for key, value in self.method.state_dict().items()}
        return {**net, **method, **kept}

    def _record(self) -> dict[str, Any]:
        _, kept = self.keeper.export()
        return {"phase": self.phase, "epoch": self.epoch, "history": self.history, "kept": kept}

    def _restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        for prefix, module in (("net.", self.net), ("method.", self.method)):
            module.load_state_dict(
                {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            )
        self.keeper.restore(tensors, record["kept"], self.device)
        self.phase, self.epoch = record["phase"], record["epoch"]
        self.history = [_numbers(row) for row in record["history"]]


def _check_parts(
    net: nn.Module, source: InMemory, recipe: Recipe, teacher: nn.Module | None, held_out: InMemory | None
) -> None:
    """Refuse parts that do not fit together, whatever the method."""
    replicas: int | None = getattr(net, "replicas", None)
    recipe.rates(replicas)
    recipe.decays(replicas)
    for name, data in (("source", source), ("held_out", held_out)):
        if data is not None and data.replicas is not None and data.replicas != replicas:
            raise ValueError(f"{name} has {data.replicas} replicas, the network {replicas}")
    for name, module in (("network", net), ("teacher", teacher)):
        dtypes = {p.dtype for p in module.parameters()} if module is not None else set()
        if dtypes and source.dtype not in dtypes:
            raise ValueError(
                f"the {name} has parameters of {', '.join(map(str, dtypes))}, the source gives {source.dtype}"
            )
    if teacher is not None and {id(p) for p in teacher.parameters()} & {id(p) for p in net.parameters()}:
        raise ValueError(
            "the teacher shares parameters with the network that is trained, so it would not stay as it is; "
            "use a copy, for example Fitted.teacher()"
        )
    if held_out is not None:
        if held_out.log_bayes is None or len(held_out) < 2:
            raise ValueError(
                "held_out must hold at least 2 points with known p*; a real test set is measured afterwards"
            )
        if held_out.dtype != source.dtype:
            raise ValueError(f"held_out gives {held_out.dtype}, the source {source.dtype}")
        if (held_out.shape, held_out.num_classes) != (source.shape, source.num_classes):
            raise ValueError(
                f"held_out has inputs of shape {held_out.shape} and {held_out.num_classes} classes, "
                f"the source {source.shape} and {source.num_classes}"
            )


def _described(metrics: Any, folder: Path | str | None) -> Any:
    """What identifies a maker of metrics: its ``describe()``, or its place and the arguments bound to it.

    Raises:
        ValueError: a folder is to be kept, but nothing tells this maker from others.
    """
    if hasattr(metrics, "describe"):
        return metrics.describe()
    if isinstance(metrics, functools.partial):
        return [_described(metrics.func, folder), repr(metrics.args), repr(sorted(metrics.keywords.items()))]
    name = f"{getattr(metrics, '__module__', '')}.{getattr(metrics, '__qualname__', '')}"
    if folder is not None and (name.endswith(".") or "<lambda>" in name):
        raise ValueError(
            f"metrics must be a named class or function, a partial of one, or have describe() where a folder is kept, "
            f"received {metrics!r}: a run could not be told from one with other metrics"
        )
    return name


def _by_hand(net: nn.Module, method: Method) -> bool:
    """Whether the gradient of the logits says everything: the method sees no other view and learns nothing itself."""
    others = {need for need in method.needs if need.startswith("student.")} - {"student.logits"}
    return isinstance(net, HandNet) and not others and next(method.parameters(), None) is None and net.by_hand


def _leaves(views: Views) -> Views:
    """The same values, each the start of a graph."""

    def leaf(view: Tensor) -> Tensor:
        return view.detach().requires_grad_()

    return Views(
        leaf(views.logits),
        leaf(views.pooled),
        tuple(leaf(stage) for stage in views.stages),
        tuple(leaf(preact) for preact in views.preacts),
    )


@torch.no_grad()
def _look(net: nn.Module, x: Tensor) -> Views:
    """Views of a few examples in eval mode: no statistics move, no gradient."""
    training = net.training
    net.eval()
    views: Views = net(x)
    net.train(training)
    return views


@contextlib.contextmanager
def _global_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Layers that draw from the global generator (dropout) get a stream of their own; the caller's is left alone."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def _clone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in state.items()}


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """A history row read from JSON, with ``"nan"`` and ``"inf"`` as floats again."""
    return {key: [float(v) for v in value] if isinstance(value, list) else value for key, value in row.items()}
