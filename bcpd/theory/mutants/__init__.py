"""Wrong versions seeded into the package's own formulas, each of which must turn a named check red."""

from bcpd.theory.mutants.harness import Fate, Mutant, mutated, try_mutants
from bcpd.theory.mutants.table import MUTANTS

__all__ = ["MUTANTS", "Fate", "Mutant", "mutated", "try_mutants"]
