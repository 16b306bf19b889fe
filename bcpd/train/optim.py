"""SGD and Adam with a rate and a decay for each replica; for a single network, torch's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bcpd.train.recipe import Recipe

__all__ = ["AnyOptimizer", "ReplicaAdam", "ReplicaOptimizer", "ReplicaSGD", "build_optimizer", "set_rates"]


class ReplicaOptimizer(ABC):
    """Parameters carry R replicas on their leading axis; ``rates`` and ``decays`` hold one number for each.

    A replica's rate multiplies its update, never its loss: momentum, decay and Adam's moments are those of R separate
    optimizers. The interface is the part of :class:`torch.optim.Optimizer` that the trainer uses.

    Raises:
        ValueError: a parameter without the replicas on its leading axis.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decays: Sequence[float]) -> None:
        self.parameters = list(parameters)
        self.replicas = len(decays)
        self.rates: list[float] = [0.0] * self.replicas
        self.decays = list(decays)
        self.state: list[dict[str, Tensor]] = [{} for _ in self.parameters]
        self._held: dict[tuple[object, ...], Tensor] = {}
        for parameter in self.parameters:
            if parameter.ndim < 1 or parameter.shape[0] != self.replicas:
                raise ValueError(
                    f"every parameter must have the {self.replicas} replicas on its leading axis, "
                    f"received shape {tuple(parameter.shape)}"
                )

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        for parameter, state in zip(self.parameters, self.state, strict=True):
            if parameter.grad is not None:
                gradient = parameter.grad
                if any(self.decays):
                    gradient = gradient.addcmul(parameter, self._columns(self.decays, parameter))
                self._update(parameter, gradient, state)

    @abstractmethod
    def _update(self, parameter: nn.Parameter, gradient: Tensor, state: dict[str, Tensor]) -> None:
        """Change one parameter in place, given its gradient (decay included) and its moments."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The moments, in the layout of :meth:`torch.optim.Optimizer.state_dict`."""
        return {"state": {i: dict(state) for i, state in enumerate(self.state)}, "param_groups": []}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up saved moments."""
        self.state = [dict(state_dict["state"].get(i, {})) for i in range(len(self.parameters))]

    def _columns(self, values: Sequence[float], like: Tensor) -> Tensor:
        """One number a replica, to multiply a parameter by; kept, since most schedules repeat themselves."""
        key = (tuple(values), like.ndim, like.dtype, like.device)
        if key not in self._held:
            if len(self._held) > 64:
                self._held.clear()
            column = torch.tensor(values, dtype=like.dtype, device=like.device)
            self._held[key] = column.view(-1, *[1] * (like.ndim - 1))
        return self._held[key]


class ReplicaSGD(ReplicaOptimizer):
    r"""SGD as :class:`torch.optim.SGD` defines it, replica by replica.

    :math:`g \leftarrow g + \lambda_r w`, :math:`v \leftarrow \mu v + g`, :math:`w \leftarrow w - \eta_r v` (Nesterov:
    :math:`w \leftarrow w - \eta_r (g + \mu v)`).
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], decays: Sequence[float], momentum: float = 0.0, nesterov: bool = False
    ) -> None:
        super().__init__(parameters, decays)
        self.momentum, self.nesterov = momentum, nesterov

    def _update(self, parameter: nn.Parameter, gradient: Tensor, state: dict[str, Tensor]) -> None:
        update = gradient
        if self.momentum:
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = gradient.clone()
            else:
                torch.add(gradient, state["momentum_buffer"], alpha=self.momentum, out=state["momentum_buffer"])
            buffer = state["momentum_buffer"]
            update = gradient.add(buffer, alpha=self.momentum) if self.nesterov else buffer
        parameter.addcmul_(update, self._columns(self.rates, parameter), value=-1)


class ReplicaAdam(ReplicaOptimizer):
    r"""Adam as :class:`torch.optim.Adam` defines it (betas 0.9, 0.999, eps 1e-8), replica by replica."""

    def _update(self, parameter: nn.Parameter, gradient: Tensor, state: dict[str, Tensor]) -> None:
        beta1, beta2, eps = 0.9, 0.999, 1e-8
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float64)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        count = float(state["step"])
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = state["exp_avg_sq"].sqrt().div_((1 - beta2**count) ** 0.5).add_(eps)
        rates = [rate / (1 - beta1**count) for rate in self.rates]
        parameter.addcmul_(state["exp_avg"] / denominator, self._columns(rates, parameter), value=-1)


AnyOptimizer = torch.optim.Optimizer | ReplicaOptimizer


def build_optimizer(
    recipe: Recipe, parameters: Sequence[nn.Parameter], replicas: int | None, captured: bool = False
) -> AnyOptimizer:
    """The recipe's optimizer: torch's own for a single network, the replica-wise one for R of them.

    One whose steps are ``captured`` in CUDA graphs reads its rate from a tensor and is torch's fused one.
    """
    decays = recipe.decays(replicas)
    rates = recipe.rates(replicas)
    if replicas is not None:
        if recipe.optimizer == "adam":
            return ReplicaAdam(parameters, decays)
        return ReplicaSGD(parameters, decays, recipe.momentum, recipe.nesterov)
    # in float32, which is what the fused kernels read
    rate: Any = torch.tensor(rates[0], dtype=torch.float32, device=parameters[0].device) if captured else rates[0]
    own: dict[str, Any] = {"fused": True} if captured else {}
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decays[0], capturable=captured, **own)
    return torch.optim.SGD(
        parameters, lr=rate, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=decays[0], **own
    )


def set_rates(optimizer: AnyOptimizer, rates: Sequence[float]) -> None:
    """Set the learning rate for the next step: one for torch's optimizers, one a replica for ours."""
    if isinstance(optimizer, ReplicaOptimizer):
        optimizer.rates = list(rates)
        return
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rates[0])
        else:
            group["lr"] = rates[0]
