"""Trying claims in tests: every trial at a seed, judged as the suite judges it, with the margins that controls owe."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bcpd.mixtures import FAMILIES
from bcpd.seeds import derive
from bcpd.theory import Check, Claim, Settings, Trainer
from bcpd.train import Recipe, fit, followed_gradient

TRAINER = Trainer(followed_gradient, fit, Recipe)
SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4)))


def settings_at(seed: int, mixture: str | None = None) -> Settings:
    """Quick settings at a seed, in a named mixture if so told."""
    own = None if mixture is None else (mixture, FAMILIES[mixture]())
    return Settings("quick", derive(seed, "test"), TRAINER, own)


def tried(claims: Sequence[Claim], settings: Settings) -> list[Check]:
    """All checks of the claims; a wrong verdict, or a control that fails by too little, is an error that names it."""
    checks = [claim.check(trial) for claim in claims for trial in claim.trials(settings)]
    assert len({check.id for check in checks}) == len(checks)
    for check in checks:
        assert check.as_expected, check
        if check.role == "control" and check.bound > 0:
            # 10 times the tolerance; under Monte Carlo 8 standard errors, of the 10 or more expected
            noisy = check.bound + 8 * check.stderr if check.comparisons and check.stderr else None
            assert check.value >= (8 if check.bound == 5 else noisy or 10 * check.bound), check
        if check.tightness is not None:
            assert 0 <= check.tightness <= 1, check
    return checks
