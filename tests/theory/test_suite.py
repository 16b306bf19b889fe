"""The plan of a verification: what is tried where, for whom, and how often chance may speak."""

import pytest

from bcpd.losses import LOSSES
from bcpd.mixtures import FAMILIES
from bcpd.theory import CLAIMS, Check, Claim, Outcome, Settings, Trainer, Trial, false_alarm_bound, find_claims, plan
from bcpd.theory.suite import FALSE_ALARM, run_checks
from bcpd.train import Recipe, fit, followed_gradient

TRAINER = Trainer(followed_gradient, fit, Recipe)


def claim_of(value: float, bound: float = 1.0) -> Claim:
    trials = [
        Trial("here", lambda: Outcome(value, bound, comparisons=3), loss="ce", detail="part"),
        Trial("here", lambda: Outcome(2 * bound, bound, comparisons=3), "wrong"),
        Trial("here", lambda: Outcome(value, bound, comparisons=1), "wrong", harmless=True),
    ]
    return Claim(
        "a-claim", "C0", "Title", "It holds.", "1 = 1", "always", "here", {"wrong": "it is wrong"}, lambda _: trials
    )


def test_every_claim_is_told_apart_and_says_what_it_is() -> None:
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        for text in (claim.title, claim.statement, claim.formula, claim.conditions, claim.source):
            assert text.strip() == text != "", claim.id
        assert "$" not in claim.formula
        assert claim.controls, claim.id


def test_every_claim_tries_itself_and_every_one_of_its_controls_and_no_other() -> None:
    for level in ("quick", "full"):
        for claim in CLAIMS:
            trials = claim.trials(Settings(level, 0, TRAINER))  # type: ignore[arg-type]
            controls = {trial.control for trial in trials if not trial.harmless}
            assert None in controls, claim.id
            tried = {trial.control for trial in trials} - {None}
            assert tried <= set(claim.controls), claim.id
            if level == "full":
                assert tried == set(claim.controls), claim.id
                assert controls > {None}, claim.id
            names = [claim.name_of(trial) for trial in trials]
            assert len(set(names)) == len(names), claim.id


def test_all_numbers_of_the_master_list_have_a_claim() -> None:
    assert {f"C{number}" for number in range(1, 23)} <= {claim.number for claim in CLAIMS}


def test_claims_are_found_by_id_prefix_and_number() -> None:
    assert [claim.id for claim in find_claims(["risk-identity"])] == ["risk-identity"]
    assert {claim.id for claim in find_claims(["minimiser"])} >= {"minimiser-equality", "minimiser-is-bayes"}
    assert all(claim.number == "C1" for claim in find_claims(["C1"]))
    assert find_claims([]) == CLAIMS
    with pytest.raises(ValueError, match=r"no claim is called 'C99'; there are: .*risk-identity \(C1\)"):
        find_claims(["C99"])


def test_an_id_names_claim_loss_world_detail_control_and_repetition() -> None:
    claim = claim_of(0.5)
    right, wrong, harmless = claim.trials(Settings("quick", 0, TRAINER))
    check = claim.check(right)
    assert check.id == "a-claim/ce/here/part"
    assert (check.role, check.holds, check.control) == ("claim", True, None)
    check = claim.check(wrong, repetition=1)
    assert check.id == "a-claim/here/wrong#2"
    assert (check.role, check.holds, check.as_expected) == ("control", False, True)
    assert "But: it is wrong." in check.statement
    check = claim.check(harmless)
    assert (check.role, check.holds, check.control) == ("claim", True, "wrong")
    with pytest.raises(ValueError, match=r"a-claim has the controls \['wrong'\], received 'other'"):
        claim.check(Trial("here", lambda: Outcome(0, 1), "other"))


def test_false_alarms_are_counted_over_right_claims() -> None:
    claim = claim_of(0.5)
    checks = [claim.check(trial) for trial in claim.trials(Settings("quick", 0, TRAINER))]
    assert false_alarm_bound(checks) == pytest.approx(4 * FALSE_ALARM)


def test_full_repeats_with_other_seeds_and_quick_does_not() -> None:
    quick, full = (plan(level, 0, TRAINER, only=["risk-identity"]) for level in ("quick", "full"))
    assert len(full) == 3 * len(quick)
    assert len({step.claim.name_of(step.trial) for step in full}) == len(quick)


def test_a_users_mixture_is_the_world() -> None:
    mixture = FAMILIES["finite"]()
    steps = plan("quick", 0, TRAINER, only=["risk-identity"], mixture=("mine", mixture))
    assert {step.trial.world for step in steps} == {"mine"}
    assert all(check.as_expected for check in run_checks(steps))


def test_claims_that_do_not_fit_a_users_mixture_are_left_out() -> None:
    with pytest.raises(ValueError, match="none of the claims asked for can be tried with this mixture"):
        plan("quick", 0, TRAINER, only=["own-metric"], mixture=("mine", FAMILIES["finite"]()))


def test_a_users_loss_is_the_loss() -> None:
    steps = plan("quick", 0, TRAINER, only=["minimiser-is-bayes"], loss=LOSSES["spherical"])
    assert {step.trial.loss for step in steps} == {"spherical"}


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="level must be one of"):
        plan("half", 0, TRAINER)


@pytest.mark.slow
def test_the_whole_suite_keeps_its_false_alarm_budget_and_verdict() -> None:
    checks: list[Check] = list(run_checks(plan("full", 5, TRAINER)))
    assert false_alarm_bound(checks) <= 1e-3
    assert [check.id for check in checks if not check.as_expected] == []
