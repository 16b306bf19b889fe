"""Knowledge distillation: value, gradient, temperature and weights against slow formulas."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpd.data import InMemory
from bcpd.distill import KD
from bcpd.distill.functional import kd, masked_mean
from bcpd.losses import LOSSES
from bcpd.nets import Views


def random(*shape: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def views(logits: torch.Tensor) -> Views:
    return Views(logits, logits, (), ())


def batch_of(y: list[int], labelled: list[bool] | None = None, classes: int = 5) -> InMemory:
    mask = None if labelled is None else torch.tensor(labelled)
    return InMemory(torch.zeros(len(y), 1), torch.tensor(y), num_classes=classes, labelled=mask)


def textbook(z_s: list[float], z_t: list[float], temperature: float) -> float:
    """T^2 sum_k t_k (log t_k - log s_k), in 40 digits."""
    with mpmath.workdps(40):

        def softmax(z: list[float]) -> list[mpmath.mpf]:
            weights = [mpmath.exp(mpmath.mpf(value) / mpmath.mpf(temperature)) for value in z]
            return [weight / mpmath.fsum(weights) for weight in weights]

        s, t = softmax(z_s), softmax(z_t)
        total = mpmath.fsum(a * (mpmath.log(a) - mpmath.log(b)) for a, b in zip(t, s, strict=True) if a)
        return float(mpmath.mpf(temperature) ** 2 * total)


logits = st.lists(st.floats(-15, 15), min_size=4, max_size=4)


@given(z_s=logits, z_t=logits, temperature=st.sampled_from([0.5, 1.0, 4.0, 20.0]))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_the_value_is_the_textbook_s(z_s: list[float], z_t: list[float], temperature: float) -> None:
    value = kd(torch.tensor(z_s, dtype=torch.float64), torch.tensor(z_t, dtype=torch.float64), temperature)
    assert float(value) == pytest.approx(textbook(z_s, z_t, temperature), rel=1e-11, abs=1e-13 * temperature**2)


def test_the_value_by_hand() -> None:
    s, t = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.8, 0.2]]).log()
    assert float(kd(s, t, 1.0)) == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4), rel=1e-6)
    # at T = 2 the teacher's odds of 4 become 2, the student stays at even odds
    expected = 4 * (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3))
    assert float(kd(s, t, 2.0)) == pytest.approx(expected, rel=1e-6)


def test_the_teacher_comes_first_in_the_divergence() -> None:
    z_s, z_t = random(1, 4), random(1, 4, seed=1)
    forward, backward = (textbook(a[0].tolist(), b[0].tolist(), 1.0) for a, b in ((z_s, z_t), (z_t, z_s)))
    assert float(kd(z_s, z_t, 1.0)) == pytest.approx(forward, rel=1e-12)
    assert abs(forward - backward) > 0.1


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_the_finite_difference(temperature: float) -> None:
    z_s, z_t = random(3, 4).requires_grad_(), random(3, 4, seed=1)
    assert torch.autograd.gradcheck(lambda z: kd(z, z_t, temperature), (z_s,), eps=1e-6, atol=1e-8)
    (gradient,) = torch.autograd.grad(kd(z_s, z_t, temperature).sum(), z_s)
    expected = temperature * ((z_s / temperature).softmax(-1) - (z_t / temperature).softmax(-1))
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-12, atol=1e-13)


def test_the_squared_temperature_keeps_the_gradient_s_size() -> None:
    """For high temperatures the gradient tends to the matching of centred logits, z_s - z_t over K."""
    z_s, z_t = random(1, 4).requires_grad_(), random(1, 4, seed=1)
    (gradient,) = torch.autograd.grad(kd(z_s, z_t, 1e4).sum(), z_s)
    centred = (z_s - z_s.mean()) - (z_t - z_t.mean())
    torch.testing.assert_close(gradient, centred.detach() / 4, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_student_equal_to_its_teacher_pays_and_moves_nothing(temperature: float) -> None:
    z_t = random(5, 6)
    z_s = (z_t + 7.0).requires_grad_()  # logits are equal up to a constant
    value = kd(z_s, z_t, temperature)
    (gradient,) = torch.autograd.grad(value.sum(), z_s)
    assert float(value.detach().abs().max()) < 1e-12
    assert float(gradient.abs().max()) < 1e-13
    assert float(kd(z_s.detach() * 1.1, z_t, temperature).min()) > 1e-4


def test_no_gradient_reaches_the_teacher() -> None:
    z_s, z_t = random(2, 3).requires_grad_(), random(2, 3, seed=1).requires_grad_()
    kd(z_s, z_t).sum().backward()
    assert z_s.grad is not None
    assert z_t.grad is None


def test_a_teacher_s_impossible_class_costs_nothing_and_its_gradient_is_right() -> None:
    z_t = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64).log()
    z_s = random(2, 3).requires_grad_()
    value = kd(z_s, z_t, 1.0)
    log_s = z_s.detach().log_softmax(-1)
    first = 0.25 * (math.log(0.25) - log_s[0, 0]) + 0.75 * (math.log(0.75) - log_s[0, 1])
    torch.testing.assert_close(value.detach(), torch.stack([first, -log_s[1, 0]]), rtol=1e-13, atol=0)
    (gradient,) = torch.autograd.grad(value.sum(), z_s)
    torch.testing.assert_close(gradient, (z_s.softmax(-1) - z_t.exp()).detach(), rtol=1e-12, atol=1e-14)
    hot = kd(z_s, z_t, 4.0)
    (gradient,) = torch.autograd.grad(hot.sum(), z_s)
    assert bool(hot.isfinite().all())
    assert bool(gradient.isfinite().all())


def test_a_student_s_impossible_class_costs_infinity_only_where_the_teacher_needs_it() -> None:
    z_t = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]]).log()
    z_s = torch.tensor([[0.0, 0.0, -math.inf]] * 2)
    assert kd(z_s, z_t, 1.0).tolist() == [pytest.approx(0.0, abs=1e-6), math.inf]


def test_half_precision_is_computed_in_single() -> None:
    z_s, z_t = random(4, 5).half(), random(4, 5, seed=1).bfloat16()
    value = kd(z_s, z_t)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, kd(z_s.float(), z_t.float()), rtol=0, atol=0)
    assert kd(z_s, z_t.double()).dtype == torch.float64


def test_extreme_logits_stay_finite() -> None:
    z_s = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = kd(z_s, torch.tensor([[-1e4, 1e4, 0.0]]), 1.0)
    assert float(value.detach()) == pytest.approx(2e4)
    (gradient,) = torch.autograd.grad(value.sum(), z_s)
    assert gradient.tolist() == [[1.0, -1.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gap", [120.0, 1e4])
def test_saturated_logits_in_half_precision_have_finite_values_and_gradients(dtype: torch.dtype, gap: float) -> None:
    z_s = torch.tensor([[gap, -gap, 0.0], [0.0, gap, -gap]], dtype=dtype, requires_grad=True)
    z_t = torch.tensor([[-gap, gap, 0.0], [0.0, gap, -gap]], dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = kd(z_s, z_t, 1.0)
    (gradient,) = torch.autograd.grad(value.sum(), z_s)
    assert value.tolist() == pytest.approx([2 * gap, 0.0], rel=0.02)
    assert gradient.tolist() == [[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape, received \(2, 3\) and \(2, 4\)"):
        kd(torch.zeros(2, 3), torch.zeros(2, 4))
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature must be > 0"):
            kd(torch.zeros(2, 3), torch.zeros(2, 3), temperature)
        with pytest.raises(ValueError, match="temperature must be > 0"):
            KD(temperature)
    for label, teacher in ((-0.1, 1.0), (0.5, 0.0), (0.5, -1.0), (math.nan, 1.0), (0.5, math.nan)):
        with pytest.raises(ValueError, match="label_weight must be >= 0 and teacher_weight > 0"):
            KD(4.0, label, teacher)


# ---------------------------------------------------------------------------------------------------- the method


def test_the_terms_are_weighted_means_over_the_batch() -> None:
    source = batch_of([0, 4, 2])
    z_s, z_t = random(3, 5), random(3, 5, seed=1)
    terms = KD(3.0, 0.25, 0.5).loss(source.batch(torch.arange(3)), views(z_s), views(z_t))
    assert set(terms) == {"teacher", "label"}
    slow = sum(textbook(z_s[i].tolist(), z_t[i].tolist(), 3.0) for i in range(3)) / 3
    assert float(terms["teacher"]) == pytest.approx(0.5 * slow, rel=1e-12)
    labels = LOSSES["ce"](z_s, source.y).mean()
    assert float(terms["label"]) == pytest.approx(0.25 * float(labels), rel=1e-12)


def test_the_defaults_are_those_of_the_published_benchmark() -> None:
    method = KD()
    assert (method.temperature, method.label_weight, method.teacher_weight) == (4.0, 0.1, 0.9)


def test_a_pure_teacher_has_no_label_term_and_needs_no_label() -> None:
    method = KD.pure()
    assert (method.temperature, method.label_weight, method.teacher_weight) == (1.0, 0.0, 1.0)
    terms = method.loss(batch_of([0, 1]).batch(torch.arange(2)), views(random(2, 5)), views(random(2, 5, seed=1)))
    assert set(terms) == {"teacher"}
    assert "labels" not in method.needs
    assert "labels" in KD().needs
    assert KD.pure(3.0).temperature == 3.0


def test_pure_distillation_is_cross_entropy_to_the_teacher_less_a_constant() -> None:
    z_s, z_t = random(6, 4).requires_grad_(), random(6, 4, seed=1)
    (left,) = torch.autograd.grad(kd(z_s, z_t, 1.0).sum(), z_s)
    (right,) = torch.autograd.grad(LOSSES["ce"](z_s, z_t.softmax(-1)).sum(), z_s)
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)


def test_unlabelled_examples_feed_the_teacher_s_term_only() -> None:
    z_s, z_t = random(4, 5), random(4, 5, seed=1)
    source = batch_of([0, 4, 2, 1], [True, False, True, False])
    terms = KD(1.0, 1.0, 1.0).loss(source.batch(torch.arange(4)), views(z_s), views(z_t))
    torch.testing.assert_close(terms["label"], LOSSES["ce"](z_s[::2], source.y[::2]).mean(), rtol=1e-13, atol=0)
    torch.testing.assert_close(terms["teacher"], kd(z_s, z_t, 1.0).mean(), rtol=1e-13, atol=0)


def test_replicas_have_a_term_each() -> None:
    z_s, z_t = random(2, 3, 5), random(2, 3, 5, seed=1)
    source = InMemory(torch.zeros(2, 3, 1), torch.tensor([[0, 1, 2], [3, 4, 0]]), num_classes=5)
    terms = KD().loss(source.batch(torch.arange(3)), views(z_s), views(z_t))
    assert {name: term.shape for name, term in terms.items()} == {"teacher": (2,), "label": (2,)}
    alone = KD().loss(batch_of([3, 4, 0]).batch(torch.arange(3)), views(z_s[1]), views(z_t[1]))
    for name, term in terms.items():
        torch.testing.assert_close(term[1], alone[name], rtol=1e-13, atol=0)


def test_a_student_without_a_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="KD needs a teacher's views, received None"):
        KD().loss(batch_of([0]).batch(torch.arange(1)), views(random(1, 5)), None)


def test_a_masked_mean_is_over_what_is_kept() -> None:
    values = torch.tensor([[1.0, 2.0, 6.0], [4.0, 5.0, 9.0]])
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert masked_mean(values, None).tolist() == pytest.approx([3.0, 6.0])
    assert masked_mean(values, mask).tolist() == [3.5, 0.0]
    # a value that is left out may be anything
    assert masked_mean(torch.tensor([1.0, math.inf, math.nan]), torch.tensor([True, False, False])).item() == 1.0
