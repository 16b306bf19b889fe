"""CRD against loops of the paper's formula: the critic, its memory and constants, its negatives, and in training."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import bcpd
from bcpd.data import InMemory
from bcpd.distill import CRD
from bcpd.distill.functional import (
    class_groups,
    contrastive,
    draw_negatives,
    draw_positives,
    kd,
    log_normaliser,
    memory_scores,
    remembered,
)
from bcpd.distill.published import published
from bcpd.losses import LOSSES
from bcpd.nets import Net, Views, build
from bcpd.train import Fitted, Progress, Recipe
from bcpd.train.split import split

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 1, 2, 2, 1])


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(rows: Tensor) -> Tensor:
    return rows / rows.square().sum(-1, keepdim=True).sqrt()


def views(pooled: Tensor, logits: Tensor | None = None) -> Views:
    return Views(random(len(pooled), 3) if logits is None else logits, pooled, (), ())


def source(labelled: Tensor | None = None) -> InMemory:
    x = random(len(LABELS), 4, seed=9)
    return InMemory(x, LABELS, num_classes=3, labelled=labelled, dtype=torch.float64)


def slow_critic(scores: list[float], examples: int, constant: float = 1.0) -> float:
    """-log h of the positive - sum of log(1 - h) of the negatives, h = exp / (exp + N / M), exp over Z."""
    negatives = len(scores) - 1

    def h(score: float) -> float:
        weight = math.exp(score) / constant
        return weight / (weight + negatives / examples)

    return -math.log(h(scores[0])) - sum(math.log(1 - h(score)) for score in scores[1:])


# ------------------------------------------------------------------------------------------------------- the critic


@given(
    scores=st.lists(st.floats(-8, 8), min_size=2, max_size=6),
    examples=st.integers(1, 1000),
    constant=st.sampled_from([1.0, 30.0, 1e4]),
)
@settings(max_examples=60)
def test_the_value_is_the_paper_s(scores: list[float], examples: int, constant: float) -> None:
    value = contrastive(torch.tensor([scores], dtype=torch.float64), math.log(constant), examples)
    assert value.shape == (1,)
    assert float(value) == pytest.approx(slow_critic(scores, examples, constant), rel=1e-9)


def test_scores_that_tell_nothing_cost_least_where_every_h_is_one_in_n_plus_one() -> None:
    count = 7
    least = math.log(count + 1) + count * math.log(1 + 1 / count)

    def cost(score: float) -> float:
        return float(contrastive(torch.full((1, 1 + count), score, dtype=torch.float64), 0.0, 50))

    at = math.log(count / 50) - math.log(count)  # h = 1 / (N + 1)
    assert cost(at) == pytest.approx(least, rel=1e-13)
    assert min(cost(at - 0.01), cost(at + 0.01)) > least + 1e-6
    # the constant of Wu et al. puts a critic there, whatever the scores are
    flat = torch.full((3, 1 + count), 4.2, dtype=torch.float64)
    assert contrastive(flat, log_normaliser(flat, 50), 50).tolist() == pytest.approx([least] * 3, rel=1e-13)


def test_the_constant_is_the_number_of_examples_times_the_mean_exponential() -> None:
    scores = random(3, 5)
    mean = sum(math.exp(float(score)) for score in scores.flatten()) / 15
    assert float(log_normaliser(scores, 40).exp()) == pytest.approx(40 * mean, rel=1e-13)


def test_the_critic_s_gradient_is_the_finite_difference() -> None:
    scores = random(2, 4, scale=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: contrastive(s, 0.3, 20), (scores,), eps=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_saturated_scores_stay_finite_in_half_precision(dtype: torch.dtype) -> None:
    """e^(1 / 0.07) is 1.6e6, beyond float16; at a temperature of 0.001 it is beyond float64."""
    anchors = unit(random(4, 8)).to(dtype).requires_grad_()
    memory = torch.cat([anchors.detach(), -anchors.detach()])
    index = torch.tensor([[i, 4 + i, (i + 1) % 4] for i in range(4)])
    for temperature in (0.07, 0.001):
        scores = memory_scores(anchors, memory, index, temperature)
        value = contrastive(scores, log_normaliser(scores, 8), 8)
        assert scores.dtype == value.dtype == torch.float32
        (gradient,) = torch.autograd.grad(value.sum(), anchors)
        assert bool(value.isfinite().all())
        assert bool(gradient.isfinite().all())
    wide = memory_scores(anchors.double(), memory.double(), index)
    torch.testing.assert_close(memory_scores(anchors, memory, index).double(), wide, rtol=1e-5, atol=1e-4)


def test_autocast_does_not_round_the_scores() -> None:
    anchors, memory, index = (
        unit(random(3, 16)).float(),
        unit(random(6, 16, seed=1)).float(),
        torch.tensor([[0, 5]] * 3),
    )
    with torch.autocast("cpu", torch.bfloat16):
        inside = memory_scores(anchors, memory, index)
    assert torch.equal(inside, memory_scores(anchors, memory, index))


def test_scores_are_products_with_the_asked_rows_and_no_gradient_enters_the_memory() -> None:
    anchors, memory = unit(random(3, 5)).requires_grad_(), unit(random(7, 5, seed=1)).requires_grad_()
    index = torch.tensor([[0, 6, 6, 2], [3, 3, 1, 5], [4, 0, 2, 1]])
    scores = memory_scores(anchors, memory, index, 0.5)
    for row, anchor, of in zip(scores.tolist(), anchors.tolist(), index.tolist(), strict=True):
        products = [sum(a * b for a, b in zip(anchor, memory[j].tolist(), strict=True)) for j in of]
        assert row == pytest.approx([product / 0.5 for product in products], rel=1e-12)
    contrastive(scores, 0.0, 7).sum().backward()
    assert anchors.grad is not None
    assert memory.grad is None
    fixed = memory.detach()
    assert torch.autograd.gradcheck(lambda a: memory_scores(a, fixed, index, 0.5), (anchors,), eps=1e-6, atol=1e-8)


def test_a_memory_follows_by_its_momentum_at_unit_norm() -> None:
    memory, embedded = unit(random(3, 4)), unit(random(3, 4, seed=1)).requires_grad_()
    moved = remembered(memory, embedded, 0.25)
    assert not moved.requires_grad
    for row, old, new in zip(moved, memory, embedded.detach(), strict=True):
        mixed = [0.25 * float(a) + 0.75 * float(b) for a, b in zip(old, new, strict=True)]
        norm = math.sqrt(sum(value**2 for value in mixed))
        assert row.tolist() == pytest.approx([value / norm for value in mixed], rel=1e-12)
    torch.testing.assert_close(remembered(memory, embedded, 0.0), embedded.detach(), rtol=1e-14, atol=1e-15)


# ------------------------------------------------------------------------------------------------ negatives, positives

FALSE_ALARM = 1e-4


def uniform(counts: Tensor) -> bool:
    return float(scipy.stats.chisquare(counts.double().numpy()).pvalue) > FALSE_ALARM


def test_examples_are_sorted_by_class() -> None:
    groups, order, starts = class_groups(LABELS)
    assert torch.equal(groups, LABELS)
    assert [order[a:b].tolist() for a, b in pairwise(starts)] == [
        [0, 3, 6, 7],
        [1, 4, 8, 11],
        [2, 5, 9, 10],
    ]


def test_negatives_are_uniform_over_the_other_classes_and_independent() -> None:
    """Chi-square of the singles and of neighbouring pairs; each raises a false alarm in 1 of 10,000 seeds."""
    groups = class_groups(LABELS)
    index = torch.tensor([0, 4, 9])
    drawn = draw_negatives(*groups, index, 8000, stream())
    assert drawn.shape == (3, 8000)
    for row, anchor in zip(drawn, index, strict=True):
        others = (LABELS[anchor] != LABELS).nonzero().squeeze(-1)
        assert not bool((LABELS[row] == LABELS[anchor]).any())
        counts = row.bincount(minlength=len(LABELS))
        assert uniform(counts[others])
        assert not uniform(counts)  # over all examples it is not
        place = torch.searchsorted(others, row)
        assert uniform((place[:-1:2] * len(others) + place[1::2]).bincount(minlength=len(others) ** 2))
    # examples of one batch draw apart
    others = (LABELS != 0).nonzero().squeeze(-1)
    both = draw_negatives(*groups, torch.tensor([0, 3]), 8000, stream())
    first, second = (torch.searchsorted(others, row) for row in both)
    for shift in (0, 3):
        pairs = first[shift:] * len(others) + second[: len(second) - shift]
        assert uniform(pairs.bincount(minlength=len(others) ** 2))


def test_what_is_drawn_depends_on_the_stream_and_the_example_alone() -> None:
    groups = class_groups(LABELS)
    whole = draw_negatives(*groups, torch.tensor([5, 0, 11, 3]), 9, stream(3))
    part = draw_negatives(*groups, torch.tensor([11, 5]), 9, stream(3))
    assert torch.equal(part, whole[[2, 0]])
    assert not torch.equal(draw_negatives(*groups, torch.tensor([11, 5]), 9, stream(4)), part)


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=20).filter(lambda y: len(set(y)) > 1),
    seed=st.integers(0, 1000),
    data=st.data(),
)
@settings(max_examples=40)
def test_no_negative_has_the_anchor_s_class_whatever_the_labels(labels: list[int], seed: int, data: Any) -> None:
    y = torch.tensor(labels)
    labelled = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(y), max_size=len(y))))
    index = torch.arange(len(y))
    groups = class_groups(y, labelled)
    drawn = draw_negatives(*groups, index, 30, stream(seed))
    known = labelled[:, None] & labelled[drawn]
    assert not bool((known & (y[:, None] == y[drawn])).any())
    assert not bool((drawn == index[:, None]).any())
    positives = draw_positives(*groups, index, stream(seed))
    assert torch.equal(y[positives], y)
    assert torch.equal(positives[~labelled], index[~labelled])


def test_positives_of_the_class_are_uniform() -> None:
    groups = class_groups(LABELS)
    # an example draws once a stream
    drawn = torch.cat([draw_positives(*groups, torch.arange(12), stream(seed)) for seed in range(400)]).reshape(400, 12)
    for i in (0, 4, 10):
        of_class = (LABELS[i] == LABELS).nonzero().squeeze(-1)
        counts = drawn[:, i].bincount(minlength=12)
        assert int(counts.sum()) == int(counts[of_class].sum())
        assert uniform(counts[of_class])


def test_an_unlabelled_example_is_a_class_of_its_own_and_its_label_is_not_looked_at() -> None:
    labelled = torch.tensor([True] * 6 + [False] * 6)
    groups = class_groups(LABELS, labelled)
    hidden = torch.where(labelled, LABELS, 7 - LABELS)
    assert all(torch.equal(a, b) for a, b in zip(groups, class_groups(hidden, labelled), strict=True))
    drawn = draw_negatives(*groups, torch.tensor([7, 1]), 600, stream())
    assert sorted(set(drawn[0].tolist())) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    assert sorted(set(drawn[1].tolist())) == [0, 2, 3, 5, *range(6, 12)]
    nobody = torch.zeros(12, dtype=torch.bool)
    assert torch.equal(class_groups(LABELS, nobody)[0], torch.arange(12))


def test_only_what_is_trained_on_is_drawn() -> None:
    among = torch.tensor([9, 0, 3, 1, 2])
    groups = class_groups(LABELS, among=among)
    drawn = draw_negatives(*groups, torch.arange(12), 300, stream())
    for i in range(12):
        assert set(drawn[i].tolist()) == {j for j in among.tolist() if LABELS[j] != LABELS[i]}
    positives = draw_positives(*groups, torch.arange(12), stream())
    assert all(int(p) in among and LABELS[p] == LABELS[i] for i, p in enumerate(positives))
    # an example outside whose class is not drawn from at all is its own positive
    alone = class_groups(LABELS, among=torch.tensor([0, 1]))
    assert draw_positives(*alone, torch.tensor([2, 0, 6]), stream()).tolist() == [2, 0, 0]


def test_examples_that_cannot_be_drawn_from_are_refused() -> None:
    with pytest.raises(ValueError, match="all 3 examples to draw from are of one class"):
        class_groups(torch.tensor([1, 1, 1]))
    with pytest.raises(ValueError, match="all 2 examples to draw from are of one class"):
        class_groups(LABELS, among=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"labels must be int64 of shape \(n,\)"):
        class_groups(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels must be >= 0, received -1"):
        class_groups(torch.tensor([0, -1]))
    with pytest.raises(ValueError, match=r"labelled must be bool of shape \(12,\), received torch.bool \(3,\)"):
        class_groups(LABELS, torch.ones(3, dtype=torch.bool))
    for among in ([0, 0, 1], [0, 12], [-1, 1], []):
        with pytest.raises(ValueError, match=r"different ones in 0\.\.11"):
            class_groups(LABELS, among=torch.tensor(among, dtype=torch.int64))


# ----------------------------------------------------------------------------------------------------- the method


def method(s: Tensor, t: Tensor, **options: Any) -> CRD:
    options = {"negatives": 5, "dimension": 6, **options}
    crd = CRD(LABELS, **options)
    torch.manual_seed(1)
    crd.adapt(views(s[:2]), views(t[:2]))
    return crd


def slow_step(crd: CRD, index: list[int], contrast: Tensor, s: Tensor, t: Tensor, z: dict[str, float]) -> float:
    """The mean loss of a batch by loops over examples and pairs; z is filled by the first batch."""
    sides: dict[str, list[list[float]]] = {"student": [], "teacher": []}
    for side, features, memory in (("student", s, crd.teacher_memory), ("teacher", t, crd.student_memory)):
        linear = getattr(crd, f"embed_{side}")
        for row, pairs in zip(features, contrast, strict=True):
            anchor = linear.weight.detach() @ row + linear.bias.detach()
            anchor = anchor / math.sqrt(float((anchor**2).sum()))
            sides[side].append([float((anchor * memory[int(j)]).sum()) / crd.critic_temperature for j in pairs])
    total = 0.0
    for side, rows in sides.items():
        everything = [math.exp(score) for row in rows for score in row]
        z.setdefault(side, len(LABELS) * sum(everything) / len(everything))
        total += sum(slow_critic(row, len(LABELS), z[side]) for row in rows)
    return total / len(index)


@pytest.mark.parametrize("positive", ["exact", "relax"])
def test_two_steps_are_those_of_a_slow_loop(positive: str) -> None:
    data, s, t = source(), random(12, 4, seed=2), random(12, 5, seed=3)
    crd = method(s, t, positive=positive, critic_temperature=0.2, momentum=0.3)
    constants: dict[str, float] = {}
    for step, rows in enumerate(([3, 0, 7, 10], [1, 3, 5])):
        batch = crd.prepare(data.batch(torch.tensor(rows)), stream(step))
        contrast = torch.cat([batch.extra["positive"][:, None], batch.extra["negatives"]], 1)
        if positive == "exact":
            assert contrast[:, 0].tolist() == rows
        before = {side: getattr(crd, f"{side}_memory").clone() for side in ("student", "teacher")}
        expected = slow_step(crd, rows, contrast, s[rows], t[rows], constants)
        terms = crd.loss(batch, views(s[rows]), views(t[rows]))
        assert set(terms) == {"label", "crd"}
        assert float(terms["crd"].detach()) == pytest.approx(0.8 * expected, rel=1e-11)
        for side, features in (("student", s), ("teacher", t)):
            embedded = unit(getattr(crd, f"embed_{side}")(features[rows])).detach()
            memory = getattr(crd, f"{side}_memory")
            torch.testing.assert_close(memory[rows], remembered(before[side][rows], embedded, 0.3), rtol=0, atol=1e-14)
            untouched = [i for i in range(12) if i not in rows]
            assert torch.equal(memory[untouched], before[side][untouched])
            assert float(getattr(crd, f"{side}_constant").exp()) == pytest.approx(constants[side], rel=1e-12)


def test_the_other_terms_are_cross_entropy_and_distillation_by_their_weights() -> None:
    data, s, t = source(), random(12, 4, seed=2), random(12, 5, seed=3)
    z_s, z_t, rows = random(3, 3, seed=4), random(3, 3, seed=5), [0, 1, 2]
    batch = data.batch(torch.tensor(rows))

    def terms(**options: Any) -> dict[str, Tensor]:
        crd = method(s, t, **options)
        return dict(crd.loss(crd.prepare(batch, stream()), views(s[rows], z_s), views(t[rows], z_t)))

    both = terms(label_weight=0.5, kd_weight=2.0)
    assert float(both["label"]) == pytest.approx(0.5 * float(LOSSES["ce"](z_s, batch.y).mean()), rel=1e-13)
    assert float(both["kd"]) == pytest.approx(2.0 * float(kd(z_s, z_t, 4.0).mean()), rel=1e-13)
    assert set(terms(label_weight=0.0)) == {"crd"}
    double = terms(weight=1.6)["crd"]
    assert float(double.detach()) == pytest.approx(2 * float(both["crd"].detach()), rel=1e-13)
    default = CRD(LABELS)
    assert (default.label_weight, default.kd_weight, default.weight) == (1.0, 0.0, 0.8)
    assert (default.negatives, default.critic_temperature, default.momentum) == (16384, 0.07, 0.5)
    assert (default.dimension, default.positive) == (128, "exact")
    assert default.needs == {"labels", "student.pooled", "teacher.pooled"}
    assert CRD(LABELS, kd_weight=1.0, label_weight=0.0).needs == {
        "student.logits",
        "student.pooled",
        "teacher.logits",
        "teacher.pooled",
    }
    assert default.couples


def test_its_gradient_is_the_finite_difference_and_reaches_all_but_the_teacher_and_the_memory() -> None:
    data, s, t = source(), random(12, 4, seed=2), random(12, 5, seed=3)
    crd, rows = method(s, t, critic_temperature=0.5, label_weight=0.0), [0, 4]
    batch = crd.prepare(data.batch(torch.tensor(rows)), stream())
    crd.loss(batch, views(s[rows]), views(t[rows]))  # sets the constants
    crd.eval()
    remembered_before = crd.student_memory.clone()

    def value(features: Tensor, *_: Tensor) -> Tensor:
        return crd.loss(batch, views(features), views(t[rows]))["crd"]

    assert torch.autograd.gradcheck(
        value, (s[rows].requires_grad_(), *crd.parameters()), eps=1e-6, atol=1e-7, fast_mode=True
    )
    shown = t[rows].requires_grad_()
    crd.loss(batch, views(s[rows]), views(shown))["crd"].backward()
    assert shown.grad is None
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in crd.parameters())
    assert not any(buffer.requires_grad for buffer in crd.buffers())
    assert torch.equal(crd.student_memory, remembered_before), "nothing is remembered in eval mode"


def test_memories_start_as_random_unit_rows_from_the_seed() -> None:
    s, t = random(12, 4), random(12, 5)
    first, again = method(s, t), method(s, t)
    assert first.student_memory.shape == first.teacher_memory.shape == (12, 6)
    for memory in (first.student_memory, first.teacher_memory):
        torch.testing.assert_close(memory.norm(dim=-1), torch.ones(12, dtype=torch.float64), rtol=1e-13, atol=0)
    assert torch.equal(first.student_memory, again.student_memory)
    assert not torch.equal(first.student_memory, first.teacher_memory)
    assert float((first.student_memory @ first.student_memory.T).triu(1).abs().max()) < 0.999


def test_the_state_is_saved_and_goes_on_to_the_same_bits() -> None:
    data, s, t = source(), random(12, 4, seed=2), random(12, 5, seed=3)
    one = method(s, t)

    def step(crd: CRD, number: int) -> Tensor:
        rows = [(number + i) % 12 for i in range(4)]
        batch = crd.prepare(data.batch(torch.tensor(rows)), stream(number))
        return crd.loss(batch, views(s[rows]), views(t[rows]))["crd"].detach()

    step(one, 0)
    two = method(s + 1, t + 1)
    two.load_state_dict(one.state_dict())
    for number in range(1, 4):
        assert torch.equal(step(one, number), step(two, number))
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


def test_what_cannot_work_is_refused() -> None:
    s, t = random(12, 4), random(12, 5)
    crd = CRD(LABELS, negatives=5)
    replicas = Views(random(2, 3, 3), random(2, 3, 4), (), ())
    with pytest.raises(ValueError, match=r"CRD .*trains a single model, received 2 replicas"):
        crd.adapt(replicas, replicas)
    with pytest.raises(ValueError, match="CRD needs a teacher's views, received None"):
        crd.adapt(views(s), None)
    crd = method(s, t)
    with pytest.raises(ValueError, match="CRD needs a teacher's views, received None"):
        crd.loss(crd.prepare(source().batch(torch.arange(2)), stream()), views(s[:2]), None)
    longer = InMemory(torch.zeros(20, 1), torch.zeros(20, dtype=torch.int64), num_classes=3)
    with pytest.raises(ValueError, match="CRD was given 12 labels, but the batch has example 19"):
        crd.prepare(longer.batch(torch.tensor([3, 19])), stream())
    other = InMemory(torch.zeros(12, 1), LABELS.flip(0), num_classes=3)
    with pytest.raises(ValueError, match="CRD was given another label for example 0"):
        crd.prepare(other.batch(torch.arange(3)), stream())
    for options, message in (
        ({"negatives": 0}, "negatives and dimension must be >= 1, received 0 and 128"),
        ({"dimension": 0}, "negatives and dimension must be >= 1, received 16384 and 0"),
        ({"positive": "near"}, "positive must be 'exact' or 'relax', received 'near'"),
        ({"critic_temperature": 0.0}, "critic_temperature must be > 0"),
        ({"momentum": 1.0}, r"momentum in \[0, 1\)"),
        ({"weight": 0.0}, "weight must be > 0"),
        ({"label_weight": -1.0}, "label_weight and kd_weight must be >= 0"),
        ({"kd_weight": math.nan}, "label_weight and kd_weight must be >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            CRD(LABELS, **options)  # type: ignore[arg-type]


def test_the_published_setting_is_the_default() -> None:
    for dataset in ("cifar100", "imagenet"):
        named = published("crd", dataset=dataset, labels=LABELS)
        assert named.describe() == CRD(LABELS).describe()


# ------------------------------------------------------------------------------------------------------ in training

RECIPE = Recipe(epochs=2, learning_rate=0.05, batch_size=8, validation=0.25)


class Stop(Exception):
    """Raised to interrupt a training."""


def world(kind: str, classes: int = 3) -> InMemory:
    shape = (3, 8, 8) if kind == "images" else (4,)
    x = torch.randn(24, *shape, generator=stream(7))
    return InMemory(x, torch.arange(24) % classes, num_classes=classes)


def net(kind: str, seed: int, classes: int = 3) -> Net:
    if kind == "images":
        return build("resnet8x0.5", num_classes=classes, input_shape=(3, 8, 8), seed=seed)
    return build("mlp", num_classes=classes, input_shape=(4,), seed=seed, hidden=(6 + seed,))


def train(kind: str, classes: int = 3, stop: int | None = None, folder: Path | None = None, **options: Any) -> Fitted:
    def watch(report: Progress) -> None:
        if report.epoch == stop:
            raise Stop

    data = world(kind, classes)
    train_index, _ = split(data, 0.25, [0], None)
    crd = CRD(data.y, **{"negatives": 6, "train_index": train_index, **options})
    return bcpd.fit(
        net(kind, 1, classes),
        data,
        crd,
        RECIPE,
        seed=0,
        teacher=net(kind, 2, classes),
        folder=folder,
        save_seconds=0,
        progress=watch,
    )


@pytest.mark.parametrize(("kind", "classes"), [("images", 3), ("vectors", 3), ("vectors", 2)])
def test_it_trains_on_images_and_vectors_and_two_classes(kind: str, classes: int) -> None:
    started: dict[str, Tensor] = {}

    class Watched(CRD):
        def adapt(self, student: Views, teacher: Views | None) -> None:
            super().adapt(student, teacher)
            started.update({name: value.clone() for name, value in self.state_dict().items()})

    data, teacher = world(kind, classes), net(kind, 2, classes)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = net(kind, 1, classes)
    names = set(student.state_dict())
    crd = Watched(data.y, negatives=6, kd_weight=1.0)
    fitted = bcpd.fit(student, data, crd, RECIPE, seed=0, teacher=teacher)
    assert fitted.diverged == [None]
    assert {"train_label", "train_kd", "train_crd"} <= set(fitted.history[0])
    assert all(set(state) == names for state in fitted.states.values())
    learned = {name for name, _ in crd.named_parameters()}
    assert len(learned) == 4
    assert all(not torch.equal(crd.state_dict()[name], started[name]) for name in learned)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    seen, held = split(data, 0.25, [0], None)
    assert held is not None
    for memory in ("student_memory", "teacher_memory"):
        moved = (crd.state_dict()[memory] != started[memory]).any(-1)
        assert bool(moved[seen].all())
        assert not bool(moved[held].any())


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = train("vectors")
    with pytest.raises(Stop):
        train("vectors", stop=1, folder=tmp_path)
    resumed = train("vectors", folder=tmp_path)
    assert resumed.history == whole.history
    for left, right in (
        (resumed.states["last"], whole.states["last"]),
        (resumed.method.state_dict(), whole.method.state_dict()),
    ):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)


def test_other_labels_or_other_examples_to_draw_from_are_another_run() -> None:
    assert train("vectors").identity != train("vectors", train_index=None).identity
