"""ReviewKD against loops over pixels: the context loss, the fusion, the levels, the warm-up, and in training."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import bcpd
from bcpd.data import Batch, InMemory
from bcpd.distill import ReviewKD
from bcpd.distill.functional import hierarchical_context, kd
from bcpd.distill.review_kd import AttentionFusion
from bcpd.losses import LOSSES
from bcpd.nets import Views, build
from bcpd.train import Recipe


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_pool(image: list[list[float]], size: int) -> list[list[float]]:
    """Means over fields from floor(i H / size) to ceil((i + 1) H / size)."""

    def field(i: int, length: int) -> range:
        return range(i * length // size, -(-(i + 1) * length // size))

    rows = []
    for i in range(size):
        row = []
        for j in range(size):
            values = [image[a][b] for a in field(i, len(image)) for b in field(j, len(image[0]))]
            row.append(sum(values) / len(values))
        rows.append(row)
    return rows


def slow_context(f_s: Tensor, f_t: Tensor) -> float:
    """Of one example ``(C, H, W)``: both maps are pooled, then compared."""

    def distance(size: int | None) -> float:
        total, count = 0.0, 0
        for s, t in zip(f_s.tolist(), f_t.tolist(), strict=True):
            s, t = (s, t) if size is None else (slow_pool(s, size), slow_pool(t, size))
            for row_s, row_t in zip(s, t, strict=True):
                for a, b in zip(row_s, row_t, strict=True):
                    total, count = total + (a - b) ** 2, count + 1
        return total / count

    weights, values = [1.0], [distance(None)]
    for size in (4, 2, 1):
        if size < f_s.shape[1]:
            weights.append(weights[-1] / 2)
            values.append(distance(size))
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


@given(size=st.integers(1, 9), channels=st.integers(1, 3), seed=st.integers(0, 1000))
@settings(max_examples=15)
def test_the_context_loss_is_that_of_loops_over_pixels(size: int, channels: int, seed: int) -> None:
    f_s, f_t = random(2, channels, size, size, seed=seed), random(2, channels, size, size, seed=seed + 1)
    values = hierarchical_context(f_s, f_t)
    assert values.tolist() == pytest.approx([slow_context(s, t) for s, t in zip(f_s, f_t, strict=True)], rel=1e-12)


def test_its_weights_by_hand() -> None:
    """A constant difference of 1 costs 1 at every size; one that averages to 0 is seen at full size only."""
    zero = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    assert float(hierarchical_context(zero + 1, zero)) == pytest.approx(1.0, rel=1e-14)
    checker = (torch.arange(8)[:, None] + torch.arange(8)).remainder(2).double().mul(2).sub(1)[None, None]
    assert float(hierarchical_context(checker, zero)) == pytest.approx(1 / (1 + 1 / 2 + 1 / 4 + 1 / 8), rel=1e-14)
    four = checker[..., :4, :4]  # 4 x 4 is the whole map: weights 1, 1/2, 1/4
    assert float(hierarchical_context(four, zero[..., :4, :4])) == pytest.approx(1 / 1.75, rel=1e-14)
    one = torch.full((1, 3, 1, 1), 2.0, dtype=torch.float64)
    assert float(hierarchical_context(one, one * 0)) == 4.0


def test_its_gradient_is_the_finite_difference_and_the_teacher_has_none() -> None:
    f_s, f_t = random(2, 2, 5, 5).requires_grad_(), random(2, 2, 5, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: hierarchical_context(f, f_t), (f_s,), eps=1e-6, atol=1e-8)
    hierarchical_context(f_s, f_t).sum().backward()
    assert f_s.grad is not None
    assert f_t.grad is None


def test_it_is_zero_at_equal_maps_and_of_every_example_alone() -> None:
    f_s, f_t = random(3, 2, 6, 6), random(3, 2, 6, 6, seed=1)
    same = f_t.clone().requires_grad_()
    value = hierarchical_context(same, f_t)
    (gradient,) = torch.autograd.grad(value.sum(), same)
    assert value.tolist() == [0.0] * 3
    assert float(gradient.abs().max()) == 0
    assert float(hierarchical_context(f_s, f_t).min()) > 0.1
    assert torch.equal(hierarchical_context(f_s[1:2], f_t[1:2]), hierarchical_context(f_s, f_t)[1:2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    """300^2 is beyond float16."""
    f_s, f_t = random(2, 2, 6, 6, scale=300).to(dtype), random(2, 2, 6, 6, seed=1, scale=300).to(dtype)
    value = hierarchical_context(f_s, f_t)
    assert value.dtype == torch.float32
    assert torch.equal(value, hierarchical_context(f_s.float(), f_t.float()))
    assert bool(value.isfinite().all())


def test_maps_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape \(B, C, H, W\), received \(2, 3, 4, 4\) and \(2, 3, 2, 2\)"):
        hierarchical_context(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))
    with pytest.raises(ValueError, match=r"received \(2, 3\) and \(2, 3\)"):
        hierarchical_context(torch.zeros(2, 3), torch.zeros(2, 3))


# ------------------------------------------------------------------------------------------------------ the fusion

Maps = list[list[list[list[float]]]]  # example, channel, row, column


def slow_norm(maps: Maps) -> Maps:
    """Batch norm as it starts: each channel to mean 0 and variance 1 over examples and positions."""
    result: Maps = [[[[0.0] * len(row) for row in channel] for channel in example] for example in maps]
    for c in range(len(maps[0])):
        values = [value for example in maps for row in example[c] for value in row]
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        for b, example in enumerate(maps):
            for i, row in enumerate(example[c]):
                result[b][c][i] = [(value - mean) / math.sqrt(variance + 1e-5) for value in row]
    return result


def slow_convolution(maps: Maps, weight: Any, bias: list[float] | None = None) -> Maps:
    """Zero-padded to the same size; ``weight`` is (out, in, k, k)."""
    reach = len(weight[0][0]) // 2
    height, width = len(maps[0][0]), len(maps[0][0][0])

    def at(example: list[list[list[float]]], o: int, i: int, j: int) -> float:
        total = 0.0 if bias is None else bias[o]
        for c, channel in enumerate(example):
            for di in range(-reach, reach + 1):
                for dj in range(-reach, reach + 1):
                    if 0 <= i + di < height and 0 <= j + dj < width:
                        total += weight[o][c][di + reach][dj + reach] * channel[i + di][j + dj]
        return total

    return [
        [[[at(example, o, i, j) for j in range(width)] for i in range(height)] for o in range(len(weight))]
        for example in maps
    ]


def slow_nearest(maps: Maps, size: tuple[int, int]) -> Maps:
    def pick(channel: list[list[float]]) -> list[list[float]]:
        height, width = len(channel), len(channel[0])
        return [[channel[i * height // size[0]][j * width // size[1]] for j in range(size[1])] for i in range(size[0])]

    return [[pick(channel) for channel in example] for example in maps]


def slow_fusion(fusion: AttentionFusion, maps: Maps, deeper: Maps | None, size: tuple[int, int]) -> tuple[Maps, Maps]:
    x = slow_norm(slow_convolution(maps, fusion.enter.weight.tolist()))
    if deeper is not None:
        assert fusion.attention is not None
        deeper = slow_nearest(deeper, (len(x[0][0]), len(x[0][0][0])))
        bias = fusion.attention.bias
        assert bias is not None
        both = [a + b for a, b in zip(x, deeper, strict=True)]
        raw = slow_convolution(both, fusion.attention.weight.tolist(), bias.tolist())
        for b, example in enumerate(x):
            for c, channel in enumerate(example):
                for i, row in enumerate(channel):
                    for j in range(len(row)):
                        own, other = (1 / (1 + math.exp(-raw[b][k][i][j])) for k in (0, 1))
                        row[j] = own * row[j] + other * deeper[b][c][i][j]
    x = slow_nearest(x, size)
    return slow_norm(slow_convolution(x, fusion.leave.weight.tolist())), x


def views(stages: list[Tensor], pooled: Tensor, logits: Tensor | None = None, preacts: bool = False) -> Views:
    own = random(len(pooled), 3) if logits is None else logits
    return Views(own, pooled, () if preacts else tuple(stages), tuple(stages) if preacts else ())


def example_views() -> tuple[Views, Views]:
    """The student's second stage is larger than the teacher's, its first smaller."""
    s = views([random(2, 2, 4, 4), random(2, 3, 4, 4, seed=1)], random(2, 5, seed=2))
    t = views([random(2, 4, 8, 8, seed=3), random(2, 2, 2, 2, seed=4)], random(2, 3, seed=5), preacts=True)
    return s, t


def method(s: Views, t: Views, **options: Any) -> ReviewKD:
    review = ReviewKD(**options)
    torch.manual_seed(3)
    review.adapt(s, t)
    return review


def batch(labelled: list[bool] | None = None) -> Batch:
    mask = None if labelled is None else torch.tensor(labelled)
    data = InMemory(torch.zeros(2, 1), torch.tensor([2, 0]), num_classes=3, labelled=mask)
    return data.batch(torch.arange(2))


def test_the_term_is_that_of_loops_from_the_last_level_to_the_first() -> None:
    s, t = example_views()
    review = method(s, t, weight=2.0, warm_up=0)
    fusions = [cast(AttentionFusion, fusion) for fusion in review.fusions]
    assert [fusion.attention is None for fusion in fusions] == [False, False, True]
    assert all(fusion.enter.out_channels == 5 for fusion in fusions)
    assert [fusion.leave.out_channels for fusion in fusions] == [4, 2, 3]
    expected, deeper = 0.0, None
    own = [s.stages[0], s.stages[1], s.pooled[:, :, None, None]]
    theirs = [t.preacts[0], t.preacts[1], t.pooled[:, :, None, None]]
    for fusion, f_s, f_t in reversed(list(zip(fusions, own, theirs, strict=True))):
        fused, deeper = slow_fusion(fusion, f_s.tolist(), deeper, (f_t.shape[2], f_t.shape[3]))
        rows = torch.tensor(fused, dtype=torch.float64)
        expected += sum(slow_context(a, b) for a, b in zip(rows, f_t, strict=True)) / 2
    terms = review.loss(batch(), s, t)
    assert set(terms) == {"review", "label"}
    assert float(terms["review"].detach()) == pytest.approx(2.0 * expected, rel=1e-10)


def test_the_other_terms_and_the_defaults_are_the_benchmark_s() -> None:
    s, t = example_views()
    z_t = random(2, 3, seed=8)
    terms = method(s, t, label_weight=0.5, kd_weight=2.0).loss(batch([True, False]), s, t._replace(logits=z_t))
    ce = LOSSES["ce"](s.logits[:1], torch.tensor([2])).mean()
    assert float(terms["label"]) == pytest.approx(0.5 * float(ce), rel=1e-12)
    assert float(terms["kd"]) == pytest.approx(2.0 * float(kd(s.logits, z_t, 4.0).mean()), rel=1e-12)
    default = ReviewKD()
    assert (default.weight, default.warm_up, default.label_weight, default.kd_weight) == (1.0, 20, 1.0, 0.0)
    wanted = {"teacher.preacts", "teacher.pooled", "student.stages", "student.pooled", "labels"}
    assert default.needs == wanted
    assert not default.couples


def test_the_weight_rises_by_epochs() -> None:
    s, t = example_views()
    review = method(s, t, warm_up=4)

    def value(epoch: int) -> float:
        review.progress(epoch, 7)
        return float(review.loss(batch(), s, t)["review"].detach())

    full = value(3)
    assert [value(epoch) / full for epoch in (0, 1, 2, 3, 200)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    at_once = method(s, t, warm_up=0)
    at_once.progress(0, 0)
    assert float(at_once.loss(batch(), s, t)["review"].detach()) == pytest.approx(full, rel=1e-12)


def test_maps_before_the_activation_and_another_width_are_as_asked() -> None:
    s, t = example_views()
    before = (random(2, 2, 4, 4, seed=6), random(2, 3, 4, 4, seed=7))
    other = method(s._replace(stages=(), preacts=before), t, warm_up=0, student_maps="preacts", width=7)
    assert [cast(AttentionFusion, fusion).enter.out_channels for fusion in other.fusions] == [7, 7, 7]
    assert other.needs == {"teacher.preacts", "teacher.pooled", "student.preacts", "student.pooled", "labels"}
    usual = method(s, t, warm_up=0, width=7)

    def value(review: ReviewKD, shown: Views) -> float:
        return float(review.loss(batch(), shown, t)["review"].detach())

    # the same fusions of the same maps, wherever those are shown
    assert value(other, s._replace(stages=(), preacts=before)) == value(usual, s._replace(stages=before))
    assert value(other, s._replace(preacts=before)) != value(usual, s._replace(preacts=before))
    assert other.describe() == {**ReviewKD(warm_up=0).describe(), "student_maps": "preacts", "width": 7}
    assert not {"student_maps", "width"} & ReviewKD().describe().keys()  # what they were without these, they are
    with pytest.raises(ValueError, match="student_maps must be 'stages' or 'preacts', received 'pooled'"):
        ReviewKD(student_maps="pooled")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width must be channels >= 1 or None, received 0"):
        ReviewKD(width=0)


def test_the_middle_is_at_most_512_wide() -> None:
    s, t = example_views()
    review = method(s._replace(pooled=random(2, 700)), t)
    assert all(cast(AttentionFusion, fusion).enter.out_channels == 512 for fusion in review.fusions)


def test_its_gradient_is_the_finite_difference_and_reaches_all_but_the_teacher() -> None:
    s, t = example_views()
    review = method(s, t, warm_up=0, label_weight=0.0)
    data = batch()

    def value(first: Tensor, second: Tensor, pooled: Tensor, *_: Tensor) -> Tensor:
        return review.loss(data, s._replace(stages=(first, second), pooled=pooled), t)["review"]

    inputs = [tensor.clone().requires_grad_() for tensor in (*s.stages, s.pooled)]
    review.fusions.requires_grad_()
    assert torch.autograd.gradcheck(value, (*inputs, *review.parameters()), eps=1e-6, atol=1e-6, fast_mode=True)
    shown = [tensor.clone().requires_grad_() for tensor in (*t.preacts, t.pooled)]
    review.zero_grad()
    review.loss(data, s, t._replace(preacts=(shown[0], shown[1]), pooled=shown[2]))["review"].backward()
    assert all(tensor.grad is None for tensor in shown)
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in review.parameters())


def test_networks_that_it_means_nothing_on_are_refused() -> None:
    s, t = example_views()
    with pytest.raises(ValueError, match=r"ReviewKD .*trains a single model, received 2 replicas"):
        ReviewKD().adapt(s._replace(logits=random(2, 2, 3)), t)
    with pytest.raises(ValueError, match="ReviewKD needs a teacher's views, received None"):
        ReviewKD().adapt(s, None)
    with pytest.raises(ValueError, match="the student has 1 and the teacher 2"):
        ReviewKD().adapt(s._replace(stages=s.stages[:1]), t)
    with pytest.raises(ValueError, match=r"larger than 1 x 1 .*stage 1 of the student has shape \(2, 5\)"):
        ReviewKD().adapt(s._replace(stages=(random(2, 5), random(2, 5))), t)
    with pytest.raises(ValueError, match=r"stage 2 of the teacher has shape \(2, 2, 1, 1\)"):
        ReviewKD().adapt(s, t._replace(preacts=(t.preacts[0], random(2, 2, 1, 1))))
    with pytest.raises(ValueError, match=r"one divides the other; at stage 1 received \(4, 4\) and \(6, 6\)"):
        ReviewKD().adapt(s, t._replace(preacts=(random(2, 2, 6, 6), t.preacts[1])))
    one = [tuple(tensor[:1] for tensor in stages) for stages in (s.stages, t.preacts)]
    alone = Views(s.logits[:1], s.pooled[:1], one[0], ()), Views(t.logits[:1], t.pooled[:1], (), one[1])
    with pytest.raises(ValueError, match="needs 2 examples or more, received 1"):
        method(s, t).loss(batch(), *alone)
    with pytest.raises(ValueError, match="warm_up must be epochs >= 0, received -1"):
        ReviewKD(warm_up=-1)


# ------------------------------------------------------------------------------------------------------ in training


def test_two_steps_move_all_that_is_learned_and_export_none_of_it() -> None:
    started: dict[str, Tensor] = {}

    class Watched(ReviewKD):
        def adapt(self, student: Views, teacher: Views | None) -> None:
            super().adapt(student, teacher)
            started.update({name: value.clone() for name, value in self.state_dict().items()})

    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    data = InMemory(x, torch.arange(16) % 2, num_classes=2)
    student, teacher = (
        build(name, num_classes=2, input_shape=(3, 8, 8), seed=seed)
        for name, seed in (("resnet8x0.5", 0), ("resnet8", 1))
    )
    names, before = set(student.state_dict()), {name: value.clone() for name, value in teacher.state_dict().items()}
    review = Watched()
    recipe = Recipe(epochs=1, learning_rate=0.05, batch_size=8, validation=0)
    fitted = bcpd.fit(student, data, review, recipe, seed=0, teacher=teacher)
    assert fitted.diverged == [None]
    assert set(fitted.states["last"]) == names
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    learned = dict(review.named_parameters())
    assert len(learned) == 4 * 6 + 3 * 2
    assert all(not torch.equal(value, started[name]) for name, value in learned.items())


def test_vectors_are_refused_before_the_first_step() -> None:
    data = InMemory(random(8, 4).float(), torch.arange(8) % 2, num_classes=2)
    nets = [build("mlp", num_classes=2, input_shape=(4,), seed=seed) for seed in (0, 1)]
    with pytest.raises(ValueError, match="ReviewKD compares maps"):
        bcpd.fit(nets[0], data, ReviewKD(), Recipe(epochs=1, learning_rate=0.1), seed=0, teacher=nets[1])
