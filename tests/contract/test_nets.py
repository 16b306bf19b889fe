"""What every registered network promises, whoever wrote it."""

import copy
import re

import pytest
import torch
from torch import Tensor

from bcpd.nets import NETS, ConvNet, Net, build

IMAGENET = [name for name in NETS if name.startswith("imagenet")]
INPUT_SHAPES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(NETS, (3, 8, 8)),
    **dict.fromkeys(IMAGENET, (3, 32, 32)),
    "mlp": (9,),
}
NUM_CLASSES = 7

QUICK = {"mlp", "resnet8", "resnet8x0.5", "wrn_16_1", "mobilenetv2", "shufflenetv2"}
"""Small networks; the others do the same with more layers, and are slow."""

SHALLOW = {*QUICK, "shufflenetv1", "vgg8", "resnet18", "imagenet_resnet18", "imagenet_mobilenetv1"}
"""One of each kind: enough where nothing is computed."""

every_network = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETS]
)


def make(name: str, seed: int = 0, num_classes: int = NUM_CLASSES) -> Net:
    return build(name, num_classes=num_classes, input_shape=INPUT_SHAPES[name], seed=seed).double()


def examples(name: str, n: int = 4) -> Tensor:
    return torch.randn(n, *INPUT_SHAPES[name], generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def shapes_of(net: Net, x: Tensor) -> dict[str, object]:
    """Shapes of the views of ``x``, without the leading axis."""
    views = net(x)
    assert all(len(view) == len(x) for view in (views.logits, views.pooled, *views.stages, *views.preacts))
    return {
        "logits": tuple(views.logits.shape[1:]),
        "pooled": tuple(views.pooled.shape[1:]),
        "stages": tuple(tuple(stage.shape[1:]) for stage in views.stages),
        "preacts": tuple(tuple(preact.shape[1:]) for preact in views.preacts),
    }


@pytest.mark.parametrize(
    "name", [name if name in SHALLOW else pytest.param(name, marks=pytest.mark.slow) for name in NETS]
)
def test_declared_shapes_are_those_of_the_views(name: str) -> None:
    """At a size that no stride divides, and at that which it was made for. Nothing is computed."""
    if name == "mlp":
        net = build(name, num_classes=NUM_CLASSES, input_shape=(3, 5), seed=[0, 1], hidden=(4, 6))
        views = net(torch.zeros(2, 8, 3, 5))
        stages = ((4,), (6,))
        assert net.tap_shapes == {"logits": (7,), "pooled": (6,), "stages": stages, "preacts": stages}
        assert [tuple(stage.shape[2:]) for stage in views.stages] == list(stages)
        return
    side = 224 if name in IMAGENET else 32
    for input_shape in ((1, side + 5, side + 18), (3, side, side))[: 1 if name in SHALLOW else 2]:
        with torch.device("meta"):
            net = build(name, num_classes=NUM_CLASSES, input_shape=input_shape)
        assert shapes_of(net, torch.empty(2, *input_shape, device="meta")) == net.tap_shapes


@every_network
def test_views_have_the_declared_shapes(name: str) -> None:
    net = make(name)
    assert (net.name, net.num_classes, net.input_shape, net.replicas) == (name, 7, INPUT_SHAPES[name], None)
    shapes = shapes_of(net, examples(name))
    assert shapes == net.tap_shapes
    assert shapes["logits"] == (NUM_CLASSES,)
    assert shapes["stages"] == shapes["preacts"]
    assert len(net.tap_shapes["stages"]) > 0
    assert make(name, num_classes=2)(examples(name)).logits.shape == (4, 2)


@every_network
def test_stages_are_their_preacts_after_the_activation(name: str) -> None:
    for stage, preact in zip(*make(name)(examples(name))[2:], strict=True):
        if name == "mobilenetv2":  # ends linearly
            assert stage is preact
        else:
            assert torch.equal(stage, preact.clamp(min=0))
        assert float(preact.detach().min()) < 0 < float(preact.detach().max())


@every_network
def test_parameters_are_a_function_of_the_seed(name: str) -> None:
    first, again, other = (make(name, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key in first if float(first[key].double().std(correction=0)) > 0]
    assert drawn
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


@every_network
def test_building_leaves_the_global_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    first = make(name).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert all(torch.equal(first[key], value) for key, value in make(name).state_dict().items())


@every_network
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


@every_network
def test_the_gradient_reaches_every_parameter(name: str) -> None:
    net = make(name)
    torch.nn.functional.cross_entropy(net(examples(name, 8)).logits, torch.arange(8) % NUM_CLASSES).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert bool(parameter.grad.isfinite().all()), key
        if not (isinstance(net, ConvNet) and key.endswith("conv.bias")):  # which batch norm subtracts again
            assert float(parameter.grad.abs().max()) > 0, key


@every_network
def test_a_state_dict_carries_the_whole_network(name: str) -> None:
    net, x = make(name, 1), examples(name, 8)
    net.train()(x)
    net.eval()
    other = make(name, 2).eval()
    assert not torch.equal(other(x).logits, net(x).logits)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x).logits, net(x).logits)


@every_network
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
