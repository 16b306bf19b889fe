"""What every registered network promises, whoever wrote it."""

import copy
import re

import pytest
import torch
from torch import Tensor

from bcpd.nets import NETS, Net, build

INPUT_SHAPES = dict.fromkeys(NETS, (3, 8, 8)) | {"mlp": (9,)}
NUM_CLASSES = 7

pytestmark = pytest.mark.parametrize("name", NETS)


def make(name: str, seed: int = 0, num_classes: int = NUM_CLASSES) -> Net:
    return build(name, num_classes=num_classes, input_shape=INPUT_SHAPES[name], seed=seed).double()


def examples(name: str, n: int = 4) -> Tensor:
    return torch.randn(n, *INPUT_SHAPES[name], generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_views_have_matching_shapes(name: str) -> None:
    net = make(name)
    views = net(examples(name))
    assert (net.name, net.num_classes, net.input_shape, net.replicas) == (name, 7, INPUT_SHAPES[name], None)
    assert views.logits.shape == (4, NUM_CLASSES)
    assert views.pooled.ndim == 2
    assert len(views.stages) > 0
    assert [stage.shape for stage in views.stages] == [preact.shape for preact in views.preacts]
    assert all(len(view) == 4 for view in (views.pooled, *views.stages))
    assert views.pooled.shape[1] == views.stages[-1].shape[1]
    assert make(name, num_classes=2)(examples(name)).logits.shape == (4, 2)


def test_parameters_are_a_function_of_the_seed(name: str) -> None:
    first, again, other = (make(name, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key in first if float(first[key].double().std(correction=0)) > 0]
    assert drawn
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


def test_building_leaves_the_global_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    first = make(name).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert all(torch.equal(first[key], value) for key, value in make(name).state_dict().items())


def test_evaluation_mode_is_deterministic_and_leaves_no_trace(name: str) -> None:
    net, x = make(name), examples(name, 8)
    net.train()(x)
    state = copy.deepcopy(net.state_dict())
    net.eval()
    whole = net(x).logits
    torch.testing.assert_close(torch.cat([net(x[:3]).logits, net(x[3:]).logits]), whole, rtol=0, atol=1e-10)
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    net.train()
    assert net.training


def test_the_gradient_reaches_every_parameter(name: str) -> None:
    net = make(name)
    torch.nn.functional.cross_entropy(net(examples(name, 8)).logits, torch.arange(8) % NUM_CLASSES).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert bool(parameter.grad.isfinite().all()), key
        assert float(parameter.grad.abs().max()) > 0, key


def test_a_state_dict_carries_the_whole_network(name: str) -> None:
    net, x = make(name, 1), examples(name, 8)
    net.train()(x)
    net.eval()
    other = make(name, 2).eval()
    assert not torch.equal(other(x).logits, net(x).logits)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x).logits, net(x).logits)


def test_bad_arguments_are_refused(name: str) -> None:
    shape = INPUT_SHAPES[name]
    with pytest.raises(ValueError, match=f"unknown network '{name}!'; known: mlp, resnet8, "):
        build(name + "!", num_classes=7, input_shape=shape)
    with pytest.raises(ValueError, match=rf"{name} accepts the options .*, received \['widht'\]"):
        build(name, num_classes=7, input_shape=shape, widht=3)
    with pytest.raises(ValueError, match="num_classes must be an int >= 2, received 1"):
        build(name, num_classes=1, input_shape=shape)
    for wrong in ((), (0,) * len(shape)):
        with pytest.raises(ValueError, match=rf"input_shape must be positive ints, .*{re.escape(str(wrong))}"):
            build(name, num_classes=7, input_shape=wrong)
