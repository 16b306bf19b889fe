"""Worlds of pictures: tuned, of a sane range, the same again; what they need and refuse."""

from __future__ import annotations

import json

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from bcpd.mixtures import IMAGE_WORLDS, Mixture, calibration_z, from_spec, image_world, sampling_rate


def digit_images(n: int = 700) -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    return torch.from_numpy(bunch.images[:n, None] * 15), torch.from_numpy(bunch.target[:n]).to(torch.int64)


def make(name: str, size: int, channels: int, bayes_error: float = 0.2, seed: int = 0) -> Mixture:
    """With digits, in as many copies as there are channels, for the worlds that are fitted."""
    if name != "factor-analyzers":
        return image_world(name, size, channels, bayes_error, seed)
    x, y = digit_images()
    return image_world(name, size, channels, bayes_error, seed, x.expand(-1, channels, -1, -1), y)


def check(mixture: Mixture, shape: tuple[int, int, int], target: float, n: int) -> None:
    """Within 1e-3 and 5 standard errors of the samples that tuned and that judge; with a fifth less contrast not."""
    assert (mixture.shape, mixture.num_classes) == (shape, 10)
    fresh = mixture.bayes_error("monte_carlo", n=n, seed=7)
    bound = 1e-3 + 5 * fresh.stderr * (1 + n / 16_384) ** 0.5
    assert abs(fresh.value - target) < bound
    assert mixture._separated(0.8).bayes_error("monte_carlo", n=4096, seed=7).value - target > bound
    x, y = mixture.sample(n, 3)
    assert float(calibration_z(x, y, mixture.log_posterior(x)).abs().max()) < 5
    pixels = x[:2000]
    if mixture.kind == "bernoulli":
        assert pixels.unique().tolist() == [0, 1]
    else:
        assert abs(float(pixels.mean())) < 0.2
        assert 0.7 < float(pixels.std()) < 1.4
        assert float(pixels.abs().max()) < 15


SLOWLY_MADE = {"templates", "factor-analyzers"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOWLY_MADE)) for name in IMAGE_WORLDS]
)
def test_a_world_of_8_by_8_pixels_has_the_bayes_error_that_was_asked_for(name: str) -> None:
    check(make(name, 8, 1), (1, 8, 8), 0.2, 16_384)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "channels"), [(16, 1), (32, 3)])
@pytest.mark.parametrize("name", IMAGE_WORLDS)
def test_larger_worlds_too(name: str, size: int, channels: int) -> None:
    for target in (0.1, 0.2) if size == 16 else (0.2,):
        check(make(name, size, channels, target), (channels, size, size), target, 16_384)


def test_the_seed_is_the_worlds_and_a_spec_is_the_world() -> None:
    first, again, other = (image_world("textures", 8, 1, 0.3, seed, num_classes=3) for seed in (0, 0, 1))
    assert first.spec() == again.spec() != other.spec()
    x, _ = first.sample(50, 0)
    rebuilt = from_spec(json.loads(json.dumps(first.spec())))
    assert torch.equal(rebuilt.log_posterior(x), first.log_posterior(x))
    assert rebuilt.symmetries == first.symmetries == {"cyclic-shift"}


def test_bernoulli_pictures_are_those_of_the_images() -> None:
    """Before tuning the probabilities are the frequencies of ink, one half of a picture more in each class."""
    x, y = digit_images()
    mixture = IMAGE_WORLDS["bernoulli"](8, 1, 10, 0, (x.to(torch.float64), y))
    ink = (x[y == 3] > 15 * 8).to(torch.float64)
    expected = (ink.sum(0) + 0.5) / (len(ink) + 1)
    torch.testing.assert_close(torch.tensor(mixture.spec()["theta"][3], dtype=torch.float64), expected)
    torch.testing.assert_close(mixture.priors, y.bincount().double() / len(y))


def test_images_are_brought_to_the_size() -> None:
    x, y = digit_images()
    world = image_world("bernoulli", 12, 1, 0.2, images=x, labels=y)
    assert world.shape == (1, 12, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "clouds"}, r"name must be one of \['bernoulli', 'factor-analyzers', 'templates', 'textures'\]"),
        ({"size": 3}, "size must be >= 4"),
        ({"num_classes": 1}, "num_classes >= 2, received 8, 1 and 1"),
        ({"name": "factor-analyzers"}, "images and labels must be given, received none"),
        ({"images": torch.zeros(4, 1, 8, 8)}, "given together, received one of them"),
        ({"images": torch.zeros(4, 1, 8, 8), "labels": torch.arange(4)}, "not fitted to images: images must be None"),
        (
            {"name": "bernoulli", "images": torch.zeros(4, 3, 8, 8), "labels": torch.arange(4)},
            r"images must have shape \(n, 1, h, w\) and labels \(n,\), received \(4, 3, 8, 8\) and \(4,\)",
        ),
        (
            {"name": "bernoulli", "images": torch.zeros(4, 1, 8, 8), "labels": torch.arange(4)},
            "every class needs an image, received none of",
        ),
        (
            {"name": "factor-analyzers", "images": torch.zeros(10, 1, 8, 8), "labels": torch.arange(10)},
            "images must differ",
        ),
        ({"bayes_error": 0.95}, r"a Bayes error of 0\.95 cannot be reached"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_world(**{"name": "templates", "size": 8, "channels": 1, **arguments})  # type: ignore[arg-type]


def test_rates_are_images_a_second() -> None:
    rates = sampling_rate(image_world("textures", 8, 1, 0.3, num_classes=3), 4096)
    assert set(rates) == {"sample", "posterior", "both"}
    assert 1 / rates["both"] == pytest.approx(1 / rates["sample"] + 1 / rates["posterior"])
    assert rates["both"] > 100
    with pytest.raises(ValueError, match="n must be a positive int"):
        sampling_rate(image_world("textures", 8, 1, 0.3, num_classes=3), 0)
