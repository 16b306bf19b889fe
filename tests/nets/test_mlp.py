"""The MLP: R replicas are exactly R single networks, and the start is that of torch.nn.Linear."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bcpd.nets import Views, build
from bcpd.nets.mlp import ACTIVATIONS

SEEDS = [3, 11, 3, 0]


def points(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def mlp(seed: Any = 0, **options: Any) -> nn.Module:
    return build("mlp", num_classes=5, input_shape=options.pop("input_shape", (6,)), seed=seed, **options).double()


def flat(views: Views) -> list[Tensor]:
    return [views.logits, views.pooled, *views.stages, *views.preacts]


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("hidden", [(), (7,), (7, 9)])
def test_replicas_are_the_single_networks_of_their_seeds(hidden: tuple[int, ...], activation: str) -> None:
    stack = mlp(SEEDS, hidden=hidden, activation=activation)
    x = points(len(SEEDS), 8, 6)
    stacked = stack(x)
    stacked.logits.square().sum().backward()
    for r, seed in enumerate(SEEDS):
        single = mlp(seed, hidden=hidden, activation=activation)
        views = single(x[r])
        views.logits.square().sum().backward()
        for (name, ours), (other, theirs) in zip(stack.named_parameters(), single.named_parameters(), strict=True):
            assert name == other
            assert torch.equal(ours[r], theirs)
            assert ours.grad is not None
            assert theirs.grad is not None
            torch.testing.assert_close(ours.grad[r], theirs.grad, rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(flat(stacked), flat(views), strict=True):
            torch.testing.assert_close(ours[r], theirs, rtol=0, atol=1e-12)


def test_a_shared_batch_is_the_same_batch_for_every_replica() -> None:
    stack, x = mlp(SEEDS), points(8, 6)
    repeated = stack(x.expand(len(SEEDS), 8, 6).contiguous())
    for ours, theirs in zip(flat(stack(x)), flat(repeated), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_forward_is_the_layer_by_layer_formula(activation: str) -> None:
    net, x = mlp(hidden=(7, 9), activation=activation), points(8, 6)
    expected = {
        "relu": lambda z: z.clamp(min=0),
        "tanh": lambda z: 2 / (1 + (-2 * z).exp()) - 1,
        "gelu": lambda z: z * (1 + torch.erf(z / 2**0.5)) / 2,
        "silu": lambda z: z / (1 + (-z).exp()),
    }[activation]
    state = net.state_dict()
    features, views = x, net(x)
    for level in range(2):
        preact = features @ state[f"hidden.{level}.weight"] + state[f"hidden.{level}.bias"]
        features = expected(preact)
        torch.testing.assert_close(views.preacts[level], preact, rtol=0, atol=1e-12)
        torch.testing.assert_close(views.stages[level], features, rtol=0, atol=1e-12)
    assert views.pooled is views.stages[-1]
    torch.testing.assert_close(views.logits, features @ state["head.weight"] + state["head.bias"], rtol=0, atol=1e-12)


def test_without_hidden_layers_it_is_the_linear_softmax_classifier() -> None:
    net, x = mlp(hidden=()), points(8, 6)
    views = net(x)
    assert (views.stages, views.preacts) == ((), ())
    assert torch.equal(views.pooled, x)
    state = net.state_dict()
    expected = functional.linear(x, state["head.weight"].T, state["head.bias"])
    torch.testing.assert_close(views.logits, expected, rtol=0, atol=1e-12)


def test_images_are_flattened_inside() -> None:
    single, stack = mlp(input_shape=(1, 8, 8)), mlp([0, 1], input_shape=(1, 8, 8))
    x = points(2, 5, 1, 8, 8)
    assert torch.equal(single(x[0]).logits, mlp(input_shape=(64,))(x[0].flatten(1)).logits)
    torch.testing.assert_close(stack(x).logits[0], single(x[0]).logits, rtol=0, atol=1e-12)
    assert stack(x[0]).logits.shape == (2, 5, 5)


def test_the_start_is_uniform_with_the_bound_of_torch_linear() -> None:
    net = build("mlp", num_classes=5, input_shape=(64,), seed=0, hidden=(500, 400))
    for layer, inputs in zip([net.hidden[0], net.hidden[1], net.head], [64, 500, 400], strict=True):  # type: ignore[index]
        weight, bound = layer.weight.detach().double(), inputs**-0.5
        assert 0.99 * bound < float(weight.abs().max()) <= bound * (1 + 1e-6)
        n = weight.numel()
        # mean and second moment of the uniform law at 5 sigma each: false alarm 6e-7 a line
        assert abs(float(weight.mean())) < 5 * bound / (3 * n) ** 0.5
        assert abs(float(weight.square().mean()) / (bound**2 / 3) - 1) < 5 * (4 / (5 * n)) ** 0.5
        assert 0.5 * bound < float(layer.bias.detach().abs().max()) <= bound * (1 + 1e-6)
    reference = nn.Linear(500, 400)  # the law that torch itself documents and draws
    assert float(reference.weight.detach().abs().max()) == pytest.approx(500**-0.5, rel=0.01)


@pytest.mark.parametrize(
    ("seed", "options", "message"),
    [
        ([], {}, "seed must be an int or a non-empty sequence"),
        (0, {"hidden": (8, 0)}, r"hidden must be widths >= 1, e\.g\. \(128, 128\), received \(8, 0\)"),
        (0, {"activation": "swish"}, r"activation must be one of \['gelu', 'relu', 'silu', 'tanh'\], received 'swish'"),
    ],
)
def test_bad_options_are_refused(seed: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mlp(seed, **options)


@pytest.mark.parametrize("shape", [(6,), (8, 5), (2, 8, 6), (8, 6, 1)])
def test_a_single_network_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(B, 6\), received \("):
        mlp()(points(*shape))


@pytest.mark.parametrize("shape", [(6,), (3, 8, 6), (2, 8, 5), (1, 2, 8, 6)])
def test_replicas_refuse_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(2, B, 6\) or \(B, 6\), received \("):
        mlp([0, 1])(points(*shape))
