"""The right version of Theorem 1's three ingredients for a loss, and the wrong ones that serve as negative controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from torch import Tensor

from bcpd.losses import LOSSES, Loss
from bcpd.theory.scores.own_loss import loss_from_callable

__all__ = ["CONTROLS", "LOSSES_CHECKED", "MATRIX", "Version", "claimed_proper", "effects_on", "version"]


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

LOSSES_CHECKED = ("ce", "mse", "spherical", "power", "ranked_probability")
SYMMETRIC = ("mse", "ranked_probability")
"""Losses with d(p, q) = d(q, p): swapping the arguments changes nothing."""


def _all(effect: str) -> dict[str, str]:
    return dict.fromkeys(LOSSES_CHECKED, effect)


_SWAPPED = {loss: "passes" if loss in SYMMETRIC else "fails" for loss in LOSSES_CHECKED}
_BREAKS = {name: _all("fails") for name in ("label_smoothing", "focal", "mae", "logits", "realised_labels")}

MATRIX: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "risk-identity": {
        "dropped_constant": _all("fails"),
        "over_K": _all("fails"),
        "swapped_arguments": _SWAPPED,
        **_BREAKS,
    },
    "gradient-identity": {
        "dropped_constant": _all("passes"),
        "over_K": _all("fails"),
        "swapped_arguments": _SWAPPED,
        **_BREAKS,
    },
    "minimiser-equality": {
        "dropped_constant": _all("passes"),
        "over_K": _all("passes"),
        "swapped_arguments": _SWAPPED,
        **_BREAKS,
    },
    "minimiser-is-bayes": {
        "dropped_constant": _all("passes"),
        "over_K": _all("passes"),
        "swapped_arguments": _all("passes"),
        **_BREAKS,
    },
    "own-metric": {
        "dropped_constant": {"ce": "passes", "mse": "passes"},
        "over_K": {"ce": "passes", "mse": "passes"},
        "swapped_arguments": {"ce": "-", "mse": "passes"},
        "reversed": {"ce": "fails", "mse": "fails"},
        "well_specified": {"ce": "fails", "mse": "fails"},
    },
}
"""``MATRIX[claim][control][loss]``: which negative control belongs to which claim and loss: it ``fails``, as it should,
or ``passes`` as it has no bearing there, or has no meaning (``-``). A control that must fail and passes, or one that
has no bearing on a claim and yet breaks it, is a defect of the suite."""

_NOT_KNOWN = ("dropped_constant", "swapped_arguments")


def effects_on(claim: str, loss: str) -> Mapping[str, str]:
    """Control -> ``fails`` or ``passes`` for one claim and loss.

    A loss that the matrix does not know (a user's) has the controls that do not hang on its entropy's size or on the
    symmetry of its divergence.
    """
    known = loss in LOSSES_CHECKED
    row = {
        control: effects.get(loss if known else "mse", "-")
        for control, effects in MATRIX[claim].items()
        if known or control not in _NOT_KNOWN
    }
    return {control: effect for control, effect in row.items() if effect != "-"}


def claimed_proper(loss: Loss) -> Loss:
    """The loss itself; an improper one with the entropy and divergence it would have if it were proper.

    Those come from Savage's representation (:func:`.own_loss.loss_from_callable`), read out by softmax.
    Theorem 1's claims about it come out false, as they should.
    """
    return loss if loss.proper else loss_from_callable(loss.function, loss.name)


def version(loss: str | Loss, control: str | None = None) -> Version:
    """The right version for a loss, or the wrong one that a control of :data:`CONTROLS` makes of it.

    Args:
        loss: the name of a strictly proper loss, or a loss with an entropy and a divergence.
    Raises:
        ValueError: a loss that is not strictly proper, or an unknown control.
    """
    return _named_version(loss, control) if isinstance(loss, str) else _version(loss, control)


@lru_cache(maxsize=256)
def _named_version(name: str, control: str | None) -> Version:
    if name not in LOSSES or not LOSSES[name].proper:
        proper = sorted(key for key, entry in LOSSES.items() if entry.proper)
        raise ValueError(f"loss must be strictly proper, one of {proper}, received {name!r}")
    return _version(LOSSES[name], control)


def _version(right: Loss, control: str | None) -> Version:
    if right.entropy is None or right.divergence is None:
        raise ValueError(f"loss must be strictly proper, with entropy and divergence, received {right.name!r}")
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
