"""The gradient by hand and autograd's are one gradient; a replica may have a method of its own."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_world import D, K, Recorded, furthest, mlp, replica, same, world
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import bcpd
from bcpd.data import Batch
from bcpd.distill import KD, Each, Method, Supervised
from bcpd.losses import LOSSES
from bcpd.nets import Views, build
from bcpd.nets.mlp import ACTIVATIONS, MLP
from bcpd.train import Fitted, Recipe, plan

RECIPE = Recipe(epochs=5, learning_rate=0.2, batch_size=8, weight_decay=0.01, validation=0.25)
SEEDS = [4, 1, 9]


STEPS = RECIPE.epochs * 3
"""30 points, a quarter of them held back, in batches of 8."""


@pytest.fixture
def steps_by_hand(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every gradient that was taken by hand."""
    calls: list[int] = []
    backward = MLP.backward

    def counted(self: MLP, *arguments: Any) -> None:
        calls.append(1)
        backward(self, *arguments)

    monkeypatch.setattr(MLP, "backward", counted)
    return calls


def trained(method: Method, gradients: Any, **options: Any) -> Fitted:
    hidden, activation = options.pop("hidden", (6, 5)), options.pop("activation", "relu")
    seeds = options.pop("seeds", SEEDS)
    source = options.pop("source", None) or world(30, seeds if isinstance(seeds, int) else [s + 50 for s in seeds])
    net = mlp(seeds, hidden, activation)
    return bcpd.fit(net, source, method, RECIPE, seed=seeds, gradients=gradients, **options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(), (7,), (6, 5, 4)], ids=["linear", "one", "three"])
def test_the_gradient_by_hand_is_autograd_s(hidden: tuple[int, ...], activation: str) -> None:
    net = mlp(SEEDS, hidden, activation)
    assert isinstance(net, MLP)
    x, weights = torch.randn(3, 11, D, dtype=torch.float64), torch.randn(3, 11, K, dtype=torch.float64)
    views = net(x)
    expected = torch.autograd.grad((views.logits.sin() * weights).sum(), list(net.parameters()))
    with torch.no_grad():
        views = net(x)
        net.backward(x, views, views.logits.cos() * weights)
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient, rtol=0, atol=1e-12)
    # a derivative taken at the output of another activation is another gradient
    if hidden:
        other = next(name for name in ACTIVATIONS if name != activation)
        net.activation = other
        net.zero_grad(set_to_none=True)
        with torch.no_grad():
            net.backward(x, views, views.logits.cos() * weights)
        wrong = next(net.parameters()).grad
        assert wrong is not None
        assert not torch.allclose(wrong, expected[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("seeds", [SEEDS, 4], ids=["replicas", "single"])
@pytest.mark.parametrize("loss", ["ce", "mse", "focal", "spherical"])
def test_a_whole_run_is_the_same_by_hand_and_by_autograd(loss: str, seeds: Any, steps_by_hand: list[int]) -> None:
    by_hand = trained(Supervised(loss), "auto", seeds=seeds)
    assert len(steps_by_hand) == STEPS
    by_autograd = trained(Supervised(loss), "autograd", seeds=seeds)
    assert len(steps_by_hand) == STEPS
    assert furthest(by_hand.states["last"], by_autograd.states["last"]) < 1e-12
    assert by_hand.identity != by_autograd.identity


def test_a_student_is_the_same_by_hand_and_by_autograd(steps_by_hand: list[int]) -> None:
    teacher = trained(Supervised("ce"), "autograd").teacher()
    runs = [trained(KD(2.0), mode, teacher=teacher) for mode in ("auto", "autograd")]
    assert len(steps_by_hand) == STEPS
    assert furthest(runs[0].states["last"], runs[1].states["last"]) < 1e-12


class Scaled(MLP):
    """Computes something else than the layers say."""

    def forward(self, x: Tensor) -> Views:
        views = super().forward(3 * x)
        return views._replace(logits=views.logits / 2)


def _shared(net: MLP) -> None:
    net.hidden[1] = net.hidden[0]


def _hooked(net: MLP) -> None:
    net.hidden[0].register_forward_hook(lambda _, __, output: output * 0.5)


def _clipped(net: MLP) -> None:
    net.head.weight.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))


def _normed(net: MLP) -> None:
    weight_norm(net.hidden[0], "weight")


def _frozen(net: MLP) -> None:
    net.hidden[0].requires_grad_(False)


def _replaced(net: MLP) -> None:
    net.hidden[0] = nn.Linear(D, D).double()


@pytest.mark.parametrize("change", [None, _shared, _hooked, _clipped, _normed, _frozen, _replaced])
def test_a_network_that_is_no_plain_perceptron_is_left_to_autograd(
    change: Callable[[MLP], None] | None, steps_by_hand: list[int]
) -> None:
    def net() -> MLP:
        made = (Scaled if change is None else MLP)(num_classes=K, input_shape=(D,), seed=4, hidden=(D, D)).double()
        if change is not None:
            change(made)
        return made

    recipe = Recipe(epochs=2, learning_rate=0.2, batch_size=8, validation=0.25)
    results = []
    for mode in ("auto", "autograd"):
        torch.manual_seed(0)
        results.append(bcpd.fit(net(), world(30, 3), Supervised("ce"), recipe, seed=4, gradients=mode))  # type: ignore[arg-type]
    assert steps_by_hand == []
    assert same(results[0].states["last"], results[1].states["last"])


@pytest.mark.parametrize("change", [lambda net: None, None, _shared, _hooked, _normed, _replaced])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_logits_alone_are_those_of_the_whole_pass(change: Callable[[MLP], None] | None, activation: str) -> None:
    kind = Scaled if change is None else MLP
    net = kind(num_classes=K, input_shape=(D,), seed=4, hidden=(D, D), activation=activation).double()
    if change is not None:
        change(net)
    x = torch.randn(7, D, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(net.logits(x), net(x).logits)
    assert net.logits(x).requires_grad


class Ridge(Supervised):
    """Adds a term on the weights themselves."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__("ce")
        object.__setattr__(self, "_net", net)

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        penalty = sum(p.square().sum() for p in self._net.parameters())  # type: ignore[attr-defined]
        return {**super().loss(batch, s, t), "ridge": 0.1 * penalty}


def test_a_term_on_the_weights_is_not_lost() -> None:
    states = []
    for mode in ("auto", "autograd"):
        net = mlp(4, (6, 5))
        fitted = bcpd.fit(net, world(30, 3), Ridge(net), RECIPE, seed=4, gradients=mode)  # type: ignore[arg-type]
        states.append(fitted.states["last"])
    assert furthest(states[0], states[1]) < 1e-12
    assert furthest(states[0], trained(Supervised("ce"), "auto", seeds=4, source=world(30, 3)).states["last"]) > 1e-2


class Sneaky(Supervised):
    """Learns from features without having asked for them."""

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        return {"label": super().loss(batch, s, t)["label"] + s.pooled.square().mean((-1, -2))}


class Declared(Sneaky):
    def __init__(self, loss: str) -> None:
        super().__init__(loss)
        self.needs = self.needs | {"student.pooled"}


def test_a_view_that_was_not_asked_for_is_refused_and_one_that_was_is_learned_from() -> None:
    with pytest.raises(ValueError, match=r"Sneaky learns from a student's view other than its logits; declare it"):
        trained(Sneaky("ce"), "auto")
    declared, reference = trained(Declared("ce"), "auto"), trained(Declared("ce"), "autograd")
    assert same(declared.states["last"], reference.states["last"])
    assert furthest(declared.states["last"], trained(Supervised("ce"), "auto").states["last"]) > 1e-3


def test_an_unknown_way_to_the_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="gradients must be 'auto' or 'autograd', received 'numeric'"):
        trained(Supervised("ce"), "numeric")


# ------------------------------------------------------------------------------------------------------- given rows


def test_given_rows_are_what_is_learned() -> None:
    source = world(30, 3)
    assert source.log_bayes is not None
    rows = source.log_bayes.exp()
    given = trained(Supervised("mse", "given"), "auto", seeds=4, source=source.with_targets(rows))
    bayes = trained(Supervised("mse", "bayes"), "auto", seeds=4, source=source)
    assert furthest(given.states["last"], bayes.states["last"]) < 1e-12
    shuffled = trained(Supervised("mse", "given"), "auto", seeds=4, source=source.with_targets(rows.flip(0)))
    assert furthest(shuffled.states["last"], bayes.states["last"]) > 1e-2
    with pytest.raises(ValueError, match="Supervised learns from given rows, but the source has no targets"):
        trained(Supervised("mse", "given"), "auto", seeds=4, source=source)


def test_a_student_of_a_frozen_teacher_at_temperature_1_learns_its_rows() -> None:
    source = world(30, 3)
    teacher = trained(Supervised("ce"), "auto", seeds=4, source=source).teacher()
    distilled = trained(KD.pure(), "auto", seeds=7, source=source, teacher=teacher)
    with torch.no_grad():
        rows = teacher(source.x).logits.softmax(-1)
    given = trained(Supervised("ce", "given"), "auto", seeds=7, source=source.with_targets(rows))
    assert furthest(given.states["last"], distilled.states["last"]) < 1e-12


def test_rows_of_several_replicas_on_one_set_make_replicas_of_it() -> None:
    source = world(30, 3)
    assert source.log_bayes is not None
    rows = torch.stack([(source.log_bayes * power).softmax(-1) for power in (0.5, 1.0, 2.0)])
    several = source.with_targets(rows)
    assert several.replicas == 3
    together = trained(Supervised("ce", "given"), "auto", seeds=SEEDS, source=several)
    for number, seed in enumerate(SEEDS):
        alone = trained(Supervised("ce", "given"), "auto", seeds=seed, source=source.with_targets(rows[number]))
        assert furthest(replica(together.states["last"], number), alone.states["last"]) < 1e-12
    assert several.fingerprint() != several.with_targets(rows.flip(0)).fingerprint()
    assert source.with_targets(None).fingerprint() == source.fingerprint()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.full((30, 3), 0.5), "targets must be rows of probabilities"),
        (torch.full((29, 3), 1 / 3), r"targets must have shape \(30, 3\), received \(29, 3\)"),
        (torch.full((30, 4), 0.25), "targets must have 3 columns"),
    ],
)
def test_rows_that_are_no_targets_are_refused(rows: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        world(30, 3).with_targets(rows)


# ----------------------------------------------------------------------------------------------- a method a replica


def test_each_replica_is_the_single_run_of_its_own_method(steps_by_hand: list[int]) -> None:
    methods = [Supervised("ce"), Supervised("mse"), Supervised("ce"), Supervised("logit_mse", readout="projection")]
    seeds = [4, 1, 9, 2]
    together = trained(Each(methods), "auto", seeds=seeds)
    assert len(steps_by_hand) == STEPS
    for number, (seed, method) in enumerate(zip(seeds, methods, strict=True)):
        alone = trained(method, "auto", seeds=seed, source=world(30, seed + 50))
        for checkpoint in ("last", "best_score", "best_accuracy"):
            assert together.epochs[checkpoint][number] == alone.epochs[checkpoint][0]
            assert furthest(replica(together.states[checkpoint], number), alone.states[checkpoint]) < 1e-12
        for row, expected in zip(together.history, alone.history, strict=True):
            for name in expected:
                if name != "epoch":
                    assert row[name][number] == pytest.approx(expected[name][0], abs=1e-11)
    # in another order the wrong replica would have the wrong loss
    swapped = trained(Each([methods[1], methods[0], *methods[2:]]), "auto", seeds=seeds)
    assert furthest(replica(swapped.states["last"], 0), replica(together.states["last"], 0)) > 1e-3


def test_students_of_one_training_have_temperatures_and_weights_of_their_own() -> None:
    teachers = trained(Supervised("ce"), "auto").teacher()
    methods = [KD(1.0), KD(4.0), KD.pure()]
    together = trained(Each(methods), "auto", teacher=teachers)
    # the term that a method does not have is 0 for its replica
    assert [value > 0 for value in together.history[0]["train_label"]] == [True, True, False]
    for number, (seed, method) in enumerate(zip(SEEDS, methods, strict=True)):
        one = trained(Supervised("ce"), "auto", seeds=seed, source=world(30, seed + 50)).teacher()
        alone = trained(method, "auto", seeds=seed, source=world(30, seed + 50), teacher=one)
        assert furthest(replica(together.states["last"], number), alone.states["last"]) < 1e-11


def test_methods_that_no_replica_can_have_to_itself_are_refused() -> None:
    class Rotating(Supervised):
        def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
            return batch

    with pytest.raises(ValueError, match="must be one a replica, received none"):
        Each([])
    with pytest.raises(ValueError, match="must not prepare batches or have phases, received Rotating"):
        Each([Supervised("ce"), Rotating("ce")])
    with pytest.raises(ValueError, match=r"Each has 2 methods, one a replica; the network gives logits of shape \(3,"):
        trained(Each([Supervised("ce"), Supervised("mse")]), "auto")


class Nothing(Supervised):
    """A loss of 0."""

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        return {"label": 0 * super().loss(batch, s, t)["label"]}


class Weighted(Supervised):
    """A setting that its description does not show."""

    def __init__(self, weights: tuple[float, ...]) -> None:
        super().__init__("ce")
        self.weights = weights

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        return {"label": self.weights[0] * super().loss(batch, s, t)["label"]}


@pytest.mark.parametrize(
    "methods",
    [
        [Supervised("ce"), Nothing("ce")],
        [Weighted((1.0,)), Weighted((0.0,))],
        [Supervised("ce"), Supervised(replace(LOSSES["ce"], function=lambda z, y: 0 * LOSSES["ce"].function(z, y)))],
    ],
    ids=["subclass", "tuple", "loss of the same name"],
)
def test_methods_that_only_describe_themselves_alike_are_not_taken_for_one(methods: list[Method]) -> None:
    before = mlp([4, 1], (6, 5)).state_dict()
    recipe = Recipe(epochs=2, learning_rate=0.2, batch_size=8, validation=0.25)
    fitted = bcpd.fit(mlp([4, 1], (6, 5)), world(30, [3, 4]), Each(methods), recipe, seed=[4, 1])
    assert furthest(replica(fitted.states["last"], 1), replica(before, 1)) == 0
    assert furthest(replica(fitted.states["last"], 0), replica(before, 0)) > 1e-2


def test_each_replica_has_labels_where_its_own_method_wants_them() -> None:
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[1] = False
    source = world(30, [3, 4], labelled=mask)
    teacher = bcpd.fit(mlp([5, 6]), world(30, [3, 4]), Supervised("ce"), RECIPE, seed=[5, 6]).teacher()
    recipe = Recipe(epochs=1, learning_rate=0.1, batch_size=7, validation=0.0)
    bcpd.fit(mlp([1, 2]), source, Each([Supervised("ce"), KD.pure()]), recipe, seed=[1, 2], teacher=teacher)
    with pytest.raises(ValueError, match="Each needs labels"):
        bcpd.fit(mlp([1, 2]), source, Each([KD.pure(), Supervised("ce")]), recipe, seed=[1, 2], teacher=teacher)


def test_one_teacher_teaches_all_replicas() -> None:
    single = trained(Supervised("ce"), "auto", seeds=8, source=world(30, 3)).teacher()
    together = trained(KD(2.0), "auto", teacher=single, held_out=world(20, [7, 8, 9]))
    for number, seed in enumerate(SEEDS):
        options: dict[str, Any] = {"teacher": single, "held_out": world(20, 7 + number)}
        alone = trained(KD(2.0), "auto", seeds=seed, source=world(30, seed + 50), **options)
        assert furthest(replica(together.states["last"], number), alone.states["last"]) < 1e-12
        assert together.history[-1]["agreement"][number] == pytest.approx(alone.history[-1]["agreement"][0])


def test_the_score_of_each_replica_is_its_own() -> None:
    each = Each([Supervised("ce"), Supervised("mse"), Recorded("ce")])
    assert each.scores(3) == ["nll", "brier", "nll"]
    fitted = trained(Each([Supervised("ce"), Supervised("mse"), Supervised("ce")]), "auto")
    for number, score in enumerate(("nll", "brier", "nll")):
        path = fitted.path(f"validation_{score}")[:, number]
        assert fitted.epochs["best_score"][number] == int(path.argmin()) + 1


# ----------------------------------------------------------------------------------------------------- single precision


def test_in_single_precision_a_replica_stays_within_1e_6_after_an_epoch() -> None:
    seeds = list(range(6))
    recipe = Recipe(epochs=1, learning_rate=0.05, batch_size=32, validation=0.0)

    def net(seed: Any) -> Any:
        return build("mlp", num_classes=K, input_shape=(D,), seed=seed, hidden=(32, 32))

    together = bcpd.fit(net(seeds), world(640, seeds, dtype=torch.float32), Supervised("ce"), recipe, seed=seeds)
    for number in seeds:
        alone = bcpd.fit(net(number), world(640, number, dtype=torch.float32), Supervised("ce"), recipe, seed=number)
        assert furthest(replica(together.states["last"], number), alone.states["last"]) < 1e-6


# ------------------------------------------------------------------------------------------------------------- the plan


@pytest.mark.parametrize("replicas", [1, 7, 32, 33, 120, 1000])
def test_groups_cover_all_replicas_once_and_fit_the_cache(replicas: int) -> None:
    made = plan(build("mlp", num_classes=10, input_shape=(30,)), replicas, 5000, held_out=3000)
    assert [r for group in made.groups for r in group] == list(range(replicas))
    sizes = {len(group) for group in made.groups}
    assert max(sizes) == made.group
    assert max(sizes) - min(sizes) <= 1
    assert made.group * made.state_bytes <= 8 * 2**20
    parameters = 30 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10
    assert made.state_bytes == 3 * 4 * parameters
    assert made.group * made.replica_bytes < made.bytes < made.group * made.replica_bytes + 2**25
    assert "replicas in" in str(made)


def test_groups_do_not_depend_on_how_many_replicas_the_given_network_has() -> None:
    one, many = (build("mlp", num_classes=10, input_shape=(30,), seed=seed) for seed in (0, [0, 1, 2]))
    assert plan(one, 50, 1000) == plan(many, 50, 1000)


def test_memory_bounds_a_group_too_and_a_replica_above_it_is_refused() -> None:
    net = build("mlp", num_classes=10, input_shape=(30,))
    tight = plan(net, 100, 100_000, memory_bytes=2**26)
    assert tight.bytes <= 2**26
    assert tight.group < plan(net, 100, 100_000).group
    shared = plan(net, 100, 100_000, memory_bytes=2**26, own_examples=False)
    assert shared.group > tight.group
    with pytest.raises(ValueError, match=r"one replica needs .* MiB, above memory_bytes = 1 MiB"):
        plan(net, 2, 100_000, memory_bytes=2**20)
    with pytest.raises(ValueError, match="replicas must be an int >= 1, received 0"):
        plan(net, 0, 100)
