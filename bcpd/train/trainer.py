"""The loop of a training, one step at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bcpd.data import Batch, InMemory
from bcpd.distill import Phase
from bcpd.seeds import derive
from bcpd.train.evaluation import Metrics
from bcpd.train.execution import EAGER, Execution
from bcpd.train.fitted import Fitted
from bcpd.train.folder import RunFolder
from bcpd.train.gradient import Gradient, StepOf, global_seed
from bcpd.train.graphs import CapturedSteps
from bcpd.train.optim import AnyOptimizer, build_optimizer, set_rates
from bcpd.train.recipe import Recipe, Step
from bcpd.train.selection import Keeper
from bcpd.train.split import order_of_epoch

__all__ = ["Progress", "Trainer"]

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


@dataclass(frozen=True)
class _Running:
    """A phase that runs, or the main training.

    Attributes:
        name: as in :class:`Progress`. until_main: phases before the main training, with this one.
        recipe: of the phase.
        parameters: what it trains.
        optimizer: of these.
        step_of: what sets their gradients.
        captured: its steps as CUDA graphs, where they were asked for.
    """

    name: str
    until_main: int
    recipe: Recipe
    parameters: list[nn.Parameter]
    optimizer: AnyOptimizer
    step_of: StepOf
    captured: CapturedSteps | None


class Trainer:
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
        execution: Execution = EAGER,
    ) -> None:
        self.gradient, self.train_index, self.recipe, self.device = gradient, train_index, recipe, device
        self.net, self.method, self.ranks = gradient.net, gradient.method, gradient.ranks
        self.seeds, self.replicas = gradient.seeds, gradient.replicas
        self.measure, self.run, self.progress, self.execution = measure, run, progress, execution
        # p* is not gathered for a method that does not ask for it
        self.training = source if "bayes" in self.method.needs else source.without_bayes()
        roots = [derive(seed, "augment") for seed in self.seeds]
        self.augmentation_seed: int | list[int] = roots[0] if self.replicas is None else roots
        self.keeper = Keeper(self.method.scores(self.replicas), self.replicas)
        self.history: list[dict[str, Any]] = []
        self.phase, self.epoch, self.step = 0, 0, 0
        self.sums: dict[str, Tensor] = {}
        self.generators: dict[str, Tensor] = {}

    def steps(self, identity: str) -> Generator[float, None, Fitted]:
        """Train; pauses after every step, when its work has been handed to the device, and tells how far it is, see
        :data:`bcpd.train.turns.Steps`."""
        auxiliary = list(self.method.phases())
        resumed = self.run.resume() if self.run is not None else None
        if resumed is not None:
            self._restore(*resumed)
        for number, phase in enumerate(auxiliary):
            if number >= self.phase:
                step_of = self.gradient.of_phase(phase, number)
                recipe = _recipe_of(phase, self.recipe)
                until_main = len(auxiliary) - number
                yield from self._run_phase(number, until_main, phase.name, recipe, list(phase.parameters), step_of)
        main = [p for p in (*self.net.parameters(), *self.method.parameters()) if p.requires_grad]
        if not main:
            raise ValueError("nothing is trained: every parameter of the network is frozen (requires_grad is False)")
        yield from self._run_phase(len(auxiliary), 0, "main", self.recipe, main, self.gradient.of_student())
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
        until_main: int,
        name: str,
        recipe: Recipe,
        parameters: list[nn.Parameter],
        step_of: StepOf,
    ) -> Iterator[float]:
        optimizer = build_optimizer(recipe, parameters, self.replicas, captured=self.execution.graphs)
        if self.phase != number:
            self.phase, self.epoch, self.step = number, 0, 0
        elif (self.epoch or self.step) and self.run is not None:
            self.run.restore_optimizer(optimizer, self.device)
        captured = None
        if self.execution.graphs:
            captured = CapturedSteps(self.training, self.method, self.augmentation_seed)
        running = _Running(name, until_main, recipe, parameters, optimizer, step_of, captured)
        while self.epoch < recipe.epochs:
            metrics = yield from self._train_epoch(running)
            self.epoch, self.step = self.epoch + 1, 0
            self.ranks.share_buffers(self.net, self.method)
            if name == "main":
                metrics |= self.ranks.from_first(functools.partial(self._measured, metrics))
                self.history.append({"epoch": self.epoch, **metrics})
                self.keeper.update(self.epoch, metrics, self.net.state_dict())
            if self.run is not None and (self.epoch == recipe.epochs or self.run.due()):
                self.run.save(self._export(), self._record(), optimizer)
            if self.progress is not None:
                self.progress(Progress(name, self.epoch, recipe.epochs, metrics))

    def _measured(self, training: Mapping[str, Any]) -> dict[str, list[float]]:
        """The metrics of the network as it is, checked, and which replicas still give finite logits."""
        assert self.measure is not None
        mode = self.net.training
        self.net.eval()
        with torch.no_grad(), EAGER.products(self.device):
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

    def _train_epoch(self, running: _Running) -> Generator[float, None, dict[str, list[float]]]:
        """The rest of the epoch that the run is in, from ``self.step`` on."""
        epoch, recipe = self.epoch, running.recipe
        order = order_of_epoch(self.train_index, self.seeds, running.name, epoch)
        indices = torch.split(order, recipe.batch_size, dim=-1)
        rates = recipe.rates(self.replicas)
        self.net.train()
        self.method.train()
        with global_seed(derive(self.seeds[0], "epoch", running.name, epoch), self.device):
            if self.step:
                _set_generators(self.generators, self.device)
            else:
                self.sums = {}
            steps = self._captured(running, order, indices) if running.captured else self._eager(running, indices)
            for _ in range(self.step, len(indices)):
                factor = recipe.factor(epoch + self.step / len(indices), 1 / len(indices))
                set_rates(running.optimizer, [rate * factor for rate in rates])
                with self.execution.products(self.device):
                    next(steps)
                self.step += 1
                if self.run is not None and self.step < len(indices) and self.run.due(within=True):
                    self.generators = _generators(self.device)
                    self.run.save(self._export(), self._record(), running.optimizer)
                done = epoch + self.step / len(indices)
                yield done if running.name == "main" else done / recipe.epochs - running.until_main
        sums = self.sums
        sums["loss"] = torch.stack(list(sums.values())).sum(0)
        return {f"train_{name}": value.tolist() for name, value in sums.items()}

    def _eager(self, running: _Running, indices: Sequence[Tensor]) -> Iterator[None]:
        """Step by step, operation by operation."""
        total = sum(index.shape[-1] for index in indices)
        rest = indices[self.step :]
        if self.ranks.count > 1:
            rest = [index[self.ranks.rows(len(index))] for index in rest]
        for batch in self.training.batches(rest, seed=self.augmentation_seed, epoch=self.epoch):
            size = indices[self.step].shape[-1]
            running.step_of.progress(self.epoch, self.step)
            batch = running.step_of.prepare(batch, size, self.epoch, self.step)
            for name, value in self._learned(running, batch, size).items():
                share = value.reshape(-1) * (size / total)
                self.sums[name] = self.sums[name] + share if name in self.sums else share
            yield

    def _captured(self, running: _Running, order: Tensor, indices: Sequence[Tensor]) -> Iterator[None]:
        """Step by step, each as a graph once it is captured."""
        captured = running.captured
        assert captured is not None
        captured.begin(order, self.epoch, sum(index.shape[-1] for index in indices[: self.step]), self.sums)
        size = 0

        def prepare(batch: Batch) -> Batch:
            return running.step_of.prepare(batch, size, self.epoch, self.step)

        def learn(batch: Batch) -> Mapping[str, Tensor]:
            return self._learned(running, batch, size)

        for index in indices[self.step :]:
            size = index.shape[-1]
            running.step_of.progress(self.epoch, self.step)
            captured.step(size, prepare if self.gradient.prepares else None, learn)
            self.sums = captured.sums
            yield

    def _learned(self, running: _Running, batch: Batch, size: int) -> Mapping[str, Tensor]:
        """One step on a prepared batch, by all ranks; its terms."""
        running.optimizer.zero_grad(set_to_none=True)
        named = running.step_of.learn(batch, size, self.epoch, self.step)
        named = self.gradient.over_ranks(named, running.parameters)
        running.optimizer.step()
        return {name: value.detach() for name, value in named.items()}

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
    own: dict[str, Any] = {"epochs": phase.epochs, "warm_up": min(recipe.warm_up, phase.epochs)}
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
