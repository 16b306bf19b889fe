"""Margins: how much of its bound a claim uses, and what its wrong versions did."""

from __future__ import annotations

import math

import pytest
from example_results import check

from bcpd.report.margins import attained, checks_of, margins, missed, rejections, used


@pytest.mark.parametrize(
    ("value", "bound", "share"),
    [
        (5e-13, 1e-12, 0.5),
        (2e-12, 1e-12, 2.0),
        (-0.3, 1e-12, 0.0),
        (-1e-3, -1e-6, 1e-3),
        (-1e-7, -1e-6, 10.0),
        (1e-3, -1e-6, math.inf),
        (0.0, -1e-6, math.inf),
        (0.0, 0.0, 0.0),
        (1e-9, 0.0, math.inf),
        (math.inf, 1.0, math.inf),
    ],
)
def test_the_share_of_the_bound_is_at_most_one_where_the_claim_holds(value: float, bound: float, share: float) -> None:
    one = check("claim", value, bound)
    assert used(one) == pytest.approx(share)
    assert (used(one) <= 1) == one.holds


def test_a_value_that_is_no_number_has_no_share() -> None:
    assert math.isnan(used(check("claim", math.nan)))


@pytest.mark.parametrize(
    ("value", "bound", "text"),
    [(2.8e-9, 1e-12, "2.8×10³ bounds"), (0.1, -1e-6, "wrong sign"), (math.inf, 1e-12, "infinite")],
)
def test_a_miss_is_told_in_bounds(value: float, bound: float, text: str) -> None:
    assert missed(check("claim", value, bound, control="wrong")) == text


@pytest.mark.parametrize(
    ("tightness", "text"),
    [(0.70710678, "70 %"), (0.9997, "99.97 %"), (0.999999, "99.9999 %"), (0.951, "95.1 %"), (1.0, "100 %"), (0, "0 %")],
)
def test_only_all_of_a_bound_is_called_all_of_it(tightness: float, text: str) -> None:
    assert attained(tightness).replace("\N{NO-BREAK SPACE}", " ") == text


def test_repetitions_are_gathered_and_the_worst_one_counts() -> None:
    checks = [
        check("risk", 1e-13, loss="ce", tightness=0.4),
        check("risk", 1e-3, loss="ce", control="wrong"),
        check("risk", 1e-13, loss="ce", control="harmless", role="claim"),
        check("risk", 5e-13, loss="ce", tightness=0.3),
        check("risk", 1e-6, loss="ce", control="wrong"),
        check("risk", 7e-13, loss="mse"),
    ]
    ce, mse = margins(checks)
    assert (ce.used, ce.holds, ce.tries, ce.tightness) == (pytest.approx(0.5), 2, 2, 0.4)
    assert (mse.loss, mse.used, mse.tightness) == ("mse", pytest.approx(0.7), None)
    wrong, harmless = rejections(checks)
    assert (wrong.failed, wrong.tries, wrong.harmless, wrong.missed) == (2, 2, 0, pytest.approx(1e6))
    assert (harmless.tries, harmless.kept, harmless.harmless, harmless.losses) == (0, 1, 1, ("ce",))
    assert all(entry.as_expected for entry in (ce, mse, wrong, harmless))


def test_a_broken_repetition_is_the_worst_also_without_a_number() -> None:
    (margin,) = margins([check("risk", math.nan), check("risk", 0.9e-12), check("risk", 0.1e-12)])
    assert math.isnan(margin.worst.value)
    assert (margin.holds, margin.tries, margin.as_expected) == (2, 3, False)


def test_a_control_that_passes_shows_and_is_the_closest() -> None:
    (version,) = rejections([check("risk", 1.0, control="wrong"), check("risk", 1e-13, control="wrong")])
    assert (version.failed, version.tries, version.as_expected) == (1, 2, False)
    assert version.missed == pytest.approx(0.1)


def test_a_harmless_version_that_breaks_the_claim_shows() -> None:
    (version,) = rejections([check("risk", 1.0, control="harmless", role="claim")])
    assert (version.kept, version.harmless, version.as_expected) == (0, 1, False)


def test_stored_checks_are_read_back_with_their_infinities() -> None:
    record = {**check("risk", 1.0, loss="ce", control="wrong").record(), "value": "nan", "stderr": "inf"}
    (one,) = checks_of([record])
    assert math.isnan(one.value)
    assert one.stderr == math.inf
    assert one.tightness is None
    assert (one.claim, one.control) == ("risk", "wrong")
    del record["bound"]
    with pytest.raises(ValueError, match=r"a check must have .*missing bound"):
        checks_of([record])


@pytest.mark.parametrize(
    ("id", "loss", "world", "control", "detail"),
    [
        ("risk/ce/finite X", "ce", "finite X", None, ""),
        ("risk/ce/finite X#2/wrong", "ce", "finite X", "wrong", ""),
        ("known-distance/kl", "-", "finite", None, "kl"),
        ("known-distance/kl/bits", "-", "finite", "bits", "kl"),
        ("bayes-error/finite/wrong_priors", "-", "finite", "wrong_priors", ""),
    ],
)
def test_an_older_record_is_read_off_its_id(id: str, loss: str, world: str, control: str | None, detail: str) -> None:
    old = ("statement", "role", "value", "bound", "holds")
    record = {key: value for key, value in check("risk", 1.0).record().items() if key in old}
    (one,) = checks_of([{**record, "id": id, "loss": loss, "world": world}])
    assert (one.claim, one.control, one.detail) == (id.split("/")[0], control, detail)
