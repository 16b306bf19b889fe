"""What convolutional networks share: branches, memory layout, views that nothing writes into, the law of the start."""

import copy
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bcpd.nets import NETS, ConvNet, build
from bcpd.nets.shufflenet import shuffle

FAMILIES = ["resnet8", "wrn_16_2", "mobilenetv2", "shufflenetv2"]
"""Small networks; the others are slow."""
LARGE = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("shufflenetv1", "vgg8", "resnet18", "resnet50", "imagenet_mobilenetv1")
]


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def small(name: str, channels: int = 3, seed: int = 0, least: int = 8) -> ConvNet:
    size = 32 if name.startswith("imagenet") else least
    return cast(ConvNet, build(name, num_classes=5, input_shape=(channels, size, size), seed=seed).double())


@pytest.mark.parametrize("name", [*FAMILIES, *LARGE])
def test_a_branch_with_the_networks_own_weights_is_the_rest_of_the_network(name: str) -> None:
    """Copying the remaining stages into it gives the network's logits from ``stages[stage]`` alone."""
    net = small(name)
    views = net(images(4, *net.input_shape))
    for stage in range(len(views.stages) - 1):
        branch = net.branch(stage, 5, seed=1).double()
        branch.blocks.load_state_dict(nn.ModuleList(list(net.blocks)[stage + 1 :]).state_dict())
        if hasattr(net, "neck"):
            branch.neck.load_state_dict(net.neck.state_dict())
        branch.head.load_state_dict(net.head.state_dict())
        torch.testing.assert_close(branch(views.stages[stage]), views.logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [*FAMILIES, *LARGE])
def test_every_parameter_of_a_branch_learns_and_none_is_the_networks(name: str) -> None:
    net = small(name)
    before = copy.deepcopy(net.state_dict())
    x = images(4, *net.input_shape)
    net.requires_grad_(False)
    views = net.train()(x)
    for stage in (0, len(views.stages) - 1):
        branch = net.branch(stage, 7, seed=2).double().train()
        out = branch(views.stages[stage])
        assert out.shape == (4, 7)
        functional.cross_entropy(out, torch.arange(4)).backward()
        for key, parameter in branch.named_parameters():
            assert parameter.grad is not None, key
            if not key.endswith("conv.bias"):  # a bias before batch norm, which subtracts it again
                assert float(parameter.grad.abs().max()) > 0, key
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(
        torch.equal(before[key], value)
        for key, value in net.state_dict().items()
        if key in dict(net.named_parameters())
    )


def test_a_branch_is_a_function_of_seed_and_stage() -> None:
    net, state = small("resnet8"), torch.get_rng_state()
    first, again, other = (net.branch(1, 4, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["blocks.0.0.conv1.weight"], other["blocks.0.0.conv1.weight"])
    # the last stage of the branches of stages 1 and 2 has a layer of one shape, drawn separately
    assert not torch.equal(first["head.weight"], net.branch(2, 4, 3).state_dict()["head.weight"])


def test_the_branch_of_the_last_stage_keeps_its_size_and_channels() -> None:
    for name in ("resnet8", "wrn_16_2", "mobilenetv2", "shufflenetv1", "shufflenetv2"):
        net = small(name)
        branch = net.branch(len(net.tap_shapes["stages"]) - 1, 4, seed=0)
        features, _ = branch._walk(branch.blocks[0], torch.rand(2, *net.tap_shapes["stages"][-1]))
        assert tuple(features.shape[1:]) == net.tap_shapes["stages"][-1]


def test_refused_branches() -> None:
    net = small("resnet8")
    for stage in (-1, 3):
        with pytest.raises(ValueError, match=rf"stage must be in 0 \.\. 2, the stages of resnet8, received {stage}"):
            net.branch(stage, 4, seed=0)
    with pytest.raises(ValueError, match="outputs must be at least 1, received 0"):
        net.branch(0, 0, seed=0)


@pytest.mark.parametrize("train", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*FAMILIES, *LARGE])
def test_the_memory_format_of_the_input_does_not_matter(name: str, train: bool) -> None:
    # as large as leaves batch norm more than one pixel: over 4 values it blows rounding up
    net = small(name, least=32 if name == "mobilenetv2" else 8).train(train)
    x = images(4, *net.input_shape)
    plain = net(x)
    for ours, theirs in zip(net(x.to(memory_format=torch.channels_last)), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    net.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(net(x).logits, plain.logits, rtol=0, atol=1e-11)


@pytest.mark.parametrize("channels", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*FAMILIES, *LARGE])
def test_maps_are_channels_last_whatever_the_input_is(name: str, channels: int) -> None:
    net = small(name, channels)
    for layout in (torch.contiguous_format, torch.channels_last):
        views = net(images(4, *net.input_shape).contiguous(memory_format=layout))
        assert all(view.is_contiguous(memory_format=torch.channels_last) for view in (*views.stages, *views.preacts))
        assert not views.stages[0].is_contiguous()


@pytest.mark.parametrize("name", [*FAMILIES, *LARGE])
def test_views_survive_the_backward_pass_unchanged(name: str) -> None:
    """No operation writes into a view: a loss may use all of them, and they read the same afterwards."""
    net = small(name)
    views = net(images(4, *net.input_shape))
    before = [view.detach().clone() for view in (*views.preacts, *views.stages, views.pooled)]
    sum(view.square().sum() for view in (*views.preacts, *views.stages, views.pooled, views.logits)).backward()
    for view, old in zip((*views.preacts, *views.stages, views.pooled), before, strict=True):
        assert torch.equal(view, old)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETS if name not in ("mlp", "resnet110", "resnet56", "resnet44")])
def test_it_is_captured_as_one_graph(name: str) -> None:
    torch.compiler.reset()  # all networks share one forward, which is captured anew only a few times
    net = small(name)
    x = images(4, *net.input_shape)
    captured = torch.compile(net, backend="aot_eager", fullgraph=True)(x)
    for ours, theirs in zip(captured, net(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["mobilenetv2", "shufflenetv1", pytest.param("vgg8", marks=pytest.mark.slow)])
def test_grouped_and_biased_convolutions_start_from_the_fan_out_normal_law(name: str) -> None:
    """Each input of a convolution with g groups feeds k^2 C_out / g outputs."""
    net = build(name, num_classes=10, input_shape=(3, 8, 8), seed=1)
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert all(module.bias is None or not bool(module.bias.any()) for module in convolutions)
    for grouped in (False, True):
        standard = torch.cat(
            [
                (
                    module.weight.detach().double()
                    * (module.kernel_size[0] ** 2 * module.out_channels / module.groups / 2) ** 0.5
                ).flatten()
                for module in convolutions
                if (module.groups > 1) is grouped
            ]
            or [torch.ones(0, dtype=torch.float64)]
        )
        if not grouped or name != "vgg8":
            # 5 sigma each, false alarm 6e-7 a line
            assert abs(float(standard.mean())) < 5 / len(standard) ** 0.5
            assert abs(float(standard.square().mean()) - 1) < 5 * (2 / len(standard)) ** 0.5


def test_shuffle_takes_one_channel_of_each_group_in_turn() -> None:
    x = images(2, 12, 3, 5)
    for groups in (1, 2, 3):
        for layout in (torch.contiguous_format, torch.channels_last):
            shuffled = shuffle(x.contiguous(memory_format=layout), groups)
            for channel in range(12):
                group, place = divmod(channel, 12 // groups)
                assert torch.equal(shuffled[:, place * groups + group], x[:, channel])
