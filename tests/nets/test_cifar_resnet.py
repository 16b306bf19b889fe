"""CIFAR ResNets: shapes of every view, the work of the half-width one, and the block as an independent formula."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from bcpd.nets import build
from bcpd.nets.cifar_resnet import CifarResNet


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def cifar(name: str, num_classes: int = 10, input_shape: tuple[int, ...] = (3, 32, 32), seed: int = 0) -> nn.Module:
    return build(name, num_classes=num_classes, input_shape=input_shape, seed=seed).double()


@pytest.mark.parametrize(
    ("input_shape", "parameters", "macs"),
    [
        # by hand: the stem and the blocks of 8, 16 and 32 channels at full, half and quarter size, the read-out
        (
            (1, 8, 8),
            72 + 19_072 + 336 + 330,
            64 * (72 + 1152) + 16 * (1152 + 2304 + 128) + 4 * (4608 + 9216 + 512) + 320,
        ),
        (
            (3, 32, 32),
            216 + 19_072 + 336 + 330,
            1024 * (216 + 1152) + 256 * (1152 + 2304 + 128) + 64 * (4608 + 9216 + 512) + 320,
        ),
    ],
)
def test_the_half_width_network_is_a_quarter_of_the_work(
    input_shape: tuple[int, int, int], parameters: int, macs: int
) -> None:
    half, whole = (
        build(name, num_classes=10, input_shape=input_shape).to("meta") for name in ("resnet8x0.5", "resnet8")
    )
    assert sum(p.numel() for p in half.parameters()) == parameters
    counts = []
    for net in (half, whole):
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(1, *input_shape, device="meta"))
        counts.append(counter.get_total_flops() // 2)
    assert counts[0] == macs
    assert 3.7 < counts[1] / counts[0] < 4


@pytest.mark.parametrize(
    ("name", "input_shape", "expected"),
    [
        ("resnet8", (3, 32, 32), [(16, 32, 32), (32, 16, 16), (64, 8, 8)]),
        ("resnet20", (3, 32, 32), [(16, 32, 32), (32, 16, 16), (64, 8, 8)]),
        ("resnet8x4", (3, 32, 32), [(64, 32, 32), (128, 16, 16), (256, 8, 8)]),
        ("resnet8", (1, 8, 8), [(16, 8, 8), (32, 4, 4), (64, 2, 2)]),
        ("resnet8x0.5", (1, 8, 8), [(8, 8, 8), (16, 4, 4), (32, 2, 2)]),
        ("resnet8", (3, 9, 14), [(16, 9, 14), (32, 5, 7), (64, 3, 4)]),
    ],
)
def test_stages_have_the_published_shapes(
    name: str, input_shape: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    views = cifar(name, input_shape=input_shape)(images(2, *input_shape))
    assert [tuple(stage.shape[1:]) for stage in views.stages] == expected
    assert [tuple(preact.shape[1:]) for preact in views.preacts] == expected
    assert views.pooled.shape == (2, expected[-1][0])
    for stage, preact in zip(views.stages, views.preacts, strict=True):
        assert torch.equal(stage, preact.clamp(min=0))
        assert float(preact.detach().min()) < 0
    torch.testing.assert_close(views.pooled, views.stages[-1].mean((2, 3)), rtol=0, atol=1e-12)


def test_forward_is_the_residual_formula_in_evaluation_mode() -> None:
    """The network written out once more from its state_dict, with batch norm as the affine map it is in eval mode."""
    net = cifar("resnet14", input_shape=(3, 8, 8)).train()
    net(images(16, 3, 8, 8))  # moves the running moments away from (0, 1)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "norm" in name:
                parameter += 0.1 * images(*parameter.shape)
    state = net.eval().state_dict()

    def norm(x: Tensor, key: str) -> Tensor:
        scale = state[f"{key}.weight"] / (state[f"{key}.running_var"] + 1e-5).sqrt()
        shift = state[f"{key}.bias"] - state[f"{key}.running_mean"] * scale
        return x * scale[:, None, None] + shift[:, None, None]

    x = images(4, 3, 8, 8)
    h = norm(functional.conv2d(x, state["stem.weight"], padding=1), "norm").clamp(min=0)
    stages = []
    for level in range(3):
        for position in range(2):
            key, stride = f"blocks.{level}.{position}", 2 if level and not position else 1
            inner = norm(functional.conv2d(h, state[f"{key}.conv1.weight"], stride=stride, padding=1), f"{key}.norm1")
            inner = norm(functional.conv2d(inner.clamp(min=0), state[f"{key}.conv2.weight"], padding=1), f"{key}.norm2")
            if level and not position:
                projection = functional.conv2d(h, state[f"{key}.shortcut.0.weight"], stride=2)
                h = norm(projection, f"{key}.shortcut.1")
            h = (h + inner).clamp(min=0)
        stages.append(h)
    logits = h.mean((2, 3)) @ state["head.weight"].T + state["head.bias"]
    views = net(x)
    torch.testing.assert_close(views.logits, logits, rtol=0, atol=1e-10)
    for ours, theirs in zip(views.stages, stages, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_convolutions_start_from_the_fan_out_normal_law() -> None:
    net = build("resnet32x4", num_classes=100, input_shape=(3, 32, 32), seed=1)
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            weight = module.weight.detach().double()
            variance = 2 / (module.out_channels * weight[0, 0].numel())
            n = weight.numel()
            # 5 sigma each, false alarm 6e-7 a line; fan-in would be off by 2 where the channels double
            assert abs(float(weight.mean())) < 5 * (variance / n) ** 0.5
            assert abs(float(weight.square().mean()) / variance - 1) < 5 * (2 / n) ** 0.5
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(bool((norm.weight == 1).all()) and bool((norm.bias == 0).all()) for norm in norms)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"resnet8 is one model and takes one int as its seed.*received \[0, 1\]"):
        build("resnet8", num_classes=10, input_shape=(3, 32, 32), seed=[0, 1])
    with pytest.raises(ValueError, match=r"resnet8 needs images, input_shape \(C, H, W\), received \(64,\)"):
        build("resnet8", num_classes=10, input_shape=(64,))
    with pytest.raises(ValueError, match=r"x must have shape \(B, 1, 8, 8\), received \(2, 3, 8, 8\)"):
        cifar("resnet8", input_shape=(1, 8, 8))(images(2, 3, 8, 8))
    for depth in (2, 10):
        with pytest.raises(ValueError, match=rf"depth must be 6n \+ 2, .* received {depth}"):
            CifarResNet(name="odd", depth=depth, widths=(16, 16, 32, 64), num_classes=10, input_shape=(3, 32, 32))
