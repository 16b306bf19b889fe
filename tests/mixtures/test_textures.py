"""Gaussian textures: the Fourier form against covariances written out, spectra as symmetries and as difficulty."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn import functional

from bcpd.mixtures import FAMILIES, GaussianTextures, calibration_z
from bcpd.seeds import generator


def spectra(seed: int, classes: int, *shape: int) -> Tensor:
    """Random positive even spectra."""
    logs = torch.randn(classes, *shape, dtype=torch.float64, generator=generator(seed, "test"))
    return (logs + turned(logs)).exp()


def turned(values: Tensor) -> Tensor:
    """At -w."""
    return values.flip((-2, -1)).roll((1, 1), (-2, -1))


def covariance(spectrum: Tensor) -> Tensor:
    """``(h, w)`` -> ``(h w, h w)``: the mean over w of S(w) cos 2 pi (w, u - v), term by term."""
    height, width = spectrum.shape
    cells = torch.cartesian_prod(torch.arange(height), torch.arange(width)).to(torch.float64)
    turns = cells / torch.tensor([height, width])
    gaps = cells[:, None] - cells
    waves = torch.cos(2 * math.pi * gaps @ turns.mT)
    return waves @ spectrum.flatten() / (height * width)


# -------------------------------------------------------------------------------------------------------------- density


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from([(1, 1), (1, 4), (4, 1), (3, 4), (4, 3), (4, 4), (5, 5), (2, 5)]))
def test_densities_are_those_of_covariances_written_out(seed: int, size: tuple[int, int]) -> None:
    given_spectra = spectra(seed, 2, 2, *size)
    mixture = GaussianTextures(given_spectra, [0.3, -2.0], [0.3, 0.7])
    x = 2 * torch.randn(4, 2, *size, dtype=torch.float64, generator=generator(seed, "points"))
    expected = torch.zeros(4, 2, dtype=torch.float64)
    for k in range(2):
        for channel, mean in enumerate((0.3, -2.0)):
            centre = torch.full((math.prod(size),), mean, dtype=torch.float64)
            law = MultivariateNormal(centre, covariance(given_spectra[k, channel]))
            expected[:, k] += law.log_prob(x[:, channel].flatten(1))
    torch.testing.assert_close(mixture.log_density(x), expected, rtol=1e-10, atol=1e-10)


def test_wrong_versions_are_none() -> None:
    """Frequencies of the half plane counted once, log-spectra dropped, deviations taken for powers."""
    mixture = FAMILIES["gaussian-textures"]()
    assert isinstance(mixture, GaussianTextures)
    x, y = mixture.sample(20_000, 0)
    power = torch.fft.fft2(x - mixture.mean[:, None, None], norm="ortho").abs().square()[:, None]
    s = mixture.spectra
    half = slice(None, s.shape[-1] // 2 + 1)

    def score(terms: Tensor) -> float:
        log_p = (-terms.flatten(2).sum(-1) / 2 + mixture.priors.log()).log_softmax(-1)
        return float(calibration_z(x, y, log_p).abs().max())

    full = power / s + s.log()
    assert score(full) < 5
    for wrong in (full[..., half], power / s, power / s.sqrt() + s.log() / 2):
        assert score(wrong) > 8


def test_samples_have_their_spectrum() -> None:
    """The mean power of 20,000 textures at every frequency; those of another class have not."""
    mixture = GaussianTextures(spectra(0, 2, 1, 4, 5), [1.5])
    x = mixture._sample_components(torch.ones(20_000, dtype=torch.int64), generator(0, "test"))
    power = torch.fft.fft2(x - 1.5, norm="ortho").abs().square()
    deviation = power.std(0) / math.sqrt(20_000)
    assert float(((power.mean(0) - mixture.spectra[1]) / deviation).abs().max()) < 5
    assert float(((power.mean(0) - mixture.spectra[0]) / deviation).abs().max()) > 20
    variance = float(mixture.spectra[1].mean())
    assert float((x - 1.5).square().mean()) == pytest.approx(variance, rel=0.05)


# ----------------------------------------------------------------------------------------------------------- symmetries


def test_cyclic_shifts_leave_p_alone_and_crops_do_not() -> None:
    mixture = FAMILIES["gaussian-textures"]()
    assert mixture.symmetries == {"cyclic-shift"}
    x, y = mixture.sample(20_000, 0)
    log_p = mixture.log_posterior(x)
    for down, right in ((0, 1), (2, 3)):
        rolled = x.roll((down, right), (-2, -1))
        torch.testing.assert_close(mixture.log_posterior(rolled), log_p, rtol=0, atol=1e-10)
        cropped = functional.pad(x, (right, 0, down, 0))[..., :3, :4]
        shown = mixture.log_posterior(cropped)
        assert float((shown.exp() - log_p.exp()).abs().max()) > 0.1
        assert float(calibration_z(cropped, y, shown).abs().max()) > 8
    mirrored = mixture.posterior(x[:500].flip(-1))
    assert float((mirrored - log_p[:500].exp()).abs().max()) > 1e-2


def test_a_flip_is_a_symmetry_where_spectra_are_mirror_images_of_themselves() -> None:
    skewed = spectra(1, 3, 2, 4, 5)
    upright = skewed + skewed.flip(-1).roll(1, -1)
    mixture = GaussianTextures(upright)
    assert mixture.symmetries == {"cyclic-shift", "flip"}
    x, _ = mixture.sample(500, 0)
    torch.testing.assert_close(mixture.posterior(x.flip(-1)), mixture.posterior(x), rtol=0, atol=1e-10)
    upright[0] = skewed[0]
    assert GaussianTextures(upright).symmetries == {"cyclic-shift"}


# ----------------------------------------------------------------------------------------------------------- separation


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.floats(0, 1))
def test_less_separation_is_a_texture_on_top_that_keeps_the_common_spectrum(seed: int, s: float) -> None:
    priors = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    mixture = GaussianTextures(spectra(seed, 3, 1, 4, 3), None, priors)
    harder = mixture._separated(s)

    def together(m: GaussianTextures) -> Tensor:
        return (priors[:, None, None, None] * m.spectra).sum(0)

    torch.testing.assert_close(together(harder), together(mixture), rtol=1e-12, atol=0)
    added = harder.spectra - s**2 * mixture.spectra
    torch.testing.assert_close(added, added[:1].expand_as(added), rtol=0, atol=1e-12 * float(mixture.spectra.max()))
    assert float(added.min()) >= -1e-12 * float(mixture.spectra.max())
    torch.testing.assert_close(harder._separated(0.7).spectra, mixture._separated(0.7 * s).spectra, rtol=1e-12, atol=0)


def test_more_separation_takes_away_what_all_classes_have() -> None:
    mixture = FAMILIES["gaussian-textures"]()
    laws = [mixture._separated(s) for s in (1.0, 1.5, 4.0, 100.0, 4096.0)]
    for noisier, clearer in pairwise(laws):
        assert isinstance(noisier, GaussianTextures)
        assert isinstance(clearer, GaussianTextures)
        gap = noisier.spectra - clearer.spectra
        torch.testing.assert_close(gap, gap[:1].expand_as(gap), rtol=0, atol=1e-14)
        assert float(gap.min()) >= 0
    errors = [mixture._separated(s).bayes_error(n=8192).value for s in (0, 0.4, 0.8, 1, 1.5, 4)]
    assert all(a > b for a, b in pairwise(errors))
    assert errors[0] == pytest.approx(0.6, abs=1e-12)


# --------------------------------------------------------------------------------------------------------------- misuse


def lopsided() -> Tensor:
    broken = spectra(0, 2, 1, 4, 4)
    broken[1, 0, 1, 2] *= 1.001
    return broken


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianTextures(torch.ones(2, 4, 4)), r"spectra must have shape .*received \(2, 4, 4\)"),
        (lambda: GaussianTextures(torch.zeros(2, 1, 4, 4)), "spectra must be positive"),
        (lambda: GaussianTextures(torch.ones(2, 1, 4, 4) * torch.tensor([1.0, 1e-13, 1, 1e-13])), "factor 1e"),
        (lambda: GaussianTextures(lopsided()), r"spectra must be even, S\(-w\) = S\(w\)"),
        (lambda: GaussianTextures(torch.ones(2, 1, 4, 4), [0.0, 1.0]), r"mean must have shape \(1,\), received \(2,\)"),
        (lambda: GaussianTextures(torch.ones(2, 1, 4, 4), None, [1.0, 0.0]), "priors must be 2 positive numbers"),
    ],
)
def test_impossible_parameters_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
