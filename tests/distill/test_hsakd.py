"""HSAKD: rotations and joint labels, its terms against loops, the heads' phase, and what stays as it is."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import bcpd
from bcpd.data import Batch, InMemory
from bcpd.distill import HSAKD, Supervised
from bcpd.distill.functional import joint_labels, rotated
from bcpd.nets import Views, build
from bcpd.train import Progress, ReadOut, Recipe

K = 3
SHAPE = (2, 4, 4)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Pooled(nn.Module):
    """A branch: perhaps a batch norm, the mean over space, a linear layer."""

    def __init__(self, channels: int, outputs: int, seed: int, norm: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False) if norm else nn.Identity()
        self.head = nn.Linear(channels, outputs)
        with torch.no_grad():
            self.head.weight.copy_(random(outputs, channels, seed=seed % 1000))

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.head(self.norm(features).mean((2, 3)))
        return result


class Tiny(nn.Module):
    """Two stages of a convolution and a ReLU, with branches."""

    def __init__(self, seed: int, norm: bool = False, stages: int = 2) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.norm, self.replicas = norm, None
        self.widths = [3, 4, 5][:stages]
        inputs = [SHAPE[0], *self.widths]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip(inputs[:-1], self.widths, strict=True)
        )
        self.batch_norm = nn.BatchNorm2d(SHAPE[0])
        self.head = nn.Linear(self.widths[-1], K)
        self.built: list[tuple[int, int]] = []
        self.double()

    def forward(self, x: Tensor) -> Views:
        stages, preacts = [], []
        features = self.batch_norm(x)
        for convolution in self.convolutions:
            preacts.append(convolution(features))
            features = functional.relu(preacts[-1])
            stages.append(features)
        pooled = features.mean((2, 3))
        return Views(self.head(pooled), pooled, tuple(stages), tuple(preacts))

    def branch(self, stage: int, outputs: int, seed: int) -> nn.Module:
        self.built.append((stage, outputs))
        return Pooled(self.widths[stage], outputs, seed, self.norm)


def images(n: int = 6, labelled: Tensor | None = None, **options: Any) -> InMemory:
    x = random(n, *SHAPE, seed=5)
    return InMemory(x, torch.arange(n) % K, num_classes=K, labelled=labelled, dtype=torch.float64, **options)


def method(student: nn.Module, teacher: nn.Module, **options: Any) -> HSAKD:
    hsakd = HSAKD(student, teacher, **options)
    example = images().batch(torch.arange(2)).x
    torch.manual_seed(0)
    with torch.no_grad():
        hsakd.adapt(student.eval()(example), teacher.eval()(example))
    return hsakd


def prepared(hsakd: HSAKD, data: InMemory) -> Batch:
    return hsakd.prepare(data.batch(torch.arange(len(data))), torch.Generator())


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor], prefix: str = "") -> bool:
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left if name.startswith(prefix))


# --------------------------------------------------------------------------------------------------------- rotations


def test_images_are_turned_one_by_one() -> None:
    x = random(3, 2, 4, 4)
    turned = rotated(x)
    assert turned.shape == (12, 2, 4, 4)
    for i in range(3):
        for r in range(4):
            for c in range(2):
                expected = np.rot90(x[i, c].numpy(), r)
                np.testing.assert_array_equal(turned[4 * i + r, c].numpy(), expected)
    again = turned.reshape(3, 4, 2, 4, 4)
    assert torch.equal(torch.rot90(again[:, 3], 1, (-2, -1)), x)
    with pytest.raises(ValueError, match=r"square images \(B, C, H, H\), received shape \(2, 3, 4, 5\)"):
        rotated(torch.zeros(2, 3, 4, 5))
    with pytest.raises(ValueError, match=r"received shape \(2, 3\)"):
        rotated(torch.zeros(2, 3))


def test_joint_labels_tell_all_pairs_apart() -> None:
    y, r = torch.meshgrid(torch.arange(5), torch.arange(4), indexing="ij")
    assert sorted(joint_labels(y, r).flatten().tolist()) == list(range(20))
    assert int(joint_labels(torch.tensor(2), torch.tensor(3))) == 11


def test_a_prepared_batch_keeps_everything_beside_the_image_it_belongs_to() -> None:
    labelled = torch.tensor([True, False, True, True, False, False])
    log_bayes = random(6, K, seed=1).log_softmax(-1)
    data = images(labelled=labelled, log_bayes=log_bayes, targets=random(6, K, seed=2).softmax(-1))
    index = torch.tensor([4, 0, 2])
    plain = data.batch(index)
    plain = Batch(**{**vars(plain), "extra": {"view": torch.tensor([7, 8, 9])}})
    batch = method(Tiny(0), Tiny(1)).prepare(plain, torch.Generator())
    assert batch.index.tolist() == [4] * 4 + [0] * 4 + [2] * 4
    assert batch.extra["rotation"].tolist() == [0, 1, 2, 3] * 3
    assert batch.extra["view"].tolist() == [7] * 4 + [8] * 4 + [9] * 4
    assert torch.equal(batch.y, data.y[batch.index])
    assert batch.labelled is not None
    assert torch.equal(batch.labelled, labelled[batch.index])
    upright = batch.extra["rotation"] == 0
    assert torch.equal(batch.x[upright], plain.x)
    # p* and the given rows are those of the upright images, and of no other
    for rows, own in ((batch.log_bayes, plain.log_bayes), (batch.targets, plain.targets)):
        assert rows is not None
        assert own is not None
        assert torch.equal(rows[upright], own)
        assert bool(rows[~upright].isnan().all())
    assert method(Tiny(0), Tiny(1)).prepare(images().batch(index), torch.Generator()).log_bayes is None


# --------------------------------------------------------------------------------------------------------- the terms


def slow_kl(z_s: list[float], z_t: list[float], temperature: float) -> float:
    def softmax(z: list[float]) -> list[float]:
        weights = [math.exp(value / temperature) for value in z]
        return [weight / sum(weights) for weight in weights]

    s, t = softmax(z_s), softmax(z_t)
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(t, s, strict=True))


def slow_ce(z: list[float], y: int) -> float:
    return math.log(sum(math.exp(value) for value in z)) - z[y]


@pytest.mark.parametrize("mask", [None, [True, False, False, True, True, False]])
def test_its_terms_are_those_of_loops_over_images_rotations_and_heads(mask: list[bool] | None) -> None:
    student, teacher = Tiny(0), Tiny(1)
    hsakd = method(student, teacher, temperature=2.0, weight=0.7, label_weight=0.5, kd_weight=0.3)
    data = images(labelled=None if mask is None else torch.tensor(mask))
    batch = prepared(hsakd, data)
    with torch.no_grad():
        s, t = student(batch.x), teacher(batch.x)
        terms = hsakd.loss(batch, s, t)
        heads = hsakd.head_loss(batch, t)
    assert set(terms) == {"joint", "label", "kd"}
    joint = logits = label = head = 0.0
    known = [i for i in range(6) if mask is None or mask[i]]
    for i in range(6):
        for r in range(4):
            with torch.no_grad():
                x = torch.from_numpy(np.rot90(data.x[i].numpy(), r, (1, 2)).copy())[None]
                one_s, one_t = student(x), teacher(x)
                for level in range(2):
                    q_s = hsakd.student_heads[level](one_s.stages[level])[0].tolist()
                    q_t = hsakd.teacher_heads[level](one_t.stages[level])[0].tolist()
                    joint += slow_kl(q_s, q_t, 2.0) / 24
                    if i in known:
                        head += slow_ce(q_t, 4 * int(data.y[i]) + r) / (4 * len(known))
            logits += slow_kl(one_s.logits[0].tolist(), one_t.logits[0].tolist(), 2.0) / 24
            if i in known and r == 0:
                label += slow_ce(one_s.logits[0].tolist(), int(data.y[i])) / len(known)
    assert float(terms["joint"]) == pytest.approx(0.7 * joint, rel=1e-10)
    assert float(terms["kd"]) == pytest.approx(0.3 * logits, rel=1e-10)
    assert float(terms["label"]) == pytest.approx(0.5 * label, rel=1e-10)
    assert set(heads) == {"joint"}
    assert float(heads["joint"]) == pytest.approx(head, rel=1e-10)


def test_the_defaults_are_the_paper_s() -> None:
    hsakd = HSAKD(Tiny(0), Tiny(1))
    assert (hsakd.temperature, hsakd.head_epochs) == (3.0, 100)
    assert (hsakd.label_weight, hsakd.kd_weight, hsakd.weight) == (1.0, 1.0, 1.0)
    assert hsakd.needs == {"labels", "student.logits", "teacher.logits", "student.stages", "teacher.stages"}
    assert not hsakd.couples


def test_a_student_equal_to_its_teacher_with_equal_heads_pays_for_its_labels_alone() -> None:
    student, teacher = Tiny(0), Tiny(0)
    hsakd = method(student, teacher)
    hsakd.student_heads.load_state_dict(hsakd.teacher_heads.state_dict())
    batch = prepared(hsakd, images())
    terms = hsakd.loss(batch, student(batch.x), teacher(batch.x))
    (terms["joint"] + terms["kd"]).backward()
    assert float(terms["joint"].detach()) == pytest.approx(0, abs=1e-13)
    assert float(terms["kd"].detach()) == pytest.approx(0, abs=1e-13)
    assert max(float(p.grad.abs().max()) for p in student.parameters() if p.grad is not None) < 1e-13
    assert float(terms["label"].detach()) > 0.1


def test_heads_are_built_for_every_stage_from_the_seed() -> None:
    student, teacher = Tiny(0), Tiny(1)
    hsakd = method(student, teacher)
    assert student.built == teacher.built == [(0, 4 * K), (1, 4 * K)]
    assert same(snapshot(method(student, teacher)), snapshot(hsakd))
    weights = [p for p in hsakd.parameters() if p.ndim == 2]
    assert not torch.equal(weights[0], weights[2])  # of student and teacher
    assert all(p.dtype == torch.float64 for p in hsakd.parameters())
    # the networks are no parts of the method, nor copied with it
    assert len(list(hsakd.parameters())) == 8
    copied = copy.deepcopy(hsakd)
    example = images().batch(torch.arange(2)).x
    copied.adapt(student(example), teacher(example))
    assert len(student.built) == 6


def test_its_gradient_is_the_finite_difference_and_none_enters_the_teacher() -> None:
    student, teacher = Tiny(0), Tiny(1)
    hsakd = method(student, teacher, label_weight=0.0)
    batch = prepared(hsakd, images(2))
    s, t = student(batch.x), teacher(batch.x)

    def value(first: Tensor, second: Tensor, logits: Tensor, *_: Tensor) -> Tensor:
        terms = hsakd.loss(batch, s._replace(stages=(first, second), logits=logits), t)
        return terms["joint"] + terms["kd"]

    inputs = [tensor.detach().requires_grad_() for tensor in (*s.stages, s.logits)]
    assert torch.autograd.gradcheck(
        value, (*inputs, *hsakd.student_heads.parameters()), eps=1e-6, atol=1e-7, fast_mode=True
    )
    value(*inputs).backward()
    assert all(p.grad is not None for p in hsakd.student_heads.parameters())
    assert all(p.grad is None for p in (*teacher.parameters(), *hsakd.teacher_heads.parameters()))
    hsakd.head_loss(batch, t)["joint"].backward()
    assert all(p.grad is not None for p in hsakd.teacher_heads.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_networks_without_branches_and_other_misfits_are_refused() -> None:
    mlp = build("mlp", num_classes=K, input_shape=(4,), seed=0)
    with pytest.raises(ValueError, match=r"must be convolutional and have branch.*; the student, MLP, has none"):
        HSAKD(mlp, Tiny(0))
    with pytest.raises(ValueError, match=r"the teacher must be a network or build branches .*received 3"):
        HSAKD(Tiny(0), 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="head_epochs must be >= 1, received 0"):
        HSAKD(Tiny(0), Tiny(0), head_epochs=0)
    s = Tiny(0)(images().x)
    with pytest.raises(ValueError, match=r"HSAKD .*trains a single model, received 2 replicas"):
        HSAKD(Tiny(0), Tiny(0)).adapt(s._replace(logits=random(2, 6, K)), s)
    with pytest.raises(ValueError, match="HSAKD needs a teacher's views, received None"):
        HSAKD(Tiny(0), Tiny(0)).adapt(s, None)
    with pytest.raises(ValueError, match="the student has 2 and the teacher 1"):
        HSAKD(Tiny(0), Tiny(0)).adapt(s, s._replace(stages=s.stages[:1]))
    for shape in ((2, 3), (2, 3, 4, 5)):
        with pytest.raises(ValueError, match=r"turns square images by 90 degrees .*the teacher has one of shape"):
            HSAKD(Tiny(0), Tiny(0)).adapt(s, s._replace(stages=(s.stages[0], torch.zeros(shape))))


def test_a_read_out_is_looked_through_and_a_builder_is_taken_as_it_is() -> None:
    student, teacher = Tiny(0), Tiny(1)
    read_out = ReadOut(teacher, Supervised("ce"))
    hsakd = method(student, read_out)
    assert teacher.built == [(0, 4 * K), (1, 4 * K)]
    assert same(snapshot(method(student, teacher)), snapshot(hsakd))
    built = HSAKD(student.branch, teacher.branch)
    example = images().batch(torch.arange(2)).x
    torch.manual_seed(0)
    built.adapt(student(example), teacher(example))
    assert same(snapshot(built), snapshot(hsakd))


# ------------------------------------------------------------------------------------------------------ in training

RECIPE = Recipe(epochs=2, learning_rate=0.05, batch_size=3, validation=0, weight_decay=0.01)


class Stop(Exception):
    """Raised to interrupt a training."""


class Watched(HSAKD):
    """Notes its state when built and as the main training starts, and the modes that its heads run in."""

    def adapt(self, student: Views, teacher: Views | None) -> None:
        super().adapt(student, teacher)
        self._notes: dict[str, Any] = {"built": snapshot(self), "phase": 0, "main": 0}

    def head_loss(self, batch: Batch, t: Views) -> Mapping[str, Tensor]:
        terms = super().head_loss(batch, t)
        self._notes["phase"] += 1
        assert all(module.training for module in self.teacher_heads.modules())
        assert not any(stage.requires_grad for stage in t.stages)
        assert len(batch.x) == len(t.logits) == 12
        return terms

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        if not self._notes["main"]:
            self._notes["taught"] = snapshot(self)
        terms = super().loss(batch, s, t)
        self._notes["main"] += 1
        assert not any(module.training for module in self.teacher_heads.modules())
        assert all(module.training for module in self.student_heads.modules())
        return terms


def test_the_phase_trains_the_teacher_s_heads_and_the_main_training_leaves_them() -> None:
    student, teacher = Tiny(0, norm=True), Tiny(1, norm=True)
    before, names = snapshot(teacher), set(student.state_dict())
    hsakd = Watched(student, teacher, head_epochs=2)
    fitted = bcpd.fit(student, images(), hsakd, RECIPE, seed=0, teacher=teacher)
    notes, final = hsakd._notes, snapshot(hsakd)
    assert (notes["phase"], notes["main"]) == (4, 4)
    assert same(snapshot(teacher), before), "neither weights nor batch statistics of the backbone move"
    assert set(fitted.states["last"]) == names
    for name, value in notes["built"].items():
        moved = not torch.equal(value, notes["taught"][name])
        assert moved == name.startswith("teacher_heads"), name
    assert any("running_mean" in name for name in final)
    # neither decay nor momentum, nor batch statistics, move the teacher's heads any more
    assert same(final, notes["taught"], "teacher_heads")
    assert all(
        not torch.equal(final[name], notes["taught"][name]) for name in final if name.startswith("student_heads")
    )
    assert {"train_label", "train_joint", "train_kd"} <= set(fitted.history[0])


@pytest.mark.parametrize("own", [None, 0.05])
def test_the_phase_has_its_own_rate_and_milestones(own: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    real = bcpd.train.trainer.set_rates

    def spy(optimizer: Any, values: list[float]) -> None:
        rates.append(values[0])
        real(optimizer, values)

    monkeypatch.setattr("bcpd.train.trainer.set_rates", spy)
    hsakd = HSAKD(Tiny(0), Tiny(1), head_epochs=10, head_rate=own)
    recipe = Recipe(epochs=2, learning_rate=0.01, batch_size=6)
    bcpd.fit(Tiny(0), images(), hsakd, recipe, seed=0, teacher=Tiny(1))
    start = own or 0.01
    expected = [start] * 3 + [start / 10] * 3 + [start / 100] * 3 + [start / 1000]
    assert rates[:10] == pytest.approx(expected)
    assert rates[10:] == pytest.approx([0.01 * recipe.schedule.factor(epoch / 2) for epoch in range(2)])


def test_the_phase_learns_the_joint_labels() -> None:
    teacher = Tiny(1)
    losses = []
    for epochs in (1, 60):
        hsakd = HSAKD(Tiny(0), teacher, head_epochs=epochs)
        recipe = Recipe(epochs=1, learning_rate=0.1, batch_size=6, validation=0)
        bcpd.fit(Tiny(0), images(), hsakd, recipe, seed=0, teacher=teacher)
        batch = prepared(hsakd, images())
        with torch.no_grad():
            losses.append(float(hsakd.head_loss(batch, teacher(batch.x))["joint"]))
    assert losses[1] < losses[0] - 0.1


@pytest.mark.parametrize("phase", ["teacher heads", "main"])
def test_a_run_stopped_in_either_part_goes_on_to_the_same_bits(phase: str, tmp_path: Path) -> None:
    def run(folder: Path | None, stop: bool) -> bcpd.train.Fitted:
        def watch(report: Progress) -> None:
            if stop and (report.phase, report.epoch) == (phase, 1):
                raise Stop

        student, teacher = Tiny(0, norm=True), Tiny(1, norm=True)
        return bcpd.fit(
            student,
            images(),
            HSAKD(student, teacher, head_epochs=2),
            RECIPE,
            seed=0,
            teacher=teacher,
            folder=folder,
            save_seconds=0,
            progress=watch,
        )

    whole = run(None, False)
    with pytest.raises(Stop):
        run(tmp_path, True)
    resumed = run(tmp_path, False)
    assert resumed.history == whole.history
    assert same(resumed.states["last"], whole.states["last"])
    assert same(resumed.method.state_dict(), whole.method.state_dict())


def test_two_steps_with_the_branches_of_real_networks_and_two_classes() -> None:
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    data = InMemory(x, torch.arange(8) % 2, num_classes=2)
    student, teacher = (build("resnet8x0.5", num_classes=2, input_shape=(3, 8, 8), seed=seed) for seed in (0, 1))
    before = snapshot(teacher)
    hsakd = HSAKD(student, teacher, head_epochs=1)
    recipe = Recipe(epochs=1, learning_rate=0.05, batch_size=4, validation=0)
    fitted = bcpd.fit(student, data, hsakd, recipe, seed=0, teacher=teacher)
    assert fitted.diverged == [None]
    assert same(snapshot(teacher), before)
    assert len(hsakd.student_heads) == len(hsakd.teacher_heads) == 3
