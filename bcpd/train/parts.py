"""The parts of a training, looked at before it begins: whether they fit together, and what tells them from others."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bcpd.data import InMemory
from bcpd.distill import Method
from bcpd.nets import HandNet, Views
from bcpd.train.ranks import Ranks
from bcpd.train.recipe import Recipe

__all__ = ["check_kinds", "check_parts", "check_ranks", "described", "first_look", "has_gradient_by_hand"]


def check_kinds(net: object, source: object, method: object, recipe: object, teacher: object) -> None:
    """Refuse what is no part of a training, before anything is asked of it.

    Raises:
        ValueError: naming the part, what it has to be, and what was received.
    """
    for name, part, kind, wanted in (
        ("net", net, nn.Module, "a torch.nn.Module (bcpd.nets.build)"),
        ("source", source, InMemory, "training data (bcpd.data.InMemory; of a mixture: InMemory.from_mixture)"),
        ("method", method, Method, "a bcpd.distill.Method; of a loss: Supervised(loss)"),
        ("recipe", recipe, Recipe, "a bcpd.Recipe"),
        ("teacher", teacher, nn.Module | None, "a torch.nn.Module or None; of a training: Fitted.teacher()"),
    ):
        if not isinstance(part, kind):
            raise ValueError(f"{name} must be {wanted}, received {type(part).__name__}")


def check_parts(
    net: nn.Module, source: InMemory, recipe: Recipe, teacher: nn.Module | None, held_out: InMemory | None
) -> None:
    """Refuse parts that do not fit together, whatever the method.

    Raises:
        ValueError: other replicas, dtypes, shapes or classes; a teacher that shares parameters with the network;
            held-out points without p*.
    """
    replicas: int | None = getattr(net, "replicas", None)
    recipe.rates(replicas)
    recipe.decays(replicas)
    for name, data in (("source", source), ("held_out", held_out)):
        if data is not None and data.replicas is not None and data.replicas != replicas:
            raise ValueError(f"{name} has {data.replicas} replicas, the network {replicas}")
    for name, module in (("network", net), ("teacher", teacher)):
        dtypes = {p.dtype for p in module.parameters()} if module is not None else set()
        if dtypes and source.dtype not in dtypes:
            raise ValueError(
                f"the {name} has parameters of {', '.join(map(str, dtypes))}, the source gives {source.dtype}"
            )
    if teacher is not None and {id(p) for p in teacher.parameters()} & {id(p) for p in net.parameters()}:
        raise ValueError(
            "the teacher shares parameters with the network that is trained, so it would not stay as it is; "
            "use a copy, for example Fitted.teacher()"
        )
    if held_out is not None:
        if held_out.log_bayes is None or len(held_out) < 2:
            raise ValueError(
                "held_out must hold at least 2 points with known p*; a real test set is measured afterwards"
            )
        if held_out.dtype != source.dtype:
            raise ValueError(f"held_out gives {held_out.dtype}, the source {source.dtype}")
        if (held_out.shape, held_out.num_classes) != (source.shape, source.num_classes):
            raise ValueError(
                f"held_out has inputs of shape {held_out.shape} and {held_out.num_classes} classes, "
                f"the source {source.shape} and {source.num_classes}"
            )


def check_ranks(ranks: Ranks, replicas: int | None, examples: int, batch_size: int) -> None:
    """Refuse a training that several processes cannot share.

    Args:
        replicas: of the network.
        examples: that are trained on.
        batch_size: of the global batch.
    Raises:
        ValueError: replicas; or a batch of an epoch with fewer examples than ranks.
    """
    if ranks.count == 1:
        return
    if replicas is not None:
        raise ValueError(
            f"{replicas} replicas train side by side in one process, received a group of {ranks.count}: "
            f"train them outside of it, or one network without replicas in it"
        )
    last = examples % batch_size or min(batch_size, examples)
    if min(last, batch_size) < ranks.count:
        raise ValueError(
            f"every rank needs an example of every batch: {examples} training examples in batches of {batch_size} "
            f"leave a last one of {last} for {ranks.count} ranks; choose another batch_size"
        )


def described(metrics: Any, folder: Path | str | None) -> Any:
    """What identifies a maker of metrics: its ``describe()``, or its place and the arguments bound to it.

    Raises:
        ValueError: a folder is to be kept, but nothing tells this maker from others.
    """
    if hasattr(metrics, "describe"):
        return metrics.describe()
    if isinstance(metrics, functools.partial):
        return [described(metrics.func, folder), repr(metrics.args), repr(sorted(metrics.keywords.items()))]
    name = f"{getattr(metrics, '__module__', '')}.{getattr(metrics, '__qualname__', '')}"
    if folder is not None and (name.endswith(".") or "<lambda>" in name):
        raise ValueError(
            f"metrics must be a named class or function, a partial of one, or have describe() where a folder is kept, "
            f"received {metrics!r}: a run could not be told from one with other metrics"
        )
    return name


def has_gradient_by_hand(net: nn.Module, method: Method) -> bool:
    """Whether the gradient of the logits says everything: the method sees no other view and learns nothing itself."""
    others = {need for need in method.needs if need.startswith("student.")} - {"student.logits"}
    return isinstance(net, HandNet) and not others and next(method.parameters(), None) is None and net.by_hand


@torch.no_grad()
def first_look(net: nn.Module, x: Tensor) -> Views:
    """Views of a few examples in eval mode: no statistics move, no gradient."""
    training = net.training
    net.eval()
    views: Views = net(x)
    net.train(training)
    return views
