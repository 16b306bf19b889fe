"""What is measured every epoch, and which epochs are kept: against an independent computation, never mixed."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_world import K, mlp, same, world
from torch import nn

import bcpd
from bcpd.data import InMemory
from bcpd.distill import KD, Supervised
from bcpd.train import Fitted, Progress, Recipe
from bcpd.train.evaluation import EvaluationSet, MeasuredSets, PathMetrics, log_probabilities
from bcpd.train.selection import Keeper
from bcpd.train.split import split

RECIPE = Recipe(epochs=6, learning_rate=0.3, batch_size=8, validation=0.25)
ROWS = ("mse", "kl", "accuracy", "excess_risk")


def probabilities(net: nn.Module, x: torch.Tensor, readout: str) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        z = copy.deepcopy(net).eval()(x).logits.numpy()
    if readout == "softmax":
        weights = np.exp(z - z.max(-1, keepdims=True))
        return np.asarray(weights / weights.sum(-1, keepdims=True))
    rows = []
    for row in z:  # projection by bisection on the threshold
        low, high = row.min() - 1, row.max()
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if np.maximum(row - middle, 0).sum() > 1 else (low, middle)
        rows.append(np.maximum(row - high, 0))
    return np.stack(rows)


def slow_metrics(
    net: nn.Module, source: InMemory, held_out: InMemory, train: torch.Tensor, validation: torch.Tensor, readout: str
) -> dict[str, float]:
    metrics = {}
    half = len(held_out) // 2
    assert source.log_bayes is not None
    assert held_out.log_bayes is not None
    sets = {
        "transfer": (source.x[train], source.log_bayes[train]),
        "select": (held_out.x[:half], held_out.log_bayes[:half]),
        "fresh": (held_out.x[half:], held_out.log_bayes[half:]),
    }
    for name, (x, log_bayes) in sets.items():
        q, p = probabilities(net, x, readout), np.exp(log_bayes.numpy())
        mse = kl = accuracy = excess = 0.0
        for i in range(len(p)):
            mse += sum((q[i, k] - p[i, k]) ** 2 for k in range(K)) / len(p)
            with np.errstate(divide="ignore"):
                kl += sum(p[i, k] * (np.log(p[i, k]) - np.log(q[i, k])) for k in range(K)) / len(p)
            accuracy += p[i, q[i].argmax()] / len(p)
            excess += (p[i].max() - p[i, q[i].argmax()]) / len(p)
        metrics |= {f"{name}_mse": mse, f"{name}_kl": kl, f"{name}_accuracy": accuracy, f"{name}_excess_risk": excess}
    q, y = probabilities(net, source.x[validation], readout), source.y[validation].numpy()
    chosen = q[np.arange(len(y)), y]
    metrics["validation_accuracy"] = float((q.argmax(-1) == y).mean())
    with np.errstate(divide="ignore"):
        metrics["validation_nll"] = float(-np.log(chosen).mean())
    metrics["validation_brier"] = float(((q - np.eye(K)[y]) ** 2).sum(-1).mean())
    return metrics


@pytest.mark.parametrize(
    ("loss", "readout"), [("ce", "softmax"), ("logit_mse", "projection"), ("logit_mse", "softmax")]
)
def test_every_metric_of_every_epoch_is_an_independent_one(loss: str, readout: str) -> None:
    source, held_out, net = world(40), world(31, 5), mlp()
    train, validation = split(source, 0.25, [3], None)
    assert validation is not None
    expected: list[dict[str, float]] = []

    def note(report: Progress) -> None:
        assert net.training  # measuring left the network in the mode it came in
        expected.append(slow_metrics(net, source, held_out, train, validation, readout))
        assert report.metrics["fresh_mse"] == [pytest.approx(expected[-1]["fresh_mse"])]

    method = Supervised(loss, readout=readout)
    recipe = replace(RECIPE, learning_rate=0.05)  # 0.3 diverges for the square loss on logits
    fitted = bcpd.fit(net, source, method, recipe, seed=3, held_out=held_out, progress=note)
    assert len(fitted.history) == len(expected) == 6
    for number, (row, slow) in enumerate(zip(fitted.history, expected, strict=True)):
        assert row["epoch"] == number + 1
        assert set(row) == set(slow) | {"epoch", "finite", "train_loss", "train_label"}
        for name, value in slow.items():
            assert row[name] == [pytest.approx(value, rel=1e-9, abs=1e-11)], name
    if readout == "projection":  # zeros of q where p > 0 are an infinite distance, said as such
        assert any(math.isinf(row["fresh_kl"][0]) for row in fitted.history)


def test_agreement_counts_the_validation_inputs_where_both_choose_alike() -> None:
    source, net = world(40), mlp(1)
    teacher = bcpd.fit(mlp(), source, Supervised("ce"), Recipe(epochs=1, learning_rate=0.1), seed=0).teacher()
    fitted = bcpd.fit(net, source, KD(), RECIPE, seed=3, teacher=teacher)
    _, validation = split(source, 0.25, [3], None)
    x = source.x[validation]
    alike = (teacher(x).logits.argmax(-1) == net(x).logits.argmax(-1)).double().mean()
    assert fitted.history[-1]["agreement"] == [float(alike)]
    without = bcpd.fit(
        net,
        source,
        KD(),
        Recipe(epochs=1, learning_rate=0.1, validation=0),
        seed=3,
        teacher=teacher,
        held_out=world(30, 8),
    )
    fresh = world(30, 8).x[15:]
    alike = (teacher(fresh).logits.argmax(-1) == net(fresh).logits.argmax(-1)).double().mean()
    assert without.history[-1]["agreement"] == [float(alike)]


def test_columns_that_cannot_be_measured_are_absent() -> None:
    plain = bcpd.fit(
        mlp(), world(bayes=False), Supervised("ce"), Recipe(epochs=1, learning_rate=0.1, validation=0), seed=0
    )
    assert set(plain.history[0]) == {"epoch", "finite", "train_loss", "train_label"}
    assert set(plain.states) == {"last"}
    validated = bcpd.fit(mlp(), world(bayes=False), Supervised("ce"), Recipe(epochs=1, learning_rate=0.1), seed=0)
    assert set(validated.states) == {"last", "best_accuracy", "best_score"}


def test_a_large_set_is_measured_in_pieces_to_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    source, method, net = world(50), Supervised("ce"), mlp()
    whole = PathMetrics(MeasuredSets(method, None, EvaluationSet(source, torch.arange(50)), None, None, None))(net)
    monkeypatch.setattr("bcpd.train.evaluation.CHUNK_ELEMENTS", 28)
    pieces = PathMetrics(MeasuredSets(method, None, EvaluationSet(source, torch.arange(50)), None, None, None))(net)
    for name, value in whole.items():
        assert pieces[name] == [pytest.approx(value[0], abs=1e-14)]


def test_log_probabilities_of_a_source_are_those_of_the_read_out() -> None:
    source = world(20)
    for loss in ("ce", "logit_mse"):
        fitted = bcpd.fit(mlp(), world(), Supervised(loss), replace(RECIPE, learning_rate=0.05), seed=0)
        with torch.no_grad():
            expected = fitted.method.log_probabilities(fitted.network()(source.x).logits)
        teacher = fitted.teacher().train()
        log_q = log_probabilities(teacher, source)
        assert (log_q.dtype, log_q.shape) == (torch.float64, (20, K))
        torch.testing.assert_close(log_q, expected, rtol=0, atol=1e-12)
        assert teacher.training


def test_the_path_minimum_is_chosen_on_one_half_and_reported_on_the_other() -> None:
    """The two halves disagree on p*, so that they have their minima at different epochs."""
    points = world(40, 5)
    assert points.log_bayes is not None
    reversed_truth = points.log_bayes.clone()
    reversed_truth[20:] = reversed_truth[20:].flip(-1)
    held_out = InMemory(points.x, points.y, num_classes=K, log_bayes=reversed_truth, dtype=torch.float64)
    slowly = Recipe(epochs=6, learning_rate=0.02, batch_size=8)
    fitted = bcpd.fit(mlp(), world(), Supervised("ce", target="bayes"), slowly, seed=0, held_out=held_out)
    for metric in ("mse", "kl"):
        chosen = int(fitted.path(f"select_{metric}")[:, 0].argmin()) + 1
        other = int(fitted.path(f"fresh_{metric}")[:, 0].argmin()) + 1
        assert chosen != other
        assert fitted.epochs[f"path_minimum_{metric}"] == [chosen]
        assert (
            fitted.at(f"path_minimum_{metric}")[0][f"fresh_{metric}"] == fitted.path(f"fresh_{metric}")[chosen - 1, 0]
        )


def remeasured(fitted: Fitted, checkpoint: str, source: InMemory, held_out: InMemory, seeds: list[int]) -> Any:
    replicas = source.replicas
    train, validation = split(source, RECIPE.validation, seeds, replicas)
    assert validation is not None
    halves = [torch.arange(10), torch.arange(10, 20)]
    if replicas is not None:
        halves = [half.expand(replicas, -1) for half in halves]
    select, fresh = (EvaluationSet(held_out, half) for half in halves)
    transfer, held = EvaluationSet(source, train), EvaluationSet(source, validation)
    measure = PathMetrics(MeasuredSets(fitted.method, None, transfer, held, select, fresh))
    return measure(fitted.network(checkpoint))


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]], ids=["single", "replicas"])
def test_every_kept_state_reproduces_the_metrics_it_was_kept_for(seeds: list[int]) -> None:
    single = len(seeds) == 1
    source, held_out = (world(40, 0), world(20, 5)) if single else (world(40, seeds), world(20, [5, 6, 7]))
    fitted = bcpd.fit(mlp(0 if single else seeds), source, Supervised("ce"), RECIPE, seed=seeds, held_out=held_out)
    assert set(fitted.states) == {"last", "best_accuracy", "best_score", "path_minimum_mse", "path_minimum_kl"}
    for checkpoint in fitted.states:
        again = remeasured(fitted, checkpoint, source, held_out, seeds)
        for number in range(len(seeds)):
            recorded = fitted.at(checkpoint)[number]
            for name, value in again.items():
                assert recorded[name] == pytest.approx(value[number], abs=1e-14), (checkpoint, name)
    signs = {"best_accuracy": ("validation_accuracy", -1), "best_score": ("validation_nll", 1)}
    signs |= {f"path_minimum_{metric}": (f"select_{metric}", 1) for metric in ("mse", "kl")}
    for checkpoint, (metric, sign) in signs.items():
        first_best = (sign * fitted.path(metric)).argmin(0) + 1
        assert fitted.epochs[checkpoint] == first_best.tolist()
    assert fitted.epochs["last"] == [6] * len(seeds)


def test_a_square_loss_is_selected_by_its_own_score() -> None:
    fitted = bcpd.fit(mlp(), world(), Supervised("mse"), RECIPE, seed=0)
    assert fitted.epochs["best_score"] == [int(fitted.path("validation_brier")[:, 0].argmin()) + 1]


# ------------------------------------------------------------------------------------------------------ the keeper


def states(values: list[float]) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values)}


def metrics(accuracy: list[float], nll: list[float]) -> dict[str, list[float]]:
    return {"validation_accuracy": accuracy, "validation_nll": nll, "validation_brier": [0.0] * len(nll)}


def test_best_accuracy_best_score_and_last_are_kept_apart() -> None:
    keeper = Keeper(["nll"], None)
    for epoch, (accuracy, nll) in enumerate([(0.5, 1.0), (0.6, 0.9), (0.8, 1.5), (0.7, 1.2)], start=1):
        keeper.update(epoch, metrics([accuracy], [nll]), states([float(epoch)]))
    assert keeper.epochs == {"best_accuracy": [3], "best_score": [2]}
    assert keeper.states["best_accuracy"]["w"].item() == 3
    assert keeper.states["best_score"]["w"].item() == 2


def test_a_tie_keeps_the_earlier_epoch_and_nan_never_improves() -> None:
    keeper = Keeper(["nll"], None)
    for epoch, nll in enumerate([math.nan, 1.0, 1.0, math.nan, math.inf], start=1):
        keeper.update(epoch, metrics([0.5], [nll]), states([float(epoch)]))
    assert keeper.epochs == {"best_accuracy": [1], "best_score": [2]}
    assert keeper.states["best_score"]["w"].item() == 2


def test_replicas_keep_their_own_epochs_in_one_state() -> None:
    keeper = Keeper(["nll"] * 3, 3)
    path = [[1.0, 2.0, math.nan], [0.5, 3.0, 1.0], [0.7, 1.0, 2.0]]
    for epoch, nll in enumerate(path, start=1):
        keeper.update(epoch, metrics([0.5] * 3, nll), states([10.0 * epoch + r for r in range(3)]))
    assert keeper.epochs["best_score"] == [2, 3, 2]
    assert keeper.states["best_score"]["w"].tolist() == [20.0, 31.0, 22.0]


def test_a_kept_state_is_a_copy() -> None:
    keeper, state = Keeper(["nll"], None), states([1.0])
    keeper.update(1, metrics([0.5], [1.0]), state)
    state["w"] += 1
    assert keeper.states["best_score"]["w"].item() == 1


def test_a_keeper_goes_on_from_what_it_exported() -> None:
    path = [[2.0, 1.0], [1.0, math.nan], [1.5, 0.5], [0.5, 0.7]]
    whole, first = Keeper(["nll"] * 2, 2), Keeper(["nll"] * 2, 2)
    for epoch, nll in enumerate(path, start=1):
        whole.update(epoch, metrics([0.1 * epoch, 0.5], nll), states([float(epoch), 10.0 + epoch]))
        if epoch < 3:
            first.update(epoch, metrics([0.1 * epoch, 0.5], nll), states([float(epoch), 10.0 + epoch]))
    second = Keeper(["nll"] * 2, 2)
    tensors, record = first.export()
    second.restore({key: value.clone() for key, value in tensors.items()}, record, torch.device("cpu"))
    for epoch in (3, 4):
        second.update(epoch, metrics([0.1 * epoch, 0.5], path[epoch - 1]), states([float(epoch), 10.0 + epoch]))
    assert second.epochs == whole.epochs
    assert all(same(second.states[name], whole.states[name]) for name in whole.states)
