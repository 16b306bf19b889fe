"""Several ranks that share every batch train what one process trains; what is wrong in many programs is noticed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from shared_runs import MORE_RUNS, RECIPE, RUNS, SIZE, Conv, Dropping, Relational, Whole, apart, gap, images, run
from small_world import Recorded, mlp, same, world
from thread_ranks import together
from torch import Tensor, nn

import bcpd
from bcpd.data import Batch
from bcpd.distill import KD, Supervised
from bcpd.nets import Views
from bcpd.train import CheckpointError, Progress, Recipe, from_environment
from bcpd.train.gradient import Gradient
from bcpd.train.ranks import Ranks, synchronised

HERE = Path(__file__).parent


class Stop(Exception):
    """Raised to interrupt a training."""


# ------------------------------------------------------------------------------------------------------------ slices


@given(total=st.integers(0, 300), count=st.integers(1, 17))
def test_slices_follow_one_another_and_differ_by_at_most_one_row(total: int, count: int) -> None:
    rows = [Ranks(rank, count).rows(total) for rank in range(count)]
    assert [i for part in rows for i in range(total)[part]] == list(range(total))
    sizes = [len(range(total)[part]) for part in rows]
    assert sizes == Ranks(0, count).sizes(total)
    assert max(sizes) - min(sizes) <= 1
    assert sizes[0] == max(sizes)


def test_gathered_rows_stand_in_their_order_and_give_the_gradient_to_their_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = torch.randn(7, 2, dtype=torch.float64)

    def program(rank: int) -> tuple[Tensor, Tensor]:
        ranks = Ranks.current()
        own = whole[ranks.rows(7)].clone().requires_grad_()
        gathered = ranks.gather(own, 7)
        (gathered @ gathered.T).sin().sum().backward()  # type: ignore[no-untyped-call]
        assert own.grad is not None
        return gathered.detach(), own.grad

    expected = whole.clone().requires_grad_()
    (expected @ expected.T).sin().sum().backward()  # type: ignore[no-untyped-call]
    found = together(3, program, monkeypatch)
    assert all(torch.equal(gathered, whole) for gathered, _ in found)
    torch.testing.assert_close(torch.cat([gradient for _, gradient in found]), expected.grad, rtol=0, atol=1e-14)


def test_a_batch_is_gathered_with_all_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    source = world(9, labelled=torch.arange(9) % 2 == 0)
    index = torch.tensor([4, 0, 7, 3, 8])
    expected = source.batch(index)

    def program(rank: int) -> Batch:
        ranks = Ranks.current()
        part = source.batch(index[ranks.rows(5)])
        part = Batch(**{**vars(part), "extra": {"twice": 2 * part.y, "b": part.x[:, :2], "a": part.y > 0}})
        return ranks.gather_batch(part, 5)

    for batch in together(2, program, monkeypatch):
        for name in ("x", "y", "index", "log_bayes", "labelled"):
            assert torch.equal(getattr(batch, name), getattr(expected, name))
        assert batch.labelled is not None
        assert batch.labelled.dtype == torch.bool
        assert batch.targets is None
        assert torch.equal(batch.extra["twice"], 2 * expected.y)
        assert torch.equal(batch.extra["b"], expected.x[:, :2])
        assert torch.equal(batch.extra["a"], expected.y > 0)


def test_a_parameter_is_left_without_gradient_only_where_no_rank_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def program(rank: int) -> list[Tensor | None]:
        some = [
            nn.Parameter(torch.zeros(2)),
            nn.Parameter(torch.zeros(3, dtype=torch.float64)),
            nn.Parameter(torch.zeros(1)),
        ]
        some[0].grad = torch.full((2,), rank + 1.0)
        if rank == 1:
            some[1].grad = torch.full((3,), 5.0, dtype=torch.float64)
        Ranks.current().add_gradients(some)
        return [parameter.grad for parameter in some]

    for first, second, third in together(3, program, monkeypatch):
        assert first is not None
        assert second is not None
        assert first.tolist() == [6.0, 6.0]
        assert second.tolist() == [5.0, 5.0, 5.0]
        assert third is None


# ----------------------------------------------------------------------------------------- one training, many ranks


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_train_what_one_process_trains(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = RUNS[name]()
    first, second = together(2, lambda rank: RUNS[name](), monkeypatch)
    assert gap(first, alone) < 1e-10
    assert gap(first, second) == 0
    assert first.identity != alone.identity


@pytest.mark.parametrize("name", ["partly labelled", "relational", "everything"])
def test_three_ranks_train_what_one_process_trains(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = RUNS[name]()
    for fitted in together(3, lambda rank: RUNS[name](), monkeypatch):
        assert gap(fitted, alone) < 1e-10


def test_the_mean_of_the_ranks_means_is_another_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """What averaging the gradients over uneven slices does: batches of 5 are 3 and 2, each would count one half."""
    alone = RUNS["supervised"]()
    with monkeypatch.context() as patch:
        patch.setattr(Ranks, "share", lambda self, total: 1 / self.count)
        averaged, _ = together(2, lambda rank: RUNS["supervised"](), patch)
    assert gap(averaged, alone) > 1e-4


def test_pairs_within_the_slices_are_another_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = RUNS["relational"]()
    local, _ = together(2, lambda rank: run(apart(Relational()), teacher=mlp(5)), monkeypatch)
    assert gap(local, alone) > 1e-4


def test_the_mean_over_a_slice_s_labels_is_another_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hence a partly labelled source is gathered, whatever the method says of itself."""
    alone = RUNS["partly labelled"]()
    with monkeypatch.context() as patch:
        make = Gradient.__init__

        def local(self: Gradient, *arguments: Any, **options: Any) -> None:
            make(self, *arguments, **options)
            self.gathers = False

        patch.setattr(Gradient, "__init__", local)
        wrong, _ = together(2, lambda rank: RUNS["partly labelled"](), patch)
    assert gap(wrong, alone) > 1e-4


def test_what_the_ranks_share_is_walked_once_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(rank: int) -> list[list[int]]:
        recorded = apart(Recorded("ce"))
        assert isinstance(recorded, Recorded)
        run(recorded)
        return recorded.indices()

    alone = shown(0)
    joined = [[i for part in parts for i in part] for parts in zip(*together(3, shown, monkeypatch), strict=True)]
    assert joined == alone


def test_views_that_nobody_asked_for_do_not_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    class Looking(KD):
        couples = True

        def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
            assert t is not None
            assert len(s.logits) == len(t.logits) == len(batch.x)
            assert s.pooled.numel() == t.pooled.numel() == len(s.stages) == len(t.stages) == 0
            return super().loss(batch, s, t)

    together(2, lambda rank: run(Looking(), teacher=mlp(5)), monkeypatch)


@pytest.mark.parametrize("gathered", [False, True])
def test_dropout_has_masks_of_its_own_on_every_rank(gathered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each step too; and the ranks end in the same weights."""

    def program(rank: int) -> tuple[list[Tensor], Any]:
        masks: list[Tensor] = []
        net = Dropping(1)

        def note(module: nn.Module, given: Any, result: Tensor) -> None:
            if module.training:
                masks.append(result[:2] == 0)

        net.drop.register_forward_hook(note)
        method = Supervised("ce")
        method.couples = gathered
        return masks, run(method, net).states["last"]

    (first, state), (second, other) = together(2, program, monkeypatch)
    assert len(first) == 8
    assert same(state, other)
    assert not torch.equal(torch.stack(first), torch.stack(second))
    assert len({mask.numpy().tobytes() for mask in first + second}) > 10


def test_batch_statistics_are_each_rank_s_and_the_averages_rank_0_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def program(rank: int) -> Any:
        return run(apart(Supervised("ce")), Conv(1, norm=True), images())

    alone = program(0)
    first, second = together(2, program, monkeypatch)
    assert gap(first, second) == 0
    assert gap(first, alone) > 1e-4
    assert int(first.states["last"]["norm.num_batches_tracked"]) == 8

    # the averages of the one step of a training are those of rank 0's rows
    recipe = Recipe(epochs=1, learning_rate=1e-9, batch_size=30, validation=0.0)
    recorded: list[Any] = [None, None]

    def one_step(rank: int) -> Any:
        recorded[rank] = apart(Recorded("ce"))
        return run(recorded[rank], Conv(1, norm=True), images().subset(torch.arange(30)), recipe=recipe)

    for fitted in together(2, one_step, monkeypatch):
        x = recorded[0].seen[0].x
        assert len(x) == 15
        means = Conv(1).first(x).mean((0, 2, 3)).detach()
        torch.testing.assert_close(fitted.states["last"]["norm.running_mean"], 0.1 * means, rtol=0, atol=1e-8)


class AllRows(torch.autograd.Function):
    """The rows of all ranks; their gradient is what all ranks make of them."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks, total: int) -> Tensor:
        ctx.ranks, ctx.total = ranks, total
        return ranks.gather(own, total)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradient.clone()
        ctx.ranks._add(gradient)
        return gradient[ctx.ranks.rows(ctx.total)], None, None


class NormOverAll(nn.BatchNorm2d):
    """What torch.nn.SyncBatchNorm does, where there is no CUDA."""

    def forward(self, x: Tensor) -> Tensor:
        ranks = Ranks.current()
        if not self.training or ranks.count == 1:
            return super().forward(x)
        total = sum(ranks._all_told(len(x)))
        return super().forward(AllRows.apply(x, ranks, total))[ranks.rows(total)]


@pytest.mark.parametrize("couples", [False, True])
def test_with_statistics_of_all_rows_batch_normalisation_too_is_that_of_one_process(
    couples: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of the losses are those that synchronised statistics want, running averages included."""

    def program(rank: int) -> Any:
        net, method = Conv(1, norm=True), KD(2.0)
        net.norm, method.couples = NormOverAll(3, dtype=torch.float64), couples
        return run(method, net, images(augment="flip"), Conv(5, norm=True))

    alone = program(0)
    for fitted in together(2, program, monkeypatch):
        assert gap(fitted, alone) < 1e-10


def test_layers_that_are_synchronised_are_what_they_were_afterwards() -> None:
    net = Conv(1, norm=True)
    norm, names = net.norm, list(net.state_dict())
    with synchronised(net):
        assert type(net.norm) is nn.SyncBatchNorm
        assert net.norm.weight is norm.weight
        assert list(net.state_dict()) == names
        net.norm.running_mean += 3
        net.eval()
    assert net.norm is norm
    assert float(norm.running_mean[0]) == 3  # type: ignore[index, arg-type]
    assert not norm.training


# ------------------------------------------------------------------------------------------------ folder and resume


def test_rank_0_keeps_the_folder_reports_and_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def program(rank: int) -> Any:
        reports: list[Progress] = []
        measured: list[int] = []

        def metrics(sets: Any) -> Any:
            measured.append(rank)
            return lambda net: {"answer": [42.0 + rank]}

        metrics.describe = lambda: "the answer"  # type: ignore[attr-defined]
        fitted = run(Whole(SIZE), teacher=mlp(5), folder=tmp_path, progress=reports.append, metrics=metrics)
        return fitted, len(reports), measured

    (first, many, here), (second, none, there) = together(2, program, monkeypatch)
    assert (many, none) == (4, 0)
    assert (here, there) == ([0], [])
    assert gap(first, second) == 0
    assert second.history[-1]["answer"] == [42.0]
    spec = json.loads((tmp_path / "spec.json").read_text())
    assert spec["ranks"] == 2
    assert spec["batch_statistics"] == "rank"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (again, reports, _), (other, _, _) = together(2, program, monkeypatch)
    assert reports == 0, "a finished run is read back"
    assert gap(again, first) == gap(other, first) == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("stop", [2, 15])
def test_ranks_go_on_in_the_middle_of_an_epoch(stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before a step of the phase (the first 8) or of the main training: memory, maps, moments, dropout."""
    monkeypatch.setattr("bcpd.train.folder.WITHIN_SECONDS", 0.0)

    def program(rank: int, folder: Path | None, last: int | None) -> Any:
        steps = 0

        class Counted(Whole):
            def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
                nonlocal steps
                if steps == last:
                    raise Stop
                steps += 1
                return super().prepare(batch, generator)

        net = Dropping(1)
        fitted = run(Counted(SIZE), net, teacher=mlp(5), folder=folder, save_seconds=0.0)
        return fitted, steps

    whole, _ = together(2, lambda rank: program(rank, None, None), monkeypatch)[0]
    with pytest.raises(Stop):
        together(2, lambda rank: program(rank, tmp_path, stop), monkeypatch)
    for fitted, steps in together(2, lambda rank: program(rank, tmp_path, None), monkeypatch):
        assert steps == 16 - stop
        assert gap(fitted, whole) == 0


def test_another_number_of_ranks_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together(2, lambda rank: run(Supervised("ce"), folder=tmp_path), monkeypatch)
    with pytest.raises(CheckpointError, match="another run"):
        run(Supervised("ce"), folder=tmp_path)
    with pytest.raises(CheckpointError, match="another run"):
        together(3, lambda rank: run(Supervised("ce"), folder=tmp_path), monkeypatch)


# ---------------------------------------------------------------------------------------------------------- refusals


def test_ranks_that_were_given_different_parts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"same network, data, method, recipe and seeds: ranks \[1\] differ"):
        together(3, lambda rank: run(Supervised("ce"), mlp(7 if rank == 1 else 1)), monkeypatch)


def test_replicas_and_batches_smaller_than_the_group_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="2 replicas train side by side in one process, received a group of 2"):
        together(2, lambda rank: bcpd.fit(mlp([1, 2]), world(), Supervised("ce"), RECIPE, seed=[1, 2]), monkeypatch)
    few = Recipe(epochs=1, learning_rate=0.1, batch_size=14, validation=0.25)
    with pytest.raises(ValueError, match=r"29 training examples in batches of 14 leave a last one of 1 for 2 ranks"):
        together(2, lambda rank: run(Supervised("ce"), recipe=few), monkeypatch)
    small = Recipe(epochs=1, learning_rate=0.1, batch_size=2, validation=0.0)
    with pytest.raises(ValueError, match=r"every rank needs an example of every batch"):
        together(3, lambda rank: run(Supervised("ce"), recipe=small), monkeypatch)


def test_batch_statistics_are_one_of_two_and_synchronised_on_cuda() -> None:
    with pytest.raises(ValueError, match=r"synchronised on CUDA only .*, received device cpu"):
        run(Supervised("ce"), batch_statistics="synchronised")
    with pytest.raises(ValueError, match="batch_statistics must be 'rank' or 'synchronised', received 'sync'"):
        run(Supervised("ce"), batch_statistics="sync")


def test_the_environment_of_torchrun_is_wanted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with from_environment("cpu") as device:
        assert device == torch.device("cpu")
        assert Ranks.current() == Ranks(0, 1)
    with (
        pytest.raises(ValueError, match="device must be 'cpu', 'cuda' or None, received 'tpu'"),
        from_environment("tpu"),
    ):  # type: ignore[arg-type]
        pass
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="lacks LOCAL_RANK, MASTER_ADDR, MASTER_PORT"), from_environment("cpu"):
        pass


# ------------------------------------------------------------------------------------------ torch's process group


@pytest.fixture
def group_of_one() -> Iterator[Ranks]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Ranks.current()
    dist.destroy_process_group()


def test_a_group_of_one_trains_the_bits_of_no_group(group_of_one: Ranks, tmp_path: Path) -> None:
    assert group_of_one == Ranks(0, 1)
    inside = run(Whole(SIZE), teacher=mlp(5), folder=tmp_path)
    dist.destroy_process_group()
    outside = run(Whole(SIZE), teacher=mlp(5))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    assert gap(inside, outside) == 0
    assert inside.identity == outside.identity


def test_what_ranks_say_to_each_other_goes_through_the_process_group(group_of_one: Ranks) -> None:
    number = torch.tensor([2.0, 3.0])
    group_of_one._add(number)
    group_of_one._spread(number)
    assert number.tolist() == [2.0, 3.0]
    for value in (number, torch.tensor([True, False]), torch.tensor([[1, 2]])):
        assert torch.equal(group_of_one._gathered(value)[0], value)
    assert group_of_one._told({"a": number})["a"].tolist() == [2.0, 3.0]
    assert group_of_one._all_told("x") == ["x"]


def two_processes(what: str) -> dict[str, float]:
    """Two lives of ``two_processes.py`` as torchrun starts them, and the differences that rank 0 found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE)]),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
    }
    lives = [
        subprocess.Popen(
            [sys.executable, str(HERE / "two_processes.py"), what],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [life.communicate(timeout=600) for life in lives]
    finally:
        for life in lives:
            life.kill()
    assert [life.returncode for life in lives] == [0, 0], said[0][1] + said[1][1]
    gaps: dict[str, float] = json.loads(said[0][0].splitlines()[-1])  # gloo may say before that it is connected
    return gaps


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    """By gloo: every run of ``shared_runs``, one in single precision, and one that is cut short and goes on."""
    gaps = two_processes(str(tmp_path))
    assert set(gaps) == {*RUNS, *MORE_RUNS, "single precision", "interrupted"}
    assert gaps.pop("single precision") < 1e-5
    assert max(gaps.values()) < 1e-10, gaps


@pytest.mark.gpu
def test_synchronised_batch_statistics_are_those_of_one_process() -> None:
    gaps = two_processes("cuda")
    assert gaps["synchronised"] < 1e-10
    assert gaps["rank"] > 1e-4
