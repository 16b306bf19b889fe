"""Captured steps do what the steps do: on the CPU with a stand-in for a graph, on CUDA with real ones."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from dummy_methods import Adapter, Bank, Everything, Rotated, WarmUp
from shared_runs import Conv
from small_world import K, furthest, mlp, same, world
from torch import Tensor, nn

import bcpd
from bcpd.data import FreshSamples, InMemory
from bcpd.distill import CRD, DKD, KD, Method, Supervised
from bcpd.mixtures import paper_toy
from bcpd.train import Execution, Fitted, Recipe
from bcpd.train.graphs import WARM, CapturedSteps, plain_settings

SGD = Recipe(epochs=4, learning_rate=2**-4, batch_size=8, nesterov=True, weight_decay=0.01, validation=0.25)
"""30 of 40 examples: three batches of 8 and one of 6 an epoch; a rate that float32 holds exactly."""
GRAPHS = Execution(graphs=True)


class Tape:
    """Stands in for a graph: nothing happens when it is made. A replay has the plain attributes of that moment."""

    made = 0
    played = 0

    def __init__(self, work: Callable[[], object], method: Method) -> None:
        self.work, self.method = work, method
        self.constants = [(module, dict(vars(module))) for module in method.modules()]
        Tape.made += 1

    def replay(self) -> None:
        Tape.played += 1
        now = [(module, dict(vars(module))) for module, _ in self.constants]
        for module, constants in self.constants:
            vars(module).update({k: v for k, v in constants.items() if not isinstance(v, Tensor | dict)})
        self.work()
        for module, current in now:
            vars(module).update({k: v for k, v in current.items() if not isinstance(v, Tensor | dict)})


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured steps on the CPU, by the stand-in."""
    Tape.made = Tape.played = 0

    def steps(source: InMemory, method: Method, seed: Any) -> CapturedSteps:
        return CapturedSteps(source, method, seed, graph=lambda work: Tape(work, method))  # type: ignore[arg-type, return-value]

    monkeypatch.setattr("bcpd.train.trainer.CapturedSteps", steps)
    monkeypatch.setattr(Execution, "check", lambda self, device: None)


def images(**options: Any) -> InMemory:
    x = torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return InMemory(x, torch.arange(40) % K, num_classes=K, dtype=torch.float64, **options)


class LateWeight(Method):
    """A pull towards the teacher from the third epoch on, under a name that is not there before."""

    needs = frozenset({"teacher.logits", "student.logits", "labels"})

    def __init__(self) -> None:
        super().__init__()
        self.weight = 0.0

    def progress(self, epoch: int, step: int) -> None:
        self.weight = 0.3 if epoch >= 2 else 0.0

    def loss(self, batch: Any, s: Any, t: Any) -> Mapping[str, Tensor]:
        terms = {"label": nn.functional.cross_entropy(s.logits, batch.y)}
        return {**terms, "pull": self.weight * (s.logits - t.logits).square().mean()} if self.weight else terms


def run(method: Method, net: nn.Module, source: InMemory, teacher: nn.Module | None = None, **options: Any) -> Fitted:
    return bcpd.fit(
        net, source, method, options.pop("recipe", SGD), seed=0, teacher=teacher, gradients="autograd", **options
    )


RUNS: dict[str, Callable[..., Fitted]] = {
    "labels": lambda **o: run(Supervised("mse"), mlp(1), world(), **o),
    "kd": lambda **o: run(KD(2.0), mlp(1), world(), mlp(5, (9,)), **o),
    "a learned map": lambda **o: run(Adapter(), mlp(1), world(), mlp(5, (9,)), **o),
    "a memory": lambda **o: run(Bank(40), mlp(1), world(), **o),
    "crd": lambda **o: run(CRD(world().y, negatives=5, dimension=6), mlp(1), world(), mlp(5, (9,)), **o),
    "a warm-up by epochs": lambda **o: run(DKD(warm_up=3), mlp(1), world(), mlp(5, (9,)), **o),
    "a warm-up by steps": lambda **o: run(WarmUp(4, 2), mlp(1), world(), mlp(5, (9,)), **o),
    "a late term": lambda **o: run(LateWeight(), mlp(1), world(), mlp(5, (9,)), **o),
    "phase, maps, memory, noise": lambda **o: run(Everything(40), mlp(1), world(), mlp(5, (9,)), **o),
    "rotations": lambda **o: run(Rotated(), Conv(1), images(), Conv(5), **o),
    "batch normalisation, crops": lambda **o: run(
        KD(2.0), Conv(1, norm=True), images(augment="crop-flip"), Conv(5, norm=True), **o
    ),
}


def columns(fitted: Fitted) -> dict[str, list[Any]]:
    return {name: [row[name] for row in fitted.history] for name in fitted.history[-1] if name in fitted.history[0]}


@pytest.mark.parametrize("name", RUNS)
def test_captured_steps_train_what_steps_train(name: str, taped: None) -> None:
    """Up to the rounding of the fused optimizer: 1e-12 of weights of size 1, in float64."""
    plain = RUNS[name]()
    captured = RUNS[name](execution=GRAPHS)
    assert furthest(plain.states["last"], captured.states["last"]) < 1e-12
    assert [row.keys() for row in plain.history] == [row.keys() for row in captured.history]
    for column, values in columns(plain).items():
        assert torch.allclose(torch.tensor(columns(captured)[column]), torch.tensor(values), rtol=1e-9, atol=1e-12)
    assert plain.identity != captured.identity
    if name == "a warm-up by steps":
        assert Tape.made == 0, "a constant that changes at every step cannot be captured"
    else:
        assert Tape.played > 0


def test_a_size_is_captured_once_and_then_replayed(taped: None) -> None:
    RUNS["labels"](execution=GRAPHS)
    assert Tape.made == 2, "one graph for batches of 8, one for those of 6"
    assert Tape.played == 4 * 4 - 2 * WARM


def test_a_changed_constant_is_captured_anew(taped: None) -> None:
    RUNS["a warm-up by epochs"](execution=GRAPHS)
    # batches of 8: at the third step of every epoch but the last, whose weight is that of the one before
    assert Tape.made >= 3
    assert Tape.played < 4 * 4 - 2 * WARM


def test_a_graph_that_keeps_old_constants_is_noticed(taped: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail."""
    monkeypatch.setattr("bcpd.train.graphs.plain_settings", lambda method: ())
    plain, captured = RUNS["a late term"](), RUNS["a late term"](execution=GRAPHS)
    assert furthest(plain.states["last"], captured.states["last"]) > 1e-4


@pytest.mark.parametrize("name", ["a memory", "phase, maps, memory, noise", "batch normalisation, crops"])
@pytest.mark.parametrize("stop_after", [5, 11])
def test_a_stopped_run_goes_on_to_the_same_bits(
    name: str, stop_after: int, taped: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RUNS[name](execution=GRAPHS)
    monkeypatch.setattr("bcpd.train.folder.WITHIN_SECONDS", 0.0)
    steps = 0
    real = CapturedSteps.step

    def counted(self: CapturedSteps, *arguments: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == stop_after + 1:
            raise KeyboardInterrupt
        real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(CapturedSteps, "step", counted)
        with pytest.raises(KeyboardInterrupt):
            RUNS[name](execution=GRAPHS, folder=tmp_path, save_seconds=0.0)
    resumed = RUNS[name](execution=GRAPHS, folder=tmp_path, save_seconds=0.0)
    assert same(whole.states["last"], resumed.states["last"])
    assert whole.history == resumed.history


def test_what_cannot_be_captured_is_refused(taped: None) -> None:
    with pytest.raises(ValueError, match="graphs capture the steps of one network in one process, received 2 replicas"):
        run(Supervised("ce"), mlp([1, 2]), world(40, [0, 1]), execution=GRAPHS)
    fresh = FreshSamples(paper_toy(K, 4, variance=2.0), 40, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"gather their batches from tensors on the device .* received FreshSamples"):
        run(Supervised("ce"), mlp(1), fresh, execution=GRAPHS)


def test_a_failed_capture_names_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(work: Callable[[], object]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(Execution, "check", lambda self, device: None)
    monkeypatch.setattr("bcpd.train.trainer.CapturedSteps", lambda *parts: CapturedSteps(*parts, graph=broken))
    with pytest.raises(RuntimeError, match=r"a step of KD cannot .* \(operation not permitted .* capturing\)"):
        RUNS["kd"](execution=GRAPHS)


def test_settings_are_plain_attributes_of_the_method_and_its_parts() -> None:
    method = DKD(warm_up=4)
    before = plain_settings(method)
    method.progress(1, 0)
    assert plain_settings(method) != before
    method.progress(1, 7)
    again = plain_settings(method)
    method.progress(1, 8)
    assert plain_settings(method) == again, "within an epoch nothing changes"
    parts = Everything(40)
    parts.adapt(mlp(1)(world().x[:2]), mlp(5)(world().x[:2]))
    assert all("weight_g" not in key for _, key, _ in plain_settings(parts))


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in RUNS if name != "a warm-up by steps"])
def test_on_cuda_graphs_train_what_steps_train(name: str) -> None:
    plain = RUNS[name](device="cuda")
    captured = RUNS[name](device="cuda", execution=GRAPHS)
    left, right = ({k: v.cpu() for k, v in one.states["last"].items()} for one in (plain, captured))
    assert furthest(left, right) < 1e-9
