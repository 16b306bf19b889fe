"""Nature is a frozen network: exact p* by lookup, labels drawn from it, and what is not p*."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bcpd.data import NORMALISATION, Images, InMemory, digits, read_cifar
from bcpd.data.frozen import relabelled, train_and_fresh
from bcpd.distill import Supervised
from bcpd.measure import distance, distance_of_probabilities
from bcpd.mixtures import calibration_z, frozen
from bcpd.mixtures.frozen import FrozenNature
from bcpd.nets import build
from bcpd.train import Recipe, fit, log_probabilities

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [Path(os.environ["BCPD_DATA"])] if "BCPD_DATA" in os.environ else []
CIFAR = [folder for folder in [*FOLDERS, ROOT.parent / "shared" / "data"] if (folder / "cifar-10-batches-bin").is_dir()]


def pictures(n: int, *shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *shape), generator=draw).to(torch.uint8)


def nature(n: int = 200, num_classes: int = 3, temperature: float = 1.0, seed: int = 0) -> FrozenNature:
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, num_classes, dtype=torch.float64, generator=draw)
    return FrozenNature(pictures(n, 1, 3, 3, seed=seed), logits, temperature)


def worst(source: InMemory) -> float:
    assert source.log_bayes is not None
    return float(calibration_z(source.x.double(), source.y, source.log_bayes).abs().max())


# ---------------------------------------------------------------------------------------------------------- what p* is


@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(2, 5), st.floats(0.05, 20))
def test_p_is_the_softmax_at_its_temperature(seed: int, n: int, num_classes: int, temperature: float) -> None:
    world = nature(n, num_classes, temperature, seed)
    points, weights = world.support()
    expected = (world.logits / temperature).softmax(-1)
    torch.testing.assert_close(world.posterior(points), expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(world.priors, weights @ expected, rtol=1e-12, atol=1e-15)
    error = world.bayes_error()
    assert error.method == "exact"
    assert error.value == pytest.approx(float(1 - expected.amax(-1).mean()), abs=1e-12)
    torch.testing.assert_close(world.expectation(expected), world.priors, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_x_is_found_by_its_bits_whatever_it_is_stored_as(dtype: torch.dtype) -> None:
    images = pictures(500, 3, 5, 7) if dtype == torch.uint8 else torch.randn(500, 3, 5, 7).to(dtype)
    logits = torch.randn(500, 4, dtype=torch.float64)
    world = FrozenNature(images, logits)
    x = images.double() / 255 if dtype == torch.uint8 else images.double()
    order = torch.randperm(500)
    torch.testing.assert_close(world.log_posterior(x[order]), logits.log_softmax(-1)[order], rtol=1e-14, atol=1e-14)
    assert torch.equal(world.support()[0], x)
    if dtype != torch.float64:
        torch.testing.assert_close(world.log_posterior(x.float()), world.log_posterior(x))
    stranger = x[:2].clone()
    stranger[1, 0, 0, 0] = 1 - stranger[1, 0, 0, 0]
    with pytest.raises(ValueError, match=r"x must be among the 500 images of this mixture, received \["):
        world.posterior(stranger)
    if dtype == torch.uint8:
        with pytest.raises(ValueError, match=r"grey levels j/255 in \[0, 1\], received"):
            world.posterior(x[:1] + 0.3 / 255)
        with pytest.raises(ValueError, match=r"grey levels j/255 in \[0, 1\], received 2"):
            world.posterior(torch.full_like(x[:1], 2.0))


def test_equal_images_share_p_and_must_not_contradict_each_other() -> None:
    images, logits = pictures(6, 2, 2), torch.randn(6, 3, dtype=torch.float64)
    images[4], logits[4] = images[1], logits[1] + 1e-5
    world = FrozenNature(images, logits)
    assert torch.equal(world.log_rows[4], world.log_rows[1])
    torch.testing.assert_close(world.posterior(images[4] / 255.0), world.posterior(images[1] / 255.0), rtol=0, atol=0)
    logits[4] = -logits[1]
    with pytest.raises(ValueError, match=r"equal images must have equal logits .* between the equal images 1 and 4"):
        FrozenNature(images, logits)


def test_negative_zero_is_zero() -> None:
    world = FrozenNature([[0.0, 1.0], [-0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]])
    assert world.posterior([[-0.0, 1.0]]).argmax() == 0
    assert world.posterior([[0.0, 2.0]]).argmax() == 1


def test_a_network_is_asked_once_about_every_image() -> None:
    images, asked = pictures(2500, 1, 2, 2), []
    weights = torch.randn(4, 3)

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(len(x))
            return (x.flatten(1).float() / 255) @ weights

    world = FrozenNature(images, Net())
    assert sum(asked) == 2500
    expected = (images.flatten(1).float() / 255 @ weights).double()
    torch.testing.assert_close(world.posterior(images / 255.0), expected.softmax(-1), rtol=1e-5, atol=1e-6)
    world.tuned(0.3)
    assert sum(asked) == 2500


# -------------------------------------------------------------------------------------------------------------- tuning


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.6))
def test_a_bayes_error_is_reached_exactly_by_the_temperature(seed: int, target: float) -> None:
    world = nature(seed=seed)
    tuned = world.tuned(target)
    assert tuned.bayes_error().value == pytest.approx(target, abs=1e-6)
    assert (tuned.temperature > world.temperature) == (target > world.bayes_error().value)
    expected = (world.logits / tuned.temperature).softmax(-1)
    torch.testing.assert_close(tuned.log_rows.exp(), expected, rtol=1e-12, atol=1e-15)
    assert tuned.images is world.images


def test_the_bayes_error_rises_with_the_temperature_up_to_chance() -> None:
    world = nature(num_classes=4)
    errors = [world._separated(s).bayes_error().value for s in (100.0, 10.0, 1.0, 0.5, 0.1, 0.0)]
    assert errors == sorted(errors)
    assert errors[0] < 0.01
    assert errors[-1] == pytest.approx(0.75, abs=1e-12)
    assert world._separated(0.0).temperature == float("inf")


def test_large_sets_are_tuned_and_summed_without_making_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    world = nature()

    def refuse(stored: Tensor) -> Tensor:
        raise AssertionError("float64 points of all images")

    monkeypatch.setattr(frozen, "_points", refuse)
    world.tuned(0.2).expectation(torch.ones(200))
    train, fresh = train_and_fresh(world, 50, 0)
    assert train.x.dtype == fresh.x.dtype == torch.uint8
    with pytest.raises(AssertionError, match="float64 points"):
        world.support()


# -------------------------------------------------------------------------------------------------------------- labels


def test_labels_follow_p() -> None:
    """2,000 images of the same p*, 30 seeds: frequencies within 5 standard errors (false alarm 2e-6)."""
    row = torch.tensor([1.2, 0.0, -0.7], dtype=torch.float64)
    world = FrozenNature(pictures(2000, 1, 3, 3), row.expand(2000, 3))
    drawn = torch.cat([world.labels(seed) for seed in range(30)])
    frequency = drawn.bincount(minlength=3) / len(drawn)
    p = world.log_rows[0].exp()
    stderr = (p * (1 - p) / len(drawn)).sqrt()
    assert float(((frequency - p) / stderr).abs().max()) < 5
    hotter = world._separated(0.9).log_rows[0].exp()
    assert float(((frequency - hotter) / stderr).abs().max()) > 5


def test_an_impossible_class_never_comes() -> None:
    world = FrozenNature(pictures(50, 2, 2), torch.tensor([[1e4, 0.0, -1e4]]).expand(50, 3))
    assert torch.unique(torch.cat([world.labels(seed) for seed in range(50)])).tolist() == [0]


def test_an_image_keeps_its_label_in_every_subset() -> None:
    world = nature()
    everything = relabelled(world, 3)
    index = torch.tensor([7, 100, 3])
    some = relabelled(world, 3, index)
    assert torch.equal(some.y, everything.y[index])
    assert torch.equal(some.x, world.images[index])
    assert some.log_bayes is not None
    assert torch.equal(some.log_bayes, world.log_rows[index])
    assert everything.x.data_ptr() == world.images.data_ptr()
    assert not torch.equal(relabelled(world, 4).y, everything.y)


def test_calibration_holds_for_resampled_labels_and_for_nothing_else() -> None:
    """20,000 images; 1 score in 31 beyond 5 has a false alarm of 2e-5."""
    world = nature(20_000, 3)
    source = relabelled(world, 0)
    assert worst(source) < 5
    assert source.log_bayes is not None
    for factor in (0.9, 1.1):
        wrong = world._separated(factor).log_rows
        assert float(calibration_z(source.x.double(), source.y, wrong).abs().max()) > 5
    best_guess = world.log_rows.argmax(-1)
    assert float(calibration_z(source.x.double(), best_guess, source.log_bayes).abs().max()) > 20


# -------------------------------------------------------------------------------------------------------------- splits


def test_the_images_are_divided_between_training_and_fresh_points() -> None:
    world = nature()
    train, fresh = train_and_fresh(world, 60, 5)
    assert (len(train), len(fresh)) == (60, 140)
    together = torch.cat([train.x, fresh.x]).flatten(1).tolist()
    assert sorted(together) == sorted(world.images.flatten(1).tolist())
    again, _ = train_and_fresh(world, 60, 5)
    assert torch.equal(again.x, train.x)
    assert torch.equal(again.y, train.y)
    assert not torch.equal(train_and_fresh(world, 60, 6)[0].x, train.x)
    for count in (0, 200):
        with pytest.raises(ValueError, match=rf"count must lie in 1\.\.199, received {count}"):
            train_and_fresh(world, count, 5)


def test_distances_of_the_parts_make_the_distance_of_the_whole() -> None:
    world = nature()
    guess = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    whole = distance(lambda x: guess.expand(len(x), 3), world, 2, 0, decompose=False)
    assert whole["mse"].method == "exact"
    lean = distance_of_probabilities(guess.expand(200, 3), world.log_rows, weights=world.weights, decompose=False)
    total = 0.0
    for part in train_and_fresh(world, 60, 5):
        assert part.log_bayes is not None
        rows = guess.expand(len(part), 3)
        equal = torch.full((len(part),), 1 / len(part))
        found = distance_of_probabilities(rows, part.log_bayes, weights=equal, decompose=False)
        total += len(part) / 200 * found["mse"].value
    assert lean["mse"].value == pytest.approx(whole["mse"].value, abs=1e-14)
    assert total == pytest.approx(whole["mse"].value, abs=1e-7)


def test_no_augmentation_keeps_this_p() -> None:
    world = FrozenNature(pictures(10, 3, 8, 8), torch.randn(10, 2))
    assert world.symmetries == frozenset()
    source = relabelled(world, 0)
    with pytest.raises(ValueError, match=r"augment='crop-flip' would change p\*\(x\)"):
        InMemory(source.x, source.y, num_classes=2, log_bayes=source.log_bayes, augment="crop-flip")


# --------------------------------------------------------------------------------------------- description and refusals


def test_what_the_network_was_travels_with_the_spec() -> None:
    described = FrozenNature(
        pictures(4, 2), torch.randn(4, 3), 0.7, {"net": "resnet8", "accuracy": 0.71, "epochs": (1, 2)}
    )
    spec = json.loads(json.dumps(described.spec()))
    assert spec.pop("kind") == "frozen_nature"
    again = FrozenNature(**spec)
    assert again.description == {"net": "resnet8", "accuracy": 0.71, "epochs": [1, 2]}
    assert again.images.dtype == torch.uint8
    assert torch.equal(again.log_rows, described.log_rows)
    assert described.tuned(0.3).description == again.description
    with pytest.raises(ValueError, match="description must be a mapping of JSON-able values"):
        FrozenNature(pictures(4, 2), torch.randn(4, 3), description={"net": nn.Linear(1, 1)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": torch.zeros(3)}, r"images must have shape \(n, \.\.\.\)"),
        ({"images": [[0, 256]] * 3}, r"images of whole numbers must lie in 0\.\.255, received values in 0\.\.256"),
        ({"images": torch.zeros(3, 2, dtype=torch.bool)}, "images must be uint8, float32 or float64"),
        ({"images": [[0.0, float("nan")]] * 3}, "images must be finite"),
        ({"logits": torch.zeros(2, 4)}, r"logits must have shape \(3, K\), K >= 2, received \(2, 4\)"),
        ({"logits": torch.zeros(3, 1)}, r"logits must have shape \(3, K\), K >= 2"),
        ({"logits": torch.full((3, 2), torch.inf)}, "logits must be finite"),
        ({"temperature": 0.0}, r"temperature must lie in \(0, inf\], received 0\.0"),
        ({"temperature": float("nan")}, r"temperature must lie in \(0, inf\], received nan"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrozenNature(**{"images": pictures(3, 2), "logits": torch.zeros(3, 4), **arguments})  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- our own frozen nets


def frozen_net(images: Images, name: str, normalisation: str, rate: float, epochs: int, batch: int) -> FrozenNature:
    """A network trained by the trainer on the images' own labels, then frozen."""
    own = InMemory(images.x, images.y, num_classes=images.num_classes, normalise=NORMALISATION[normalisation])
    net = build(name, num_classes=own.num_classes, input_shape=own.shape, seed=0)
    fitted = fit(net, own, Supervised("ce"), Recipe(epochs=epochs, learning_rate=rate, batch_size=batch), seed=0)
    logits = log_probabilities(fitted.network(), own)
    accuracy = float((logits.argmax(-1) == images.y).double().mean())
    return FrozenNature(images.x, logits, description={"net": name, "epochs": epochs, "train_accuracy": accuracy})


def check_frozen(world: FrozenNature, original: Tensor, draws: int) -> None:
    """Tuned exactly; resampled labels are calibrated; the images' own labels and a temperature 10 % off are not.

    So many draws of the labels that the wrong temperature shows; 5 is a false alarm in 2e-4 of all cases.
    """
    some_pixels = world.images.flatten(1)[:, ::61].double()

    def score(labelled: FrozenNature, told: FrozenNature) -> float:
        y = torch.cat([labelled.labels(seed) for seed in range(draws)])
        return float(calibration_z(some_pixels.repeat(draws, 1), y, told.log_rows.repeat(draws, 1)).abs().max())

    for target in (0.1, 0.2):
        tuned = world.tuned(target)
        assert tuned.bayes_error().value == pytest.approx(target, abs=1e-6)
        assert score(tuned, tuned) < 5
        assert float(calibration_z(some_pixels, original, tuned.log_rows).abs().max()) > 5
        for factor in (0.9, 1.1):
            assert score(tuned._separated(factor), tuned) > 5


def test_digits_labelled_by_our_own_network() -> None:
    images = digits("train")
    world = frozen_net(images, "resnet8", "digits", 0.05, 1, 128)
    assert world.description["train_accuracy"] > 0.3
    check_frozen(world, images.y, draws=40)


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR, reason="CIFAR-10 is not here: no cifar-10-batches-bin below BCPD_DATA or ../shared/data")
def test_cifar_labelled_by_our_own_network() -> None:
    images = read_cifar(CIFAR[0], "cifar10", "train")
    some = Images(images.x[:4000], images.y[:4000], 10)
    world = frozen_net(some, "resnet8", "cifar10", 0.1, 4, 64)
    assert world.description["train_accuracy"] > 0.3
    check_frozen(world, some.y, draws=15)
