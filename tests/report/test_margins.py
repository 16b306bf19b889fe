"""Margins: how much of its bound a claim uses, and what its controls did."""

from __future__ import annotations

import math

import pytest

from bcpd.report.margins import checks_of, margins, used, variant
from bcpd.theory import Check


def check(id: str, value: float, bound: float = 1e-12, role: str = "claim", loss: str = "ce") -> Check:
    return Check.of(id, "in words", "finite X", loss, "claim" if role == "claim" else "control", value, bound)


@pytest.mark.parametrize(
    ("value", "bound", "share"),
    [(5e-13, 1e-12, 0.5), (2e-12, 1e-12, 2.0), (-1e-3, -1e-6, 1e-3), (-1e-7, -1e-6, 10.0), (1e-3, -1e-6, math.inf)],
)
def test_the_share_of_the_bound_is_at_most_one_where_the_claim_holds(value: float, bound: float, share: float) -> None:
    one = check("claim/ce/finite X", value, bound)
    assert used(one) == pytest.approx(share)
    assert (used(one) <= 1) == one.holds


def test_repetitions_are_gathered_and_the_worst_one_counts() -> None:
    (margin,) = margins(
        [
            check("risk/ce/finite X", 1e-13),
            check("risk/ce/finite X/wrong", 1e-3, role="control"),
            check("risk/ce/finite X/harmless", 1e-13),
            check("risk/ce/finite X#2", 5e-13),
            check("risk/ce/finite X#2/wrong", 1e-6, role="control"),
        ]
    )
    assert margin.used == pytest.approx(0.5)
    assert (margin.rejected, margin.controls, margin.kept, margin.harmless) == (2, 2, 1, 1)
    assert margin.closest == pytest.approx(1e6)
    assert margin.as_expected


def test_a_control_that_passes_shows() -> None:
    (margin,) = margins([check("risk/ce/finite X", 1e-13), check("risk/ce/finite X/wrong", 1e-13, role="control")])
    assert margin.holds
    assert not margin.as_expected
    assert margin.controls_text == "0 of 1 fail"


def test_a_claim_that_fails_shows() -> None:
    (margin,) = margins([check("risk/ce/finite X", 1.0)])
    assert not margin.holds
    assert not margin.as_expected
    assert margin.controls_text == "none"


def test_the_variant_is_read_off_the_id_with_and_without_a_loss() -> None:
    assert variant(check("risk/ce/finite X/wrong", 1.0)) == "wrong"
    assert variant(check("risk/ce/finite X", 1.0)) is None
    assert variant(check("known-distance/kl/bits", 1.0, loss="-")) == "bits"
    assert variant(check("known-distance/kl", 1.0, loss="-")) is None


def test_stored_checks_are_read_back_with_their_infinities() -> None:
    record = {**check("risk/ce/finite X", 1.0).record(), "value": "nan"}
    (one,) = checks_of([record])
    assert math.isnan(one.value)
    del record["bound"]
    with pytest.raises(ValueError, match=r"a check must have .*missing bound"):
        checks_of([record])
