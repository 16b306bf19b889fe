"""What a check is: a claim that must hold, or a negative control that must not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Check", "Role", "verdict"]

Role = Literal["claim", "control"]


@dataclass(frozen=True)
class Check:
    """One statement tried in one world.

    Attributes:
        id: ``claim/loss/world``, with ``/variant`` for a wrong version.
        statement: in words.
        world: the distribution it was tried on.
        loss: the loss it is about, or ``-``.
        role: a ``claim`` must hold; a ``control`` is a wrong version of a claim, and must not.
        value: what was computed: an absolute difference, a number of standard errors, or a signed gap.
        bound: the claim holds where ``value <= bound``.
        holds: whether it did. A control's ``holds`` is false when it fails as it should.
        claim: the claim it belongs to.
        control: which wrong version was tried, ``None`` for the claim itself.
        detail: what else tells it from the claim's other checks.
        comparisons: how many Monte Carlo numbers the value is the largest of; 0 where chance has no part.
        stderr: the standard error of ``difference``, or of the value where there is no difference.
        tightness: for an inequality, the largest attained share of its bound.
        difference: where the value is a number of standard errors: what was found less what is claimed.
    """

    id: str
    statement: str
    world: str
    loss: str
    role: Role
    value: float
    bound: float
    holds: bool
    claim: str
    control: str | None = None
    detail: str = ""
    comparisons: int = 0
    stderr: float | None = None
    tightness: float | None = None
    difference: float | None = None

    @classmethod
    def of(
        cls, id: str, statement: str, world: str, loss: str, role: Role, value: float, bound: float, **more: Any
    ) -> Check:
        """A check whose ``holds`` follows from value and bound; ``nan`` never holds."""
        holds = not math.isnan(value) and value <= bound
        return cls(id, statement, world, loss, role, float(value), float(bound), holds, **more)

    @property
    def as_expected(self) -> bool:
        """A claim that holds, or a control that fails (by ``nan`` it does not count as failing as it should)."""
        return self.holds if self.role == "claim" else not self.holds and not math.isnan(self.value)

    def record(self) -> dict[str, Any]:
        """The fields as a dict, for JSON."""
        return asdict(self)


def verdict(checks: Sequence[Check]) -> bool:
    """True only if there are checks, every claim holds and every control fails."""
    return bool(checks) and all(check.as_expected for check in checks)
