"""Trainings in turns are the trainings one after another."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from dummy_methods import Everything
from shared_runs import Conv, Dropping
from small_world import mlp, same, world
from torch import Tensor, nn

import bcpd
from bcpd.distill import DKD, KD, SP, Supervised
from bcpd.nets import Views
from bcpd.train import Execution, Fitted, Progress, Recipe, fit_side_by_side, turns
from bcpd.train.fit import training

SGD = Recipe(epochs=3, learning_rate=0.05, batch_size=8, weight_decay=0.01, validation=0.25)
STEPS = 4
"""Of an epoch of the 30 of 40 examples that are trained on, in batches of 8."""


def trainings() -> list[dict[str, Any]]:
    """Of different lengths, two of them with layers that draw from the global generator."""
    teacher, shared = mlp(5, (9,)), world()
    return [
        {"net": mlp(1), "source": shared, "method": Supervised("mse"), "recipe": SGD, "seed": 0},
        {"net": Dropping(1), "source": shared, "method": Supervised("ce"), "recipe": SGD, "seed": 1},
        {"net": Dropping(2), "source": world(30, 3), "method": Supervised("ce"), "recipe": SGD, "seed": 2},
        {"net": mlp(3), "source": shared, "method": KD(2.0), "recipe": SGD, "seed": 3, "teacher": teacher},
    ]


def alike(left: Fitted, right: Fitted) -> bool:
    return (
        same(left.states["last"], right.states["last"])
        and left.history == right.history
        and left.epochs == right.epochs
        and left.identity == right.identity
    )


@pytest.mark.parametrize("burst", [1, 3, 100])
def test_in_turns_as_one_after_another(burst: int) -> None:
    expected = [bcpd.fit(**arguments) for arguments in trainings()]
    before = torch.get_rng_state()
    found = fit_side_by_side(trainings(), burst)
    assert all(alike(left, right) for left, right in zip(expected, found, strict=True))
    assert torch.equal(before, torch.get_rng_state()), "the caller's generator is left alone"


def test_generators_that_are_shared_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail."""
    expected = [bcpd.fit(**arguments) for arguments in trainings()]
    monkeypatch.setattr(turns, "_set", lambda states, device: None)
    found = fit_side_by_side(trainings(), 1)
    assert [alike(left, right) for left, right in zip(expected, found, strict=True)] == [True, False, False, True]


def test_they_take_turns() -> None:
    told: list[int] = []

    def tell(which: int) -> Any:
        return lambda progress: told.append(which)

    fit_side_by_side([{**arguments, "progress": tell(number)} for number, arguments in enumerate(trainings()[:2])], 4)
    assert told == [0, 1] * 3


class Counted(nn.Module):
    """A teacher that counts its forward passes in training: of batches of 8, and of the last one of 6."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self._asked = mlp(5, (9,)), 0

    def forward(self, x: Tensor) -> Views:
        self.__dict__["_asked"] += len(x) in (8, 6)
        views: Views = self.net(x)
        return views


def taught(teacher: nn.Module, seeds: tuple[int, ...] = (3, 3, 3)) -> list[dict[str, Any]]:
    """Students of one teacher by different methods, with p* of other points measured along the way."""
    shared = world()
    methods = (KD(2.0), DKD(), SP())
    common = {"source": shared, "recipe": SGD, "teacher": teacher}
    return [
        {"net": mlp(number), "method": method, "seed": seed, **common}
        for number, (method, seed) in enumerate(zip(methods, seeds, strict=True))
    ]


def passes(teacher: Counted, *given: Any) -> int:
    before = teacher._asked
    fit_side_by_side(*given)
    return teacher._asked - before


def test_students_that_see_the_same_inputs_ask_their_teacher_once() -> None:
    teacher = Counted()
    epochs, steps = SGD.epochs, SGD.epochs * STEPS
    assert passes(teacher, taught(teacher)[:1]) == passes(teacher, taught(teacher)) == steps
    # in longer turns, or where one between sees other inputs, there is less to share
    assert passes(teacher, taught(teacher), 2) == epochs * (3 * 2 + 2)  # shared: 8 and 6 in a turn
    assert passes(teacher, taught(teacher, (3, 4, 3))) == 3 * steps
    assert passes(teacher, taught(teacher, (3, 3, 4))) == 2 * steps


def test_students_that_were_resumed_at_different_steps_meet_again(tmp_path: Path) -> None:
    """One of three has been left after an epoch, another one in its second."""
    teacher = Counted()

    def students(stops: tuple[int | None, ...] = (None, None, None)) -> list[dict[str, Any]]:
        return [
            {**student, "folder": tmp_path / f"{number}", "save_seconds": 0.0, "progress": leaving(stop)}
            for number, (student, stop) in enumerate(zip(taught(teacher), stops, strict=True))
        ]

    def leaving(after: int | None) -> Any:
        def progress(state: Progress) -> None:
            if state.epoch == after:
                raise KeyboardInterrupt

        return progress

    for one in students((1, 2, None))[:2]:
        with pytest.raises(KeyboardInterrupt):
            bcpd.fit(**one)
    before = teacher._asked
    found = fit_side_by_side(students())
    # each has to take a step before it is known where it stands
    assert teacher._asked - before == SGD.epochs * STEPS + 2
    expected = [bcpd.fit(**arguments) for arguments in taught(mlp(5, (9,)))]
    for left, right in zip(expected, found, strict=True):
        assert same(left.states["last"], right.states["last"])
        assert left.history == right.history


def test_a_phase_is_told_apart_from_the_main_training() -> None:
    told = []
    steps = training(mlp(1), world(), Everything(40, phase_epochs=2), SGD, seed=0, teacher=mlp(5, (9,)))
    with contextlib.suppress(StopIteration):
        while True:
            told.append(next(steps))
    phase = [step / (2 * STEPS) - 1 for step in range(1, 2 * STEPS + 1)]
    assert told == [*phase, *(step / STEPS for step in range(1, SGD.epochs * STEPS + 1))]


def test_a_pass_that_is_shared_changes_nothing() -> None:
    expected = [bcpd.fit(**arguments) for arguments in taught(mlp(5, (9,)))]
    found = fit_side_by_side(taught(mlp(5, (9,))))
    assert all(alike(left, right) for left, right in zip(expected, found, strict=True))


def test_a_pass_of_other_inputs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail."""
    expected = [bcpd.fit(**arguments) for arguments in taught(mlp(5, (9,)), (3, 4, 5))]
    with monkeypatch.context() as wrong:
        wrong.setattr(turns.torch, "equal", lambda left, right: True)
        found = fit_side_by_side(taught(mlp(5, (9,)), (3, 4, 5)))
    assert [alike(left, right) for left, right in zip(expected, found, strict=True)] == [False, False, False]


def test_one_that_fails_leaves_the_others_to_be_resumed(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.epoch == 2:
            raise Stop

    first, second = trainings()[:2]
    whole = bcpd.fit(**trainings()[0])
    with pytest.raises(Stop):
        fit_side_by_side(
            [{**first, "folder": tmp_path / "run", "save_seconds": 0.0}, {**second, "progress": stop}], burst=4
        )
    assert (tmp_path / "run" / "resume.safetensors").exists()
    assert not (tmp_path / "run" / "done.json").exists()
    assert alike(whole, bcpd.fit(**trainings()[0], folder=tmp_path / "run"))


def test_what_is_wrong_is_refused_by_name() -> None:
    first, second = trainings()[:2]
    with pytest.raises(ValueError, match="every training needs a net of its own"):
        fit_side_by_side([first, {**second, "net": first["net"]}])
    with pytest.raises(ValueError, match="every training needs a method of its own"):
        fit_side_by_side([first, {**second, "method": first["method"]}])
    with pytest.raises(ValueError, match="burst must be at least 1, received 0"):
        fit_side_by_side([first, second], 0)
    assert fit_side_by_side([]) == []


@pytest.mark.gpu
def test_on_cuda_streams_give_what_one_stream_gives() -> None:
    def convolutional(execution: Execution) -> list[dict[str, Any]]:
        from test_graphs import images

        common = {"source": images(augment="crop-flip"), "recipe": SGD, "device": "cuda", "execution": execution}
        return [{"net": Conv(n, norm=True), "method": Supervised("ce"), "seed": n, **common} for n in range(4)]

    expected = [bcpd.fit(**arguments) for arguments in convolutional(Execution(graphs=True))]
    found = fit_side_by_side(convolutional(Execution(graphs=True)))
    for left, right in zip(expected, found, strict=True):
        for name, value in left.states["last"].items():
            assert torch.allclose(value, right.states["last"][name], rtol=1e-9, atol=1e-12)
