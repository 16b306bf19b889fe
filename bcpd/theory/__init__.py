"""Claims as executable checks, each with the negative controls that must fail."""

from bcpd.theory.check import Check, verdict
from bcpd.theory.claim import Claim, Outcome, Settings, Trainer, Trial
from bcpd.theory.suite import CLAIMS, LEVELS, false_alarm_bound, find_claims, plan, run_checks
from bcpd.theory.versions import CONTROLS, MATRIX, Version, version

__all__ = [
    "CLAIMS",
    "CONTROLS",
    "LEVELS",
    "MATRIX",
    "Check",
    "Claim",
    "Outcome",
    "Settings",
    "Trainer",
    "Trial",
    "Version",
    "false_alarm_bound",
    "find_claims",
    "plan",
    "run_checks",
    "verdict",
    "version",
]
