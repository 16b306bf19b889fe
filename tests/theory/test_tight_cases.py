"""No constant of a bound can be lowered: for each, a search finds where it is attained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bcpd import simplex
from bcpd.measure import excess_risk_bounds_of_probabilities
from bcpd.measure.bounds import worst_excess
from bcpd.theory.bounds.label_error import argmax_error_bound, sampled_error_bound, sampled_label_error
from bcpd.theory.bounds.low_noise import low_noise_bound, undecided_world
from bcpd.theory.distilled.distilled_bias import bias_bounds, risk_bias
from bcpd.theory.distilled.student import student_bound
from bcpd.theory.parts.divergences import LINKS, chain
from bcpd.theory.parts.information import cmi, cmi_temperature_bound

ONE = torch.ones(1, dtype=torch.float64)


def rows(num_classes: int, least: int = 0, most: int = 4) -> st.SearchStrategy[Tensor]:
    """Rows of probabilities that are proportional to whole numbers."""
    counts = st.lists(st.integers(least, most), min_size=num_classes, max_size=num_classes).filter(any)
    return counts.map(lambda each: torch.tensor(each, dtype=torch.float64)).map(lambda row: row / row.sum())


class Bound(NamedTuple):
    """Where a search looks, and what it compares: a value and its upper bound."""

    search: st.SearchStrategy[Any]
    sides: Callable[[Any], tuple[float, float]]


def risk(name: str, case: tuple[Tensor, Tensor]) -> tuple[float, float]:
    p, q = case
    found = excess_risk_bounds_of_probabilities(q[None], p[None].log(), weights=[1.0])
    return found.excess_risk.value, found.bounds[name].bound.value


def bias(form: str, case: tuple[Tensor, Tensor, list[int]]) -> tuple[float, float]:
    bayes, teacher, losses = case
    law = (ONE, bayes[None], teacher[None], torch.tensor(losses, dtype=torch.float64)[None])
    return abs(risk_bias(*law)), float(getattr(bias_bounds(*law), form))


def biased(num_classes: int) -> st.SearchStrategy[Any]:
    losses = st.lists(st.sampled_from([-1, 1]), min_size=num_classes, max_size=num_classes)
    return st.tuples(rows(num_classes, 1, 2), rows(num_classes, 1, 2), losses)


def label_error(form: str, case: tuple[Tensor, Tensor]) -> tuple[float, float]:
    p, q = case
    nats = float(simplex.cross_entropy(p, q))
    if form == "argmax":
        return 1 - float(p.max()) + float(worst_excess(p, q)), float(argmax_error_bound(nats))
    return float(sampled_label_error(p, q)), float(sampled_error_bound(nats)) if form == "sampled" else nats


def low_noise(case: tuple[float, int, int]) -> tuple[float, float]:
    """The teacher errs where the gap is at most a share of the reach, and is p* elsewhere."""
    exponent, tenths, errs = case
    weights, bayes, tied = undecided_world(exponent, tenths / 10)
    gap = bayes[:, :1] - bayes[:, 1:]
    q = torch.where(gap <= errs / 10 * tenths / 10 + 1e-12, tied, bayes)
    excess = float(weights @ worst_excess(bayes, q))
    mse = float(weights @ simplex.squared_distance(bayes, q))
    return excess, float(low_noise_bound(mse, exponent, 1.0))


def link(left: str, right: str, case: tuple[Tensor, Tensor]) -> tuple[float, float]:
    members = dict(zip(LINKS, chain(*case).tolist(), strict=True))
    return members[left], members[right]


def information(case: tuple[Tensor, Tensor, list[int], int]) -> tuple[float, float]:
    weights, p, parts, power = case
    bayes = torch.stack([p, p.flip(0)])
    logits = torch.tensor(parts, dtype=torch.float64).view(2, 2)
    temperature = 10.0**power
    value = cmi(weights, bayes, (logits / temperature).softmax(-1))
    return value, cmi_temperature_bound(weights, bayes, logits, temperature)


def student(form: str, case: tuple[Tensor, Tensor, Tensor]) -> tuple[float, float]:
    bound = student_bound(*(row[None] for row in case))
    return bound.excess_risk, float(getattr(bound, form))


NEAR = st.tuples(rows(2, 48, 52), rows(2, 48, 52))
SMALL = st.tuples(rows(3, 0, 3), rows(3, 1, 3))
LOGITS = st.lists(st.integers(-2, 2), min_size=4, max_size=4)
TIGHT: dict[str, Bound] = {
    **{f"excess risk by {name}": Bound(SMALL, partial(risk, name)) for name in ("l1", "sup", "l2", "mse")},
    **{f"excess risk by {name}": Bound(NEAR, partial(risk, name)) for name in ("pinsker", "kl")},
    "bias by l1": Bound(biased(3), partial(bias, "l1")),
    "bias by l2": Bound(biased(3), partial(bias, "l2")),
    "bias by sup": Bound(biased(4), partial(bias, "sup")),
    "sampled label": Bound(SMALL, partial(label_error, "sampled")),
    "sampled label by H": Bound(st.tuples(rows(2, 0, 1), rows(2, 1, 2000)), partial(label_error, "linear")),
    "predicted label": Bound(st.tuples(rows(2, 0, 2), rows(2, 1, 2)), partial(label_error, "argmax")),
    "low noise": Bound(
        st.tuples(st.sampled_from([0.5, 1.0, 2.0, 4.0]), st.integers(1, 9), st.integers(5, 10)), low_noise
    ),
    "squared distance": Bound(SMALL, partial(link, "squared_distance", "half_l1_squared")),
    "total variation": Bound(SMALL, partial(link, "half_l1_squared", "twice_tv_squared")),
    "Pinsker": Bound(NEAR, partial(link, "twice_tv_squared", "kl")),
    "KL by chi-square": Bound(SMALL, partial(link, "kl", "log_chi_square")),
    "logarithm": Bound(NEAR, partial(link, "log_chi_square", "chi_square")),
    "chi-square": Bound(SMALL, partial(link, "chi_square", "over_least_q")),
    "squared distance by KL": Bound(NEAR, partial(link, "squared_distance", "kl")),
    "CMI at a temperature": Bound(st.tuples(rows(2, 1, 3), rows(2, 1, 3), LOGITS, st.integers(0, 4)), information),
    **{
        f"student by {form}": Bound(st.tuples(rows(2, 1, 4), rows(2, 1, 4), rows(2, 1, 4)), partial(student, form))
        for form in ("l2", "mse")
    },
}
BY_GENERATION = settings(max_examples=3000, phases=[Phase.generate], derandomize=True, deadline=None, database=None)


def uses(bound: Bound, share: float, case: Any) -> bool:
    value, limit = bound.sides(case)
    return 0 < share * limit < value


@pytest.mark.slow
@pytest.mark.parametrize("name", TIGHT)
def test_a_search_finds_where_the_bound_is_attained(name: str) -> None:
    bound = TIGHT[name]
    found = find(bound.search, partial(uses, bound, 0.999), settings=BY_GENERATION)
    value, limit = bound.sides(found)
    assert 0.999 < value / limit <= 1 + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", TIGHT)
def test_the_same_search_refutes_a_constant_that_is_a_hundredth_smaller(name: str) -> None:
    bound = TIGHT[name]

    def lowered(case: Any) -> tuple[float, float]:
        value, limit = bound.sides(case)
        return value, 0.99 * limit

    value, limit = lowered(find(bound.search, partial(uses, Bound(bound.search, lowered), 1.0), settings=BY_GENERATION))
    assert value > limit > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TIGHT)
@settings(max_examples=40)
@given(st.data())
def test_the_bound_holds_wherever_the_search_looks(name: str, data: st.DataObject) -> None:
    bound = TIGHT[name]
    value, limit = bound.sides(data.draw(bound.search))
    assert value <= limit * (1 + 1e-9) + 1e-14
