"""A lean sequential loop: the work of :mod:`bcpd.bench.released` on whole tensors, one model at a time.

What a careful reader of the released loop would write first: batches are slices of a permutation, nothing waits for
the loss, metrics have no loop. Plain autograd and torch's own SGD.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from bcpd.bench.released import BATCH_SIZE, LEARNING_RATE, MOMENTUM, Order, Points, Trained
from bcpd.bench.released_metrics import released_metrics

__all__ = ["evaluate", "train"]

CHUNK = 1024  # rows of one forward pass without gradient


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
    """Train a network in place; arguments and result are those of :func:`bcpd.bench.released.train`."""
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    best, best_accuracy = net, -math.inf
    history = []
    for epoch in range(epochs):
        walk = training[torch.randperm(len(training))] if order is None else order(epoch)
        steps = len(walk) // BATCH_SIZE
        net.train()
        total = torch.zeros((), dtype=points.x.dtype, device=points.x.device)
        for batch in torch.split(walk[: steps * BATCH_SIZE], BATCH_SIZE):
            loss = functional.kl_div(
                functional.log_softmax(net(points.x[batch]), dim=1), points.target[batch], reduction="batchmean"
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach()
        row = {"train_loss": float(total) / steps}
        if measured:
            seen = evaluate(net, points, walk[: steps * BATCH_SIZE])
            row |= {f"train_{name}": value for name, value in seen.items()}
            row |= {f"validation_{name}": value for name, value in evaluate(net, points, validation).items()}
            if row["validation_accuracy"] > best_accuracy:
                best, best_accuracy = copy.deepcopy(net), row["validation_accuracy"]
        history.append(row)
    return Trained(best, history)


@torch.no_grad()
def evaluate(net: nn.Module, points: Points, index: Tensor) -> dict[str, float]:
    """:func:`~bcpd.bench.released_metrics.released_metrics` of a network at the points of an index."""
    net.eval()
    part = Points(*(values[index] for values in points))
    log_q = torch.cat([functional.log_softmax(net(x), dim=1) for x in torch.split(part.x, CHUNK)])
    return {name: float(value) for name, value in released_metrics(log_q, part.y, part.bayes, part.target).items()}
