"""Decoupled distillation: its two divergences against loops, its relation to KD, saturated logits, and the method."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpd.data import InMemory
from bcpd.distill import DKD
from bcpd.distill.functional import dkd, kd
from bcpd.losses import LOSSES
from bcpd.nets import Views


def random(*shape: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def views(logits: torch.Tensor) -> Views:
    return Views(logits, logits, (), ())


def softmax(z: list[float]) -> list[float]:
    weights = [math.exp(value) for value in z]
    return [weight / math.fsum(weights) for weight in weights]


def kl(p: list[float], q: list[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


def slow(z_s: list[float], z_t: list[float], y: int, temperature: float) -> tuple[float, float]:
    """The two terms of Zhao et al. (2022), section 3, times T^2: of the target, and of the other classes."""
    binary, among = [], []
    for z in (z_t, z_s):
        p = softmax([value / temperature for value in z])
        binary.append([p[y], math.fsum(p[k] for k in range(len(z)) if k != y)])
        among.append(softmax([z[k] / temperature for k in range(len(z)) if k != y]))
    return temperature**2 * kl(*binary), temperature**2 * kl(*among)


logits = st.lists(st.floats(-12, 12), min_size=4, max_size=4)


@given(z_s=logits, z_t=logits, y=st.integers(0, 3), temperature=st.sampled_from([0.7, 1.0, 4.0]))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_the_value_is_that_of_the_loops(z_s: list[float], z_t: list[float], y: int, temperature: float) -> None:
    of_target, of_others = slow(z_s, z_t, y, temperature)
    s, t = torch.tensor(z_s, dtype=torch.float64), torch.tensor(z_t, dtype=torch.float64)
    value = dkd(s, t, torch.tensor(y), temperature, 0.5, 3.0)
    assert float(value) == pytest.approx(0.5 * of_target + 3.0 * of_others, rel=1e-9, abs=1e-12 * temperature**2)


def test_kd_is_its_sum_with_the_teacher_s_own_weight_of_the_others() -> None:
    """KD weighs the other classes by what the teacher leaves for them."""
    z_s, z_t, y = random(6, 5), random(6, 5, seed=1), torch.tensor([0, 1, 2, 3, 4, 0])
    temperature = 2.0
    left = 1 - (z_t / temperature).softmax(-1).gather(-1, y[:, None]).squeeze(-1)
    composed = dkd(z_s, z_t, y, temperature, 1.0, 0.0) + left * dkd(z_s, z_t, y, temperature, 0.0, 1.0)
    torch.testing.assert_close(composed, kd(z_s, z_t, temperature), rtol=1e-12, atol=1e-13)
    assert not torch.allclose(dkd(z_s, z_t, y, temperature, 1.0, 1.0), kd(z_s, z_t, temperature))


def test_with_two_classes_the_second_term_is_zero_and_alpha_times_kd_remains() -> None:
    z_s, z_t, y = random(5, 2), random(5, 2, seed=1), torch.tensor([0, 1, 1, 0, 1])
    assert dkd(z_s, z_t, y, 3.0, 0.0, 8.0).tolist() == [0.0] * 5
    torch.testing.assert_close(dkd(z_s, z_t, y, 3.0, 0.7, 8.0), 0.7 * kd(z_s, z_t, 3.0), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_the_finite_difference(temperature: float) -> None:
    z_s, z_t, y = random(3, 4).requires_grad_(), random(3, 4, seed=1), torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(lambda z: dkd(z, z_t, y, temperature, 1.5, 4.0), (z_s,), eps=1e-6, atol=1e-7)


def test_a_student_equal_to_its_teacher_pays_and_moves_nothing() -> None:
    z_t, y = random(5, 6), torch.tensor([0, 1, 2, 3, 5])
    z_s = (z_t + 7.0).requires_grad_()
    value = dkd(z_s, z_t, y)
    (gradient,) = torch.autograd.grad(value.sum(), z_s)
    assert float(value.detach().abs().max()) < 1e-12
    assert float(gradient.abs().max()) < 1e-12
    assert float(dkd(z_s.detach() * 1.1, z_t, y).min()) > 1e-4


def test_no_gradient_reaches_the_teacher_and_leading_axes_are_free() -> None:
    z_s, z_t = random(2, 3, 4).requires_grad_(), random(2, 3, 4, seed=1).requires_grad_()
    y = torch.tensor([[0, 1, 2], [3, 3, 0]])
    value = dkd(z_s, z_t, y)
    value.sum().backward()
    assert z_t.grad is None
    assert z_s.grad is not None
    assert value.shape == (2, 3)
    torch.testing.assert_close(value[1], dkd(z_s[1], z_t[1], y[1]), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gap", [120.0, 1e4])
def test_saturated_logits_stay_finite(dtype: torch.dtype, gap: float) -> None:
    """Where the logarithm of a softmax is infinite: a sure student, against the teacher and with it."""
    z_s = torch.tensor([[gap, 0.0, -gap], [0.0, gap, -gap], [-gap, gap, gap]], dtype=dtype, requires_grad=True)
    z_t = torch.tensor([[0.0, gap, 1.0], [0.0, gap, -gap], [gap, -gap, 0.0]], dtype=dtype)
    y = torch.tensor([0, 1, 0])
    value = dkd(z_s, z_t, y, 1.0, 1.0, 1.0)
    (gradient,) = torch.autograd.grad(value.sum(), z_s)
    assert value.dtype == torch.float32
    assert bool(gradient.isfinite().all())
    # sure of the target where the teacher is sure of another class; alike; and the other way round, twice as far
    assert value.tolist() == pytest.approx([gap, 0.0, 2 * gap + 2 * math.log(2)], rel=0.02, abs=1e-6)


def test_half_precision_and_autocast_compute_in_single() -> None:
    z_s, z_t, y = random(4, 5).half(), random(4, 5, seed=1).bfloat16(), torch.tensor([0, 1, 2, 3])
    exact = dkd(z_s.float(), z_t.float(), y)
    assert torch.equal(dkd(z_s, z_t, y), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(dkd(z_s, z_t, y), exact)
    assert dkd(z_s, z_t.double(), y).dtype == torch.float64


def test_a_teacher_s_impossible_classes_cost_nothing() -> None:
    z_t = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], dtype=torch.float64).log()
    z_s, y = random(3, 3).requires_grad_(), torch.tensor([0, 0, 0])
    first = dkd(z_s, z_t, y, 1.0, 1.0, 0.0)
    second = dkd(z_s, z_t, y, 1.0, 0.0, 1.0)
    log_s = z_s.detach().log_softmax(-1)
    among = z_s.detach()[:, 1:].log_softmax(-1)
    left = log_s[:, 1:].logsumexp(-1)
    expected = [
        0.25 * (math.log(0.25) - float(log_s[0, 0])) + 0.75 * (math.log(0.75) - float(left[0])),
        -float(log_s[1, 0]),
        -float(left[2]),
    ]
    assert first.tolist() == pytest.approx(expected, rel=1e-12)
    # certain of the target, a teacher says nothing about the other classes
    half = math.log(0.5)
    last = 0.5 * (2 * half - float(among[2].sum()))
    assert second.tolist() == pytest.approx([-float(among[0, 0]), 0.0, last], rel=1e-12)
    (gradient,) = torch.autograd.grad((first + second).sum(), z_s)
    assert bool(gradient.isfinite().all())


def test_bad_arguments_are_refused() -> None:
    z, y = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"labels \(...\), received \(2, 3\), \(2, 4\) and \(2,\)"):
        dkd(z, torch.zeros(2, 4), y)
    with pytest.raises(ValueError, match=r"received \(2, 3\), \(2, 3\) and \(1,\)"):
        dkd(z, z, y[:1])
    with pytest.raises(ValueError, match="temperature must be > 0, received 0"):
        dkd(z, z, y, 0.0)
    with pytest.raises(ValueError, match=r"alpha and beta must be >= 0, received 1.0 and -1"):
        dkd(z, z, y, beta=-1.0)
    for options, message in (
        ({"alpha": 0.0, "beta": 0.0}, "not both 0, received 0.0 and 0.0"),
        ({"warm_up": -1}, "warm_up must be epochs >= 0, received -1"),
        ({"temperature": math.nan}, "temperature must be > 0 and finite, received nan"),
        ({"weight": 0.0}, "weight must be > 0 and finite, received 0"),
        ({"label_weight": math.inf}, "label_weight and kd_weight must be >= 0 and finite, received inf and 0"),
        ({"kd_weight": -1.0}, "label_weight and kd_weight must be >= 0 and finite, received 1.0 and -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            DKD(**options)


# ---------------------------------------------------------------------------------------------------- the method


def source(labelled: list[bool] | None = None) -> InMemory:
    mask = None if labelled is None else torch.tensor(labelled)
    return InMemory(torch.zeros(4, 1), torch.tensor([0, 4, 2, 1]), num_classes=5, labelled=mask)


def test_the_warm_up_is_linear_in_the_epochs() -> None:
    batch, s, t = source().batch(torch.arange(4)), views(random(4, 5)), views(random(4, 5, seed=1))
    whole = float(DKD(warm_up=0).loss(batch, s, t)["dkd"])
    assert whole == pytest.approx(float(dkd(s.logits, t.logits, batch.y, 4.0, 1.0, 8.0).mean()), rel=1e-13)
    method = DKD()
    for epoch, share in ((0, 0.05), (9, 0.5), (19, 1.0), (200, 1.0)):
        method.progress(epoch, 3)
        terms = method.loss(batch, s, t)
        assert float(terms["dkd"]) == pytest.approx(share * whole, rel=1e-12)
        assert float(terms["label"]) == pytest.approx(float(LOSSES["ce"](s.logits, batch.y).mean()), rel=1e-12)
    method = DKD(warm_up=0)
    method.progress(0, 0)
    assert float(method.loss(batch, s, t)["dkd"]) == pytest.approx(whole, rel=1e-13)


def test_an_unlabelled_example_feeds_the_undecoupled_divergence() -> None:
    batch = source([True, False, True, False]).batch(torch.arange(4))
    z_s, z_t = random(4, 5), random(4, 5, seed=1)
    terms = DKD(warm_up=0).loss(batch, views(z_s), views(z_t))
    decoupled, whole = dkd(z_s, z_t, batch.y), kd(z_s, z_t)
    expected = (decoupled[0] + whole[1] + decoupled[2] + whole[3]) / 4
    torch.testing.assert_close(terms["dkd"], expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(terms["label"], LOSSES["ce"](z_s[::2], batch.y[::2]).mean(), rtol=1e-13, atol=0)


def test_two_classes_are_refused_with_what_it_would_become() -> None:
    two = views(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"K = 2 .* becomes alpha = 1 times KD; use KD instead"):
        DKD().adapt(two, two)
    three = views(torch.zeros(2, 3))
    DKD().adapt(three, three)


def test_the_progress_of_a_training_is_no_part_of_what_describes_it() -> None:
    method = DKD()
    before = method.describe()
    method.progress(3, 0)
    assert method.describe() == before
    assert before["beta"] == 8.0
