"""A training step moves the weights by the learning rate times the gradient of the mean loss, and by nothing else."""

import math
from itertools import chain

import pytest
import torch
from small_world import K, Recorded, furthest, mlp, same, world

import bcpd
from bcpd.distill import Supervised
from bcpd.losses import LOSSES
from bcpd.train import Constant, Cosine, Recipe, Schedule, Step
from bcpd.train.split import order_of_epoch


def one_step(**options: object) -> Recipe:
    settings: dict[str, object] = {"learning_rate": 0.25, "batch_size": 40, "momentum": 0.0, "validation": 0.0}
    return Recipe(epochs=1, **{**settings, **options})  # type: ignore[arg-type]


def test_a_full_batch_step_of_linear_softmax_is_the_textbook_s() -> None:
    net, source = mlp(hidden=()), world()
    weight, bias = net.head.weight.detach().clone(), net.head.bias.detach().clone()
    residual = (source.x @ weight + bias).softmax(-1) - torch.eye(K, dtype=torch.float64)[source.y]
    bcpd.fit(net, source, Supervised("ce"), one_step(), seed=0)
    torch.testing.assert_close(net.head.weight.detach(), weight - 0.25 * source.x.T @ residual / 40, rtol=0, atol=1e-14)
    torch.testing.assert_close(net.head.bias.detach(), bias - 0.25 * residual.mean(0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("target", ["labels", "bayes"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_full_batch_step_follows_the_finite_difference(name: str, target: str) -> None:
    net, source = mlp(activation="tanh"), world()
    truth = source.y if target == "labels" else source.log_bayes.exp()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    probe = mlp(activation="tanh")

    def risk(state: dict[str, torch.Tensor]) -> float:
        probe.load_state_dict(state)
        return float(LOSSES[name](probe(source.x).logits, truth).mean().detach())

    bcpd.fit(net, source, Supervised(name, target=target), one_step(), seed=0)
    for key, old in before.items():
        for place in range(0, old.numel(), 3):
            values = []
            for sign in (1, -1):
                moved = {k: v.clone() for k, v in before.items()}
                moved[key].view(-1)[place] += sign * 1e-5
                values.append(risk(moved))
            slope = (values[0] - values[1]) / 2e-5
            new = net.state_dict()[key].view(-1)[place]
            assert float(new) == pytest.approx(float(old.view(-1)[place]) - 0.25 * slope, abs=1e-9)


def test_weight_decay_enters_the_gradient() -> None:
    plain, decayed = mlp(), mlp()
    start = {key: value.clone() for key, value in plain.state_dict().items()}
    bcpd.fit(plain, world(), Supervised("ce"), one_step(), seed=0)
    bcpd.fit(decayed, world(), Supervised("ce"), one_step(weight_decay=0.1), seed=0)
    for key, value in start.items():
        expected = plain.state_dict()[key] - 0.25 * 0.1 * value
        torch.testing.assert_close(decayed.state_dict()[key], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam"])
@pytest.mark.parametrize("schedule", [Constant(), Step((0.3, 0.8), 0.5), Cosine(0.1)], ids=lambda s: type(s).__name__)
def test_a_run_is_a_plain_torch_loop(optimizer: str, schedule: Schedule) -> None:
    """Four epochs of uneven batches against torch.optim driven by hand."""
    source, net, reference = world(30), mlp(1), mlp(1)
    recipe = Recipe(
        epochs=4,
        learning_rate=0.05,
        batch_size=8,
        optimizer="adam" if optimizer == "adam" else "sgd",
        momentum=0.0 if optimizer == "adam" else 0.9,
        nesterov=optimizer == "nesterov",
        weight_decay=0.01,
        schedule=schedule,
        validation=0.0,
    )
    recorded = Recorded("mse")
    fitted = bcpd.fit(net, source, recorded, recipe, seed=5)
    assert [len(batch) for batch in recorded.indices()] == [8, 8, 8, 6] * 4
    if optimizer == "adam":
        by_hand: torch.optim.Optimizer = torch.optim.Adam(reference.parameters(), weight_decay=0.01)
    else:
        by_hand = torch.optim.SGD(
            reference.parameters(), momentum=0.9, nesterov=optimizer == "nesterov", weight_decay=0.01, lr=1.0
        )
    for step, index in enumerate(recorded.indices()):
        done = step / 16
        factor = {
            "Constant": 1.0,
            "Step": 0.5 ** ((done >= 0.3) + (done >= 0.8)),
            "Cosine": 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2,
        }[type(schedule).__name__]
        by_hand.param_groups[0]["lr"] = 0.05 * factor
        q = reference(source.x[index]).logits.softmax(-1)
        by_hand.zero_grad()
        (q - torch.eye(K, dtype=torch.float64)[source.y[index]]).square().sum(-1).mean().backward()
        by_hand.step()
    assert furthest(reference.state_dict(), fitted.states["last"]) < 1e-13
    assert furthest(mlp(1).state_dict(), fitted.states["last"]) > 1e-2


def test_every_epoch_walks_all_training_examples_once_in_a_new_order() -> None:
    recorded = Recorded()
    bcpd.fit(mlp(), world(30), recorded, Recipe(epochs=3, learning_rate=0.1, batch_size=7, validation=0.2), seed=3)
    epochs = [list(chain(*recorded.indices()[4 * e : 4 * e + 4])) for e in range(3)]
    assert all(len(epoch) == 24 and sorted(epoch) == sorted(set(epochs[0])) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_training_loss_of_an_epoch_is_the_mean_over_its_examples() -> None:
    """Batches of uneven size count by their examples; a tiny rate keeps the network where it is."""
    source, net = world(30), mlp()
    expected = float(LOSSES["ce"](net(source.x).logits, source.y).mean().detach())
    recipe = Recipe(epochs=1, learning_rate=1e-12, batch_size=8, validation=0.0)
    fitted = bcpd.fit(net, source, Supervised("ce"), recipe, seed=0)
    assert fitted.history[0]["train_loss"][0] == pytest.approx(expected, abs=1e-9)
    assert fitted.history[0]["train_label"] == fitted.history[0]["train_loss"]


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_order() -> None:
    recipe = Recipe(epochs=2, learning_rate=0.1, batch_size=8)
    first, again, other = (bcpd.fit(mlp(), world(), Supervised("ce"), recipe, seed=seed) for seed in (1, 1, 2))
    assert same(first.states["last"], again.states["last"])
    assert first.history == again.history
    assert first.identity == again.identity
    assert not same(first.states["last"], other.states["last"])
    assert first.identity != other.identity


def test_training_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    bcpd.fit(mlp(), world(), Supervised("ce"), Recipe(epochs=1, learning_rate=0.1), seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_does_not_reach_the_training() -> None:
    recipe = Recipe(epochs=2, learning_rate=0.1, batch_size=8)
    states = []
    for start in (0, 1):
        torch.manual_seed(start)
        states.append(bcpd.fit(Dropping(mlp()), world(), Supervised("ce"), recipe, seed=0).states["last"])
    assert same(states[0], states[1])
    assert not same(states[0], bcpd.fit(Dropping(mlp()), world(), Supervised("ce"), recipe, seed=1).states["last"])


class Dropping(torch.nn.Module):
    """A network whose inputs are dropped out in training mode."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net, self.drop = net, torch.nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> object:
        return self.net(self.drop(x))


def test_orders_are_functions_of_seed_phase_and_epoch_alone() -> None:
    index = torch.arange(50)
    base = order_of_epoch(index, [3], "main", 1)
    assert torch.equal(base, order_of_epoch(index, [3], "main", 1))
    assert sorted(base.tolist()) == index.tolist()
    assert torch.equal(order_of_epoch(index.expand(2, -1), [4, 3], "main", 1)[1], base)
    for seed, phase, epoch in ((4, "main", 1), (3, "head", 1), (3, "main", 2)):
        assert not torch.equal(base, order_of_epoch(index, [seed], phase, epoch))


def test_dropout_has_new_masks_in_every_epoch_and_for_every_seed() -> None:
    """The shares kept are recorded; a stream that started anew each epoch would repeat itself."""

    def kept(seed: int) -> list[torch.Tensor]:
        masks: list[torch.Tensor] = []
        net = Dropping(mlp())

        def note(module: torch.nn.Module, given: object, result: torch.Tensor) -> None:
            if module.training:
                masks.append(result == 0)

        net.drop.register_forward_hook(note)
        recipe = Recipe(epochs=2, learning_rate=1e-9, batch_size=30, validation=0.25)
        bcpd.fit(net, world(), Supervised("ce"), recipe, seed=seed)
        return masks

    first, again, other = kept(1), kept(1), kept(2)
    assert len(first) == 2
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
