"""Worlds of pictures with an exact p*, made at a size and tuned to a Bayes error; and how fast they come."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from bcpd.mixtures.base import Mixture
from bcpd.mixtures.factor_analyzers import FactorAnalyzerMixture
from bcpd.mixtures.products import BernoulliMixture
from bcpd.mixtures.templates import ShiftedTemplates
from bcpd.mixtures.textures import GaussianTextures
from bcpd.mixtures.tuning import solve_separation
from bcpd.seeds import generator
from bcpd.tensors import ArrayLike, float64, labels

__all__ = ["IMAGE_WORLDS", "image_world", "sampling_rate"]

_BLOCK = 2048  # images that are held at once
_COARSE = 1024  # points of the first search
_FINE = 16_384
_STEP = 1.02  # of the separation, for the slope of the Bayes error
_CLUSTERS = 3
_RANK = 8
_FLOOR = 0.01


def image_world(
    name: str,
    size: int,
    channels: int,
    bayes_error: float = 0.2,
    seed: int = 0,
    images: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    num_classes: int = 10,
) -> Mixture:
    r"""A mixture over pictures ``(channels, size, size)`` whose Bayes error is ``bayes_error``.

    ``"templates"``
        :class:`ShiftedTemplates`: a body of coloured blobs that all classes share, with marks of the class on it,
        anywhere on the torus, in white noise of variance 1 (a pixel has a little more).
    ``"textures"``
        :class:`GaussianTextures`: clouds with grains of another width and direction in every class and channel;
        a pixel has mean 0 and variance about 1.
    ``"factor-analyzers"``
        :class:`FactorAnalyzerMixture` fitted to the given images, three components of eight directions a class, under
        as much noise as the Bayes error asks for; a pixel has mean 0 and variance about 1 (over all pixels).
    ``"bernoulli"``
        :class:`BernoulliMixture`: binary pictures, pixels 0 and 1. With images: the frequencies of ink in each class,
        ink being what is brighter than the middle between the darkest and the brightest value. Without: smooth
        random patterns.

    All classes are equally likely; in worlds fitted to images they are as frequent as there. The same arguments give
    the same mixture. The Bayes error is met within 1e-3 and the standard error of a fixed sample of 16,384 images
    (about 0.0015); :meth:`Mixture.bayes_error` on more of them says where it is.

    Args:
        name: a key of :data:`IMAGE_WORLDS`.
        size: height and width, >= 4. channels: >= 1.
        bayes_error: between 0 and 1 - 1/K; what can be reached depends on the world.
        seed: of the world, not of samples from it.
        images: ``(n, channels, h, w)`` of any real dtype, for ``"factor-analyzers"`` (required) and ``"bernoulli"``;
            brought to ``size`` by (antialiased) linear interpolation.
        labels: ``(n,)``, with images.
        num_classes: K.
    Raises:
        ValueError: an unknown name, sizes out of range, images that are missing, not wanted or of another shape, a
            Bayes error that cannot be reached.
    """
    if name not in IMAGE_WORLDS:
        raise ValueError(f"name must be one of {sorted(IMAGE_WORLDS)}, received {name!r}")
    if size < 4 or channels < 1 or num_classes < 2:
        raise ValueError(
            f"size must be >= 4, channels >= 1 and num_classes >= 2, received {size}, {channels} and {num_classes}"
        )
    given = None
    if images is not None or labels is not None:
        given = _given(images, labels, size, channels, num_classes)
    return _tuned(IMAGE_WORLDS[name](size, channels, num_classes, seed, given), bayes_error)


_Given = tuple[Tensor, Tensor]
"""Images float64 ``(n, channels, size, size)`` and labels."""


def _given(images: ArrayLike | None, y: ArrayLike | None, size: int, channels: int, num_classes: int) -> _Given:
    if images is None or y is None:
        raise ValueError("images and labels must be given together, received one of them")
    x, classes = float64(images, "images").detach().cpu(), labels(y, num_classes, "labels").cpu()
    if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape or tuple(classes.shape) != (len(x),):
        raise ValueError(
            f"images must have shape (n, {channels}, h, w) and labels (n,), "
            f"received {tuple(x.shape)} and {tuple(classes.shape)}"
        )
    if tuple(x.shape[2:]) != (size, size):
        x = functional.interpolate(x, (size, size), mode="bilinear", antialias=True)
    return x, classes


# -------------------------------------------------------------------------------------------------------------- worlds


def _templates(size: int, channels: int, num_classes: int, seed: int, given: _Given | None) -> ShiftedTemplates:
    """A body that all classes share, two noise deviations high: where it is can be seen; on it the marks of the class.

    Marks of squared norm 6 (each class alone against noise of variance 1) make a Bayes error of about a fifth.
    """
    _without_images("templates", given)
    draw = generator(seed, "image world", "templates")
    body = _blobs(draw, 1, 3, channels, size, (0.10, 0.16))
    marks = _blobs(draw, num_classes, 4, channels, size, (0.04, 0.08))
    marks = marks - marks.mean(0)
    marks = marks * (6 / marks.square().sum((1, 2, 3), keepdim=True)).sqrt()
    templates = 2 * body / body.abs().max() + marks
    return ShiftedTemplates(templates - templates.mean((0, 2, 3), keepdim=True), 1.0)


def _blobs(
    draw: torch.Generator, pictures: int, blobs: int, channels: int, size: int, radii: tuple[float, float]
) -> Tensor:
    """Sums of Gaussian blobs of random colours, in the middle of the picture: ``(pictures, channels, size, size)``.

    Their centres lie within a quarter of the width; ``radii`` are shares of it, at least 0.6 pixels.
    """
    angle, reach, radius = torch.rand(3, pictures, blobs, dtype=torch.float64, generator=draw)
    colour = torch.randn(pictures, blobs, channels, dtype=torch.float64, generator=draw)
    colour = colour / colour.square().mean(-1, keepdim=True).sqrt()
    turn = torch.stack([(2 * math.pi * angle).sin(), (2 * math.pi * angle).cos()])
    place = size * (0.5 + 0.25 * reach.sqrt() * turn)
    width = (size * (radii[0] + (radii[1] - radii[0]) * radius)).clamp(min=0.6)
    pixel = torch.arange(size, dtype=torch.float64) + 0.5
    down, right = ((pixel - p[..., None]).square() / (2 * width[..., None].square()) for p in place)
    shapes = torch.exp(-(down[..., :, None] + right[..., None, :]))
    return torch.einsum("kbc,kbij->kcij", colour, shapes)


def _textures(size: int, channels: int, num_classes: int, seed: int, given: _Given | None) -> GaussianTextures:
    """A falling spectrum common to all, and a grain of one frequency and direction for each class and channel."""
    _without_images("textures", given)
    draw = generator(seed, "image world", "textures")
    frequency = torch.fft.fftfreq(size, dtype=torch.float64) * size
    down, right = frequency[:, None], frequency
    radius = (down.square() + right.square()).sqrt()
    clouds = 1 / (1 + radius).square() + 0.002
    first, octave = torch.rand(2, num_classes, channels, dtype=torch.float64, generator=draw)
    angle = math.pi * (torch.arange(num_classes)[:, None] + first[:1]) / num_classes
    pitch = size / 8 * 2 ** (1.5 * octave)
    centres = torch.stack([pitch * angle.sin(), pitch * angle.cos()])[..., None, None]
    grains = [
        torch.exp(
            -((down - sign * centres[0]).square() + (right - sign * centres[1]).square()) / (2 * (size / 12) ** 2)
        )
        for sign in (1, -1)
    ]
    grain = sum(grains, start=torch.zeros(()))
    grain = grain + grain.flip((-2, -1)).roll((1, 1), (-2, -1))  # even at the highest frequencies too
    clouds, grain = clouds / clouds.mean(), grain / grain.mean((-2, -1), keepdim=True)
    return GaussianTextures(0.4 * clouds + 0.6 * grain)


def _factor_analyzers(
    size: int, channels: int, num_classes: int, seed: int, given: _Given | None
) -> FactorAnalyzerMixture:
    if given is None:
        raise ValueError(
            "the world 'factor-analyzers' is fitted to images: images and labels must be given, received none "
            "(bcpd.data.digits and bcpd.data.read_cifar have some)"
        )
    x, y = given
    deviation, mean = torch.std_mean(x, correction=0)
    if not float(deviation) > 0:
        raise ValueError("images must differ, received pixels that are all the same")
    return FactorAnalyzerMixture.fit((x - mean) / deviation, y, num_classes, _CLUSTERS, _RANK, _FLOOR, seed)


def _bernoulli(size: int, channels: int, num_classes: int, seed: int, given: _Given | None) -> BernoulliMixture:
    if given is not None:
        x, y = given
        ink = (x > (x.min() + x.max()) / 2).to(torch.float64)
        counts = y.bincount(minlength=num_classes)
        if bool((counts == 0).any()):
            raise ValueError(f"every class needs an image, received none of {counts.eq(0).nonzero()[:, 0].tolist()}")
        sums = torch.zeros(num_classes, *x.shape[1:], dtype=torch.float64).index_add_(0, y, ink)
        # as if each class had one more picture, half of it ink
        theta = (sums + 0.5) / (counts[:, None, None, None] + 1)
        return BernoulliMixture(theta, priors=counts.to(torch.float64) / len(y))
    draw = generator(seed, "image world", "bernoulli")
    white = torch.randn(num_classes, channels, size, size, dtype=torch.float64, generator=draw)
    frequency = torch.fft.fftfreq(size, dtype=torch.float64) * size
    smooth = torch.exp(-(frequency[:, None].square() + frequency.square()) / 8)
    patterns = torch.fft.ifft2(torch.fft.fft2(white) * smooth).real
    return BernoulliMixture((2 * patterns / patterns.std((-2, -1), keepdim=True)).sigmoid())


def _without_images(name: str, given: _Given | None) -> None:
    if given is not None:
        raise ValueError(f"the world {name!r} is not fitted to images: images must be None")


IMAGE_WORLDS: Mapping[str, Callable[[int, int, int, int, _Given | None], Mixture]] = {
    "templates": _templates,
    "textures": _textures,
    "factor-analyzers": _factor_analyzers,
    "bernoulli": _bernoulli,
}
"""Worlds by name: (size, channels, number of classes, seed, images and labels or None) -> mixture, not tuned yet."""


# -------------------------------------------------------------------------------------------------------------- tuning


def _tuned(mixture: Mixture, target: float) -> Mixture:
    """Like ``Mixture.tuned``, which takes minutes for large images: a search with few, then the slope with many."""

    def error_at(separation: float, points: int = _COARSE) -> float:
        return _error(mixture._separated(separation), points)

    separation = solve_separation(error_at, target, monotone=mixture._shrinking_garbles)
    slope = (error_at(separation * _STEP) - error_at(separation / _STEP)) / (2 * math.log(_STEP))
    for _ in range(4):
        gap = error_at(separation, _FINE) - target
        if abs(gap) < 5e-4 or not slope:
            break
        separation *= math.exp(-gap / slope)
    return mixture._separated(separation)


def _error(mixture: Mixture, points: int) -> float:
    total = 0.0
    for x, _ in mixture.stream(points, 0, block=_BLOCK):
        total += float((1 - mixture.posterior(x).amax(-1)).sum())
    return total / points


# --------------------------------------------------------------------------------------------------------------- speed


def sampling_rate(mixture: Mixture, n: int = 4096, seed: int = 0) -> dict[str, float]:
    """Images a second: ``sample`` (x and y), ``posterior`` (their p* in float64), ``both`` one after the other.

    Seconds are those of processor time, summed over threads: on one thread, what a clock shows on an idle machine.
    Whole blocks of 4,096 images are drawn, so n should be a multiple.

    Raises:
        ValueError: n is not a positive int.
    """
    drawing = answering = 0.0
    blocks = mixture.stream(n, seed, block=4096)
    while True:
        start = time.process_time()
        points = next(blocks, None)
        drawn = time.process_time()
        if points is None:
            break
        mixture.posterior(points[0])
        answered = time.process_time()
        drawing, answering = drawing + drawn - start, answering + answered - drawn
    return {"sample": n / drawing, "posterior": n / answering, "both": n / (drawing + answering)}
