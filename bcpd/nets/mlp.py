"""The multilayer perceptron, one model or R of them with a leading replica axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bcpd.nets.views import HandNet, TapShapes, Views
from bcpd.seeds import generator

__all__ = ["ACTIVATIONS", "MLP", "Affine"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "silu": functional.silu,
}

Derivative = Callable[[Tensor, Tensor, Tensor], Tensor]
_DERIVATIVES: dict[str, Derivative] = {
    "relu": lambda gradient, _, output: torch.ops.aten.threshold_backward(gradient, output, 0),
    "tanh": lambda gradient, _, output: torch.ops.aten.tanh_backward(gradient, output),
    "gelu": lambda gradient, preact, _: torch.ops.aten.gelu_backward(gradient, preact),
    "silu": lambda gradient, preact, _: torch.ops.aten.silu_backward(gradient, preact),
}
"""(gradient of the output, the activation's input and output) -> gradient of the input, as autograd has it."""


class Affine(nn.Module):
    r""":math:`x W + b` with ``W`` of shape ``(in, out)``, or ``(R, in, out)`` for ``x`` of shape ``(R, B, in)``.

    Starts as :class:`torch.nn.Linear` does, weights and biases uniform on :math:`\pm 1/\sqrt{in}`; replica r is drawn
    from ``streams[r]`` alone.
    """

    def __init__(self, inputs: int, outputs: int, streams: Sequence[torch.Generator], stacked: bool) -> None:
        super().__init__()
        bound = inputs**-0.5
        weight = torch.empty(len(streams), inputs, outputs)
        bias = torch.empty(len(streams), outputs)
        for replica, stream in enumerate(streams):
            weight[replica].uniform_(-bound, bound, generator=stream)
            bias[replica].uniform_(-bound, bound, generator=stream)
        self.weight = nn.Parameter(weight if stacked else weight[0])
        self.bias = nn.Parameter(bias if stacked else bias[0])

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.ndim == 2:
            return torch.addmm(self.bias, x, self.weight)
        return torch.baddbmm(self.bias[:, None], x, self.weight)


def _add(parameter: Tensor, gradient: Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _hooks(module: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds)


def _read_out(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    r"""The last layer :math:`h W + b`, formed class by class.

    With few classes the product ``(B, F) x (F, K)`` runs at a fifth of what the transposed product does (10 columns
    fill no vector register). The logits come out as a view whose memory is ``(..., K, B)``, which is also the fast side
    for a softmax over few classes.
    """
    add = torch.addmm if weight.ndim == 2 else torch.baddbmm
    return add(bias.unsqueeze(-1), weight.mT, features.mT).mT


class MLP(HandNet):
    """Hidden layers and a linear read-out; ``hidden=()`` is the linear softmax classifier.

    ``stages`` are the hidden activations, ``preacts`` the hidden layers before it, ``pooled`` the last hidden
    activation (the flattened input where there is none).

    Args:
        num_classes: K >= 2.
        input_shape: of one x; it is flattened to d values inside.
        seed: an int, or R of them for R replicas. Replica r has exactly the parameters of the single network built
            from its seed.
        hidden: widths of the hidden layers.
        activation: a key of ``ACTIVATIONS``.
    Raises:
        ValueError: no seeds, a width < 1 or an unknown activation.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        input_shape: tuple[int, ...],
        seed: int | Sequence[int] = 0,
        hidden: Sequence[int] = (128, 128),
        activation: str = "relu",
    ) -> None:
        stacked = isinstance(seed, Sequence)
        seeds = list(seed) if isinstance(seed, Sequence) else [seed]
        super().__init__("mlp", num_classes, input_shape, replicas=len(seeds) if stacked else None)
        if not seeds:
            raise ValueError("seed must be an int or a non-empty sequence of ints, received an empty one")
        if min(hidden, default=1) < 1:
            raise ValueError(f"hidden must be widths >= 1, e.g. (128, 128), received {hidden!r}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, received {activation!r}")
        self.activation = activation
        dimension = int(torch.Size(self.input_shape).numel())
        widths = [dimension, *hidden, num_classes]
        streams = [generator(s, "init") for s in seeds]
        layers = [Affine(a, b, streams, stacked) for a, b in pairwise(widths)]
        self.hidden = nn.ModuleList(layers[:-1])
        self.head = layers[-1]

    @property
    def tap_shapes(self) -> TapShapes:
        """Widths of the hidden layers, of what the read-out reads, and of the logits."""
        hidden = tuple((int(cast(Affine, layer).bias.shape[-1]),) for layer in self.hidden)
        pooled = int(self.head.weight.shape[-2])
        return {"logits": (self.num_classes,), "pooled": (pooled,), "stages": hidden, "preacts": hidden}

    def forward(self, x: Tensor) -> Views:
        """:class:`Views` of ``x``: ``(B, *input_shape)``; with replicas ``(R, B, *input_shape)``, or ``(B,
        *input_shape)`` to show all of them the same examples."""
        features = self._flat(x)
        act = ACTIVATIONS[self.activation]
        preacts: list[Tensor] = []
        stages: list[Tensor] = []
        for layer in self.hidden:
            preacts.append(layer(features))
            features = act(preacts[-1])
            stages.append(features)
        logits = _read_out(features, self.head.weight, self.head.bias)
        return Views(logits, features, tuple(stages), tuple(preacts))

    def logits(self, x: Tensor) -> Tensor:
        """As :meth:`forward` has them; without gradient and with ReLU no hidden layer is written twice."""
        if torch.is_grad_enabled() or self.activation != "relu" or not self._plain:
            views: Views = self(x)
            return views.logits
        features = self._flat(x)
        for layer in self.hidden:
            features = torch.relu_(layer(features))
        return _read_out(features, self.head.weight, self.head.bias)

    @property
    def _plain(self) -> bool:
        """Whether the network computes what this class says: no subclass's forward, no replaced layer, no hook."""
        layers = [*self.hidden, self.head]
        return (
            all(getattr(type(self), name) is getattr(MLP, name) for name in ("forward", "backward", "_flat"))
            and all(type(layer) is Affine for layer in layers)
            and not any(_hooks(part) for part in (self, *layers))
        )

    @property
    def by_hand(self) -> bool:
        """Whether :meth:`backward` is this network's gradient: a plain perceptron, all of it trained.

        Not where a subclass computes something else, a layer was replaced, shared or reparametrised, a hook listens, a
        parameter is frozen, or autocast changes types: then autograd knows better.
        """
        layers = [*self.hidden, self.head]
        parameters = list(self.parameters())
        own = len({id(layer) for layer in layers}) == len(layers) and len(parameters) == 2 * len(layers)
        listened = any(p._backward_hooks or p._post_accumulate_grad_hooks for p in parameters)
        trained = all(p.requires_grad for p in parameters)
        return (
            self._plain
            and own
            and trained
            and not listened
            and not torch.is_autocast_enabled(parameters[0].device.type)
        )

    def backward(self, x: Tensor, views: Views, gradient: Tensor) -> None:
        r"""Add to every parameter's ``grad``, given the logits' :math:`\partial L / \partial z`, without a graph.

        :math:`\partial L/\partial W_l = h_{l-1}^\top g_l`, :math:`\partial L/\partial b_l = \sum_B g_l`,
        :math:`g_{l-1} = \sigma'(a_{l-1}) \odot g_l W_l^\top`: the sums of :meth:`torch.Tensor.backward`, without its
        cost for each operation, which small layers feel.

        Args:
            x: what the network saw.
            views: what it showed.
            gradient: of the logits' shape.
        """
        inputs = (self._flat(x), *views.stages)
        derivative = _DERIVATIVES[self.activation]
        by_class = gradient.mT
        _add(self.head.weight, (by_class @ inputs[-1]).mT)
        _add(self.head.bias, by_class.sum(-1))
        above: Tensor = self.head.weight
        layers = [layer for layer in self.hidden if isinstance(layer, Affine)]
        for number, layer in reversed(list(enumerate(layers))):
            gradient = derivative(gradient @ above.mT, views.preacts[number], inputs[number + 1])
            _add(layer.weight, inputs[number].mT @ gradient)
            _add(layer.bias, gradient.sum(-2))
            above = layer.weight

    def _flat(self, x: Tensor) -> Tensor:
        """``x`` as ``(B, d)``, or ``(R, B, d)`` with replicas."""
        leading = x.ndim - len(self.input_shape)
        if leading >= 1 and x.shape[leading:] == self.input_shape:
            x = x.flatten(leading)
            if self.replicas is None and leading == 1:
                return x
            if self.replicas is not None and leading == 1:
                return x.expand(self.replicas, -1, -1)
            if self.replicas is not None and leading == 2 and x.shape[0] == self.replicas:
                return x
        shape = ", ".join(str(size) for size in self.input_shape)
        accepted = f"(B, {shape})" if self.replicas is None else f"({self.replicas}, B, {shape}) or (B, {shape})"
        raise ValueError(f"x must have shape {accepted}, received {tuple(x.shape)}")
