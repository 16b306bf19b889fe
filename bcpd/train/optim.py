"""SGD and Adam with a rate and a decay for each replica; for a single network, torch's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bcpd.train.recipe import Recipe

__all__ = ["ReplicaAdam", "ReplicaSGD", "build_optimizer", "set_rates"]


class _ReplicaOptimizer(torch.optim.Optimizer):
    """Parameters carry R replicas on their leading axis; ``rates`` and ``decays`` hold one number for each.

    A replica's rate multiplies its update, never its loss: momentum, decay and Adam's moments are those of R separate
    optimizers.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decays: Sequence[float], options: dict[str, Any]) -> None:
        super().__init__(list(parameters), options)
        self.replicas = len(decays)
        self.rates: list[float] = [0.0] * self.replicas
        self.decays = list(decays)
        for parameter in parameters:
            if parameter.ndim < 1 or parameter.shape[0] != self.replicas:
                raise ValueError(
                    f"every parameter must have the {self.replicas} replicas on its leading axis, "
                    f"received shape {tuple(parameter.shape)}"
                )

    def _columns(self, values: Sequence[float], like: Tensor) -> Tensor:
        column = torch.tensor(values, dtype=like.dtype, device=like.device)
        return column.view(-1, *[1] * (like.ndim - 1))

    def _decayed(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        if any(self.decays):
            return gradient.addcmul(parameter, self._columns(self.decays, parameter))
        return gradient


class ReplicaSGD(_ReplicaOptimizer):
    r"""SGD as :class:`torch.optim.SGD` defines it, replica by replica.

    :math:`g \leftarrow g + \lambda_r w`, :math:`v \leftarrow \mu v + g`, :math:`w \leftarrow w - \eta_r v` (Nesterov:
    :math:`w \leftarrow w - \eta_r (g + \mu v)`).
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], decays: Sequence[float], momentum: float, nesterov: bool
    ) -> None:
        super().__init__(parameters, decays, {"momentum": momentum, "nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            momentum, nesterov = group["momentum"], group["nesterov"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = self._decayed(parameter, parameter.grad)
                if momentum:
                    state = self.state[parameter]
                    if "momentum_buffer" not in state:
                        state["momentum_buffer"] = update.clone()
                    else:
                        state["momentum_buffer"].mul_(momentum).add_(update)
                    buffer = state["momentum_buffer"]
                    update = update.add(buffer, alpha=momentum) if nesterov else buffer
                parameter.addcmul_(update, self._columns(self.rates, parameter), value=-1)


class ReplicaAdam(_ReplicaOptimizer):
    r"""Adam as :class:`torch.optim.Adam` defines it (betas 0.9, 0.999, eps 1e-8), replica by replica."""

    def __init__(self, parameters: Sequence[nn.Parameter], decays: Sequence[float]) -> None:
        super().__init__(parameters, decays, {"betas": (0.9, 0.999), "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            (beta1, beta2), eps = group["betas"], group["eps"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = self._decayed(parameter, parameter.grad)
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] += 1
                count = float(state["step"])
                state["exp_avg"].lerp_(gradient, 1 - beta1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                denominator = state["exp_avg_sq"].sqrt().div_((1 - beta2**count) ** 0.5).add_(eps)
                rates = [rate / (1 - beta1**count) for rate in self.rates]
                parameter.addcmul_(state["exp_avg"] / denominator, self._columns(rates, parameter), value=-1)


def build_optimizer(
    recipe: Recipe, parameters: Sequence[nn.Parameter], replicas: int | None
) -> torch.optim.Optimizer:
    """The recipe's optimizer: torch's own for a single network, the replica-wise one for R of them."""
    decays = recipe.decays(replicas)
    rates = recipe.rates(replicas)
    if replicas is not None:
        if recipe.optimizer == "adam":
            return ReplicaAdam(parameters, decays)
        return ReplicaSGD(parameters, decays, recipe.momentum, recipe.nesterov)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rates[0], weight_decay=decays[0])
    return torch.optim.SGD(
        parameters, lr=rates[0], momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=decays[0]
    )


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    """Set the learning rate for the next step: one for torch's optimizers, one a replica for ours."""
    if isinstance(optimizer, _ReplicaOptimizer):
        optimizer.rates = list(rates)
    else:
        for group in optimizer.param_groups:
            group["lr"] = rates[0]
