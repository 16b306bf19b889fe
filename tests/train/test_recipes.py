"""The published recipes: their numbers, and the epochs at which the sources lower the rate, counted as they count."""

from bisect import bisect_right
from collections.abc import Callable

import pytest

from bcpd.train import Recipe
from bcpd.train.recipes import (
    SMALL_RATE_NETS,
    cifar100_hsakd,
    cifar100_published,
    cifar100_reviewkd,
    imagenet_hsakd,
    imagenet_mdistiller,
    imagenet_reviewkd,
    imagenet_torchdistill,
    tiny_imagenet_dot,
)

CIFAR = [cifar100_published, cifar100_reviewkd, cifar100_hsakd]


def from_one(epoch: int, milestones: list[int]) -> int:
    """RepDistiller, mdistiller: epochs 1, 2, ...; how often the rate was lowered."""
    return sum(epoch + 1 > milestone for milestone in milestones)


def from_zero(epoch: int, milestones: list[int]) -> int:
    """ReviewKD: epochs 0, 1, ...."""
    return sum(epoch >= milestone for milestone in milestones)


def bisected(epoch: int, milestones: list[int]) -> int:
    """HSAKD."""
    return bisect_right(milestones, epoch)


@pytest.mark.parametrize(
    ("recipe", "milestones", "counted"),
    [
        (cifar100_published("resnet20"), [150, 180, 210], from_one),
        (cifar100_reviewkd("resnet20"), [150, 180, 210], from_zero),
        (cifar100_hsakd("resnet20"), [150, 180, 210], bisected),
        (imagenet_mdistiller("kd"), [30, 60, 90], from_one),
        (imagenet_reviewkd(), [30, 60, 90], from_zero),
        (imagenet_torchdistill(), [30, 60, 90], from_zero),
        (imagenet_hsakd(), [30, 60, 90], bisected),
        (tiny_imagenet_dot(), [60, 120, 160], from_one),
    ],
)
def test_rates_fall_at_the_epochs_of_the_source(
    recipe: Recipe, milestones: list[int], counted: Callable[[int, list[int]], int]
) -> None:
    for epoch in range(recipe.epochs):
        expected = 0.1 ** counted(epoch, milestones)
        for within in (0.0, 0.5, 0.99):  # no change inside an epoch
            factor = recipe.schedule.factor((epoch + within) / recipe.epochs)
            assert factor == pytest.approx(expected, rel=1e-9), epoch
    # an epoch earlier or later would be seen
    early = recipe.schedule.factor((milestones[0] - 1) / recipe.epochs)
    assert (early, recipe.schedule.factor(milestones[0] / recipe.epochs)) == (1.0, pytest.approx(0.1))


@pytest.mark.parametrize("make", CIFAR)
def test_small_nets_have_a_fifth_of_the_rate(make: Callable[[str], Recipe]) -> None:
    for net in SMALL_RATE_NETS:
        assert make(net).learning_rate == pytest.approx(make("resnet20").learning_rate / 5)  # type: ignore[operator]
        assert make(net).batch_size == make("vgg8").batch_size


@pytest.mark.parametrize(
    ("recipe", "numbers"),
    [
        (cifar100_published("resnet8x4"), (240, 0.05, 64, 5e-4, False)),
        (cifar100_published("mobilenetv2"), (240, 0.01, 64, 5e-4, False)),
        (cifar100_reviewkd("wrn_16_2"), (240, 0.1, 128, 5e-4, True)),
        (cifar100_reviewkd("shufflenetv1"), (240, 0.02, 128, 5e-4, True)),
        (cifar100_hsakd("wrn_16_2"), (240, 0.05, 64, 5e-4, True)),
        (imagenet_mdistiller("dkd"), (100, 0.2, 512, 1e-4, False)),
        (imagenet_mdistiller("at"), (100, 0.2, 512, 1e-4, False)),
        (imagenet_mdistiller("crd"), (100, 0.1, 256, 1e-4, False)),
        (imagenet_mdistiller("reviewkd"), (100, 0.1, 256, 1e-4, False)),
        (imagenet_torchdistill(), (100, 0.1, 256, 1e-4, False)),
        (imagenet_reviewkd(1024), (100, 0.4, 1024, 1e-4, False)),
        (imagenet_hsakd(), (100, 0.1, 256, 1e-4, False)),
        (tiny_imagenet_dot(), (200, 0.2, 256, 5e-4, False)),
    ],
)
def test_the_numbers_are_the_published_ones(recipe: Recipe, numbers: tuple[float, ...]) -> None:
    own = (recipe.epochs, recipe.learning_rate, recipe.batch_size, recipe.weight_decay, recipe.nesterov)
    assert own == pytest.approx(numbers)
    assert recipe.momentum == 0.9
    assert recipe.validation == 0  # every training image is trained on


@pytest.mark.parametrize("make", [*CIFAR, lambda net, epochs, share: imagenet_torchdistill(epochs, share)])
def test_epochs_scale_the_milestones_and_validation_can_be_carved_out(make: Callable[..., Recipe]) -> None:
    recipe = make("resnet20", 24, 0.1)
    whole = make("resnet20", 240, 0.1)
    assert recipe.validation == 0.1
    assert recipe.epochs == 24
    for tenth in range(24):
        assert recipe.schedule.factor(tenth / 24) == whole.schedule.factor(10 * tenth / 240)


def test_a_method_without_a_recipe_is_refused() -> None:
    with pytest.raises(ValueError, match="kd, dkd, at, crd and reviewkd; received 'sp'"):
        imagenet_mdistiller("sp")  # type: ignore[arg-type]
