"""A run that is left in the middle of an epoch goes on there, to the bits it would have had."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dummy_methods import Bank, Everything, Rotated
from shared_runs import Conv, Dropping
from small_world import D, K, mlp, same, world
from torch import Tensor, nn

import bcpd
from bcpd.data import Batch, FreshSamples, InMemory
from bcpd.distill import CRD, KD, Method, Supervised
from bcpd.mixtures import paper_toy
from bcpd.nets import build
from bcpd.train import CheckpointError, Fitted, Recipe
from bcpd.train.checkpoint import read_checkpoint
from bcpd.train.folder import RunFolder
from bcpd.train.gradient import Gradient

STEPS = 4
"""Of an epoch: 30 of 40 examples in batches of 8."""
SGD = Recipe(epochs=3, learning_rate=0.05, batch_size=8, nesterov=True, weight_decay=0.01, validation=0.25)
ADAM = Recipe(epochs=3, learning_rate=0.02, batch_size=8, optimizer="adam", validation=0.25)


class Stop(Exception):
    """Raised to interrupt a training."""


def run(
    method: Method,
    net: nn.Module | None = None,
    source: InMemory | None = None,
    teacher: nn.Module | None = None,
    recipe: Recipe = SGD,
    seed: Any = 0,
    **options: Any,
) -> Fitted:
    net = mlp(1) if net is None else net
    source = world() if source is None else source
    return bcpd.fit(net, source, method, recipe, seed=seed, teacher=teacher, save_seconds=0.0, **options)


def images(**options: Any) -> InMemory:
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(40, 1, 4, 4, generator=stream, dtype=torch.float64)
    return InMemory(x, torch.arange(40) % K, num_classes=K, dtype=torch.float64, **options)


def fresh() -> FreshSamples:
    return FreshSamples(paper_toy(K, D, variance=2.0), 40, 3, dtype=torch.float64)


RUNS: dict[str, Callable[..., Fitted]] = {
    "memory": lambda **o: run(Bank(40), **o),
    "crd": lambda **o: run(CRD(world().y, negatives=5, dimension=6), teacher=mlp(5, (9,)), **o),
    "phase, maps, memory, noise": lambda **o: run(Everything(40), teacher=mlp(5, (9,)), recipe=ADAM, **o),
    "rotations": lambda **o: run(Rotated(), Conv(1), images(), Conv(5), **o),
    "dropout": lambda **o: run(Supervised("ce"), Dropping(1), held_out=world(20, 3), **o),
    "batch normalisation, crops": lambda **o: run(
        KD(2.0), Conv(1, norm=True), images(augment="crop-flip"), Conv(5, norm=True), recipe=ADAM, **o
    ),
    "replicas": lambda **o: run(Supervised("mse"), mlp([1, 2]), world(40, [0, 1]), seed=[3, 4], **o),
    "fresh samples": lambda **o: run(
        Supervised("ce"), build("mlp", num_classes=K, input_shape=(D,), seed=1, hidden=(6,)).double(), fresh(), **o
    ),
}


def stopped(make: Callable[..., Fitted], last: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a run after ``last`` steps, in the middle of the next one."""
    steps = 0

    def over_ranks(self: Gradient, named: Mapping[str, Tensor], parameters: Any) -> Mapping[str, Tensor]:
        nonlocal steps
        if steps == last:
            raise Stop
        steps += 1
        return named

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "due", lambda self, within=False: steps == last)
        patch.setattr(Gradient, "over_ranks", over_ranks)
        with pytest.raises(Stop):
            make(folder=folder)


def steps_of(make: Callable[..., Fitted], monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Fitted, int]:
    steps = 0
    over = Gradient.over_ranks

    def counted(self: Gradient, *arguments: Any) -> Mapping[str, Tensor]:
        nonlocal steps
        steps += 1
        return over(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Gradient, "over_ranks", counted)
        return make(**options), steps


def alike(left: Fitted, right: Fitted) -> bool:
    return (
        json.dumps(left.history) == json.dumps(right.history)
        and left.epochs == right.epochs
        and all(same(left.states[name], right.states[name]) for name in left.states)
        and same(left.method.state_dict(), right.method.state_dict())
    )


@pytest.mark.parametrize("name", RUNS)
def test_a_run_left_in_the_middle_of_an_epoch_goes_on_to_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = RUNS[name]
    whole, steps = steps_of(make, monkeypatch)
    phases = steps // STEPS - SGD.epochs
    # the first step, the middle of a phase's last epoch, and of the second main one
    for last in sorted({1, phases * STEPS - 2, phases * STEPS + STEPS + 2} & set(range(1, steps))):
        folder = tmp_path / str(last)
        stopped(make, last, folder, monkeypatch)
        _, record = read_checkpoint(folder / "resume.safetensors")
        assert record.get("step", 0) == last % STEPS
        torch.manual_seed(last)
        resumed, rest = steps_of(make, monkeypatch, folder=folder)
        assert rest == steps - last
        assert alike(resumed, whole), f"left after {last} of {steps} steps"
        assert not (folder / "resume.safetensors").exists()


def test_a_run_may_be_left_again_and_again_within_one_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = RUNS["phase, maps, memory, noise"]
    whole = make()
    lives = 0
    while True:
        lives += 1
        try:
            stopped(make, 1, tmp_path, monkeypatch)
        except pytest.fail.Exception:  # it came to its end
            break
    assert lives == 5 * STEPS
    assert alike(make(folder=tmp_path), whole)


def forget_generators(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sys.modules["bcpd.train.trainer"], "_set_generators", lambda states, device: None)


def forget_moments(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RunFolder, "restore_optimizer", lambda self, optimizer, device: None)


def forget(prefix: str) -> Callable[[pytest.MonkeyPatch], None]:
    def lose(patch: pytest.MonkeyPatch) -> None:
        resumed = RunFolder.resume

        def without(self: RunFolder) -> Any:
            tensors, record = resumed(self) or pytest.fail("nothing to go on from")
            lost = {key: torch.zeros_like(value) for key, value in tensors.items() if key.startswith(prefix)}
            assert any(not torch.equal(value, tensors[key]) for key, value in lost.items())
            return {**tensors, **lost}, record

        patch.setattr(RunFolder, "resume", without)

    return lose


@pytest.mark.parametrize(
    ("name", "lose"),
    [
        ("dropout", forget_generators),
        ("dropout", forget_moments),
        ("dropout", forget("sum.")),
        ("memory", forget("method.bank")),
        ("crd", forget("method.student_memory")),
        ("batch normalisation, crops", forget("net.norm.running_")),
        ("phase, maps, memory, noise", forget_moments),
        ("phase, maps, memory, noise", forget("method.teacher_head")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_taken_up_again_is_missed(
    name: str, lose: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = RUNS[name]
    whole, steps = steps_of(make, monkeypatch)
    stopped(make, steps - 6, tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        lose(patch)
        assert not alike(make(folder=tmp_path), whole)


def test_short_epochs_are_not_interrupted_by_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is asked for; and in a long one the clock decides."""
    written: list[tuple[int, int]] = []
    save = RunFolder.save

    def counted(self: RunFolder, tensors: Any, record: Any, optimizer: Any) -> None:
        written.append((record["epoch"], record.get("step", 0)))
        save(self, tensors, record, optimizer)

    monkeypatch.setattr(RunFolder, "save", counted)
    run(Supervised("ce"), folder=tmp_path / "short")
    assert written == [(1, 0), (2, 0), (3, 0)]
    written.clear()
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 2.0
        return now

    monkeypatch.setattr("bcpd.train.folder.time", SimpleNamespace(monotonic=clock))
    run(Supervised("ce"), folder=tmp_path / "long")
    # two seconds a look: the third after a save is more than five seconds later
    assert [place for place in written if place[1]] == [(0, 3), (1, 3), (2, 3)]
    assert [place for place in written if not place[1]] == [(1, 0), (2, 0), (3, 0)]


class Ahead(InMemory):
    """Prepares an epoch's batches ahead, the last first, and notes what it was asked for."""

    def batches(
        self, indices: Sequence[Tensor], *, seed: int | Sequence[int] = 0, epoch: int | None = None
    ) -> Iterator[Batch]:
        asked.append((epoch, [index.tolist() for index in indices]))
        yield from reversed([self.batch(index, seed=seed, epoch=epoch) for index in reversed(indices)])


asked: list[tuple[int | None, list[list[int]]]] = []


def test_a_source_is_asked_for_an_epoch_s_batches_at_once_and_for_the_rest_of_one_that_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(kind: type[InMemory] = Ahead, **options: Any) -> Fitted:
        plain = images(augment="crop-flip")
        source = kind(plain.x, plain.y, num_classes=K, augment="crop-flip", dtype=torch.float64)
        return run(KD(2.0), Conv(1), source, Conv(5), **options)

    whole = make(InMemory)
    asked.clear()
    assert alike(make(), whole)
    epochs = list(asked)
    assert [(epoch, [len(index) for index in indices]) for epoch, indices in epochs] == [
        (epoch, [8, 8, 8, 6]) for epoch in range(3)
    ]
    stopped(make, 6, tmp_path, monkeypatch)
    asked.clear()
    assert alike(make(folder=tmp_path), whole)
    assert asked == [(1, epochs[1][1][2:]), epochs[2]]


def test_a_file_of_another_run_s_middle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(RUNS["memory"], 6, tmp_path / "one", monkeypatch)
    stopped(RUNS["replicas"], 6, tmp_path / "other", monkeypatch)
    (tmp_path / "other" / "resume.safetensors").replace(tmp_path / "one" / "resume.safetensors")
    with pytest.raises(CheckpointError, match=r"resume.safetensors belongs to another run"):
        RUNS["memory"](folder=tmp_path / "one")
