"""Weights under others' names: each network against its formula written with those names, and what is refused."""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from bcpd import cli
from bcpd.nets import NETS, ConvNet, build, load_weights
from bcpd.nets.foreign import SOURCES, foreign_names
from bcpd.nets.weights import import_weights


class State(dict[str, Tensor]):
    """A state dict in float64 that remembers which of its entries were read."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__({key: value.double() for key, value in tensors.items()})
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.read.add(key)
        return super().__getitem__(key)

    def conv(self, x: Tensor, key: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = self[f"{key}.weight"]
        biased = f"{key}.bias" in self
        bias = self[f"{key}.bias"] if biased else None
        return functional.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, groups=groups)

    def norm(self, x: Tensor, key: str) -> Tensor:
        """Batch norm as the affine map that it is in evaluation mode."""
        scale = self[f"{key}.weight"] / (self[f"{key}.running_var"] + 1e-5).sqrt()
        return (x - self[f"{key}.running_mean"][:, None, None]) * scale[:, None, None] + self[f"{key}.bias"][
            :, None, None
        ]

    def linear(self, x: Tensor, key: str) -> Tensor:
        return x.mean((2, 3)) @ self[f"{key}.weight"].T + self[f"{key}.bias"]

    def numbered(self, prefix: str, suffix: str) -> Iterator[tuple[int, str]]:
        """(i, ``prefix`` + i) for i = 0, 1, ... while there is such an entry."""
        number = 0
        while f"{prefix}{number}{suffix}" in self:
            yield number, f"{prefix}{number}"
            number += 1


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def shuffled(x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.shape
    return x.reshape(b, groups, c // groups, h, w).permute(0, 2, 1, 3, 4).reshape(b, c, h, w)


def residual(state: State, x: Tensor, layers: int, projection: str, head: str, imagenet: bool = False) -> Tensor:
    h = relu(state.norm(state.conv(x, "conv1", 2 if imagenet else 1), "bn1"))
    if imagenet:
        h = functional.max_pool2d(h, 3, 2, 1)
    for layer in range(1, layers + 1):
        for i, key in state.numbered(f"layer{layer}.", ".conv1.weight"):
            stride = 2 if layer > 1 and i == 0 else 1
            if f"{key}.conv3.weight" in state:
                inner = relu(state.norm(state.conv(h, f"{key}.conv1"), f"{key}.bn1"))
                inner = relu(state.norm(state.conv(inner, f"{key}.conv2", stride), f"{key}.bn2"))
                inner = state.norm(state.conv(inner, f"{key}.conv3"), f"{key}.bn3")
            else:
                inner = relu(state.norm(state.conv(h, f"{key}.conv1", stride), f"{key}.bn1"))
                inner = state.norm(state.conv(inner, f"{key}.conv2"), f"{key}.bn2")
            if f"{key}.{projection}.0.weight" in state:
                h = state.norm(state.conv(h, f"{key}.{projection}.0", stride), f"{key}.{projection}.1")
            h = relu(h + inner)
    return state.linear(h, head)


def wide(state: State, x: Tensor) -> Tensor:
    h = state.conv(x, "conv1")
    for block in (1, 2, 3):
        for i, key in state.numbered(f"block{block}.layer.", ".conv1.weight"):
            stride = 2 if block > 1 and i == 0 else 1
            entered = relu(state.norm(h, f"{key}.bn1"))
            inner = relu(state.norm(state.conv(entered, f"{key}.conv1", stride), f"{key}.bn2"))
            inner = state.conv(inner, f"{key}.conv2")
            if f"{key}.convShortcut.weight" in state:
                h = state.conv(entered, f"{key}.convShortcut", stride)
            h = h + inner
    return state.linear(relu(state.norm(h, "bn1")), "fc")


def vgg(state: State, x: Tensor) -> Tensor:
    for block in range(5):
        if block in (1, 2, 3):
            x = functional.max_pool2d(x, 2)
        number = 0
        while f"block{block}.{number}.weight" in state:
            x = relu(state.norm(state.conv(x, f"block{block}.{number}"), f"block{block}.{number + 1}"))
            number += 3
    return state.linear(x, "classifier")


def mobilenet_v2(state: State, x: Tensor) -> Tensor:
    h = relu(state.norm(state.conv(x, "conv1.0", 2), "conv1.1"))
    for group, stride in enumerate((1, 1, 2, 2, 1, 2, 1)):
        for i, key in state.numbered(f"blocks.{group}.", ".conv.0.weight"):
            y = relu(state.norm(state.conv(h, f"{key}.conv.0"), f"{key}.conv.1"))
            y = relu(state.norm(state.conv(y, f"{key}.conv.3", 1 if i else stride, y.shape[1]), f"{key}.conv.4"))
            y = state.norm(state.conv(y, f"{key}.conv.6"), f"{key}.conv.7")
            h = h + y if i else y
    return state.linear(relu(state.norm(state.conv(h, "conv2.0"), "conv2.1")), "classifier.0")


def shufflenet_v1(state: State, x: Tensor) -> Tensor:
    h = relu(state.norm(state.conv(x, "conv1"), "bn1"))
    for layer in (1, 2, 3):
        for i, key in state.numbered(f"layer{layer}.", ".conv1.weight"):
            groups, stride = 1 if layer == 1 and i == 0 else 3, 1 if i else 2
            y = shuffled(relu(state.norm(state.conv(h, f"{key}.conv1", groups=groups), f"{key}.bn1")), groups)
            y = relu(state.norm(state.conv(y, f"{key}.conv2", stride, y.shape[1]), f"{key}.bn2"))
            y = state.norm(state.conv(y, f"{key}.conv3", groups=3), f"{key}.bn3")
            h = relu(h + y if i else torch.cat([y, functional.avg_pool2d(h, 3, 2, 1)], 1))
    return state.linear(h, "linear")


def shufflenet_v2(state: State, x: Tensor) -> Tensor:
    h = relu(state.norm(state.conv(x, "conv1"), "bn1"))
    for layer in (1, 2, 3):
        for i, key in state.numbered(f"layer{layer}.", ".conv1.weight"):
            if i == 0:
                left = state.norm(state.conv(h, f"{key}.conv1", 2, h.shape[1]), f"{key}.bn1")
                left = relu(state.norm(state.conv(left, f"{key}.conv2"), f"{key}.bn2"))
                first, right = 3, h
            else:
                left, right = h[:, : h.shape[1] // 2], h[:, h.shape[1] // 2 :]
                first = 1
            right = relu(state.norm(state.conv(right, f"{key}.conv{first}"), f"{key}.bn{first}"))
            right = state.conv(right, f"{key}.conv{first + 1}", 1 if i else 2, right.shape[1])
            right = state.norm(right, f"{key}.bn{first + 1}")
            right = relu(state.norm(state.conv(right, f"{key}.conv{first + 2}"), f"{key}.bn{first + 2}"))
            h = shuffled(torch.cat([left, right], 1), 2)
    return state.linear(relu(state.norm(state.conv(h, "conv2"), "bn2")), "linear")


FORMULAS: dict[str, Callable[[State, Tensor], Tensor]] = {
    "resnet": lambda state, x: residual(state, x, 3, "downsample", "fc"),
    "resnetv2": lambda state, x: residual(state, x, 4, "shortcut", "linear"),
    "imagenet": lambda state, x: residual(state, x, 4, "downsample", "fc", imagenet=True),
    "wrn": wide,
    "vgg": vgg,
    "mobilenetv2": mobilenet_v2,
    "shufflenetv1": shufflenet_v1,
    "shufflenetv2": shufflenet_v2,
}


def formula_of(name: str) -> Callable[[State, Tensor], Tensor]:
    if name in ("resnet18", "resnet34", "resnet50"):
        return FORMULAS["resnetv2"]
    return FORMULAS.get(name) or FORMULAS[name.split("_")[0].rstrip("0123456789x")]


def empty(name: str, num_classes: int = 7) -> ConvNet:
    with torch.device("meta"):
        net = build(name, num_classes=num_classes, input_shape=(3, 32, 32))
    assert isinstance(net, ConvNet)
    return net


def foreign_state(name: str, num_classes: int = 7) -> dict[str, Tensor]:
    """Random weights of a network, under the names that others give them."""
    net, generator, state = empty(name, num_classes), torch.Generator().manual_seed(0), {}
    shapes = {ours: value.shape for ours, value in net.state_dict().items()}
    for ours, theirs in foreign_names(net).items():
        shape = shapes[ours]
        if theirs.endswith("num_batches_tracked"):
            state[theirs] = torch.tensor(17)
        elif theirs.endswith("running_var") or (theirs.endswith("weight") and len(shape) == 1):
            state[theirs] = 0.5 + torch.rand(shape, generator=generator)
        else:
            scale = (2 / shape[1:].numel()) ** 0.5 if len(shape) > 1 else 0.1
            state[theirs] = scale * torch.randn(shape, generator=generator)
    return state


SLOW = [
    name
    for name in SOURCES
    if name not in ("resnet8", "wrn_16_1", "wrn_16_2", "mobilenetv2", "shufflenetv1", "shufflenetv2")
]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in SOURCES]
)
def test_imported_weights_are_the_network_that_their_names_describe(name: str, tmp_path: Path) -> None:
    state = foreign_state(name)
    torch.save(state, tmp_path / "theirs.pth")
    import_weights(tmp_path / "theirs.pth", name, tmp_path / "ours.safetensors")
    net = load_weights(tmp_path / "ours.safetensors")
    assert (net.name, net.num_classes, net.training) == (name, 7, True)
    x = torch.randn(2, *net.input_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if name.startswith("imagenet"):
        net.input_shape, x = (3, 64, 64), x[..., :64, :64]  # enough to tell, and a tenth of the work
    theirs = State(state)
    expected = formula_of(name)(theirs, x)
    torch.testing.assert_close(net.double().eval()(x).logits, expected, rtol=1e-10, atol=1e-10)
    unread = set(theirs) - theirs.read
    assert all(key.endswith("num_batches_tracked") for key in unread)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW and not name.endswith(("vgg8", "18", "50")) else name
        for name in SOURCES
    ],
)
def test_a_table_names_every_entry_once(name: str) -> None:
    net = empty(name)
    table = foreign_names(net)
    assert sorted(table) == sorted(net.state_dict())
    assert len(set(table.values())) == len(table)


def test_entries_are_as_many_as_torchvision_documents() -> None:
    """62, 110 and 161 parameters, three buffers for each of 20, 36 and 53 norms, under these names among others."""
    for depth, entries in ((18, 62 + 60), (34, 110 + 108), (50, 161 + 159)):
        names = set(foreign_names(empty(f"imagenet_resnet{depth}")).values())
        assert len(names) == entries
        assert {"conv1.weight", "bn1.running_var", "layer4.1.bn2.bias", "layer2.0.downsample.0.weight"} < names
        assert {"layer3.0.downsample.1.num_batches_tracked", "fc.bias"} < names
        assert ("layer1.0.conv3.weight" in names) == ("layer1.0.downsample.0.weight" in names) == (depth == 50)


def test_networks_without_a_source_are_few() -> None:
    assert set(NETS) - set(SOURCES) == {"mlp", "resnet8x0.5", "imagenet_mobilenetv1"}


@pytest.mark.parametrize("form", ["plain", "model", "state_dict", "module", "old", "half"])
def test_forms_of_a_state_dict(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = foreign_state("resnet8")
    content: dict[str, object] = {
        "plain": state,
        "model": {"epoch": 240, "model": state, "best_acc": torch.tensor(69.06)},
        "state_dict": {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        "module": {f"module.{key}": value for key, value in state.items()},
        "old": {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")},
        "half": {key: value.half() if value.is_floating_point() else value for key, value in state.items()},
    }[form]  # type: ignore[assignment]
    source, out = tmp_path / "theirs.pth", tmp_path / "ours.safetensors"
    torch.save(content, source)
    assert cli.main(["import-weights", str(source), "--net", "resnet8", "--out", str(out)]) == 0
    assert "resnet8, 7 classes, 77,847 parameters" in capsys.readouterr().out
    net = load_weights(out)
    tensors = net.state_dict()
    for ours, theirs in foreign_names(empty("resnet8")).items():
        expected = state[theirs]
        if form == "half" and expected.is_floating_point():
            expected = expected.half().float()
        if form == "old" and theirs.endswith("num_batches_tracked"):
            expected = torch.tensor(0)
        assert torch.equal(tensors[ours], expected)
        assert tensors[ours].dtype == expected.dtype
    assert net.stem.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[operator, union-attr]
    assert all(parameter.requires_grad for parameter in net.parameters())
    with safetensors.safe_open(out, framework="pt") as file:
        record = json.loads(file.metadata()["bcpd_weights"])
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert record == {"net": "resnet8", "num_classes": 7, "input_shape": [3, 32, 32], "source_sha256": digest}


def without(state: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in keys}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "layer2.0.conv1.weight", "fc.bias"), r"missing: layer2\.0\.conv1\.weight, fc\.bias$"),
        (lambda s: without(s, "fc.weight"), r"missing: fc\.weight$"),
        (lambda s: s | {"layer1.1.bn1.bias": torch.ones(16)}, r"unexpected: layer1\.1\.bn1\.bias$"),
        (
            lambda s: s | {"layer1.0.conv1.weight": torch.ones(16, 16, 1, 1)},
            r"of another shape: layer1\.0\.conv1\.weight \(16, 16, 1, 1\), expected \(16, 16, 3, 3\)$",
        ),
        (lambda s: {f"backbone.{k}": v for k, v in s.items()}, r"missing: conv1\.weight, .* and \d+ more; unexpected:"),
        (lambda s: {"epoch": 3, "net": s}, "must hold a state dict"),
        (lambda s: [s], "must hold a state dict"),
        (lambda s: {}, "must hold a state dict"),
        (
            lambda s: {"opt": argparse.Namespace(lr=0.05), "model": s},
            r"holds argparse\.Namespace beside tensors, .*save\(torch\.load\('theirs\.pth', weights_only=False\)",
        ),
    ],
)
def test_what_is_refused(
    change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "theirs.pth", tmp_path / "out" / "ours.safetensors"
    torch.save(change(foreign_state("resnet8")), source)
    with pytest.raises(ValueError, match=message):
        import_weights(source, "resnet8", out)
    assert not out.parent.exists()
    assert cli.main(["import-weights", str(source), "--net", "resnet8", "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith(f"bcpd: error: {source}")


def test_another_networks_weights_are_refused(tmp_path: Path) -> None:
    torch.save(foreign_state("resnet14"), tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=r"does not hold the weights of resnet8; unexpected: layer1\.1\.conv1\.weight"):
        import_weights(tmp_path / "theirs.pth", "resnet8", tmp_path / "ours.safetensors")
    torch.save(foreign_state("resnet8"), tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=r"of another shape: .*fc\.weight \(7, 64\), expected \(10, 64\)"):
        import_weights(tmp_path / "theirs.pth", "resnet8", tmp_path / "ours.safetensors", num_classes=10)
    with pytest.raises(ValueError, match=r"weights can be imported for resnet8, .*; received 'resnet9'"):
        import_weights(tmp_path / "theirs.pth", "resnet9", tmp_path / "ours.safetensors")
    with pytest.raises(FileNotFoundError):
        import_weights(tmp_path / "nothing.pth", "resnet8", tmp_path / "ours.safetensors")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    source, out = tmp_path / "theirs.pth", tmp_path / "ours.safetensors"
    torch.save(foreign_state("resnet8"), source)
    import_weights(source, "resnet8", out)
    source.write_bytes(source.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"theirs\.pth is not a file of torch\.save, or it is damaged"):
        import_weights(source, "resnet8", tmp_path / "other.safetensors")
    source.write_bytes(b"not at all a file of torch.save")
    with pytest.raises(ValueError, match=r"theirs\.pth is not a file of torch\.save, or it is damaged"):
        import_weights(source, "resnet8", tmp_path / "other.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.safetensors", "theirs.pth"]
    whole = out.read_bytes()
    out.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"ours\.safetensors is not a readable safetensors file"):
        load_weights(out)
    safetensors.torch.save_file({"a": torch.zeros(2)}, out)
    with pytest.raises(ValueError, match="is a safetensors file, but not one that bcpd import-weights wrote"):
        load_weights(out)
    record = {"net": "resnet14", "num_classes": 7, "input_shape": [3, 32, 32], "source_sha256": ""}
    tensors = safetensors.torch.load(whole)
    safetensors.torch.save_file(tensors, out, {"bcpd_weights": json.dumps(record)})
    with pytest.raises(
        ValueError, match=r"does not hold the weights of resnet14; missing: blocks\.0\.1\.conv1\.weight"
    ):
        load_weights(out)
    safetensors.torch.save_file(tensors, out, {"bcpd_weights": json.dumps(record | {"net": "resnet9"})})
    with pytest.raises(ValueError, match=r"is of the network 'resnet9'; known: mlp, resnet8"):
        load_weights(out)
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "nothing.safetensors")
