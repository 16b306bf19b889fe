"""All mutants, in the order of the kill table."""

from __future__ import annotations

from bcpd.theory.mutants import formulas, measurement, statements, worlds
from bcpd.theory.mutants.harness import Mutant

__all__ = ["MUTANTS"]

MUTANTS: tuple[Mutant, ...] = (*formulas.MUTANTS, *worlds.MUTANTS, *statements.MUTANTS, *measurement.MUTANTS)
