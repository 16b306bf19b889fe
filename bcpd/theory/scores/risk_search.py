"""The least risk of a loss that is known by its values: many distributions and starts at once."""

from __future__ import annotations

import torch
from torch import Tensor

from bcpd.losses.loss import softmax
from bcpd.seeds import generator
from bcpd.theory.scores.own_loss import LossFunction, outcome_losses

__all__ = ["RiskSearch"]

GUESSES = 1200
STEPS = 120
BOX = 60.0
"""Logits are searched up to this size: beyond it a probability of a softmax is 0 to rounding."""


class RiskSearch:
    """Risks of a loss known by its values, and where they are least.

    Attributes:
        name, num_classes: of the loss.
        resolution: relative to 1 + the risk, differences below it may be rounding.
        differentiable: whether autograd reaches the logits.
        of_probabilities: whether a constant added to all logits leaves the loss as it is.
    Raises:
        ValueError: values that are not one an example, ``nan`` at moderate logits, or dependent on other examples.
    """

    def __init__(self, function: LossFunction, name: str, num_classes: int, seed: int) -> None:
        self.function, self.name, self.num_classes, self.seed = function, name, num_classes, seed
        draw = generator(seed, "risk search", "guesses")
        scales = torch.tensor([0.3, 1.0, 3.0, 8.0], dtype=torch.float64).repeat(GUESSES // 4)
        self.guesses = scales[:, None] * torch.randn(GUESSES, num_classes, generator=draw, dtype=torch.float64)
        probe = self.guesses[1::4][:50].clone().requires_grad_()
        losses = outcome_losses(function, name, probe)
        if bool(losses.isnan().any()):
            bad = probe[losses.isnan().any(-1)][0].tolist()
            raise ValueError(f"{name} returned nan at logits {[round(entry, 3) for entry in bad]}")
        alone = torch.cat([outcome_losses(function, name, row[None]) for row in probe[:4].detach()])
        if not torch.allclose(alone.double(), losses[:4].detach().double(), rtol=1e-4, atol=1e-6):
            raise ValueError(f"the values of {name} for one example depend on the other examples, or on chance")
        precision = torch.finfo(losses.dtype if losses.is_floating_point() else torch.float64).eps
        self.resolution = max(1e-10, 100 * precision)
        self.differentiable = losses.requires_grad
        shifted = outcome_losses(function, name, probe.detach() + 1.5).double()
        self.of_probabilities = torch.allclose(
            shifted, losses.detach().double(), rtol=self.resolution, atol=self.resolution
        )
        with torch.no_grad():
            self.outcomes_of_guesses = self.outcomes(self.guesses)

    def outcomes(self, z: Tensor) -> Tensor:
        """``(..., K)``: the loss of every outcome at logits ``(..., K)``, in float64."""
        return outcome_losses(self.function, self.name, z).double()

    def risks(self, z: Tensor, p: Tensor) -> Tensor:
        """Risks ``(n,)`` at logits ``(n, K)``; ``inf`` where they are no numbers."""
        with torch.no_grad():
            values = (p * self.outcomes(z)).sum(-1)
        return values.nan_to_num(nan=torch.inf)

    def minimise(self, truths: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(n, K)`` of the least risks found, and the risks: from the best guess, the truth and the centre."""
        first = self.guesses[(truths @ self.outcomes_of_guesses.T).nan_to_num(nan=torch.inf).argmin(1)]
        starts = torch.stack([first, truths.log(), torch.zeros_like(truths)], 1)
        p = truths.unsqueeze(1).expand_as(starts).flatten(0, 1)
        z = starts.flatten(0, 1)
        if self.differentiable:
            z = self._descend(z, p)
        z = self._creep(z, p)
        values = self.risks(z, p).reshape(starts.shape[:2])
        least = values.amin(1)
        # of equal minima the farthest from p, which shows that they are several
        equal = values <= (least + self.resolution * (1 + least.abs()))[:, None]
        distance = (softmax(z).reshape(starts.shape) - truths.unsqueeze(1)).abs().amax(-1)
        chosen = torch.where(equal, distance, -1.0).argmax(1)
        return z.reshape(starts.shape)[torch.arange(len(truths)), chosen], least

    def bounded(self, z: Tensor, p: Tensor) -> bool:
        """Whether the risk stops falling along the ray through z, and along every class's own."""
        rays = torch.cat([(z - z.mean())[None], torch.eye(len(p), dtype=torch.float64)])
        rays = torch.cat([rays, -rays]) / rays.abs().amax(-1).clamp(min=1e-6).repeat(2)[:, None]
        near, far = (self.risks(size * rays, p) for size in (1e2, 1e4))
        return not bool((far < near - 1 - 0.1 * near.abs()).any())

    def attained(self, z: Tensor, p: Tensor) -> bool:
        """Whether twice as large logits cost more."""
        centred = z - z.mean()
        once, twice = self.risks(torch.stack([centred, 2 * centred]), p).tolist()
        return float(centred.abs().max()) < 8 or twice > once + 1e-14

    def _value_and_slope(self, z: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        leaf = z.detach().requires_grad_()
        values = (p * self.outcomes(leaf)).sum(-1)
        (slope,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), slope.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

    def _descend(self, z: Tensor, p: Tensor) -> Tensor:
        """Quasi-Newton steps (BFGS, a matrix a row), halved until the risk falls."""
        unit = torch.eye(z.shape[1], dtype=z.dtype)
        inverse = unit.expand(len(z), -1, -1)
        value, slope = self._value_and_slope(z, p)
        for _ in range(STEPS):
            step = -(inverse @ slope.unsqueeze(-1)).squeeze(-1)
            uphill = (step * slope).sum(-1) >= 0
            step = torch.where(uphill[:, None], -slope, step)
            step = step / (step.abs().amax(-1, keepdim=True) / 5).clamp(min=1)
            # what is left to gain is rounding
            settled = -(step * slope).sum(-1) < 1e-15 * (1 + value.abs())
            if bool(settled.all()):
                break
            trial, falls = self._halved(z, torch.where(settled[:, None], 0.0, step), value, slope, p)
            value, turned = self._value_and_slope(trial, p)
            moved, bend = trial - z, turned - slope
            curvature = (moved * bend).sum(-1)
            curved = curvature > 1e-14
            rho = torch.where(curved, 1 / torch.where(curved, curvature, 1.0), 0.0)[:, None, None]
            shear = unit - rho * moved.unsqueeze(-1) * bend.unsqueeze(-2)
            inverse = shear @ inverse @ shear.mT + rho * moved.unsqueeze(-1) * moved.unsqueeze(-2)
            inverse = torch.where((falls & ~uphill)[:, None, None], inverse, unit)
            z, slope = trial, turned
            if float(moved.abs().max()) == 0:
                break
        return z

    def _halved(self, z: Tensor, step: Tensor, value: Tensor, slope: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """The first of step, step / 2, ... that falls enough, row by row; and which rows fall at all."""
        size, falls, trial = torch.ones_like(value), torch.zeros_like(value, dtype=torch.bool), z
        for _ in range(20):
            trial = (z + size[:, None] * step).clamp(-BOX, BOX)
            falls = self.risks(trial, p) <= value + 1e-4 * size * (step * slope).sum(-1)
            if bool(falls.all()):
                break
            size = torch.where(falls, size, size / 2)
        return torch.where(falls[:, None], trial, z), falls

    def _creep(self, z: Tensor, p: Tensor) -> Tensor:
        """Random steps of shrinking size, kept where the risk falls: to the bottom of a kink."""
        draw = generator(self.seed, "risk search", "steps")
        value = self.risks(z, p)
        rows = torch.arange(len(z))
        for size in torch.logspace(0, -6, 36).tolist():
            steps = size * torch.randn(len(z), 16, z.shape[1], generator=draw, dtype=torch.float64)
            trials = z.unsqueeze(1) + steps
            values = self.risks(trials.flatten(0, 1), p.repeat_interleave(16, 0)).reshape(len(z), 16)
            best = values.argmin(1)
            lower = values[rows, best] < value
            z = torch.where(lower[:, None], trials[rows, best], z)
            value = torch.where(lower, values[rows, best], value)
        return z
