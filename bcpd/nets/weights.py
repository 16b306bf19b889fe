"""Weights that others trained: read once from their file by name and shape, kept as safetensors, loaded from there."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bcpd.files import write_bytes
from bcpd.nets.conv import ConvNet
from bcpd.nets.foreign import SOURCES, foreign_names
from bcpd.nets.views import Net
from bcpd.nets.zoo import NETS, build

__all__ = ["import_weights", "load_weights"]

_RECORD = "bcpd_weights"


def import_weights(source: Path | str, name: str, out: Path | str, num_classes: int | None = None) -> Net:
    """Read a state dict of torchvision (ImageNet ResNets) or RepDistiller (CIFAR networks) and keep it as safetensors.

    Tensors only are read (``weights_only``): nothing in the file can run. A state dict inside ``{"model": ...}`` or
    ``{"state_dict": ...}`` and names that begin with ``module.`` are accepted. Every tensor is found by its name and
    must have the shape that it has here; floating point becomes float32. A missing counter of batches (older files
    have none, and no computation reads it) counts from 0.

    Args:
        source: a file of ``torch.save``.
        name: a key of ``SOURCES`` in :mod:`bcpd.nets.foreign`.
        out: the safetensors file, written whole or not at all; its record has the network's name, classes and
            input shape, and the SHA-256 of ``source``.
        num_classes: K; by default that of the file.
    Returns:
        the network, in training mode, as :func:`load_weights` gives it.
    Raises:
        ValueError: an unknown name; a file with more than tensors, or that is damaged; names that are missing or
            unexpected, or shapes that differ (listed).
        OSError: a file cannot be read or written.
    """
    if name not in SOURCES:
        raise ValueError(f"weights can be imported for {', '.join(SOURCES)}; received {name!r}")
    source = Path(source)
    state = _read_state(source)
    shape = (3, 224, 224) if SOURCES[name] == "torchvision" else (3, 32, 32)
    if num_classes is None:
        table = foreign_names(_empty(name, 2, shape))
        read_outs = (state.get(table[key]) for key in ("head.weight", "head.bias"))
        num_classes = next((len(rows) for rows in read_outs if rows is not None and rows.ndim), 2)
    net = _empty(name, num_classes, shape)
    tensors = _ours(net, state, source)
    record = {
        "net": name,
        "num_classes": num_classes,
        "input_shape": list(shape),
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    write_bytes(Path(out), save(tensors, {_RECORD: json.dumps(record)}))
    return _filled(net, tensors)


def load_weights(path: Path | str) -> Net:
    """The network that :func:`import_weights` kept, in training mode, on the CPU.

    Raises:
        ValueError: damaged, not a file that :func:`import_weights` wrote, or not of this version's network.
        OSError: it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    try:
        with safe_open(path, framework="pt") as file:
            record = (file.metadata() or {}).get(_RECORD)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file (damaged or truncated?): {error}") from None
    if record is None:
        raise ValueError(f"{path} is a safetensors file, but not one that bcpd import-weights wrote")
    fields: dict[str, Any] = json.loads(record)
    if fields["net"] not in NETS:
        raise ValueError(f"{path} is of the network {fields['net']!r}; known: {', '.join(NETS)}")
    net = _empty(fields["net"], fields["num_classes"], fields["input_shape"])
    _check(path, fields["net"], {key: value.shape for key, value in net.state_dict().items()}, tensors)
    return _filled(net, tensors)


def _empty(name: str, num_classes: int, input_shape: Sequence[int]) -> ConvNet:
    with torch.device("meta"):
        return cast(ConvNet, build(name, num_classes=num_classes, input_shape=input_shape))


def _filled(net: ConvNet, tensors: Mapping[str, Tensor]) -> ConvNet:
    net.load_state_dict(tensors, assign=True)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a foreign file, without ``module.``."""
    with path.open("rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            other = re.search(r"GLOBAL ([\w.]+)", str(error))
            if other is None:
                raise ValueError(f"{path} is not a file of torch.save, or it is damaged") from None
            raise ValueError(
                f"{path} holds {other[1]} beside tensors, and reading such an object can run code. If you trust the "
                f"file, keep its tensors alone: "
                f"torch.save(torch.load({path.name!r}, weights_only=False)['model'], 'weights.pth')"
            ) from None
        except (RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
            raise ValueError(f"{path} is not a file of torch.save, or it is damaged: {error}") from None
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    named = isinstance(content, Mapping) and all(isinstance(key, str) for key in content)
    if not named or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} must hold a state dict (names and tensors, perhaps under 'model' or 'state_dict')")
    prefix = "module." if all(key.startswith("module.") for key in content) else ""
    return {key[len(prefix) :]: value for key, value in content.items()}


def _ours(net: ConvNet, state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The foreign tensors under our names, contiguous, of our types."""
    expected, table = net.state_dict(), foreign_names(net)
    counters = {theirs for theirs in table.values() if theirs.endswith(".num_batches_tracked")}
    complete = {**{theirs: torch.tensor(0) for theirs in counters}, **state}
    _check(path, net.name, {theirs: expected[ours].shape for ours, theirs in table.items()}, complete)
    return {
        # a copy each: the format refuses tensors that share memory
        ours: complete[theirs].to(expected[ours].dtype, copy=True).contiguous()
        for ours, theirs in table.items()
    }


def _check(path: Path, name: str, expected: Mapping[str, Sequence[int]], received: Mapping[str, Tensor]) -> None:
    missing = [key for key in expected if key not in received]
    unexpected = [key for key in received if key not in expected]
    differing = [
        f"{key} {tuple(received[key].shape)}, expected {tuple(shape)}"
        for key, shape in expected.items()
        if key in received and received[key].shape != tuple(shape)
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": differing}
    if any(found.values()):
        texts = [f"{what}: {_some(names)}" for what, names in found.items() if names]
        raise ValueError(f"{path} does not hold the weights of {name}; {'; '.join(texts)}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more
