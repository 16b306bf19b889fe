"""Losses of feature maps against loops over positions and channels; pooling, minima, precision, refusals."""

import math
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor

from bcpd.distill.functional import attention_transfer, hint, same_size, variational_information


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_attention(maps: list[list[list[float]]], exponent: float) -> list[float]:
    """Zagoruyko & Komodakis (2017): the channels' sum of |F|^p at each position, to unit length."""
    channels, height, width = len(maps), len(maps[0]), len(maps[0][0])
    flat = [
        math.fsum(abs(maps[c][h][w]) ** exponent for c in range(channels)) for h in range(height) for w in range(width)
    ]
    length = math.sqrt(math.fsum(value**2 for value in flat))
    return [value / length for value in flat]


def pooled_by_hand(maps: Tensor, factor: int) -> Tensor:
    """Means over factor x factor squares."""
    batch, channels, height, width = maps.shape
    out = torch.zeros(batch, channels, height // factor, width // factor, dtype=maps.dtype)
    for h in range(height // factor):
        for w in range(width // factor):
            square = maps[:, :, h * factor : (h + 1) * factor, w * factor : (w + 1) * factor]
            out[:, :, h, w] = square.reshape(batch, channels, -1).sum(-1) / factor**2
    return out


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_attention_is_that_of_the_loops(exponent: float) -> None:
    f_s, f_t = random(3, 2, 3, 4), 7 * random(3, 5, 3, 4, seed=1)
    value = attention_transfer(f_s, f_t, exponent)
    for example in range(3):
        a, b = slow_attention(f_s[example].tolist(), exponent), slow_attention(f_t[example].tolist(), exponent)
        expected = math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / 12
        assert float(value[example]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_the_larger_map_is_average_pooled_to_the_smaller(larger: str) -> None:
    large, small = random(2, 3, 6, 6), random(2, 4, 3, 3, seed=1)
    by_hand = pooled_by_hand(large, 2)
    pair = (large, small) if larger == "student" else (small, large)
    expected = (by_hand, small) if larger == "student" else (small, by_hand)
    for found, wanted in zip(same_size(*pair), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(attention_transfer(*pair), attention_transfer(*expected), rtol=1e-12, atol=0)


def test_maps_that_are_larger_in_one_direction_meet_in_the_middle() -> None:
    f_s, f_t = same_size(random(2, 3, 4, 2), random(2, 3, 2, 6))
    assert f_s.shape == f_t.shape == (2, 3, 2, 2)
    same = random(2, 3, 4, 4)
    assert same_size(same, same)[0] is same


def test_attention_ignores_scale_and_channels_but_not_place() -> None:
    f_t = random(4, 3, 4, 4)
    assert float(attention_transfer(-5.0 * f_t, f_t).max()) < 1e-30
    assert float(attention_transfer(torch.cat([f_t, f_t], 1), f_t).max()) < 1e-30
    assert float(attention_transfer(f_t.flip(-1), f_t).min()) > 1e-4
    point, other = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    point[0, 0, 0, 0], other[0, 1, 1, 1] = 3.0, -2.0
    assert float(attention_transfer(point, other)) == pytest.approx(2 / 4)


def test_attention_of_single_points_is_the_same_whatever_they_are() -> None:
    assert attention_transfer(random(3, 4, 1, 1), random(3, 2, 1, 1, seed=1)).tolist() == [0.0] * 3


@pytest.mark.parametrize("exponent", [2.0, 3.0])
def test_the_gradient_of_attention_is_the_finite_difference(exponent: float) -> None:
    f_s, f_t = random(2, 2, 4, 4).requires_grad_(), random(2, 3, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: attention_transfer(f, f_t.detach(), exponent), (f_s,), atol=1e-8)
    value = attention_transfer(f_s, f_t, exponent)
    value.sum().backward()
    assert f_t.grad is None
    (gradient,) = torch.autograd.grad(attention_transfer(f_s, f_s.detach()).sum(), f_s)
    assert float(gradient.abs().max()) == 0.0


@pytest.mark.parametrize("scale", [0.0, 1e-3, 6e4])
def test_dead_and_large_maps_have_a_finite_attention(scale: float) -> None:
    for dtype in (torch.float16, torch.float32):
        f_s = (scale * random(2, 3, 2, 2).clamp(-1, 1)).to(dtype).requires_grad_()
        value = attention_transfer(f_s, random(2, 3, 2, 2, seed=1).to(dtype))
        (gradient,) = torch.autograd.grad(value.sum(), f_s)
        assert value.dtype == torch.float32
        assert bool(value.isfinite().all())
        assert bool(gradient.isfinite().all())
        if scale == 0:
            assert float(gradient.abs().max()) == 0.0


def slow_information(mean: Any, t: Any, variance: list[float]) -> float:
    """Ahn et al. (2019), section 2, without the constant, by the mean."""
    terms = [
        0.5 * ((m - x) ** 2 / variance[c] + math.log(variance[c]))
        for c, (rows_m, rows_t) in enumerate(zip(mean, t, strict=True))
        for m, x in zip(chain(*rows_m), chain(*rows_t), strict=True)
    ]
    return math.fsum(terms) / len(terms)


def test_information_is_that_of_the_loops() -> None:
    mean, f_t, variance = random(3, 4, 2, 3), random(3, 4, 2, 3, seed=1), random(4, seed=2).exp()
    value = variational_information(mean, f_t, variance)
    for example in range(3):
        expected = slow_information(mean[example].tolist(), f_t[example].tolist(), variance.tolist())
        assert float(value[example]) == pytest.approx(expected, rel=1e-12)
    flat = variational_information(mean[..., 0, 0], f_t[..., 0, 0], variance)
    torch.testing.assert_close(
        flat, variational_information(mean[..., :1, :1], f_t[..., :1, :1], variance), rtol=1e-13, atol=0
    )


def test_information_is_a_normal_density_up_to_its_constant() -> None:
    mean, f_t, variance = random(5, 3), random(5, 3, seed=1), random(3, seed=2).exp()
    density = torch.distributions.Normal(mean, variance.sqrt()).log_prob(f_t)
    expected = -density.mean(-1) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(variational_information(mean, f_t, variance), expected, rtol=1e-12, atol=1e-13)


def test_information_is_least_where_the_variance_is_the_mean_square_of_the_residuals() -> None:
    mean, f_t = random(6, 3, 2, 2), random(6, 3, 2, 2, seed=1)
    best = (mean - f_t).square().mean((0, 2, 3)).requires_grad_()
    value = variational_information(mean, f_t, best).mean()
    (gradient,) = torch.autograd.grad(value, best)
    assert float(gradient.abs().max()) < 1e-14
    least = float((0.5 * (1 + best.detach().log())).mean())
    assert float(value.detach()) == pytest.approx(least, rel=1e-12)
    for factor in (0.8, 1.25):
        assert float(variational_information(mean, f_t, factor * best.detach()).mean()) > least + 1e-3


def test_the_gradients_of_information_are_finite_differences_and_none_is_the_teacher_s() -> None:
    mean, f_t, variance = random(2, 3, 2, 2).requires_grad_(), random(2, 3, 2, 2, seed=1), random(3, seed=2).exp()
    variance.requires_grad_()
    assert torch.autograd.gradcheck(lambda m, v: variational_information(m, f_t, v), (mean, variance))
    f_t.requires_grad_()
    variational_information(mean, f_t, variance).sum().backward()
    assert f_t.grad is None


def test_a_hint_is_the_mean_square_over_channels_and_positions() -> None:
    mapped, f_t = random(3, 2, 4, 5).requires_grad_(), random(3, 2, 4, 5, seed=1).requires_grad_()
    value = hint(mapped, f_t)
    for example in range(3):
        pairs = zip(mapped[example].flatten().tolist(), f_t[example].flatten().tolist(), strict=True)
        assert value[example].item() == pytest.approx(math.fsum((a - b) ** 2 for a, b in pairs) / 40, rel=1e-12)
    assert hint(mapped, mapped).tolist() == [0.0] * 3
    assert torch.autograd.gradcheck(lambda m: hint(m, f_t.detach()), (mapped,))
    value.sum().backward()
    assert f_t.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_compute_in_single(dtype: torch.dtype) -> None:
    f_s, f_t = random(3, 4, 2, 2).to(dtype), random(3, 4, 2, 2, seed=1).to(dtype)
    variance = torch.ones(4)
    for half, single in (
        (lambda: attention_transfer(f_s, f_t), attention_transfer(f_s.float(), f_t.float())),
        (
            lambda: variational_information(f_s, f_t, variance),
            variational_information(f_s.float(), f_t.float(), variance),
        ),
        (lambda: hint(f_s, f_t), hint(f_s.float(), f_t.float())),
    ):
        assert single.dtype == torch.float32
        assert torch.equal(half(), single)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(half(), single)
    far = hint(torch.full((1, 2), 6e4, dtype=torch.float16), torch.full((1, 2), -6e4, dtype=torch.float16))
    assert float(far) == pytest.approx(1.44e10, rel=1e-2)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"maps \(B, C, H, W\) of the same examples, received \(2, 3\) and \(2, 3\)"):
        attention_transfer(random(2, 3), random(2, 3))
    with pytest.raises(ValueError, match=r"received \(2, 3, 2, 2\) and \(3, 3, 2, 2\)"):
        attention_transfer(random(2, 3, 2, 2), random(3, 3, 2, 2))
    with pytest.raises(ValueError, match=r"exponent must be >= 1, received 0.5"):
        attention_transfer(random(2, 3, 2, 2), random(2, 3, 2, 2), 0.5)
    with pytest.raises(ValueError, match=r"variance \(C,\), received \(2, 3\), \(2, 3\) and \(2,\)"):
        variational_information(random(2, 3), random(2, 3), torch.ones(2))
    with pytest.raises(ValueError, match=r"one shape \(B, C, ...\), received \(2, 3\) and \(2, 4\)"):
        hint(random(2, 3), random(2, 4))
