"""Shifted templates: FFT against every shift written out, what leaves p* alone and what does not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from bcpd.mixtures import FAMILIES, GaussianMixture, ShiftedTemplates, calibration_z
from bcpd.seeds import generator


def normal(seed: int) -> Callable[..., Tensor]:
    stream = generator(seed, "test")
    return lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=stream)


def small(seed: int = 0, shape: tuple[int, int, int] = (2, 3, 5), components: int = 2) -> ShiftedTemplates:
    draw = normal(seed)
    return ShiftedTemplates(
        0.6 * draw(3, components, *shape), 0.9, draw(3, components).softmax(-1), draw(3).softmax(-1)
    )


def all_shifts(pictures: Tensor) -> Tensor:
    """``(..., channels, h, w)`` -> ``(..., h w, channels, h, w)``, rolled by hand."""
    height, width = pictures.shape[-2:]
    return torch.stack([pictures.roll((i, j), (-2, -1)) for i in range(height) for j in range(width)], -4)


def brute_force(mixture: ShiftedTemplates) -> GaussianMixture:
    """Every shift of every template is a component of its own."""
    shifted = all_shifts(mixture.templates)
    count = shifted.shape[2]
    weights = (mixture.weights / count).repeat_interleave(count, 1)
    return GaussianMixture(shifted.flatten(3).flatten(1, 2), mixture.variance, weights, mixture.priors)


# ------------------------------------------------------------------------------------------------------------ posterior


@settings(max_examples=25)
@given(
    st.integers(0, 2**32),
    st.sampled_from([(1, 1, 1), (1, 1, 4), (1, 4, 1), (2, 3, 5), (1, 4, 4), (3, 5, 2)]),
    st.integers(1, 2),
)
def test_the_posterior_is_that_of_all_shifts_written_out(
    seed: int, shape: tuple[int, int, int], components: int
) -> None:
    mixture = small(seed, shape, components)
    x = 1.5 * normal(seed + 1)(6, *shape)
    truth = brute_force(mixture)
    torch.testing.assert_close(mixture.log_posterior(x), truth.log_posterior(x.flatten(1)), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mixture.log_density(x), truth.log_density(x.flatten(1)), rtol=1e-10, atol=1e-10)


def test_wrong_versions_are_none() -> None:
    """Convolution for correlation, the best shift for the mean of all, norms forgotten: each is far off."""
    mixture = small()
    x, _ = mixture.sample(200, 0)
    truth = brute_force(mixture).log_posterior(x.flatten(1))
    matches = (all_shifts(mixture.templates)[None] * x[:, None, None, None]).sum((-3, -2, -1)) / mixture.variance
    norms = mixture.templates.square().sum((2, 3, 4)) / (2 * mixture.variance)

    def posterior(logs: Tensor) -> Tensor:
        return ((logs + mixture.weights.log()).logsumexp(-1) + mixture.priors.log()).log_softmax(-1)

    torch.testing.assert_close(posterior(matches.logsumexp(-1) - norms), truth, rtol=1e-10, atol=1e-10)
    turned = ShiftedTemplates(mixture.templates.flip((-2, -1)), mixture.variance, mixture.weights, mixture.priors)
    for wrong in (turned.log_posterior(x), posterior(matches.amax(-1) - norms), posterior(matches.logsumexp(-1))):
        assert float((wrong - truth).abs().max()) > 0.1


def test_a_common_offset_costs_no_digits() -> None:
    mixture = small()
    far = ShiftedTemplates(mixture.templates + 2.0**20, mixture.variance, mixture.weights, mixture.priors)
    x = mixture.sample(50, 0)[0]
    torch.testing.assert_close(far.log_posterior(x + 2.0**20), mixture.log_posterior(x), rtol=0, atol=1e-7)
    assert not torch.allclose(far.log_posterior(x), mixture.log_posterior(x), atol=1e-3)


# ----------------------------------------------------------------------------------------------------------- symmetries


def cropped(x: Tensor, down: int, right: int) -> Tensor:
    """Padded by zeros and cropped: a shift that lets in black."""
    height, width = x.shape[-2:]
    return functional.pad(x, (right, 0, down, 0))[..., :height, :width]


def test_cyclic_shifts_leave_p_alone_and_crops_do_not() -> None:
    mixture = FAMILIES["shifted-templates"]()
    assert mixture.symmetries == {"cyclic-shift"}
    x, y = mixture.sample(20_000, 0)
    log_p = mixture.log_posterior(x)
    for down, right in ((0, 1), (1, 2)):
        rolled = x.roll((down, right), (-2, -1))
        torch.testing.assert_close(mixture.log_posterior(rolled), log_p, rtol=0, atol=1e-10)
        shown = mixture.log_posterior(cropped(x, down, right))
        assert float((shown - log_p).exp().sub(1).abs().amax()) > 0.1
        assert float(calibration_z(rolled, y, mixture.log_posterior(rolled)).abs().max()) < 5
        assert float(calibration_z(cropped(x, down, right), y, shown).abs().max()) > 8


@pytest.mark.parametrize(("weights", "closed"), [([[0.5, 0.5], [0.5, 0.5]], True), ([[0.5, 0.5], [0.6, 0.4]], False)])
def test_a_flip_is_a_symmetry_where_templates_come_with_their_mirror_images(
    weights: list[list[float]], closed: bool
) -> None:
    draw = normal(1)
    one = draw(2, 1, 2, 4, 5)
    pairs = torch.cat([one, one.flip(-1).roll((1, 2), (-2, -1))], 1)
    mixture = ShiftedTemplates(pairs, 1.0, weights)
    assert ("flip" in mixture.symmetries) == closed
    x, _ = mixture.sample(500, 0)
    gap = (mixture.posterior(x.flip(-1)) - mixture.posterior(x)).abs().max()
    assert float(gap) < 1e-10 if closed else float(gap) > 1e-2


def test_a_template_that_is_its_own_mirror_image_is_closed() -> None:
    bar = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    bar[0, 0, 1] = 1
    bar[1, 0, :, 1] = 1
    assert ShiftedTemplates(bar, 1.0).symmetries == {"cyclic-shift", "flip"}
    bar[1, 0, 2, 2] = 1
    assert ShiftedTemplates(bar, 1.0).symmetries == {"cyclic-shift"}


# ------------------------------------------------------------------------------------------------------------- sampling


def test_samples_are_templates_rolled_by_every_shift_alike() -> None:
    """All 15 shifts, each in 2,000 +- 5 standard errors of 30,000 images; the channels together."""
    mixture = small(4)
    quiet = ShiftedTemplates(mixture.templates, 1e-12, mixture.weights, mixture.priors)
    x = quiet._sample_components(torch.full((30_000,), 3), generator(0, "test"))
    distances = (x.flatten(1)[:, None] - all_shifts(mixture.templates[1, 1]).flatten(1)).abs().amax(-1)
    assert float(distances.amin(1).max()) < 1e-4
    counts = distances.argmin(1).bincount(minlength=15)
    assert float((counts - 2000).abs().max()) < 5 * math.sqrt(30_000 / 15 * 14 / 15)


def test_the_noise_has_its_variance() -> None:
    mixture = ShiftedTemplates(torch.zeros(2, 1, 3, 3) + torch.tensor([1.0, 2.0])[:, None, None, None], 2.5)
    x, y = mixture.sample(20_000, 0)
    noise = x - (y + 1)[:, None, None, None]
    assert abs(float(noise.square().mean()) - 2.5) < 5 * 2.5 * math.sqrt(2 / noise.numel())
    assert abs(float(noise.mean())) < 5 * math.sqrt(2.5 / noise.numel())


# ----------------------------------------------------------------------------------------------------------- separation


def test_less_separation_is_noise_on_x() -> None:
    """s x + sqrt(1 - s^2) sigma e, around a constant, has the templates of s: found by brute force."""
    mixture = small(2)
    harder = mixture._separated(0.6)
    centre = mixture._centre
    torch.testing.assert_close(harder.templates - centre, 0.6 * (mixture.templates - centre))
    # c + s (x - c) + sqrt(1 - s^2) sigma e is normal about c + s (mu - c), with the variance of before
    plain = brute_force(mixture)
    flat = centre.expand(mixture.shape).flatten().double()
    means = flat + 0.6 * (plain.means - flat)
    noisy = GaussianMixture(means, plain.covariance, plain.weights, plain.priors)
    x, _ = harder.sample(200, 0)
    torch.testing.assert_close(harder.log_posterior(x), noisy.log_posterior(x.flatten(1)), rtol=0, atol=1e-10)
    assert harder.variance == mixture.variance
    twice = harder._separated(0.5)
    torch.testing.assert_close(twice.templates, mixture._separated(0.3).templates)
    assert bool((centre == centre[..., :1, :1]).all())
    nothing = mixture._separated(0)
    torch.testing.assert_close(nothing.posterior(torch.zeros(nothing.shape)), mixture.priors)


# --------------------------------------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShiftedTemplates(torch.ones(2, 3, 3), 1.0), r"templates must have shape .*received \(2, 3, 3\)"),
        (lambda: ShiftedTemplates(torch.ones(2, 1, 0, 3), 1.0), r"received \(2, 1, 0, 3\)"),
        (lambda: ShiftedTemplates(torch.ones(2, 1, 3, 3), 0.0), "variance must be one positive number, received 0.0"),
        (lambda: ShiftedTemplates(torch.ones(2, 1, 3, 3), [1.0, 1.0]), "variance must be one positive number"),  # type: ignore[arg-type]
        (lambda: ShiftedTemplates(torch.full((2, 1, 3, 3), math.nan), 1.0), "templates must be finite"),
        (lambda: ShiftedTemplates(torch.ones(2, 1, 3, 3), 1.0, [[0.5, 0.5]] * 2), r"weights must have shape \(2, 1\)"),
    ],
)
def test_impossible_parameters_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
