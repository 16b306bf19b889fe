"""The in-memory source: what a batch holds, and what is refused."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bcpd.data import InMemory, Normalisation, crop_flip, cyclic_shift, flip, view_numbers
from bcpd.mixtures import BernoulliMixture, ShiftedTemplates, calibration_z
from bcpd.seeds import generator

N, R, K, D = 40, 3, 5, 4


def vectors(*leading: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x ``(*leading, D)``, labels and exact-looking log posteriors."""
    stream = torch.Generator().manual_seed(seed)
    x = torch.randn(*leading, D, generator=stream, dtype=torch.float64)
    y = torch.randint(0, K, leading, generator=stream)
    log_bayes = torch.randn(*leading, K, generator=stream, dtype=torch.float64).log_softmax(-1)
    return x, y, log_bayes


def pictures(n: int = N) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return (
        torch.randint(0, 256, (n, 3, 10, 12), generator=stream, dtype=torch.uint8),
        torch.randint(0, K, (n,), generator=stream),
    )


class Line:
    """A stand-in for a mixture: p* moves by more than 1e-3 when x is rounded to float32."""

    num_classes = 2
    shape = (1,)
    symmetries = frozenset({"crop-flip"})

    def stream(self, n: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        source = generator(seed, "data")
        for start in range(0, n, 7):
            size = min(7, n - start)
            x = torch.rand(size, 1, generator=source, dtype=torch.float64)
            yield x, torch.randint(0, 2, (size,), generator=source)

    def log_posterior(self, x: Tensor) -> Tensor:
        return torch.cat([1e6 * x, -1e6 * x], -1).sin().log_softmax(-1)


def shifted_templates() -> ShiftedTemplates:
    """A template of each class under a random cyclic shift, in noise."""
    return ShiftedTemplates(torch.randn(3, 1, 4, 4, generator=generator(0, "templates"), dtype=torch.float64), 0.8)


def binary_images(symmetric: bool = False) -> BernoulliMixture:
    """Three by three pixels, of which everything can be enumerated; perhaps with the same law under a flip."""
    theta = 0.05 + 0.9 * torch.rand(2, 1, 3, 3, generator=generator(0, "theta"), dtype=torch.float64)
    return BernoulliMixture((theta + theta.flip(-1)) / 2 if symmetric else theta)


def test_a_batch_holds_the_rows_at_its_index() -> None:
    x, y, log_bayes = vectors(N)
    labelled = torch.arange(N) % 3 == 0
    source = InMemory(x, y, num_classes=K, log_bayes=log_bayes, labelled=labelled, dtype=torch.float64)
    index = torch.tensor([7, 0, 39, 7])
    batch = source.batch(index)
    assert (len(source), source.shape, source.replicas, source.num_classes) == (N, (D,), None, K)
    assert torch.equal(batch.x, x[index])
    assert torch.equal(batch.y, y[index])
    assert torch.equal(batch.index, index)
    assert batch.log_bayes is not None
    assert batch.bayes is not None
    assert batch.labelled is not None
    assert torch.equal(batch.log_bayes, log_bayes[index])
    assert torch.equal(batch.bayes, log_bayes[index].exp())
    assert batch.log_bayes.dtype == torch.float64
    assert torch.equal(batch.labelled, labelled[index])
    assert dict(batch.extra) == {}


def test_without_bayes_and_mask_a_batch_has_neither() -> None:
    x, y, _ = vectors(N)
    batch = InMemory(x, y, num_classes=K).batch(torch.arange(3))
    assert (batch.bayes, batch.log_bayes, batch.labelled) == (None, None, None)
    assert batch.x.dtype == torch.float32


def test_replicas_gather_their_own_rows() -> None:
    x, y, log_bayes = vectors(R, N)
    source = InMemory(x, y, num_classes=K, log_bayes=log_bayes, labelled=y > 1, dtype=torch.float64)
    index = torch.stack([torch.randperm(N, generator=torch.Generator().manual_seed(r))[:6] for r in range(R)])
    batch = source.batch(index)
    assert (len(source), source.shape, source.replicas) == (N, (D,), R)
    for r in range(R):
        alone = InMemory(x[r], y[r], num_classes=K, log_bayes=log_bayes[r], labelled=y[r] > 1, dtype=torch.float64)
        single = alone.batch(index[r])
        for name in ("x", "y", "index", "log_bayes", "labelled"):
            assert torch.equal(getattr(batch, name)[r], getattr(single, name)), name
    shared = source.batch(index[0])
    assert torch.equal(shared.x, x[:, index[0]])
    assert torch.equal(shared.index, index[:1].expand(R, -1))


def test_replicas_can_walk_one_shared_set_in_their_own_orders() -> None:
    x, y = pictures()
    source = InMemory(x, y, num_classes=K, augment="crop-flip")
    index = torch.stack([torch.arange(5), torch.arange(30, 35)])
    batch = source.batch(index, seed=[3, 4], epoch=2)
    assert batch.x.shape == (2, 5, 3, 10, 12)
    for r, seed in enumerate([3, 4]):
        single = source.batch(index[r], seed=seed, epoch=2)
        assert torch.equal(batch.x[r], single.x)
        assert torch.equal(batch.extra["view"][r], single.extra["view"])


def test_bytes_are_scaled_and_normalised_in_that_order() -> None:
    x, y = pictures()
    moments = Normalisation((0.5, 0.25, 0.1), (0.2, 0.3, 0.4))
    index = torch.tensor([3, 1])
    plain = InMemory(x, y, num_classes=K, dtype=torch.float64)
    normalised = InMemory(x, y, num_classes=K, normalise=moments, dtype=torch.float64)
    floating = InMemory(x.double() / 255, y, num_classes=K, normalise=moments, dtype=torch.float64)
    assert normalised.x.dtype == torch.uint8
    unit = x[index].double() / 255
    expected = (unit - torch.tensor(moments.mean).double()[:, None, None]) / torch.tensor(moments.std)[:, None, None]
    torch.testing.assert_close(plain.batch(index).x, unit, rtol=0, atol=1e-15)
    torch.testing.assert_close(normalised.batch(index).x, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(normalised.batch(index).x, floating.batch(index).x, rtol=0, atol=1e-13)


def test_augmentation_pads_with_black_before_normalisation() -> None:
    x, y = pictures()
    moments = Normalisation((0.5, 0.25, 0.1), (0.2, 0.3, 0.4))
    source = InMemory(x, y, num_classes=K, augment="crop-flip", normalise=moments)
    index = torch.arange(N)
    batch = source.batch(index, seed=6, epoch=1)
    views = view_numbers(6, 1, index)
    assert torch.equal(batch.extra["view"], views)
    by_hand = InMemory(crop_flip(x, views), y, num_classes=K, normalise=moments)
    assert torch.equal(batch.x, by_hand.batch(index).x)
    corner = batch.x[(views // 18 == 0), :, 0, 0]  # dy = 0: the first row is padding
    black = torch.tensor([-0.5 / 0.2, -0.25 / 0.3, -0.1 / 0.4])
    assert len(corner) > 0
    torch.testing.assert_close(corner, black.expand_as(corner))


def test_augmentation_follows_seed_epoch_and_index_only() -> None:
    x, y = pictures()
    source = InMemory(x, y, num_classes=K, augment="crop-flip")
    whole = source.batch(torch.arange(N), seed=1, epoch=4).x
    index = torch.tensor([8, 31, 2])
    assert torch.equal(source.batch(index, seed=1, epoch=4).x, whole[index])
    assert not torch.equal(source.batch(index, seed=1, epoch=5).x, whole[index])
    assert not torch.equal(source.batch(index, seed=2, epoch=4).x, whole[index])
    assert torch.equal(source.batch(index, seed=1).x, InMemory(x, y, num_classes=K).batch(index).x)
    given = source.batch(index, views=torch.tensor([5, 6, 161]))
    assert torch.equal(given.x, crop_flip(x[index], torch.tensor([5, 6, 161])).float() / 255)
    assert given.extra["view"].tolist() == [5, 6, 161]


def test_augmentation_where_bayes_is_known_needs_a_declared_symmetry() -> None:
    x, y = pictures()
    log_bayes = torch.zeros(N, K, dtype=torch.float64).log_softmax(-1)
    with pytest.raises(ValueError, match=r"augment='crop-flip' would change p\*\(x\).*declared symmetries: none"):
        InMemory(x, y, num_classes=K, log_bayes=log_bayes, augment="crop-flip")
    source = InMemory(x, y, num_classes=K, log_bayes=log_bayes, augment="crop-flip", symmetries={"crop-flip"})
    assert source.batch(torch.arange(2), epoch=0).log_bayes is not None


@pytest.mark.parametrize(("name", "count", "function"), [("cyclic-shift", 120, cyclic_shift), ("flip", 2, flip)])
def test_views_of_every_augmentation_can_be_tabulated(name: Any, count: int, function: Any) -> None:
    x, y = pictures()
    source = InMemory(x, y, num_classes=K, augment=name)
    assert (source.num_views, InMemory(x, y, num_classes=K).num_views) == (count, 1)
    index = torch.arange(N)
    batch = source.batch(index, seed=3, epoch=5)
    assert torch.equal(batch.extra["view"], view_numbers(3, 5, index, count))
    assert torch.equal(batch.x, function(x, batch.extra["view"]).float() / 255)
    table = torch.stack([source.batch(index, views=torch.full((N,), view)).x for view in range(count)])
    assert torch.equal(batch.x, table[batch.extra["view"], index])
    with pytest.raises(ValueError, match=rf"views must lie in 0\.\.{count - 1}, received"):
        source.batch(index, views=torch.full((N,), count))


def test_a_declared_symmetry_keeps_the_rows_which_are_p_star_of_the_shown_x() -> None:
    mixture: Any = shifted_templates()
    source = InMemory.from_mixture(mixture, 20_000, 3, augment="cyclic-shift", dtype=torch.float64)
    batch = source.batch(torch.arange(20_000), seed=1, epoch=0)
    assert batch.log_bayes is not None
    assert torch.equal(batch.log_bayes, source.log_bayes)
    assert float((batch.x != source.x).flatten(1).any(1).double().mean()) > 0.9
    torch.testing.assert_close(batch.log_bayes, mixture.log_posterior(batch.x), rtol=0, atol=1e-9)
    # 60 scores: a false alarm of 3e-5
    assert float(calibration_z(batch.x, batch.y, batch.log_bayes).abs().max()) < 5
    with pytest.raises(ValueError, match=r"augment='flip' would change .*declared symmetries: \['cyclic-shift'\]; use"):
        InMemory.from_mixture(mixture, 20, 3, augment="flip")


@pytest.mark.parametrize("world", ["bernoulli", "templates"])
def test_crop_and_pad_break_the_calibration_of_recomputed_rows(world: str) -> None:
    """The labels beside a shown x were drawn at the original; what the law says at the shown x is not their law."""
    mixture: Any = shifted_templates()
    if world == "bernoulli":
        mixture = BernoulliMixture(0.05 + 0.9 * torch.rand(3, 1, 8, 8, generator=generator(0, "theta")).double())
    source = InMemory.from_mixture(mixture, 5_000, 3, augment="crop-flip", recompute=True, dtype=torch.float64)
    index = torch.arange(5_000)
    shown, still = source.batch(index, seed=1, epoch=0), source.batch(index)
    assert shown.log_bayes is not None
    assert still.log_bayes is not None
    torch.testing.assert_close(shown.log_bayes, mixture.log_posterior(shown.x), rtol=0, atol=1e-12)
    assert torch.equal(still.log_bayes, source.log_bayes)
    # 60 scores or so: a false alarm of 3e-5
    assert float(calibration_z(still.x, still.y, still.log_bayes).abs().max()) < 5
    assert float(calibration_z(shown.x, shown.y, shown.log_bayes).abs().max()) > 30
    # the original's rows know more than the shown x does: calibrated for the labels, and no function of what is shown
    assert float(calibration_z(shown.x, shown.y, still.log_bayes).abs().max()) < 5


def test_neither_kept_nor_recomputed_rows_are_p_star_of_a_crop() -> None:
    r"""Exactly, over all images and views: :math:`E\|q - P(y | shown)\|^2`, which is 0 for a declared symmetry."""

    def distances(mixture: BernoulliMixture, augment: Any) -> tuple[float, float]:
        points, weights = mixture.support() or (torch.empty(0), torch.empty(0))
        count = InMemory(points, torch.zeros(512).long(), num_classes=2, augment=augment).num_views
        originals = points.repeat_interleave(count, 0)
        shown = {"crop-flip": crop_flip, "flip": flip}[augment](originals, torch.arange(count).repeat(512))
        mass = weights.repeat_interleave(count) / count
        kept = mixture.posterior(originals)
        code = (shown.flatten(1) @ 2.0 ** torch.arange(9, dtype=torch.float64)).long()
        joint = torch.zeros(512, 2, dtype=torch.float64).index_add_(0, code, mass[:, None] * kept)
        truth = (joint / joint.sum(1, keepdim=True).clamp(min=1e-300))[code]
        gaps = (kept - truth, mixture.posterior(shown) - truth)
        return tuple(float(mass @ gap.square().sum(1)) for gap in gaps)  # type: ignore[return-value]

    assert min(distances(binary_images(), "crop-flip")) > 0.05
    assert min(distances(binary_images(), "flip")) > 0.01
    assert max(distances(binary_images(symmetric=True), "flip")) < 1e-24
    assert min(distances(binary_images(symmetric=True), "crop-flip")) > 0.05


def test_rows_are_recomputed_for_the_shown_x_only() -> None:
    calls: list[Tensor] = []

    def law(x: Tensor) -> Tensor:
        calls.append(x)
        return (x.flatten(1)[:, :K] * 3).log_softmax(-1)

    x, y = pictures()
    known = law(x.double() / 255)
    moments = Normalisation((0.5, 0.25, 0.1), (0.2, 0.3, 0.4))
    options: dict[str, Any] = {"num_classes": K, "log_bayes": known, "augment": "crop-flip", "normalise": moments}
    source = InMemory(x, y, recompute=law, **options)
    index = torch.tensor([3, 30, 8])
    calls.clear()
    assert torch.equal(source.batch(index).log_bayes, known[index])  # type: ignore[arg-type]
    assert source.without_bayes().batch(index, epoch=0).log_bayes is None
    assert source.without_bayes().with_targets(None).log_bayes is None
    assert not calls
    batch = source.batch(index, seed=2, epoch=1)
    shown = crop_flip(x[index], batch.extra["view"]).double() / 255
    assert torch.equal(calls[-1], shown)
    assert torch.equal(batch.log_bayes, law(shown))  # type: ignore[arg-type]
    rows = InMemory(
        x.reshape(2, 20, 3, 10, 12), y.reshape(2, 20), recompute=law, **options | {"log_bayes": known.reshape(2, 20, K)}
    )
    both = rows.batch(torch.tensor([3, 8]), seed=[0, 1], epoch=1)
    assert torch.equal(
        both.log_bayes[1], rows.subset(torch.arange(20)).batch(torch.tensor([3, 8]), seed=[0, 1], epoch=1).log_bayes[1]
    )  # type: ignore[index]
    assert both.log_bayes is not None
    assert torch.equal(both.log_bayes[0], source.batch(torch.tensor([3, 8]), views=both.extra["view"][0]).log_bayes)  # type: ignore[arg-type]
    other = InMemory(x, y, recompute=lambda x: 2 * law(x) - (2 * law(x)).logsumexp(-1, keepdim=True), **options)
    kept = InMemory(x, y, symmetries={"crop-flip"}, **options)
    assert len({source.fingerprint(), other.fingerprint(), kept.fingerprint()}) == 3
    assert source.fingerprint() == InMemory(x, y, recompute=law, **options).fingerprint()
    with pytest.raises(ValueError, match=r"recompute must return rows of shape \(3, 5\), received \(3, 4\)"):
        InMemory(x, y, recompute=lambda x: law(x)[:, 1:], **options).batch(index, epoch=0)
    with pytest.raises(ValueError, match=r"recompute needs an augmentation .* received augment=None and p\* known"):
        InMemory(x, y, recompute=law, **options | {"augment": None})
    with pytest.raises(ValueError, match=r"received augment='crop-flip' and p\* unknown"):
        InMemory(x, y, recompute=law, **options | {"log_bayes": None})


def test_subset_renumbers_and_keeps_every_column() -> None:
    x, y, log_bayes = vectors(N)
    source = InMemory(x, y, num_classes=K, log_bayes=log_bayes, labelled=y > 2, dtype=torch.float64)
    chosen = torch.tensor([9, 4, 30])
    batch = source.subset(chosen).batch(torch.tensor([2, 0]))
    for name in ("x", "y", "log_bayes", "labelled"):
        assert torch.equal(getattr(batch, name), getattr(source.batch(chosen[[2, 0]]), name)), name
    assert batch.index.tolist() == [2, 0]
    assert len(source) == N


def test_subset_with_a_row_a_replica() -> None:
    x, y, log_bayes = vectors(N)
    one = InMemory(x, y, num_classes=K, log_bayes=log_bayes, dtype=torch.float64)
    rows = torch.tensor([[0, 1, 2], [5, 4, 3]])
    folds = one.subset(rows)
    assert (folds.replicas, len(folds), folds.shape) == (2, 3, (D,))
    assert torch.equal(folds.x, x[rows])
    again = folds.subset(torch.tensor([[2], [0]]))
    assert torch.equal(again.x, x[torch.tensor([[2], [5]])])
    assert torch.equal(folds.subset(torch.tensor([1])).y, y[torch.tensor([[1], [4]])])


def test_from_mixture_keeps_exact_bayes_and_rounds_x_afterwards() -> None:
    mixture: Any = Line()
    source = InMemory.from_mixture(mixture, 20, 3)
    points = torch.cat([x for x, _ in mixture.stream(20, 3)])
    assert (source.replicas, len(source), source.shape, source.num_classes) == (None, 20, (1,), 2)
    assert source.symmetries == mixture.symmetries
    assert torch.equal(source.x, points.float())
    assert source.log_bayes is not None
    assert torch.equal(source.log_bayes, mixture.log_posterior(points))
    assert float((source.log_bayes - mixture.log_posterior(points.float().double())).abs().max()) > 1e-3
    assert InMemory.from_mixture(mixture, 20, 3, dtype=torch.float64).batch(torch.arange(2)).x.dtype == torch.float64


def test_from_mixture_replicas_are_the_single_draws_of_their_seeds() -> None:
    mixture: Any = Line()
    source = InMemory.from_mixture(mixture, 20, [3, 8])
    assert source.replicas == 2
    for r, seed in enumerate([3, 8]):
        single = InMemory.from_mixture(mixture, 20, seed)
        for name in ("x", "y", "log_bayes"):
            assert torch.equal(getattr(source, name)[r], getattr(single, name)), name
    with pytest.raises(ValueError, match="seeds must be an int or a non-empty sequence"):
        InMemory.from_mixture(mixture, 20, [])


def test_from_mixture_augments_only_by_a_declared_symmetry() -> None:
    class Picture(Line):
        shape = (1, 4, 4)  # type: ignore[assignment]

        def stream(self, n: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
            for x, y in super().stream(n, seed):
                yield x[:, :, None, None].expand(-1, -1, 4, 4), y

        def log_posterior(self, x: Tensor) -> Tensor:
            return super().log_posterior(x[:, :, 0, 0])

    mixture: Any = Picture()
    source = InMemory.from_mixture(mixture, 20, 3, augment="crop-flip")
    assert "view" in source.batch(torch.arange(3), epoch=0).extra
    mixture.symmetries = frozenset({"flip"})
    with pytest.raises(ValueError, match=r"would change p\*\(x\).* declared symmetries: \['flip'\]"):
        InMemory.from_mixture(mixture, 20, 3, augment="crop-flip")


def test_fingerprint_follows_contents_and_nothing_else() -> None:
    x, y, log_bayes = vectors(N)
    base = InMemory(x, y, num_classes=K, log_bayes=log_bayes)
    same = InMemory(x.T.contiguous().T, y.to(torch.int32), num_classes=K, log_bayes=log_bayes.numpy())
    assert base.fingerprint() == same.fingerprint() == base.to("cpu").fingerprint()
    nudged_x, nudged_y, nudged_bayes = x.clone(), y.clone(), log_bayes.clone()
    nudged_x[3, 1] += 1e-3
    nudged_y[0] = (nudged_y[0] + 1) % K
    nudged_bayes[2] = nudged_bayes[2].flip(0)
    others = [
        InMemory(nudged_x, y, num_classes=K, log_bayes=log_bayes),
        InMemory(x, nudged_y, num_classes=K, log_bayes=log_bayes),
        InMemory(x, y, num_classes=K, log_bayes=nudged_bayes),
        InMemory(x, y, num_classes=K),
        InMemory(x, y, num_classes=K, log_bayes=log_bayes, labelled=y > 0),
        InMemory(x, y, num_classes=K, log_bayes=log_bayes, dtype=torch.float64),
        InMemory(x, y, num_classes=K, log_bayes=log_bayes, normalise=Normalisation((0.0,) * D, (1.0,) * D)),
        InMemory(x, y, num_classes=K + 1),
        base.subset(torch.arange(1, N)),
    ]
    colour, labels = pictures()
    names: list[Any] = [None, "crop-flip", "cyclic-shift", "flip"]
    others += [InMemory(colour, labels, num_classes=K, augment=name) for name in names]
    assert len({base.fingerprint(), *(other.fingerprint() for other in others)}) == len(others) + 1


def test_arrays_are_copied_in() -> None:
    array, y = np.ones((4, 2)), np.zeros(4, dtype=np.int64)
    source = InMemory(array, y, num_classes=2)
    array[:], y[:] = 7, 1
    assert source.batch(torch.arange(4)).x.unique().tolist() == [1.0]
    assert source.batch(torch.arange(4)).y.unique().tolist() == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 1}, "num_classes must be an int >= 2, received 1"),
        ({"y": torch.full((N,), K)}, r"y must lie in 0\.\.4, received 5"),
        ({"y": torch.zeros(N)}, "y must be integers"),
        ({"y": torch.zeros(N - 1, dtype=torch.int64)}, r"share their leading axes .* received \(40, 4\) and \(39,\)"),
        ({"y": torch.zeros(N, D, 1, dtype=torch.int64)}, r"y must have shape \(N,\) or \(R, N\)"),
        (
            {"x": torch.zeros(N, D, dtype=torch.int64)},
            r"x must be uint8 or floating point, received dtype torch\.int64",
        ),
        ({"x": torch.full((N, D), torch.nan)}, "x must be finite, received nan or inf"),
        ({"x": torch.full((N, D), -torch.inf)}, "x must be finite"),
        ({"dtype": torch.int64}, r"dtype must be a floating-point type, received torch\.int64"),
        ({"log_bayes": torch.zeros(N, K + 1)}, r"log_bayes must have shape \(40, 5\), received \(40, 6\)"),
        ({"log_bayes": torch.full((N, K), 1 / K)}, "log_bayes must be log probabilities"),
        ({"log_bayes": torch.full((N, K), torch.nan)}, "log_bayes must be log probabilities"),
        ({"labelled": torch.ones(N)}, r"labelled must be bool of shape \(40,\), received torch\.float32"),
        ({"labelled": torch.ones(N - 1, dtype=torch.bool)}, r"labelled must be bool of shape \(40,\)"),
        ({"augment": "mixup"}, "augment must be None or one of .'crop-flip',.*received 'mixup'"),
        ({"augment": "crop-flip"}, r"crop-flip needs images of shape \(C, H, W\), received x of shape \(4,\)"),
        ({"normalise": Normalisation((0.5,), (0.5,))}, r"normalise has 1 channels, but x has the shape \(4,\)"),
    ],
)
def test_bad_contents_are_refused(change: dict[str, Any], message: str) -> None:
    x, y, _ = vectors(N)
    arguments: dict[str, Any] = {"x": x, "y": y, "num_classes": K, **change}
    with pytest.raises(ValueError, match=message):
        InMemory(**arguments)


def test_bad_indices_are_refused() -> None:
    x, y, _ = vectors(R, N)
    source = InMemory(x, y, num_classes=K)
    for index, message in [
        (torch.tensor([0, N]), r"index must lie in 0\.\.39, received values in 0\.\.40"),
        (torch.tensor([-1, 3]), r"received values in -1\.\.3"),
        (torch.tensor([0.0]), r"index must be int64 of shape \(B,\) or \(R, B\), received torch\.float32"),
        (torch.tensor(3), r"received torch\.int64 of shape \(\)"),
        (torch.zeros(R + 1, 2, dtype=torch.int64), r"index must have 3 rows, one a replica, received \(4, 2\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            source.batch(index)
    with pytest.raises(ValueError, match="a subset must not be empty"):
        source.subset(torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="views need a source with an augmentation and no epoch"):
        source.batch(torch.tensor([0]), views=torch.tensor([0]))


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5, 0.5), (0.5,)), ((), ()), ((0.5,), (0.0,)), ((float("nan"),), (1.0,)), ((0.0,), (-1.0,))]
)
def test_bad_normalisations_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"received \("):
        Normalisation(mean, std)


@pytest.mark.gpu
def test_batches_are_the_same_on_the_gpu() -> None:
    x, y = pictures()
    source = InMemory(x, y, num_classes=K, augment="crop-flip", normalise=Normalisation((0.5,) * 3, (0.2,) * 3))
    index = torch.arange(20)
    here, there = source.batch(index, epoch=1), source.to("cuda").batch(index, epoch=1)
    assert there.x.device.type == "cuda"
    torch.testing.assert_close(there.x.cpu(), here.x, rtol=0, atol=1e-6)
    assert torch.equal(there.extra["view"].cpu(), here.extra["view"])
    x, y, log_bayes = vectors(R, N)
    replicas = InMemory(x, y, num_classes=K, log_bayes=log_bayes)
    assert torch.equal(replicas.to("cuda").batch(index).x.cpu(), replicas.batch(index).x)
    assert replicas.to("cuda").fingerprint() == replicas.fingerprint()
