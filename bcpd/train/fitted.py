"""The result of a training: its path, its states, and networks made from them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bcpd.distill import Method
from bcpd.nets import Views

__all__ = ["Fitted", "OneForAll", "ReadOut"]


class ReadOut(nn.Module):
    r"""A network whose logits are the log-probabilities of its method's read-out; frozen, in eval mode.

    For a softmax read-out the logits only lose a constant; for the projection read-out of ``logit_mse`` they become
    the logarithm of the projected probabilities, ``-inf`` where those are 0. This is what a student should see.

    Args:
        net, method: as trained.
        temperature: T > 0, the logits are those of :math:`q_T \propto q^{1/T}` (before normalisation).
    Raises:
        ValueError: a temperature that is not positive and finite.
    """

    def __init__(self, net: nn.Module, method: Method, temperature: float = 1.0) -> None:
        super().__init__()
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature must be positive and finite, received {temperature}")
        self.net = net
        self.method = method
        self.temperature = float(temperature)
        self.replicas = getattr(net, "replicas", None)
        self.num_classes = getattr(net, "num_classes", None)
        self.requires_grad_(False)
        self.eval()

    def forward(self, x: Tensor) -> Views:
        views: Views = self.net(x)
        logits = self.method.log_probabilities(views.logits)
        return views._replace(logits=logits if self.temperature == 1 else logits / self.temperature)


class OneForAll(nn.Module):
    """A single teacher in front of R students: it sees the inputs of all, ``(R, B, *shape)``, as one batch."""

    def __init__(self, net: nn.Module, replicas: int, axes: int) -> None:
        super().__init__()
        self.net, self.replicas, self.axes = net, replicas, axes

    def forward(self, x: Tensor) -> Views:
        if x.ndim == 1 + self.axes:
            x = x.expand(self.replicas, *x.shape)
        views: Views = self.net(x.flatten(0, 1))

        def apart(view: Tensor) -> Tensor:
            return view.reshape(*x.shape[:2], *view.shape[1:])

        return Views(
            apart(views.logits),
            apart(views.pooled),
            tuple(apart(stage) for stage in views.stages),
            tuple(apart(preact) for preact in views.preacts),
        )


@dataclass
class Fitted:
    """What :func:`bcpd.fit` returns.

    Attributes:
        net: the network with its last weights.
        method: the method it was trained with (its learned parts included, which :meth:`network` leaves out).
        history: one dict an epoch; besides ``epoch``, every metric is a list with one number a replica.
        states: checkpoint -> state dict, for ``last`` and, where they were measured, ``best_accuracy``,
            ``best_score``, ``path_minimum_mse``, ``path_minimum_kl``.
        epochs: checkpoint -> the 1-based epoch of each replica.
        identity: digest of everything that determines the run.
    """

    net: nn.Module
    method: Method
    history: list[dict[str, Any]]
    states: dict[str, dict[str, Tensor]]
    epochs: dict[str, list[int]]
    identity: str

    def network(self, checkpoint: str = "last") -> nn.Module:
        """A copy of the network with the weights of ``checkpoint``, in eval mode.

        Raises:
            ValueError: an unknown checkpoint; the message lists those there are.
        """
        net = copy.deepcopy(self.net)
        net.load_state_dict(self._checkpoint(self.states, checkpoint))
        return net.eval()

    def teacher(self, checkpoint: str = "last", temperature: float = 1.0) -> ReadOut:
        """The network of ``checkpoint`` as a frozen teacher, read out as its loss says, at a temperature of its own
        (:func:`bcpd.measure.fit_temperature`)."""
        return ReadOut(self.network(checkpoint), copy.deepcopy(self.method), temperature)

    def at(self, checkpoint: str = "last") -> list[dict[str, float]]:
        """The metrics of each replica at the epoch of ``checkpoint``, with that ``epoch``."""
        rows = []
        for replica, epoch in enumerate(self._checkpoint(self.epochs, checkpoint)):
            metrics = self.history[epoch - 1]
            rows.append({name: value[replica] for name, value in metrics.items() if name != "epoch"} | {"epoch": epoch})
        return rows

    @property
    def diverged(self) -> list[int | None]:
        """For each replica the first epoch whose loss, or after which one of its logits, was not finite; or None."""
        replicas = range(len(self.history[0]["train_loss"]))
        return [
            next(
                (
                    row["epoch"]
                    for row in self.history
                    if not math.isfinite(row["train_loss"][replica]) or not row["finite"][replica]
                ),
                None,
            )
            for replica in replicas
        ]

    def path(self, metric: str) -> Tensor:
        """A metric along the path, float64 ``(epochs, R)`` (R = 1 for a network without replicas).

        Raises:
            ValueError: a metric that was not measured; the message lists those that were.
        """
        names = [name for name in self.history[0] if name != "epoch"]
        if metric not in names:
            raise ValueError(f"metric must be one of {names}, received {metric!r}")
        return torch.tensor([row[metric] for row in self.history], dtype=torch.float64)

    def _checkpoint(self, table: Mapping[str, Any], checkpoint: str) -> Any:
        if checkpoint not in table:
            raise ValueError(f"checkpoint must be one of {sorted(table)}, received {checkpoint!r}")
        return table[checkpoint]
