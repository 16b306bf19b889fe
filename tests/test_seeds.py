"""Random streams depend on their own coordinates, all of them, and nothing else."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from bcpd import seeds


def test_values_are_pinned() -> None:
    """Every stored run depends on these: a change of the hash is a change of all data."""
    assert seeds.derive(0, "data") == 848385199804111595
    assert seeds.derive(7, "order", 3, "late") == 7815780941771296553


def test_streams_differ_in_every_coordinate() -> None:
    streams = [
        (0, "data"),
        (1, "data"),
        (0, "init"),
        (0, "data", 0),
        (0, "data", 1),
        (0, "data", 0, 1),
        (0, "data", 1, 0),
        (0, "data", 10),
        (0, "data", "0"),
        (-1, "data"),
        (0, "data", ""),
        (0, "da", "ta"),
    ]
    assert len({seeds.derive(*stream) for stream in streams}) == len(streams)


def test_integers_and_their_text_are_different_coordinates() -> None:
    assert seeds.derive(0, "a", 1) != seeds.derive(0, "a", "1")


def test_seeds_fill_63_bits() -> None:
    values = [seeds.derive(0, "data", i) for i in range(200)]
    assert all(0 <= value < 2**63 for value in values)
    assert max(values) > 2**62  # misses with probability 2^-200


def test_generator_is_fresh_and_leaves_the_global_generators_alone() -> None:
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    first = torch.rand(3, generator=seeds.generator(0, "data", 1))
    again = torch.rand(3, generator=seeds.generator(0, "data", 1))
    other = torch.rand(3, generator=seeds.generator(0, "data", 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == random.getstate()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, "data"), "root seed must be an int, received 0.0 of type float"),
        ((True, "data"), "root seed must be an int, received True"),
        ((np.int64(3), "data"), "root seed must be an int"),
        ((0, "data", 0.5), "coordinates must be int or str, received 0.5"),
        ((0, "data", True), "coordinates must be int or str, received True"),
        ((0, 3), "purpose must be a str, received 3 of type int"),
        ((0, "data\x1fint:1"), "must not contain"),
        ((0, "data", "a\x1fb"), "must not contain"),
    ],
)
def test_anything_that_could_collide_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        seeds.derive(*arguments)
