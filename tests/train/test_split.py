"""What is held back is never trained on; runs that share a seed share split, initialisation and order."""

from itertools import chain

import pytest
import torch
from small_world import Recorded, mlp, world

import bcpd
from bcpd.train import Recipe, validation_part
from bcpd.train.split import halves, replica_seeds, split

RECIPE = Recipe(epochs=3, learning_rate=0.1, batch_size=8, validation=0.25)


@pytest.mark.parametrize("other", ["mse", "focal", "logit_mse"])
def test_teachers_that_differ_in_the_loss_see_the_same_batches(other: str) -> None:
    shown = []
    for loss in ("ce", other):
        recorded = Recorded(loss)
        bcpd.fit(mlp(4), world(), recorded, RECIPE, seed=2)
        shown.append(recorded.indices())
    assert shown[0] == shown[1]
    recorded = Recorded("ce")
    bcpd.fit(mlp(4), world(), recorded, RECIPE, seed=3)
    assert recorded.indices() != shown[0]


def test_validation_never_appears_in_a_training_batch() -> None:
    source, recorded = world(), Recorded()
    bcpd.fit(mlp(), source, recorded, RECIPE, seed=2)
    train, validation = split(source, 0.25, [2], None)
    assert validation is not None
    assert (len(train), len(validation)) == (30, 10)
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(40))
    assert set(chain(*recorded.indices())) == set(train.tolist())


def test_the_validation_part_is_what_a_training_does_not_see() -> None:
    source, recorded = world(), Recorded()
    bcpd.fit(mlp(), source, recorded, RECIPE, seed=2)
    seen = source.x[list(set(chain(*recorded.indices())))]
    held = validation_part(source, 0.25, 2)
    assert len(held) == 10
    assert not (held.x[:, None] == seen).all(-1).any()
    _, index = split(source, 0.25, [2], None)
    assert index is not None
    assert torch.equal(held.inputs(torch.arange(10)), source.inputs(index))
    assert not torch.equal(held.x, validation_part(source, 0.25, 3).x)
    with pytest.raises(ValueError, match="holds nothing back"):
        validation_part(source, 0.0, 2)


def test_each_replica_has_its_own_split_by_its_own_seed() -> None:
    source, recorded = world(), Recorded()
    bcpd.fit(mlp([0, 1]), source, recorded, RECIPE, seed=[2, 5])
    train, validation = split(source, 0.25, [2, 5], 2)
    assert validation is not None
    for number, seed in enumerate((2, 5)):
        alone, held = split(source, 0.25, [seed], None)
        assert held is not None
        assert torch.equal(train[number], alone)
        assert torch.equal(validation[number], held)
        seen = set(chain(*(batch[number] for batch in recorded.indices())))
        assert seen == set(alone.tolist())
        assert not seen & set(held.tolist())
    assert set(validation[0].tolist()) != set(validation[1].tolist())


def test_validation_is_drawn_among_the_labelled_examples_only() -> None:
    labelled = torch.arange(40) % 3 == 0
    source = world(labelled=labelled)
    train, validation = split(source, 0.25, [2], None)
    assert validation is not None
    assert len(validation) == 10
    assert bool(labelled[validation].all())
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(40))
    different = split(source, 0.25, [3], None)[1]
    assert different is not None
    assert set(different.tolist()) != set(validation.tolist())
    by_replica = torch.stack([labelled, ~labelled])
    _, validation = split(world(seeds=[0, 1], labelled=by_replica), 0.25, [2, 3], 2)
    assert validation is not None
    assert bool(by_replica.gather(1, validation).all())


def test_a_share_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share of 0.01 of 40 examples leaves one of the two parts empty"):
        split(world(), 0.01, [0], None)
    with pytest.raises(ValueError, match=r"share of 0.99 of 40 examples leaves one of the two parts empty"):
        split(world(), 0.99, [0], None)
    for count in (3, 10):  # fewer than asked for, and exactly as many: none left to train on
        with pytest.raises(ValueError, match=rf"10 validation examples .* only {count} are labelled"):
            split(world(labelled=torch.arange(40) < count), 0.25, [0], None)
    train, none = split(world(), 0.0, [0], None)
    assert none is None
    assert sorted(train.tolist()) == list(range(40))


def test_seeds_are_one_or_one_a_replica() -> None:
    assert replica_seeds(3, None) == [3]
    assert replica_seeds(3, 2) == [3, 3]
    assert replica_seeds((4, 5), 2) == [4, 5]
    with pytest.raises(ValueError, match="one for each of the 3 replicas, received 2"):
        replica_seeds([1, 2], 3)
    with pytest.raises(ValueError, match="one for each of the 1 replicas, received 2"):
        replica_seeds([1, 2], None)


def test_the_held_out_halves_share_no_point() -> None:
    select, fresh = halves(world(21))
    assert sorted([*select.tolist(), *fresh.tolist()]) == list(range(21))
    select, fresh = halves(world(20, [0, 1]))
    assert select.shape == fresh.shape == (2, 10)
