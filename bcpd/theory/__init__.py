"""Claims as executable checks, each with the negative controls that must fail."""

from bcpd.theory.check import Check, verdict
from bcpd.theory.suite import LEVELS, run_checks
from bcpd.theory.versions import CONTROLS, MATRIX, Version, version

__all__ = ["CONTROLS", "LEVELS", "MATRIX", "Check", "Version", "run_checks", "verdict", "version"]
