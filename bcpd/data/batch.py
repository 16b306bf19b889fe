"""What a training step receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """B examples, or B for each of R replicas: leading shape ``(B,)`` or ``(R, B)`` throughout.

    Attributes:
        x: ``(..., *shape)``, what the networks see.
        y: ``(...)`` int64 labels.
        index: ``(...)`` int64, where each example stands in its source; memory banks and caches key on it.
        log_bayes: ``(..., K)`` float64, exact log p*(x), or None where p* is unknown.
        labelled: ``(...)`` bool, False where a semi-supervised method must not look at ``y``; None: all are.
        targets: ``(..., K)``, the probability rows that the source was given to learn from, or None.
        extra: further tensors of the same leading shape by name, e.g. ``view`` where an augmentation was drawn.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    log_bayes: Tensor | None = None
    labelled: Tensor | None = None
    targets: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def bayes(self) -> Tensor | None:
        """p*(x), ``(..., K)`` float64, or None where it is unknown."""
        return None if self.log_bayes is None else self.log_bayes.exp()
