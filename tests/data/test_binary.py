"""Classes merged into groups keep pixels, and their p* is the sum over the group."""

import pytest
import torch

from bcpd.data import FIRST_AND_LAST_FIVE, Images, digits, merged_classes
from bcpd.mixtures import Superclasses, paper_toy


def images() -> Images:
    y = torch.tensor([0, 4, 5, 9, 3, 8, 2])
    x = torch.arange(7 * 12, dtype=torch.uint8).reshape(7, 3, 2, 2)
    return Images(x, y, 10, tuple("abcdefghij"), coarse=torch.zeros(7, dtype=torch.int64))


def test_the_first_five_stand_against_the_last_five() -> None:
    merged = merged_classes(images())
    assert merged.y.tolist() == [0, 0, 1, 1, 0, 1, 0]
    assert merged.num_classes == 2
    assert merged.class_names == ("a, b, c, d, e", "f, g, h, i, j")
    assert merged.coarse is None  # they were superclasses of other labels
    assert merged.x is images().x or torch.equal(merged.x, images().x)
    assert [len(group) for group in FIRST_AND_LAST_FIVE] == [5, 5]


def test_digits_become_a_balanced_problem() -> None:
    merged = merged_classes(digits("test"))
    assert float(merged.y.double().mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(merged.y, (digits("test").y >= 5).long())


def test_groups_of_any_size_in_any_order() -> None:
    merged = merged_classes(images(), [(9, 0), (1, 2, 3, 4), (5, 6, 7, 8)])
    assert merged.y.tolist() == [0, 1, 2, 0, 1, 2, 1]
    assert merged.num_classes == 3


def test_labels_are_those_of_the_merged_mixture() -> None:
    """p* of a merged mixture is the sum over the group, and so are the frequencies of merged labels."""
    mixture = paper_toy(10, dimension=3, seed=0)
    groups = [0] * 5 + [1] * 5
    x, y = mixture.sample(64, seed=1)
    merged = merged_classes(Images(torch.zeros(64, 1, 1, 1, dtype=torch.uint8), y, 10))
    assert merged.y.tolist() == [groups[k] for k in y.tolist()]
    expected = torch.stack([mixture.posterior(x)[:, :5].sum(-1), mixture.posterior(x)[:, 5:].sum(-1)], -1)
    torch.testing.assert_close(Superclasses(mixture, groups).posterior(x), expected)


@pytest.mark.parametrize(
    "groups",
    [
        [range(10)],
        [range(5), range(5, 9)],
        [range(5), range(4, 10)],
        [range(10), []],
        [range(5), range(5, 11)],
    ],
)
def test_groups_that_are_no_partition_are_refused(groups: list[range]) -> None:
    with pytest.raises(ValueError, match=r"classes 0\.\.9, each in one of them, received"):
        merged_classes(images(), groups)
