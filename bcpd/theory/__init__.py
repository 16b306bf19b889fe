"""Claims as executable checks, each with the negative controls that must fail.

Three questions have an answer of their own: :func:`propriety` (is my loss proper?), :func:`samples_until` (how many
samples until CE beats MSE in my mixture?) and, in :mod:`bcpd.measure`, ``excess_risk_bounds`` (is my teacher's excess
risk within the bound?).
"""

from bcpd.theory.asymptotic.asymptotics import Asymptotics, asymptotics, efficiency_ratio
from bcpd.theory.asymptotic.samples import Crossover, samples_until
from bcpd.theory.check import Check, verdict
from bcpd.theory.claim import Claim, Outcome, Settings, Trainer, Trial
from bcpd.theory.scores.own_loss import loss_from_callable
from bcpd.theory.scores.propriety import Propriety, propriety
from bcpd.theory.scores.versions import CONTROLS, MATRIX, Version, version
from bcpd.theory.suite import CLAIMS, LEVELS, false_alarm_bound, find_claims, plan, run_checks

__all__ = [
    "CLAIMS",
    "CONTROLS",
    "LEVELS",
    "MATRIX",
    "Asymptotics",
    "Check",
    "Claim",
    "Crossover",
    "Outcome",
    "Propriety",
    "Settings",
    "Trainer",
    "Trial",
    "Version",
    "asymptotics",
    "efficiency_ratio",
    "false_alarm_bound",
    "find_claims",
    "loss_from_callable",
    "plan",
    "propriety",
    "run_checks",
    "samples_until",
    "verdict",
    "version",
]
