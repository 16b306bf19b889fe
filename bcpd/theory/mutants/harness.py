"""Seed a fault into a formula of the package, run the check that guards it, and put the formula back.

A check that stays green when the formula that it is about is wrong checks nothing. A mutant is a replacement of a piece
of source text in one function; the function object itself is given the mutated code, so that every module that has
imported it, and every table that holds it, sees the fault.
"""

from __future__ import annotations
import __future__

import ast
import importlib
import inspect
import math
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import CodeType, FunctionType
from typing import Any

from bcpd.theory.check import Check
from bcpd.theory.claim import Claim, Settings, Trainer, Trial

__all__ = ["Fate", "Mutant", "mutated", "try_mutants"]


@dataclass(frozen=True)
class Mutant:
    """A seeded fault.

    Attributes:
        name: of the fault.
        target: ``module:function`` or ``module:Class.method``.
        old, new: the text that is replaced, which must occur exactly once in the function, and what replaces it.
        change: what is wrong about it, in words.
        check: the id of the check that must turn red.
    """

    name: str
    target: str
    old: str
    new: str
    change: str
    check: str

    @property
    def claim(self) -> str:
        """The id of the claim that the check belongs to."""
        return self.check.split("/")[0]


@dataclass(frozen=True)
class Fate:
    """What became of a mutant: its check's result with the fault in place."""

    mutant: Mutant
    check: Check

    @property
    def killed(self) -> bool:
        """Whether the check turned red."""
        return not self.check.holds

    def record(self) -> dict[str, Any]:
        """As a dict, for JSON."""
        names = ("name", "target", "change", "claim", "check")
        return {
            **{name: getattr(self.mutant, name) for name in names},
            "killed": self.killed,
            "value": self.check.value,
            "bound": self.check.bound,
        }


def try_mutants(mutants: Sequence[Mutant], claims: Sequence[Claim], seed: int, trainer: Trainer) -> Iterator[Fate]:
    """Try each mutant on its check at the level ``quick``, yielding its fate.

    A mutated formula that raises an error turns its check red, with the value infinity.

    Args:
        mutants: the faults; claims: where their checks are found.
        seed, trainer: as for :func:`bcpd.theory.plan`.
    Raises:
        ValueError: a check that does not exist, or is red without the fault; a target or a text that is not there.
    """
    settings = Settings("quick", seed, trainer)
    green: dict[str, Check] = {}
    for mutant in mutants:
        if mutant.check not in green:
            _forget()
            right = _check(mutant.check, claims, settings)
            if not right.holds:
                raise ValueError(f"{right.id} is red without any fault: value {right.value:.3g}, bound {right.bound:g}")
            green[mutant.check] = right
        with mutated(mutant):
            try:
                found = _check(mutant.check, claims, settings)
            except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
                found = replace(green[mutant.check], value=math.inf, holds=False)
        yield Fate(mutant, found)


def _check(identifier: str, claims: Sequence[Claim], settings: Settings) -> Check:
    """The check of this id, its trial built anew: building one may evaluate formulas."""
    claim, trial = _find(identifier, claims, settings)
    return claim.check(trial)


def _find(identifier: str, claims: Sequence[Claim], settings: Settings) -> tuple[Claim, Trial]:
    for claim in claims:
        if claim.id == identifier.split("/")[0]:
            trials = [trial for trial in claim.trials(settings) if trial.control is None]
            names = {claim.name_of(trial): trial for trial in trials}
            if identifier in names:
                return claim, names[identifier]
            raise ValueError(f"{claim.id} has the checks {sorted(names)}, received {identifier!r}")
    raise ValueError(f"a mutant's check must belong to a claim, received {identifier!r}")


@contextmanager
def mutated(mutant: Mutant) -> Iterator[None]:
    """The package with the fault in place; nothing computed with it survives.

    Raises:
        ValueError: a target that is not a plain function of the package, or a text that does not occur exactly once.
    """
    function = _function(mutant.target)
    right, wrong = function.__code__, _mutated_code(function, mutant)
    _forget()
    function.__code__ = wrong
    try:
        yield
    finally:
        function.__code__ = right
        _forget()


def _function(target: str) -> FunctionType:
    module, _, path = target.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = inspect.getattr_static(found, name) if inspect.isclass(found) else getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"a mutant's target must be module:function, received {target!r}: {error}") from None
    if isinstance(found, property):
        found = found.fget
    found = inspect.unwrap(getattr(found, "__func__", found))
    if not isinstance(found, FunctionType) or not found.__module__.startswith("bcpd."):
        raise ValueError(f"a mutant's target must be a function of the package, received {target!r}")
    return found


def _mutated_code(function: FunctionType, mutant: Mutant) -> CodeType:
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(mutant.old) != 1:
        raise ValueError(
            f"mutant {mutant.name!r}: {mutant.old!r} must occur exactly once in {mutant.target}, "
            f"and occurs {source.count(mutant.old)} times"
        )
    tree = ast.parse(source.replace(mutant.old, mutant.new))
    (definition,) = tree.body
    if not isinstance(definition, ast.FunctionDef) or function.__code__.co_freevars:
        raise ValueError(f"mutant {mutant.name!r}: {mutant.target} must be a function without a closure")
    definition.decorator_list = []
    flags = __future__.annotations.compiler_flag
    module = compile(tree, f"<mutant {mutant.name}>", "exec", flags=flags, dont_inherit=True)
    (code,) = (item for item in module.co_consts if isinstance(item, CodeType) and item.co_name == function.__name__)
    return code


def _forget() -> None:
    """Empty the package's caches: what they hold was computed by other formulas."""
    for name, module in list(sys.modules.items()):
        if name.startswith("bcpd."):
            for value in vars(module).values():
                clear = getattr(value, "cache_clear", None)
                if callable(clear):
                    clear()
