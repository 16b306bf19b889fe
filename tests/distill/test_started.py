"""A training that begins with one loss and goes on with another."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bcpd
from bcpd.data import Batch, InMemory
from bcpd.distill import KD, PKT, Each, Phase, Started, Supervised
from bcpd.losses import LOSSES
from bcpd.nets import Net, Views, build
from bcpd.train import Recipe
from bcpd.train.split import order_of_epoch, split

K = 3


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def source() -> InMemory:
    x = random(40, 4)
    return InMemory(x, x[:, :K].argmax(-1), num_classes=K, dtype=torch.float64)


def net() -> Net:
    return build("mlp", num_classes=K, input_shape=(4,), seed=1, hidden=(6,)).double()


RECIPE = Recipe(epochs=4, learning_rate=0.2, batch_size=8, weight_decay=0.01, validation=0.25)


def by_hand(switch: int) -> dict[str, Tensor]:
    """Momentum, decay and the batches of every epoch, with the losses in turn."""
    model, data = net(), source()
    train_index, _ = split(data, RECIPE.validation, [7], None)
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    for epoch in range(RECIPE.epochs):
        loss = LOSSES["ce" if epoch < switch else "mse"]
        for index in torch.split(order_of_epoch(train_index, [7], "main", epoch), RECIPE.batch_size):
            risk = loss(model(data.x[index]).logits, data.y[index]).mean()
            gradients = torch.autograd.grad(risk, list(model.parameters()))
            with torch.no_grad():
                for p, v, gradient in zip(model.parameters(), velocity, gradients, strict=True):
                    v.mul_(0.9).add_(gradient + 0.01 * p)
                    p.sub_(0.2 * v)
    return model.state_dict()


def furthest(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    return max(float((left[key] - right[key]).abs().max()) for key in left)


def test_the_losses_follow_each_other_in_one_training() -> None:
    fitted = bcpd.fit(net(), source(), Started(Supervised("ce"), 2, Supervised("mse")), RECIPE, seed=7)
    assert furthest(fitted.states["last"], by_hand(2)) < 1e-12
    # one epoch more or less of the first loss would be seen
    assert furthest(fitted.states["last"], by_hand(3)) > 1e-3
    assert furthest(fitted.states["last"], by_hand(1)) > 1e-3
    plain = bcpd.fit(net(), source(), Supervised("ce"), RECIPE, seed=7)
    assert [row["train_label"] for row in fitted.history[:2]] == [row["train_label"] for row in plain.history[:2]]


def test_a_run_that_is_left_goes_on_with_the_loss_it_had(tmp_path: Path) -> None:
    def started() -> Started:
        return Started(Supervised("ce"), 2, Supervised("mse"))

    class Left(Exception):
        pass

    def leave(progress: Any) -> None:
        if progress.epoch == 3:
            raise Left

    options: dict[str, Any] = {"seed": 7, "folder": tmp_path, "save_seconds": 0.0}
    with pytest.raises(Left):
        bcpd.fit(net(), source(), started(), RECIPE, progress=leave, **options)
    fitted = bcpd.fit(net(), source(), started(), RECIPE, **options)
    assert fitted.states["last"].keys() == net().state_dict().keys()
    assert furthest(fitted.states["last"], by_hand(2)) < 1e-12


def test_the_network_is_that_of_the_second_method() -> None:
    method = Started(Supervised("ce", target="bayes"), 1, Supervised("logit_mse"))
    z = torch.tensor([[0.4, 0.3, 0.0]])
    for epoch in (0, 1):
        method.progress(epoch, 0)
        torch.testing.assert_close(method.log_probabilities(z).exp(), torch.tensor([[0.5, 0.4, 0.1]]))
    assert method.needs == {"bayes", "labels"}
    assert (Started(Supervised("ce"), 1, Supervised("mse")).score, method.scores(2)) == ("brier", ["brier"] * 2)
    assert not method.couples
    assert Started(PKT(), 1, Supervised("mse")).couples


def test_it_changes_its_plain_attributes_once() -> None:
    """A captured step holds them as constants: it is captured anew where they change."""
    method = Started(Supervised("ce"), 2, Supervised("mse"))
    seen = []
    for epoch in range(4):
        method.progress(epoch, 3)
        seen.append([(key, value) for key, value in vars(method).items() if isinstance(value, bool | int)])
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_each_method_counts_its_own_epochs() -> None:
    class Telling(Supervised):
        def __init__(self, loss: str) -> None:
            super().__init__(loss)
            self.told: list[tuple[int, int]] = []
            self.adapted = 0

        def adapt(self, student: Views, teacher: Views | None) -> None:
            self.adapted += 1

        def progress(self, epoch: int, step: int) -> None:
            self.told.append((epoch, step))

    first, then = Telling("ce"), Telling("mse")
    method = Started(first, 1, then)
    method.adapt(net()(random(2, 4)), None)
    assert (first.adapted, then.adapted) == (1, 1)
    for epoch in range(3):
        method.progress(epoch, 5)
    assert (first.told, then.told) == ([(0, 5)], [(0, 5), (1, 5)])


def test_replicas_that_one_of_the_methods_needs_labels_for() -> None:
    labels, bayes = Supervised("ce"), Supervised("ce", target="bayes")
    method = Started(Each([labels, bayes, bayes]), 1, Each([bayes, bayes, labels]))
    assert method.replicas_in_need("labels") == [0, 2]
    assert Started(labels, 1, Each([bayes, labels])).replicas_in_need("labels") is None
    assert Started(bayes, 1, Each([bayes, labels])).replicas_in_need("labels") == [1]


def test_it_is_identified_by_all_that_changes_it() -> None:
    methods = [
        Started(Supervised("ce"), 1, Supervised("mse")),
        Started(Supervised("ce"), 2, Supervised("mse")),
        Started(Supervised("mse"), 1, Supervised("ce")),
        Started(Supervised("ce"), 1, KD(2.0)),
        Supervised("mse"),
    ]
    assert len({str(method.describe()) for method in methods}) == len(methods)


@pytest.mark.parametrize("epochs", [0, -1, 1.0, True])
def test_a_start_is_whole_epochs(epochs: Any) -> None:
    with pytest.raises(ValueError, match="epochs must be an int >= 1"):
        Started(Supervised("ce"), epochs, Supervised("mse"))


def test_phases_belong_to_a_whole_training() -> None:
    class Phased(Supervised):
        def phases(self) -> list[Phase]:
            return []

    class Preparing(Supervised):
        def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
            return batch

    with pytest.raises(ValueError, match="must not prepare batches, received Preparing"):
        Started(Supervised("ce"), 1, Preparing("ce"))
    with pytest.raises(ValueError, match="must not have phases, received Phased"):
        Started(Supervised("ce"), 1, Phased("mse"))
