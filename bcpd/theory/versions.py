"""The right version of Theorem 1's three ingredients for a loss, and the wrong ones that serve as negative controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from bcpd.losses import LOSSES, Loss

__all__ = ["CONTROLS", "LOSSES_CHECKED", "MATRIX", "Version", "version"]


@dataclass(frozen=True)
class Version:
    r"""A label loss, and the constant and divergence that are claimed to make up its risk.

    The claim is :math:`E\,\ell(y, q) = E\,c(p^*) + E\,d(p^*, q)`.

    Attributes:
        label_loss: ``(logits, labels) -> (...)``: the trainer's own code.
        constant: ``p -> (...)``; divergence: ``(p, q) -> (...)``.
        readout: logits to probabilities.
        realised: replace the expectation over labels by one drawn label for each x.
    """

    label_loss: Callable[[Tensor, Tensor], Tensor]
    constant: Callable[[Tensor], Tensor]
    divergence: Callable[[Tensor, Tensor], Tensor]
    readout: Callable[[Tensor], Tensor]
    realised: bool = False

    def as_loss(self) -> Loss:
        """The label loss as a :class:`Loss`, so that the trainer can be given it."""
        return Loss("version", self.label_loss, lambda p: p)


CONTROLS: Mapping[str, str] = {
    "dropped_constant": "the constant E H(p*) is left out",
    "over_K": "the label loss is averaged, the divergence summed over the K classes",
    "swapped_arguments": "the divergence is taken the wrong way round, d(q, p*)",
    "label_smoothing": "the label loss is cross-entropy with smoothed labels (epsilon 0.1)",
    "focal": "the label loss is the focal loss (gamma 2)",
    "mae": "the label loss is the mean absolute error",
    "logits": "the square loss is applied to raw logits, and read out by softmax",
    "realised_labels": "every x keeps one drawn label, as in a training sample",
    "reversed": "the other loss's minimiser is claimed to be closer",
    "well_specified": "p* lies in the class, and a gap is claimed all the same",
}

LOSSES_CHECKED = ("ce", "mse")

_BREAKS = dict.fromkeys(("label_smoothing", "focal", "mae", "logits", "realised_labels"), ("fails", "fails"))

_MATRIX: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # claim -> control -> what it does to the claim for each of LOSSES_CHECKED: "fails", "passes", or "-" (no meaning)
    "risk-identity": {
        "dropped_constant": ("fails", "fails"),
        "over_K": ("fails", "fails"),
        "swapped_arguments": ("fails", "passes"),
        **_BREAKS,
    },
    "gradient-identity": {
        "dropped_constant": ("passes", "passes"),
        "over_K": ("fails", "fails"),
        "swapped_arguments": ("fails", "passes"),
        **_BREAKS,
    },
    "minimiser-equality": {
        "dropped_constant": ("passes", "passes"),
        "over_K": ("passes", "passes"),
        "swapped_arguments": ("fails", "passes"),
        **_BREAKS,
    },
    "minimiser-is-bayes": {
        "dropped_constant": ("passes", "passes"),
        "over_K": ("passes", "passes"),
        "swapped_arguments": ("passes", "passes"),
        **_BREAKS,
    },
    "own-metric": {
        "dropped_constant": ("passes", "passes"),
        "over_K": ("passes", "passes"),
        "swapped_arguments": ("-", "passes"),
        "reversed": ("fails", "fails"),
        "well_specified": ("fails", "fails"),
    },
}

MATRIX: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    claim: {control: dict(zip(LOSSES_CHECKED, effects, strict=True)) for control, effects in row.items()}
    for claim, row in _MATRIX.items()
}
"""``MATRIX[claim][control][loss]``: which negative control belongs to which claim and loss. A control that must fail
and passes, or one that has no bearing on a claim and yet breaks it, is a defect of the suite."""


def version(loss: str, control: str | None = None) -> Version:
    """The right version for ``ce`` or ``mse``, or the wrong one that a control of :data:`CONTROLS` makes of it.

    Raises:
        ValueError: a loss that is not strictly proper, or an unknown control.
    """
    right = LOSSES.get(loss)
    if right is None or right.entropy is None or right.divergence is None:
        proper = sorted(name for name, entry in LOSSES.items() if entry.proper)
        raise ValueError(f"loss must be strictly proper, one of {proper}, received {loss!r}")
    base = Version(right.function, right.entropy, right.divergence, right.readout())
    label_loss, divergence = base.label_loss, base.divergence
    if control is None or control in ("reversed", "well_specified"):
        return base
    if control == "dropped_constant":
        return replace(base, constant=lambda p: 0 * p[..., 0])
    if control == "over_K":
        return replace(base, label_loss=lambda z, y: label_loss(z, y) / z.shape[-1])
    if control == "swapped_arguments":
        return replace(base, divergence=lambda p, q: divergence(q, p))
    if control in ("label_smoothing", "focal", "mae"):
        return replace(base, label_loss=LOSSES[control].function)
    if control == "logits":
        return replace(base, label_loss=LOSSES["logit_mse"].function)
    if control == "realised_labels":
        return replace(base, realised=True)
    raise ValueError(f"control must be one of {sorted(CONTROLS)}, received {control!r}")
