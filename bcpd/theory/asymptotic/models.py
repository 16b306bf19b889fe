r"""Parametric classes for M-estimation: logits as a function of parameters with a leading replica axis.

R parameter vectors are one tensor ``(R, P)``, evaluated at once: R data sets fitted together, R starts of one
minimisation, or one parameter vector for each x (whose gradients are then the per-x Jacobian).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from bcpd.nets import Net
from bcpd.theory.linear import linear_design

__all__ = ["Derivatives", "Design", "LinearModel", "Model", "NetModel"]

Design = Callable[[Tensor], Tensor]
"""x ``(n, d)`` to rows ``(n, p)``."""

SMOOTH = ("tanh", "gelu", "silu")


class Derivatives(NamedTuple):
    """Of R risks in their own parameters: value ``(R,)``, gradient ``(R, P)``, hessian ``(R, P, P)``."""

    value: Tensor
    gradient: Tensor
    hessian: Tensor


class Model(ABC):
    """A class of functions from features to logits.

    Attributes:
        num_classes: K.
        size: P, the number of parameters of one function.
    """

    num_classes: int
    size: int

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """What ``logits`` reads of x ``(n, d)``: ``(n, p)``."""

    @abstractmethod
    def logits(self, theta: Tensor, features: Tensor) -> Tensor:
        """``(R, P)`` and ``(B, p)`` shared or ``(R, B, p)`` -> ``(R, B, K)``."""

    def derivatives(self, theta: Tensor, features: Tensor, risk: Callable[[Tensor], Tensor]) -> Derivatives:
        """Of ``risk(logits (R, B, K)) -> (R,)`` in the parameters, one backward pass for each of the P columns."""
        theta = theta.detach().requires_grad_()
        value = risk(self.logits(theta, features))
        (gradient,) = torch.autograd.grad(value.sum(), theta, create_graph=True)
        columns = [
            torch.autograd.grad(gradient[:, j].sum(), theta, retain_graph=j + 1 < self.size)[0]
            for j in range(self.size)
        ]
        return Derivatives(value.detach(), gradient.detach(), torch.stack(columns, -1))

    def jacobian(self, theta: Tensor, features: Tensor) -> Tensor:
        r""":math:`\partial z_k(x_i) / \partial\theta_j` at one theta ``(P,)``: ``(n, K, P)``."""
        each = theta.detach().expand(len(features), -1).clone().requires_grad_()
        z = self.logits(each, features[:, None])[:, 0]
        rows = [torch.autograd.grad(z[:, k].sum(), each, retain_graph=True)[0] for k in range(self.num_classes)]
        return torch.stack(rows, 1)


class LinearModel(Model):
    """``features @ theta``: linear in the parameters, ``theta`` read as ``(p, K - 1)`` with the last logit 0.

    The design reads images as rows of pixels.

    Args:
        columns: p, of the design.
        num_classes: K.
        design: x to rows ``(n, p)``; ``[x, 1]`` by default, the linear softmax.
        redundant: a column of parameters for every class, ``(p, K)``, as a network has them: a shift of all logits
            changes nothing, so the rank stays p (K - 1).
    """

    def __init__(
        self, columns: int, num_classes: int, design: Design = linear_design, *, redundant: bool = False
    ) -> None:
        self.columns, self.num_classes, self.design = columns, num_classes, design
        self.free = num_classes if redundant else num_classes - 1
        self.size = columns * self.free

    def features(self, x: Tensor) -> Tensor:
        return self.design(x.flatten(1))

    def logits(self, theta: Tensor, features: Tensor) -> Tensor:
        free = features @ theta.reshape(-1, self.columns, self.free)
        fixed = free.new_zeros(*free.shape[:-1], self.num_classes - self.free)
        return torch.cat([free, fixed], -1)

    def derivatives(self, theta: Tensor, features: Tensor, risk: Callable[[Tensor], Tensor]) -> Derivatives:
        r"""The Hessian is :math:`\sum_i a_i a_i^\top \otimes \nabla^2 risk(z_i)`: backward passes over logits only."""
        z = self.logits(theta.detach(), features).requires_grad_()
        value = risk(z)
        (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
        count, p, free = len(theta), self.columns, self.free
        gradient = (features.mT @ slope.detach()[..., :free]).reshape(count, self.size)
        hessian = torch.empty(count, p, free, p, free, dtype=z.dtype)
        for k in range(free):
            (curvature,) = torch.autograd.grad(slope[..., k].sum(), z, retain_graph=k + 1 < free)
            if features.ndim == 2:  # one matrix product for all replicas
                pairs = (features[:, :, None] * features[:, None, :]).flatten(1)
                block = (curvature[..., :free].mT @ pairs).reshape(count, free, p, p).permute(0, 2, 3, 1)
            else:
                blocks = [features.mT @ (features * curvature[..., j, None]) for j in range(free)]
                block = torch.stack(blocks, -1)
            hessian[:, :, k] = block
        return Derivatives(value.detach(), gradient, hessian.reshape(count, self.size, self.size))


class NetModel(Model):
    """A network with one model's parameters, flattened in the order of ``net.parameters()``.

    Raises:
        ValueError: replicas in the network itself, or an activation that is not smooth.
    """

    def __init__(self, net: Net) -> None:
        activation = getattr(net, "activation", None)
        if net.replicas is not None or activation not in SMOOTH:
            raise ValueError(
                f"asymptotics need one network with a smooth activation, one of {SMOOTH}, received {net.name} with "
                f"replicas={net.replicas} and activation={activation!r}: kinks have no Hessian"
            )
        self._net = copy.deepcopy(net).double()
        self.num_classes = net.num_classes
        self._names = [name for name, _ in net.named_parameters()]
        self._shapes = [tuple(parameter.shape) for parameter in net.parameters()]
        self._sizes = [parameter.numel() for parameter in net.parameters()]
        self.size = sum(self._sizes)
        self._every = vmap(self._one, in_dims=(0, 0))
        self._shared = vmap(self._one, in_dims=(0, None))

    @property
    def theta(self) -> Tensor:
        """The network's own parameters, ``(P,)``."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in self._net.parameters()])

    def features(self, x: Tensor) -> Tensor:
        return x

    def logits(self, theta: Tensor, features: Tensor) -> Tensor:
        leading = 1 + len(self._net.input_shape)
        every = self._shared if features.ndim == leading else self._every
        z: Tensor = every(theta, features)
        return z

    def _one(self, theta: Tensor, x: Tensor) -> Tensor:
        parts = torch.split(theta, self._sizes)
        values = {name: part.view(shape) for name, part, shape in zip(self._names, parts, self._shapes, strict=True)}
        logits: Tensor = functional_call(self._net, values, (x,)).logits
        return logits
