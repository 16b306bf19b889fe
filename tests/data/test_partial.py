"""Labels for a share of the images, or a share of the images: stratified, seeded, nested, and what training sees."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bcpd.data import Images, InMemory, few_shot, labelled_mask
from bcpd.distill import KD
from bcpd.nets import build
from bcpd.train import Recipe
from bcpd.train.split import split

Y = torch.arange(10).repeat(30)


@given(share=st.floats(0.05, 1.0), seed=st.integers(0, 2**31))
def test_every_class_keeps_its_share_of_labels(share: float, seed: int) -> None:
    mask = labelled_mask(Y, share, seed)
    assert mask.dtype == torch.bool
    assert int(mask.sum()) == max(1, round(share * 300))
    counts = Y[mask].bincount(minlength=10)
    assert int(counts.max() - counts.min()) <= 1


def test_smaller_shares_are_within_larger_ones() -> None:
    masks = [labelled_mask(Y, share, seed=3) for share in (0.1, 0.25, 0.55, 1.0)]
    assert all(bool((small <= large).all()) for small, large in pairwise(masks))
    assert bool(masks[-1].all())
    assert not torch.equal(masks[0], labelled_mask(Y, 0.1, seed=4))


def test_few_images_keep_their_order_names_and_superclasses() -> None:
    x = torch.arange(300, dtype=torch.int64).remainder(256).to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    whole = Images(x, Y, 10, tuple("0123456789"), coarse=Y // 5)
    few = few_shot(whole, 0.2, seed=0)
    assert len(few) == 60
    assert few.num_classes == 10
    assert few.class_names == whole.class_names
    assert few.coarse is not None
    assert torch.equal(few.coarse, few.y // 5)
    assert few.y.bincount().tolist() == [6] * 10
    kept = labelled_mask(Y, 0.2, seed=0)  # the same draw, in the order of the files
    assert torch.equal(few.x, x[kept])
    assert torch.equal(few_shot(whole, 1.0, seed=5).x, x)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=rf"share must lie in \(0, 1\], received {share}"):
        labelled_mask(Y, share, seed=0)


def test_a_share_that_empties_a_class_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves 8 of 10 classes without any labelled example"):
        labelled_mask(Y, 2 / 300, seed=0)
    with pytest.raises(ValueError, match="leaves 8 of 10 classes without any image"):
        few_shot(Images(torch.zeros(300, 1, 1, 1, dtype=torch.uint8), Y, 10), 2 / 300, seed=0)


def test_unlabelled_images_feed_the_teacher_s_term_only() -> None:
    """Another label on an unlabelled image changes nothing, on a labelled one it does; so for validation."""
    mask = labelled_mask(Y, 0.5, seed=0)
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    net = build("mlp", num_classes=10, input_shape=(4,), hidden=(8,), seed=0)
    teacher = build("mlp", num_classes=10, input_shape=(4,), hidden=(8,), seed=1)

    def loss(y: torch.Tensor, labelled: torch.Tensor) -> float:
        source = InMemory(x, y, num_classes=10, labelled=labelled)
        batch = source.batch(torch.arange(300))
        terms = KD().loss(batch, net(batch.x), teacher(batch.x))
        return torch.stack(list(terms.values())).sum().item()

    changed = torch.where(mask, Y, (Y + 1) % 10)
    assert loss(changed, mask) == loss(Y, mask)
    assert loss(torch.where(mask, (Y + 1) % 10, Y), mask) != loss(Y, mask)
    assert loss(changed, torch.ones_like(mask)) != loss(Y, torch.ones_like(mask))
    _, held = split(InMemory(x, Y, num_classes=10, labelled=mask), Recipe(1, 0.1).validation, [0], None)
    assert held is not None
    assert bool(mask[held].all())
