"""The method contract carries every kind of distillation without fit knowing any of them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from dummy_methods import Adapter, Bank, Everything, Rotated, WarmUp
from small_world import D, K, Recorded, mlp, same, world
from torch import Tensor, nn

import bcpd
from bcpd import distill
from bcpd.data import Batch, InMemory
from bcpd.distill import KD, Method, Phase, Supervised
from bcpd.nets import Views, build
from bcpd.train import Fitted, Recipe
from bcpd.train import fit as fit_function
from bcpd.train.split import split

RECIPE = Recipe(epochs=2, learning_rate=0.1, batch_size=8, validation=0.25)
STEPS = 4  # of an epoch: 30 training examples of 40, in batches of 8


class Stop(Exception):
    """Raised to interrupt a training."""


def taught(seed: int = 0, hidden: tuple[int, ...] = (9,)) -> nn.Module:
    return bcpd.fit(mlp(seed, hidden), world(), Supervised("ce"), RECIPE, seed=0).teacher()


def images(n: int = 16) -> InMemory:
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, 4, 4, generator=stream, dtype=torch.float64)
    return InMemory(x, torch.arange(n) % K, num_classes=K, dtype=torch.float64)


def image_net(seed: int) -> nn.Module:
    return build("mlp", num_classes=K, input_shape=(1, 4, 4), seed=seed, hidden=(6,)).double()


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


# ------------------------------------------------------------------------------------------------- learned adapter


def test_a_learned_adapter_trains_with_the_student_and_is_not_exported_with_it() -> None:
    class Watched(Adapter):
        def adapt(self, student: Views, teacher: Views | None) -> None:
            super().adapt(student, teacher)
            self._start = snapshot(self)

    method, net, teacher = Watched(), mlp(1), taught()
    names, before = set(net.state_dict()), snapshot(teacher)
    fitted = bcpd.fit(net, world(), method, RECIPE, seed=0, teacher=teacher)
    assert set(method._start) == {"map.weight", "map.bias"}
    assert all(not torch.equal(value, method._start[key]) for key, value in method.state_dict().items())
    for state in fitted.states.values():
        assert set(state) == names
    assert set(fitted.network().state_dict()) == names
    assert fitted.method is method
    assert same(snapshot(teacher), before)


def test_an_adapter_moves_at_the_student_s_rate() -> None:
    """One full-batch step: the map moves by the rate times its own gradient."""
    method, net, teacher, source = Adapter(), mlp(1), taught(), world()
    recipe = Recipe(epochs=1, learning_rate=0.3, batch_size=40, momentum=0.0, validation=0.0)
    start: dict[str, Tensor] = {}
    original = method.adapt

    def noted(student: Views, teacher_views: Views | None) -> None:
        original(student, teacher_views)
        start.update(snapshot(method))

    method.adapt = noted  # type: ignore[method-assign]
    s, t = net(source.x).pooled.detach(), teacher(source.x).pooled
    bcpd.fit(net, source, method, recipe, seed=0, teacher=teacher)
    residual = s @ start["map.weight"].T + start["map.bias"] - t
    gradient = 2 * residual.T @ s / residual.numel()
    torch.testing.assert_close(method.map.weight.detach(), start["map.weight"] - 0.3 * gradient, rtol=0, atol=1e-13)


def test_a_method_that_degenerates_on_a_network_says_so_before_the_first_step() -> None:
    with pytest.raises(ValueError, match="at least as wide as the student, received 6 and 9 features"):
        bcpd.fit(mlp(1, (9,)), world(), Adapter(), RECIPE, seed=0, teacher=taught(0, (6,)))


def test_what_adapt_builds_is_drawn_from_the_seed() -> None:
    runs = []
    for global_seed, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(global_seed)
        method = Adapter()
        bcpd.fit(mlp(1), world(), method, RECIPE, seed=seed, teacher=taught())
        runs.append(method.state_dict())
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


# ----------------------------------------------------------------------------------------------------- memory bank


def test_a_memory_bank_is_written_exactly_at_the_indices_seen() -> None:
    method, source = Bank(40), world()
    bcpd.fit(mlp(), source, method, RECIPE, seed=0)
    train, validation = split(source, 0.25, [0], None)
    assert validation is not None
    assert bool((method.bank[train].abs().sum(-1) > 0).all())
    assert float(method.bank[validation].abs().max()) == 0


@pytest.mark.parametrize("kind", ["bank", "everything", "rotated"])
def test_a_method_s_state_survives_an_interruption_bit_for_bit(kind: str, tmp_path: Path) -> None:
    def run(folder: Path | None, stop: int | None) -> tuple[Fitted, list[str]]:
        reports: list[str] = []

        def watch(report: bcpd.train.Progress) -> None:
            reports.append(f"{report.phase} {report.epoch}")
            if len(reports) == stop:
                raise Stop

        method = {"bank": lambda: Bank(40), "everything": lambda: Everything(40), "rotated": Rotated}[kind]()
        rotated = kind == "rotated"
        fitted = bcpd.fit(
            image_net(1) if rotated else mlp(1),
            images() if rotated else world(),
            method,
            Recipe(epochs=3, learning_rate=0.05, batch_size=8, validation=0.25),
            seed=0,
            teacher=bcpd.train.ReadOut(image_net(5), Supervised("ce")) if rotated else taught(),
            folder=folder,
            save_seconds=0,
            progress=watch,
        )
        return fitted, reports

    whole, _ = run(None, None)
    epochs = 3 if kind == "bank" else 5
    for stop in range(1, epochs + 1):
        folder = tmp_path / str(stop)
        with pytest.raises(Stop):
            run(folder, stop)
        resumed, reports = run(folder, None)
        assert len(reports) == epochs - stop  # it went on, and did not start again
        assert same(resumed.method.state_dict(), whole.method.state_dict())
        assert all(same(resumed.states[name], whole.states[name]) for name in whole.states)
        assert resumed.history == whole.history


# --------------------------------------------------------------------------------------------- rotations and a phase


def test_a_phase_trains_heads_on_the_frozen_teacher_before_the_student_moves() -> None:
    events: list[Any] = []

    class Watched(Rotated):
        def adapt(self, student: Views, teacher: Views | None) -> None:
            super().adapt(student, teacher)
            events.append(snapshot(self))

        def head_loss(self, batch: Batch, t: Views) -> Mapping[str, Tensor]:
            events.append("phase")
            assert not t.pooled.requires_grad
            assert t.pooled.shape[0] == 4 * (len(batch.y) // 4)
            return super().head_loss(batch, t)

        def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
            if "main" not in events:
                events.extend([snapshot(self), snapshot(net)])
            events.append("main")
            return super().loss(batch, s, t)

    method, net, teacher = Watched(), image_net(1), image_net(5)
    initial, frozen = snapshot(net), snapshot(teacher)
    source = images()
    bcpd.fit(net, source, method, RECIPE, seed=0, teacher=teacher)
    kinds = [event if isinstance(event, str) else "snapshot" for event in events]
    assert kinds == ["snapshot", *["phase"] * 4, "snapshot", "snapshot", *["main"] * 4]
    start, after_phase, net_after_phase = events[0], events[5], events[6]
    assert all(not torch.equal(start[key], after_phase[key]) for key in start if key.startswith("teacher_head"))
    assert all(torch.equal(start[key], after_phase[key]) for key in start if key.startswith("student_head"))
    assert same(net_after_phase, initial)
    assert same(snapshot(teacher), frozen)
    final = snapshot(method)
    assert all(torch.equal(final[key], after_phase[key]) for key in final if key.startswith("teacher_head"))
    assert all(not torch.equal(final[key], after_phase[key]) for key in final if key.startswith("student_head"))
    assert not same(snapshot(net), initial)


def test_a_phase_learns_what_it_is_for() -> None:
    """More epochs of the phase, a smaller loss of the joint labels on the teacher's features."""
    losses = []
    for epochs in (1, 40):
        method, teacher = Rotated(epochs), image_net(5)
        reports: list[bcpd.train.Progress] = []
        recipe = Recipe(epochs=1, learning_rate=0.5, batch_size=8, validation=0.25)
        bcpd.fit(image_net(1), images(), method, recipe, seed=0, teacher=teacher, progress=reports.append)
        assert [report.phase for report in reports] == ["teacher head"] * epochs + ["main"]
        assert [report.epoch for report in reports] == [*range(1, epochs + 1), 1]
        losses.append(reports[-2].metrics["train_joint"][0])
    assert losses[1] < 0.7 * losses[0]


def test_rotations_have_joint_labels() -> None:
    batch = images().batch(torch.arange(3))
    rotated = Rotated().prepare(batch, torch.Generator())
    assert rotated.x.shape == (12, 1, 4, 4)
    for turn in range(4):
        part = slice(3 * turn, 3 * turn + 3)
        assert torch.equal(rotated.x[part], torch.rot90(batch.x, turn, (-2, -1)))
        assert torch.equal(rotated.extra["joint"][part], batch.y * 4 + turn)


def test_a_phase_without_a_teacher_is_refused_before_anything_moves() -> None:
    class Phased(Supervised):
        def __init__(self) -> None:
            super().__init__("ce")
            self.head = nn.Linear(1, 1)

        def phases(self) -> list[Phase]:
            return [Phase("head", 1, list(self.head.parameters()), lambda batch, t: {"a": self.head.weight.sum()})]

    net = mlp()
    initial = snapshot(net)
    with pytest.raises(ValueError, match="Phased has a phase that trains on a teacher, but none was given"):
        bcpd.fit(net, world(), Phased(), RECIPE, seed=0)
    assert same(snapshot(net), initial)


def test_a_phase_must_be_one() -> None:
    weight = nn.Parameter(torch.zeros(1))
    for name, epochs, parameters in (("main", 1, [weight]), ("a", 0, [weight]), ("a", 1, [])):
        with pytest.raises(ValueError, match=rf"received '{name}', {epochs} and {len(parameters)}"):
            Phase(name, epochs, parameters, lambda batch, t: {})


# --------------------------------------------------------------------------------------------------------- warm-up


def test_a_warm_up_is_told_every_epoch_and_step_once_in_order() -> None:
    method = WarmUp(STEPS, 2)
    bcpd.fit(
        mlp(1),
        world(),
        method,
        Recipe(epochs=3, learning_rate=0.1, batch_size=8, validation=0.25),
        seed=0,
        teacher=taught(),
    )
    assert method._told == [(epoch, step) for epoch in range(3) for step in range(STEPS)]
    assert method._weights == [min(1.0, step / 8) for step in range(12)]


def test_a_warm_up_enters_the_loss() -> None:
    """In the first step its weight is 0: one step is that of the labels alone, two are not."""
    for epochs, alike in ((1, True), (2, False)):
        recipe = Recipe(epochs=epochs, learning_rate=0.1, batch_size=40, validation=0.0)
        warm, plain = mlp(1), mlp(1)
        bcpd.fit(warm, world(), WarmUp(1, 2), recipe, seed=0, teacher=taught())
        bcpd.fit(plain, world(), Supervised("ce"), recipe, seed=0)
        gap = max(float((warm.state_dict()[key] - value).abs().max()) for key, value in plain.state_dict().items())
        assert (gap < 1e-13) is alike


# -------------------------------------------------------------------------------------------------- unlabelled data


@pytest.mark.parametrize("name", ["supervised", "kd"])
@pytest.mark.parametrize("replicas", [False, True])
def test_the_label_of_an_unlabelled_example_has_no_influence(name: str, replicas: bool) -> None:
    labelled = torch.arange(40) % 2 == 0
    method: Any = {"supervised": lambda: Supervised("ce"), "kd": lambda: KD(2.0, 0.5, 0.5)}[name]
    x, y, log_bayes = (getattr(world(), key) for key in ("x", "y", "log_bayes"))
    runs = []
    for changed in (None, ~labelled, labelled):
        labels = y.clone()
        if changed is not None:
            labels[changed] = (labels[changed] + 1) % K
        source = InMemory(x, labels, num_classes=K, log_bayes=log_bayes, labelled=labelled, dtype=torch.float64)
        seeds = [1, 2] if replicas else 1
        teacher = None if name == "supervised" else mlp([5, 6]) if replicas else mlp(5)
        runs.append(bcpd.fit(mlp(seeds), source, method(), RECIPE, seed=seeds, teacher=teacher))
    assert runs[0].history == runs[1].history
    assert all(same(runs[0].states[key], runs[1].states[key]) for key in runs[0].states)
    assert not same(runs[0].states["last"], runs[2].states["last"])


def test_an_unlabelled_example_still_teaches_through_the_teacher() -> None:
    labelled = torch.arange(40) < 20
    weights = []
    for shift in (0.0, 1.0):
        x, y, _ = (getattr(world(), key) for key in ("x", "y", "log_bayes"))
        x = x.clone()
        x[~labelled] += shift
        source = InMemory(x, y, num_classes=K, labelled=labelled, dtype=torch.float64)
        for method in (KD(2.0, 0.5, 0.5), Supervised("ce")):
            net = mlp(1)
            bcpd.fit(
                net,
                source,
                method,
                Recipe(epochs=1, learning_rate=0.1, batch_size=40, validation=0),
                seed=0,
                teacher=taught(),
            )
            weights.append(snapshot(net))
    assert not same(weights[0], weights[2])
    assert same(weights[1], weights[3])


def test_a_batch_without_a_label_costs_nothing_but_the_teacher_s_term() -> None:
    batch = world(labelled=torch.zeros(40, dtype=torch.bool)).batch(torch.arange(5))
    views = mlp()(batch.x)
    terms = KD(1.0, 0.5, 0.5).loss(batch, views, mlp(1)(batch.x))
    assert float(terms["label"].detach()) == 0
    assert float(terms["teacher"].detach()) > 0
    terms["label"].backward(retain_graph=True)


# ----------------------------------------------------------------------------------------------- needs and refusals


class Needy(Supervised):
    def __init__(self, *needs: str) -> None:
        super().__init__("ce")
        self.needs = frozenset(needs)


def teacherless(net: nn.Module) -> nn.Module:
    class Bare(nn.Module):
        """Offers logits and nothing else."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Views:
            return Views(self.net(x).logits, None, (), ())  # type: ignore[arg-type]

    return Bare()


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (["teacher"], "Needy needs a teacher, but none was given"),
        (["teacher.stages"], "Needy needs a teacher, but none was given"),
        (["bayes"], r"Needy needs p\*\(x\) for every training input, but the source does not know it"),
        (["student.pooled"], "Needy needs student.pooled, but the student network offers no pooled"),
        (["student.stages"], "Needy needs student.stages, but the student network offers no stages"),
        (["student.preacts"], "Needy needs student.preacts, but the student network offers no preacts"),
        (["teachers"], r"Needy.needs must be among \[.*'teacher'.*\], received \['teachers'\]"),
    ],
)
def test_needs_that_are_not_met_are_refused_before_the_first_step(
    needs: list[str], message: str, tmp_path: Path
) -> None:
    net = teacherless(mlp())
    initial = snapshot(net)
    with pytest.raises(ValueError, match=message):
        bcpd.fit(net, world(bayes=False), Needy(*needs), RECIPE, seed=0, folder=tmp_path / "run")
    assert same(snapshot(net), initial)
    assert not (tmp_path / "run").exists()


def test_needs_that_are_met_are_not_refused() -> None:
    method = Needy(
        "bayes", "labels", "teacher", "teacher.logits", "teacher.stages", "student.pooled", "student.preacts"
    )
    bcpd.fit(mlp(), world(), method, RECIPE, seed=0, teacher=taught())


@pytest.mark.parametrize("method", [Supervised("ce"), KD()], ids=["supervised", "kd"])
def test_a_method_of_labels_refuses_data_without_any(method: Method) -> None:
    source = world(labelled=torch.zeros(40, dtype=torch.bool))
    recipe = Recipe(epochs=1, learning_rate=0.1, validation=0)
    with pytest.raises(ValueError, match="needs labels, but the source marks no example as labelled"):
        bcpd.fit(mlp(), source, method, recipe, seed=0, teacher=mlp(3))
    bcpd.fit(mlp(), source, KD.pure(), recipe, seed=0, teacher=mlp(3))
    bcpd.fit(mlp(), source, Supervised("ce", target="bayes"), recipe, seed=0)


def test_a_teacher_with_other_classes_or_replicas_is_refused() -> None:
    other = build("mlp", num_classes=5, input_shape=(D,), seed=0).double()
    with pytest.raises(ValueError, match=r"same replicas and classes, received .*\(2, 3\) and \(2, 5\)"):
        bcpd.fit(mlp(), world(), KD(), RECIPE, seed=0, teacher=other)
    with pytest.raises(ValueError, match=r"same replicas and classes, received .*\(2, 3\) and \(2, 2, 3\)"):
        bcpd.fit(mlp(), world(), KD(), RECIPE, seed=0, teacher=mlp([0, 1]))


class Returns(Supervised):
    """A method whose loss returns what it is told to."""

    def __init__(self, kind: str) -> None:
        super().__init__("ce")
        self.kind = kind

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        values = self.label_loss(s.logits, batch.y)
        return {"nothing": {}, "values": {"label": values}, "scalar": {"label": values.mean()}}[self.kind]


@pytest.mark.parametrize(
    ("kind", "replicas", "message"),
    [
        ("values", False, r"terms of shape \(\), one number a replica, received label: \(8,\)"),
        ("values", True, r"terms of shape \(2,\), one number a replica, received label: \(2, 8\)"),
        ("scalar", True, r"terms of shape \(2,\), one number a replica, received label: \(\)"),
        ("nothing", False, r"received no term"),
    ],
)
def test_terms_of_another_shape_are_refused(kind: str, replicas: bool, message: str) -> None:
    seeds = [0, 1] if replicas else 0
    with pytest.raises(ValueError, match=message):
        bcpd.fit(mlp(seeds), world(), Returns(kind), RECIPE, seed=seeds)


def test_a_method_without_a_loss_says_what_is_missing() -> None:
    with pytest.raises(TypeError, match=r"abstract class Method.*loss"):
        Method()  # type: ignore[abstract]


class Plain(Method):
    """No settings at all."""

    def loss(self, batch: Batch, s: Views, t: Views | None) -> dict[str, torch.Tensor]:
        return {"zero": s.logits.sum() * 0}


def test_a_method_describes_itself_by_its_class_and_plain_settings() -> None:
    assert Bank(40).describe() == {"method": "Bank", "size": 40}
    assert KD(2.0, 0.25, 0.75).describe() == {
        "method": "KD",
        "temperature": 2.0,
        "label_weight": 0.25,
        "teacher_weight": 0.75,
    }
    assert Plain().describe() == {"method": "Plain"}


# ------------------------------------------------------------------------------------------ streams of randomness


class Noted(Everything):
    """Notes the generator of every prepared batch, and the indices of the main training."""

    def __init__(self, phase_epochs: int = 1) -> None:
        super().__init__(40, phase_epochs)
        self._streams: list[int] = []
        self._indices: list[list[int]] = []

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        self._streams.append(generator.initial_seed())
        return super().prepare(batch, generator)

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        self._indices.append(batch.index.tolist())
        return super().loss(batch, s, t)


def test_every_step_prepares_with_a_stream_of_its_own() -> None:
    methods = []
    for seed in (0, 0, 1):
        methods.append(Noted())
        bcpd.fit(mlp(1), world(), methods[-1], RECIPE, seed=seed, teacher=taught())
    first, again, other = (method._streams for method in methods)
    assert len(set(first)) == len(first) == 3 * STEPS
    assert first == again
    assert not set(first) & set(other)


def test_a_phase_does_not_change_the_batches_of_the_main_training() -> None:
    """A method with a phase is paired with one without."""
    shown = []
    for method in (Noted(1), Noted(2)):
        bcpd.fit(mlp(1), world(), method, RECIPE, seed=0, teacher=taught())
        shown.append(method._indices)
    plain = Recorded()
    bcpd.fit(mlp(1), world(), plain, RECIPE, seed=0)
    assert shown[0] == shown[1] == plain.indices()


# --------------------------------------------------------------------------------------------- the loop knows none


def test_no_method_is_named_in_the_trainer() -> None:
    package = Path(inspect.getfile(fit_function)).parent
    names = {name for name, value in vars(distill).items() if inspect.isclass(value) and issubclass(value, Method)}
    names -= {"Method"}
    assert {"KD", "Supervised"} <= names
    loop = [(package / f"{name}.py").read_text() for name in ("fit", "trainer", "gradient", "graphs", "turns")]
    text = "".join(line for line in "".join(loop).splitlines(keepends=True) if ":class:" not in line)
    words = set(text.replace("(", " ").replace(".", " ").replace('"', " ").split())
    assert not words & names
    assert "isinstance(self.method" not in text
    assert "isinstance(method" not in text


def test_the_teacher_is_frozen_in_eval_mode_and_sees_the_student_s_inputs() -> None:
    calls: list[tuple[bool, Tensor, bool]] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(3)

        def forward(self, x: Tensor) -> Views:
            calls.append((self.training, x, torch.is_grad_enabled()))
            views: Views = self.net(x)
            return views

    class Checked(KD):
        def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
            assert t is not None
            assert not t.logits.requires_grad
            assert s.logits.requires_grad
            assert batch.x is calls[-1][1]
            return super().loss(batch, s, t)

    teacher = Watched().train()
    before = copy.deepcopy(teacher.state_dict())
    bcpd.fit(mlp(), world(), Checked(), RECIPE, seed=0, teacher=teacher)
    assert len(calls) >= 2 * STEPS
    assert all(not training and not with_gradient for training, _, with_gradient in calls)
    assert same(before, teacher.state_dict())
    assert all(parameter.grad is None for parameter in teacher.parameters())
