"""The built-in real set: complete, split without overlap, lossless."""

import pytest
import torch
from sklearn.datasets import load_digits

from bcpd.data import NORMALISATION, digits


def test_the_two_splits_are_the_whole_set_once() -> None:
    train, test = digits("train"), digits("test")
    assert (train.x.shape, test.x.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    together = sorted(
        (int(label), *image.flatten().tolist())
        for part in (train, test)
        for image, label in zip(part.x, part.y, strict=True)
    )
    whole = load_digits()
    pixels = (whole.images * 15).astype(int).reshape(len(whole.target), -1)
    assert together == sorted((int(label), *row.tolist()) for row, label in zip(pixels, whole.target, strict=True))


def test_every_class_keeps_its_share_of_the_test_split() -> None:
    sizes = torch.from_numpy(load_digits().target).bincount()
    assert float((digits("test").y.bincount() - sizes * 360 / 1797).abs().max()) < 1


def test_normalisation_constants_are_the_moments_of_the_training_split() -> None:
    pixels = digits("train").x.double() / 255
    moments = NORMALISATION["digits"]
    assert moments.mean == (pytest.approx(float(pixels.mean()), abs=5e-5),)
    assert moments.std == (pytest.approx(float(pixels.std(correction=0)), abs=5e-5),)


def test_another_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"split must be one of \['test', 'train'\], received 'validation'"):
        digits("validation")  # type: ignore[arg-type]
