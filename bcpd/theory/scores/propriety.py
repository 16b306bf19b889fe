r"""Is my loss proper? Numerical tests of a loss that is known by its values only.

A loss :math:`\ell(k, q)` is proper if :math:`q = p` minimises :math:`R_p(q) = \sum_k p_k \ell(k, q)` for every p, and
strictly proper if nothing else does. :func:`propriety` looks for a counterexample, and tries Savage's representation:
with :math:`G(p) = -R_p(p)`, a regular proper and differentiable loss satisfies
:math:`\ell(k, q) = -G(q) - \langle \nabla G(q), e_k - q \rangle` exactly, and G is convex. (Differentiating G, the
identity says that :math:`R_q` is stationary at q along the simplex. So stationarity at every q, and convexity of G,
are together propriety.)

What comes out is evidence, not proof: a loss that fails only on a tiny set of p, or by less than rounding shows, would
be called proper. A counterexample is one, up to the stated resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bcpd.losses import Loss, ReadOut
from bcpd.losses.loss import softmax
from bcpd.seeds import generator
from bcpd.theory.scores.bregman import Score
from bcpd.theory.scores.own_loss import LossFunction
from bcpd.theory.scores.risk_search import RiskSearch

__all__ = ["Propriety", "propriety"]

Verdict = Literal["strictly proper", "proper, not strictly", "not proper"]

CHORDS = 400
FAR = 0.01
"""A minimiser counts as another one from this largest difference of a probability on."""
STATIONARY = 1e-6
"""Savage's identity counts as violated from this error on, relative to 1 + the largest loss."""


@dataclass(frozen=True)
class Propriety:
    """What was found out about a loss.

    Attributes:
        name: of the loss; num_classes: K it was tried with.
        verdict: ``strictly proper``, ``proper, not strictly`` or ``not proper``, as far as was seen.
        witness: the p where the loss prefers another row by most, ``(K,)``; the row it prefers is ``minimiser``. For a
            proper loss, the p with the largest gap that rounding left.
        gap: :math:`R_p(p) - R_p(q)` there: how much less the minimiser costs. ``nan`` where the truth has no logits of
            its own (a read-out other than softmax).
        resolution: differences of risk below this count as none.
        savage: largest error of Savage's identity at random interior q, relative to 1 + the largest loss; ``None``
            for a loss without gradient, or one that is no function of softmax probabilities.
        convexity: largest of ``G((p + q) / 2) - (G(p) + G(q)) / 2``, at most 0 for a convex G; ``None`` as above.
        of_probabilities: whether the loss is unchanged when a constant is added to all logits.
        bounded: whether no direction was found in which the risk falls without end.
        attained: whether the minimum at the witness is at finite logits.
        truths: how many p were tried.
    """

    name: str
    num_classes: int
    verdict: Verdict
    witness: Tensor
    minimiser: Tensor
    gap: float
    resolution: float
    savage: float | None
    convexity: float | None
    of_probabilities: bool
    bounded: bool
    attained: bool
    truths: int

    @property
    def proper(self) -> bool:
        """Strictly or not."""
        return self.verdict != "not proper"

    def __str__(self) -> str:
        lines = [f"{self.name} with {self.num_classes} classes: {self.verdict}"]
        rows = f"p = {_shown(self.witness)}", f"q = {_shown(self.minimiser)}"
        if not self.bounded:
            lines.append(f"  The risk is not bounded below: at {rows[0]} it falls without end as logits grow.")
        elif self.verdict == "proper, not strictly":
            lines.append(f"  At {rows[0]} the row {rows[1]} costs as little as p.")
        elif self.verdict == "not proper":
            costs = "" if math.isnan(self.gap) else f", which costs {max(self.gap, 0.0):.3g} less than p"
            lines.append(f"  At {rows[0]} the minimiser is {rows[1]}{costs}.")
        if self.bounded and not self.attained:
            lines.append("  That minimum is not attained: it is approached as logits grow without bound.")
        if not self.of_probabilities:
            lines.append("  It is no function of softmax probabilities (adding a constant to all logits changes it):")
            lines.append("  what was compared with p is the read-out of the best logits.")
        if self.savage is not None and self.convexity is not None:
            lines.append(
                f"  Savage: l(k, q) = -G(q) - <grad G(q), e_k - q> up to {self.savage:.2g}; G is "
                f"{'convex' if self.convexity <= self.resolution else 'not convex'} on random chords."
            )
        elif self.of_probabilities:
            lines.append("  Savage's identity was not tried: autograd sees no gradient.")
        lines.append(f"  Tried: {self.truths} distributions; differences of risk below {self.resolution:.1g} not seen.")
        return "\n".join(lines)


def propriety(
    loss: Loss | LossFunction, num_classes: int = 3, seed: int = 0, *, readout: ReadOut | None = None
) -> Propriety:
    r"""Look for a p whose risk some row other than p minimises, and try Savage's representation.

    For p at random in the simplex, near its vertices, and tied in its two largest entries, the risk of
    :math:`\mathrm{softmax}(z)` is minimised over z from several starts: the truth, the uniform row, the best of a
    thousand random rows. Quasi-Newton steps, then random ones, which also find the bottom of a kink.

    Args:
        loss: a :class:`Loss`, or any callable ``(logits (n, K), labels (n,)) -> (n,)``.
        num_classes: K >= 2.
        seed: of the random rows.
        readout: how logits become probabilities; default: the loss's own first read-out, softmax for a callable.
    Raises:
        ValueError: K below 2; values that are not one number an example, or not finite at moderate logits; values of
            examples that depend on the other examples.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be >= 2, received {num_classes}")
    name = loss.name if isinstance(loss, Loss) else getattr(loss, "__name__", type(loss).__name__)
    if readout is None:
        readout = loss.readout() if isinstance(loss, Loss) else softmax
    search = RiskSearch(loss.function if isinstance(loss, Loss) else loss, name, num_classes, seed)
    plain = search.of_probabilities and readout is softmax
    truths = _truths(num_classes, seed)
    logits, least = search.minimise(truths)
    reached = readout(logits)
    distance = (reached - truths).abs().amax(-1)
    if plain:
        gaps = search.risks(truths.log(), truths) - least
        savage, convexity = _savage(search, seed)
    else:
        gaps = torch.full_like(least, torch.nan)
        savage = convexity = None
    resolution = search.resolution * (1 + float(least.abs().max()))
    bounded = [search.bounded(z, p) for z, p in zip(logits, truths, strict=True)]
    worst = _worst(gaps, distance, bounded)
    wrong = not all(bounded) or (
        bool((gaps > resolution).any()) or (savage or 0.0) > STATIONARY or (convexity or 0.0) > resolution
        if plain
        else bool((distance > FAR).any())
    )
    verdict: Verdict = (
        "not proper" if wrong else "proper, not strictly" if bool((distance > FAR).any()) else "strictly proper"
    )
    return Propriety(
        name=name,
        num_classes=num_classes,
        verdict=verdict,
        witness=truths[worst],
        minimiser=reached[worst],
        gap=float(gaps[worst]),
        resolution=resolution,
        savage=savage,
        convexity=convexity,
        of_probabilities=search.of_probabilities,
        bounded=all(bounded),
        attained=search.attained(logits[worst], truths[worst]),
        truths=len(truths),
    )


def _savage(search: RiskSearch, seed: int) -> tuple[float | None, float | None]:
    """Largest error of Savage's identity, and largest excess of G at a midpoint over its chord."""
    draw = generator(seed, "propriety", "interior")
    logits = torch.randn(2, CHORDS, search.num_classes, generator=draw, dtype=torch.float64)
    p, q = logits.softmax(-1)

    def convex(rows: Tensor) -> Tensor:
        return -(rows * search.outcomes(rows.log())).sum(-1)

    if not search.differentiable:
        return None, None
    with torch.no_grad():
        chord = float((convex((p + q) / 2) - (convex(p) + convex(q)) / 2).max())
    losses = search.outcomes(q.log()).detach()
    error = (Score(search.name, convex).outcome_losses(q) - losses).abs().max()
    return float(error / (1 + losses.abs().max())), chord


def _truths(num_classes: int, seed: int) -> Tensor:
    """Interior rows, rows near a vertex, rows tied in their two largest entries, the uniform one."""
    draw = generator(seed, "propriety", "truths")
    weights = torch.empty(14, num_classes, dtype=torch.float64).exponential_(generator=draw) + 0.02
    rows = weights / weights.sum(-1, keepdim=True)
    corner = torch.arange(8, 11) % num_classes
    rows[8:11] = 0.95 * torch.eye(num_classes, dtype=torch.float64)[corner] + 0.05 * rows[8:11]
    order = rows[11:].argsort(-1, descending=True)
    tied = rows[11:].gather(-1, order[:, :2]).mean(-1, keepdim=True)
    rows[11:] = rows[11:].scatter(-1, order[:, :2], tied.expand(-1, 2))
    return torch.cat([rows, torch.full((1, num_classes), 1 / num_classes, dtype=torch.float64)])


def _worst(gaps: Tensor, distance: Tensor, bounded: list[bool]) -> int:
    """The clearest witness: an unbounded risk, else the largest gap (distance, where there are no gaps)."""
    if not all(bounded):
        return bounded.index(False)
    if bool(gaps.isnan().any()) or float(gaps.max()) < 1e-9:
        return int(distance.argmax())
    return int(gaps.argmax())


def _shown(row: Tensor) -> str:
    return "(" + ", ".join(f"{entry:.4f}" for entry in row.tolist()) + ")"
