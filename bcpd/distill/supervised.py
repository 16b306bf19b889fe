"""Training on labels, on p* itself or on given rows: the method that makes a teacher, and ignores an absent one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from bcpd.data import Batch
from bcpd.distill.functional import masked_mean
from bcpd.distill.method import Method
from bcpd.losses import LOSSES, Loss
from bcpd.nets import Views
from bcpd.tensors import log_softmax

__all__ = ["Supervised"]

_NEED = {"labels": "labels", "bayes": "bayes", "given": "targets"}


class Supervised(Method):
    r"""Mean over the batch of a loss of :mod:`bcpd.losses`, against labels, p* or the source's own rows.

    With ``target="labels"`` this is empirical risk minimisation, :math:`\frac1B\sum_i \ell(y_i, q(x_i))`; with
    ``target="bayes"`` it is the Bayes-distilled risk :math:`\frac1B\sum_i \sum_k p^*_k(x_i)\,\ell(k, q(x_i))`
    (Menon et al. 2021), which needs a source that knows p*. With ``target="given"`` the rows t are those of
    ``InMemory(targets=...)``, :math:`\frac1B\sum_i \sum_k t_{ik}\,\ell(k, q(x_i))`: where inputs are not augmented and
    t is a frozen teacher's output, CE on them is distillation at T = 1 without a label term, up to a constant.

    Args:
        loss: a name in :data:`bcpd.losses.LOSSES`, or a :class:`bcpd.losses.Loss` of your own.
        target: ``"labels"``, ``"bayes"`` or ``"given"``.
        readout: for losses with several read-outs (``logit_mse``), which one the network is measured by.
    Raises:
        ValueError: an unknown loss, target or read-out.
    """

    couples = False

    def __init__(
        self, loss: str | Loss, target: Literal["labels", "bayes", "given"] = "labels", readout: str | None = None
    ) -> None:
        super().__init__()
        if isinstance(loss, str):
            if loss not in LOSSES:
                raise ValueError(f"loss must be one of {sorted(LOSSES)} or a Loss, received {loss!r}")
            loss = LOSSES[loss]
        if target not in _NEED:
            raise ValueError(f"target must be one of {sorted(_NEED)}, received {target!r}")
        self.label_loss = loss
        self.target = target
        self._readout = loss.readout(readout)
        self._readout_name = readout or next(iter(loss.readouts))
        self.score = loss.score
        self.needs = frozenset({_NEED[target]})

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        """One term, ``label``; against labels, unlabelled examples of the batch are left out of its mean."""
        if self.target != "labels":
            rows = batch.bayes if self.target == "bayes" else batch.targets
            if rows is None:
                what = "p*" if self.target == "bayes" else "targets"
                raise ValueError(
                    f"Supervised(target={self.target!r}) needs {what} in the batch, but the batch has none"
                )
            return {"label": self.label_loss.function(s.logits, rows).mean(-1)}
        return {"label": masked_mean(self.label_loss.function(s.logits, batch.y), batch.labelled)}

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """By the loss's own read-out; a probability of exactly 0 is ``-inf``, as it should be."""
        if self._readout_name == "softmax":
            return log_softmax(logits)
        return self._readout(logits).log().to(logits.dtype)

    def describe(self) -> dict[str, Any]:
        """The loss, its target and its read-out."""
        return {
            "method": type(self).__name__,
            "loss": self.label_loss.name,
            "parameters": dict(self.label_loss.parameters),
            "target": self.target,
            "readout": self._readout_name,
        }
