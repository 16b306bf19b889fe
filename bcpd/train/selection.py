"""Which epoch of a training to keep: the last, the best on validation, and the minimum of the path, kept apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Keeper", "criteria"]

State = dict[str, Tensor]


def criteria(scores: Sequence[str], metrics: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Checkpoint name -> what is to be small, one number a replica; only where its metric was measured.

    ``best_accuracy`` and ``best_score`` (of each replica its own, ``nll`` or ``brier``) look at validation labels;
    ``path_minimum_mse`` and ``path_minimum_kl`` at the ``select`` half of the held-out points, so that the ``fresh``
    half reports them without selection bias.
    """
    found: dict[str, list[float]] = {}
    if "validation_accuracy" in metrics:
        found["best_accuracy"] = [-value for value in metrics["validation_accuracy"]]
    if all(f"validation_{score}" in metrics for score in scores):
        found["best_score"] = [metrics[f"validation_{score}"][r] for r, score in enumerate(scores)]
    for distance in ("mse", "kl"):
        if f"select_{distance}" in metrics:
            found[f"path_minimum_{distance}"] = list(metrics[f"select_{distance}"])
    return found


class Keeper:
    """The best state so far by each criterion, replica by replica; ties keep the earlier epoch.

    Attributes:
        states: checkpoint name -> a state dict (replicas picked at different epochs are put together in it).
        epochs: checkpoint name -> the 1-based epoch each replica was picked at.
    """

    def __init__(self, scores: Sequence[str], replicas: int | None) -> None:
        self.scores = list(scores)
        self.replicas = replicas
        self.states: dict[str, State] = {}
        self.epochs: dict[str, list[int]] = {}
        self.best: dict[str, list[float]] = {}

    def update(self, epoch: int, metrics: Mapping[str, list[float]], state: Mapping[str, Tensor]) -> None:
        """Look at one epoch's metrics and keep the replicas that improved. A metric of ``nan`` never improves."""
        for name, values in criteria(self.scores, metrics).items():
            if name not in self.states:
                self.states[name] = {key: tensor.detach().clone() for key, tensor in state.items()}
                self.epochs[name] = [epoch] * len(values)
                self.best[name] = [math.inf if math.isnan(value) else value for value in values]
                continue
            better = [value < best for value, best in zip(values, self.best[name], strict=True)]
            if not any(better):
                continue
            for replica, improved in enumerate(better):
                if improved:
                    self.best[name][replica] = values[replica]
                    self.epochs[name][replica] = epoch
            self._copy(self.states[name], state, better)

    def _copy(self, kept: State, state: Mapping[str, Tensor], better: list[bool]) -> None:
        if self.replicas is None:
            for key, tensor in state.items():
                kept[key].copy_(tensor)
            return
        chosen = torch.tensor(better).nonzero().squeeze(-1)
        for key, tensor in state.items():
            rows = chosen.to(tensor.device)
            kept[key][rows] = tensor.detach()[rows]

    def export(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and a JSON-able record, for a checkpoint."""
        tensors = {f"kept.{name}.{key}": t for name, state in self.states.items() for key, t in state.items()}
        return tensors, {"epochs": self.epochs, "best": self.best}

    def restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any], device: torch.device) -> None:
        """The inverse of :meth:`export`."""
        self.epochs = {name: list(epochs) for name, epochs in record["epochs"].items()}
        self.best = {name: [float(value) for value in values] for name, values in record["best"].items()}
        for name in self.epochs:
            prefix = f"kept.{name}."
            self.states[name] = {
                key.removeprefix(prefix): tensor.to(device) for key, tensor in tensors.items() if key.startswith(prefix)
            }
