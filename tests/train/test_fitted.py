"""What fit returns, and what it refuses to begin with."""

import math

import pytest
import torch
from dummy_methods import Adapter
from small_world import D, K, mlp, same, world
from torch import nn

import bcpd
from bcpd.data import InMemory
from bcpd.distill import KD, Supervised
from bcpd.nets import build
from bcpd.train import Constant, Cosine, Progress, ReadOut, Recipe, Step

RECIPE = Recipe(epochs=3, learning_rate=0.1, batch_size=8, validation=0.25)


def test_a_network_of_a_checkpoint_is_a_copy_with_its_weights() -> None:
    fitted = bcpd.fit(mlp(), world(), Supervised("ce"), RECIPE, seed=0)
    for checkpoint, state in fitted.states.items():
        net = fitted.network(checkpoint)
        assert net is not fitted.net
        assert not net.training
        assert same(net.state_dict(), state)
        next(net.parameters()).data += 1
        assert not same(net.state_dict(), state)
    assert same(fitted.net.state_dict(), fitted.states["last"])
    assert not fitted.net.training


def test_a_teacher_is_frozen_and_read_out_as_its_loss_says() -> None:
    x = world().x
    for loss, readout in (("ce", "softmax"), ("logit_mse", "projection")):
        fitted = bcpd.fit(mlp(), world(), Supervised(loss), RECIPE, seed=0)
        teacher = fitted.teacher("best_score")
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        views, raw = teacher(x), fitted.network("best_score")(x)
        assert views.logits.dtype == x.dtype
        q = fitted.method.label_loss.readout(readout)(raw.logits)  # type: ignore[union-attr, operator]
        torch.testing.assert_close(views.logits.exp(), q, rtol=1e-12, atol=1e-14)
        assert torch.equal(views.pooled, raw.pooled)
        assert (teacher.replicas, teacher.num_classes) == (None, K)


def test_making_a_teacher_does_not_freeze_the_method_it_came_from() -> None:
    teacher = bcpd.fit(mlp(3), world(), Supervised("ce"), RECIPE, seed=0).teacher()
    fitted = bcpd.fit(mlp(), world(), Adapter(), RECIPE, seed=0, teacher=teacher)
    fitted.method.train()
    fitted.teacher()
    assert all(parameter.requires_grad for parameter in fitted.method.parameters())
    assert fitted.method.training


def test_the_path_and_its_rows() -> None:
    fitted = bcpd.fit(mlp([0, 1]), world(), Supervised("ce"), RECIPE, seed=[0, 1], held_out=world(20, 3))
    path = fitted.path("fresh_mse")
    assert (path.shape, path.dtype) == ((3, 2), torch.float64)
    for number, row in enumerate(fitted.at("path_minimum_mse")):
        epoch = int(row["epoch"])
        assert row["fresh_mse"] == path[epoch - 1, number]
        assert row["train_loss"] == fitted.path("train_loss")[epoch - 1, number]
    assert [row["epoch"] for row in fitted.at()] == [3, 3]
    with pytest.raises(ValueError, match=r"metric must be one of \['train_label', .*received 'mse'"):
        fitted.path("mse")
    for ask in (fitted.at, fitted.network, fitted.teacher):
        with pytest.raises(ValueError, match=r"checkpoint must be one of \['best_accuracy', .*received 'best'"):
            ask("best")


def test_progress_is_told_after_every_epoch() -> None:
    reports: list[Progress] = []
    fitted = bcpd.fit(mlp(), world(), Supervised("ce"), RECIPE, seed=0, progress=reports.append)
    assert [(r.phase, r.epoch, r.epochs) for r in reports] == [("main", 1, 3), ("main", 2, 3), ("main", 3, 3)]
    assert [{"epoch": r.epoch, **r.metrics} for r in reports] == fitted.history


def test_the_first_bad_epoch_is_the_one_a_replica_diverged_in() -> None:
    fitted = bcpd.fit(mlp([0, 1]), world(), Supervised("ce"), RECIPE, seed=[0, 1])
    assert fitted.diverged == [None, None]
    fitted.history[1]["train_loss"][1] = math.inf
    fitted.history[2]["train_loss"][1] = math.nan
    assert fitted.diverged == [None, 2]


# -------------------------------------------------------------------------------------------------------- refusals


def refused(message: str, **changes: object) -> None:
    settings: dict[str, object] = {
        "net": mlp(),
        "source": world(),
        "method": Supervised("ce"),
        "recipe": RECIPE,
        "seed": 0,
        **changes,
    }
    net = settings["net"]
    assert isinstance(net, nn.Module)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        bcpd.fit(**settings)  # type: ignore[arg-type]
    assert same(net.state_dict(), before)


def test_parts_that_do_not_fit_together_are_refused_before_the_first_step() -> None:
    refused(
        r"the network has 5 outputs, the source 3 classes",
        net=build("mlp", num_classes=5, input_shape=(D,), seed=0).double(),
    )
    refused(r"source has 2 replicas, the network None", source=world(20, [0, 1]))
    refused(r"source has 2 replicas, the network 3", net=mlp([0, 1, 2]), source=world(20, [0, 1]))
    refused(r"held_out has 2 replicas, the network None", held_out=world(20, [0, 1]))
    refused(r"seed must be one int or one for each of the 2 replicas, received 3", net=mlp([0, 1]), seed=[1, 2, 3])
    refused(r"held_out must hold at least 2 points with known p\*", held_out=world(20, bayes=False))
    refused(r"held_out must hold at least 2 points with known p\*", held_out=world(1))
    refused(
        r"held_out has inputs of shape \(4,\) and 2 classes, the source \(4,\) and 3",
        held_out=InMemory(
            torch.zeros(4, D),
            torch.zeros(4, dtype=torch.int64),
            num_classes=2,
            log_bayes=torch.full((4, 2), 0.5).log(),
            dtype=torch.float64,
        ),
    )
    refused(
        r"learning_rate must be one number or one for each of the 1 replicas, received 2",
        recipe=Recipe(epochs=1, learning_rate=(0.1, 0.2)),
    )
    refused(
        r"weight_decay must be one number or one for each of the 2 replicas, received 3",
        net=mlp([0, 1]),
        recipe=Recipe(epochs=1, learning_rate=0.1, weight_decay=(0.1, 0.2, 0.3)),
    )
    refused(r"the network has parameters of torch.float32, the source gives torch.float64", net=mlp().float())
    refused(
        r"the teacher has parameters of torch.float32, the source gives torch.float64",
        method=KD(),
        teacher=mlp(1).float(),
    )


@pytest.mark.parametrize(
    ("part", "given", "message"),
    [
        ("method", "ce", r"method must be a bcpd.distill.Method; of a loss: Supervised\(loss\), received str"),
        ("recipe", {"epochs": 1}, "recipe must be a bcpd.Recipe, received dict"),
        ("source", [1.0], r"source must be training data \(bcpd.data.InMemory; .*, received list"),
        ("teacher", "resnet20", "teacher must be a torch.nn.Module or None; .*, received str"),
        ("device", "gpu", "device must be cpu, cuda or cuda:N, received 'gpu'"),
    ],
)
def test_what_is_no_part_of_a_training_is_refused_by_name(part: str, given: object, message: str) -> None:
    refused(message, **{part: given})


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("device cuda:1: torch sees no CUDA device; use 'cpu'", device="cuda:1")


def test_a_teacher_that_would_move_with_the_student_is_refused() -> None:
    net = mlp()
    refused(r"the teacher shares parameters with the network that is trained", net=net, method=KD(), teacher=net)
    teacher = ReadOut(net, Supervised("ce"))
    refused(r"the teacher shares parameters with the network that is trained", net=net, method=KD(), teacher=teacher)


# ---------------------------------------------------------------------------------------------------------- recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be an int >= 1, received 0"),
        ({"epochs": 1.5}, "epochs must be an int >= 1, received 1.5"),
        ({"epochs": True}, "epochs must be an int >= 1, received True"),
        ({"batch_size": 0}, "batch_size must be an int >= 1, received 0"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0 and finite"),
        ({"learning_rate": math.inf}, "learning_rate must be > 0 and finite"),
        ({"learning_rate": (0.1, -0.1)}, "learning_rate must be > 0 and finite"),
        ({"learning_rate": ()}, "learning_rate must be > 0 and finite"),
        ({"weight_decay": -1e-4}, "weight_decay must be >= 0 and finite"),
        ({"weight_decay": math.nan}, "weight_decay must be >= 0 and finite"),
        ({"optimizer": "adamw"}, "optimizer must be 'sgd' or 'adam', received 'adamw'"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), received 1.0"),
        ({"momentum": 0.0, "nesterov": True}, "nesterov needs momentum > 0"),
        ({"validation": 1.0}, r"validation must be a share in \[0, 1\), received 1.0"),
        ({"validation": -0.1}, r"validation must be a share in \[0, 1\), received -0.1"),
        ({"schedule": "cosine"}, "schedule must be Constant, Step or Cosine, received 'cosine'"),
    ],
    ids=str,
)
def test_a_recipe_out_of_range_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**{"epochs": 1, "learning_rate": 0.1, **changes})  # type: ignore[arg-type]


def test_schedules_are_what_they_say() -> None:
    assert [Constant().factor(s) for s in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]
    step = Step()
    assert [step.factor(epoch / 240) for epoch in (0, 149, 150, 179, 180, 209, 210, 239)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )
    for epochs in (3, 7, 30, 240):  # a milestone on an epoch's first step is not missed by rounding
        for epoch in range(1, epochs):
            assert Step((epoch / epochs,), 0.5).factor((epoch + 0 / 13) / epochs) == 0.5
            assert Step((epoch / epochs,), 0.5).factor((epoch - 1 + 12 / 13) / epochs) == 1.0
    cosine = Cosine(0.2)
    assert [cosine.factor(s) for s in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.6, 0.2])
    assert Cosine().factor(1.0) == pytest.approx(0.0)


@pytest.mark.parametrize("milestones", [(0.5, 0.5), (0.6, 0.3), (0.0,), (1.0,), (150, 180)])
def test_milestones_are_increasing_fractions(milestones: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="milestones must be increasing fractions"):
        Step(milestones)


def test_schedules_out_of_range_are_refused() -> None:
    for decay in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"decay must lie in \(0, 1\]"):
            Step(decay=decay)
    for final in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"final must lie in \[0, 1\]"):
            Cosine(final)


def test_a_recipe_describes_all_of_itself() -> None:
    recipes = [
        Recipe(epochs=2, learning_rate=0.1),
        Recipe(epochs=3, learning_rate=0.1),
        Recipe(epochs=2, learning_rate=0.2),
        Recipe(epochs=2, learning_rate=(0.1, 0.2)),
        Recipe(epochs=2, learning_rate=0.1, batch_size=8),
        Recipe(epochs=2, learning_rate=0.1, optimizer="adam"),
        Recipe(epochs=2, learning_rate=0.1, momentum=0.5),
        Recipe(epochs=2, learning_rate=0.1, nesterov=True),
        Recipe(epochs=2, learning_rate=0.1, weight_decay=0.1),
        Recipe(epochs=2, learning_rate=0.1, validation=0.2),
        Recipe(epochs=2, learning_rate=0.1, schedule=Cosine()),
        Recipe(epochs=2, learning_rate=0.1, schedule=Cosine(0.1)),
        Recipe(epochs=2, learning_rate=0.1, schedule=Step()),
        Recipe(epochs=2, learning_rate=0.1, schedule=Step((0.5,))),
    ]
    assert len({str(recipe.describe()) for recipe in recipes}) == len(recipes)
    assert Recipe(epochs=2, learning_rate=[0.1, 0.2]).learning_rate == (0.1, 0.2)  # type: ignore[arg-type]
