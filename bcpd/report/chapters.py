"""The claims of a verification, in chapters: what was stored about each, and where it stands on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bcpd.report.tables import check_keys
from bcpd.theory import Check

__all__ = ["CHAPTERS", "FURTHER", "Described", "chapters", "described"]

CHAPTERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Theorem 1 and proper scores",
        "What training on labels minimises, and where it ends: for proper losses at p*, for others elsewhere.",
        ("C1", "C2", "C3", "C4"),
    ),
    (
        "The risk of distillation",
        "What a teacher's probabilities do to the risk that its student follows.",
        ("C5", "C6", "C7", "C9", "C21"),
    ),
    ("Bounds", "What a distance to p* says about mistakes, and what one distance says about another.", ("C8", "C14")),
    ("Decompositions and information", "Into which parts a distance to p* falls.", ("C10", "C13")),
    ("Gradient noise", "What soft targets change in stochastic gradients.", ("C11", "C12")),
    (
        "Asymptotics and misspecification",
        "Which loss comes closer to p*: in a class that misses it, and with many examples in one that has it.",
        ("C15", "C16"),
    ),
    (
        "Instruments and families",
        "Is the stated p* that of the sampler, and do the instruments measure what they say?",
        ("C17", "C18", "C19", "C20", "C22", "B13"),
    ),
)
"""Heading, what it is about, and the numbers of the claims in it."""

FURTHER = ("Further claims", "")


@dataclass(frozen=True)
class Described:
    """What is stored about a claim; an older file stores its id alone, and its statement."""

    id: str
    number: str = ""
    title: str = ""
    statement: str = ""
    formula: str = ""
    conditions: str = ""
    source: str = ""
    controls: Mapping[str, str] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        return self.title or self.id


def described(results: Mapping[str, Any], checks: Sequence[Check]) -> list[Described]:
    """The claims of a result in their order, those that only its checks know last.

    Raises:
        ValueError: a stored claim without an id.
    """
    found: dict[str, Described] = {}
    for entry in results.get("claims") or []:
        check_keys(entry, ("id",), "a claim")
        texts = {name: entry[name] for name in Described.__dataclass_fields__ if name in entry}
        found[entry["id"]] = Described(**texts)
    statements, controls = results.get("statements") or {}, results.get("controls") or {}
    for check in checks:
        if check.claim not in found:
            statement = statements.get(check.claim) or (check.statement if check.control is None else "")
            found[check.claim] = Described(check.claim, statement=statement, controls=controls)
    return list(found.values())


def chapters(claims: Sequence[Described]) -> list[tuple[str, str, list[Described]]]:
    """The chapters that have claims, each in the order of its numbers; numbers that no chapter has come last."""
    rest = list(claims)
    found = []
    for heading, about, numbers in CHAPTERS:
        inside = [claim for number in numbers for claim in rest if claim.number == number]
        rest = [claim for claim in rest if claim not in inside]
        found.append((heading, about, inside))
    return [chapter for chapter in [*found, (*FURTHER, rest)] if chapter[2]]
