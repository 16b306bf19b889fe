"""One shape for every predictor: a callable, a network or a classifier becomes ``x -> log q(x)``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from bcpd.tensors import ArrayLike, float64, probability_rows

__all__ = ["Classifier", "LogPredictor", "Predict", "ReadOut", "as_predictor"]

ReadOut = Callable[[Tensor], Tensor]


@runtime_checkable
class Classifier(Protocol):
    """What is needed of a scikit-learn classifier."""

    def predict_proba(self, x: Any) -> Any:
        """Probabilities ``(n, K)`` of rows ``(n, d)``."""
        ...


@dataclass(frozen=True)
class LogPredictor:
    r"""A predictor known by its log-probabilities, :math:`x \mapsto \log q(x)`.

    For predictors that hold more in their logarithms than in their probabilities (far tails), e.g.
    ``LogPredictor(mixture.log_posterior, mixture.num_classes)``. What :func:`as_predictor` returns.

    Attributes:
        log_q: takes x ``(n, *shape)``, returns log-probabilities ``(n, K)``; ``-inf`` is legal, ``nan`` is not.
        num_classes: K.
    """

    log_q: Callable[[Tensor], ArrayLike]
    num_classes: int

    def __call__(self, x: Tensor) -> Tensor:
        """Log-probabilities, float64 ``(n, K)`` on x's device, checked.

        Raises:
            ValueError: another shape than ``(n, K)``, or a row whose exponentials are not probabilities (named).
        """
        with torch.no_grad():
            rows = float64(self.log_q(x), "predict(x)").to(x.device)
        expected = (len(x), self.num_classes)
        if tuple(rows.shape) != expected:
            raise ValueError(f"predict(x) must have shape (n, K) = {expected}, received shape {tuple(rows.shape)}")
        probability_rows(rows.exp(), "predict(x)")
        return rows


Predict = nn.Module | LogPredictor | Classifier | Callable[[Tensor], ArrayLike]


def as_predictor(predict: Predict, num_classes: int, readout: ReadOut | None = None) -> LogPredictor:
    r"""``predict`` as a callable from x (float64 ``(n, *shape)``) to log-probabilities (float64 ``(n, K)``).

    Accepted, in this order:

    - a :class:`LogPredictor`, returned as it is;
    - a torch module that returns logits ``(n, K)``, or an object with ``.logits``. It is evaluated in evaluation mode
      without gradients, and every submodule's mode is restored; its input is cast to its dtype and device. The
      logits are normalised by log-softmax in float64, so a saturated network loses nothing to underflow;
    - an object with ``predict_proba`` (scikit-learn); x is handed over as NumPy rows ``(n, d)``;
    - a callable that takes the float64 tensor x and returns probabilities (torch or NumPy).

    Probabilities are checked, not repaired: an exact zero stays one.

    Args:
        predict: the predictor.
        num_classes: K.
        readout: for modules whose probabilities are not the softmax of their logits: a function from float64 logits
            to probabilities, e.g. :func:`bcpd.simplex.project`.
    Raises:
        ValueError: something else; a readout for something that has no logits; a classifier whose classes are not
            ``0 .. K - 1`` in order; and, when called, output that is not ``(n, K)`` probabilities.
    """
    if isinstance(predict, nn.Module):
        module = predict
        return LogPredictor(lambda x: _log_read_out(_logits(module, x), readout), num_classes)
    if readout is not None:
        raise ValueError(f"a readout needs a torch module's logits, received predict of type {type(predict).__name__}")
    if isinstance(predict, LogPredictor):
        if predict.num_classes != num_classes:
            raise ValueError(f"predict must have {num_classes} classes, received {predict.num_classes}")
        return predict
    if isinstance(predict, Classifier):
        classifier = predict
        _check_classes(classifier, num_classes)
        return LogPredictor(
            lambda x: _log(classifier.predict_proba(x.reshape(len(x), -1).cpu().numpy()), num_classes), num_classes
        )
    if callable(predict):
        function = predict
        return LogPredictor(lambda x: _log(function(x), num_classes), num_classes)
    raise ValueError(
        f"predict must be a callable, a torch module or an object with predict_proba, received {type(predict).__name__}"
    )


def _log(probabilities: ArrayLike, num_classes: int) -> Tensor:
    return probability_rows(probabilities, "predict(x)", num_classes=num_classes).log()


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _logits(module: nn.Module, x: Tensor) -> Tensor:
    """The module's logits at x, float64 on x's device."""
    weights = chain(module.parameters(), module.buffers())
    like = next((tensor for tensor in weights if tensor.is_floating_point()), x)
    with _evaluation_mode(module):
        output = module(x.to(device=like.device, dtype=like.dtype))
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"a network must return a tensor of logits or an object with .logits, received {type(output).__name__}"
        )
    # the device first: some accelerators have no float64
    return logits.to(x.device).to(torch.float64)


def _log_read_out(logits: Tensor, readout: ReadOut | None) -> Tensor:
    if readout is None:
        return torch.log_softmax(logits, -1)
    return probability_rows(readout(logits), "readout(logits)").log()


def _check_classes(classifier: Classifier, num_classes: int) -> None:
    classes = getattr(classifier, "classes_", None)
    if classes is not None and not np.array_equal(np.asarray(classes), np.arange(num_classes)):
        raise ValueError(
            f"the classifier's classes_ must be 0..{num_classes - 1} in order (train it on a sample that holds every "
            f"class), received {list(classes)[:12]}"
        )
