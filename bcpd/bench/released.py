r"""The baseline: the shape of the toy loop that the paper released, restated from a description of it.

One model at a time. A ``TensorDataset`` under a ``SubsetRandomSampler``, collated item by item; ``.item()`` at every
step; after every epoch a second pass over the training loader and one over the validation points, each with a
calibration error summed by a loop over the samples; a deep copy of the best model. It is meant to be what it is, not
fast: :mod:`bcpd.bench.lean` and :func:`bcpd.fit` do the same work, and tests hold them equal to it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Sampler, SubsetRandomSampler, TensorDataset

from bcpd.nets.mlp import MLP

__all__ = [
    "BATCH_SIZE",
    "BINS",
    "LEARNING_RATE",
    "MOMENTUM",
    "Order",
    "Points",
    "Trained",
    "ece_by_loop",
    "evaluate",
    "furthest",
    "plain_mlp",
    "train",
]

BATCH_SIZE = 32
LEARNING_RATE = 5e-4
MOMENTUM = 0.9
BINS = 15
"""Equal bins of the predicted class's probability, of which the calibration error is made."""

Order = Callable[[int], Tensor]
"""The training indices in the order of an epoch, counted from 0."""


class Points(NamedTuple):
    """Points of a training, a validation and a test part, told apart by index.

    Attributes:
        x: ``(N, d)``; y: ``(N,)`` int64 labels.
        target: ``(N, K)``, the probability rows that are learned.
        bayes: ``(N, K)``, p* in the dtype of ``x``.
    """

    x: Tensor
    y: Tensor
    target: Tensor
    bayes: Tensor


class Trained(NamedTuple):
    """What a sequential loop returns.

    Attributes:
        best: a copy of the network at its highest validation accuracy (the earliest); the last where nothing was
            measured.
        history: an epoch's ``train_loss`` and, as ``train_*`` and ``validation_*``, the metrics of
            :func:`bcpd.bench.released_metrics.released_metrics` at those points.
    """

    best: nn.Module
    history: list[dict[str, float]]


def plain_mlp(net: MLP, replica: int | None = None) -> nn.Sequential:
    """The same network (or one replica of it) as ``nn.Linear`` and ``nn.ReLU``, with weights of its own.

    Raises:
        ValueError: an activation that is not ``relu``.
    """
    if net.activation != "relu":
        raise ValueError(f"the released network has relu activations, received {net.activation!r}")
    layers: list[nn.Module] = []
    for weight, bias in _affine_maps(net.state_dict(), replica):
        linear = nn.Linear(weight.shape[0], weight.shape[1], dtype=weight.dtype, device=weight.device)
        linear.weight.data.copy_(weight.T)
        linear.bias.data.copy_(bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def furthest(plain: nn.Sequential, state: Mapping[str, Tensor], replica: int | None = None) -> float:
    """Largest difference between the weights of a plain network and those of an :class:`~bcpd.nets.mlp.MLP`."""
    linears = [layer for layer in plain if isinstance(layer, nn.Linear)]
    gaps = []
    for linear, (weight, bias) in zip(linears, _affine_maps(state, replica), strict=True):
        gaps += [(linear.weight.detach().T - weight).abs().max(), (linear.bias.detach() - bias).abs().max()]
    return float(torch.stack(gaps).max())


def _affine_maps(state: Mapping[str, Tensor], replica: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights ``(in, out)`` and biases of a state dict, first layer to last."""
    for name in state:
        if name.endswith(".weight"):
            weight, bias = state[name], state[f"{name.removesuffix('.weight')}.bias"]
            yield (weight, bias) if replica is None else (weight[replica], bias[replica])


class _InOrder(Sampler[int]):
    """Indices one after another."""

    def __init__(self, indices: Tensor) -> None:
        self.indices = indices.tolist()

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def train(
    net: nn.Module,
    points: Points,
    training: Tensor,
    validation: Tensor,
    *,
    epochs: int,
    order: Order | None = None,
    measured: bool = True,
) -> Trained:
    """Train a network in place, one batch after another, by KL to the targets (SGD with momentum, ``drop_last``).

    Args:
        net: gives logits ``(B, K)``.
        training, validation: int64 indices of ``points``.
        order: of every epoch; by default it is drawn from torch's generator.
        measured: leave out the two passes after every epoch, and the copy of the best network, where false.
    """
    device = next(net.parameters()).device
    dataset = _collated_on_cpu(points)
    walk = training.tolist()
    held = DataLoader(dataset, batch_size=BATCH_SIZE, sampler=SubsetRandomSampler(validation.tolist()))
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    criterion = nn.KLDivLoss(reduction="batchmean")
    best, best_accuracy = net, -math.inf
    history = []
    for epoch in range(epochs):
        sampler = SubsetRandomSampler(walk) if order is None else _InOrder(order(epoch))
        loader = DataLoader(dataset, batch_size=BATCH_SIZE, sampler=sampler, drop_last=True)
        net.train()
        total, steps = 0.0, 0
        for x, _, target, _ in loader:
            optimizer.zero_grad()
            loss = criterion(functional.log_softmax(net(x.to(device)), dim=1), target.to(device))
            loss.backward()
            optimizer.step()
            total += loss.item()
            steps += 1
        row = {"train_loss": total / steps}
        if measured:
            row |= {f"train_{name}": value for name, value in _pass(net, loader).items()}
            row |= {f"validation_{name}": value for name, value in _pass(net, held).items()}
            if row["validation_accuracy"] > best_accuracy:
                best, best_accuracy = copy.deepcopy(net), row["validation_accuracy"]
        history.append(row)
    return Trained(best, history)


def evaluate(net: nn.Module, points: Points, index: Tensor) -> dict[str, float]:
    """The loop's metrics of a network at the points of an index: the final test."""
    dataset = _collated_on_cpu(points)
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, sampler=SubsetRandomSampler(index.tolist()))
    return _pass(net, loader)


def _collated_on_cpu(points: Points) -> TensorDataset:
    """Batches go to the network's device one by one, as a loader's do."""
    return TensorDataset(*(values.cpu() for values in points))


@torch.no_grad()
def _pass(net: nn.Module, loader: DataLoader[tuple[Tensor, ...]]) -> dict[str, float]:
    """What is collected batch by batch, in eval mode, and made of it."""
    device = next(net.parameters()).device
    net.eval()
    right, rows, labels, targets, truths = 0, [], [], [], []
    for x, y, target, bayes in loader:
        q = functional.softmax(net(x.to(device)), dim=1).cpu()
        right += (q.argmax(dim=1) == y).sum().item()
        rows.append(q)
        labels.append(y)
        targets.append(target)
        truths.append(bayes)
    q, y = torch.cat(rows), torch.cat(labels)
    return {
        "accuracy": right / len(y),
        "distance_to_bayes": torch.dist(q, torch.cat(truths)).item(),
        "distance_to_target": torch.dist(q, torch.cat(targets)).item(),
        "ece": ece_by_loop(q, y),
    }


def ece_by_loop(q: Tensor, y: Tensor) -> float:
    r"""Expected calibration error of the predicted class, sample by sample.

    :math:`\sum_b \frac{n_b}{n} |\mathrm{acc}_b - \mathrm{conf}_b|` over 15 bins of the confidence :math:`\max_k q_k`
    (Guo et al. 2017, eq. 3).

    Args:
        q: probabilities ``(n, K)``; y: labels ``(n,)``.
    """
    counts, hits, sums = [0] * BINS, [0.0] * BINS, [0.0] * BINS
    for row, label in zip(q, y, strict=True):
        confidence, choice = row.max(dim=0)
        value = confidence.item()
        number = min(max(math.ceil(value * BINS) - 1, 0), BINS - 1)
        counts[number] += 1
        sums[number] += value
        hits[number] += (choice == label).item()
    error = 0.0
    for number in range(BINS):
        if counts[number]:
            gap = hits[number] / counts[number] - sums[number] / counts[number]
            error += counts[number] / len(y) * abs(gap)
    return error
