"""Fresh samples every epoch: pure functions of seed and epoch, exact p*, and a training that need not know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bcpd
from bcpd.data import Batch, FreshSamples, InMemory
from bcpd.distill import Supervised
from bcpd.mixtures import GaussianMixture, calibration_z, paper_toy
from bcpd.nets import Views, build
from bcpd.seeds import derive
from bcpd.train import Fitted, Progress, Recipe

N, K, D = 60, 3, 4
COLUMNS = ("x", "y", "index", "log_bayes")


def mixture() -> GaussianMixture:
    return paper_toy(K, D, variance=2.0)


def source(seeds: Any = 0, n: int = N, **options: Any) -> FreshSamples:
    return FreshSamples(mixture(), n, seeds, dtype=torch.float64, **options)


def same(left: Batch, right: Batch) -> bool:
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in COLUMNS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_epoch_is_a_draw_of_its_own_seed_and_the_base_one_is_none_of_them() -> None:
    fresh, index = source(7), torch.arange(N)
    base = InMemory.from_mixture(mixture(), N, 7, dtype=torch.float64)
    assert same(fresh.batch(index), base.batch(index))
    assert torch.equal(fresh.inputs(index), base.x)
    for epoch in (0, 3, 1, 0):
        drawn = InMemory.from_mixture(mixture(), N, derive(7, "fresh", epoch), dtype=torch.float64)
        assert same(fresh.batch(index[5:9], seed=epoch, epoch=epoch), drawn.batch(index[5:9]))
    everything = torch.cat([fresh.batch(index).x, *(fresh.batch(index, epoch=epoch).x for epoch in range(5))])
    assert len(everything.unique(dim=0)) == 6 * N
    assert not torch.equal(source(8).batch(index, epoch=0).x, fresh.batch(index, epoch=0).x)
    with pytest.raises(ValueError, match="epoch must be >= 0, received -1"):
        fresh.batch(index, epoch=-1)


def test_the_draws_of_many_epochs_are_calibrated() -> None:
    fresh = source(n=4000)
    batches = [fresh.batch(torch.arange(4000), epoch=epoch) for epoch in range(5)]
    x, y, log_bayes = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("x", "y", "log_bayes"))
    # 40 scores: a false alarm of 2e-5
    assert float(calibration_z(x, y, log_bayes).abs().max()) < 5
    # rows of the base draw beside fresh x would be another's
    assert fresh.log_bayes is not None
    assert float(calibration_z(x, y, fresh.log_bayes.repeat(5, 1)).abs().max()) > 20


def test_an_epoch_is_drawn_once_and_p_star_only_where_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, bool]] = []
    posteriors: list[int] = []
    fresh = source()
    bare = fresh.without_bayes()
    posterior, stream = GaussianMixture.log_posterior, GaussianMixture.stream

    def counted(self: GaussianMixture, x: Any, **options: Any) -> Tensor:
        posteriors.append(len(x))
        return posterior(self, x, **options)

    def streamed(self: GaussianMixture, n: int, seed: int, **options: Any) -> Any:
        drawn.append((n, bool(posteriors)))
        return stream(self, n, seed, **options)

    monkeypatch.setattr(GaussianMixture, "log_posterior", counted)
    monkeypatch.setattr(GaussianMixture, "stream", streamed)
    for start in range(0, N, 10):
        assert bare.batch(torch.arange(start, start + 10), epoch=2).log_bayes is None
    assert (len(drawn), posteriors) == (1, [])
    for start in range(0, N, 10):
        assert fresh.batch(torch.arange(start, start + 10), epoch=2).log_bayes is not None
    assert (len(drawn), posteriors) == (2, [N])
    assert torch.equal(fresh.batch(torch.arange(N), epoch=2).x, bare.batch(torch.arange(N), epoch=2).x)
    assert len(drawn) == 2


def test_replicas_are_the_single_draws_of_their_seeds() -> None:
    fresh, index = source([3, 8]), torch.arange(0, N, 2)
    assert (fresh.replicas, len(fresh)) == (2, N)
    for epoch in (None, 0, 4):
        batch = fresh.batch(index, epoch=epoch)
        for replica, seed in enumerate([3, 8]):
            single = source(seed).batch(index, epoch=epoch)
            for name in COLUMNS:
                assert torch.equal(getattr(batch, name)[replica], getattr(single, name)), name
    assert same(
        FreshSamples.from_mixture(mixture(), N, [3, 8], dtype=torch.float64).batch(index, epoch=1),
        fresh.batch(index, epoch=1),
    )


def test_a_subset_is_the_same_positions_of_every_draw() -> None:
    fresh, first, second = source(), torch.arange(5, 50, 2), torch.tensor([3, 0, 11])
    part = fresh.subset(first).subset(second)
    assert len(part) == 3
    for epoch in (None, 0, 2):
        whole = fresh.batch(first[second], epoch=epoch)
        batch = part.batch(torch.arange(3), epoch=epoch)
        assert all(torch.equal(getattr(batch, name), getattr(whole, name)) for name in ("x", "y", "log_bayes"))
    rows = torch.stack([first, first.flip(0)])
    apart = fresh.subset(rows)
    assert apart.replicas == 2
    assert torch.equal(apart.batch(torch.arange(4), epoch=1).x[1], fresh.batch(rows[1, :4], epoch=1).x)
    moved = part.to("cpu").batch(torch.arange(3), epoch=2)
    assert torch.equal(moved.x, part.batch(torch.arange(3), epoch=2).x)


def test_the_fingerprint_tells_draws_apart_that_share_a_base() -> None:
    fresh = source()
    whole = torch.arange(N)
    others = [
        InMemory.from_mixture(mixture(), N, 0, dtype=torch.float64),
        fresh,
        source(1),
        source(n=N + 1),
        source(n=N + 1).subset(whole),  # the same base, other draws are cut
        fresh.subset(whole),
        fresh.subset(whole.flip(0)).subset(whole.flip(0)),
        fresh.without_bayes(),
    ]
    assert len({other.fingerprint() for other in others}) == len(others)
    assert fresh.fingerprint() == source().fingerprint()
    before = fresh.fingerprint()
    fresh.batch(whole, epoch=3)
    assert fresh.fingerprint() == before


def test_rows_to_learn_from_are_refused() -> None:
    with pytest.raises(ValueError, match="targets belong to the x they were made for, but fresh samples are others"):
        source().with_targets(torch.full((N, K), 1 / K))
    assert source().with_targets(None).targets is None
    with pytest.raises(ValueError, match="seeds must be an int or a non-empty sequence"):
        source([])


class Pictures:
    """The toy's vectors as images of one channel, which an even law of the columns would let flip."""

    num_classes, shape = K, (1, 2, 2)

    def __init__(self) -> None:
        means = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
        self.flat, self.symmetries = GaussianMixture(means, 1.0), frozenset({"flip"})

    def stream(self, n: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        return ((x.reshape(-1, 1, 2, 2), y) for x, y in self.flat.stream(n, seed))

    def log_posterior(self, x: Tensor) -> Tensor:
        return self.flat.log_posterior(x.flatten(-3))


def test_draws_are_augmented_by_what_the_mixture_declares_or_recomputes() -> None:
    law: Any = Pictures()
    index = torch.arange(N)
    flipped = FreshSamples(law, N, 0, augment="flip", dtype=torch.float64)
    batch, plain = (
        flipped.batch(index, seed=5, epoch=1),
        FreshSamples(law, N, 0, dtype=torch.float64).batch(index, epoch=1),
    )
    views = batch.extra["view"].bool()
    assert 0 < int(views.sum()) < N
    assert torch.equal(batch.x, torch.where(views[:, None, None, None], plain.x.flip(-1), plain.x))
    torch.testing.assert_close(batch.log_bayes, law.log_posterior(batch.x), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"augment='crop-flip' would change p\*\(x\)"):
        FreshSamples(law, N, 0, augment="crop-flip")
    cropped = FreshSamples(law, N, 0, augment="crop-flip", recompute=True, dtype=torch.float64).batch(index, epoch=1)
    torch.testing.assert_close(cropped.log_bayes, law.log_posterior(cropped.x), rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------------ by the trainer

RECIPE = Recipe(epochs=4, learning_rate=0.1, batch_size=16, validation=0.25)


class Stop(Exception):
    """Raised to interrupt a training."""


class Watched(Supervised):
    """Notes every batch."""

    def __init__(self, **options: Any) -> None:
        super().__init__("ce", **options)
        self._seen: list[Batch] = []

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        self._seen.append(batch)
        return super().loss(batch, s, t)


def train(given: InMemory, seed: Any = 0, method: Supervised | None = None, **options: Any) -> Fitted:
    net = build("mlp", num_classes=K, input_shape=(D,), seed=seed, hidden=(8,)).double()
    return bcpd.fit(net, given, method or Supervised("ce"), RECIPE, seed=seed, **options)


def test_a_training_sees_the_draw_of_its_epoch_and_is_measured_on_the_base_one() -> None:
    fresh, method = source(), Watched(target="bayes")
    fitted = train(fresh, method=method)
    steps = len(method._seen) // 4
    for number, batch in enumerate(method._seen):
        assert same(batch, source().batch(batch.index, epoch=number // steps))
    net = fitted.network("last")
    base = fresh.batch(torch.arange(N))
    held = torch.ones(N, dtype=torch.bool)
    held[torch.cat([batch.index for batch in method._seen])] = False
    assert int(held.sum()) == 15
    assert base.bayes is not None
    with torch.no_grad():
        gap = net(base.x).logits.softmax(-1) - base.bayes
    assert fitted.history[-1]["transfer_mse"][0] == pytest.approx(float(gap[~held].square().sum(-1).mean()), abs=1e-12)
    right = (net(base.x).logits.argmax(-1) == base.y)[held].double().mean()
    assert fitted.history[-1]["validation_accuracy"] == [float(right)]


def test_a_replica_is_the_single_training_on_the_draws_of_its_seed() -> None:
    both = train(source([3, 8]), seed=[3, 8])
    for replica, seed in enumerate([3, 8]):
        alone = train(source(seed), seed=seed)
        for name, value in alone.states["last"].items():
            torch.testing.assert_close(both.states["last"][name][replica], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_training_goes_on_to_the_same_bits(stop: int, tmp_path: Path) -> None:
    def watch(report: Progress) -> None:
        if report.epoch == stop:
            raise Stop

    whole = train(source())
    with pytest.raises(Stop):
        train(source(), folder=tmp_path, save_seconds=0, progress=watch)
    resumed = train(source(), folder=tmp_path)
    assert resumed.history == whole.history
    for checkpoint, state in whole.states.items():
        assert all(torch.equal(resumed.states[checkpoint][name], value) for name, value in state.items())
    with pytest.raises(ValueError, match="another run"):
        train(source(1), folder=tmp_path)


@pytest.mark.slow
def test_fresh_samples_leave_nothing_to_remember() -> None:
    """120 epochs of a wide network on 60 points: on the same ones it remembers labels, on fresh ones it cannot."""
    recipe = Recipe(epochs=120, learning_rate=0.2, batch_size=20, validation=0.0)
    gaps = {}
    for given in (source(), InMemory.from_mixture(mixture(), N, 0, dtype=torch.float64)):
        net = build("mlp", num_classes=K, input_shape=(D,), hidden=(64,)).double()
        row = bcpd.fit(net, given, Supervised("ce"), recipe, seed=0).history[-1]
        gaps[type(given)] = row["transfer_mse"][0]
    assert gaps[FreshSamples] < gaps[InMemory] / 5
